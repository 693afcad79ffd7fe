"""A table that keeps its order: rows come, change, are filtered and sorted; the cursor stays on its row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.widgets import DataTable

from lab_tui.ui import format as fmt

MOST_ROWS = 500  # in the table at once: each costs the better part of a millisecond, once


class Row(NamedTuple):
    """One row. The text of its first cell names it."""

    cells: tuple[Text, ...]
    order: tuple[float | str | None, ...]  # what each column is sorted by; None comes last

    @property
    def key(self) -> str:
        """Its name."""
        return self.cells[0].plain


class SortTable(DataTable[Text]):
    """Rows in the order of one column, which ``turn``, ``reverse`` or a click on its head changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("k", "cursor_up"),
        ("j", "cursor_down"),
        ("home,g", "scroll_top"),
        ("end,G", "scroll_bottom"),
    ]

    def __init__(self, columns: Sequence[str], falling: Iterable[str] = (), *, id: str | None = None) -> None:
        """``falling``: columns of which the largest comes first, unless reversed."""
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._names = tuple(columns)
        self._falling = frozenset(falling)
        self._column = 0
        self._reversed = False
        self._all: tuple[Row, ...] = ()
        self._shown: dict[str, Row] = {}
        self._needle = ""
        self._matching = 0

    def on_mount(self) -> None:
        """The columns are there before any row."""
        for name in self._names:
            self.add_column(name, key=name)

    @property
    def selected(self) -> str | None:
        """The key of the row under the cursor."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    @property
    def title(self) -> str:
        """How many rows, in which order, filtered by what."""
        cut = f"{len(self._shown):,} of " if len(self._shown) < self._matching else ""
        parts = [f"({cut}{self._matching:,})"]
        if self._column or self._reversed:
            parts.append(f"by {self._names[self._column]} {'↓' if self._down else '↑'}")
        if self._needle:
            parts.append(f"/{self._needle}")
        return " ".join(parts)

    @property
    def _down(self) -> bool:
        return (self._names[self._column] in self._falling) != self._reversed

    def fill(self, rows: Iterable[Row], needle: str = "") -> None:
        """Show these rows, of them only those that contain ``needle``."""
        self._all, self._needle = tuple(rows), needle
        self._refill()

    def turn(self) -> None:
        """Sort by the next column."""
        self._sort_by((self._column + 1) % len(self._names))

    def reverse(self) -> None:
        """Turn the order round."""
        self._reversed = not self._reversed
        self._refill()

    def _sort_by(self, column: int) -> None:
        self._column, self._reversed = column, False
        self._refill()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a head sorts by it; on the head of the order there is, turns it round."""
        if event.column_index == self._column:
            self.reverse()
        else:
            self._sort_by(event.column_index)

    def on_click(self, event: events.Click) -> None:
        """As in lists: a click selects a row, two open it. Heads are Textual's matter."""
        row = event.style.meta.get("row", -1)
        if row >= 0:
            event.prevent_default()
            event.stop()
            self.move_cursor(row=row, animate=False)
            if event.chain == 2:
                self.action_select_cursor()

    def select(self, key: str) -> None:
        """Put the cursor on a row, when it is there."""
        if key in self._shown:
            self.move_cursor(row=self.get_row_index(key), animate=False)

    def _refill(self) -> None:
        """Touch only cells whose text is another: each one costs a repaint of the table."""
        selected = self.selected
        ranked = self._ranked()
        wanted = {row.key: row for row in ranked[:MOST_ROWS]}
        if not self._shown.keys() <= wanted.keys():
            self.clear()
            self._shown = {}
        moved = list(self._shown) != list(wanted)
        for key, row in wanted.items():
            self._put(key, row)
        if moved:
            place = {key: number for number, key in enumerate(wanted)}
            self.sort(self._names[0], key=lambda cell: place[cell.plain])
            if selected is not None:
                self.select(selected)
        self._shown = wanted

    def _put(self, key: str, row: Row) -> None:
        shown = self._shown.get(key)
        if shown is None:
            self.add_row(*row.cells, key=key)
        elif shown is not row:
            for name, cell, old in zip(self._names, row.cells, shown.cells, strict=True):
                if cell != old:
                    self.update_cell(key, name, cell, update_width=True)

    def _ranked(self) -> list[Row]:
        """The rows that match, in order."""
        needle = self._needle.lower()
        matching = [row for row in self._all if needle in " ".join(c.plain for c in row.cells).lower()]
        self._matching = len(matching)
        known = [row for row in matching if row.order[self._column] is not None]
        unknown = [row for row in matching if row.order[self._column] is None]
        return [*sorted(known, key=lambda row: _rank(row, self._column), reverse=self._down), *unknown]


def _rank(row: Row, column: int) -> tuple[float, str]:
    """What a row is sorted by, numbers before words."""
    held = row.order[column]
    return (float("inf"), held) if isinstance(held, str) else (held if held is not None else 0.0, "")


def figure(text: str, style: str = "") -> Text:
    """A number, to the right of its column."""
    return Text(text or fmt.UNKNOWN, style, justify="right")
