"""Questions before something is stopped. The harmless answer has the focus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import msgspec
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from lab_tui.client import EngineClient
from lab_tui.model import FleetSpec, InstanceState, InstanceView, LabError, Snapshot
from lab_tui.text import typed
from lab_tui.ui import format as fmt
from lab_tui.ui.screens.tidy import TidyScreen
from lab_tui.ui.widgets.pane import set_title

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

T = TypeVar("T")
Words = Callable[[Snapshot], str]  # what a question says of the newest snapshot
ASLEEP = (InstanceState.STOPPED, InstanceState.FAILED)


class Question(ModalScreen[T], TidyScreen[T]):
    """Words above, buttons below. However small the screen, the buttons are seen; the words scroll."""

    # Few columns: the buttons stand below each other; few rows: no blank lines.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (16, "-high")]
    BORDER = 2
    BINDINGS: ClassVar[list[BindingType]] = [("up,k", "scroll_words(-1)"), ("down,j", "scroll_words(1)")]

    def keep_telling(self, words: Words) -> None:
        """Have the words say what is so now, for as long as the question is open."""
        lab = cast("LabApp", self.app)
        line = self.query_one(".text", Static)

        def tell() -> None:
            if lab.latest is not None:
                line.update(words(lab.latest))

        self.watch(lab, "latest", tell)

    def action_scroll_words(self, by: int) -> None:
        """Words that do not fit; the buttons keep the focus."""
        self.query_one(".words").scroll_relative(y=by, animate=False)

    def on_resize(self) -> None:
        """What the buttons leave is for the words."""
        rows = len(self.query(Button)) if self.size.width < 64 else 1
        self.query_one(".words").styles.max_height = max(self.size.height - self.BORDER - rows, 1)


class ConfirmDialog(Question[bool]):
    """Asks whether to go on; dismissed with True only on an explicit yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,n,q", "answer(False)", "Cancel"),
        ("y", "answer(True)", "Yes"),
        ("left,right,tab,shift+tab", "app.focus_next"),
    ]

    def __init__(self, title: str, text: str | Words, yes: str, command: str = "") -> None:
        super().__init__()
        self._title, self._text, self._yes, self._command = title, text, yes, command

    def compose(self) -> ComposeResult:
        """What will happen, the command that does it, and two buttons."""
        with Vertical(classes="dialog") as box:
            set_title(box, self._title)
            with VerticalScroll(classes="words", can_focus=False):
                yield Static(self._text if isinstance(self._text, str) else "", markup=False, classes="text")
                if self._command:
                    yield Static(typed(f"$ {self._command}"), markup=False, classes="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel (n)", id="cancel", compact=True)
                yield Button(f"{self._yes} (y)", id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        """An enter too many must stop nothing."""
        self.query_one("#cancel", Button).focus()
        if not isinstance(self._text, str):
            self.keep_telling(self._text)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer by mouse or enter."""
        self.action_answer(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)


class QuitDialog(Question[None]):
    """Leaves the screen: detached, which is the default, or with everything stopped first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,n", "stay", "Stay"),
        ("q,d", "detach", "Detach"),
        ("left,shift+tab", "app.focus_previous"),
        ("right,tab", "app.focus_next"),
    ]

    def __init__(self, client: EngineClient) -> None:
        super().__init__()
        self._client = client

    def compose(self) -> ComposeResult:
        """What runs, and the three ways on."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Leave"
            with VerticalScroll(classes="words", can_focus=False):
                yield Static("", markup=False, classes="text")
                yield Static("", markup=False, id="outcome")
            with Horizontal(classes="buttons"):
                yield Button("Detach, all goes on (q)", id="detach", variant="primary", compact=True)
                yield Button("Stop everything", id="stop", variant="error", compact=True)
                yield Button("Stay", id="stay", compact=True)

    def on_mount(self) -> None:
        """Detaching is what a user means who just wants to leave."""
        self.query_one("#detach", Button).focus()
        self.keep_telling(_at_work)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Go the way that was chosen."""
        if event.button.id == "detach":
            self.action_detach()
        elif event.button.id == "stay":
            self.action_stay()
        else:
            self._stop()

    def action_detach(self) -> None:
        """Leave; the engine goes on."""
        self.app.exit(0)

    def action_stay(self) -> None:
        """Close the question."""
        self.dismiss()

    @work(group="calls", exclusive=True)
    async def _stop(self) -> None:
        outcome = self.query_one("#outcome", Static)
        for button in self.query(Button):
            button.disabled = button.id != "detach"
        outcome.display = True
        outcome.update(typed("… $ lab-tui engine stop"))
        try:
            await self._client.stop_engine()
        except LabError as error:
            outcome.update(f"✖ {error}")
            for button in self.query(Button):
                button.disabled = False
        else:
            self.app.exit(0)


def streams_on(views: tuple[InstanceView, ...]) -> str:
    """How many streams a stop would end, or that this is not known."""
    views = tuple(view for view in views if view.state not in ASLEEP)
    if not views:
        return "Nothing is running there."
    unknown = sum(view.busy is None for view in views)
    busy = sum(view.busy or 0 for view in views)
    if unknown == len(views):
        return "How many streams are on it is not known."
    waiting = sum(view.queue or 0 for view in views)
    more = f", and {waiting:,} that {'waits' if waiting == 1 else 'wait'}" if waiting else ""
    text = f"{fmt.plural(busy, 'stream')} on it will be cut off{more}." if busy else "No stream is on it."
    return f"{text} (Of {fmt.plural(unknown, 'instance')} this is not known.)" if unknown else text


def cut_by_a_sweep(snapshot: Snapshot) -> int:
    """The live requests that are not ours and that a sweep queued now would cut, by taking the fleet over.

    One that has to wait for its turn cuts nothing yet.
    """
    return 0 if snapshot.queue or snapshot.queue_paused else _not_ours(snapshot)


def cut_by_going_on(snapshot: Snapshot) -> int:
    """Those that a queue cuts which goes on: its next sweep takes the fleet over. One that runs has it."""
    return _not_ours(snapshot) if snapshot.queue and snapshot.sweep is None else 0


def _not_ours(snapshot: Snapshot) -> int:
    return snapshot.foreign if snapshot.load is not None else (snapshot.busy or 0) + (snapshot.waiting or 0)


def cut_by_a_fleet(snapshot: Snapshot, spec: FleetSpec) -> int:
    """The live requests that ``spec`` would cut: those in instances that do not stay as they are."""
    now = snapshot.fleet
    same = now is not None and msgspec.structs.replace(spec, instances=now.instances) == now
    ended = snapshot.instances[spec.instances if same else 0 :]
    return sum((view.busy or 0) + (view.queue or 0) for view in ended)


def _at_work(snapshot: Snapshot) -> str:
    """What goes on in the engine, in words."""
    awake = tuple(view for view in snapshot.instances if view.state not in ASLEEP)
    parts = []
    if awake:
        busy = sum(view.busy or 0 for view in awake)
        streams = fmt.plural(busy, "stream") if busy else "no stream"
        parts.append(f"{fmt.plural(len(awake), 'instance')} with {streams} on them")
    if snapshot.sweep is not None:
        parts.append(f"sweep {snapshot.sweep.name}")
    waiting = len(snapshot.queue) - (snapshot.sweep is not None)
    if waiting > 0:
        parts.append(f"{fmt.plural(waiting, 'sweep')} waiting")
    back = typed("Detached, all of it goes on; `lab-tui` comes back to it.")
    return f"At work: {', '.join(parts) or 'a load'}.\n{back}"
