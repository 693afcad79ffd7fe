"""What a sweep does next: a cell of its plan, or one that is measured again, within its budget.

A pure function of what is kept, so that a sweep whose engine died goes on where it was.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

from lab_tui.model import CellStatus, CellView, Data, LabError, SweepSpec, WindowSpec
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import confirm
from lab_tui.sweep.adaptive import most_cells
from lab_tui.sweep.plan import OPEN
from lab_tui.sweep.space import changes_fleet, fleets_each
from lab_tui.sweep.strategy import strategy

RUN_GUESS_S = 3.0  # a cell's ramp and drain, before one was timed
START_GUESS_S = 2.0  # of another fleet, warm-up included, before one was timed; and its model is read:
READ_GUESS_BYTES_S = 1e9
CONFIRM_SHARE = 0.4  # of a budget, at most, that is kept for confirmation


class Step(Data, frozen=True, kw_only=True):
    """The next cell (None: the sweep is over), and the cells to leave out first, with why."""

    index: int | None
    skips: dict[int, str] = {}


def following(sweep: StoredSweep) -> Step:
    """The next step of a sweep. Raises LabError when its strategy does not exist."""
    decision = strategy(sweep.spec.strategy)(sweep.spec, sweep.cells)
    left_s = time_left_s(sweep)
    if decision.next_index is not None:
        if left_s is None or left_s - _reserve_s(sweep) >= cell_s(sweep):
            return Step(index=decision.next_index, skips=decision.skips)
        why = no_room(sweep, left_s)
        rest = {cell.index: why for cell in sweep.cells if cell.status in OPEN}
        return Step(index=_again(sweep, left_s), skips=rest | decision.skips)
    return Step(index=_again(sweep, left_s), skips=decision.skips)


def _again(sweep: StoredSweep, left_s: float | None) -> int | None:
    """The cell to measure again, while there is time for it."""
    if not sweep.spec.confirm or (left_s is not None and left_s < cell_s(sweep)):
        return None
    return confirm.again(sweep.cells, sweep.spec.slo)


class Pace(Data, frozen=True, kw_only=True):
    """How long runs take and what is left of them, in seconds, up to about."""

    each_s: float  # a run, with its part of the starts
    to_go_s: float  # all runs to go, the one at work included


def pace(sweep: StoredSweep, open_cells: int) -> Pace:
    """What is to be expected of the runs that are left, by those timed.

    The search of a grid changes its fleet as often as its axes say, the adaptive one as often as it did so
    far, and runs that confirm the best are in turn. Of runs and guess it is the (upper) median: what took
    longer than was guessed counts at once, what was quicker when it was so again.
    """
    timed = sorted(
        (cell for cell in sweep.cells if cell.status == CellStatus.MEASURED and cell.took_s),
        key=lambda cell: cell.started or 0.0,
    )
    fleets = [None, *(cell.cell.fleet for cell in timed)]
    new = [cell for before, cell in zip(fleets, timed, strict=False) if cell.cell.fleet != before]
    ready = [cell for before, cell in zip(fleets, timed, strict=False) if cell.cell.fleet == before]
    run_s = statistics.median_high([*_took(ready or new, started=not ready), longest_s(sweep.spec.window)])
    guess_s = START_GUESS_S + _size(sweep.spec.fleet.model) / READ_GUESS_BYTES_S
    start_s = statistics.median_high([*(max(0.0, took - run_s) for took in _took(new)), guess_s])
    search, again = _runs_to_go(sweep, open_cells)
    changes = fleets_each(sweep.spec)
    if sweep.spec.strategy == "adaptive":
        changes = len(new) / len(timed) if timed else 1.0
    starts = search * changes + (again if changes_fleet(sweep.spec) else 0)
    runs = search + again
    to_go_s = runs * run_s + starts * start_s
    return Pace(each_s=to_go_s / runs if runs else 0.0, to_go_s=to_go_s)


def _took(cells: Sequence[CellView], *, started: bool = False) -> list[float]:
    """How long these cells took; of those that ``started`` a fleet, without that: about."""
    if started:
        return [cell.result.elapsed_s + RUN_GUESS_S for cell in cells if cell.result is not None]
    return [cell.took_s for cell in cells if cell.took_s]


@functools.cache
def _size(model: str) -> int:
    """Bytes of a model file; 0 when it is not there, which its start will say."""
    try:
        return Path(model).stat().st_size
    except OSError:
        return 0


def _runs_to_go(sweep: StoredSweep, open_cells: int) -> tuple[int, int]:
    """How many runs are left at most, of the cells of the plan and of those that confirm the best."""
    if sweep.spec.strategy == "adaptive" and sweep.cells:
        tried = sum(cell.took_s is not None for cell in sweep.cells)
        open_cells = min(open_cells, max(1, most_cells(sweep.cells) - tried)) if open_cells else 0
    if not sweep.spec.confirm:
        return open_cells, 0
    return open_cells, most_to_confirm(len(sweep.cells)) if open_cells else confirm.to_go(sweep.cells)


def most_to_confirm(cells: int) -> int:
    """How many runs confirm the best of so many cells at most; one alone is the best."""
    return min(confirm.MOST, cells) * confirm.ROUNDS if cells > 1 else 0


def time_left_s(sweep: StoredSweep) -> float | None:
    """What is left of the budget; None without one."""
    return None if sweep.spec.budget_s is None else sweep.spec.budget_s - sweep.elapsed_s


def _reserve_s(sweep: StoredSweep) -> float:
    """Time kept for one turn of confirmation, once there is something to confirm."""
    measured = any(cell.result is not None for cell in sweep.cells)
    if not sweep.spec.confirm or sweep.spec.budget_s is None or not measured:
        return 0.0
    return min(confirm.MOST * cell_s(sweep), CONFIRM_SHARE * sweep.spec.budget_s)


def cell_s(sweep: StoredSweep) -> float:
    """How long a cell takes: the (lower) median of those timed and of the guess before any was.

    Not the mean: the first cell loads the model, and may find the ceiling of client and front besides.
    """
    timed = [c.took_s for c in sweep.cells if c.status == CellStatus.MEASURED and c.took_s]
    return statistics.median_low([*timed, longest_s(sweep.spec.window)])


def longest_s(window: WindowSpec) -> float:
    """How long a cell may take before one was timed."""
    return window.max_s + RUN_GUESS_S


def check_budget(spec: SweepSpec) -> None:
    """Raise LabError when the budget has no room for a single cell."""
    if spec.budget_s is None:
        return
    if not spec.budget_s > 0:
        raise LabError(f"a budget of {spec.budget_s:g} s is none", "give more than 0")
    if spec.budget_s < longest_s(spec.window):
        raise LabError(
            f"a budget of {span(spec.budget_s)} is shorter than one cell, which takes up to "
            f"{longest_s(spec.window):.0f}s",
            "give more, or shorter windows with --seconds",
        )


def budget_words(spec: SweepSpec) -> str:
    """What the reason of every cell begins with that is left out for the budget."""
    return f"budget of {span(spec.budget_s or 0.0)}"


def used_up(spec: SweepSpec) -> str:
    """Why a cell is cut off, and others are left out, when the time is over."""
    return f"{budget_words(spec)} used up"


def no_room(sweep: StoredSweep, left_s: float) -> str:
    """Why the cells that are open are left out with ``left_s`` to go."""
    if left_s <= 0:
        return used_up(sweep.spec)
    kept = span(round(_reserve_s(sweep)))
    to_confirm = f", {kept} of them to confirm the best" if _reserve_s(sweep) else ""
    next_cell = span(round(cell_s(sweep)))
    return (
        f"{budget_words(sweep.spec)}: the next cell takes about {next_cell}, "
        f"{span(round(left_s))} are left{to_confirm}"
    )


def span(seconds: float) -> str:
    """A length of time as ``--budget`` takes it: 90s, 10m, 1h30m."""
    if seconds < 3600:
        return f"{seconds / 60:.0f}m" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g}s"
    minutes, rest = divmod(seconds, 60)
    parts = ((minutes // 60, "h"), (minutes % 60, "m"), (rest, "s"))
    return "".join(f"{number:g}{letter}" for number, letter in parts if number)
