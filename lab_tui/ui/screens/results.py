"""Every sweep that was ever kept: sorted, filtered, opened, compared, put to use."""

from __future__ import annotations

from collections.abc import Iterator

from textual import work
from textual.widget import Widget

from lab_tui.model import LabError, Snapshot, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import RESULTS, Action, key
from lab_tui.ui.panes.queue import done
from lab_tui.ui.screens.winner import Target, WinnerCommands
from lab_tui.ui.theme import STRONG, SWEEP
from lab_tui.ui.widgets.footer import Standing
from lab_tui.ui.widgets.pane import Pane
from lab_tui.ui.widgets.table import Row, SortTable

COLUMNS = ("ID", "name", "state", "cells", "tok/s", "±", "best", "took", "when", "search", "note")
FALLING = ("ID", "tok/s", "when", "took", "cells")
FIGURES = ("ID", "cells", "tok/s", "±", "took")
MARK = "◆"
NAME = 24  # cells of a name; the sweep itself has it whole


def row(view: SweepView, marked: bool, now: float) -> Row:
    """One sweep as a row; ``now`` is the unix time."""
    look, best = SWEEP[view.status], view.best
    tps = best.throughput_tps if best else None
    half = best.throughput_ci95_tps if best else None
    place = fmt.place(best) if best else fmt.UNKNOWN
    name = fmt.middle(view.name, NAME)
    words = (
        str(view.id),
        f"{MARK} {name}" if marked else name,
        f"{look.glyph} {look.word}",
        f"{done(view)}/{view.cells_total}",
        fmt.rate(tps),
        fmt.interval_share(half, tps) if tps is not None else fmt.UNKNOWN,
        place,
        fmt.duration(view.elapsed_s),
        fmt.moment(view.created, now),
        view.strategy,
        view.reason,
    )
    order = (
        view.id,
        view.name,
        look.word,
        done(view),
        tps,
        half / tps if half is not None and tps else None,
        place if best else None,
        view.elapsed_s,
        view.created,
        view.strategy,
        view.reason or None,
    )
    return Row(words, order, ("", STRONG if marked else "", look.style))


class ResultsScreen(WinnerCommands):
    """One table; asked for again when the queue is not what it was."""

    SCOPE = RESULTS

    def __init__(self) -> None:
        super().__init__()
        self.table = SortTable(COLUMNS, FALLING, FIGURES, id="sweeps")
        self.kept: dict[int, SweepView] = {}  # by id, newest first
        self._seen: object = None  # the queue that `kept` was asked for
        self._drawn: object = None  # what the table was filled with

    def compose_panes(self) -> Iterator[Widget]:
        """The table alone."""
        last = Pane(1, "Results", self.table)
        last.add_class("-last")
        yield last

    # -- drawing

    def draw(self, snapshot: Snapshot) -> None:
        """Sweeps that live come from the queue, the others from the store."""
        seen = tuple((view.id, view.status) for view in snapshot.queue)
        if seen != self._seen:
            self._seen = seen
            self._load()
        self._fill(snapshot)

    def on_screen_resume(self) -> None:
        """Sweeps may have come and gone while another screen was above."""
        self._seen = None

    @work(group="results", exclusive=True)
    async def _load(self) -> None:
        try:
            views = await self.lab.client.sweeps()
        except LabError as error:
            self._seen = None
            self.status.hold(Standing.TROUBLE, str(error))
            return
        self.status.hold(Standing.TROUBLE, "")
        self.kept = {view.id: view for view in views}
        if self.lab.snapshot is not None:
            self._fill(self.lab.snapshot)

    def _fill(self, snapshot: Snapshot) -> None:
        live = {view.id: view for view in snapshot.queue}
        views = [live.get(number, view) for number, view in self.kept.items()]
        drawn = ([_told(view) for view in views], self.lab.marked, self.filters.get(1, ""))
        if drawn != self._drawn:
            self._drawn = drawn
            now, marked = snapshot.time, self.lab.marked
            self.table.fill((row(view, view.id == marked, now) for view in views), drawn[2])
        nothing = "" if self.kept else f"nothing measured yet: {key('new_sweep')} starts a sweep"
        self.panes()[0].title(nothing or self.table.title)

    # -- what is selected

    def selected_sweep(self) -> SweepView | None:
        """The sweep under the cursor."""
        key = self.table.selected
        snapshot = self.lab.snapshot
        if key is None:
            return None
        live = (view for view in (snapshot.queue if snapshot else ()) if str(view.id) == key)
        return next(live, self.kept.get(int(key)))

    def target(self) -> Target | None:
        """The best cell of the selected sweep."""
        view = self.selected_sweep()
        return Target(view.id, None) if view is not None else None

    def footer_label(self, action: Action) -> str:
        """What can be done with the selected sweep."""
        view = self.selected_sweep()
        match action.name:
            case "apply" | "measure_again":
                return action.label if view is not None and view.best is not None else ""
            case "open" | "export":
                return action.label if view is not None else ""
            case "compare":
                return "compare" if self.lab.marked not in (None, view.id if view else None) else "mark"
            case "filter" | "sort" | "new_sweep" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    # -- actions of this screen

    async def on_data_table_row_selected(self) -> None:
        """Enter or two clicks on a row."""
        await self.action_act("open")

    def on_data_table_row_highlighted(self) -> None:
        """Other things can be done with another sweep."""
        self.show_footer()

    def on_data_table_header_selected(self) -> None:
        """The table has another order."""
        self.panes()[0].title(self.table.title)

    def act_open(self) -> None:
        """One sweep in full."""
        view = self.selected_sweep()
        if view is not None:
            self.open_sweep(view)

    def act_sort(self) -> None:
        """Sort by the next column."""
        self.table.turn()
        self.panes()[0].title(self.table.title)

    def act_sort_back(self) -> None:
        """Turn the order round."""
        self.table.reverse()
        self.panes()[0].title(self.table.title)

    def act_copy(self) -> None:
        """Copy the command that shows the selected sweep."""
        view = self.selected_sweep()
        if view is not None:
            self.copy(f"lab-tui results show {view.id}")


def _told(view: SweepView) -> object:
    """What of a sweep the table shows and does not change with every tick."""
    return (view.id, view.name, view.status, done(view), view.best, view.reason)
