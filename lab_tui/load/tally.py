"""What the streams of one worker add up to, and what one request brought."""

from __future__ import annotations

from lab_tui.model import Data

_ENDINGS_AHEAD = 256  # how far endings of chunks are made in advance
_MOST_SHAPES = 512  # of chunks that are remembered


class Lane:
    """Running token count of one instance, as one worker sees it."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens = 0


class Tally:
    """What all streams of one worker add up to. Only ever grows."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.gaps: list[float] = []  # seconds between tokens since the last report
        self.first_tokens: list[float] = []  # TTFT in seconds since the last report
        self._endings: dict[tuple[bytes, bytes], list[bytes]] = {}

    def lane(self, upstream: str) -> Lane:
        """The lane of an upstream address; "" when the answer does not name one."""
        lane = self.lanes.get(upstream)
        if lane is None:
            lane = self.lanes[upstream] = Lane()
        return lane

    def endings(self, before: bytes, after: bytes, count: int) -> list[bytes]:
        """What chunks with this around their token count end with, by tokens up to then.

        At least up to ``count``; empty when there have been too many different shapes.
        """
        found = self._endings.get((before, after))
        if found is None:
            if len(self._endings) >= _MOST_SHAPES:
                return []
            found = self._endings[before, after] = []
        if len(found) <= count:
            made = range(len(found) + 1, count + _ENDINGS_AHEAD)
            found.extend(b"%b%d%b" % (before, number, after) for number in made)
        return found


class Answer(Data, frozen=True, kw_only=True, array_like=True):
    """What one request brought. Times are seconds of the monotonic clock."""

    kind: str  # "" or the kind of error
    begun: float  # when it was sent, or due in an open loop
    first: float | None  # first token
    last: float | None  # last token
    ended: float
    tokens: int  # as the stream counted them
    first_tokens: int = 0  # how many of them came with the first chunk
    said: int | None = None  # as `timings` or `usage` counts them
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    upstream: str = ""
    asked: int = 0  # tokens
    ramp: bool = False  # the shortened first request of a stream
    detail: str = ""  # the server's own words on an error
