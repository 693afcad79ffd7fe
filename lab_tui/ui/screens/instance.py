"""One instance in full: its readings, its command line, its log."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget

from lab_tui.model import InstanceView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import INSTANCE, Action
from lab_tui.ui.screens.commands import FleetCommands
from lab_tui.ui.screens.dialogs import ASLEEP
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, MUTED, STRONG, WARN
from lab_tui.ui.theme import INSTANCE as LOOKS
from lab_tui.ui.widgets.bars import gauge, nice_top, sampled, spark
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.logtail import LogTail
from lab_tui.ui.widgets.pane import Pane, set_height


class InstanceScreen(FleetCommands):
    """Readings, command and log of one instance."""

    SCOPE = INSTANCE

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.facts = LineList(id="facts")
        self.command = LineList(id="command")
        self.log_tail = LogTail(id="log")
        self.top = 0.0

    def compose_panes(self) -> Iterator[Widget]:
        """Readings beside the command, the log below."""
        with Horizontal(classes="row"):
            yield Pane(1, f"Instance {self.index}", self.facts)
            yield Pane(2, "Command", self.command)
        last = Pane(3, "Log", self.log_tail)
        last.add_class("-last")
        yield last

    def layout_panes(self, snapshot: Snapshot) -> None:
        """The log takes what the readings leave."""
        row, last = self.query_one(".row"), self.panes()[2]
        set_height(row, "1fr" if self.solo else str(min(max(self.size.height // 2 - 2, 7), 16)))
        set_height(last, "1fr")

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the panes."""
        view = self.selected_instance()
        if view is None:
            self.facts.show(
                [Content.styled(" This instance is no longer part of the fleet; escape goes back.", WARN)]
            )
            return
        width, height = self.facts.size
        self.facts.show(self._facts(view, self.lab.series, width, height, int(snapshot.time)))
        self.command.show(command_lines(view, self.command.size.width))
        self.log_tail.choose(snapshot, str(self.index))
        needle = self.filters.get(3)
        self.panes()[2].title(self.log_tail.title() + (f" /{needle}" if needle else ""))

    def _facts(self, view: InstanceView, series: Series, width: int, height: int, now: int) -> list[Content]:
        look = LOOKS[view.state]
        share = None if view.busy is None or not view.slots else 100 * view.busy / view.slots
        busy = fmt.UNKNOWN if view.busy is None else str(view.busy)
        old = fmt.duration(view.reading_age_s) if view.reading_age_s is not None else fmt.NOT_AVAILABLE
        pid = fmt.UNKNOWN if view.pid is None else str(view.pid)
        rows = [
            _fact("state", (f"{look.glyph} {look.word}", look.style), (f"  {view.reason}", BAD)),
            _fact("port", (str(view.port), STRONG), (f"  pid {pid}  GPU {view.gpu or fmt.UNKNOWN}", "")),
            _fact("up", (fmt.duration(view.uptime_s), ""), (f"  {fmt.plural(view.restarts, 'restart')}", "")),
            _fact("memory", (f"RSS {fmt.size(view.rss_bytes)}  VRAM {fmt.size(view.vram_bytes)}", "")),
            _fact(
                "slots",
                (f"{busy}/{view.slots} ", STRONG),
                (gauge(share, min(max(width - 24, 4), 24)), ACCENT),
            ),
            _fact("queue", (fmt.count(view.queue), ""), (f"  readings {old} old", MUTED)),
            _fact("tok/s", (fmt.rate(view.tps), STRONG), ("  all traffic", MUTED)),
        ]
        rows += [Content.styled(f" {line}", BAD) for line in view.log_tail[-3:]]
        room = height - len(rows) - 1
        if room >= 1:
            curve = series.columns(f"tps.{view.index}", max(width - 2, 1), end=now)
            self.top = nice_top(sampled(curve), self.top)
            rows += [Content.styled(f" {line}", ACCENT) for line in spark(curve, self.top, min(room, 6))]
            rows.append(
                Content.styled(f" scale 0 to {fmt.rate(self.top)}, last {fmt.duration(width - 2)}", MUTED)
            )
        return rows

    def selected_instance(self) -> InstanceView | None:
        """The instance of this screen."""
        snapshot = self.lab.snapshot
        views = snapshot.instances if snapshot else ()
        return next((view for view in views if view.index == self.index), None)

    def footer_label(self, action: Action) -> str:
        """Only what can be done with this instance now."""
        view = self.selected_instance()
        asleep = view is not None and view.state in ASLEEP
        match action.name:
            case "start":
                return action.label if asleep else ""
            case "stop" | "restart":
                return action.label if view is not None and not asleep else ""
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "filter" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    def set_filter(self, number: int, needle: str) -> None:
        """Only the log can be filtered."""
        super().set_filter(3, needle)

    def act_copy(self) -> None:
        """Copy the command line, or the log when it has the focus."""
        view = self.selected_instance()
        log = self.focused_pane().number == 3
        text = "\n".join(self.log_tail.lines[-200:]) if log else shlex.join(view.command) if view else ""
        if text:
            self.app.copy_to_clipboard(text)
            self.status.say("copied the log" if log else f"copied: {text}")
        else:
            self.status.say("nothing to copy here")


def _fact(name: str, *parts: tuple[str, str]) -> Content:
    return Content.assemble((f" {name:<7} ", MUTED), *parts)


def command_lines(view: InstanceView, width: int) -> list[Content]:
    """The command, one flag with its value a line, so that it can be read."""
    if not view.command:
        return [Content.styled(" not started yet", MUTED)]
    lines: list[str] = []
    for word in view.command:
        quoted = shlex.quote(word)
        starts = word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit()
        if not lines or starts:
            lines.append(quoted)
        elif " " not in lines[-1] and lines[-1].startswith("-"):
            lines[-1] += f" {quoted}"
        else:
            lines.append(quoted)
    return [Content(f" {fmt.middle(line, max(width - 1, 8))}") for line in lines]
