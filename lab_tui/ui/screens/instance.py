"""One instance in full: its readings, its slots, its command line, its log."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from textual import work
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget

from lab_tui.model import InstanceView, LabError, SlotsView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import INSTANCE, Action, key
from lab_tui.ui.panes.commands import broken
from lab_tui.ui.panes.facts import fact, more
from lab_tui.ui.panes.slots import SlotLines
from lab_tui.ui.screens.commands import FleetCommands
from lab_tui.ui.screens.dialogs import ASLEEP
from lab_tui.ui.screens.logs import LogCommands
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, MUTED, STRONG, WARN
from lab_tui.ui.theme import INSTANCE as LOOKS
from lab_tui.ui.widgets.bars import gauge, nice_top, sampled, spark
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.logtail import LogTail
from lab_tui.ui.widgets.pane import Pane, set_height


class InstanceScreen(LogCommands, FleetCommands):
    """Readings, slots, command and log of one instance."""

    SCOPE = INSTANCE

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.facts = LineList(id="facts")
        self.slots = LineList(id="slots")
        self.command = LineList(id="command")
        self.log_tail = LogTail(id="log")
        self.top = 0.0
        self.slot_lines = SlotLines()
        self.slots_view: SlotsView | None = None
        self._asked = -1  # the snapshot after which the slots were asked for

    def compose_panes(self) -> Iterator[Widget]:
        """Readings beside the slots, the command and the log below."""
        with Horizontal(classes="row"):
            yield Pane(1, f"Instance {self.index}", self.facts)
            yield Pane(2, "Slots", self.slots)
        yield Pane(3, "Command", self.command)
        last = Pane(4, "Log", self.log_tail)
        last.add_class("-last")
        yield last

    def layout_panes(self, snapshot: Snapshot) -> None:
        """The command has the lines it needs, the log what is left."""
        row, (_, _, three, last) = self.query_one(".row"), self.panes()
        view = self.selected_instance()
        lines = len(broken(view.command, max(self.size.width - 4, 1))) if view is not None else 1
        edges = 1 if self.has_class("-compact") else 2
        set_height(row, "1fr" if self.solo else str(min(max(self.size.height // 2 - 2, 7), 18)))
        set_height(three, "1fr" if self.solo else str(min(lines, max(self.size.height // 6, 1)) + edges))
        set_height(last, "1fr")

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the panes."""
        view = self.selected_instance()
        if view is None:
            self.facts.show(
                [
                    Content.styled(
                        f" This instance is no longer part of the fleet; {key('back')} goes back.", WARN
                    )
                ]
            )
            return
        width, height = self.facts.size
        self.facts.show(self._facts(view, self.lab.series, width, height, int(snapshot.time)))
        self._show_slots()
        if snapshot.seq != self._asked:
            self._asked = snapshot.seq
            self._ask_slots()
        width = max(self.command.size.width - 2, 8)
        self.command.show(
            [Content(f" {fmt.middle(line, width)}") for line in broken(view.command, width)]
            if view.command
            else [Content.styled(" not started yet", MUTED)]
        )
        self.log_tail.choose(snapshot, str(self.index))
        self.show_log_title()

    def _show_slots(self) -> None:
        self.panes()[1].title(self.slot_lines.title(self.slots_view))
        self.slots.show(self.slot_lines.lines(self.slots_view, *self.slots.size))

    @work(group="slots", exclusive=True)
    async def _ask_slots(self) -> None:
        """What each slot does now; an engine that is gone is said elsewhere, and leaves what was known."""
        try:
            self.slots_view = await self.lab.client.slots(self.index)
        except LabError:
            return
        self._show_slots()

    def _facts(self, view: InstanceView, series: Series, width: int, height: int, now: int) -> list[Content]:
        look = LOOKS[view.state]
        share = None if view.busy is None or not view.slots else 100 * view.busy / view.slots
        busy = fmt.UNKNOWN if view.busy is None else str(view.busy)
        old = fmt.duration(view.reading_age_s) if view.reading_age_s is not None else fmt.NOT_AVAILABLE
        pid = fmt.UNKNOWN if view.pid is None else str(view.pid)
        rows = [
            fact("state", (f"{look.glyph} {look.word}", look.style)),
            *more(view.reason, BAD, width),
            fact("port", (str(view.port), STRONG), (f"  pid {pid}  GPU {view.gpu or fmt.UNKNOWN}", "")),
            *([fact("cores", (view.cores, ""))] if view.cores else []),
            fact("up", (fmt.duration(view.uptime_s), ""), (f"  {fmt.plural(view.restarts, 'restart')}", "")),
            fact(
                "memory",
                (f"RSS {fmt.size(view.rss_bytes)}  VRAM {fmt.size(view.vram_bytes)}{_by_card(view)}", ""),
            ),
            fact(
                "slots",
                (f"{busy}/{view.slots} ", STRONG),
                (gauge(share, min(max(width - 24, 4), 24)), ACCENT),
            ),
            fact("queue", (fmt.count(view.queue), ""), (f"  readings {old} old", MUTED)),
            fact("tok/s", (fmt.rate(view.tps), STRONG), ("  all traffic", MUTED)),
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
            case "log_find" | "log_level" | "log_since" | "log_wrap":
                return action.label if self.chosen == self.log_number() else ""
            case "filter" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    def filtered_pane(self) -> int:
        """Only the log can be filtered."""
        return 4

    def act_copy(self) -> None:
        """Copy the command line, or the log when it has the focus."""
        view = self.selected_instance()
        log = self.focused_pane().number == 4
        text = "\n".join(self.log_tail.lines[-200:]) if log else shlex.join(view.command) if view else ""
        if text:
            self.copy(text, "the log" if log else "")
        else:
            self.status.say("nothing to copy here")


def _by_card(view: InstanceView) -> str:
    """How its card memory is spread, where that is over several."""
    if len(view.vram_by_gpu) < 2:
        return ""
    parts = (f"GPU {index} {fmt.size(size)}" for index, size in sorted(view.vram_by_gpu.items()))
    return f" ({', '.join(parts)})"
