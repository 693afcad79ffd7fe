"""A table that keeps its order: rows come, change, are filtered and sorted; the cursor stays on its row."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Sequence
from itertools import accumulate, zip_longest
from typing import ClassVar

import msgspec
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events, work
from textual.binding import BindingType
from textual.strip import Strip
from textual.widgets import DataTable

from lab_tui.model import Data
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import no_match

MOST_ROWS = 500  # in the table at once: each costs the better part of a millisecond, once
PIECE = 50  # rows that are put in at a time, and more than a screen has
BREATH_S = 0.01  # between two pieces, for whatever else the event loop has to do


class Row(Data, frozen=True):
    """One row. The first of its words names it."""

    words: tuple[str, ...]
    order: tuple[float | str | None, ...]  # what each column is sorted by; None comes last
    styles: tuple[str, ...] = ()  # of the words; beyond the last there is none
    text: str = ""  # what a filter looks into: the words

    def __post_init__(self) -> None:
        """Rows are made beside the event loop, where this holds nobody up."""
        msgspec.structs.force_setattr(self, "text", " ".join(self.words).lower())

    @property
    def key(self) -> str:
        """Its name."""
        return self.words[0]

    def cells(self, figures: Container[int]) -> list[Text]:
        """Its words as the table takes them; the columns of ``figures`` stand to the right."""
        return [
            Text(word, style, justify="right" if column in figures else None)
            for column, (word, style) in enumerate(zip_longest(self.words, self.styles, fillvalue=""))
        ]


class SortTable(DataTable[Text]):
    """Rows in the order of one column, which ``turn``, ``reverse`` or a click on its head changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("k", "cursor_up"),
        ("j", "cursor_down"),
        ("home,g", "scroll_top"),
        ("end,G", "scroll_bottom"),
    ]

    def __init__(
        self,
        columns: Sequence[str],
        falling: Iterable[str] = (),
        figures: Iterable[str] = (),
        *,
        id: str | None = None,
    ) -> None:
        """``falling``: columns of which the largest comes first, unless reversed; ``figures``: of numbers."""
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._names = tuple(columns)
        self._falling = frozenset(falling)
        self._figures = frozenset(map(self._names.index, figures))
        self._column = 0
        self._reversed = False
        self._all: tuple[Row, ...] = ()
        self._shown: dict[str, Row] = {}
        self._wanted: dict[str, Row] = {}  # what is shown once all pieces are in
        self._returning: str | None = None  # the row that is to have the cursor, and is not in yet
        self._meanwhile: str | None = None  # the row that has it until then; the reader may choose another
        self._needle = ""
        self._matching = 0

    def on_mount(self) -> None:
        """The columns are there before any row."""
        for name in self._names:
            self.add_column(fmt.signed(name), key=name)

    @property
    def selected(self) -> str | None:
        """The key of the row under the cursor."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    @property
    def title(self) -> str:
        """How many rows, in which order, filtered by what."""
        cut = f"{len(self._wanted):,} of " if len(self._wanted) < self._matching else ""
        parts = [f"({cut}{self._matching:,})"]
        if self._column or self._reversed:
            parts.append(f"by {fmt.signed(self._names[self._column])} {'↓' if self._down else '↑'}")
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
        """Put the cursor on a row, when it is there, or as soon as it is."""
        self._returning = None
        if key in self._shown:
            self.move_cursor(row=self.get_row_index(key), animate=False)
        elif key in self._wanted:
            self._returning, self._meanwhile = key, self.selected

    def action_cursor_right(self) -> None:
        """Scroll so that the next column begins at the left edge."""
        self._scroll_columns(1)

    def action_cursor_left(self) -> None:
        """Scroll so that the column before begins at the left edge."""
        self._scroll_columns(-1)

    def _scroll_columns(self, by: int) -> None:
        edges = list(
            accumulate((column.get_render_width(self) for column in self.ordered_columns), initial=0)
        )
        at = round(self.scroll_target_x)
        further = [edge for edge in edges if (edge > at if by > 0 else edge < at)]
        if further:
            self.scroll_to(x=further[0] if by > 0 else further[-1], animate=False)

    def render_line(self, y: int) -> Strip:
        """Where a filter leaves nothing, that is said."""
        if y != self.header_height or self.row_count or not self._needle:
            return super().render_line(y)
        said = Segment(f" {no_match(self._needle)}", self.rich_style + Style(dim=True))
        return Strip([said]).adjust_cell_length(self.size.width, self.rich_style)

    def _refill(self) -> None:
        """Show the rows in order: the first at once, the rest as the event loop has time for them."""
        selected = self._to_have_cursor()
        self._returning = None
        self._wanted = {row.key: row for row in self._ranked()[:MOST_ROWS]}
        if not self._shown.keys() <= self._wanted.keys():
            self.clear()
            self._shown = {}
        self._put_in(list(self._wanted)[:PIECE])
        if selected is not None and selected != self.selected:  # else a reader who scrolled would be back
            self.select(selected)
        self._put_in_rest()

    def _to_have_cursor(self) -> str | None:
        """The row that is still to come, as long as the reader has not chosen another one since."""
        waiting = self._returning is not None and self._meanwhile == self.selected
        return self._returning if waiting else self.selected

    @work(group="rows", exclusive=True)
    async def _put_in_rest(self) -> None:
        """The pieces after the first. Another order, or other rows, begin anew."""
        keys = list(self._wanted)
        for start in range(PIECE, len(keys), PIECE):
            await asyncio.sleep(BREATH_S)
            self._put_in(keys[start : start + PIECE])
            if (selected := self._to_have_cursor()) is not None and selected != self.selected:
                self.select(selected)

    def _put_in(self, keys: Sequence[str]) -> None:
        """Show these rows as well, in their places.

        Only cells whose text is another are touched: each one costs a repaint of the table.
        """
        for key in keys:
            self._put(key, self._wanted[key])
            self._shown[key] = self._wanted[key]
        place = {key: number for number, key in enumerate(self._wanted)}
        order = sorted(self._shown, key=place.__getitem__)
        if order != list(self._shown):  # the new ones stand at the end
            selected = self.selected
            self.sort(self._names[0], key=lambda cell: place[cell.plain])
            if selected is not None:
                self.move_cursor(row=self.get_row_index(selected), animate=False)
        self._shown = {key: self._shown[key] for key in order}

    def _put(self, key: str, row: Row) -> None:
        shown = self._shown.get(key)
        if shown is None:
            self.add_row(*row.cells(self._figures), key=key)
        elif shown is not row:
            cells, before = row.cells(self._figures), shown.cells(self._figures)
            for name, cell, old in zip(self._names, cells, before, strict=True):
                if cell != old:
                    self.update_cell(key, name, cell, update_width=True)

    def _ranked(self) -> list[Row]:
        """The rows that match, in order."""
        needle = self._needle.lower()
        matching = [row for row in self._all if needle in row.text] if needle else self._all
        self._matching = len(matching)
        column, down = self._column, self._down
        numbers = [row for row in matching if isinstance(row.order[column], int | float)]
        words = [row for row in matching if isinstance(row.order[column], str)]
        unknown = [row for row in matching if row.order[column] is None]
        for held in (numbers, words):
            held.sort(key=lambda row: row.order[column], reverse=down)  # type: ignore[arg-type,return-value]
        return [*words, *numbers, *unknown] if down else [*numbers, *words, *unknown]
