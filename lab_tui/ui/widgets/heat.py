"""The heat map as a widget: a cursor in two directions, repainting only what changed."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.message import Message

from lab_tui.model import AxisValue, CellView, SweepDetail
from lab_tui.ui.panes import heat
from lab_tui.ui.widgets.lines import LineList


class HeatMap(LineList):
    """Squares of cells; arrows go from one to the next."""

    BINDINGS: ClassVar[list[BindingType]] = [("left", "across(-1)"), ("right", "across(1)")]

    class Pointed(Message):
        """The cursor is on another square, or what is in it changed."""

    class Opened(Message):
        """A square was clicked twice."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._detail: SweepDetail | None = None
        self._grid: heat.Grid | None = None
        self._at: tuple[AxisValue, AxisValue] | None = None  # values on the two axes

    def fade(self, faded: bool) -> None:
        """What was measured stays so."""

    def load(self, detail: SweepDetail, grid: heat.Grid) -> None:
        """Show these cells, sorted into squares; the cursor stays on its square."""
        self._detail, self._grid = detail, grid
        self._draw()

    def point(self, cell: CellView) -> None:
        """Put the cursor on the square of a cell."""
        if self._grid is not None:
            self._go(*self._grid.find(cell))

    @property
    def square(self) -> heat.Square | None:
        """The cells under the cursor; None where there is none."""
        return self._grid.at(*self._cursor()) if self._grid is not None and self._grid.rows else None

    def _cursor(self) -> tuple[int, int]:
        held = self._grid
        if held is None or self._at is None or self._at not in held.squares:
            return 0, 0
        return held.rows.index(self._at[0]), held.columns.index(self._at[1])

    def _frame(self) -> heat.Frame:
        assert self._grid is not None
        return heat.frame(self._grid, self.size.width, self._cursor()[1])

    def _draw(self) -> None:
        if self._grid is not None and self._detail is not None and self.size.width:
            place, cursor = self._frame(), self._cursor()
            self.show(heat.lines(self._grid, self._detail, place, cursor, self.has_focus, self.size.width))

    def _go(self, row: int, column: int) -> None:
        held = self._grid
        if held is None or not held.rows:
            return
        row = min(max(row, 0), len(held.rows) - 1)
        column = min(max(column, 0), len(held.columns) - 1)
        self._at = held.rows[row], held.columns[column]
        self._draw()
        self._see(row + heat.HEAD)
        self.post_message(self.Pointed())

    def _see(self, line: int) -> None:
        top, height = self.scroll_offset.y, self.size.height
        if line - heat.HEAD < top:
            self.scroll_to(y=line - heat.HEAD, animate=False)
        elif height and line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False)

    def action_cursor(self, by: int) -> None:
        """Up and down; beyond the last row, on to what stands below the map."""
        row, column = self._cursor()
        last = self._grid is not None and row == len(self._grid.rows) - 1
        if last and by > 0:
            self.scroll_relative(y=by, animate=False)
        else:
            self._go(row + by, column)

    def action_across(self, by: int) -> None:
        """Left and right."""
        row, column = self._cursor()
        self._go(row, column + by)

    def on_click(self, event: events.Click) -> None:
        """Point by mouse; a second click opens."""
        held = self._grid
        if held is None:
            return
        place = self._frame()
        row = event.y + self.scroll_offset.y - heat.HEAD
        column = (event.x - place.left) // place.width
        if 0 <= row < len(held.rows) and 0 <= column < place.seen:
            self._go(row, place.first + column)
            if event.chain == 2:
                self.post_message(self.Opened())

    def on_focus(self) -> None:
        """The cursor looks different with focus."""
        self._draw()

    def on_blur(self) -> None:
        """The cursor looks different without focus."""
        self._draw()

    def on_resize(self) -> None:
        """Another number of squares fits."""
        self._draw()
