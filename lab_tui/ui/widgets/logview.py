"""A log that follows its end until the reader scrolls up; drawn line by line, so long logs stay smooth."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from lab_tui.ui.actions import no_match
from lab_tui.ui.loglines import ERROR, WARN, LogLines

WHEEL, SIDEWAYS = 3, 8  # lines and columns of one step


class Edge(NamedTuple):
    """What stands at the upper edge: a line, and how many of its rows are above (with wrap)."""

    place: int
    row: int = 0


class LogView(Widget, can_focus=True):
    """Lines of text, never read as markup.

    It scrolls by itself: Textual's scrolling widgets lay the whole screen out again, and send all
    of it, with every line that is appended. Only lines in sight are ever measured or styled.
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
        self.held = LogLines()
        self._edge = Edge(0)  # while following, it is computed
        self._left = 0
        self.searching = ""  # what is searched for
        self._pattern: re.Pattern[str] | None = None
        self._hit: int | None = None  # the line that was found
        self.following = True
        self.wrap = False
        self.placeholder = ""  # shown while there is no line
        self._drawn: list[Edge] = []  # what stands in each row
        self._drawn_state: object = None  # of which that is true

    @property
    def lines(self) -> list[str]:
        """The lines that pass filter, level and time."""
        return self.held.shown

    @property
    def total(self) -> int:
        """How many lines are held, filtered or not."""
        return self.held.total

    @property
    def top(self) -> int:
        """The place of the first line in sight."""
        return self.edge.place

    @property
    def edge(self) -> Edge:
        """What stands at the upper edge."""
        last = self._last_edge()
        return last if self.following else min(self._edge, last)

    @property
    def hit(self) -> str | None:
        """The line that was found last."""
        return None if self._hit is None else self.held.at(self._hit)[0]

    def tail(self, number: int) -> list[str]:
        """The last lines, filtered or not."""
        return self.held.tail(number)

    def empty(self, placeholder: str = "") -> None:
        """Forget every line."""
        self.held.clear()
        self._edge, self._left, self._hit = Edge(0), 0, None
        self.following = True
        self.placeholder = placeholder
        self.refresh()

    def extend(self, lines: Iterable[str], times: Sequence[float] | None = None) -> None:
        """Append lines, of now or of ``times``; the end stays in sight only when it was followed."""
        fresh = [line.expandtabs(4) for line in lines]
        before, seen_to = len(self.held), self.top + self.size.height
        gone = self.held.extend(fresh, [time.time()] * len(fresh) if times is None else times)
        if gone:  # what is in sight stays in sight
            self._edge = self._edge._replace(place=max(self._edge.place - gone, 0))
            self._hit = None if self._hit is None or self._hit < gone else self._hit - gone
        if len(self.held) != before and (self.following or seen_to > before):
            self.refresh()

    def narrow(self, needle: str | None = None, level: int | None = None, since: float | None = None) -> None:
        """Show only lines that contain ``needle``, of ``level`` at least, and not older than ``since``."""
        self.held.narrow(needle, level, since)
        self._hit = None
        self.action_follow()

    def filter(self, needle: str) -> None:
        """Show only lines that contain ``needle``, whatever its case."""
        self.narrow(needle=needle)

    # -- search

    def search(self, needle: str) -> bool:
        """Mark ``needle`` wherever it stands, and go to its last place in sight or above.

        Whether there is one. "" ends the search.
        """
        self.searching, self._hit = needle, None
        self._pattern = re.compile(re.escape(needle), re.IGNORECASE) if needle else None
        self.refresh()
        return bool(needle) and self._go(self.top + self.size.height, -1)

    def search_on(self, by: int) -> bool:
        """Go to the next (1) or previous (-1) line with what is searched for. Whether there is one."""
        return self._go((self.top if self._hit is None else self._hit) + by, by)

    def _go(self, start: int, by: int) -> bool:
        start = min(max(start, -1), len(self.held) - 1) if by < 0 else max(start, 0)
        place = self.held.find(self.searching, start, by) if self.searching else None
        if place is None:
            return False
        edge, self._hit = self.edge, place
        rows = self._moved(edge, self.size.height - 1)
        if not edge.place <= place <= rows.place:
            edge = self._moved(Edge(place), -(self.size.height // 2))
        self._edge, self.following = min(edge, self._last_edge()), False  # nothing takes it away again
        self.refresh()
        return True

    # -- scrolling: up ends the follow, reaching the end takes it up again

    def _rows(self, place: int) -> int:
        """How many rows a line takes."""
        if not self.wrap or not self.size.width:
            return 1
        return max(-(-cell_len(self.held.at(place)[0]) // self.size.width), 1)

    def _last_edge(self) -> Edge:
        """The edge with which the last line stands at the bottom."""
        count, height = len(self.held), self.size.height
        if not self.wrap:
            return Edge(max(count - height, 0))
        return self._moved(Edge(count), -height) if count else Edge(0)

    def _moved(self, edge: Edge, by: int) -> Edge:
        """The edge ``by`` rows further, from the first line to behind the last."""
        count = len(self.held)
        if not self.wrap:
            return Edge(min(max(edge.place + by, 0), count))
        place, row = edge.place, edge.row + by
        while row < 0 and place > 0:
            place -= 1
            row += self._rows(place)
        while row > 0 and place < count and row >= self._rows(place):
            row -= self._rows(place)
            place += 1
        return Edge(place, max(row, 0)) if place < count else Edge(count)

    def action_scroll_lines(self, by: int) -> None:
        """Scroll up or down."""
        last = self._last_edge()
        self._edge = min(self._moved(self.edge, by), last)
        self.following = self._edge >= last
        self.refresh()

    def action_scroll_pages(self, by: int) -> None:
        """Scroll by what is in sight."""
        self.action_scroll_lines(by * max(self.size.height - 1, 1))

    def action_scroll_columns(self, by: int) -> None:
        """Scroll sideways through long lines."""
        in_sight = range(self.top, min(self.top + self.size.height, len(self.held)))
        widest = max((len(self.held.at(place)[0]) for place in in_sight), default=0)
        self._left = 0 if self.wrap else min(max(self._left + by * SIDEWAYS, 0), max(widest - SIDEWAYS, 0))
        self.refresh()

    def action_first(self) -> None:
        """Go to the first line."""
        self._edge = Edge(0)
        self.following = self._last_edge() == self._edge
        self.refresh()

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self.following = True
        self._left = 0
        self.refresh()

    def toggle_wrap(self) -> None:
        """Wrap long lines, or cut them at the edge; the first line in sight stays."""
        self._edge, self._left = Edge(self.top), 0
        self.wrap = not self.wrap
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
        """One row of the log."""
        width, base = self.size.width, self.visual_style
        if not len(self.held) and y == 0:
            text = f" {self._nothing() if self.held.total else self.placeholder}"
            style = base + Style(dim=True)
            return Strip([Segment(text, style.rich_style)]).adjust_cell_length(width, base.rich_style)
        rows = self._in_sight()
        if y >= len(rows):
            return Strip.blank(width, base.rich_style)
        place, row = rows[y]
        text, level = self.held.at(place)
        strip = Strip(self._segments(text, self._style(level, base), place == self._hit))
        left = row * width if self.wrap else self._left
        return strip.crop_extend(left, left + width, base.rich_style)

    def _nothing(self) -> str:
        """Why no line of those that are held is to be seen."""
        narrowed = self.held.level or self.held.since
        return "no line passes filter, level and time" if narrowed else no_match(self.held.needle)

    def _in_sight(self) -> list[Edge]:
        """What stands in each row, worked out once for all of them."""
        state = (self.following, self._edge, self.wrap, self.size, self.held.version)
        if state != self._drawn_state:
            at, count = self.edge, len(self.held)
            rows: list[Edge] = []
            while at.place < count and len(rows) < self.size.height:
                rows.append(at)
                at = self._moved(at, 1)
            self._drawn, self._drawn_state = rows, state
        return self._drawn

    def _segments(self, text: str, style: Style, hit: bool) -> list[Segment]:
        """The line with what is searched for standing out; the one that was found, most."""
        if self._pattern is None:
            return [Segment(text, style.rich_style)]
        mark = style + Style(reverse=True, bold=hit, underline=hit)
        segments, end = [], 0
        for match in self._pattern.finditer(text):
            segments.append(Segment(text[end : match.start()], style.rich_style))
            segments.append(Segment(match.group(), mark.rich_style))
            end = match.end()
        return [*segments, Segment(text[end:], style.rich_style)]

    def _style(self, level: int, base: Style) -> Style:
        """Lines that speak of trouble stand out."""
        if level == ERROR:
            return self.get_visual_style("log--bad")
        return self.get_visual_style("log--warn") if level == WARN else base
