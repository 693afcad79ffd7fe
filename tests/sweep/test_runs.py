"""Several runs of one cell: what they amount to, how far they spread, and when a machine has drifted."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from lab_tui.model import CellView, Percentiles
from lab_tui.sweep import confirm, summary
from lab_tui.sweep.runs import Spread, drift, figures, sound, spread
from tests.store.helpers import measurement, sweep_spec, viewed


def repeated(cells: tuple[CellView, ...], *repeats: tuple[float, ...], ci: float = 1.0) -> list[CellView]:
    """The cells with these repeats, cell by cell."""
    more = [*repeats, *[()] * (len(cells) - len(repeats))]
    return [
        msgspec.structs.replace(cell, repeats=tuple(measurement(tps, ci) for tps in given))
        for cell, given in zip(cells, more, strict=True)
    ]


def test_the_figure_of_several_runs_is_their_mean_and_the_wider_interval() -> None:
    runs = [measurement(tps, 4.0) for tps in (90.0, 100.0, 110.0, 100.0)]
    alone = figures(runs[:1], Spread(0.5, 3))
    assert alone is not None and (alone.tps, alone.half_width, alone.runs) == (90.0, 4.0, 1)
    steady = figures(runs, Spread(0.001, 30))
    assert steady is not None and (steady.tps, steady.half_width) == (100.0, 2.0)  # 4 / √4
    apart = figures(runs, Spread(0.08, 3))
    assert apart is not None and apart.half_width == pytest.approx(3.182 * 0.08 * 100.0 / 2)
    assert figures([], None) is None


def test_spread_is_the_mean_square_within_cells() -> None:
    groups = [[measurement(t) for t in (90.0, 110.0)], [measurement(t) for t in (198.0, 202.0)], []]
    found = spread(groups)
    assert found is not None
    assert found.share == pytest.approx(math.sqrt((2 * 0.1**2 + 2 * 0.01**2) / 2))
    assert found.freedom == 2
    assert spread([[measurement(1.0)], []]) is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Four cells of three runs each, 3 % apart from run to run, intervals inside a run far too narrow."""
    noise, held, trials = random.Random(1), 0, 2000
    for _ in range(trials):
        groups = [[measurement(noise.gauss(100, 3), 0.5) for _ in range(3)] for _ in range(4)]
        found = figures(groups[0], spread(groups))
        assert found is not None and found.half_width is not None
        held += abs(found.tps - 100) <= found.half_width
    assert 0.93 < held / trials < 0.97


def test_a_cell_most_of_whose_runs_are_unsound_is_out() -> None:
    (cell, *_) = viewed(sweep_spec(), 100.0)
    shaky = measurement(500.0, verdict="unstable")
    once = msgspec.structs.replace(cell, repeats=(shaky,))
    assert [run.throughput_tps for run in sound(once)] == [100.0]
    assert sound(msgspec.structs.replace(cell, repeats=(shaky, shaky))) == ()


def test_an_unknown_figure_is_unknown_for_all_runs() -> None:
    found = figures([measurement(1.0), measurement(1.0, ttft_ms=Percentiles())], None)
    assert found is not None and found.ttft_p95_ms is None


def test_drift_is_said_and_then_only_repeats_count() -> None:
    cells = repeated(viewed(sweep_spec(), 120.0, 100.0), (100.0, 101.0), (119.0, 120.0))
    assert drift(cells) is None  # one fell and one rose: not the machine
    cells = repeated(viewed(sweep_spec(), 120.0, 110.0, 130.0), (100.0, 101.0), (96.0, 95.5), (98.0, 98.2))
    change = drift(cells)
    assert change == pytest.approx(-0.18, abs=0.02)
    found = summary.amount(cells, sweep_spec().slo)
    assert found.best is not None
    assert (found.best.throughput_tps, found.best.runs, found.best.confirmed) == (100.5, 2, True)
    assert found.remark == (
        "drift: measured again, the top cells made -18% tok/s (1×1 c=1 120 at first), "
        "so only those runs count"
    )
    assert confirm.known(cells, sweep_spec().slo).keys() == {0, 1, 2}


def test_a_steady_machine_has_not_drifted() -> None:
    noise, said = random.Random(3), 0
    for _ in range(300):
        first = viewed(sweep_spec(), *[noise.gauss(100, 3) for _ in range(4)])
        again = [(noise.gauss(100, 3), noise.gauss(100, 3)) for _ in range(4)]
        said += drift(repeated(first, *again)) is not None
    assert said / 300 < 0.08  # one in twenty, as 95 % says
