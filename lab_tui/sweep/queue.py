"""The queue: sweeps that wait, and the one that runs.

Every change is in the store before anything goes on, so a queue that was killed anywhere resumes
with every finished cell and measures the one it was in again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from lab_tui import tasks
from lab_tui.load.workload import read_prompts
from lab_tui.model import (
    Cell,
    CellStatus,
    LabError,
    LoadView,
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
from lab_tui.sweep.cell import Meter
from lab_tui.sweep.fit import Fit
from lab_tui.sweep.plan import OPEN
from lab_tui.sweep.runner import Runner, Tools
from lab_tui.sweep.strategy import strategy

log = logging.getLogger(__name__)


class Queue:
    """Owns the sweeps that live. ``claim`` is the lock that keeps a bench and a cell apart."""

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
        self.paused_why = ""  # why it paused by itself; empty where a person did
        self._fleet = fleet
        self._store = store
        self._tools = Tools(fleet, store, meter, fit, changed)
        self.before = before  # the fleet to give back when the queue is empty
        self._claim = claim
        self._changed = changed
        self._waiting: list[StoredSweep] = []
        self._runner: Runner | None = None
        self._amounts: dict[int, summary.Amount] = {}  # of the waiting sweeps that have results
        self._over: dict[int, SweepView] = {}  # what is over does not change any more
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[Any]] = set()  # changes under way, whether or not who asked waits

    # -- life

    async def start(self, resume: bool) -> None:
        """Take up what the store holds. Unless ``resume``, sweeps found there wait for a word."""
        for sweep_id in await self._store.call(self._store.waiting):
            sweep = _reopened(await self._store.call(self._store.sweep, sweep_id))
            await self._weigh(sweep)
            self._waiting.append(sweep)
        self.paused = bool(self._waiting) and not resume
        self._task = tasks.begin(self._run(), "sweep queue")
        self._wake.set()

    async def stop(self) -> None:
        """End the loop; the running cell is measured again by the next engine."""
        task, self._task = self._task, None
        await tasks.end(task)
        await tasks.all_ended(self._writing)

    # -- looking

    @property
    def load(self) -> LoadView | None:
        """The load of the running cell."""
        return self._runner.load if self._runner else None

    def running(self) -> SweepView | None:
        """The running sweep as a line."""
        return self._runner.view() if self._runner else None

    def _amount(self, sweep: StoredSweep) -> summary.Amount:
        """What the cells of a waiting sweep amount to."""
        return self._amounts.get(sweep.id, summary.Amount())

    async def _weigh(self, sweep: StoredSweep) -> None:
        """Work that out, in a thread: for thousands of cells it takes longer than the loop may wait."""
        self._amounts[sweep.id] = await asyncio.to_thread(summary.amount, sweep.cells, sweep.spec.slo)

    def views(self) -> tuple[SweepView, ...]:
        """The running sweep and those that wait, in order."""
        running = self.running()
        waiting = tuple(summary.view(sweep, found=self._amount(sweep)) for sweep in self._waiting)
        return (running, *waiting) if running else waiting

    def _live(self) -> list[StoredSweep]:
        """The running sweep and those that wait, in order."""
        return [*([self._runner.sweep] if self._runner else []), *self._waiting]

    async def all(self) -> list[SweepView]:
        """Every sweep ever kept, newest first, live where it lives.

        Those that are over are read once, one after the other: thousands of cells would hold the loop.
        """
        live = {view.id: view for view in self.views()}
        lines = []
        for sweep_id in await self._store.call(self._store.ids):
            line = live.get(sweep_id) or self._over.get(sweep_id)
            if line is None:
                line = await asyncio.to_thread(
                    summary.view, await self._store.call(self._store.sweep, sweep_id)
                )
                if line.status in summary.OVER:
                    self._over[sweep_id] = line
            lines.append(line)
        return lines

    async def detail(self, sweep_id: int) -> SweepDetail:
        """One sweep with its cells. Raises LabError when there is none."""
        live = [sweep for sweep in self._live() if sweep.id == sweep_id]
        sweep = live[0] if live else await self._store.call(self._store.sweep, sweep_id)
        line = next((view for view in self.views() if view.id == sweep_id), None)
        return await asyncio.to_thread(lambda: summary.detail(sweep, line or summary.view(sweep)))

    # -- commands

    async def add(self, spec: SweepSpec) -> SweepView:
        """Queue a sweep after everything in it was checked. Raises LabError."""
        space.check(spec)
        strategy(spec.strategy)
        course.check_budget(spec)
        if spec.workload.prompt_file:
            await asyncio.to_thread(read_prompts, spec.workload.prompt_file)
        spec = space.laid_out(spec, llama_server.usable_cores())
        cells = await asyncio.to_thread(space.cells, spec)
        largest = max(cells, key=lambda cell: (cell.fleet.instances, cell.fleet.mps == "on"))
        server, _ = await self._fleet.find_parts()
        await space.check_arguments(server, spec)
        await self._fleet.check(largest.fleet, for_room=False)  # what does not fit is left out, cell by cell
        # To its end even when the one who asked has left: what is in the store is in the queue as well.
        return await tasks.to_its_end(self._take_in(spec, cells), "new sweep", self._writing)

    async def _take_in(self, spec: SweepSpec, cells: list[Cell]) -> SweepView:
        sweep_id = await self._store.call(self._store.add, spec, cells)
        sweep = await self._store.call(self._store.sweep, sweep_id)
        self._waiting.append(sweep)
        self._wake.set()
        self._changed()
        return summary.view(sweep, found=self._amount(sweep))

    async def pause(self) -> None:
        """Let the running cell finish, then wait."""
        self.paused = True
        self._changed()

    async def resume(self) -> None:
        """Go on."""
        self.paused, self.paused_why = False, ""
        self._wake.set()
        self._changed()

    async def skip(self) -> None:
        """Leave the running cell out. Raises LabError when none runs."""
        if self._runner is None:
            raise LabError("no cell is running", "`lab-tui queue` shows what waits")
        self._runner.skip()

    async def yield_fleet(self, *, pause: bool) -> None:
        """Somebody else decides on the fleet now: it is not given back later.

        With ``pause`` the queue pauses at once and the running cell is put back.
        """
        self.paused = self.paused or pause
        self.before.forget()
        if self._runner is not None:
            await self._runner.put_back()

    async def remove(self, sweep_id: int) -> None:
        """Take a waiting sweep out, or abort the running one; what was measured stays."""
        if self._runner is not None and self._runner.sweep.id == sweep_id:
            self._runner.abort()
            self._wake.set()
            return
        sweep = self._waiting[self._place(sweep_id)]
        await tasks.to_its_end(self._leave_out(sweep), "removed sweep", self._writing)

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
        self._amounts.pop(sweep.id, None)
        self._changed()

    async def move(self, sweep_id: int, position: int) -> None:
        """Put a waiting sweep at ``position`` among those that wait, 1 being next."""
        if position < 1:
            raise LabError(f"position is {position}", "give 1 or more")
        sweep = self._waiting.pop(self._place(sweep_id))
        self._waiting.insert(position - 1, sweep)
        for place, kept in enumerate(self._live(), start=1):
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
                    await self.before.give_back()
                self._changed()

    async def _try_sweep(self, sweep: StoredSweep) -> None:
        """Run a sweep; when that fails it goes back to its place and the queue waits for help."""
        try:
            self.before.take()
            self._runner = Runner(self._tools, sweep, self._amount(sweep), lambda: self.paused)
            goes_on = await self._runner.run()
            if goes_on is not None:
                self._amounts[sweep.id] = self._runner.amount
                self._waiting.insert(0, goes_on)
            else:
                self._amounts.pop(sweep.id, None)
        except Exception as error:  # whatever it is, the queue outlives it, and says it
            log.error("the queue is paused: %s", error, exc_info=not isinstance(error, LabError))
            why = str(error) if isinstance(error, LabError) else f"internal error: {error!r}"
            self.paused_why, self.paused = why, True
            sweep = await self._as_kept(self._runner.sweep if self._runner else sweep)
            await self._weigh(sweep)
            self._waiting.insert(0, sweep)
        finally:
            self._runner = None
            self._changed()

    async def _as_kept(self, sweep: StoredSweep) -> StoredSweep:
        """The sweep as the store has it, or as it was last when not even that can be read."""
        try:
            return _reopened(await self._store.call(self._store.sweep, sweep.id))
        except LabError:
            return _reopened(sweep)


def _reopened(sweep: StoredSweep) -> StoredSweep:
    """A sweep from the store, to go on with: the cell it was in is to be measured again."""
    cells = tuple(
        msgspec.structs.replace(c, status=CellStatus.PENDING) if c.status in OPEN else c for c in sweep.cells
    )
    return msgspec.structs.replace(sweep, cells=cells, status=SweepStatus.QUEUED)
