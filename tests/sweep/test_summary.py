"""Which cell is next, which is best, what ties with it, and how long it will take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lab_tui.model import (
    CellStatus,
    CellView,
    LoadView,
    Percentiles,
    Phase,
    Slo,
    StreamRate,
    SweepStatus,
    WindowSpec,
)
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import course, summary
from lab_tui.sweep.plan import grid, ladder
from tests.store.helpers import measurement, sweep_spec, viewed

SPEC = sweep_spec()


def marked(cells: tuple[CellView, ...], **status: CellStatus) -> tuple[CellView, ...]:
    """The cells with ``c3=FAILED`` and the like applied."""
    return tuple(
        msgspec.structs.replace(cell, status=status.get(f"c{cell.index}", cell.status)) for cell in cells
    )


def rungs(*tps: float | None, slots: int = 1) -> tuple[CellView, ...]:
    """One fleet, its concurrency doubling, six rungs."""
    axes = {"parallel": (slots,), "concurrency": (1, 2, 4, 8, 16, 32)}
    return viewed(sweep_spec(axes=axes), *tps)


def stored(cells: tuple[CellView, ...], **fields: Any) -> StoredSweep:
    given = {"id": 1, "created": 5.0, "status": SweepStatus.RUNNING, "reason": "", "elapsed_s": 20.0,
             "spec": sweep_spec(confirm=False), "cells": cells}  # fmt: skip
    return StoredSweep(**{**given, **fields})


# --- which cell next ----------------------------------------------------------------------------


def test_grid_takes_the_first_that_is_open() -> None:
    spec = sweep_spec()
    assert grid(SPEC, viewed(spec)).next_index == 0
    assert grid(SPEC, viewed(spec, 1.0, 2.0)).next_index == 2
    assert grid(SPEC, viewed(spec, None, 2.0)).next_index == 0
    over = marked(viewed(spec, 1.0), c1=CellStatus.FAILED, c2=CellStatus.SKIPPED, c3=CellStatus.RUNNING)
    assert grid(SPEC, over).next_index == 3  # one that ran when the engine died is measured again
    assert grid(SPEC, viewed(spec, *[1.0] * 8)).next_index is None
    assert grid(SPEC, ()).next_index is None


def test_ladder_climbs_while_it_brings_something() -> None:
    assert ladder(SPEC, rungs()).next_index == 0
    assert ladder(SPEC, rungs(10.0, 20.0, 40.0)).next_index == 3
    assert ladder(SPEC, rungs(10.0, 20.0, 20.1)).next_index == 3  # once flat is not enough
    assert ladder(SPEC, rungs(10.0, 20.0, 20.1, 30.0, 30.1)).next_index == 5  # it went on after all


def test_ladder_stops_past_the_knee() -> None:
    decision = ladder(SPEC, rungs(10.0, 20.0, 20.1, 19.0))
    assert decision.next_index is None
    assert decision.skips.keys() == {4, 5}
    assert set(decision.skips.values()) == {"past the knee: c=8 brought nothing over 20 tok/s"}


def test_below_its_slots_a_ladder_is_never_past_the_knee() -> None:
    assert ladder(SPEC, rungs(10.0, 9.0, 9.0, 9.0, slots=64)).skips == {}
    assert ladder(SPEC, rungs(10.0, 9.0, 9.0, 9.0, 9.0, slots=8)).skips.keys() == {5}


def test_each_fleet_has_a_ladder_of_its_own() -> None:
    axes = {"instances": (1, 2), "concurrency": (1, 2, 4, 8)}
    cells = viewed(sweep_spec(axes=axes, fleet=sweep_spec().fleet), 10.0, 10.0, 10.0)
    one_slot = tuple(
        msgspec.structs.replace(
            cell,
            cell=msgspec.structs.replace(
                cell.cell, fleet=msgspec.structs.replace(cell.cell.fleet, parallel=1)
            ),
        )
        for cell in cells
    )
    decision = ladder(SPEC, one_slot)
    assert decision.skips.keys() == {3}
    assert decision.next_index == 4


def test_a_failed_rung_is_no_knee() -> None:
    cells = marked(rungs(10.0, 20.0), c2=CellStatus.FAILED, c3=CellStatus.FAILED)
    assert ladder(SPEC, cells).next_index == 4
    assert ladder(SPEC, cells).skips == {}


# --- what it amounts to -------------------------------------------------------------------------


def test_best_and_what_ties_with_it() -> None:
    spec = sweep_spec()  # 1×1 c=1, 1×1 c=8, 2×1 c=1, 2×1 c=8, 1×4 c=1, …
    cells = viewed(spec, 90.0, 99.0, 98.5, 100.0, 99.5)
    found = summary.amount(cells, Slo())
    best = found.best
    assert best is not None
    assert (best.instances, best.parallel, best.concurrency) == (2, 1, 8)
    assert (best.throughput_tps, best.throughput_ci95_tps) == (100.0, 1.0)
    ties = [(t.instances, t.parallel, t.concurrency) for t in found.tied]
    assert ties == [(1, 1, 8), (2, 1, 1), (2, 1, 8), (1, 4, 1)]  # least resources first


def test_a_best_that_stands_alone_ties_with_nothing() -> None:
    def ties(*tps: float, ci: float | None = 1.0) -> bool:
        return summary.amount(viewed(sweep_spec(), *tps, ci=ci), Slo()).tied != ()

    assert not ties(50.0, 100.0)
    assert not ties()
    assert summary.amount(viewed(sweep_spec()), Slo()) == summary.Amount()
    assert ties(100.0, 100.0, ci=None)  # no interval: only equals tie
    assert not ties(99.9, 100.0, ci=None)


def judged(*verdicts: str) -> tuple[CellView, ...]:
    """Cells of rising tok/s with these verdicts."""
    cells = viewed(sweep_spec(), *[100.0 + 10 * n for n in range(len(verdicts))])
    return tuple(
        msgspec.structs.replace(cell, result=msgspec.structs.replace(cell.result, verdict=verdict))
        if cell.result
        else cell
        for cell, verdict in zip(cells, [*verdicts, *[""] * len(cells)], strict=False)
    )


def test_an_unstable_or_failing_cell_is_never_the_best() -> None:
    found = summary.amount(judged("slots full", "slots full", "unstable", "failing"), Slo())
    assert found.best is not None and found.best.throughput_tps == 110.0
    assert found.remark == "1 cell made more, up to 120 tok/s, but unstable: no winner"


def test_where_every_cell_is_unstable_that_is_said() -> None:
    found = summary.amount(judged("unstable", "unstable", "failing"), Slo())
    assert found.best is not None
    assert (found.best.throughput_tps, found.best.confirmed) == (110.0, False)
    assert found.remark == "every cell is unstable or too widely known: the best is not confirmed"
    assert found.tied == ()
    nothing = summary.amount(judged("failing", "memory did not fit"), Slo())
    assert (nothing.best, nothing.remark) == (None, "every measured cell is failing")


def test_where_every_cell_is_known_too_widely_the_best_of_all_is_given() -> None:
    """Whatever held them back: one that is called unstable is none the better for it."""
    cells = judged("unstable", "client-bound", "client-bound")
    wide = tuple(
        msgspec.structs.replace(
            cell,
            result=msgspec.structs.replace(cell.result, throughput_ci95_tps=0.5 * cell.result.throughput_tps),
        )
        if cell.result
        else cell
        for cell in cells
    )
    found = summary.amount(wide, Slo())
    assert found.best is not None and not found.best.confirmed
    assert found.best.throughput_tps == max(cell.result.throughput_tps for cell in wide if cell.result)
    assert found.remark == "every cell is unstable or too widely known: the best is not confirmed"


def test_an_interval_of_runs_that_do_not_count_has_room_for_them() -> None:
    """They were 57, 14.5 and 16 tok/s, all unstable, each with an interval of its own."""
    first, *rest = viewed(sweep_spec(), 57.0)
    one, two, three = (measurement(tps, verdict="unstable") for tps in (57.0, 14.5, 16.0))
    cell = msgspec.structs.replace(first, result=one, repeats=(two, three))
    found = summary.amount((cell, *rest), Slo()).best
    shown = summary.shown((cell, *rest))[0].result
    assert found is not None and shown is not None
    assert found.throughput_tps == shown.throughput_tps == pytest.approx(29.17, abs=0.01)
    assert found.throughput_ci95_tps == shown.throughput_ci95_tps == pytest.approx(59.9, abs=0.1)


def test_a_cell_of_several_runs_shows_figures_of_one_run_and_says_of_which() -> None:
    """The mean of 100, 130 and 124 is 118: the third is nearest."""
    first, *rest = viewed(sweep_spec(), 100.0)
    slow = measurement(100.0, ttft_ms=Percentiles(p95=900.0), verdict="slots full", flags=("TPOT is odd",))
    again = (measurement(130.0), measurement(124.0, ttft_ms=Percentiles(p95=50.0), verdict="CPU saturated"))
    sweep = stored((msgspec.structs.replace(first, result=slow, repeats=again), *rest))
    shown = summary.detail(sweep, summary.view(sweep)).cells[0]
    assert shown.result is not None and shown.runs_tps == (100.0, 130.0, 124.0)
    assert shown.result.throughput_tps == pytest.approx(118.0)
    assert (shown.result.ttft_ms.p95, shown.result.verdict) == (50.0, "CPU saturated")
    assert shown.result.flags == (f"run 3 of 3: {summary.OF_ONE_RUN}",)


def served(*figures: tuple[float, float, float]) -> tuple[CellView, ...]:
    """Cells of (tok/s, p95 TTFT, p5 of per-stream tok/s)."""
    cells = viewed(sweep_spec(), *[tps for tps, _, _ in figures])
    return tuple(
        msgspec.structs.replace(
            cell,
            result=measurement(tps, ttft_ms=Percentiles(p95=ttft), per_stream_tps=StreamRate(p5=stream)),
        )
        for cell, (tps, ttft, stream) in zip(cells, figures, strict=False)
    )


def test_with_an_slo_only_cells_that_keep_it_can_win() -> None:
    cells = served((100.0, 50.0, 30.0), (200.0, 300.0, 20.0), (300.0, 900.0, 5.0))

    def best(**bounds: float) -> float | None:
        found = summary.amount(cells, Slo(**bounds)).best
        return found.throughput_tps if found else None

    assert best() == 300.0
    assert best(ttft_ms=300.0) == 200.0
    assert best(ttft_ms=299.0) == 100.0
    assert best(stream_tps=5.0) == 300.0
    assert best(stream_tps=5.1) == 200.0
    assert best(ttft_ms=300.0, stream_tps=21.0) == 100.0
    assert best(ttft_ms=10.0) is None


def test_where_no_cell_keeps_the_slo_the_nearest_is_named() -> None:
    cells = served((100.0, 50.0, 8.0), (300.0, 900.0, 5.0))
    assert summary.amount(cells, Slo(ttft_ms=40.0, stream_tps=10.0)).remark == (
        "no cell kept the SLO; nearest: 1×1 c=1 (p95 TTFT 50 ms, 40 ms at most; "
        "p5 of per-stream tok/s 8.0, 10 at least)"
    )
    unknown = viewed(sweep_spec(), 100.0)
    unknown = tuple(
        msgspec.structs.replace(c, result=measurement(100.0, ttft_ms=Percentiles())) if c.result else c
        for c in unknown
    )
    assert "p95 TTFT unknown, 40 ms at most" in summary.amount(unknown, Slo(ttft_ms=40.0)).remark


def test_a_sweep_as_a_line() -> None:
    cells = marked(viewed(sweep_spec(), 50.0, 60.0), c2=CellStatus.FAILED, c3=CellStatus.SKIPPED)
    line = summary.view(stored(cells), now="2×4 c=16", running_s=4.0)
    assert (line.cells_total, line.cells_measured, line.cells_failed, line.cells_skipped) == (8, 2, 1, 1)
    assert line.elapsed_s == 24.0
    assert line.eta_s == pytest.approx(4 * 33.0 + 2 * 2.0 - 4.0)  # two of them on another fleet
    assert line.best is not None and line.best.throughput_tps == 60.0
    assert (line.now, line.created) == ("2×4 c=16", 5.0)


def test_time_to_go() -> None:
    spec = sweep_spec(window=WindowSpec(max_s=17.0), confirm=False)
    untimed = summary.view(stored(viewed(spec), spec=spec)).eta_s
    assert untimed == pytest.approx(8 * (17.0 + course.RUN_GUESS_S) + 4 * course.START_GUESS_S)
    late = summary.view(stored(viewed(spec, *[1.0] * 7), spec=spec), running_s=500.0)
    assert late.eta_s == spec.window.min_s  # longer than guessed: it is not over before a window was open
    assert summary.view(stored(viewed(spec, *[1.0] * 8), spec=spec)).eta_s is None
    confirmed = msgspec.structs.replace(spec, confirm=True)
    done = summary.view(stored(viewed(spec, *[1.0] * 8), spec=confirmed)).eta_s
    assert done == pytest.approx(8 * 10.0)  # as it was more than once, though more was guessed
    budget = msgspec.structs.replace(spec, budget_s=60.0)
    assert summary.view(stored(viewed(spec), spec=budget)).eta_s == pytest.approx(60.0 - 20.0)


def test_time_to_go_where_starting_takes_long() -> None:
    """Each fleet takes a minute to load its model and to warm its slots, and then two runs of ten seconds."""
    spec = sweep_spec(confirm=False)
    timed = tuple(
        msgspec.structs.replace(cell, took_s=10.0 if cell.cell.concurrency > 1 else 70.0)
        for cell in viewed(spec, *[1.0] * 4)[:4]
    )
    cells = (*timed, *viewed(spec)[4:])

    def eta(running_s: float, phase: Phase, phase_s: float = 0.0) -> float | None:
        load = LoadView(phase=phase, concurrency=1, in_flight=0, tps=0.0, phase_s=phase_s)
        return summary.view(stored(cells, spec=spec), load=load, running_s=running_s).eta_s

    assert summary.view(stored(cells, spec=spec)).eta_s == pytest.approx(4 * 10.0 + 2 * 60.0)
    assert eta(20.0, Phase.WARMING) == pytest.approx(4 * 10.0 + 2 * 60.0 - 20.0)
    # The one at work takes longer than usual, and nothing from those after it.
    assert eta(300.0, Phase.WARMING) == pytest.approx(3 * 40.0 + 3.0)
    assert eta(300.0, Phase.MEASURING, 2.0) == pytest.approx(3 * 40.0 + 1.0)
    assert eta(300.0, Phase.DRAINING) == pytest.approx(3 * 40.0)
    again = msgspec.structs.replace(spec, confirm=True)
    done = summary.view(stored((*timed, *timed), spec=again)).eta_s
    assert done == pytest.approx(8 * 70.0)  # in turn, each on another fleet than the one before
