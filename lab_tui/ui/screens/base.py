"""What every screen of the lab shares: header, footer, status line, and the way actions run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget

from lab_tui import paths
from lab_tui.model import LabError, Snapshot
from lab_tui.text import typed
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import BY_NAME, Action, bindings, here, key
from lab_tui.ui.link import Link
from lab_tui.ui.screens.paned import FilterInput, PaneScreen
from lab_tui.ui.widgets.footer import FooterKeys, Standing, StatusLine
from lab_tui.ui.widgets.header import HeaderLine, compose_header
from lab_tui.ui.widgets.lines import LineList

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

COMPACT_BELOW = 32  # rows: below, panes share their borders


class LabScreen(PaneScreen, inherit_bindings=False):
    """A screen of numbered panes. Subclasses say which, and what to draw in them."""

    # Of Textual's own only this one: tab is in the registry.
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,super+c", "screen.copy_text", show=False)]
    AUTO_FOCUS: ClassVar[str | None] = ""  # Textual would take a line to type in that is not even seen
    FIRST_PANE: ClassVar[int] = 1  # has the focus at first

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Each screen's keys come from the registry."""
        if cls.SCOPE:
            keys: list[BindingType] = list(bindings(cls.SCOPE))
            cls.BINDINGS = keys
        super().__init_subclass__(**kwargs)

    @property
    def lab(self) -> LabApp:
        """The app, by its own type."""
        return cast("LabApp", self.app)

    # -- building

    def compose(self) -> ComposeResult:
        """Header, panes, filter, status, footer."""
        yield HeaderLine()
        yield from self.compose_panes()
        yield FilterInput()
        yield from self.compose_entries()
        yield StatusLine()
        yield FooterKeys()

    def compose_entries(self) -> Iterable[Widget]:
        """More lines to type in, as the filter is."""
        return ()

    def compose_panes(self) -> Iterator[Widget]:
        """The panes, from the top."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Draw what is known, then follow what the app learns."""
        self.watch(self.app, "snapshot", self.redraw, init=False)
        self.watch(self.app, "link", self.show_link, init=False)
        self.set_interval(1.0, self.show_age)
        self.call_after_refresh(self.redraw)
        self.panes()[self.FIRST_PANE - 1].enter()

    # -- drawing

    def on_resize(self) -> None:
        """Another size may need another layout."""
        self.set_class(self.size.height < COMPACT_BELOW, "-compact")
        self.show_panes()
        self.call_after_refresh(self.redraw)

    def on_line_list_resized(self) -> None:
        """A pane has other room than it was filled for."""
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Show what the app knows now. Cheap when nothing changed; hidden screens wait."""
        if not self.is_mounted or (not self.is_current and not self.lab.is_covered(self)):
            return
        self.set_class(not self.lab.link.connected, "-gone")
        self.show_age()
        self.show_standing()
        if self.lab.snapshot is not None:
            self.layout_panes(self.lab.snapshot)
            if all(pane.size.width for pane in self.panes() if pane.display):  # else that is still to come
                self.draw(self.lab.snapshot)
        else:
            self.draw_nothing()
        self.show_footer()

    def on_screen_resume(self) -> None:
        """Much may have changed while another screen was above. At first nothing has its size yet."""
        self.call_after_refresh(self.redraw)

    def show_link(self, before: Link, now: Link) -> None:
        """Say when the engine is back; that it is gone is said for as long as it is."""
        if self.is_current and now.connected and not before.connected and self.lab.snapshot is not None:
            self.status.say("the engine answers again")
        self.redraw()

    def show_standing(self) -> None:
        """Say what holds now: that no engine answers, and what it wants known."""
        snapshot = self.lab.snapshot
        lost = snapshot is not None and not self.lab.link.connected
        self.status.hold(Standing.ENGINE, self.engine_said if lost else "")
        self.status.hold(Standing.NOTICE, "; ".join(_notices(snapshot)) if snapshot is not None else "")

    @property
    def engine_said(self) -> str:
        """Why no engine answers, and the way out."""
        link = self.lab.link
        way = f"{key('engine')} starts one" if link.gone and not self.lab.read_only else link.remedy
        return f"{link.message}: {way}" if way else link.message

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the panes."""

    def draw_nothing(self) -> None:
        """Fill the panes while nothing has been heard from the engine."""

    def layout_panes(self, snapshot: Snapshot) -> None:
        """Share the rows out among the panes."""

    def show_age(self) -> None:
        """Ages grow while nothing arrives, and what is too old to be of now is grey."""
        self.show_header()
        self.fade(self.lab.outdated)

    def fade(self, outdated: bool) -> None:
        """Show what stood for now as what was."""
        for held in self.query(LineList):
            held.fade(outdated)

    def show_header(self) -> None:
        """What the header says now."""
        lab = self.lab
        self.query_one(HeaderLine).show(
            compose_header(
                lab.snapshot, lab.link, self.size.width, lab.tick_s, lab.frozen, lab.read_only, lab.age_s
            )
        )

    def show_footer(self) -> None:
        """The keys that work here and now: without an engine, first the one that starts it."""
        gone, held = not self.lab.link.connected, self.lab.read_only
        actions = sorted(here(self.SCOPE), key=lambda action: gone and action.name != "engine")
        labels = (
            (action, "start engine" if gone and action.name == "engine" else self.footer_label(action))
            for action in actions
            if not action.changes or not (held or (gone and action.name != "engine"))
        )
        shown = [(action, label) for action, label in labels if label]
        self.query_one(FooterKeys).show(shown, self.size.width)

    def footer_label(self, action: Action) -> str:
        """What the footer says of an action; "" leaves it out."""
        return action.label

    # -- acting

    async def action_act(self, name: str) -> None:
        """Carry out an action of the registry, whichever way it was asked for."""
        action = BY_NAME[name]
        self.status.next_action()
        if action.changes and (why := self._refusal(action)):
            self.status.failed("", why)
            return
        method, _, argument = name.partition(".")
        handler = getattr(self, f"act_{method}", None) or getattr(self.lab, f"act_{method}")
        outcome = handler(argument) if argument else handler()
        if inspect.isawaitable(outcome):
            await outcome

    def _refusal(self, action: Action) -> str:
        """Why what changes things cannot be had now; "": it can."""
        if self.lab.read_only:
            return f"read-only: {action.label} is refused; leave out --read-only to change things"
        if action.name != "engine" and not self.lab.link.connected:
            return f"no {action.label} now: {self.engine_said}"
        return ""

    def send(self, command: str, work: Coroutine[Any, Any, Any]) -> None:
        """Let the engine do something, without waiting; say which command does the same.

        It goes on when the user leaves this screen meanwhile: a call that is cut off is half done.
        """
        self.app.run_worker(self._send(command, work), group="calls", description=command)

    async def _send(self, command: str, work: Coroutine[Any, Any, Any]) -> None:
        self.status.running(command)
        began = time.monotonic()
        try:
            await work
        except LabError as error:
            self.fail(command, str(error))
        else:
            self._on_top.status.done(command, time.monotonic() - began)

    def fail(self, command: str, why: str) -> None:
        """Say what went wrong, and once more in full where the line is too short for it, or not in sight."""
        screen = self._on_top
        screen.status.failed(command, why)
        self.app.clear_notifications()
        if screen.status.cut or self.app.screen is not screen:
            self.app.notify(typed(why), severity="error", markup=False, timeout=8)

    @property
    def _on_top(self) -> LabScreen:
        """This screen, or the one that is seen since this one was left."""
        screens = [screen for screen in self.app.screen_stack if isinstance(screen, LabScreen)]
        return self if self in screens else screens[-1]

    def copy(self, text: str, what: str = "") -> None:
        """Put ``text`` on the clipboard, and into a file: no terminal says whether it took it (OSC 52)."""
        text = typed(text)
        self.app.copy_to_clipboard(text)
        file = paths.copied_file()
        try:
            paths.ensure_writable(file.parent, "XDG_STATE_HOME")
            file.touch(mode=0o600)
            file.write_text(f"{text}\n", "utf-8")
        except (LabError, OSError) as error:
            self.status.failed("", f"sent to the clipboard, but not kept in {file}: {error}")
            return
        home = str(Path.home())
        place = str(file).replace(home, "~", 1) if str(file).startswith(f"{home}/") else str(file)
        said = what or text.splitlines()[0]
        room = max(self.size.width - len(place) - 25, 8)
        self.status.say(f"copied: {fmt.clip(said, room)} (also in {place})")


def _notices(snapshot: Snapshot) -> tuple[str, ...]:
    """What the engine wants known and the header does not say in its own words."""
    paused = "queue is paused" if snapshot.queue_paused and not snapshot.queue_paused_why else ""
    return tuple(
        notice
        for notice in snapshot.notices
        if notice != snapshot.front.reason and not (paused and paused in notice)
    )
