"""Each rule on a constructed case, with the readings that make it fire."""

from __future__ import annotations

from typing import Any

import pytest

from lab_tui.model import ClientCost, MachineLoad, Measurement, Others, Percentiles, StreamRate, TokenCounts
from lab_tui.sweep import verdict
from lab_tui.sweep.verdict import Conditions, is_shared, judge, others_flags


def measured(**changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "throughput_tps": 1000.0,
        "throughput_ci95_tps": 15.0,
        "prompt_tps": 500.0,
        "requests_per_s": 8.0,
        "total_tokens": 10_000,
        "elapsed_s": 10.0,
        "requests": 80,
        "concurrency": 16,
        "errors": 0,
        "ttft_ms": Percentiles(p50=50.0, p95=80.0, p99=90.0),
        "itl_ms": Percentiles(p50=16.0, p95=20.0, p99=30.0),
        "tpot_ms": Percentiles(p50=16.0, p95=17.0, p99=18.0),
        "e2e_ms": Percentiles(p50=2000.0, p95=2100.0, p99=2200.0),
        "per_stream_tps": StreamRate(p5=60.0, p50=62.0),
        "tokens": TokenCounts(stream=10_000),
        "client": ClientCost(cpu_us_per_token=20.0, loop_lag_ms_p99=2.0),
    }
    return Measurement(**(fields | changes))


