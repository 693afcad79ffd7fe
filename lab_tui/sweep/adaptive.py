"""The sweet spot with a fraction of the cells: measure where most is to be gained, by what is known.

What is known beforehand: streams beyond the slots only queue, so what counts is how many slots are
busy; cells a few settings apart are alike; a fleet that had no memory rules out the larger ones. The
rest is learnt: a Gaussian process predicts every cell from those measured, and the next one is that
with the largest expected gain over the best for its time (with an SLO: times the chance that it is
kept). When no cell promises GAIN any more, the search is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from lab_tui.load.stats import mean
from lab_tui.model import CellStatus, CellView, FleetSpec, SweepSpec, WindowSpec
from lab_tui.sweep.plan import OPEN, Decision, ladders, slots
from lab_tui.sweep.predict import Learnt
from lab_tui.sweep.runs import WRONG
from lab_tui.sweep.space import MOST_STREAMS_PER_SLOT
from lab_tui.sweep.verdict import MEMORY_WORDS, NO_MEMORY

GAIN = 0.003  # expected, as a share of the best, for the time of a usual cell: less is not worth it
CELLS_PER_AXIS = 7  # at most, whatever is still promised
ALIKE = 0.95  # of the most that is promised: as good, so fewer slots go first
RUN_GUESS_S = 3.0  # warm-up, ramp and drain
RESTART_GUESS_S = 4.0  # of a fleet, before one was timed

SIZE_AXES = ("instances", "parallel", "ctx-per-slot", "batch", "ubatch")  # more of it needs more memory


def adaptive(spec: SweepSpec, cells: Sequence[CellView]) -> Decision:
    """The next cell, and those that need not be measured; at the end why each was left out."""
    ruled_out = dict(_ruled_out(cells))
    left = [cell for cell in cells if cell.status in OPEN and cell.index not in ruled_out]
    if not left:
        return Decision(next_index=None, skips=ruled_out)
    shown = {cell.index: cell.result for cell in cells if _counts(cell) and cell.result is not None}
    if not shown:
        return Decision(next_index=_middle(left).index, skips=ruled_out)
    learnt, costs = Learnt(cells, shown, spec.slo), Costs(spec.window, cells)
    outlook = {cell.index: learnt.outlook(cell) for cell in left}
    worth = {cell.index: (one := outlook[cell.index]).gain / costs.of(cell, one.tps) for cell in left}
    most = max(worth.values())
    if most < GAIN or len(shown) >= most_cells(cells):
        return Decision(next_index=None, skips=ruled_out | {c.index: learnt.why_not(c) for c in left})
    near = [cell for cell in left if worth[cell.index] >= ALIKE * most]
    choice = min(near, key=lambda cell: (slots(cell), -worth[cell.index]))
    return Decision(next_index=choice.index, skips=ruled_out)


def most_cells(cells: Sequence[CellView]) -> int:
    """How many cells the search measures at most."""
    axes = cells[0].cell.axes
    return CELLS_PER_AXIS * max(1, sum(len({cell.cell.axes[name] for cell in cells}) > 1 for name in axes))


def _counts(cell: CellView) -> bool:
    """Whether a cell has figures to learn from."""
    return cell.result is not None and cell.result.verdict not in WRONG


def _middle(left: Sequence[CellView]) -> CellView:
    """Where nothing worked yet: the middle by size, of those that just fill their slots.

    When that fails for memory the larger ones are out, so the next middle is a smaller one.
    """
    full = [cell for cell in left if cell.cell.concurrency == slots(cell)] or list(left)
    by_size = sorted(full, key=lambda cell: (slots(cell), cell.index))
    return by_size[len(by_size) // 2]


# --- what is known beforehand -------------------------------------------------------------------


def _ruled_out(cells: Sequence[CellView]) -> Iterator[tuple[int, str]]:
    """The open cells that cannot be the best, with why."""
    failed = [cell for cell in cells if _no_good(cell)]
    for rungs in ladders(cells):
        for place, cell in enumerate(rungs):
            if cell.status not in OPEN:
                continue
            if place > 0 and cell.cell.concurrency > MOST_STREAMS_PER_SLOT * slots(cell):
                yield cell.index, f"only queues: {slots(cell)} slots"
            elif culprit := next((other for other in failed if _implies(other, cell)), None):
                fleet = culprit.cell.fleet
                what = "had no memory" if _no_memory(culprit) else f"c={culprit.cell.concurrency} failed"
                yield cell.index, f"{fleet.instances}×{fleet.parallel} {what}"


def _no_good(cell: CellView) -> bool:
    wrong = cell.result is not None and cell.result.verdict in WRONG
    return cell.status == CellStatus.FAILED or (cell.status == CellStatus.MEASURED and wrong)


def _no_memory(cell: CellView) -> bool:
    if cell.result is not None:
        return cell.result.verdict == NO_MEMORY
    return any(word in cell.reason.lower() for word in (*MEMORY_WORDS, "does not fit"))


def _implies(failed: CellView, cell: CellView) -> bool:
    """Whether ``cell`` fails because ``failed`` did: the same settings, none of its sizes smaller.

    Without memory a fleet does not start, however few streams; other failures may depend on the streams.
    """
    if not _no_memory(failed) and cell.cell.concurrency < failed.cell.concurrency:
        return False
    return all(
        (int(value) <= int(cell.cell.axes[name])) if name in SIZE_AXES else value == cell.cell.axes[name]
        for name, value in failed.cell.axes.items()
        if name != "concurrency"
    )


# --- what it takes ------------------------------------------------------------------------------


class Costs:
    """What measuring a cell takes: 1 is the mean of those measured."""

    def __init__(self, window: WindowSpec, cells: Sequence[CellView]) -> None:
        self._window = window
        timed = sorted((c for c in cells if c.started is not None), key=lambda c: c.started or 0.0)
        self._running = timed[-1].cell.fleet if timed else None
        new: list[float] = []
        grown: list[float] = []
        for before, cell in pairwise(timed):
            if cell.took_s is not None:
                (grown if _grows(before.cell.fleet, cell.cell.fleet) else new).append(cell.took_s)
        took = [cell.took_s for cell in timed if cell.took_s]
        self._usual_s = mean(took) if took else RUN_GUESS_S + window.max_s
        self._restart_s = max(mean(new) - mean(grown), 0.0) if new and grown else RESTART_GUESS_S

    def of(self, cell: CellView, tps: float) -> float:
        """The cost of a cell of about so many tok/s: a whole request, within the window's bounds."""
        life_s = cell.cell.concurrency * cell.cell.workload.output_tokens / tps
        window_s = min(max(life_s, self._window.min_s), self._window.max_s)
        same = self._running is not None and _grows(self._running, cell.cell.fleet)
        return (RUN_GUESS_S + window_s + (0.0 if same else self._restart_s)) / self._usual_s


def _grows(before: FleetSpec, after: FleetSpec) -> bool:
    """Whether no instance of ``before`` has to restart."""
    return msgspec.structs.replace(before, instances=after.instances) == after
