"""What the forms share: labelled fields that say what is wrong in them, a foot that is always seen."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input, Label, Select, Static

from lab_tui import paths
from lab_tui.client import EngineClient
from lab_tui.model import FleetSpec, LabError
from lab_tui.ui import axes
from lab_tui.ui.axes import Wrong
from lab_tui.ui.screens.picker import ModelPicker
from lab_tui.ui.screens.tidy import TidyScreen

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

T = TypeVar("T")


class PathEntry(Input):
    """A path to type in. Of one that is too long for it the end is seen, which tells which file it is."""

    def on_resize(self) -> None:
        """Another part of it fits."""
        self.call_after_refresh(self._show_end)

    def on_blur(self) -> None:
        """Whoever went back to its beginning has left."""
        self._show_end()

    def watch_value(self) -> None:
        """Another path was filled in."""
        if not self.has_focus:
            self.call_after_refresh(self._show_end)

    def _show_end(self) -> None:
        self.scroll_to(x=self.max_scroll_x, animate=False, force=True)


class Choice(Select[str]):
    """One of a few words. Up and down go to the next field, as everywhere in a form."""

    BINDINGS: ClassVar[list[BindingType]] = [("enter,space", "show_overlay", "Choose")]

    def __init__(self, words: tuple[str, ...], id: str) -> None:
        super().__init__(((word, word) for word in words), allow_blank=False, id=id, compact=True)


class Tick(Checkbox):
    """Yes or no. Textual's has its X either way, and tells them apart by colour alone."""

    def __init__(self, words: str, on: bool, id: str) -> None:
        super().__init__(words, on, id=id, compact=True)
        self._mark()

    def watch_value(self) -> None:
        """It was changed."""
        self._mark()
        super().watch_value()

    def _mark(self) -> None:
        self.BUTTON_INNER = "X" if self.value else " "


class Field(Vertical):
    """A label, what is to be filled in, and below it what is wrong with that."""

    def __init__(self, label: str, entry: Widget, hint: str | Widget = "") -> None:
        super().__init__(classes="field")
        self._label, self.entry = label, entry
        self._hint = Label(hint, markup=False, classes="hint") if isinstance(hint, str) else hint
        self._wrong = Static("", markup=False, classes="wrong")

    def compose(self) -> ComposeResult:
        """Label, entry, hint; below them the complaint."""
        with Horizontal(classes="line"):
            yield Label(self._label, markup=False, classes="name")
            yield self.entry
            yield self._hint
        yield self._wrong

    def complain(self, text: str) -> None:
        """Say what is wrong here; "" takes it back."""
        self._wrong.update(text)
        self._wrong.display = bool(text)


class Form(ModalScreen[T | None], TidyScreen[T | None], Generic[T]):
    """A form that is dismissed with what came of it, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Cancel"),
        ("ctrl+s", "submit", "Start"),
        ("down", "app.focus_next"),
        ("up", "app.focus_previous"),
    ]
    # Below so many columns the hints go, then the button beside a field; below so many rows the command.
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (50, "-narrow"), (76, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-high")]
    TITLE = ""
    START = "Start"

    def __init__(self) -> None:
        super().__init__()
        self._complaining: Field | None = None

    @property
    def lab(self) -> LabApp:
        """The app, by its own type."""
        return cast("LabApp", self.app)

    def fields(self) -> Iterator[Widget]:
        """The fields, from the top."""
        raise NotImplementedError

    def figures(self) -> Iterator[Widget]:
        """What is said below the fields."""
        yield from ()

    def submit(self) -> Coroutine[Any, Any, T]:
        """Read the fields and hand over what sends them. Raises LabError for what is wrong in them."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The box."""
        with Vertical(classes="dialog form") as box:
            box.border_title = self.TITLE
            with VerticalScroll(can_focus=False, classes="fields"):
                yield from self.fields()
            with Vertical(classes="foot"):
                yield from self.figures()
                yield Static("", markup=False, id="problem")
                with Horizontal(classes="buttons"):
                    yield Button(f"{self.START} (ctrl+s)", id="start", variant="primary", compact=True)
                    yield Button("Cancel (esc)", id="cancel", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Start or leave."""
        if event.button.id == "start":
            self.action_submit()
        elif event.button.id == "cancel":
            self.dismiss(None)

    def on_input_submitted(self) -> None:
        """Enter in a field starts."""
        self.action_submit()

    def action_submit(self) -> None:
        """Send what is filled in; the form stays open when that is refused."""
        if self.query_one("#start", Button).disabled:
            return
        try:
            work = self.submit()
        except LabError as error:
            self.refuse(error, go_there=True)
            return
        self.refuse(None)
        self._say("… starting")
        self.query_one("#start", Button).disabled = True
        self.run_worker(self._send(work), group="calls", exclusive=True)

    async def _send(self, work: Coroutine[Any, Any, T]) -> None:
        try:
            outcome = await work
        except LabError as error:
            self.query_one("#start", Button).disabled = False
            self.refuse(error, go_there=True)
        else:
            self.dismiss(outcome)

    def refuse(self, error: LabError | None, *, go_there: bool = False) -> None:
        """Say what is wrong, once: at the field that it is about, else at the foot. None: nothing is."""
        name = error.field if isinstance(error, Wrong) else axes.field_of(error.message) if error else ""
        at = next((field for field in self.query(Field) if name and field.entry.id == name), None)
        if self._complaining is not None and self._complaining is not at:
            self._complaining.complain("")
        self._complaining = at
        self._say(axes.in_labels(str(error)) if error is not None and at is None else "")
        if at is not None:
            at.complain(f"✖ {axes.in_labels(str(error))}")
            if go_there:
                at.entry.focus()
            if go_there or self.focused is at.entry:
                self.call_after_refresh(at.scroll_visible, animate=False)

    def _say(self, text: str) -> None:
        line = self.query_one("#problem", Static)
        line.update(text)
        line.display = bool(text)

    def text(self, id: str) -> str:
        """What stands in a field."""
        return self.query_one(f"#{id}", Input).value.strip()

    def path(self, id: str) -> str:
        """A path from a field, as this process sees it: the engine works in another folder."""
        text = self.text(id)
        return str(paths.expanded(text)) if text else ""


class ModelForm(Form[T]):
    """A form with a model in it, which can be picked from those that there are."""

    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+o", "choose", "Choose a model")]

    def __init__(self, client: EngineClient) -> None:
        super().__init__()
        self.client = client

    def fleet_asked(self) -> FleetSpec:
        """The fleet as far as it is filled in: how much of a model fits depends on it."""
        raise NotImplementedError

    def model_field(self, path: str) -> Field:
        """The path of a model, and the way to those that there are."""
        button = Button("choose (ctrl+o)", id="choose", compact=True)
        place = PathEntry(path, placeholder="path of a GGUF file", id="model", compact=True)
        return Field("model", place, button)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Choose; Textual calls the form's own handler as well."""
        if event.button.id == "choose":
            self.action_choose()

    def action_choose(self) -> None:
        """Show the models of this machine."""

        def chosen(path: str | None) -> None:
            if path:
                self.query_one("#model", Input).value = path

        self.app.push_screen(ModelPicker(self.client, self.fleet_asked()), chosen)


def entry(value: object, id: str, placeholder: str = "") -> Input:
    """One line to type in."""
    return Input(str(value), placeholder=placeholder, id=id, compact=True)
