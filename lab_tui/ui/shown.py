"""The last gate before the terminal: a name, a log line or an error of others cannot drive it."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from lab_tui.text import one_cell


class Shown(LineFilter):
    """Puts a sign in the place of each character that does not print, ``␛`` for ESC."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments of a line; the same ones when all of it prints, as nearly always."""
        if all(text.isprintable() for text, _, _ in segments):
            return segments
        return [Segment(one_cell(text), style, control) for text, style, control in segments]


SHOWN = Shown()
