"""Every key of a screen, from the registry."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from lab_tui.ui.actions import MOVES, here
from lab_tui.ui.theme import ACCENT, CELL, INSTANCE, MUTED, STRONG, SWEEP


class HelpScreen(ModalScreen[None]):
    """A card of keys and signs; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark,enter", "dismiss", "Close")]

    def __init__(self, scope: str) -> None:
        super().__init__()
        self._scope = scope

    def compose(self) -> ComposeResult:
        """The card."""
        with VerticalScroll(classes="dialog help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "escape closes"
            yield Static(help_text(self._scope))


def help_text(scope: str) -> Content:
    """The registry's actions of one screen, then what the signs mean."""
    lines = [
        Content.assemble((f"{action.shown:>7}", f"{ACCENT} bold"), f"  {action.help}")
        for action in here(scope)
        if action.help
    ]
    lines += [Content.assemble((f"{move.shown:>7}", f"{ACCENT} bold"), f"  {move.help}") for move in MOVES]
    for title, looks in (("Instances", INSTANCE), ("Sweeps", SWEEP), ("Cells", CELL)):
        signs = [Content.assemble((f"{look.glyph} {look.word}", look.style), "  ") for look in looks.values()]
        lines += [Content(), Content.styled(title, STRONG), Content("").join(signs)]
    lines += [
        Content(),
        Content.styled(
            "N/A and - mean: not known. A reading with an age is old. ± is half the 95% interval.\n"
            "8×32 c=256: 8 instances of 32 slots each, 256 streams at once.",
            MUTED,
        ),
    ]
    return Content("\n").join(lines)
