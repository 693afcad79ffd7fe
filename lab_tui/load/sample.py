"""Which answers of a run count, and for which question."""

from __future__ import annotations

from lab_tui.load.plan import LoadPlan
from lab_tui.load.probe import Found
from lab_tui.load.record import CANCELLED, Record
from lab_tui.load.tally import Answer
from lab_tui.model import Data, Slo

# From first to last token, for a pace to be told: each of the two is read up to about a millisecond
# late, and what piles up meanwhile comes all at once, at tens of thousands of tok/s.
SHORTEST_SPAN_S = 0.002


class Counted(Data, frozen=True):
    """By how much a count in /metrics went up, and how coarsely it is printed."""

    tokens: float
    error: float


class Outcome(Data, frozen=True, kw_only=True):
    """How a run went, besides what it brought. Times are of the monotonic clock."""

    standing: float  # when all streams were out
    opened: float
    closed: float
    closed_by: str
    metrics: Counted | None = None  # output tokens by /metrics, after drain less before
    prompts: Counted | None = None  # prompt tokens likewise
    flags: tuple[str, ...] = ()


class Sample(Data, frozen=True, kw_only=True):
    """The answers that count, each list for one question."""

    ended: list[Answer]  # that ended well inside the window
    failed: list[Answer]  # that failed inside the window
    finished: list[
        Answer
    ]  # those that ended well and at full length: not the shortened first ones of a stream
    paced: list[Answer]  # those whose pace is known; unfinished ones where none has finished
    first: list[Answer]  # those whose first token came inside the window
    timed: list[Answer]  # those whose TTFT counts
    ratio: float  # true tokens per counted one


def gathered(plan: LoadPlan, found: Found, record: Record, outcome: Outcome) -> Sample:
    """The answers of a run, sorted by what they can tell.

    TTFT is of answers whose first token came inside the window and that were sent when the load stood:
    there are many more of those than of whole ones. In an open loop it is of the whole ones, as E2E is:
    where requests wait ever longer, those that begin late are not to be held against those that end early.
    """
    begin, end = outcome.opened, outcome.closed
    whole = [answer for answer in record.answers if not answer.kind]
    inside = [answer for answer in record.answers if begin <= answer.ended <= end]
    ended = [answer for answer in inside if not answer.kind]
    finished = [answer for answer in ended if not answer.ramp]
    first = [
        answer
        for answer in record.answers
        if answer.first is not None and begin <= answer.first <= end and answer.kind in ("", CANCELLED)
    ]
    settled = [answer for answer in first if not answer.ramp and answer.begun >= outcome.standing]
    running = [
        answer
        for answer in record.answers
        if answer.kind == CANCELLED and answer.tokens > 8 and answer.last is not None and answer.last >= begin
    ]
    ratio = 1.0
    if not found.recipe.exact:
        said = sum(answer.said for answer in whole if answer.said is not None)
        counted = sum(answer.tokens for answer in whole if answer.said is not None)
        ratio = said / counted if said and counted else 1.0
    return Sample(
        ended=ended,
        failed=[answer for answer in inside if answer.kind not in ("", CANCELLED)],
        finished=finished,
        paced=finished or running,
        first=first,
        timed=(finished if plan.workload.rate else settled) or first,
        ratio=ratio,
    )


def seconds_per_token(answer: Answer, ratio: float = 1.0) -> float | None:
    """TPOT: mean time per output token after those of the first chunk.

    None for answers without such tokens, and for those that came too fast to be timed.
    """
    more = answer.tokens - answer.first_tokens
    if more < 1 or answer.first is None or answer.last is None or too_fast(answer):
        return None
    return (answer.last - answer.first) / (more * ratio)


def too_fast(answer: Answer) -> bool:
    """Whether all tokens after the first chunk came within less time than can be told."""
    if answer.tokens <= answer.first_tokens or answer.first is None or answer.last is None:
        return False
    return answer.last - answer.first < SHORTEST_SPAN_S


def is_good(answer: Answer, slo: Slo, ratio: float = 1.0) -> bool:
    """Whether a finished request kept every bound that was asked. A pace nobody knows keeps it."""
    if slo.ttft_ms is not None and since_ms(answer, answer.first) > slo.ttft_ms:
        return False
    pace = seconds_per_token(answer, ratio)
    return slo.stream_tps is None or pace is None or 1 / pace >= slo.stream_tps


def since_ms(answer: Answer, moment: float | None) -> float:
    """Milliseconds from the start of a request; infinite when the moment never came."""
    return float("inf") if moment is None else (moment - answer.begun) * 1000


def length(answer: Answer) -> int:
    """Output tokens of an answer: as the server says, else as the stream counted."""
    return answer.tokens if answer.said is None else answer.said
