"""The sweet spot with a fraction of the cells: climb over fleets, then walk the best one's ladder.

A fleet is probed at one concurrency, the first that fills its slots: fewer streams leave slots idle,
more of them queue. From the middle of the space the search goes to whatever neighbour (one step on
one axis) is better, until none is. Then the streams of the best fleet are raised and lowered from
there until that brings nothing. A fleet that failed rules out those that are larger in every way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from lab_tui.model import AxisValue, CellStatus, CellView
from lab_tui.sweep.plan import KNEE_GAIN, OPEN, Decision, ladders
from lab_tui.sweep.space import MOST_STREAMS_PER_SLOT

SIZE_AXES = ("instances", "parallel", "ctx-per-slot", "batch", "ubatch")  # more of it needs more memory

Place = tuple[int, ...]  # of a fleet: the position of its value on each axis


class Space:
    """The fleets of a sweep, by their place on the axes."""

    def __init__(self, cells: Sequence[CellView]) -> None:
        self.names = [name for name in cells[0].cell.axes if name != "concurrency"]
        self.values: dict[str, list[AxisValue]] = {
            name: list(dict.fromkeys(c.cell.axes[name] for c in cells)) for name in self.names
        }
        self.fleets: dict[Place, list[CellView]] = {self._place(rungs[0]): rungs for rungs in ladders(cells)}

    def _place(self, cell: CellView) -> Place:
        return tuple(self.values[name].index(cell.cell.axes[name]) for name in self.names)

    def middle(self) -> Place:
        """Where the search begins: words at their first, numbers halfway."""
        return tuple(len(values) // 2 if isinstance(values[0], int) else 0 for values in self.values.values())

    def neighbours(self, place: Place) -> Iterator[Place]:
        """One step on one axis (any other word where it has words), then one step on two at once.

        The diagonals are for ridges: more instances with fewer slots each often make as much.
        """
        steps = [self._steps(axis) for axis in range(len(place))]
        for axis, options in enumerate(steps):
            yield from self._reached(place, ({axis: step} for step in options))
        for one, two in itertools.combinations(range(len(place)), 2):
            pairs = itertools.product(steps[one], steps[two])
            yield from self._reached(place, ({one: a, two: b} for a, b in pairs))

    def _reached(self, place: Place, moves: Iterable[dict[int, int]]) -> Iterator[Place]:
        for move in moves:
            there = tuple(at + move.get(axis, 0) for axis, at in enumerate(place))
            if there in self.fleets:
                yield there

    def _steps(self, axis: int) -> list[int]:
        values = self.values[self.names[axis]]
        if isinstance(values[0], int):
            return [-1, 1]
        return [step for step in range(-len(values), len(values) + 1) if step]

    def ruled_out(self, place: Place) -> bool:
        """Whether a fleet that is no larger on any size axis, and equal on the others, failed."""
        return any(
            probe(rungs).status == CellStatus.FAILED and other != place and self._within(other, place)
            for other, rungs in self.fleets.items()
        )

    def _within(self, small: Place, large: Place) -> bool:
        return all(
            a <= b if name in SIZE_AXES else a == b
            for name, a, b in zip(self.names, small, large, strict=True)
        )


def slots(cell: CellView) -> int:
    """Slots of the whole fleet."""
    return cell.cell.fleet.instances * cell.cell.fleet.parallel


def probe(rungs: Sequence[CellView]) -> CellView:
    """The cell that stands for a fleet: the first that fills its slots, else the last."""
    return next((c for c in rungs if c.cell.concurrency >= slots(c)), rungs[-1])


def adaptive(cells: Sequence[CellView]) -> Decision:
    """The next cell of the climb or of the best fleet's ladder; at the end, why the rest was left out."""
    space = Space(cells)
    best = _climb(space)
    if isinstance(best, CellView):
        return Decision(next_index=best.index)
    if best is None:
        return Decision(
            next_index=None, skips={c.index: "no fleet worked" for c in cells if c.status in OPEN}
        )
    rungs = space.fleets[best]
    rung = _walk(rungs)
    if rung is not None:
        return Decision(next_index=rung.index)
    return Decision(next_index=None, skips=dict(_left_out(space, rungs)))


def _climb(space: Space) -> Place | CellView | None:
    """The next cell to probe; or the place of the best fleet when no neighbour can be better."""
    scores = {place: _score(rungs) for place, rungs in space.fleets.items()}
    known = {place: score for place, score in scores.items() if score is not None}
    if not known:
        return _first_open(space)
    best = max(known, key=lambda place: known[place])
    for place in space.neighbours(best):
        cell = probe(space.fleets[place])
        if cell.status in OPEN and not space.ruled_out(place):
            return cell
    return best


def _first_open(space: Space) -> CellView | None:
    """Where nothing worked yet: the middle, then ever smaller fleets."""
    middle = space.middle()
    for place in sorted(space.fleets, key=lambda p: (p != middle, sum(p) > sum(middle), -sum(p))):
        cell = probe(space.fleets[place])
        if cell.status in OPEN and not space.ruled_out(place):
            return cell
    return None


def _score(rungs: Sequence[CellView]) -> float | None:
    """The most tok/s that a fleet has shown; None when it has shown none."""
    shown = [c.result.throughput_tps for c in rungs if c.result is not None]
    return max(shown) if shown else None


def _walk(rungs: Sequence[CellView]) -> CellView | None:
    """The next rung of the best fleet: beside its best one, as long as going on brings something."""
    measured = [i for i, c in enumerate(rungs) if c.result is not None]
    best = max(measured, key=lambda i: _tps(rungs[i]))
    for beside in (best + 1, best - 1):
        if not 0 <= beside < len(rungs) or rungs[beside].status not in OPEN:
            continue
        if rungs[beside].cell.concurrency <= MOST_STREAMS_PER_SLOT * slots(rungs[beside]):
            return rungs[beside]
    return None


def _tps(cell: CellView) -> float:
    assert cell.result is not None
    return cell.result.throughput_tps


def _left_out(space: Space, best: Sequence[CellView]) -> Iterator[tuple[int, str]]:
    """Every cell that was not measured, with why."""
    top = max(_tps(c) for c in best if c.result is not None)
    for place, rungs in space.fleets.items():
        own = _score(rungs)
        for cell in (c for c in rungs if c.status in OPEN):
            if cell.cell.concurrency > MOST_STREAMS_PER_SLOT * slots(cell):
                yield cell.index, f"only queues: {slots(cell)} slots"
            elif own is not None and own < top * (1 - KNEE_GAIN):
                yield cell.index, f"its slots filled, this fleet made {own:,.0f} of the best {top:,.0f} tok/s"
            elif own is not None:
                yield cell.index, "past the knee of its ladder"
            elif space.ruled_out(place):
                yield cell.index, "a smaller fleet failed"
            else:
                yield cell.index, "further from the best than a neighbour that was no better"
