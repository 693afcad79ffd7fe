"""One sweep: heat map, curves and every cell, live while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import DataTable, Static

from lab_tui.model import CellView, LabError, Snapshot, SweepDetail, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import SWEEP, Action
from lab_tui.ui.panes import queue, results
from lab_tui.ui.screens.commands import QueueCommands
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.pane import Pane, set_height
from lab_tui.ui.widgets.plot import CurvePlot

NEVER = object()


def _progress(view: SweepView | None) -> object:
    """What of a sweep must change before its cells are asked for again."""
    if view is None:
        return None
    return (view.status, view.cells_measured, view.cells_failed, view.cells_skipped, view.now, view.best)


class SweepScreen(QueueCommands):
    """Three panes, refilled whenever the engine says that the sweep moved."""

    SCOPE = SWEEP
    FIRST_PANE = 3

    def __init__(self, sweep_id: int) -> None:
        super().__init__()
        self.sweep_id = sweep_id
        self.detail: SweepDetail | None = None
        self.heat = LineList(id="heat")
        self.plot = CurvePlot(id="curves")
        self.table: DataTable[Text] = DataTable(id="cells", cursor_type="row", zebra_stripes=False)
        self.head = Static("", id="summary")
        self._seen: object = NEVER  # how far the sweep was when `detail` was asked for
        self._loading = False
        self._rows: dict[str, tuple[Text, ...]] = {}  # what the table shows
        self._made: dict[int, tuple[CellView, tuple[Text, ...]]] = {}
        self._title = Content()

    def compose_panes(self) -> Iterator[Widget]:
        """Summary, then heat map beside curves, then the cells."""
        yield self.head
        with Horizontal(classes="row"):
            yield Pane(1, "Heat map", self.heat)
            yield Pane(2, "Curves", self.plot)
        last = Pane(3, "Cells", self.table)
        last.add_class("-last")
        yield last

    def on_mount(self) -> None:
        """The table's columns are there before any row."""
        super().on_mount()
        for name in results.COLUMNS:
            self.table.add_column(name, key=name)

    # -- drawing

    def layout_panes(self, snapshot: Snapshot) -> None:
        """The upper half is for pictures; alone, a pane takes it all."""
        row, last = self.query_one(".row"), self.panes()[2]
        set_height(row, "1fr" if self.solo else "48%")
        set_height(last, "1fr")

    def draw(self, snapshot: Snapshot) -> None:
        """Ask for the cells again when the sweep moved, and show what is known."""
        view = self.selected_sweep()
        if not self._loading and _progress(view) != self._seen:
            self._loading = True
            self._load()
        self._show_head()

    def _show_head(self) -> None:
        """The line of the queue, for this sweep."""
        view = self.selected_sweep()
        line = queue.line(view, self.size.width) if view is not None else self._title
        if not line.is_same(self._title):
            self._title = line
            self.head.update(line, layout=False)

    @work(group="detail")
    async def _load(self) -> None:
        """Ask again for as long as the sweep moves on meanwhile."""
        try:
            self._seen = _progress(self.selected_sweep())
            self.detail = await self.lab.client.sweep_detail(self.sweep_id)
            self._seen = self._seen or _progress(self.detail.view)
        except LabError as error:
            self._seen = NEVER
            self.status.say(str(error), False)
            return
        finally:
            self._loading = False
        self._fill(self.detail)

    def _fill(self, detail: SweepDetail) -> None:
        self.heat.show(results.heat_map(detail, self.heat.size.width))
        self.plot.show(results.curves(detail))
        self._fill_table(detail)
        one, two, three = self.panes()
        down, across = results.heat_axes(detail)
        one.title(f"{down} × {across}" if across else down)
        two.title("" if self.plot.both else "(t: the other one)")
        needle = self.filters.get(3)
        three.title(f"({len(detail.cells)}){f' /{needle}' if needle else ''}")
        self._show_head()

    def _fill_table(self, detail: SweepDetail) -> None:
        """Touch only cells whose text is another: each one costs a repaint of the table."""
        needle = self.filters.get(3, "").lower()
        wanted: dict[str, tuple[Text, ...]] = {}
        for view in detail.cells:
            row = self._row(view)
            if not needle or needle in " ".join(cell.plain for cell in row).lower():
                wanted[str(view.index)] = row
        if list(wanted)[: len(self._rows)] != list(self._rows):
            self.table.clear()
            self._rows = {}
        for key, row in wanted.items():
            shown = self._rows.get(key)
            if shown is None:
                self.table.add_row(*row, key=key)
            elif shown is not row:
                for name, cell, old in zip(results.COLUMNS, row, shown, strict=True):
                    if cell != old:
                        self.table.update_cell(key, name, cell, update_width=True)
            self._rows[key] = row

    def _row(self, view: CellView) -> tuple[Text, ...]:
        """The row of a cell, made anew only when the cell is another."""
        known = self._made.get(view.index)
        if known is None or known[0] != view:
            known = self._made[view.index] = (view, results.table_row(view))
        return known[1]

    def set_filter(self, number: int, needle: str) -> None:
        """Only the table can be filtered."""
        super().set_filter(3, needle)
        if self.detail is not None:
            self._fill(self.detail)

    def on_line_list_resized(self) -> None:
        """The heat map is as wide as its pane."""
        if self.detail is not None:
            self.call_after_refresh(self._fill, self.detail)

    # -- what is selected

    def selected_sweep(self) -> SweepView | None:
        """The sweep of this screen as the queue tells it, else as it was last read."""
        snapshot = self.lab.snapshot
        for view in snapshot.queue if snapshot else ():
            if view.id == self.sweep_id:
                return view
        return self.detail.view if self.detail is not None else None

    def selected_cell(self) -> CellView | None:
        """The cell under the cursor of the table."""
        if self.detail is None or not self.table.row_count:
            return None
        key = self.table.coordinate_to_cell_key(self.table.cursor_coordinate).row_key.value
        return next((view for view in self.detail.cells if str(view.index) == key), None)

    def footer_label(self, action: Action) -> str:
        """Only what can be done with this sweep now."""
        snapshot = self.lab.snapshot
        waiting = snapshot is not None and any(view.id == self.sweep_id for view in snapshot.queue)
        match action.name:
            case "skip" | "abort":
                return action.label if waiting else ""
            case "pause":
                paused = snapshot is not None and snapshot.queue_paused
                return ("resume" if paused else action.label) if waiting else ""
            case "open":
                return "cell"
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "new_sweep" | "filter" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    # -- actions of this screen

    def on_data_table_row_selected(self) -> None:
        """Enter or a click on a row."""
        self.act_open()

    def act_open(self) -> None:
        """One cell in full."""
        view = self.selected_cell()
        if view is not None:
            self.app.push_screen(CellScreen(view))

    def act_span(self) -> None:
        """The other chart, where only one fits."""
        self.plot.turn()

    def act_copy(self) -> None:
        """Copy the selected cell, in full."""
        view = self.selected_cell()
        if view is not None:
            self.app.copy_to_clipboard(results.cell_text(view))
            self.status.say(f"copied cell {view.index + 1}: {fmt.axes(view.cell)}")


class CellScreen(ModalScreen[None]):
    """One cell in full."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,enter", "dismiss", "Close")]

    def __init__(self, view: CellView) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        """The figures, and the commands that made them."""
        with VerticalScroll(classes="dialog help") as box:
            box.border_title = "Cell"
            box.border_subtitle = "escape closes"
            yield Static(results.cell_text(self._view), markup=False, classes="text")
            for name, held in self._view.context.items():
                text = "\n".join(map(str, held)) if isinstance(held, list | tuple) else str(held)
                yield Static(f"{name}\n{text}", markup=False, classes="command")
