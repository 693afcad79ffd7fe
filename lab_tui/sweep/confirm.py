"""The winner confirmed: the top few are measured again, in turn, until they are told apart or tied.

In turn (A B C A B C), so that whatever drifts hits all of them alike. Who takes part follows from the
first runs alone, so a sweep whose engine died goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from lab_tui.model import CellView, Measurement, Slo
from lab_tui.sweep.predict import Learnt
from lab_tui.sweep.runs import (
    Figures,
    alone,
    alone_tps,
    drift,
    figures,
    is_settled,
    keeps,
    repeated,
    sound,
    spread,
)
from lab_tui.sweep.verdict import is_shared

FEWEST, MOST = 2, 4  # cells that are measured again
NEAR = 0.05  # share of the best expected
COMPARED = 40  # cells with the highest first runs, of which the field is chosen
ROUNDS = 2  # a third cost more time than it told apart, on the simulated machines

Known = dict[int, Figures]  # by index of the cell


def known(cells: Sequence[CellView], slo: Slo) -> Known:
    """The figures of every cell that can win: measured, sound, known narrowly, and within the SLO."""
    return {index: one for index, one in _measured(cells, slo).items() if is_settled(one)}


def counting(cells: Sequence[CellView]) -> Callable[[CellView], tuple[Measurement, ...]]:
    """What gives the runs of a cell that count.

    Where the machine has drifted, only runs of the confirmation can be compared: they were in turn.
    """
    return repeated if drift(cells) is not None else sound


def _measured(cells: Sequence[CellView], slo: Slo) -> Known:
    """The figures of every sound cell within the SLO, those too that more runs may settle."""
    counted = counting(cells)
    groups = {cell.index: counted(cell) for cell in cells}
    between = spread(groups.values())
    found = {index: figures(group, between) for index, group in groups.items()}
    return {index: one for index, one in found.items() if one is not None and keeps(one, slo)}


def tied(found: Known, best: int) -> set[int]:
    """The cells whose interval meets that of ``best``, it included."""
    floor = found[best].tps - (found[best].half_width or 0.0)
    return {index for index, one in found.items() if one.tps + (one.half_width or 0.0) >= floor} | {best}


def shared(cells: Sequence[CellView], slo: Slo) -> list[int]:
    """The cells whose only run was shared with others and that may be the best without them.

    At most as many as are confirmed: whoever asks all the time would have everything measured twice.
    """
    once = [(cell.index, cell.result) for cell in cells if cell.result is not None and not cell.repeats]
    first = {index: alone_tps(run) for index, run in once if is_shared(run)}
    floor = max((one.tps for one in _measured(cells, slo).values()), default=0.0) * (1 - NEAR)
    highest = sorted(first, key=lambda index: first[index], reverse=True)[:MOST]
    return sorted(index for index in highest if first[index] >= floor)


def field(cells: Sequence[CellView], slo: Slo) -> list[int]:
    """The cells to measure again, in the order of the sweep: those that may be the best by first runs.

    A single figure that is the highest of many is too high more often than not, so they are ranked by
    figures which the neighbours and the drift so far have levelled, those that are only known widely by what
    they may well make. At least the next best takes part, so that the spread between runs is known where
    the winner stands alone; and the highest figure always does, for neighbours may level what really stands
    out, and a reader who sees it asks.
    """
    first = _measured([msgspec.structs.replace(cell, repeats=()) for cell in cells], slo)
    highest = sorted(first, key=lambda index: first[index].tps, reverse=True)[:COMPARED]
    if len(highest) < FEWEST:
        return []
    learnt = Learnt(cells, {index: run for index in highest if (run := cells[index].result)}, Slo())
    expected = {index: learnt.outlook(cells[index]) for index in highest}
    ranked = sorted(highest, key=lambda index: expected[index].high, reverse=True)
    floor = max(one.tps for one in expected.values()) * (1 - NEAR)
    near = [i for place, i in enumerate(ranked[:MOST]) if place < FEWEST or expected[i].high >= floor]
    if highest[0] not in near:
        near = [*near[: MOST - 1], highest[0]]
    return sorted(near)


def again(cells: Sequence[CellView], slo: Slo) -> int | None:
    """The cell to measure again; None when the winner is known, or known to be tied.

    Those first whose only run others shared. A measured cell with a reason (skipped by hand) is not asked
    for again.
    """
    for index in shared(cells, slo):
        if not cells[index].reason:
            return index
    cells = [alone(cell) for cell in cells]
    taking_part = field(cells, slo)
    by_index = {cell.index: cell for cell in cells}
    for turn in range(ROUNDS):
        for index in taking_part:
            if len(by_index[index].repeats) <= turn and not by_index[index].reason:
                return index
        so_far = [msgspec.structs.replace(c, repeats=c.repeats[: turn + 1]) for c in cells]
        found = {i: one for i, one in _measured(so_far, slo).items() if i in taking_part}
        if not found:
            return None
        ties = tied(found, max(found, key=lambda index: found[index].tps))
        taking_part = [index for index in taking_part if index in ties]
        if len(taking_part) < 2:
            return None
    return None


def to_go(cells: Sequence[CellView]) -> int:
    """How many runs are left at most."""
    first = len(shared(cells, Slo()))
    cells = [alone(cell) for cell in cells]
    able = sum(cell.result is not None for cell in cells)
    rounds = ROUNDS * min(MOST, able) if able > 1 else 0
    return first + max(0, rounds - sum(len(cell.repeats) for cell in cells))


def best(cells: Sequence[CellView], slo: Slo) -> int | None:
    """The cell with the most tok/s of those that can win; of those measured again, once any was.

    While the first turn is not over, those that wait for theirs still count.
    """
    found = known(cells, slo)
    confirmed = {cell.index for cell in cells if cell.repeats}
    taking_part = set(field([alone(cell) for cell in cells], slo))
    candidates = found.keys() & (confirmed | taking_part) if confirmed else found.keys()
    return max(candidates or found, key=lambda index: found[index].tps, default=None)
