"""The runner: one sweep, one cell after the other, until its plan has no more.

Every change is in the store before anything goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lab_tui.model import (
    CellStatus,
    CellView,
    FleetSpec,
    LabError,
    LoadView,
    Measurement,
    SweepStatus,
    SweepView,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.store.store import Store, StoredSweep
from lab_tui.sweep import course, space, summary
from lab_tui.sweep.cell import Meter, context, model_identity
from lab_tui.sweep.fit import Fit
from lab_tui.sweep.plan import OPEN

log = logging.getLogger(__name__)

JOURNAL_S = 2.0  # so much of a sweep's time, at most, is forgotten when the engine is killed


class Tools(NamedTuple):
    """What a sweep is run with; ``changed`` is called after every change."""

    fleet: Fleet
    store: Store
    meter: Meter
    fit: Fit
    changed: Callable[[], None]


class Runner:
    """Owns the running cell of one sweep. ``paused`` is asked before each cell."""

    def __init__(
        self, tools: Tools, sweep: StoredSweep, amount: summary.Amount, paused: Callable[[], bool]
    ) -> None:
        self.sweep = msgspec.structs.replace(sweep, status=SweepStatus.RUNNING)
        self.amount = amount  # what its cells amount to
        self.load: LoadView | None = None
        self._fleet, self._store, self._meter, self._fit, self._changed = tools
        self._paused = paused
        self._cell: asyncio.Task[Measurement] | None = None
        self._cell_began = 0.0  # monotonic
        self._cell_label = ""
        self._verdict_on_cancel: tuple[CellStatus, str] = (CellStatus.PENDING, "")

    def view(self) -> SweepView:
        """The sweep as a line."""
        at_work = self._cell is not None
        return summary.view(
            self.sweep,
            now=self._cell_label if at_work else "",
            load=self.load,
            running_s=time.monotonic() - self._cell_began if at_work else 0.0,
            found=self.amount,
        )

    # -- commands

    def skip(self) -> None:
        """Leave the running cell out. Raises LabError when none runs."""
        if self._cell is None:
            raise LabError("no cell is running", "`lab-tui queue` shows what waits")
        self._cancel_cell(CellStatus.SKIPPED, "skipped by hand")

    def abort(self) -> None:
        """End the sweep; what was measured stays."""
        self.sweep = msgspec.structs.replace(self.sweep, status=SweepStatus.ABORTED)
        if self._cell is not None:
            self._cancel_cell(CellStatus.SKIPPED, "the sweep was aborted")

    async def put_back(self) -> None:
        """End the running cell, to be measured again. Returns when it has let go of the fleet."""
        cell = self._cell
        if cell is not None:
            self._cancel_cell(CellStatus.PENDING, "")
            await asyncio.wait({cell})

    # -- the loop

    async def run(self) -> StoredSweep | None:
        """Cell after cell until the plan has no more, the queue is paused or the sweep aborted.

        The sweep when it is to go on later; None when it is over.
        """
        await self._keep(SweepStatus.RUNNING)
        over = False
        while not over and self.sweep.status == SweepStatus.RUNNING:
            step = await asyncio.to_thread(course.following, self.sweep)
            await self._skip_cells(step.skips)
            over = step.index is None
            if step.index is not None:
                if self._paused():
                    break
                await self._run_cell(step.index)
        return await self._close(over)

    async def _close(self, over: bool) -> StoredSweep | None:
        """Done, failed when no cell could be measured, aborted, or given back to the queue."""
        cells = self.sweep.cells
        if self._aborted():
            why = "the sweep was aborted"
            await self._skip_cells({cell.index: why for cell in cells if cell.status in OPEN})
            await self._keep(SweepStatus.ABORTED, "aborted by hand")
        elif not over:
            await self._keep(SweepStatus.PAUSED)
            return await self._close(over) if self._aborted() else self.sweep  # while that was written
        elif any(cell.status == CellStatus.MEASURED for cell in cells):
            await self._keep(SweepStatus.DONE, await asyncio.to_thread(summary.closing_words, self.sweep))
        else:
            first = next((cell.reason for cell in cells if cell.reason), "no cell was measured")
            await self._keep(SweepStatus.FAILED, first)
        return None

    async def _run_cell(self, index: int) -> None:
        """Measure a cell, or one that is measured once more."""
        view = self.sweep.cells[index]
        again = view.result is not None
        if not again and await self._leave_out_what_does_not_fit(view.cell.fleet):
            return
        self._cell_label = space.label(view.cell) + (" again" if again else "")
        self._cell_began = time.monotonic()
        self._verdict_on_cancel = (CellStatus.PENDING, "")
        started = time.time()
        if not again:
            await self._put(index, status=CellStatus.RUNNING, started=started)
        if self._paused() or self.sweep.status != SweepStatus.RUNNING:
            if not again:
                await self._put(index, status=CellStatus.PENDING)  # paused or aborted while that was written
            return
        self._cell = asyncio.create_task(
            self._meter.cell(view.cell, self.sweep.spec, self._on_view), name="cell"
        )
        try:
            await self._until_measured(self._cell)
        finally:
            task, self._cell, self.load = self._cell, None, None
            if not task.done():  # the engine ends
                task.cancel()
                await asyncio.wait({task})
        spent_s = time.monotonic() - self._cell_began
        outcome = await self._outcome(task, view.cell.fleet)
        fields = _once_more(view, outcome) if again else {**outcome, "took_s": spent_s}
        await self._put(index, spent_s=spent_s, **fields)
        for fits in await self._fit.come_back(self.sweep.cells):
            await self._put(fits, status=CellStatus.PENDING, reason="")

    async def _until_measured(self, cell: asyncio.Task[Measurement]) -> None:
        """Wait for the cell, its time being kept meanwhile; where the budget ends first it is cut off."""
        left_s = course.time_left_s(self.sweep)
        while not cell.done():
            spent_s = time.monotonic() - self._cell_began
            if left_s is not None and spent_s >= left_s:
                self._cancel_cell(CellStatus.SKIPPED, course.used_up(self.sweep.spec))
                await asyncio.wait({cell})
                return
            try:
                await self._store.call(self._store.set_elapsed, self.sweep.id, self.sweep.elapsed_s + spent_s)
            except LabError as error:  # the cell goes on: its result is kept with a write of its own
                log.warning("the time of sweep %d is not kept: %s", self.sweep.id, error)
            wait_s = JOURNAL_S if left_s is None else min(JOURNAL_S, left_s - spent_s)
            await asyncio.wait({cell}, timeout=wait_s)

    async def _leave_out_what_does_not_fit(self, fleet: FleetSpec) -> bool:
        """Skip every open cell of ``fleet`` when it needs more memory than there is; whether it does."""
        why = await self._fit.refusal(fleet, self.sweep.cells)
        if why:
            alike = (cell for cell in self.sweep.cells if cell.status in OPEN and cell.cell.fleet == fleet)
            await self._skip_cells({cell.index: why for cell in alike})
        return bool(why)

    async def _outcome(self, task: asyncio.Task[Measurement], fleet: FleetSpec) -> dict[str, Any]:
        """What became of the cell, as fields of its CellView."""
        if task.cancelled():
            status, reason = self._verdict_on_cancel
            return {"status": status, "reason": reason}
        error = task.exception()
        if error is None:
            return {
                "status": CellStatus.MEASURED,
                "result": task.result(),
                "context": await self._kept(fleet),
            }
        reason = str(error) if isinstance(error, LabError) else f"internal error: {error!r}"
        log.error("cell %s failed: %s", self._cell_label, reason, exc_info=error)
        lines = [line for view in self._fleet.views() for line in view.log_tail]
        return {"status": CellStatus.FAILED, "reason": reason, "context": {"log": lines}}

    async def _kept(self, fleet: FleetSpec) -> dict[str, Any]:
        """What is kept with a result. The result is kept too when some of it is not to be had."""
        try:
            kept = await context(self._fleet)
            kept["model"] = await asyncio.to_thread(model_identity, Path(fleet.model))
            return kept | await self._fit.taken(fleet)
        except (LabError, OSError) as error:
            log.warning("what cell %s ran on is not kept: %s", self._cell_label, error)
            return {"unknown": str(error)}

    async def _skip_cells(self, reasons: dict[int, str]) -> None:
        """Leave cells out, all in one write."""
        if not reasons:
            return
        cells = list(self.sweep.cells)
        for index, why in reasons.items():
            cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.SKIPPED, reason=why)
        out = [cells[index] for index in reasons]
        await self._store.call(self._store.put_cells, self.sweep.id, out, self.sweep.elapsed_s)
        self.sweep = msgspec.structs.replace(self.sweep, cells=tuple(cells))
        self._changed()

    async def _put(self, index: int, spent_s: float = 0.0, **fields: Any) -> None:
        """Change a cell, in the store first; ``spent_s`` counts as time of the sweep."""
        changed: CellView = msgspec.structs.replace(self.sweep.cells[index], **fields)
        elapsed_s = self.sweep.elapsed_s + spent_s
        await self._store.call(self._store.put_cells, self.sweep.id, [changed], elapsed_s)
        cells = (*self.sweep.cells[:index], changed, *self.sweep.cells[index + 1 :])
        if fields.keys() & {"result", "repeats"}:
            self.amount = await asyncio.to_thread(summary.amount, cells, self.sweep.spec.slo)
        self.sweep = msgspec.structs.replace(self.sweep, cells=cells, elapsed_s=elapsed_s)
        self._changed()

    async def _keep(self, status: SweepStatus, reason: str = "") -> None:
        """Change where the sweep is, in the store first."""
        await self._store.call(self._store.set_status, self.sweep.id, status, self.sweep.elapsed_s, reason)
        if self._aborted() and status != SweepStatus.ABORTED:
            return  # aborted while that was written
        self.sweep = msgspec.structs.replace(self.sweep, status=status, reason=reason)
        self._changed()

    def _aborted(self) -> bool:
        return self.sweep.status == SweepStatus.ABORTED

    def _cancel_cell(self, status: CellStatus, reason: str) -> None:
        assert self._cell is not None
        if not self._cell.cancelling():  # a second one would cut its cleaning up short
            self._verdict_on_cancel = (status, reason)
            self._cell.cancel()

    def _on_view(self, view: LoadView) -> None:
        self.load = view
        self._changed()


def _once_more(view: CellView, outcome: dict[str, Any]) -> dict[str, Any]:
    """The fields of a measured cell after it was measured again, or after that did not come to an end.

    What was measured is kept whatever happens. A cell that fails is no winner: its figures go into the
    context.
    """
    if outcome["status"] == CellStatus.MEASURED:
        return {"repeats": (*view.repeats, outcome["result"])}
    if outcome["status"] == CellStatus.FAILED:
        earlier = msgspec.to_builtins((view.result, *view.repeats))
        context = {**view.context, **outcome["context"], "earlier": earlier}
        reason = f"measured again, it failed: {outcome['reason']}"
        return {**outcome, "reason": reason, "result": None, "repeats": (), "context": context}
    if outcome["status"] == CellStatus.SKIPPED:
        return {"reason": f"not measured again: {outcome['reason']}"}
    return {}
