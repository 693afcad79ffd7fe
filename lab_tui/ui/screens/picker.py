"""The model picker: the GGUF files of this machine, what they are and how many instances fit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path, PurePath
from typing import ClassVar, NamedTuple

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from lab_tui import paths
from lab_tui.client import EngineClient
from lab_tui.model import Felt, FleetSpec, LabError, ModelFile
from lab_tui.text import typed
from lab_tui.ui import format as fmt
from lab_tui.ui.screens.tidy import TidyScreen
from lab_tui.ui.theme import BAD, GOOD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.lines import LineList

FOLDERS_FROM = 100  # cells from which the folder is shown


class Column(NamedTuple):
    """What is said of a model, in a list that is at least ``from_width`` wide."""

    title: str
    width: int
    from_width: int
    text: Callable[[ModelFile], str]


COLUMNS = (
    Column("QUANT", 8, 44, lambda model: model.quantisation or fmt.UNKNOWN),
    Column("PARAMS", 7, 56, lambda model: fmt.parameters(model.parameters)),
    Column("SIZE", 6, 0, lambda model: fmt.size(model.size_bytes)),
    Column("CONTEXT", 10, 66, lambda model: fmt.count(model.context_length)),
    Column("FEELS", 12, 76, lambda model: model.felt.feels if model.felt else fmt.UNKNOWN),
    Column("FITS", 5, 0, lambda model: "no" if model.fits == 0 else fmt.count(model.fits)),
)


class ModelPicker(ModalScreen[str | None], TidyScreen[str | None]):
    """Dismissed with the path of a model, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Cancel"),
        ("down", "move(1)"),
        ("up", "move(-1)"),
        ("pagedown", "move(10)"),
        ("pageup", "move(-10)"),
        ("enter", "take"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (14, "-high")]

    def __init__(self, client: EngineClient, spec: FleetSpec) -> None:
        super().__init__()
        self._client, self._spec = client, spec
        self._found: list[ModelFile] = []
        self._looking = True
        self._problem = ""
        self.list = LineList(id="models")

    def compose(self) -> ComposeResult:
        """Filter, list, what is selected, and two buttons."""
        spec = self._spec
        with Vertical(classes="dialog picker") as box:
            box.border_title = "Choose a model"
            box.border_subtitle = f"fits: instances of {spec.parallel} slots × {spec.ctx_per_slot:,} tokens"
            yield Input(placeholder="filter, or a path that begins with / or ~", id="needle", compact=True)
            yield self.list
            yield Static("", id="chosen")
            with Horizontal(classes="buttons"):
                yield Button("Take (enter)", id="take", variant="primary", compact=True)
                yield Button("Cancel (esc)", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Typing filters at once; the engine looks meanwhile."""
        self.query_one("#needle", Input).focus()
        self._look()

    @work(group="models", exclusive=True)
    async def _look(self) -> None:
        try:
            async with aclosing(self._client.models(self._spec)) as models:
                async for model in models:
                    self._found.append(model)
                    self._draw()
        except LabError as error:
            self._problem = str(error)
        self._looking = False
        self._draw()

    # -- drawing

    def _needle(self) -> str:
        return self.query_one("#needle", Input).value.strip()

    def _typed_path(self) -> str:
        """The path that stands in the filter line, "" when it is a filter."""
        text = self._needle()
        return str(paths.expanded(text)) if text.startswith(("/", "~", "./", "../")) else ""

    def _draw(self) -> None:
        width = self.list.size.width
        needle = self._needle().lower()
        shown = [model for model in self._found if needle in f"{model.path} {model.quantisation}".lower()]
        if shown:
            keys = [None, *(model.path for model in shown)]
            self.list.show([_head(width), *(_row(model, width) for model in shown)], keys)
        else:
            self.list.show(self._nothing())
        self._draw_chosen()

    def _nothing(self) -> list[Content]:
        if self._problem:
            return [Content.styled(f" ✖ {self._problem}", BAD)]
        if self._typed_path():
            return [Content(" enter takes this path")]
        if self._looking:
            return [Content.styled(" … looking for GGUF files", MUTED)]
        if self._found:
            return [Content.styled(f" none of {fmt.plural(len(self._found), 'model')} matches", WARN)]
        return [
            Content.styled(" No GGUF file was found on this machine.", STRONG),
            Content(typed(" `lab-tui models fetch` brings a small one (98 MB);")),
            Content(" or put one into ~/models, or type its path above."),
        ]

    def _draw_chosen(self) -> None:
        model = next((model for model in self._found if model.path == self.list.selected), None)
        path = self._typed_path()
        text = Content(path) if path else Content("")
        if model is not None and not path:
            text = Content(model.path)
            if model.felt is not None:
                text = text.append(Content.styled(f"\n{_felt(model.felt)}", MUTED))
            if model.misfit:
                text = text.append(Content.styled(f"\n! {model.misfit}", WARN))
        self.query_one("#chosen", Static).update(text)

    def on_input_changed(self) -> None:
        """Filter while it is typed."""
        self._draw()

    def on_line_list_resized(self) -> None:
        """There is other room."""
        self._draw()

    def on_line_list_moved(self) -> None:
        """Another one is selected."""
        self._draw_chosen()

    # -- acting

    def action_move(self, by: int) -> None:
        """Another line, while the focus stays where one types."""
        self.list.action_cursor(by)

    def on_line_list_opened(self) -> None:
        """Two clicks take."""
        self.action_take()

    def on_input_submitted(self) -> None:
        """Enter takes."""
        self.action_take()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take or leave."""
        if event.button.id == "take":
            self.action_take()
        else:
            self.dismiss(None)

    def action_take(self) -> None:
        """Close with the path that is typed, else with the model that is selected."""
        path = self._typed_path() or self.list.selected
        if path:
            self.dismiss(path)


def _felt(felt: Felt) -> str:
    return (
        f"feels {felt.feels}: {fmt.rate(felt.stream_tps)} tok/s a stream, "
        f"{fmt.plural(felt.concurrency, 'stream')} on {felt.instances}×{felt.parallel} (sweep {felt.sweep})"
    )


def _columns(width: int) -> tuple[Column, ...]:
    return tuple(column for column in COLUMNS if width >= column.from_width)


def _name_room(width: int) -> int:
    rest = width - sum(column.width + 1 for column in _columns(width)) - 2
    return max(min(rest, 44) if width >= FOLDERS_FROM else rest, 8)


def _head(width: int) -> Content:
    cells = "".join(f" {column.title:>{column.width}}" for column in _columns(width))
    folder = "  FOLDER" if width >= FOLDERS_FROM else ""
    return Content.styled(f" {'MODEL':<{_name_room(width)}}{cells}{folder}", MUTED)


def _row(model: ModelFile, width: int) -> Content:
    room = _name_room(width)
    line = Content(f" {fmt.padded(fmt.middle(fmt.model_name(model.path), room), room)}")
    for column in _columns(width):
        style = "" if column.title != "FITS" else BAD if model.fits == 0 else GOOD
        line = line.append(Content.styled(f" {column.text(model):>{column.width}}", style))
    if width >= FOLDERS_FROM:
        folder = fmt.middle(_folder(model.path), width - line.cell_length - 3)
        line = line.append(Content.styled(f"  {folder}", MUTED))
    return line


def _folder(path: str) -> str:
    folder, home = str(PurePath(path).parent), str(Path.home())
    return f"~{folder[len(home) :]}" if folder.startswith(f"{home}/") else folder
