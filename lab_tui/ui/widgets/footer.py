"""The two lines at the bottom: what was done last, and which keys work here."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.widgets import Static

from lab_tui.ui import format as fmt
from lab_tui.ui.actions import Action, click
from lab_tui.ui.theme import ACCENT, BAD, GOOD, MUTED, WARN

LAST = ("back", "quit", "help")  # always shown, at the end


class FooterKeys(Static):
    """Keys with their labels, each of which can be clicked."""

    def __init__(self) -> None:
        super().__init__("", id="footer")
        self._shown: tuple[tuple[str, str], ...] = ()

    def show(self, actions: Iterable[tuple[Action, str]], width: int) -> None:
        """Show as many of the actions, each with its label, as fit."""
        chosen = fit(list(actions), width)
        shown = tuple((action.shown, label) for action, label in chosen)
        if shown == self._shown:
            return
        self._shown = shown
        parts: list[Content] = []
        for action, label in chosen:
            text = Content.assemble((f" {action.shown}", f"{ACCENT} bold"), f" {label} ")
            parts.append(text.stylize(click(action.name)))
        self.update(Content("").join(parts), layout=False)


def fit(actions: list[tuple[Action, str]], width: int) -> list[tuple[Action, str]]:
    """The first actions that fit, and always the last ones."""
    needs = {action.name: len(action.shown) + len(label) + 3 for action, label in actions}
    left = width - sum(needs[name] for name in LAST if name in needs)
    kept: list[tuple[Action, str]] = []
    for action, label in actions:
        if action.name in LAST:
            kept.append((action, label))
        elif left >= needs[action.name]:
            kept.append((action, label))
            left -= needs[action.name]
    return kept


class StatusLine(Static):
    """What was done last and what became of it, with the command that does the same in a shell."""

    def __init__(self) -> None:
        super().__init__("", id="status")
        self.plain = ""

    def running(self, command: str) -> None:
        """A command was sent."""
        self._set(("… ", ACCENT), (f"$ {command}", ""))

    def done(self, command: str, took_s: float) -> None:
        """It went well."""
        took = f"  {fmt.duration(took_s)}" if took_s >= 1 else ""
        self._set(("✔ ", GOOD), (f"$ {command}", ""), (took, MUTED))

    def failed(self, command: str, why: str) -> None:
        """It was refused or went wrong."""
        self._set(("✖ ", BAD), (f"$ {command}  " if command else "", MUTED), (why, BAD))

    def warn(self, text: str) -> None:
        """Something a user should know."""
        self._set(("! ", WARN), (text, WARN))

    def say(self, text: str, good: bool = True) -> None:
        """A plain word to the user."""
        self._set(("  " if good else "✖ ", BAD), (text, MUTED if good else BAD))

    def _set(self, *parts: tuple[str, str]) -> None:
        content = Content.assemble(" ", *parts)
        self.plain = content.plain
        self.update(content, layout=False)
