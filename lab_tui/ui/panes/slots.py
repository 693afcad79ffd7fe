"""The slots of one instance, each with what it does now."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from lab_tui.model import SlotsView, SlotView
from lab_tui.ui import format as fmt
from lab_tui.ui.theme import ACCENT, GOOD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import gauge, nice_top

CELL = 36  # number, state, tok/s, tokens
BAR = 20  # at most


class SlotLines:
    """Builds the lines and remembers the scale of the bars."""

    def __init__(self) -> None:
        self.top = 0.0

    def lines(self, view: SlotsView | None, width: int, height: int) -> list[Content]:
        """One line a slot, in as many columns as fit when they are more than ``height``."""
        if view is None or not view.slots:
            return [Content.styled(" N/A: not read yet; only a ready instance tells", MUTED)]
        self.top = nice_top(max((slot.tps or 0.0 for slot in view.slots), default=0.0), self.top)
        across = min(max(width // CELL, 1), -(-len(view.slots) // max(height, 1)))
        room = width // max(across, 1)
        down = -(-len(view.slots) // max(across, 1))
        bar = min(max(room - CELL - 1, 0), BAR)
        cells = [self._cell(slot, bar if bar >= 4 else 0) for slot in view.slots]
        return [_row(cells[start::down], room) for start in range(down)]

    def title(self, view: SlotsView | None) -> str:
        """How many are busy, how old that is, and the scale of the bars."""
        if view is None or not view.slots:
            return ""
        busy = sum(slot.busy for slot in view.slots)
        age = f", read {fmt.duration(view.age_s)} ago" if view.age_s is not None else ""
        return f"{busy}/{len(view.slots)} busy{age}"

    def _cell(self, slot: SlotView, bar: int) -> Content:
        head = f" {slot.id:>3} "
        if not slot.busy:
            return Content.assemble(head, ("○ idle", MUTED))
        if not slot.tokens:
            return Content.assemble(head, ("◐ prompt", WARN))
        old = gauge(100 * slot.tps / self.top, bar) if bar and slot.tps is not None else ""
        return Content.assemble(
            head,
            ("● busy", GOOD),
            (f"{fmt.rate(slot.tps):>7}", STRONG if slot.tps is not None else MUTED),
            f" tok/s{slot.tokens:>7,} tok ",
            (old, ACCENT),
        )


def _row(cells: Sequence[Content], room: int) -> Content:
    """Cells side by side, each ``room`` wide."""
    padded = [cell.pad_right(max(room - cell.cell_length, 0)) for cell in cells[:-1]]
    return Content("").join([*padded, cells[-1]])
