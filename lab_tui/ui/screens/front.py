"""The front in full: its state, what went through it to which instance, nginx's log."""

from __future__ import annotations

from collections.abc import Iterator

from textual.containers import Horizontal
from textual.widget import Widget

from lab_tui.model import InstanceView, Snapshot
from lab_tui.ui.actions import FRONT, Action
from lab_tui.ui.panes import front
from lab_tui.ui.screens.commands import FleetCommands
from lab_tui.ui.screens.logs import LogCommands
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.logtail import LogTail
from lab_tui.ui.widgets.pane import Pane, set_height


class FrontScreen(LogCommands, FleetCommands):
    """Readings, requests of each instance, log."""

    SCOPE = FRONT

    def __init__(self) -> None:
        super().__init__()
        self.facts = LineList(id="facts")
        self.requests = LineList(id="requests")
        self.log_tail = LogTail(id="log")

    def compose_panes(self) -> Iterator[Widget]:
        """What it is beside what went through, the log below."""
        with Horizontal(classes="row"):
            yield Pane(1, "Front", self.facts)
            yield Pane(2, "Requests", self.requests)
        last = Pane(3, "Log", self.log_tail)
        last.add_class("-last")
        yield last

    def layout_panes(self, snapshot: Snapshot) -> None:
        """The log takes what is left, and a third at least."""
        row, last = self.query_one(".row"), self.panes()[2]
        wanted = max(len(snapshot.instances) + 3, 11) + 2
        set_height(row, "1fr" if self.solo else str(min(wanted, self.size.height * 3 // 5)))
        set_height(last, "1fr")

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the panes."""
        self.facts.show(front.facts(snapshot, self.facts.size.width))
        self.requests.show(*front.instances(snapshot, self.requests.size.width))
        self.log_tail.choose(snapshot, "nginx")
        self.show_log_title()

    def selected_instance(self) -> InstanceView | None:
        """The instance under the cursor."""
        views = self.lab.snapshot.instances if self.lab.snapshot else ()
        return next((view for view in views if str(view.index) == self.requests.selected), None)

    def footer_label(self, action: Action) -> str:
        """Only what can be done here."""
        match action.name:
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "open":
                return action.label if self.selected_instance() is not None else ""
            case "log_find" | "log_level" | "log_since" | "log_wrap":
                return action.label if self.chosen == self.log_number() else ""
            case "filter" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    def act_open(self) -> None:
        """The instance under the cursor in full."""
        view = self.selected_instance()
        if view is not None:
            self.open_instance(view)

    def on_line_list_opened(self, event: LineList.Opened) -> None:
        """Two clicks are an enter."""
        self.act_open()

    def filtered_pane(self) -> int:
        """Only the log can be filtered."""
        return 3

    def act_copy(self) -> None:
        """Copy the address, or the log when it has the focus."""
        url = self.lab.snapshot.front.url if self.lab.snapshot else None
        text = "\n".join(self.log_tail.lines[-200:]) if self.focused_pane().number == 3 else url
        if text:
            self.copy(text, "" if text == url else "the log")
        else:
            self.status.say("nothing to copy here")
