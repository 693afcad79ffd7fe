"""What a sweep does next: a cell of its plan, or one that is measured again, within its budget.

A pure function of what is kept, so that a sweep whose engine died goes on where it was.
"""

from __future__ import annotations

import statistics

from lab_tui.model import CellStatus, Data, LabError, SweepSpec, WindowSpec
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import confirm
from lab_tui.sweep.adaptive import most_cells
from lab_tui.sweep.plan import OPEN
from lab_tui.sweep.strategy import strategy

START_GUESS_S = 3.0  # a cell's start, warm-up and drain, before one was timed
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


def most_to_go(sweep: StoredSweep, open_cells: int) -> int:
    """How many runs are left at most, of the cells of the plan and of those that confirm the best."""
    if sweep.spec.strategy == "adaptive" and sweep.cells:
        tried = sum(cell.took_s is not None for cell in sweep.cells)
        open_cells = min(open_cells, max(1, most_cells(sweep.cells) - tried)) if open_cells else 0
    if not sweep.spec.confirm:
        return open_cells
    if open_cells:
        return open_cells + most_to_confirm(len(sweep.cells))
    return confirm.to_go(sweep.cells)


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
    return window.max_s + START_GUESS_S


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
