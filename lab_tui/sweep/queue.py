"""The queue: sweeps that wait, and the one that runs, one cell after the other.

Every change is in the store before anything goes on, so a queue that was killed anywhere resumes
with every finished cell and measures the one it was in again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lab_tui import tasks
from lab_tui.model import (
    Cell,
    CellStatus,
    CellView,
    FleetSpec,
    LabError,
    LoadView,
    Measurement,
    SweepDetail,
    SweepSpec,
    SweepStatus,
    SweepView,
)
from lab_tui.serving import llama_server
from lab_tui.serving.fleet import Fleet
from lab_tui.store.store import Store, StoredSweep
from lab_tui.sweep import course, space, summary
from lab_tui.sweep.before import Before
from lab_tui.sweep.cell import Meter, context, model_identity
from lab_tui.sweep.fit import Fit
from lab_tui.sweep.plan import OPEN
from lab_tui.sweep.strategy import strategy

log = logging.getLogger(__name__)

JOURNAL_S = 2.0  # so much of a sweep's time, at most, is forgotten when the engine is killed


class Queue:
    """Owns the running cell. ``claim`` is the lock that keeps a bench and a cell apart."""

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        meter: Meter,
        fit: Fit,
        before: Before,
        claim: asyncio.Lock,
        changed: Callable[[], None],
    ) -> None:
        self.paused = False
        self.notice = ""  # why it stopped by itself, for the screen
        self.load: LoadView | None = None
        self._fleet = fleet
        self._store = store
        self._meter = meter
        self._fit = fit
        self._before = before  # the fleet to give back when the queue is empty
        self._claim = claim
        self._changed = changed
        self._waiting: list[StoredSweep] = []
        self._running: StoredSweep | None = None
        self._cell: asyncio.Task[Measurement] | None = None
        self._cell_began = 0.0  # monotonic
        self._cell_label = ""
        self._verdict_on_cancel: tuple[CellStatus, str] = (CellStatus.PENDING, "")
        self._amounts: dict[int, tuple[object, summary.Amount]] = {}  # of live sweeps
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def start(self, resume: bool) -> None:
        """Take up what the store holds. Unless ``resume``, sweeps found there wait for a word."""
        for sweep_id in await self._store.call(self._store.waiting):
            self._waiting.append(_reopened(await self._store.call(self._store.sweep, sweep_id)))
        self.paused = bool(self._waiting) and not resume
        self._task = tasks.begin(self._run(), "sweep queue")
        self._wake.set()

    async def stop(self) -> None:
        """End the loop; the running cell is measured again by the next engine."""
        task, self._task = self._task, None
        await tasks.end(task)

    # -- looking

    def running(self) -> SweepView | None:
        """The running sweep as a line."""
        sweep = self._running
        if sweep is None:
            return None
        at_work = self._cell is not None
        return summary.view(
            sweep,
            now=self._cell_label if at_work else "",
            phase=self.load.phase if self.load else None,
            running_s=time.monotonic() - self._cell_began if at_work else 0.0,
            found=self._amount(sweep),
        )

    def _amount(self, sweep: StoredSweep) -> summary.Amount:
        """What the cells of a live sweep amount to, worked out once for each new result."""
        results = [(cell.index, cell.result, cell.repeats) for cell in sweep.cells if cell.result is not None]
        key = [(index, id(result), len(repeats)) for index, result, repeats in results]
        known, found = self._amounts.get(sweep.id, (None, summary.Amount()))
        if known != key:
            found = summary.amount(sweep.cells, sweep.spec.slo)
            self._amounts[sweep.id] = (key, found)
        return found

    def views(self) -> tuple[SweepView, ...]:
        """The running sweep and those that wait, in order."""
        running = self.running()
        waiting = tuple(summary.view(sweep, found=self._amount(sweep)) for sweep in self._waiting)
        return (running, *waiting) if running else waiting

    async def all(self) -> list[SweepView]:
        """Every sweep ever kept, newest first, live where it lives."""
        live = {view.id: view for view in self.views()}
        kept = await self._store.call(self._store.sweeps)
        return await asyncio.to_thread(lambda: [live.get(sweep.id) or summary.view(sweep) for sweep in kept])

    async def detail(self, sweep_id: int) -> SweepDetail:
        """One sweep with its cells. Raises LabError when there is none."""
        live = [s for s in (self._running, *self._waiting) if s is not None and s.id == sweep_id]
        sweep = live[0] if live else await self._store.call(self._store.sweep, sweep_id)
        line = next((view for view in self.views() if view.id == sweep_id), None)
        return await asyncio.to_thread(lambda: summary.detail(sweep, line or summary.view(sweep)))

    # -- commands

    async def add(self, spec: SweepSpec) -> SweepView:
        """Queue a sweep after everything in it was checked. Raises LabError."""
        space.check(spec)
        strategy(spec.strategy)
        course.check_budget(spec)
        spec = space.laid_out(spec, llama_server.usable_cores())
        cells = await asyncio.to_thread(space.cells, spec)
        largest = max(cells, key=lambda cell: cell.fleet.instances)
        server, _ = await self._fleet.find_parts()
        space.check_arguments(server, spec)
        await self._fleet.check(largest.fleet)
        # To its end even when the one who asked has left: what is in the store is in the queue as well.
        return await asyncio.shield(tasks.begin(self._take_in(spec, cells), "new sweep"))

    async def _take_in(self, spec: SweepSpec, cells: list[Cell]) -> SweepView:
        sweep_id = await self._store.call(self._store.add, spec, cells)
        sweep = await self._store.call(self._store.sweep, sweep_id)
        self._waiting.append(sweep)
        self._wake.set()
        self._changed()
        return summary.view(sweep)

    async def pause(self) -> None:
        """Let the running cell finish, then wait."""
        self.paused = True
        self._changed()

    async def resume(self) -> None:
        """Go on."""
        self.paused, self.notice = False, ""
        self._wake.set()
        self._changed()

    async def skip(self) -> None:
        """Leave the running cell out. Raises LabError when none runs."""
        if self._cell is None:
            raise LabError("no cell is running", "`lab-tui queue` shows what waits")
        self._cancel_cell(CellStatus.SKIPPED, "skipped by hand")

    async def yield_fleet(self, *, pause: bool) -> None:
        """Somebody else decides on the fleet now: it is not given back later.

        With ``pause`` the queue pauses at once and the running cell is put back.
        """
        self.paused = self.paused or pause
        self._before.forget()
        cell = self._cell
        if cell is not None:
            self._cancel_cell(CellStatus.PENDING, "")
            await asyncio.wait({cell})

    async def remove(self, sweep_id: int) -> None:
        """Take a waiting sweep out, or abort the running one; what was measured stays."""
        running = self._running
        if running is not None and running.id == sweep_id:
            self._running = msgspec.structs.replace(running, status=SweepStatus.ABORTED)
            if self._cell is not None:
                self._cancel_cell(CellStatus.SKIPPED, "the sweep was aborted")
            self._wake.set()
            return
        sweep = self._waiting[self._place(sweep_id)]
        await asyncio.shield(tasks.begin(self._leave_out(sweep), "removed sweep"))

    async def _leave_out(self, sweep: StoredSweep) -> None:
        why = "removed from the queue"
        out = [
            msgspec.structs.replace(cell, status=CellStatus.SKIPPED, reason=why)
            for cell in sweep.cells
            if cell.status in OPEN
        ]
        await self._store.call(self._store.put_cells, sweep.id, out, sweep.elapsed_s)
        await self._store.call(self._store.set_status, sweep.id, SweepStatus.ABORTED, sweep.elapsed_s, why)
        self._waiting = [other for other in self._waiting if other.id != sweep.id]
        self._changed()

    async def move(self, sweep_id: int, position: int) -> None:
        """Put a waiting sweep at ``position`` among those that wait, 1 being next."""
        if position < 1:
            raise LabError(f"position is {position}", "give 1 or more")
        sweep = self._waiting.pop(self._place(sweep_id))
        self._waiting.insert(position - 1, sweep)
        order = (self._running, *self._waiting) if self._running else tuple(self._waiting)
        for place, kept in enumerate(order, start=1):
            await self._store.call(self._store.set_position, kept.id, float(place))
        self._changed()

    def _place(self, sweep_id: int) -> int:
        for place, sweep in enumerate(self._waiting):
            if sweep.id == sweep_id:
                return place
        raise LabError(f"sweep {sweep_id} is not waiting in the queue", "`lab-tui queue` shows what waits")

    # -- the loop

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and not self.paused:
                async with self._claim:
                    if self._waiting and not self.paused:  # while a bench ran that may have changed
                        await self._try_sweep(self._waiting.pop(0))
            if not self._waiting:
                async with self._claim:
                    await self._before.give_back()

    async def _try_sweep(self, sweep: StoredSweep) -> None:
        """Run a sweep; when that fails it goes back to its place and the queue waits for help."""
        try:
            await self._run_sweep(sweep)
        except Exception as error:  # whatever it is, the queue outlives it, and says it
            log.error("the queue is paused: %s", error, exc_info=not isinstance(error, LabError))
            why = str(error) if isinstance(error, LabError) else f"internal error: {error!r}"
            self.notice, self.paused = f"the queue is paused: {why}", True
            self._waiting.insert(0, await self._as_kept(self._running or sweep))
        finally:
            self._running = None
            self._amounts.clear()
            self._changed()

    async def _as_kept(self, sweep: StoredSweep) -> StoredSweep:
        """The sweep as the store has it, or as it was last when not even that can be read."""
        try:
            return _reopened(await self._store.call(self._store.sweep, sweep.id))
        except LabError:
            return _reopened(sweep)

    async def _run_sweep(self, sweep: StoredSweep) -> None:
        """Cell after cell until the plan has no more, the queue is paused or the sweep aborted."""
        self._before.take()
        self._running = msgspec.structs.replace(sweep, status=SweepStatus.RUNNING)
        await self._keep(SweepStatus.RUNNING)
        over = False
        while not over and self._running.status == SweepStatus.RUNNING:
            step = await asyncio.to_thread(course.following, self._running)
            await self._skip_cells(step.skips)
            over = step.index is None
            if step.index is not None:
                if self.paused:
                    break
                await self._run_cell(step.index)
        await self._close_sweep(over)

    async def _close_sweep(self, over: bool) -> None:
        """Done, failed when no cell could be measured, aborted, or back into the queue."""
        sweep = self._running
        assert sweep is not None
        cells = sweep.cells
        if sweep.status == SweepStatus.ABORTED:
            why = "the sweep was aborted"
            await self._skip_cells({cell.index: why for cell in cells if cell.status in OPEN})
            await self._keep(SweepStatus.ABORTED, "aborted by hand")
        elif not over:
            await self._keep(SweepStatus.PAUSED)
            if self._running is not None and self._running.status == SweepStatus.ABORTED:
                await self._close_sweep(over)  # aborted while that was written
            else:
                self._waiting.insert(0, self._running or sweep)
        elif any(cell.status == CellStatus.MEASURED for cell in cells):
            await self._keep(SweepStatus.DONE, await asyncio.to_thread(summary.closing_words, sweep))
        else:
            first = next((cell.reason for cell in cells if cell.reason), "no cell was measured")
            await self._keep(SweepStatus.FAILED, first)

    async def _run_cell(self, index: int) -> None:
        """Measure a cell, or one that is measured once more."""
        sweep = self._running
        assert sweep is not None
        view = sweep.cells[index]
        again = view.result is not None
        if not again and await self._leave_out_what_does_not_fit(view.cell.fleet):
            return
        self._cell_label = space.label(view.cell) + (" again" if again else "")
        self._cell_began = time.monotonic()
        self._verdict_on_cancel = (CellStatus.PENDING, "")
        started = time.time()
        if not again:
            await self._put(index, status=CellStatus.RUNNING, started=started)
        if self.paused or self._running is None or self._running.status != SweepStatus.RUNNING:
            if not again:
                await self._put(index, status=CellStatus.PENDING)  # paused or aborted while that was written
            return
        self._cell = asyncio.create_task(self._meter.cell(view.cell, sweep.spec, self._on_view), name="cell")
        try:
            await self._until_measured(self._cell, sweep)
        finally:
            task, self._cell, self.load = self._cell, None, None
            if not task.done():  # the engine ends
                task.cancel()
                await asyncio.wait({task})
        spent_s = time.monotonic() - self._cell_began
        outcome = await self._outcome(task, view.cell.fleet)
        fields = _once_more(view, outcome) if again else {**outcome, "took_s": spent_s}
        await self._put(index, spent_s=spent_s, **fields)
        for fits in await self._fit.come_back(self._running.cells) if self._running else ():
            await self._put(fits, status=CellStatus.PENDING, reason="")

    async def _until_measured(self, cell: asyncio.Task[Measurement], sweep: StoredSweep) -> None:
        """Wait for the cell, its time being kept meanwhile; where the budget ends first it is cut off."""
        left_s = course.time_left_s(sweep)
        while not cell.done():
            spent_s = time.monotonic() - self._cell_began
            if left_s is not None and spent_s >= left_s:
                self._cancel_cell(CellStatus.SKIPPED, course.used_up(sweep.spec))
                await asyncio.wait({cell})
                return
            try:
                await self._store.call(self._store.set_elapsed, sweep.id, sweep.elapsed_s + spent_s)
            except LabError as error:  # the cell goes on: its result is kept with a write of its own
                log.warning("the time of sweep %d is not kept: %s", sweep.id, error)
            wait_s = JOURNAL_S if left_s is None else min(JOURNAL_S, left_s - spent_s)
            await asyncio.wait({cell}, timeout=wait_s)

    async def _leave_out_what_does_not_fit(self, fleet: FleetSpec) -> bool:
        """Skip every open cell of ``fleet`` when it needs more memory than there is; whether it does."""
        sweep = self._running
        assert sweep is not None
        why = await self._fit.refusal(fleet, sweep.cells)
        if why:
            alike = (cell for cell in sweep.cells if cell.status in OPEN and cell.cell.fleet == fleet)
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
        sweep = self._running
        assert sweep is not None
        if not reasons:
            return
        cells = list(sweep.cells)
        for index, why in reasons.items():
            cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.SKIPPED, reason=why)
        out = [cells[index] for index in reasons]
        await self._store.call(self._store.put_cells, sweep.id, out, sweep.elapsed_s)
        self._running = msgspec.structs.replace(self._running or sweep, cells=tuple(cells))
        self._changed()

    async def _put(self, index: int, spent_s: float = 0.0, **fields: Any) -> None:
        """Change a cell, in the store first; ``spent_s`` counts as time of the sweep."""
        sweep = self._running
        assert sweep is not None
        changed: CellView = msgspec.structs.replace(sweep.cells[index], **fields)
        elapsed_s = sweep.elapsed_s + spent_s
        await self._store.call(self._store.put_cells, sweep.id, [changed], elapsed_s)
        cells = (*sweep.cells[:index], changed, *sweep.cells[index + 1 :])
        self._running = msgspec.structs.replace(self._running or sweep, cells=cells, elapsed_s=elapsed_s)
        self._changed()

    async def _keep(self, status: SweepStatus, reason: str = "") -> None:
        """Change where the sweep is, in the store first."""
        sweep = self._running
        assert sweep is not None
        await self._store.call(self._store.set_status, sweep.id, status, sweep.elapsed_s, reason)
        now = self._running or sweep
        if now.status == SweepStatus.ABORTED != status:
            return  # aborted while that was written
        self._running = msgspec.structs.replace(now, status=status, reason=reason)
        self._changed()

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


def _reopened(sweep: StoredSweep) -> StoredSweep:
    """A sweep from the store, to go on with: the cell it was in is to be measured again."""
    cells = tuple(
        msgspec.structs.replace(c, status=CellStatus.PENDING) if c.status in OPEN else c for c in sweep.cells
    )
    return msgspec.structs.replace(sweep, cells=cells, status=SweepStatus.QUEUED)