SHARED = Others(requests=12, tokens=1536, share=0.133)
SMALL = Others(requests=1, tokens=40, share=0.004)
BACKLOG = "backlog: 11 requests that were due had no free stream when the window closed"
CASES: dict[str, tuple[Measurement, Conditions, str, str]] = {
    "errors": (
        measured(errors=5, errors_by_kind={"HTTP 500": 5}),
        Conditions(cpu_pct=100.0),
        verdict.FAILING,
        "5 failed and 80 finished requests",
    ),
    "an instance died": (
        measured(flags=("died: instance 1: killed (SIGKILL; out of memory if nobody did it)",)),
        Conditions(cpu_pct=100.0),
        verdict.FAILING,
        "died: instance 1: killed (SIGKILL; out of memory if nobody did it)",
    ),
    "memory": (
        measured(errors=80, requests=0),
        Conditions(memory_error="CUDA error: out of memory"),
        verdict.NO_MEMORY,
        "CUDA error: out of memory",
    ),
    "memory in the server's words": (
        measured(errors=80, flags=("errors: 80 of 80 requests (Failed to allocate)",)),
        Conditions(),
        verdict.NO_MEMORY,
        "errors: 80 of 80 requests (Failed to allocate)",
    ),
    "late workers": (
        measured(client=ClientCost(cpu_us_per_token=20.0, loop_lag_ms_p99=130.0)),
        Conditions(),
        verdict.CLIENT,
        "load workers ran 130 ms late (p99), 50 ms is the most",
    ),
    "late workers on a processor that others fill": (
        measured(client=ClientCost(cpu_us_per_token=20.0, loop_lag_ms_p99=130.0)),
        Conditions(cores=2, cpu_pct=99.0),
        verdict.CPU,
        "CPU 99 % busy",
    ),
    "late workers that fill the processor": (
        measured(throughput_tps=40_000.0, client=ClientCost(cpu_us_per_token=20.0, loop_lag_ms_p99=130.0)),
        Conditions(cores=2, cpu_pct=99.0),
        verdict.CLIENT,
        "load workers ran 130 ms late (p99), 50 ms is the most",
    ),
    "near the ceiling": (
        measured(),
        Conditions(ceiling_tps=1200.0),
        verdict.CLIENT,
        "1,000 tok/s is 83% of what client and front carry (1,200)",
    ),
    "near the front's ceiling": (
        measured(),
        Conditions(ceiling_tps=1200.0, client_tps=9000.0),
        verdict.FRONT,
        "without the front 9,000 tok/s",
    ),
    "drift": (
        measured(flags=("drift: tok/s fell from 1,200 to 830 inside the window",)),
        Conditions(),
        verdict.UNSTABLE,
        "drift: tok/s fell from 1,200 to 830 inside the window",
    ),
    "others had a part of it": (
        measured(others=SHARED, flags=others_flags(SHARED)),
        Conditions(cpu_pct=99.0),
        verdict.UNSTABLE,
        "requests of others: about 12 in the window (1,536 tokens, 13% of all)",
    ),
    "others had next to nothing": (
        measured(others=SMALL, flags=others_flags(SMALL)),
        Conditions(cpu_pct=99.0),
        verdict.CPU,
        "CPU 99 % busy",
    ),
    "wide": (
        measured(throughput_ci95_tps=300.0),
        Conditions(),
        verdict.UNSTABLE,
        "the 95 % interval is ±30%",
    ),
    "processor": (measured(), Conditions(cpu_pct=99.0, slots_total=8), verdict.CPU, "CPU 99 % busy"),
    "power": (
        measured(),
        Conditions(gpu_power_pct=97.0, gpu_util_pct=100.0, slots_total=64),
        verdict.GPU,
        "GPU at 97 % of its power cap",
    ),
    "card": (measured(), Conditions(gpu_util_pct=98.0, slots_total=16), verdict.GPU, "GPU 98 % busy"),
    "slowed": (
        measured(),
        Conditions(slots_total=64, throttled=("GPU 0 slowed by heat in 50% of the readings",)),
        verdict.UNDER_LOADED,
        "GPU 0 slowed by heat in 50% of the readings",
    ),
    "slowed, and nothing else": (
        measured(),
        Conditions(throttled=("GPU 0 slowed by heat in 50% of the readings",)),
        verdict.UNCLEAR,
        "GPU 0 slowed by heat in 50% of the readings",
    ),
    "queue": (
        measured(ttft_ms=Percentiles(p50=1000.0)),
        Conditions(slots_total=8, gpu_util_pct=98.0),
        verdict.SLOTS,
        "median TTFT 1,000 ms of 2,000 ms E2E",
    ),
    "few streams on a busy card": (
        measured(),
        Conditions(slots_total=64, gpu_util_pct=98.0),
        verdict.UNDER_LOADED,
        "16 streams for 64 slots",
    ),
    "an open loop that is kept up with": (
        measured(concurrency=64, rate=8.0, machine=MachineLoad(slots_busy=2.5)),
        Conditions(slots_total=16, cpu_pct=40.0),
        verdict.UNDER_LOADED,
        "8 requests a second keep 2.5 of 16 slots busy",
    ),
    "fewer streams than slots, and a backlog": (
        measured(rate=8.0, flags=(BACKLOG,), machine=MachineLoad(slots_busy=15.9)),
        Conditions(slots_total=64),
        verdict.BACKLOG,
        "16 streams at most",
    ),
    "a backlog before full slots": (
        measured(rate=8.0, flags=(BACKLOG,), ttft_ms=Percentiles(p50=1000.0)),
        Conditions(slots_total=8),
        verdict.SLOTS,
        "16 streams for 8 slots",
    ),
    "nothing known": (measured(), Conditions(), verdict.UNCLEAR, ""),
    "nothing stands out": (
        measured(),
        Conditions(cpu_pct=40.0, slots_total=16, ceiling_tps=9000.0),
        verdict.UNCLEAR,
        "CPU 40 % busy",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    m, conditions, word, reading = CASES[name]
    found, readings = judge(m, conditions)
    assert found == word
    assert reading in readings or (not reading and not readings)


def test_who_was_crowded_out_says_what_that_means() -> None:
    late = measured(client=ClientCost(cpu_us_per_token=20.0, loop_lag_ms_p99=130.0))
    full = Conditions(cores=16, cpu_pct=97.0)
    assert verdict.lateness(late, full) == (
        "late: the processors are full, so the load ran 130 ms late (p99), and latencies are too long"
    )
    assert not verdict.lateness(measured(), full)
    assert not verdict.lateness(late, Conditions(cores=16, cpu_pct=50.0))  # then it is the client itself


def test_what_is_said_of_others() -> None:
    assert others_flags(None) == ()
    (small,) = others_flags(SMALL)
    assert small == "requests of others: about 1 in the window (40 tokens, too few to matter)"
    (few,) = others_flags(Others(requests=2))
    assert few == "requests of others: about 2 in the window, with too few tokens to matter"
    unseen = Others(requests=0, prompt_tokens=900, share=0.2)
    (beside,) = others_flags(unseen)
    assert beside.startswith("tokens do not reconcile: /metrics counts 900 prompt tokens more,")
    assert is_shared(measured(others=SHARED)) and not is_shared(measured(others=unseen))
