"""Pane 2: how much comes out of the fleet, now and lately."""

from __future__ import annotations

from textual.content import Content

from lab_tui.model import LoadView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui import series as readings
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, MUTED, STRONG
from lab_tui.ui.widgets.bars import big, nice_top, sampled, spark

WIDE = 60  # columns from which everything stands in one line
BIG_FROM = 7  # rows from which the figure is three rows high


class ThroughputLines:
    """Builds the lines and remembers the scale, which must not move with every reading."""

    def __init__(self) -> None:
        self.top = 0.0

    def lines(self, snapshot: Snapshot, series: Series, width: int, height: int, step: int) -> list[Content]:
        """``height`` lines at most."""
        total = readings.total_tps(snapshot)
        if height >= BIG_FROM and width >= 40:
            head = _big(snapshot, total)
        elif width < WIDE and height >= 4:
            head = [_small(snapshot, total), _busy(snapshot, width)]
        else:
            head = [Content.assemble(_small(snapshot, total), "  ", _streams(snapshot))]
        if height < 2:
            return head
        foot = height >= 3
        rows = max(height - len(head) - foot, 1)
        curve = series.columns("tps", max(width - 2, 1), step)
        self.top = nice_top(sampled(curve), self.top)
        body = [Content.assemble(" ", (line, ACCENT)) for line in spark(curve, self.top, min(rows, 12))]
        return head + body + [self._foot(snapshot, width, step)] * foot

    def _foot(self, snapshot: Snapshot, width: int, step: int) -> Content:
        """The scale, and what has been done so far."""
        span = fmt.duration((width - 2) * step)
        scale = f" scale 0 to {fmt.rate(self.top)}, last {span}"
        load = snapshot.load
        if load is None:
            return Content.styled(fmt.clip(scale, width), MUTED)
        errors = f"✖ {fmt.plural(load.errors, 'error')}  " if load.errors else ""
        total = f"{fmt.plural(load.requests, 'request')} in {fmt.duration(load.elapsed_s)}"
        if len(scale) + len(errors) + len(total) + 2 > width:
            scale = f" 0 to {fmt.rate(self.top)}"
        return Content.assemble((scale, MUTED), "  ", (errors, BAD), total).truncate(width, ellipsis=True)


def _small(snapshot: Snapshot, total: float | None) -> Content:
    """What matters most, in one line."""
    return Content.assemble((f" {fmt.rate(total)}", STRONG), " tok/s  ", _ttft(snapshot))


def _busy(snapshot: Snapshot, width: int) -> Content:
    """The streams, and the phase of the load where there is room for it."""
    line, phase = Content.assemble(" ", _streams(snapshot)), _phase(snapshot.load)
    if line.cell_length + phase.cell_length + 2 <= width:
        return Content.assemble(line, "  ", phase)
    return line


def _big(snapshot: Snapshot, total: float | None) -> list[Content]:
    """The figure three rows high, the rest beside it."""
    top, middle, bottom = big(fmt.rate(total))
    load = snapshot.load
    beside = (_phase(load), _ttft(snapshot), Content.assemble(("tok/s  ", STRONG), _streams(snapshot)))
    return [
        Content.assemble((f" {row}", f"{STRONG} {ACCENT}"), "  ", text)
        for row, text in zip((top, middle, bottom), beside, strict=True)
    ]


def _ttft(snapshot: Snapshot) -> Content:
    value = snapshot.load.ttft_p95_ms if snapshot.load else None
    return Content.assemble("p95 TTFT ", (fmt.milliseconds(value), STRONG if value is not None else MUTED))


def _streams(snapshot: Snapshot) -> Content:
    load, running = snapshot.load, readings.streams(snapshot)
    asked = f"/{load.concurrency:,}" if load and load.concurrency != running else ""
    noun = "stream" if running == 1 and not asked else "streams"
    waiting = readings.waiting(snapshot)
    return Content.assemble(
        f"{fmt.count(running)}{asked} {noun}", f"  {waiting:,} waiting" if waiting else ""
    )


def _phase(load: LoadView | None) -> Content:
    if load is None:
        return Content.styled("no load of ours runs", MUTED)
    width = f"  ±{100 * load.ci_half_width:.1f}%" if load.ci_half_width is not None else ""
    return Content.assemble((load.phase.value, ACCENT), width)
