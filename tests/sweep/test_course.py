"""What a sweep does next within a budget."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lab_tui.cli.sweep import budget_seconds
from lab_tui.model import CellStatus, LabError, WindowSpec
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import course, summary
from tests.store.helpers import sweep_spec, viewed
from tests.sweep.test_summary import stored


def budgeted(seconds: float | None, elapsed_s: float, *tps: float, **fields: Any) -> StoredSweep:
    """A sweep whose cells take 10 s each."""
    spec = sweep_spec(budget_s=seconds, **fields)
    return stored(viewed(spec, *tps), spec=spec, elapsed_s=elapsed_s)


def test_without_a_budget_every_cell_has_its_turn() -> None:
    assert course.following(budgeted(None, 1e6, 1.0)) == course.Step(index=1)


def test_cells_that_do_not_fit_are_left_out_with_the_reason() -> None:
    sweep = budgeted(100.0, 50.0, 50.0, 60.0, confirm=False)
    assert course.following(sweep).index == 2
    late = course.following(msgspec.structs.replace(sweep, elapsed_s=91.0))
    assert late.index is None
    why = "budget of 100s: the next cell takes about 10s, 9s are left"
    assert late.skips == dict.fromkeys(range(2, 8), why)
    over = course.following(msgspec.structs.replace(sweep, elapsed_s=100.0))
    assert over.skips == dict.fromkeys(range(2, 8), "budget of 100s used up")


def test_time_to_confirm_is_kept_and_used() -> None:
    sweep = budgeted(100.0, 50.0, 50.0, 60.0)
    step = course.following(sweep)  # 40 s are kept: 10 s are left
    assert (step.index, step.skips) == (2, {})
    sweep = msgspec.structs.replace(sweep, elapsed_s=51.0)
    step = course.following(sweep)
    assert step.index == 0 and len(step.skips) == 6  # measured again
    skipped = tuple(
        msgspec.structs.replace(c, status=CellStatus.SKIPPED, reason=step.skips[c.index])
        if c.index in step.skips
        else c
        for c in sweep.cells
    )
    over = msgspec.structs.replace(sweep, cells=skipped, elapsed_s=91.0)
    assert course.following(over) == course.Step(index=None)
    assert summary.closing_words(over) == (
        "budget of 100s: the next cell takes about 10s, 49s are left, 40s of them to confirm the best: "
        "6 cells left out"
    )


def test_a_slow_first_cell_is_no_measure_of_the_rest() -> None:
    sweep = budgeted(100.0, 44.0, 50.0, window=WindowSpec(max_s=3.0))
    first = msgspec.structs.replace(sweep.cells[0], took_s=44.0)
    sweep = msgspec.structs.replace(sweep, cells=(first, *sweep.cells[1:]))
    assert course.cell_s(sweep) == 3.0 + course.RUN_GUESS_S
    assert course.following(sweep).index == 1


def test_unless_asked_nothing_is_measured_again() -> None:
    assert course.following(budgeted(None, 0.0, *[1.0] * 8, confirm=False)).index is None
    assert course.following(budgeted(None, 0.0, *[1.0] * 8)).index is not None


def test_budgets_that_are_none() -> None:
    window = WindowSpec(max_s=30.0)
    course.check_budget(sweep_spec(window=window))
    course.check_budget(sweep_spec(window=window, budget_s=33.0))
    with pytest.raises(LabError, match="a budget of 20s is shorter than one cell, which takes up to 33s"):
        course.check_budget(sweep_spec(window=window, budget_s=20.0))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(LabError, match=r"a budget of .* is none"):
            course.check_budget(sweep_spec(budget_s=bad))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(90, "90s"), (600, "10m"), (3600, "1h"), (5400, "1h30m"), (3690, "1h1m30s"), (1.5, "1.5s")],
)
def test_spans(seconds: float, says: str) -> None:
    assert course.span(seconds) == says
    assert budget_seconds(says) == seconds


def test_budgets_as_they_are_typed() -> None:
    assert [budget_seconds(text) for text in ("90", "1.5h", " 1H30M ", "2m30s")] == [90, 5400, 5400, 150]
    for bad in ("", "soon", "0", "0m", "30m1h", "1h30", "-5m", "5 m", "1d"):
        with pytest.raises(LabError, match="give a time such as 90s, 10m, 1h30m"):
            budget_seconds(bad)


def test_a_single_cell_is_not_confirmed() -> None:
    assert [course.most_to_confirm(cells) for cells in (0, 1, 2, 4, 99)] == [0, 0, 4, 8, 8]
