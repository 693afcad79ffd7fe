"""Two sweeps side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from textual import work
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from lab_tui import findings
from lab_tui.model import LabError, Snapshot, SweepDetail
from lab_tui.ui.actions import COMPARE, Action
from lab_tui.ui.panes import compare
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.widgets.footer import Standing
from lab_tui.ui.widgets.pane import Pane
from lab_tui.ui.widgets.table import Row, SortTable


class CompareScreen(LabScreen):
    """The best of each, then the cells that both have. What was measured does not change: asked for once."""

    SCOPE = COMPARE

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.ids = (first, second)
        self.head = Static("", id="summary")
        self.table: SortTable | None = None
        self._rows: list[Row] = []
        self._loading = False

    def compose_panes(self) -> Iterator[Widget]:
        """What there is to say of both; the table comes with them, since its heads name them."""
        yield self.head
        last = Pane(1, "Cells in both", Static(" …", id="loading"))
        last.add_class("-last")
        yield last

    @work(group="detail")
    async def _load(self) -> None:
        first, second = self.ids
        try:
            a = await self.lab.client.sweep_detail(first)
            b = await self.lab.client.sweep_detail(second)
            self._rows, summary = await asyncio.to_thread(self._figures, a, b)
        except LabError as error:
            self.status.hold(Standing.TROUBLE, str(error))
            return
        finally:
            self._loading = False
        self.status.hold(Standing.TROUBLE, "")
        self.head.update(summary)
        heads = compare.columns(a, b)
        self.table = SortTable(heads, compare.FALLING, heads[1:-1], id="common")
        pane = self.panes()[0]
        await pane.replace(self.table)
        self._fill()
        if not isinstance(self.focused, Input):  # a filter may be typed already
            pane.enter()

    def _figures(self, a: SweepDetail, b: SweepDetail) -> tuple[list[Row], Content]:
        """Rows and what is said above them, made beside the event loop, as those of a sweep are."""
        names, pairs = findings.compare(a, b)
        rows = [compare.row(number, pair, names) for number, pair in enumerate(pairs)]
        return rows, Content("\n").join(compare.summary(a, b, pairs))

    def _fill(self) -> None:
        if self.table is not None:
            self.table.fill(self._rows, self.filters.get(1, ""))
            self.panes()[0].title(self.table.title)

    @property
    def _command(self) -> str:
        return f"lab-tui results compare {self.ids[0]} {self.ids[1]}"

    def draw(self, snapshot: Snapshot) -> None:
        """Nothing here lives, once it is there: an engine that is away may be back."""
        if self.table is None and not self._loading:
            self._loading = True
            self._load()

    def set_filter(self, number: int, needle: str) -> None:
        """Show only cells with ``needle``."""
        super().set_filter(number, needle)
        self._fill()

    def footer_label(self, action: Action) -> str:
        """What a table can do."""
        if action.name in ("filter", "sort", "copy", "back", "quit", "help"):
            return action.label
        return ""

    def on_data_table_header_selected(self) -> None:
        """The table has another order."""
        self._fill()

    def act_sort(self) -> None:
        """Sort by the next column."""
        if self.table is not None:
            self.table.turn()
            self._fill()

    def act_sort_back(self) -> None:
        """Turn the order round."""
        if self.table is not None:
            self.table.reverse()
            self._fill()

    def act_copy(self) -> None:
        """Copy the command that prints the same."""
        self.copy(self._command)
