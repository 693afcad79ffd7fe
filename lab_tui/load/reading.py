"""What a streamed answer says: how many tokens it has brought, and when each one came.

llama-server writes a running count into every chunk, which is exact where chunks are not (pieces
of one UTF-8 character are merged, several tokens may share a chunk). It is found by a scan for
bytes: decoding the JSON of every chunk would cost more than the socket. A quotation mark inside
generated text is escaped, so no text can look like the field. Everything unusual, and the last
chunk of a request, is decoded whole.
"""

from __future__ import annotations

import asyncio
import math
import re
from time import monotonic
from typing import Any

import msgspec

from lab_tui.load.http import ERROR_BODY_LIMIT, HttpStream, Origin, Wire, error_text
from lab_tui.load.tally import Answer, Tally

LINE_LIMIT = 8 * 1024 * 1024  # bytes of one event: the last one repeats the prompt
EVENT_STREAM = "text/event-stream"

PREDICTED = "tokens_predicted"
# What a chunk of one event is long in all, by its first four bytes: b"83\r\n" or b"183\r".
_WHOLE = {b"%x\r\n" % size: 4 + size + 2 for size in range(0x10, 0x100)} | {
    b"%x\r" % size: 5 + size + 2 for size in range(0x100, 0x1000)
}
_NOT_STOPPED = b'"stop":false'
_STOP = b'"stop":true'  # in the last chunk of /completion
_GOING_ON = b'"finish_reason":null'  # in every chunk of the others but the last two
_TEXTS = ("content", "text", "reasoning_content", "reasoning", "tool_calls")
_digits = re.compile(rb"\d+").match
_decode = msgspec.json.Decoder().decode


class TokenWire(Wire):
    """A connection on which nearly everything that comes is one chunk with one more token in it.

    Such a chunk ends as the one before it did, but for the count. It is counted right here, and leaves
    the parser where it was, between two chunks, so the parser need not see it: that halves what a
    token costs. Anything else goes the long way.
    """

    __slots__ = ()
    owner: TokenStream

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        owner = self.owner
        if owner.flowing:
            tokens, endings = owner.tokens, owner.endings
            if (
                tokens < len(endings)
                and data.endswith(endings[tokens])
                and _WHOLE.get(data[:4]) == len(data)
                and tokens < owner.limit
                and (data.isascii() or _is_utf8(data))
            ):
                now = monotonic()
                owner.add_gap(now - owner.last)
                owner.last = now
                owner.tokens = tokens + 1
                owner.lane.tokens += 1
                return
            owner.flowing = False
        Wire.data_received(self, data)
        # A chunk's size may be cut in two, and then the parser is no longer between chunks.
        owner.flowing = owner.flowing and data[-2:] == b"\r\n"


