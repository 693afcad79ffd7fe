"""One sweep: heat map, curves and every cell, live while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from textual import work
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from lab_tui.model import CellView, LabError, Snapshot, SweepDetail, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import SWEEP, Action
from lab_tui.ui.panes import course, heat, results
from lab_tui.ui.panes.queue import FINAL
from lab_tui.ui.screens.winner import Target, WinnerCommands
from lab_tui.ui.theme import MUTED
from lab_tui.ui.widgets.footer import Standing
from lab_tui.ui.widgets.heat import HeatMap
from lab_tui.ui.widgets.pane import Pane, set_height
from lab_tui.ui.widgets.plot import Chart, CurvePlot
from lab_tui.ui.widgets.table import Row, SortTable

NEVER = object()
LEAST_PICTURE = 10  # rows of the upper panes
LEAST_TABLE = 5  # rows of the lower one: its frame, its heads and two cells
OTHERS = 6  # header, two lines of the sweep, what is selected, status and footer
ROOMY = 110  # columns from which the footer has room for what matters less


class SweepScreen(WinnerCommands):
    """Three panes, refilled whenever the engine says that the sweep moved."""

    SCOPE = SWEEP
    FIRST_PANE = 3

    def __init__(self, sweep_id: int) -> None:
        super().__init__()
        self.sweep_id = sweep_id
        self.detail: SweepDetail | None = None
        self.heat = HeatMap(id="heat")
        self.plot = CurvePlot(id="curves")
        self.table = SortTable(results.COLUMNS, results.FALLING, results.FIGURES, id="cells")
        self.head = Static("", id="summary")
        self.told = Static("", id="told")  # what is selected, in a line
        self._seen: object = NEVER  # how far the sweep was when `detail` was asked for
        self._loading = False
        self._made: dict[int, tuple[CellView, Row]] = {}
        self._rows: list[Row] = []
        self._charts: tuple[Chart, ...] = ()
        self._lines: dict[Static, Content] = {}  # what the two lines show

    def compose_panes(self) -> Iterator[Widget]:
        """Summary, then heat map beside curves, then what is selected, then the cells."""
        yield self.head
        with Horizontal(classes="row"):
            yield Pane(1, "Heat map", self.heat)
            yield Pane(2, "Curves", self.plot)
        yield self.told
        last = Pane(3, "Cells", self.table)
        last.add_class("-last")
        yield last

    # -- drawing

    def layout_panes(self, snapshot: Snapshot) -> None:
        """Pictures above, as high as the heat map, half of the screen at most; alone, a pane takes it all."""
        row, last = self.query_one(".row"), self.panes()[2]
        rows = min(max(len(self.heat.plain) + 2, LEAST_PICTURE), self.size.height // 2)
        roomy = min(max(rows, self.size.height * 2 // 5), max(self.size.height - OTHERS - LEAST_TABLE, 3))
        set_height(row, "1fr" if self.solo else str(roomy))
        set_height(last, "1fr")

    def draw(self, snapshot: Snapshot) -> None:
        """Ask for the cells again when the sweep moved, and show what is known."""
        if not self._loading and self._progress() != self._seen:
            self._loading = True
            self._load()
        self._show_head()

    def _progress(self) -> object:
        return course.progress(self.selected_sweep(), self._waiting)

    def _show_head(self) -> None:
        """How far the sweep is, and what it does now."""
        view, snapshot = self.selected_sweep(), self.lab.snapshot
        if view is None or snapshot is None:
            return
        load = snapshot.load if snapshot.sweep is not None and snapshot.sweep.id == view.id else None
        held = snapshot.queue_paused and view.status not in FINAL
        lines = Content("\n").join(course.lines(view, load, held, self.size.width))
        self._line(self.head, Content.styled(lines.plain, MUTED) if self.lab.outdated else lines)

    def fade(self, outdated: bool) -> None:
        """Only what happens now can be out of date; what was measured stays so."""
        self._show_head()

    def _line(self, where: Static, line: Content) -> None:
        """Show a line when it is another one."""
        shown = self._lines.get(where)
        if shown is None or not line.is_same(shown):
            self._lines[where] = line
            where.update(line, layout=False)

    @work(group="detail")
    async def _load(self) -> None:
        """Ask again for as long as the sweep moves on meanwhile."""
        first = self.detail is None
        try:
            self._seen = self._progress()
            detail = await self.lab.client.sweep_detail(self.sweep_id)
            self._rows, self._charts, grid = await asyncio.to_thread(self._figures, detail)
        except LabError as error:
            self._seen = NEVER
            self.status.hold(Standing.TROUBLE, str(error))
            return
        finally:
            self._loading = False
        self.status.hold(Standing.TROUBLE, "")
        self.detail = detail
        self._seen = self._seen or self._progress()
        self._fill(detail, grid)
        if first and detail.view.best is not None:
            best = detail.cells[detail.view.best.cell - 1]
            self.call_after_refresh(self._point, best)  # a table scrolls once its rows are laid out

    def _point(self, cell: CellView) -> None:
        """Put both cursors on a cell."""
        self.heat.point(cell)
        self.table.select(str(cell.index + 1))

    def _fill(self, detail: SweepDetail, grid: heat.Grid) -> None:
        self.heat.load(detail, grid)
        self.plot.show(self._charts)
        self.table.fill(self._rows, self.filters.get(3, ""))
        self._show_titles()
        self._show_head()
        self._tell()

    def _show_titles(self) -> None:
        _, two, three = self.panes()
        two.title(self.plot.hint)
        three.title(self.table.title)

    def _figures(self, detail: SweepDetail) -> tuple[list[Row], tuple[Chart, ...], heat.Grid]:
        """Rows, curves and squares, made beside the event loop: of 10,000 cells that takes a second."""
        return [self._row(view) for view in detail.cells], results.charts(detail), heat.grid(detail)

    def _row(self, view: CellView) -> Row:
        """The row of a cell, made anew only when the cell is another."""
        known = self._made.get(view.index)
        if known is None or known[0] != view:
            known = self._made[view.index] = (view, results.table_row(view))
        return known[1]

    def _tell(self) -> None:
        """The selected cell in a line."""
        square = self.heat.square if self._on_map else None
        view = self.selected_cell()
        if view is not None:
            self._line(self.told, heat.told(view, square.cells if square is not None else ()))

    def filtered_pane(self) -> int:
        """Only the table can be filtered."""
        return 3

    def set_filter(self, number: int, needle: str) -> None:
        """Show only cells with ``needle``."""
        super().set_filter(number, needle)
        self.table.fill(self._rows, needle)
        self._show_titles()

    # -- what is selected

    @property
    def _waiting(self) -> bool:
        """Whether it runs or waits in the queue."""
        snapshot = self.lab.snapshot
        return snapshot is not None and any(view.id == self.sweep_id for view in snapshot.queue)

    @property
    def _on_map(self) -> bool:
        return self.focused_pane().number == 1

    def selected_sweep(self) -> SweepView | None:
        """The sweep of this screen as the queue tells it, else as it was last read."""
        snapshot = self.lab.snapshot
        for view in snapshot.queue if snapshot else ():
            if view.id == self.sweep_id:
                return view
        return self.detail.view if self.detail is not None else None

    def selected_cell(self) -> CellView | None:
        """The cell that stands for the square under the cursor, else the one of the row."""
        if self.detail is None:
            return None
        if self._on_map:
            square = self.heat.square
            return square.shown if square is not None else None
        key = self.table.selected
        return self.detail.cells[int(key) - 1] if key is not None else None

    def target(self) -> Target | None:
        """The selected cell; without one, the sweep."""
        view = self.selected_cell()
        return Target(self.sweep_id, None if view is None else view.index + 1)

    def footer_label(self, action: Action) -> str:
        """Only what can be done with this sweep now, what matters most first."""
        snapshot, view, waiting = self.lab.snapshot, self.selected_cell(), self._waiting
        match action.name:
            case "skip" | "abort":
                return action.label.removesuffix(" cell") if waiting else ""
            case "pause":
                paused = snapshot is not None and snapshot.queue_paused
                return ("resume" if paused else action.label) if waiting else ""
            case "open":
                return "cell"
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "apply":
                return action.label if view is not None and view.result is not None and not waiting else ""
            case "export" | "filter" | "back" | "quit" | "help":
                return action.label
            case "measure_again" | "copy" | "compare" | "sort" | "span":
                return action.label
            case "new_sweep":
                return action.label if self.size.width >= ROOMY and not waiting else ""
        return ""

    # -- actions of this screen

    async def on_data_table_row_selected(self) -> None:
        """Enter or two clicks on a row."""
        await self.action_act("open")

    def on_data_table_row_highlighted(self) -> None:
        """Another row is under the cursor."""
        self._selection_moved()

    def on_data_table_header_selected(self) -> None:
        """The table has another order."""
        self._show_titles()

    def on_heat_map_pointed(self) -> None:
        """Another square is under the cursor."""
        self._selection_moved()

    def on_heat_map_opened(self) -> None:
        """Two clicks are an enter."""
        self.act_open()

    def on_descendant_focus(self) -> None:
        """What is selected depends on the pane."""
        super().on_descendant_focus()
        self._tell()

    def _selection_moved(self) -> None:
        self._tell()
        self.show_footer()

    def act_open(self) -> None:
        """One cell in full; curves take the whole screen."""
        from lab_tui.ui.screens.cell import CellScreen

        view, sweep = self.selected_cell(), self.selected_sweep()
        if self.focused_pane().number == 2:
            self.act_zoom()
        elif view is not None and sweep is not None:
            self.app.push_screen(CellScreen(sweep, view))

    def act_span(self) -> None:
        """The next chart, where not all of them fit."""
        self.plot.turn()

    def act_sort(self) -> None:
        """Sort the table by the next column."""
        self.table.turn()
        self._show_titles()

    def act_sort_back(self) -> None:
        """Turn the order of the table round."""
        self.table.reverse()
        self._show_titles()

    def act_copy(self) -> None:
        """Copy the selected cell, in full."""
        view = self.selected_cell()
        if view is not None:
            self.copy(results.cell_text(view), f"cell {view.index + 1}: {fmt.axes(view.cell)}")
