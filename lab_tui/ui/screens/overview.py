"""The overview: what serves, how fast, on what, what is measured, and what the logs say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget

from lab_tui.model import InstanceState, InstanceView, Snapshot, SweepStatus, SweepView
from lab_tui.text import typed
from lab_tui.ui.actions import OVERVIEW, Action, key
from lab_tui.ui.panes import gpus, instances, queue
from lab_tui.ui.screens.commands import QueueCommands
from lab_tui.ui.screens.curves import CurveCommands
from lab_tui.ui.screens.logs import LogCommands
from lab_tui.ui.theme import MUTED, STRONG
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.logtail import LogTail
from lab_tui.ui.widgets.pane import Pane, set_height, share_out

# Not in the footer, for want of room; the help has them all.
HIDDEN = frozenset(
    {
        "start_all",
        "stop_all",
        "sooner",
        "logs",
        "log_previous",
        "log_next",
        "log_hit_next",
        "log_hit_previous",
        "later",
        "span",
        "copy",
        "faster",
        "slower",
    }
    | {"freeze", "palette"}
)


class OverviewScreen(CurveCommands, LogCommands, QueueCommands):
    """Five panes; ``lab_tui.ui.panes`` says what stands in them."""

    SCOPE = OVERVIEW

    def __init__(self) -> None:
        super().__init__()
        self.instances = LineList(id="instances")
        self.gpus = LineList(id="gpus")
        self.queue = LineList(id="queue")
        self.log_tail = LogTail(id="log")
        self.sort = "#"
        self._seen: tuple[tuple[int, SweepStatus], ...] | None = None  # the queue `past` was asked for
        self._first: int | None = None  # the sweep that runs, or is next
        self._queued: int | None = None  # the sweep that was queued here, until it is seen

    def compose_panes(self) -> Iterator[Widget]:
        """As the design draws them."""
        yield Pane(1, "Instances", self.instances)
        with Horizontal(classes="row"):
            yield Pane(2, "Throughput", self.throughput)
            yield Pane(3, "GPU", self.gpus)
        yield Pane(4, "Sweep queue", self.queue)
        last = Pane(5, "Log", self.log_tail)
        last.add_class("-last")
        yield last

    # -- drawing

    def layout_panes(self, snapshot: Snapshot) -> None:
        """Rows go to what has something to say; the log takes what is left."""
        one, _, _, four, five = self.panes()
        row = self.query_one(".row")
        if self.solo:
            for box in (one, four, five, row):
                set_height(box, "1fr")
            return
        compact = self.has_class("-compact")
        border = 1 if compact else 2
        rows = self.size.height - 3 - 4 * border - compact
        roomy = rows >= 24
        cards = len(snapshot.gpus) or 1
        wants = (
            max(instances.rows(snapshot), 3),
            max(cards + 1, 9 if roomy else 4),
            max(len(snapshot.queue) + min(len(self.past), 4 if roomy else 1), 1),
            max(rows // 4, 3),
        )
        shares = share_out(rows, wants, (2, 2, 1, 1))
        last = border + compact
        for box, share, edge in zip(
            (one, row, four, five), shares, (border, border, border, last), strict=True
        ):
            set_height(box, str(share + edge))

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the five panes."""
        series = self.lab.series
        step = max(self.step, round(self.lab.tick_s))
        one, _, three, four, _ = self.panes()
        order = f" by {self.sort}" if self.sort != "#" else ""
        one.title(f"({len(snapshot.instances)}){order}{self._filter_note(1)}")
        room, needle = self.instances.size, self.filters.get(1, "")
        self.instances.show(*instances.lines(snapshot, series, room.width, step, needle, self.sort))
        self.draw_curves(snapshot)
        three.title(gpus.title(snapshot.gpus))
        self.gpus.show(gpus.lines(snapshot, series, self.gpus.size.width, step, whole=self.solo))
        four.title(("paused" if snapshot.queue_paused else "") + self._filter_note(4))
        self.queue.show(*queue.lines(snapshot, self.past, self.queue.size.width, self.filters.get(4, "")))
        self._keep_in_sight(snapshot)
        self.log_tail.choose(snapshot, self.instances.selected)
        self.show_log_title()
        self._refresh_past(snapshot)

    def draw_nothing(self) -> None:
        """Say why there is nothing to see, and what mends that."""
        link = self.lab.link
        words = [Content.styled(f" {link.message}", STRONG)]
        if link.remedy:
            words.append(Content(typed(f" {link.remedy}")))
        words.append(
            Content.styled(
                f" {key('engine')} starts an engine, {key('quit')} leaves; once one runs it is shown here.",
                MUTED,
            )
        )
        self.instances.show(words)

    def filtered_pane(self) -> int | None:
        """Instances, sweeps and the log can be filtered."""
        number = self.focused_pane().number
        return number if number in (1, 4, 5) else None

    def _filter_note(self, number: int) -> str:
        needle = self.filters.get(number)
        return f" /{needle}" if needle else ""

    def _keep_in_sight(self, snapshot: Snapshot) -> None:
        """The sweep that was queued here, else the one that has come to run, takes the cursor of the queue.

        Not from a reader who is there.
        """
        ids = [view.id for view in snapshot.queue]
        first = ids[0] if ids else None
        if self._queued in ids:
            self.queue.select(str(self._queued))
            self._queued = None
        elif first is not None and first != self._first and self.focused_pane() is not self.panes()[3]:
            self.queue.select(str(first))
        self._first = first

    def queued(self, view: SweepView) -> None:
        """Show it as soon as it is there."""
        self._queued = view.id

    def on_screen_resume(self) -> None:
        """Sweeps may have come and gone while another screen was above."""
        self._seen = None

    def _refresh_past(self, snapshot: Snapshot) -> None:
        """Ask for finished sweeps when the queue is not what it was."""
        seen = tuple((view.id, view.status) for view in snapshot.queue)
        if seen != self._seen:
            self._seen = seen
            self.load_past()

    # -- what is selected

    def selected_instance(self) -> InstanceView | None:
        """The instance under the cursor."""
        snapshot = self.lab.snapshot
        if snapshot is None:
            return None
        return next((view for view in snapshot.instances if str(view.index) == self.instances.selected), None)

    def selected_sweep(self) -> SweepView | None:
        """The sweep under the cursor."""
        snapshot = self.lab.snapshot
        views = (*(snapshot.queue if snapshot else ()), *self.past)
        return next((view for view in views if str(view.id) == self.queue.selected), None)

    def footer_label(self, action: Action) -> str:
        """Only what can be done now, in words that fit what is selected."""
        snapshot, view = self.lab.snapshot, self.selected_instance()
        asleep = view is not None and view.state in (InstanceState.STOPPED, InstanceState.FAILED)
        match action.name:
            case "start" | "stop" | "restart" | "new_sweep" | "pause" | "front" | "sort" if self.chosen == 5:
                return ""  # the log's own keys need the room
            case "start":
                return action.label if asleep else ""
            case "stop" | "restart":
                return action.label if view is not None and not asleep else ""
            case "up":
                return action.label if snapshot is not None and not snapshot.instances else ""
            case "pause":
                paused = snapshot is not None and snapshot.queue_paused
                return "resume" if paused else action.label if snapshot and snapshot.queue else ""
            case "abort" | "skip":
                return action.label if snapshot and snapshot.queue and self.chosen == 4 else ""
            case "open":
                return action.label if view is not None or self.selected_sweep() is not None else ""
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "engine":
                return "" if self.lab.link.connected else "start engine"
            case "log_find" | "log_level" | "log_since" | "log_wrap":
                return action.label if self.chosen == 5 else ""
            case "filter":
                return action.label if self.filtered_pane() is not None else ""
            case "earlier":
                return action.label if self.chosen == 2 else ""
            case "back" if self.until is not None:
                return "now"
            case "back":
                left = self.zoomed or self.filters.get(self.chosen) or self.log_tail.searching
                return action.label if left else ""
            case name if name.startswith(("pane.", "next_", "previous_")) or name in HIDDEN:
                return ""
        return action.label

    # -- actions of this screen

    def act_open(self) -> None:
        """Open what is selected in the focused pane."""
        number = self.focused_pane().number
        if number == 4 and (sweep := self.selected_sweep()) is not None:
            self.open_sweep(sweep)
        elif number == 1 and (view := self.selected_instance()) is not None:
            self.open_instance(view)
        else:
            self.act_zoom()

    def on_line_list_opened(self, event: LineList.Opened) -> None:
        """Two clicks are an enter."""
        self.act_open()

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        """The log is that of the selected instance; the footer fits it too."""
        if event.lines is self.instances and self.lab.snapshot is not None:
            self.log_tail.follow_selection()
            self.log_tail.choose(self.lab.snapshot, event.key)
            self.show_log_title()
        self.show_footer()

    def act_logs(self) -> None:
        """The log of the selected instance on the whole screen."""
        self.log_tail.follow_selection()
        self.zoomed = True
        self.act_pane("5")

    def act_log_next(self) -> None:
        """The log after this one."""
        self._other_log(1)

    def act_log_previous(self) -> None:
        """The log before this one."""
        self._other_log(-1)

    def _other_log(self, by: int) -> None:
        if self.lab.snapshot is not None:
            self.log_tail.step(self.lab.snapshot, by)
            self.show_log_title()

    def act_sort(self) -> None:
        """The next order of the instances."""
        orders = list(instances.SORTS)
        self.sort = orders[(orders.index(self.sort) + 1) % len(orders)]
        self.status.say(f"instances by {'number' if self.sort == '#' else self.sort}")
        self.redraw()

    def act_copy(self) -> None:
        """Copy what stands for the selected thing: a command line, a reason, an address."""
        text = self._to_copy()
        if text:
            self.copy(text)
        else:
            self.status.say("nothing to copy here")

    def _to_copy(self) -> str:
        snapshot, number = self.lab.snapshot, self.focused_pane().number
        if snapshot is None:
            return ""
        if number == 1 and (view := self.selected_instance()) is not None:
            return shlex.join(view.command) or view.reason
        if number == 4 and (sweep := self.selected_sweep()) is not None:
            return f"lab-tui results show {sweep.id}"
        if number == 5:
            return "\n".join(self.log_tail.lines[-200:])
        return snapshot.front.url or ""
