"""The app: one engine, one snapshot, and the screens that look at it. ``run`` is the way in."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import ClassVar

from textual import events, work
from textual.app import App
from textual.filter import LineFilter
from textual.geometry import Size
from textual.reactive import reactive
from textual.screen import Screen
from textual.theme import Theme

from lab_tui import paths
from lab_tui.client import EngineClient
from lab_tui.config import Settings
from lab_tui.model import History, InstanceState, LabError, Snapshot, SweepSpec
from lab_tui.starting import ensure_engine
from lab_tui.ui import actions, keymap, theme
from lab_tui.ui import format as fmt
from lab_tui.ui import link as lines
from lab_tui.ui.glyphs import speaks_utf8
from lab_tui.ui.leaving import leave_when_told
from lab_tui.ui.palette import LabCommands
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.screens.dialogs import QuitDialog
from lab_tui.ui.screens.help import HelpScreen
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.series import Series
from lab_tui.ui.shown import SHOWN
from lab_tui.ui.terminal import Terminal
from lab_tui.ui.widgets.header import stale_after_s

TICKS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
SHEETS = ("tokens", "overview", "instance", "front", "sweep", "forms", "dialogs")


class LabApp(App[int]):
    """The screen of the lab. It holds no state of its own: everything comes from the engine."""

    TITLE = "lab-tui"
    COMMANDS: ClassVar = {LabCommands}
    CSS_PATH: ClassVar[list[str | PurePath]] = [paths.css_dir() / f"{sheet}.tcss" for sheet in SHEETS]
    ENABLE_COMMAND_PALETTE = True

    # A reactive of the app that repaints sends the whole screen again; screens know what changed.
    snapshot: reactive[Snapshot | None] = reactive[Snapshot | None](None, init=False, repaint=False)
    # What came last, also while the shown one is frozen.
    latest: reactive[Snapshot | None] = reactive[Snapshot | None](None, init=False, repaint=False)
    link: reactive[lines.Link] = reactive(lines.connecting, init=False, repaint=False)

    def __init__(self, settings: Settings, client: EngineClient, *, read_only: bool = False) -> None:
        # Textual turns colours into greys where none are wanted, unless it leaves them to the terminal.
        super().__init__(driver_class=Terminal, ansi_color="NO_COLOR" in os.environ or None)
        self.settings = settings
        self.client = client
        self.read_only = read_only
        self.series = Series()
        self.tick_s = settings.ui.tick_s
        self.frozen = False
        self.mouse = settings.ui.mouse
        self.ascii = not speaks_utf8(os.environ) if settings.ui.ascii is None else settings.ui.ascii
        fmt.use_ascii(self.ascii)
        self.terminal: Terminal | None = None  # none in tests that have no terminal
        self.marked: int | None = None  # the sweep to hold another one against
        self.arrived = self.latest_arrived = time.monotonic()  # when the shown snapshot came, and the last
        self.presets: dict[str, SweepSpec] = {}  # as they were asked for last
        self.register_theme(theme.SAFE)
        wanted = theme.pick(settings.ui.theme, os.environ)
        if wanted not in self.available_themes:
            known = ", ".join(sorted(self.available_themes))
            raise LabError(f"ui.theme: no theme is named {wanted}", f"one of {known}")
        self.theme = wanted
        registry = keymap.mapped(settings.keys)
        actions.use(registry)
        self.set_keymap({action.name: action.keys for action in set(registry) - set(actions.ACTIONS)})

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Last of all, nothing that a terminal would obey comes out of a widget."""
        return [*super().get_line_filters(), SHOWN]

    def get_default_screen(self) -> Screen[None]:
        """The overview."""
        return OverviewScreen()

    def on_mount(self) -> None:
        """Listen to the engine for as long as the app lives."""
        self.listen()
        self.console.push_theme(theme.for_tables())
        self.theme_changed_signal.subscribe(self, self.say_theme)
        if not self.is_headless:
            self.set_interval(1.0, self.fit)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Colours of our own, for style sheets and styles."""
        return theme.heat_scale(self.current_theme.dark)

    def fit(self) -> None:
        """Notice a resize that no signal told of, as on a terminal that is not the controlling one."""
        terminal = Size(*shutil.get_terminal_size())
        if self.screen.size != terminal:
            resize = events.Resize(terminal, terminal)
            self.post_message(resize)
            self.screen.post_message(resize)

    # -- what comes from the engine

    @property
    def age_s(self) -> float:
        """How old the shown snapshot is."""
        return time.monotonic() - self.arrived

    @property
    def outdated(self) -> bool:
        """Whether what is shown cannot stand for now any more; a frozen screen is not meant to."""
        return not self.link.connected or (not self.frozen and self.age_s > stale_after_s(self.tick_s))

    @work(group="engine", exclusive=True)
    async def listen(self) -> None:
        """Follow the engine at the tick that is asked for."""
        await lines.follow(self.client, self.tick_s, self.receive_history, self.receive, self.receive_link)

    def receive_history(self, history: History) -> None:
        """Fill the curves with what the engine kept."""
        self.series.load(history)

    def receive(self, snapshot: Snapshot) -> None:
        """Take a snapshot in; a frozen screen goes on collecting."""
        self.latest, self.latest_arrived = snapshot, time.monotonic()
        self.series.append(snapshot)
        if not self.frozen:
            self.arrived = self.latest_arrived
            self.snapshot = snapshot

    def receive_link(self, link: lines.Link) -> None:
        """Note whether the engine answers; only changes matter to screens."""
        if link.connected and not self.link.connected:
            self.load_presets()
        if not (link.connected and self.link.connected):
            self.link = link

    @work(group="presets", exclusive=True)
    async def load_presets(self) -> None:
        """Have the presets at hand for the form of a new sweep, which asks again and says what fails."""
        try:
            self.presets = await self.client.presets()
        except LabError as error:
            self.log.warning(f"no presets: {error}")

    def is_covered(self, screen: Screen[None]) -> bool:
        """Whether ``screen`` is still to be seen below dialogs."""
        stack = self.screen_stack
        if screen not in stack:
            return False
        return all(above.is_modal for above in stack[stack.index(screen) + 1 :])

    # -- actions that every screen has

    def act_help(self) -> None:
        """Every key of the screen below."""
        if isinstance(self.screen, LabScreen):
            self.push_screen(HelpScreen(self.screen.SCOPE))

    def action_help_quit(self) -> None:
        """Ctrl+c, with nothing marked that it could copy: many mean to leave with it."""
        if isinstance(self.screen, LabScreen):
            self.screen.status.say(f"{actions.key('quit')} leaves, and everything goes on; ctrl+q at once")
        else:
            self.clear_notifications()
            self.notify("escape closes this", timeout=3)

    def act_palette(self) -> None:
        """Actions by name."""
        self.action_command_palette()

    def act_faster(self) -> None:
        """Refresh more often."""
        self._tick(-1)

    def act_slower(self) -> None:
        """Refresh less often."""
        self._tick(1)

    def _tick(self, by: int) -> None:
        place = min(range(len(TICKS)), key=lambda place: abs(TICKS[place] - self.tick_s)) + by
        if 0 <= place < len(TICKS):
            self.tick_s = TICKS[place]
            self.listen()
            self._redraw()

    def act_freeze(self) -> None:
        """Hold the figures still, or let them go on from what came last."""
        self.frozen = not self.frozen
        if not self.frozen and self.latest is not None:
            self.arrived = self.latest_arrived
            self.snapshot = self.latest
        self._redraw()

    def act_theme(self) -> None:
        """Choose other colours, by name."""
        self.search_themes()

    def say_theme(self, chosen: Theme) -> None:
        """Have tables follow the theme, and tell how it is kept."""
        self.console.pop_theme()
        self.console.push_theme(theme.for_tables())
        for screen in self.screen_stack:
            if isinstance(screen, LabScreen):
                screen.status.say(
                    f'to keep it: theme = "{chosen.name}" under [ui] in {paths.config_file().name}'
                )

    def act_mouse(self) -> None:
        """Let go of the mouse, so that the terminal can select text with it, or take it again."""
        self.mouse = not self.mouse
        if self.terminal is not None:
            self.terminal.follow_mouse()
        if isinstance(self.screen, LabScreen):
            off = f"mouse off: it selects text in the terminal; {actions.key('mouse')} switches it on again"
            self.screen.status.say("mouse on" if self.mouse else off)

    def _redraw(self) -> None:
        if isinstance(self.screen, LabScreen):
            self.screen.redraw()

    def act_engine(self) -> None:
        """Start an engine when none answers."""
        screen = self.screen
        if isinstance(screen, LabScreen):
            if self.link.connected:
                screen.status.say("the engine runs already")
            else:
                screen.send("lab-tui engine run", ensure_engine())

    def act_quit(self) -> None:
        """Leave at once when nothing runs or nothing may be changed, else ask what becomes of it."""
        if self.latest is None or self.read_only or not self.link.connected or not runs(self.latest):
            self.exit(0)
        else:
            self.push_screen(QuitDialog(self.client))


def runs(snapshot: Snapshot) -> bool:
    """Whether anything is at work that a user might want to stop on leaving."""
    idle = (InstanceState.STOPPED, InstanceState.FAILED)
    return (
        any(view.state not in idle for view in snapshot.instances)
        or snapshot.load is not None
        or bool(snapshot.queue)
    )


def run(settings: Settings, *, read_only: bool = False) -> int:
    """Show the lab until the user leaves. The engine runs already. Returns the exit code.

    SIGTERM and a terminal that goes away end it like a detach: the terminal is restored and
    everything goes on in the engine. Raises LabError for a theme that does not exist.
    """
    # Shells and readline export the size they saw; Textual would believe that and no resize after it.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    return asyncio.run(_run(settings, read_only))


async def _run(settings: Settings, read_only: bool) -> int:
    # A full round of Python's collector of cycles holds the screen up: 30 ms for what is imported, which
    # stays and is left out, and up to 0.1 s with 10,000 cells loaded, so the rounds are ten times rarer.
    gc.freeze()
    gc.set_threshold(700, 10, 100)
    async with EngineClient() as client:
        app = LabApp(settings, client, read_only=read_only)
        leave_when_told(asyncio.get_running_loop(), lambda: app.exit(0))
        await app.run_async()
        return app.return_code or 0
