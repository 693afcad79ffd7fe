"""What can be done with the curves of a screen: other spans, earlier times."""

from __future__ import annotations

from textual.widgets import Input

from lab_tui.model import Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.panes.curves import CurvesLines, columns
from lab_tui.ui.panes.throughput import ThroughputLines, Window
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.series import KEEP
from lab_tui.ui.widgets.lines import LineList

SPANS = (1, 5, 15, 60)  # seconds a column


class CurveCommands(LabScreen):
    """A screen with one pane of curves, which has more of them when it is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.throughput = LineList(id="throughput")
        self.figures = ThroughputLines()
        self.curves = CurvesLines()
        self.step = SPANS[0]
        self.until: int | None = None  # the unix second at the right edge of the curves; None: now

    def draw_curves(self, snapshot: Snapshot) -> None:
        """Fill the pane."""
        builder, (width, height) = self.curves if self.solo else self.figures, self.throughput.size
        window = self.window(snapshot)
        self.throughput.show(builder.lines(snapshot, self.lab.series, width, height, window))

    def window(self, snapshot: Snapshot) -> Window:
        """The part of the hour that is looked at: it ends with what is shown, frozen or not."""
        now = int(snapshot.time)
        end = now if self.until is None else self.until
        return Window(max(self.step, round(self.lab.tick_s)), end, now - end)

    def act_span(self) -> None:
        """The next time span of the curves."""
        self.step = SPANS[(SPANS.index(self.step) + 1) % len(SPANS)]
        self.status.say(f"one column of a curve is {fmt.duration(self.step)}")
        self.redraw()

    def act_earlier(self) -> None:
        """Look at the curves of an earlier time; they stand still there."""
        self._turn_back(1)

    def act_later(self) -> None:
        """Look at the curves of a later time, up to now."""
        self._turn_back(-1)

    def _turn_back(self, by: int) -> None:
        """Move the window of the curves by a quarter of what it shows, within the hour that is kept."""
        snapshot = self.lab.snapshot
        if snapshot is None:
            return
        now, (step, end, _) = int(snapshot.time), self.window(snapshot)
        width = self.throughput.size.width
        shown = step * (columns(width) if self.solo else max(width - 2, 1))
        first = now - KEEP + shown
        if first >= now:
            self.status.say("the whole hour is in sight already")
            return
        end = min(max(end - by * max(shown // 4, step), first), now)
        self.until = end if end < now else None
        self.redraw()

    def act_back(self) -> None:
        """Curves of an earlier time come back to now before anything is left but a line to type in."""
        if self.until is not None and not isinstance(self.focused, Input):
            self.until = None
            self.redraw()
        else:
            super().act_back()
