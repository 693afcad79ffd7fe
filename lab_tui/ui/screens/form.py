"""What the forms share: labelled fields, one line for what is wrong, a start and a cancel button."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Static

from lab_tui.model import LabError

T = TypeVar("T")


class Field(Horizontal):
    """A label and what is to be filled in."""

    def __init__(self, label: str, entry: Widget, hint: str = "") -> None:
        super().__init__(classes="field")
        self._label, self._entry, self._hint = label, entry, hint

    def compose(self) -> ComposeResult:
        """Label, entry, hint."""
        yield Label(self._label, markup=False, classes="name")
        yield self._entry
        if self._hint:
            yield Label(self._hint, markup=False, classes="hint")


class Form(ModalScreen[T | None], Generic[T]):
    """A form that is dismissed with what came of it, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Cancel"),
        ("ctrl+s", "submit", "Start"),
        ("down", "app.focus_next"),
        ("up", "app.focus_previous"),
    ]
    # Below so many columns the hints go, so that the fields can be read.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-wide")]
    TITLE = ""
    START = "Start"

    def fields(self) -> Iterator[Widget]:
        """The fields, from the top."""
        raise NotImplementedError

    def submit(self) -> Coroutine[Any, Any, T]:
        """Read the fields and hand over what sends them. Raises LabError for what is wrong in them."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The box."""
        with VerticalScroll(classes="dialog form", can_focus=False) as box:
            box.border_title = self.TITLE
            yield from self.fields()
            yield Static("", markup=False, id="problem")
            with Horizontal(classes="buttons"):
                yield Button(f"{self.START} (ctrl+s)", id="start", variant="primary", compact=True)
                yield Button("Cancel (esc)", id="cancel", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Start or leave."""
        if event.button.id == "start":
            self.action_submit()
        else:
            self.dismiss(None)

    def on_input_submitted(self) -> None:
        """Enter in a field starts."""
        self.action_submit()

    def action_submit(self) -> None:
        """Send what is filled in; the form stays open when that is refused."""
        try:
            work = self.submit()
        except LabError as error:
            self.problem(str(error))
            return
        self.problem("…")
        self.query_one("#start", Button).disabled = True
        self.run_worker(self._send(work), group="calls", exclusive=True)

    async def _send(self, work: Coroutine[Any, Any, T]) -> None:
        try:
            outcome = await work
        except LabError as error:
            self.problem(str(error))
            self.query_one("#start", Button).disabled = False
        else:
            self.dismiss(outcome)

    def problem(self, text: str) -> None:
        """Say what is wrong, in one place."""
        self.query_one("#problem", Static).update(text)

    def text(self, id: str) -> str:
        """What stands in a field."""
        return self.query_one(f"#{id}", Input).value.strip()

    def path(self, id: str) -> str:
        """A path from a field, as this process sees it: the engine works in another folder."""
        text = self.text(id)
        return str(Path(text).expanduser().absolute()) if text else ""

    def number(self, id: str, name: str, low: int, high: int) -> int:
        """A whole number from a field. Raises LabError."""
        text = self.text(id)
        if not text.isdecimal() or not low <= int(text) <= high:
            raise LabError(f"{name}: {text or 'nothing'} is not a whole number from {low} to {high}")
        return int(text)

    def bound(self, id: str, name: str) -> float | None:
        """A number above 0 from a field that may be empty. Raises LabError."""
        text = self.text(id)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise LabError(f"{name}: {text} is not a number above 0", "leave it empty for no bound")
        return value


def entry(value: object, id: str, placeholder: str = "") -> Input:
    """One line to type in."""
    return Input(str(value), placeholder=placeholder, id=id, compact=True)
