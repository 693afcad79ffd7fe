"""The two lines at the bottom: what was done last, and which keys work here."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from lab_tui.text import typed
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


SAID_S = 15.0  # good news and hints are over by then; what went wrong stays until the next action


class Standing(enum.IntEnum):
    """What may hold for a while, what matters most first."""

    ENGINE = 0  # none answers
    TROUBLE = 1  # what this screen shows cannot be had
    NOTICE = 2  # what the engine wants known


class StatusLine(Static):
    """What was done last and what became of it, with the command that does the same in a shell.

    That passes; below it, and seen when it has passed, stands what holds for as long as it does.
    """

    def __init__(self) -> None:
        super().__init__("", id="status")
        self._passing: Content | None = None
        self._under_way = False  # a command was sent, and nothing came of it yet
        self._standing: dict[Standing, Content] = {}
        self._shown = Content()
        self._timer: Timer | None = None

    @property
    def plain(self) -> str:
        """What is shown, without colour."""
        return self._shown.plain

    @property
    def cut(self) -> bool:
        """Whether it is longer than the line."""
        return self._shown.cell_length > self.size.width

    def running(self, command: str) -> None:
        """A command was sent."""
        self._say(("… ", ACCENT), (f"$ {command}", ""))
        self._under_way = True

    def done(self, command: str, took_s: float) -> None:
        """It went well."""
        took = f"  {fmt.duration(took_s)}" if took_s >= 1 else ""
        self._say(("✔ ", GOOD), (f"$ {command}", ""), (took, MUTED), passes=True)

    def failed(self, command: str, why: str) -> None:
        """It was refused or went wrong."""
        self._say(("✖ ", BAD), (f"$ {command}  " if command else "", MUTED), (why, BAD))

    def say(self, text: str, good: bool = True) -> None:
        """A plain word to the user; "" takes back the one before."""
        if not text:
            self._forget()
        else:
            self._say(("  " if good else "✖ ", BAD), (text, MUTED if good else BAD), passes=True)

    def hold(self, what: Standing, text: str) -> None:
        """Something that is so until another text, or "", says otherwise."""
        style = WARN if what is Standing.NOTICE else BAD
        sign = "! " if what is Standing.NOTICE else "✖ "
        if text:
            self._standing[what] = Content.assemble(" ", (sign, style), (typed(text), style))
        else:
            self._standing.pop(what, None)
        self._show()

    def next_action(self) -> None:
        """What was said of the action before is over, unless that is under way."""
        if not self._under_way:
            self._forget()

    def _say(self, *parts: tuple[str, str], passes: bool = False) -> None:
        self._forget()
        self._passing = Content.assemble(" ", *((typed(text), style) for text, style in parts))
        if passes:
            self._timer = self.set_timer(SAID_S, self._forget)
        self._show()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer, self._passing, self._under_way = None, None, False
        self._show()

    def _show(self) -> None:
        held = (self._standing[what] for what in sorted(self._standing))
        content = self._passing or next(held, Content())
        if not content.is_same(self._shown):
            self._shown = content
            self.update(content, layout=False)
