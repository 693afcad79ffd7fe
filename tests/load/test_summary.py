"""What is reported of answers whose times are known to the millisecond."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lab_tui.load.plan import LoadPlan, Target
from lab_tui.load.probe import Found
from lab_tui.load.record import Record
from lab_tui.load.sample import Counted, Outcome
from lab_tui.load.summary import summarise
from lab_tui.load.tally import Answer
from lab_tui.load.wire import Report
from lab_tui.load.workload import Recipe
from lab_tui.model import Measurement, Others, Workload


def answer(begun: float, first: float, ended: float, **changes: Any) -> Answer:
    """An answer of eleven tokens, the first of them at ``first``, the last at ``ended``."""
    fields: dict[str, Any] = {
        "kind": "",
        "begun": begun,
        "first": first,
        "last": ended,
        "ended": ended,
        "tokens": 11,
        "first_tokens": 1,
        "said": 11,
        "asked": 11,
    }
    return Answer(**(fields | changes))


def measured(
    *answers: Answer, metrics: float | None = None, prompts: float | None = None, **workload: Any
) -> Measurement:
    """What a window from 10 to 20 s makes of a run from 0 to 30 s that brought these answers.

    ``metrics`` and ``prompts``: output and prompt tokens that /metrics counts.
    """
    record = Record(1, 0.0)
    tokens = 0
    left = sorted(answers, key=lambda a: a.ended)
    for tenth in range(301):
        now = tenth / 10
        fresh = tuple(a for a in left if a.ended <= now)
        left = left[len(fresh) :]
        tokens += sum(a.tokens for a in fresh)
        report = Report(time=now, cpu_s=now / 10, tokens={"": tokens}, in_flight=1, begun=1, waiting=0,
                        itl=(), lags=(), firsts=(), answers=fresh)  # fmt: skip
        record.add(0, report)
    plan = LoadPlan(target=Target(url="http://x"), concurrency=4, workload=Workload(**workload))
    found = Found(recipe=Recipe(path="/completion", field="tokens_predicted", exact=True))
    outcome = Outcome(
        standing=1.0,
        opened=10.0,
        closed=20.0,
        closed_by="hand",
        metrics=None if metrics is None else Counted(metrics, 1.0),
        prompts=None if prompts is None else Counted(prompts, 1.0),
    )
    return summarise(plan, found, record, outcome)


def flags(m: Measurement, begin: str) -> list[str]:
    return [flag for flag in m.flags if flag.startswith(begin)]


def test_errors_are_counted_where_requests_are() -> None:
    """Five failures before the window say nothing about the hundred requests in it."""
    good = [answer(10 + n / 11, 10.05 + n / 11, 10.1 + n / 11) for n in range(100)]
    early = [answer(1.0, 1.0, 1.5, kind="HTTP 500", detail="busy") for _ in range(5)]
    m = measured(*early, *good)
    assert (m.errors, m.errors_by_kind, m.requests) == (0, {}, 100)
    assert flags(m, "errors") == [
        "errors: none inside the window, 5 outside of it, most often HTTP 500 (5) (busy)"
    ]
    m = measured(*early, *good, answer(15.0, 15.0, 15.5, kind="cut mid-stream"))
    assert (m.errors, m.errors_by_kind) == (1, {"cut mid-stream": 1})
    assert flags(m, "errors") == [
        "errors: 1 of 101 requests, most often cut mid-stream (1); 5 more outside the window"
    ]


def test_no_first_token_of_an_open_loop_comes_after_the_end() -> None:
    """Requests wait ever longer: the first token that comes last is of one that has not ended."""
    due = [answer(8.0, 10.5, 11.0), answer(8.5, 11.5, 12.0), answer(9.0, 19.9, 25.0, kind="cancelled")]
    m = measured(*due, rate=2.0)
    assert m.rate == 2.0
    assert (m.ttft_ms.p99, m.e2e_ms.p50) == (2995.0, 3250.0)
    assert measured(*due).ttft_ms.p99 == pytest.approx(10_742)  # a closed loop counts every first token


def test_a_wide_interval_says_what_narrows_it() -> None:
    (wide,) = flags(measured(answer(12.0, 12.05, 12.1)), "wide")
    assert wide.endswith("after 10.0 s, not ±2.0%: a longer window (--seconds) narrows it")


def test_a_pace_that_cannot_be_timed_is_not_given() -> None:
    """Ten tokens within 90 µs are a reader that came late, not a stream of 110,000 tok/s."""
    m = measured(answer(12.0, 12.05, 12.05009))
    assert (m.tpot_ms.p50, m.per_stream_tps.p50, m.feels) == (None, None, "")
    assert flags(m, "pace: 1 of 1 answers came within 2 ms")
    m = measured(answer(12.0, 12.05, 12.05009), answer(13.0, 13.05, 13.15))
    assert m.tpot_ms.p50 is not None and abs(m.tpot_ms.p50 - 10) < 0.01
    assert flags(m, "pace: 1 of 2 answers came within 2 ms")
    assert not flags(measured(answer(13.0, 13.05, 13.05, tokens=1, said=1, asked=1)), "pace")


def test_tokens_of_others_are_told_from_what_cannot_be_told() -> None:
    """1,100 tokens of answers and 3,200 of prompts are ours, and those of one prompt may be."""
    good = [answer(10 + n / 11, 10.05 + n / 11, 10.1 + n / 11, prompt_tokens=32) for n in range(100)]
    cut = answer(19.0, 20.0, 20.5, kind="cancelled", tokens=0, said=None)
    queued = msgspec.structs.replace(cut, first=None)

    def others(tokens: float, prompts: float) -> Others | None:
        m = measured(*good, queued, metrics=tokens, prompts=prompts)
        assert bool(flags(m, "tokens do not reconcile")) == bool(m.others and m.others.tokens)
        return m.others

    assert others(1_108.0, 3_248.0) is None
    assert others(1_200.0, 3_232.0) == Others(tokens=100, share=100 / 1_200)
    assert others(1_100.0, 7_232.0) == Others(prompt_tokens=4_000, share=4_000 / 7_232)
    assert flags(measured(*good, metrics=900.0), "tokens do not reconcile")
