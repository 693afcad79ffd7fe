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
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import BY_NAME, Action, bindings, here, key
from lab_tui.ui.link import Link
from lab_tui.ui.screens.paned import FilterInput, PaneScreen
from lab_tui.ui.widgets.footer import FooterKeys, StatusLine
from lab_tui.ui.widgets.header import HeaderLine, compose_header, notices

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

COMPACT_BELOW = 32  # rows: below, panes share their borders


class LabScreen(PaneScreen, inherit_bindings=False):
    """A screen of numbered panes. Subclasses say which, and what to draw in them."""

    # Of Textual's own only this one: tab is in the registry.
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,super+c", "screen.copy_text", show=False)]
    FIRST_PANE: ClassVar[int] = 1  # has the focus at first

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Each screen's keys come from the registry."""
        if cls.SCOPE:
            keys: list[BindingType] = list(bindings(cls.SCOPE))
            cls.BINDINGS = keys
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        super().__init__()
        self._notices: tuple[str, ...] = ()  # that were said already

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
        self.set_interval(1.0, self.show_header)
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
        self.show_header()
        if self.lab.snapshot is not None:
            self.show_notices(self.lab.snapshot)
            self.layout_panes(self.lab.snapshot)
            self.draw(self.lab.snapshot)
        else:
            self.draw_nothing()
        self.show_footer()

    def show_link(self, before: Link, now: Link) -> None:
        """Say when the engine goes, with what to do, and when it is back."""
        if self.is_current and before.connected and not now.connected:
            way = now.remedy if self.lab.read_only else f"{key('engine')} starts one"
            self.status.failed("", f"{now.message}: {way}" if now.remedy else now.message)
        elif self.is_current and now.connected and not before.connected and self.lab.snapshot is not None:
            self.status.say("the engine answers again")
        self.redraw()

    def show_notices(self, snapshot: Snapshot) -> None:
        """Say once what the engine wants to be known; the header repeats it where it has room."""
        now = notices(snapshot)
        fresh = [notice for notice in now if notice not in self._notices]
        self._notices = now
        if fresh:
            self.status.warn("; ".join(fresh))

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the panes."""

    def draw_nothing(self) -> None:
        """Fill the panes while nothing has been heard from the engine."""

    def layout_panes(self, snapshot: Snapshot) -> None:
        """Share the rows out among the panes."""

    def show_header(self) -> None:
        """The header moves by itself: ages grow while nothing arrives."""
        lab = self.lab
        self.query_one(HeaderLine).show(
            compose_header(
                lab.snapshot, lab.link, self.size.width, lab.tick_s, lab.frozen, lab.read_only, lab.arrived
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
        if action.changes and self.lab.read_only:
            self.status.say(
                f"read-only: {action.label} is refused; leave out --read-only to change things", False
            )
            return
        method, _, argument = name.partition(".")
        handler = getattr(self, f"act_{method}", None) or getattr(self.lab, f"act_{method}")
        outcome = handler(argument) if argument else handler()
        if inspect.isawaitable(outcome):
            await outcome

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
            self._on_top.status.failed(command, str(error))
            self.app.notify(str(error), severity="error", markup=False, timeout=8)
        else:
            self._on_top.status.done(command, time.monotonic() - began)

    @property
    def _on_top(self) -> LabScreen:
        """This screen, or the one that is seen since this one was left."""
        screens = [screen for screen in self.app.screen_stack if isinstance(screen, LabScreen)]
        return self if self in screens else screens[-1]

    def copy(self, text: str, what: str = "") -> None:
        """Put ``text`` on the clipboard, and into a file: no terminal says whether it took it (OSC 52)."""
        self.app.copy_to_clipboard(text)
        file = paths.copied_file()
        try:
            paths.ensure_writable(file.parent, "XDG_STATE_HOME")
            file.touch(mode=0o600)
            file.write_text(f"{text}\n")
        except (LabError, OSError) as error:
            self.status.failed("", f"sent to the clipboard, but not kept in {file}: {error}")
            return
        home = str(Path.home())
        place = str(file).replace(home, "~", 1) if str(file).startswith(f"{home}/") else str(file)
        said = what or text.splitlines()[0]
        room = max(self.size.width - len(place) - 25, 8)
        self.status.say(f"copied: {fmt.clip(said, room)} (also in {place})")
