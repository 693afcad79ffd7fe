"""Which cell is next, which is best, what ties with it, and how long it will take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lab_tui.model import CellStatus, CellView, SweepStatus, WindowSpec
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import summary
from lab_tui.sweep.plan import grid, ladder
from tests.store.helpers import sweep_spec, viewed


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
             "spec": sweep_spec(), "cells": cells}  # fmt: skip
    return StoredSweep(**{**given, **fields})


# --- which cell next ----------------------------------------------------------------------------


def test_grid_takes_the_first_that_is_open() -> None:
    spec = sweep_spec()
    assert grid(viewed(spec)).next_index == 0
    assert grid(viewed(spec, 1.0, 2.0)).next_index == 2
    assert grid(viewed(spec, None, 2.0)).next_index == 0
    over = marked(viewed(spec, 1.0), c1=CellStatus.FAILED, c2=CellStatus.SKIPPED, c3=CellStatus.RUNNING)
    assert grid(over).next_index == 3  # one that ran when the engine died is measured again
    assert grid(viewed(spec, *[1.0] * 8)).next_index is None
    assert grid(()).next_index is None


def test_ladder_climbs_while_it_brings_something() -> None:
    assert ladder(rungs()).next_index == 0
    assert ladder(rungs(10.0, 20.0, 40.0)).next_index == 3
    assert ladder(rungs(10.0, 20.0, 20.1)).next_index == 3  # once flat is not enough
    assert ladder(rungs(10.0, 20.0, 20.1, 30.0, 30.1)).next_index == 5  # it went on after all


def test_ladder_stops_past_the_knee() -> None:
    decision = ladder(rungs(10.0, 20.0, 20.1, 19.0))
    assert decision.next_index is None
    assert decision.skips.keys() == {4, 5}
    assert set(decision.skips.values()) == {"past the knee: c=8 brought nothing over 20 tok/s"}


def test_below_its_slots_a_ladder_is_never_past_the_knee() -> None:
    assert ladder(rungs(10.0, 9.0, 9.0, 9.0, slots=64)).skips == {}
    assert ladder(rungs(10.0, 9.0, 9.0, 9.0, 9.0, slots=8)).skips.keys() == {5}


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
    decision = ladder(one_slot)
    assert decision.skips.keys() == {3}
    assert decision.next_index == 4


def test_a_failed_rung_is_no_knee() -> None:
    cells = marked(rungs(10.0, 20.0), c2=CellStatus.FAILED, c3=CellStatus.FAILED)
    assert ladder(cells).next_index == 4
    assert ladder(cells).skips == {}


# --- what it amounts to -------------------------------------------------------------------------


def test_best_and_what_ties_with_it() -> None:
    spec = sweep_spec()  # 1×1 c=1, 1×1 c=8, 2×1 c=1, 2×1 c=8, 1×4 c=1, …
    cells = viewed(spec, 90.0, 99.0, 98.5, 100.0, 99.5)
    best = summary.best(cells)
    assert best is not None
    assert (best.instances, best.parallel, best.concurrency) == (2, 1, 8)
    assert (best.throughput_tps, best.throughput_ci95_tps) == (100.0, 1.0)
    ties = [(t.instances, t.parallel, t.concurrency) for t in summary.tied(cells)]
    assert ties == [(1, 1, 8), (2, 1, 1), (2, 1, 8), (1, 4, 1)]  # least resources first


def test_a_best_that_stands_alone_ties_with_nothing() -> None:
    assert summary.tied(viewed(sweep_spec(), 50.0, 100.0)) == ()
    assert summary.tied(viewed(sweep_spec())) == ()
    assert summary.best(viewed(sweep_spec())) is None
    assert summary.tied(viewed(sweep_spec(), 100.0, 100.0, ci=None)) != ()  # no interval: only equals tie
    assert summary.tied(viewed(sweep_spec(), 99.9, 100.0, ci=None)) == ()


def test_a_sweep_as_a_line() -> None:
    cells = marked(viewed(sweep_spec(), 50.0, 60.0), c2=CellStatus.FAILED, c3=CellStatus.SKIPPED)
    line = summary.view(stored(cells), now="2×4 c=16", running_s=4.0)
    assert (line.cells_total, line.cells_measured, line.cells_failed, line.cells_skipped) == (8, 2, 1, 1)
    assert line.elapsed_s == 24.0
    assert line.eta_s == pytest.approx(4 * 10.0 - 4.0)
    assert line.best is not None and line.best.throughput_tps == 60.0
    assert (line.now, line.created) == ("2×4 c=16", 5.0)


def test_time_to_go() -> None:
    spec = sweep_spec(window=WindowSpec(max_s=17.0))
    untimed = summary.view(stored(viewed(spec), spec=spec)).eta_s
    assert untimed == pytest.approx(8 * (17.0 + summary.START_GUESS_S))
    late = summary.view(stored(viewed(spec, *[1.0] * 7), spec=spec), running_s=500.0)
    assert late.eta_s == 0.0  # longer than guessed: never negative
    assert summary.view(stored(viewed(spec, *[1.0] * 8), spec=spec)).eta_s is None
