"""A log that follows its end until the reader scrolls up; drawn line by line, so long logs stay smooth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

KEEP = 100_000  # lines
DROP = 5_000  # lines dropped at once when there are more
BAD_WORDS = ("error", "failed", "fatal", "abort", "out of memory", "[emerg]", "[alert]", "traceback")
WARN_WORDS = ("warn",)
WHEEL, SIDEWAYS = 3, 8  # lines and columns of one step


class LogView(Widget, can_focus=True):
    """Lines of text, never read as markup.

    It scrolls by itself: Textual's scrolling widgets lay the whole screen out again, and send all
    of it, with every line that is appended.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--bad", "log--warn"}
    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "scroll_lines(-1)"),
        ("down,j", "scroll_lines(1)"),
        ("left", "scroll_columns(-1)"),
        ("right", "scroll_columns(1)"),
        ("pageup", "scroll_pages(-1)"),
        ("pagedown", "scroll_pages(1)"),
        ("home,g", "first"),
        ("end,G,f", "follow"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._all: list[str] = []
        self._lines: list[str] = self._all
        self._needle = ""
        self._top = 0  # the line at the upper edge; while following, it is computed
        self._left = 0
        self.following = True
        self.placeholder = ""  # shown while there is no line

    @property
    def lines(self) -> list[str]:
        """The lines that pass the filter."""
        return self._lines

    @property
    def total(self) -> int:
        """How many lines are held, filtered or not."""
        return len(self._all)

    @property
    def top(self) -> int:
        """The place of the first line in sight."""
        last = max(len(self._lines) - self.size.height, 0)
        return last if self.following else min(self._top, last)

    def tail(self, number: int) -> list[str]:
        """The last lines, filtered or not."""
        return self._all[-number:]

    def empty(self, placeholder: str = "") -> None:
        """Forget every line."""
        self._all = []
        self._lines = [] if self._needle else self._all
        self._top = self._left = 0
        self.following = True
        self.placeholder = placeholder
        self.refresh()

    def extend(self, lines: Iterable[str]) -> None:
        """Append lines; the end stays in sight only when it was followed."""
        fresh = [line.expandtabs(4) for line in lines]
        before, seen_to = len(self._lines), self.top + self.size.height
        self._all.extend(fresh)
        if self._needle:
            self._lines.extend(line for line in fresh if self._needle in line.lower())
        if len(self._all) > KEEP:
            self._drop()
        if len(self._lines) != before and (self.following or seen_to > before):
            self.refresh()

    def _drop(self) -> None:
        """Let the oldest lines go; what is in sight stays in sight."""
        gone = len(self._all) - KEEP + DROP
        filtered = len(self._lines)
        del self._all[:gone]
        if self._needle:
            self._lines = [line for line in self._all if self._needle in line.lower()]
            gone = filtered - len(self._lines)
        self._top = max(self._top - gone, 0)

    def filter(self, needle: str) -> None:
        """Show only lines that contain ``needle``, whatever its case."""
        self._needle = needle.lower()
        self._lines = [line for line in self._all if self._needle in line.lower()] if needle else self._all
        self.action_follow()

    # -- scrolling: up ends the follow, reaching the end takes it up again

    def action_scroll_lines(self, by: int) -> None:
        """Scroll up or down."""
        last = max(len(self._lines) - self.size.height, 0)
        self._top = min(max(self.top + by, 0), last)
        self.following = self._top >= last
        self.refresh()

    def action_scroll_pages(self, by: int) -> None:
        """Scroll by what is in sight."""
        self.action_scroll_lines(by * max(self.size.height - 1, 1))

    def action_scroll_columns(self, by: int) -> None:
        """Scroll sideways through long lines."""
        widest = max((len(line) for line in self._lines[self.top : self.top + self.size.height]), default=0)
        self._left = min(max(self._left + by * SIDEWAYS, 0), max(widest - SIDEWAYS, 0))
        self.refresh()

    def action_first(self) -> None:
        """Go to the first line."""
        self.action_scroll_lines(-len(self._lines))

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self.following = True
        self._left = 0
        self.refresh()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        event.stop()
        self.action_scroll_lines(-WHEEL)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        event.stop()
        self.action_scroll_lines(WHEEL)

    # -- drawing

    def render_line(self, y: int) -> Strip:
        """One line of the log."""
        place, width = self.top + y, self.size.width
        base = self.visual_style
        if not self._lines and y == 0:
            text = f" no line contains {self._needle!r}" if self._all else f" {self.placeholder}"
            style = base + Style(dim=True)
            return Strip([Segment(text, style.rich_style)]).adjust_cell_length(width, base.rich_style)
        if place >= len(self._lines):
            return Strip.blank(width, base.rich_style)
        line = self._lines[place]
        strip = Strip([Segment(line, self._line_style(line, base).rich_style)])
        return strip.crop_extend(self._left, self._left + width, base.rich_style)

    def _line_style(self, line: str, base: Style) -> Style:
        """Lines that speak of trouble stand out."""
        lower = line.lower()
        if any(word in lower for word in BAD_WORDS):
            return self.get_visual_style("log--bad")
        if any(word in lower for word in WARN_WORDS):
            return self.get_visual_style("log--warn")
        return base
