"""Which cell next: a pure function of what is known, so that a sweep resumes where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lab_tui.model import CellStatus, CellView, Data, SweepSpec

KNEE_GAIN = 0.02  # a doubled concurrency that brings less than this is past the knee
OPEN = (CellStatus.PENDING, CellStatus.RUNNING)


class Decision(Data, frozen=True, kw_only=True):
    """The next cell (None: all is done), and the cells that need not be measured, with why."""

    next_index: int | None
    skips: dict[int, str] = {}


Plan = Callable[[SweepSpec, Sequence[CellView]], Decision]


def grid(spec: SweepSpec, cells: Sequence[CellView]) -> Decision:
    """Every cell, in order."""
    return Decision(next_index=next((c.index for c in cells if c.status in OPEN), None))


def ladder(spec: SweepSpec, cells: Sequence[CellView]) -> Decision:
    """Every fleet, its concurrency rising until past the knee.

    Past the knee: two cells in a row that bring less than KNEE_GAIN over the best before them,
    at a concurrency of at least the number of slots.
    """
    skips: dict[int, str] = {}
    for rungs in ladders(cells):
        why = _past_knee(rungs)
        if why:
            skips |= {c.index: why for c in rungs if c.status in OPEN}
    following = next((c.index for c in cells if c.status in OPEN and c.index not in skips), None)
    return Decision(next_index=following, skips=skips)


def ladders(cells: Sequence[CellView]) -> list[list[CellView]]:
    """The cells by all axes but concurrency: one list a fleet, its concurrency rising."""
    groups: dict[tuple[object, ...], list[CellView]] = {}
    for cell in cells:
        key = tuple((k, v) for k, v in cell.cell.axes.items() if k != "concurrency")
        groups.setdefault(key, []).append(cell)
    return [sorted(rungs, key=lambda c: c.cell.concurrency) for rungs in groups.values()]


def slots(cell: CellView) -> int:
    """Slots of the whole fleet."""
    return cell.cell.fleet.instances * cell.cell.fleet.parallel


def _past_knee(rungs: Sequence[CellView]) -> str:
    best, flat = 0.0, 0
    for rung in rungs:
        if rung.result is None:
            continue
        gained = rung.result.throughput_tps > best * (1 + KNEE_GAIN)
        flat = 0 if gained or rung.cell.concurrency < slots(rung) else flat + 1
        best = max(best, rung.result.throughput_tps)
        if flat == 2:
            return f"past the knee: c={rung.cell.concurrency} brought nothing over {best:,.0f} tok/s"
    return ""
