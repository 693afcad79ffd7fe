"""Pane 2: how much comes out of the fleet, now and lately."""

from __future__ import annotations

from typing import NamedTuple

from textual.content import Content

from lab_tui.model import LoadView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import big, nice_top, sampled, spark

WIDE = 60  # columns from which everything stands in one line
BIG_FROM = 7  # rows from which the figure is three rows high
NOT_TIMED = "only our own load is timed"


class Window(NamedTuple):
    """Which part of the last hour the curves show."""

    step: int  # seconds a column
    end: int  # the unix second at the right edge
    back_s: int = 0  # how long before now that is

    def clock(self, columns: int) -> str:
        """From when to when ``columns`` of it are, by the clock of this machine."""
        first = self.end - columns * self.step
        return f"{fmt.clock(first)} to {fmt.clock(self.end)}"


class ThroughputLines:
    """Builds the lines and remembers the scale, which must not move with every reading."""

    def __init__(self) -> None:
        self.top = 0.0

    def lines(
        self, snapshot: Snapshot, series: Series, width: int, height: int, window: Window
    ) -> list[Content]:
        """``height`` lines at most."""
        if height >= BIG_FROM and width >= 40:
            head = _big(snapshot, width)
        elif width < WIDE and height >= 4:
            head = [small(snapshot, width), _busy(snapshot, width)]
        else:
            head = [one_line(snapshot, width)]
        if height < 2:
            return head
        foot = height >= 3
        rows = max(height - len(head) - foot, 1)
        curve = series.columns("tps", max(width - 2, 1), window.step, window.end)
        self.top = nice_top(sampled(curve), self.top)
        body = [Content.assemble(" ", (line, ACCENT)) for line in spark(curve, self.top, min(rows, 12))]
        return head + body + [self._foot(snapshot, width, window)] * foot

    def _foot(self, snapshot: Snapshot, width: int, window: Window) -> Content:
        """The scale and the time, and what has been done so far."""
        columns = max(width - 2, 1)
        if window.back_s:
            short = f" 0 to {fmt.rate(self.top)}  {window.clock(columns)}"
            return Content.styled(fmt.clip(f"{short}  {key('back')}: now", width), WARN)
        scale = f" scale 0 to {fmt.rate(self.top)}, last {fmt.duration(columns * window.step)}"
        load = snapshot.load
        if load is None:
            return Content.styled(fmt.clip(scale, width), MUTED)
        errors = f"✖ {fmt.plural(load.errors, 'error')}  " if load.errors else ""
        total = f"{fmt.plural(load.requests, 'request')} in {fmt.duration(load.elapsed_s)}"
        if len(scale) + len(errors) + len(total) + 2 > width:
            scale = f" 0 to {fmt.rate(self.top)}"
        return Content.assemble((scale, MUTED), "  ", (errors, BAD), total).truncate(width, ellipsis=True)


def small(snapshot: Snapshot, width: int) -> Content:
    """What matters most, in one line."""
    rate = Content.assemble((f" {fmt.rate(snapshot.tps)}", STRONG), f" {_unit(snapshot)}  ")
    return rate + _ttft(snapshot, width - rate.cell_length)


def one_line(snapshot: Snapshot, width: int) -> Content:
    """Rate, streams and TTFT in one line; the TTFT last, which may have a reason beside it."""
    line = Content.assemble(
        (f" {fmt.rate(snapshot.tps)}", STRONG), f" {_unit(snapshot)}  ", _streams(snapshot), "  "
    )
    return line + _ttft(snapshot, width - line.cell_length)


def _busy(snapshot: Snapshot, width: int) -> Content:
    """The streams, and the phase of the load where there is room for it."""
    line, phase = Content.assemble(" ", _streams(snapshot)), _phase(snapshot)
    if line.cell_length + phase.cell_length + 2 <= width:
        return Content.assemble(line, "  ", phase)
    return line


def _big(snapshot: Snapshot, width: int) -> list[Content]:
    """The figure three rows high, the rest beside it."""
    figure = big(fmt.rate(snapshot.tps))
    room = width - len(figure[0]) - 3
    beside = (
        _phase(snapshot),
        _ttft(snapshot, room),
        Content.assemble((f"{_unit(snapshot)}  ", STRONG), _streams(snapshot)),
    )
    return [
        Content.assemble((f" {row}", f"{STRONG} {ACCENT}"), "  ", text)
        for row, text in zip(figure, beside, strict=True)
    ]


def _unit(snapshot: Snapshot) -> str:
    """What the figure counts: while a load of ours runs it is what that load gets."""
    return "tok/s ours" if snapshot.foreign else "tok/s"


def _ttft(snapshot: Snapshot, room: int) -> Content:
    """The p95 of the time to first token, or why it is not known, in the words that fit into ``room``."""
    value = snapshot.ttft_p95_ms
    if value is not None:
        return Content.assemble("p95 TTFT ", (fmt.milliseconds(value), STRONG))
    why = NOT_TIMED if snapshot.load is None else "no answer yet"
    for reason in (f" ({why})", " (not timed)" if snapshot.load is None else "", ""):
        if len("p95 TTFT N/A") + len(reason) <= room:
            break
    return Content.assemble("p95 TTFT ", (fmt.NOT_AVAILABLE, WARN), (reason, MUTED))


def _streams(snapshot: Snapshot) -> Content:
    load, running = snapshot.load, snapshot.streams
    asked = f"/{load.concurrency:,}" if load and load.concurrency != running else ""
    noun = "stream" if running == 1 and not asked else "streams"
    waiting, foreign = snapshot.waiting, snapshot.foreign
    return Content.assemble(
        f"{fmt.count(running)}{asked} {noun}",
        f"  {waiting:,} waiting" if waiting else "",
        (f"  +{foreign:,} not ours" if foreign else "", WARN),
    )


def _phase(snapshot: Snapshot) -> Content:
    """What our load does, or whose traffic it is."""
    load: LoadView | None = snapshot.load
    if load is None:
        return Content.styled("no load of ours" if not snapshot.streams else "traffic of others", MUTED)
    width = f"  {fmt.interval_share(load.ci_half_width, 1.0)}" if load.ci_half_width is not None else ""
    return Content.assemble((load.phase.value, ACCENT), width)
