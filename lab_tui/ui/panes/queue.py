"""Pane 4: the sweep that runs, those that wait, those that are done."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from lab_tui.model import Snapshot, SweepStatus, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key, no_match
from lab_tui.ui.theme import ACCENT, BAD, GOOD, MUTED, STRONG, SWEEP, WARN
from lab_tui.ui.widgets.bars import gauge

FINAL = (SweepStatus.DONE, SweepStatus.FAILED, SweepStatus.ABORTED)


def done(cells: SweepView) -> int:
    """Cells that were tried; what was skipped has its own count."""
    return cells.cells_measured + cells.cells_failed


def finished(cells: SweepView) -> int:
    """Cells that need no more work."""
    return cells.cells_measured + cells.cells_failed + cells.cells_skipped


def lines(
    snapshot: Snapshot, past: Sequence[SweepView], width: int, needle: str = ""
) -> tuple[list[Content], list[str | None]]:
    """Lines and their keys (the id of the sweep)."""
    rows: list[Content] = []
    keys: list[str | None] = []
    waiting = {view.id for view in snapshot.queue}
    for view in (*snapshot.queue, *(view for view in past if view.id not in waiting)):
        row = line(view, width, view.status is SweepStatus.QUEUED and snapshot.queue_paused)
        if needle.lower() in row.plain.lower():
            rows.append(row)
            keys.append(str(view.id))
    if not rows and needle:
        return [Content.styled(f" {no_match(needle)}", MUTED)], []
    if not rows:
        return [
            Content.assemble(
                " No sweep yet. Press ",
                (key("new_sweep"), STRONG),
                " to search this machine's throughput sweet spot.",
            )
        ], []
    return rows, keys


def line(view: SweepView, width: int, held: bool = False) -> Content:
    """One sweep; what matters less goes first when there is no room."""
    look = SWEEP[view.status]
    word = "held" if held else look.word
    name = fmt.clip(view.name, 14)
    parts: list[tuple[str, str]] = [
        (f"  {look.glyph} {word}", look.style),
        (f"  #{view.id}", ""),  # commands ask for it
        (f" {name}", STRONG),
    ]
    if width >= 100:
        parts.append((f"  {view.strategy}", MUTED))
    parts.append((f"  {done(view)}/{view.cells_total}", ""))
    if width >= 90 and view.status not in FINAL and view.cells_total:
        parts.append((f" {gauge(100 * finished(view) / view.cells_total, 12)}", ACCENT))
    tail: list[tuple[str, str]] = []
    if view.reason and view.status is not SweepStatus.DONE:
        tail.append((f"  {view.reason}", BAD if view.status is SweepStatus.FAILED else WARN))
    if view.status is SweepStatus.RUNNING:
        tail.append(
            (f"  ETA {fmt.duration(view.eta_s) if view.eta_s is not None else fmt.NOT_AVAILABLE}", "")
        )
    if view.best:
        tail.append((f"  best {fmt.best(view.best)}", GOOD))
    if view.cells_failed:
        tail.append((f"  {view.cells_failed} failed", BAD))
    if view.cells_skipped:
        tail.append((f"  skipped {view.cells_skipped}", MUTED))
    if view.now and view.status is SweepStatus.RUNNING:
        tail.append((f"  now {view.now}{f' {view.phase}' if view.phase else ''}", ACCENT))
    if view.status in FINAL and width >= 100:
        tail.append((f"  in {fmt.duration(view.elapsed_s)}", MUTED))
    used = sum(fmt.width(text) for text, _ in parts)
    for text, style in tail:
        if used + fmt.width(text) > width and used + 12 > width:
            break
        parts.append((fmt.clip(text, width - used), style))
        used += fmt.width(text)
    return Content.assemble(*parts)
