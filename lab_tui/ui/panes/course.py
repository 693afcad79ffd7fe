"""The head of a sweep: how far it is, and what happens to the cell that runs."""

from __future__ import annotations

from textual.content import Content

from lab_tui.model import LoadView, Phase, SweepStatus, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.panes import queue
from lab_tui.ui.theme import ACCENT, BAD, GOOD, MUTED, STRONG, SWEEP, WARN
from lab_tui.ui.widgets.bars import gauge

COURSE = (Phase.STARTING, Phase.WARMING, Phase.MEASURING, Phase.DRAINING)
NOW, PAST, COMING = "▶", "✔", "·"


def progress(view: SweepView | None, waiting: bool) -> object:
    """What of a sweep must change before its cells are asked for again; ``waiting``: is in the queue."""
    if view is None:
        return None
    return (
        waiting,
        view.status,
        view.cells_measured,
        view.cells_failed,
        view.cells_skipped,
        view.now,
        view.best,
    )


def lines(view: SweepView, load: LoadView | None, held: bool, width: int) -> list[Content]:
    """Two lines: the sweep, then its cell at work or what became of it."""
    return [_sweep(view, held, width), _now(view, load, held, width)]


def _sweep(view: SweepView, held: bool, width: int) -> Content:
    """How far it is and the best so far; what matters less goes first when there is no room."""
    look = SWEEP[view.status]
    word = "pausing" if view.status is SweepStatus.RUNNING else "held"
    must: list[tuple[str, str]] = [
        (f" {look.glyph} {word if held else look.word}", look.style),
        (f"  {fmt.clip(view.name, 18)}", STRONG),
        (f"  {queue.done(view)}/{view.cells_total}", ""),
    ]
    tail: list[tuple[str, str]] = []
    if view.status not in queue.FINAL:
        tail.append(
            (f"  ETA {fmt.duration(view.eta_s) if view.eta_s is not None else fmt.NOT_AVAILABLE}", "")
        )
    if view.best is not None:
        tail.append((f"  best {fmt.best(view.best)}", GOOD))
    if view.cells_failed:
        tail.append((f"  {view.cells_failed} failed", BAD))
    if view.cells_skipped:
        tail.append((f"  {view.cells_skipped} skipped", WARN))
    tail.append((f"  in {fmt.duration(view.elapsed_s)}", MUTED))
    tail.append((f"  #{view.id} {view.strategy}", MUTED))
    if view.status not in queue.FINAL and view.cells_total:
        tail.append((f"  {gauge(100 * queue.finished(view) / view.cells_total, 20)}", ACCENT))
    return _fitting(must, tail, width)


def _now(view: SweepView, load: LoadView | None, held: bool, width: int) -> Content:
    """The cell at work: its phase among the others, and its load as it is now."""
    if view.status is not SweepStatus.RUNNING:
        word = f"waits: the queue is paused, {key('pause')} goes on" if held else view.reason
        return Content.styled(fmt.clip(f" {word}" if word else "", width), WARN)
    if not view.now:
        return Content.styled(" between two cells", MUTED)
    parts: list[tuple[str, str]] = [(f" now {view.now} ", STRONG)]
    course = COURSE if view.phase in COURSE or view.phase is None else (view.phase, *COURSE)
    reached = course.index(view.phase) if view.phase is not None else -1
    for place, phase in enumerate(course):
        if place == reached:
            parts.append((f" {NOW} {phase}", f"{ACCENT} bold"))
        elif width >= WIDE:
            parts.append((f" {PAST if place < reached else COMING} {phase}", MUTED))
    tail: list[tuple[str, str]] = []
    if load is not None:
        tail.append((f"  {fmt.rate(load.tps)} tok/s", GOOD))
        tail.append((f"  {load.in_flight:,}/{load.concurrency:,} streams", ""))
        if load.phase is Phase.MEASURING and (load.ci_half_width or 1.0) < 1.0:
            tail.append((f"  {fmt.interval_share(load.ci_half_width, 1.0)}", ""))
        tail.append((f"  p95 TTFT {fmt.milliseconds(load.ttft_p95_ms)}", ""))
        tail.append((f"  {fmt.duration(load.elapsed_s)}", MUTED))
        if load.errors:
            tail.append((f"  {fmt.plural(load.errors, 'error')}", BAD))
    return _fitting(parts, tail, width)


WIDE = 110  # columns from which every phase is named


def _fitting(must: list[tuple[str, str]], tail: list[tuple[str, str]], width: int) -> Content:
    """``must``, and of the tail what fits."""
    used = sum(fmt.width(text) for text, _ in must)
    kept = list(must)
    for text, style in tail:
        if used + fmt.width(text) <= width:
            kept.append((text, style))
            used += fmt.width(text)
    return Content.assemble(*kept)
