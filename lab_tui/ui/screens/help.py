"""Every key of a screen, from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from lab_tui.ui import format as fmt
from lab_tui.ui.actions import GROUPS, MOVES, Action, here
from lab_tui.ui.theme import ACCENT, CELL, INSTANCE, MUTED, STRONG, SWEEP


class Card(VerticalScroll):
    """Scrolls with the keys of lists and logs too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("k", "scroll_up"),
        ("j", "scroll_down"),
        ("space", "page_down"),
        ("g", "scroll_home"),
        ("G", "scroll_end"),
    ]


class HelpScreen(ModalScreen[None]):
    """A card of keys and signs; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,enter", "dismiss", "Close"),
        Binding("question_mark", "dismiss", "Close", id="help"),  # wherever these two are mapped to
        Binding("q", "dismiss", "Close", id="quit"),
    ]

    def __init__(self, scope: str) -> None:
        super().__init__()
        self._scope = scope

    def compose(self) -> ComposeResult:
        """The card. It has the focus: arrows and page keys scroll it."""
        with Card(classes="dialog help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "↑ ↓ scroll, escape closes"
            yield Static(help_text(self._scope))


def help_text(scope: str) -> Content:
    """The registry's actions of one screen, by what they belong to; then what the signs mean."""
    lines = [line for title, entries in _sections(scope) for line in _section(title, entries)]
    for title, looks in (("Instances", INSTANCE), ("Sweeps", SWEEP), ("Cells", CELL)):
        signs = [Content.assemble((f"{look.glyph} {look.word}", look.style), "  ") for look in looks.values()]
        lines += [Content.styled(f"Signs: {title.lower()}", STRONG), Content("").join(signs), Content()]
    lines.append(
        Content.styled(
            f"N/A and - mean: not known. A reading with an age is old. {fmt.signed('±')} is half the 95%"
            " interval.\n8×32 c=256: 8 instances of 32 slots each, 256 streams at once.",
            MUTED,
        )
    )
    return Content("\n").join(lines)


def _sections(scope: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles, each with its keys and what they do."""

    def title(action: Action) -> str:
        return GROUPS.get(action.scopes) or ", ".join(action.scopes).capitalize()

    told = [action for action in here(scope) if action.help]
    order = list(dict.fromkeys(title(action) for action in told))
    told.sort(key=lambda action: order.index(title(action)))
    for name, actions in groupby(told, title):
        yield name, [(action.shown, action.help) for action in actions]
    yield "In lists, logs and everywhere", [(move.shown, move.help) for move in MOVES]


def _section(title: str, entries: list[tuple[str, str]]) -> list[Content]:
    rows = [Content.assemble((f"{keys:>10}", f"{ACCENT} bold"), f"  {help}") for keys, help in entries]
    return [Content.styled(title, STRONG), *rows, Content()]