class TokenStream(HttpStream):
    """One request after another over one connection, counted token by token.

    ``field`` names the running count in a chunk: ``tokens_predicted`` (llama-server's own endpoint),
    ``predicted_n`` (its chat endpoint with timings_per_token) or ``completion_tokens`` (a usage in
    every chunk). Where a chunk has no such field each piece of text counts as one token until the
    last chunk says how many there were.
    """

    __slots__ = (
        "_carry",
        "_ended",
        "_key",
        "_plain",
        "_skip",
        "_streaming",
        "_tally",
        "add_gap",
        "asked",
        "begun",
        "cached_tokens",
        "counted_by",
        "detail",
        "endings",
        "first",
        "first_count",
        "flowing",
        "lane",
        "last",
        "limit",
        "prompt_tokens",
        "said",
        "tokens",
    )
    make_wire = TokenWire

    def __init__(
        self,
        origin: Origin,
        tally: Tally,
        field: str = PREDICTED,
        connect_s: float = 10.0,
        door: asyncio.Semaphore | None = None,
    ) -> None:
        super().__init__(origin, connect_s, door)
        self._tally = tally
        self.add_gap = tally.gaps.append
        self._key = f'"{field}":'.encode()
        self._skip = len(self._key)
        self._plain = field == PREDICTED
        self._carry = bytearray()
        self._streaming = False
        self.lane = tally.lane("")
        self.flowing = False  # between two chunks of a plain token stream
        self.endings: list[bytes] = []
        self._clear(0.0, 0)

    def _clear(self, begun: float, asked: int) -> None:
        self.begun = begun
        self.asked = asked
        self.limit = 2 * asked + 64
        self.tokens = 0
        self.first: float | None = None
        self.last = 0.0
        self.first_count = 0
        self.said: int | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.detail = ""
        self.counted_by = ""  # which field of a chunk counted, where one did
        self._ended = False

    async def ask(self, request: bytes, begun: float, asked: int, ramp: bool = False) -> Answer:
        """Send a request and read its answer to the end.

        ``begun`` is the time everything is counted from; an answer of far more than the ``asked``
        tokens is broken off as endless.
        """
        self._clear(begun, asked)
        kind = await self.exchange(request)
        return Answer(
            kind=kind,
            begun=begun,
            first=self.first,
            last=self.last if self.first is not None else None,
            ended=monotonic(),
            tokens=self.tokens,
            first_tokens=self.first_count,
            said=self.said,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            upstream=self.upstream,
            asked=asked,
            ramp=ramp,
            detail=self.detail,
        )

    def left_s(self) -> float:
        """About how many seconds the answer still takes; infinite while its pace is not known."""
        paced = self.tokens - self.first_count
        if self.first is None or paced < 1:
            return math.inf
        return (self.asked - self.tokens) * (self.last - self.first) / paced

    # -- the hot path

    def on_body(self, body: bytes) -> None:
        """A piece of the body. One whole, plain event is the usual case and is only scanned."""
        at = body.rfind(self._key)
        if (
            at < 0
            or self._carry
            or not self._streaming
            or body.find(b"\n\n") != len(body) - 2  # exactly one event
            or body[:7] != b"data: {"
            or (_STOP in body if self._plain else _GOING_ON not in body)
        ):
            self._slow(body)
            return
        found = _digits(body, at + self._skip)
        if found is None or not (body.isascii() or _is_utf8(body)):
            self._slow(body)
            return
        count = int(found[0])
        self._count(count)
        if self._plain and count <= self.limit and (before := body.find(_NOT_STOPPED)) >= 0:
            after = body[found.end() :] + b"\r\n"
            self.endings = self._tally.endings(body[before : found.start()], after, count)

    def _count(self, count: int) -> None:
        """The stream has brought ``count`` tokens so far."""
        fresh = count - self.tokens
        if fresh <= 0:
            return
        if count > self.limit:  # before anything is done for each of them: it may be any number
            self.fail("endless stream")
            return
        now = monotonic()
        self.lane.tokens += fresh
        if self.first is None:
            self.first = now
            self.first_count = fresh
            self._tally.first_tokens.append(now - self.begun)
        else:
            gap = (now - self.last) / fresh
            for _ in range(fresh):
                self.add_gap(gap)
        self.last = now
        self.tokens = count

    # -- the rest

    def on_begin(self) -> None:
        """Forget what a broken answer left."""
        self._carry = bytearray()
        self.flowing = False
        self._streaming = False

    def on_head(self) -> None:
        """Whom the tokens belong to, and whether any can come."""
        self.lane = self._tally.lane(self.upstream)
        self._streaming = self.status == 200 and self.content_type == EVENT_STREAM

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self.flowing = False

    def on_chunk_complete(self) -> None:
        """A chunk is whole. Several in a row may be plain, and then they need no parser."""
        self.flowing = (
            self._plain and self._streaming and self.first is not None and not self._carry and not self._ended
        )

    def fail(self, kind: str) -> None:
        """End the request; what is still in the parser's hands counts no more."""
        self._streaming = self.flowing = False
        super().fail(kind)

    def _slow(self, body: bytes) -> None:
        """Put events together from pieces, and decode each."""
        self._carry += body
        if not self._streaming:
            if len(self._carry) > ERROR_BODY_LIMIT:
                self.fail(self._not_a_stream())
            return
        if len(self._carry) > LINE_LIMIT:
            self.fail("line too long")
            return
        if b"\n" not in body:
            return
        *lines, self._carry = self._carry.split(b"\n")
        for line in lines:
            kind = self._line(bytes(line.rstrip(b"\r")))
            if kind:
                self.fail(kind)
                return

    def _line(self, line: bytes) -> str:
        """One line of the event stream; "" or the kind of error."""
        name, _, text = line.partition(b":")
        text = text.strip()
        if name not in (b"data", b"error") or not text:
            return ""  # an empty line, a ping, an event name
        if text == b"[DONE]":
            self._ended = True
            return ""
        try:
            event = _decode(text)
        except UnicodeDecodeError:
            return "invalid UTF-8"
        except msgspec.DecodeError:
            return "invalid JSON"
        if not isinstance(event, dict):
            return "invalid JSON"
        try:
            return self._event(event, error=name == b"error")
        except (TypeError, AttributeError, ValueError, LookupError, ArithmeticError):
            return "unexpected JSON"  # other fields, or of other types, than any known server sends

    def _event(self, event: dict[str, Any], error: bool) -> str:
        if error or event.get("error"):
            found = event.get("error") or event
            self.detail = error_text(msgspec.json.encode({"error": found}))
            kind = found.get("type") or found.get("code") if isinstance(found, dict) else None
            return f"server error: {kind or 'unnamed'}"[:60]
        if "tokens_predicted" in event:
            self._llama(event)
        elif "choices" in event:
            self._openai(event)
        return ""

    def _llama(self, event: dict[str, Any]) -> None:
        """A chunk of llama-server's /completion."""
        self._count(int(event["tokens_predicted"]))
        if event.get("stop"):
            self._ended = True
            self.prompt_tokens = int(event["tokens_evaluated"])
            self._timings(event.get("timings"))

    def _openai(self, event: dict[str, Any]) -> None:
        """A chunk of /v1/chat/completions or /v1/completions."""
        timings, usage = event.get("timings"), event.get("usage")
        counted = (timings or {}).get("predicted_n") or (usage or {}).get("completion_tokens")
        for choice in event["choices"]:
            if choice.get("finish_reason"):
                self._ended = True
            if counted is None and _has_text(choice):
                self._count(self.tokens + 1)
        final = not event["choices"] or self._ended
        if counted is not None and not final:
            self.counted_by = "predicted_n" if timings else "completion_tokens"
            self._count(int(counted))
        if final and usage:
            self.said = int(usage["completion_tokens"])
            self.prompt_tokens = int(usage["prompt_tokens"])
            details = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = details.get("cached_tokens", self.cached_tokens)
        if final:
            self._timings(timings)

    def _timings(self, timings: dict[str, Any] | None) -> None:
        if timings:
            self.said = int(timings["predicted_n"])
            self.cached_tokens = int(timings.get("cache_n", 0))

    def _not_a_stream(self) -> str:
        if self.status != 200:
            return f"HTTP {self.status}"
        return f"not a stream: {self.content_type or 'no content type'}"[:60]

    def finish(self) -> str:
        """The answer is whole: was it a stream, and did it come to its end."""
        if not self._streaming:
            self.detail = error_text(bytes(self._carry))
            return self._not_a_stream()
        if self._carry and (kind := self._line(bytes(self._carry.rstrip(b"\r")))):
            return kind
        if not self._ended:
            return "cut mid-stream" if self.first is not None else "no tokens"
        return ""


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_text(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk brings something generated (a role alone is not)."""
    delta = choice.get("delta") or choice
    return any(delta.get(name) for name in _TEXTS)
