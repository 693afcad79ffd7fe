"""The engine: owns the fleet, the queue, the store and the telemetry, and does what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec

from lab_tui import tasks
from lab_tui.config import Settings, fleet_spec
from lab_tui.engine import exports
from lab_tui.engine.ahead import Ahead
from lab_tui.engine.last import LastFleet
from lab_tui.engine.logs import follow as follow_lines
from lab_tui.engine.logs import log_file
from lab_tui.engine.mps import MpsWatch
from lab_tui.engine.snapshots import Changes, Snapshots
from lab_tui.load.plan import LoadPlan
from lab_tui.model import (
    TABLE_FORMATS,
    BenchEvent,
    BenchSpec,
    ExportSpec,
    FleetSpec,
    LabError,
    LoadView,
    Measurement,
    ModelFile,
    Outline,
    ResultsFile,
    SweepSpec,
    SweepView,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.models import default_model
from lab_tui.serving.parts import LlamaServer
from lab_tui.store.store import FILE_NAME, Store
from lab_tui.sweep import imports, space
from lab_tui.sweep.before import Before
from lab_tui.sweep.calibration import Calibration
from lab_tui.sweep.cell import Meter, bench_plan, remote
from lab_tui.sweep.feel import Feels
from lab_tui.sweep.fit import Fit, fitting
from lab_tui.sweep.machine import Around
from lab_tui.sweep.outline import look_ahead
from lab_tui.sweep.queue import Queue
from lab_tui.telemetry.poller import Poller


class Engine:
    """Everything that runs, and the commands for it; what viewers see of it is ``snapshots``."""

    def __init__(self, settings: Settings, *, runtime: Path, state: Path, logs: Path) -> None:
        self.settings = settings
        self.stop_requested = asyncio.Event()
        self._changes = Changes()
        self._poller = Poller(settings.engine.poll_s)
        self.fleet = Fleet(settings, runtime, logs, self._changes.tell, self._poller.answered)
        self._store = Store(state / FILE_NAME)
        self._claim = asyncio.Lock()  # one load at a time: a bench or a cell
        self._calibration = Calibration(
            runtime / "calibration",
            state / "ceiling.json",
            logs / "nginx.log",
            wanted=settings.engine.calibrate,
        )
        self._meter = Meter(self.fleet, self._around, self._calibration, self._poller.calm)
        self._fit = Fit(self.fleet, lambda: self._poller.latest, settings.serve.reserve_gb)
        before = Before(self.fleet, state / "fleet-before-sweep.json")
        self.queue = Queue(
            self.fleet, self._store, self._meter, self._fit, before, self._claim, self._changes.tell
        )
        self._ahead = Ahead(settings, lambda: self.fleet.spec is None, self._changes.tell)
        self._mps = MpsWatch(lambda: self._poller.latest.gpus)
        self._last = LastFleet(state / "fleet-last.json")
        self.snapshots = Snapshots(
            self.fleet,
            self.queue,
            self._store,
            self._poller,
            self._ahead,
            self._mps,
            self._last,
            self._changes,
            self.stop_requested,
            logs / "engine.log",
        )
        self._logs = logs
        self._keep_fleet = False
        self._bench: asyncio.Task[Measurement] | None = None
        self._bench_stop = asyncio.Event()
        self._commands: set[asyncio.Task[Any]] = set()  # under way, whether or not who asked waits

    # -- life

    async def start(self) -> None:
        """Open the store, take over what an engine before left, begin to read and to queue."""
        await self._store.call(self._store.open)
        self._poller.start()
        await self._calibration.clear()
        await self.fleet.adopt()
        await self.queue.start(resume=self.settings.engine.resume_queue)
        self._ahead.start()
        self._mps.start()
        self.snapshots.start()

    def request_stop(self, keep_fleet: bool = False) -> None:
        """Ask for the end; ``stop_requested`` tells whoever runs the engine."""
        self._keep_fleet = keep_fleet
        self.stop_requested.set()
        self._changes.tell()

    def kill_children(self) -> None:
        """Whoever waits for the end of the fleet need not wait any longer."""
        self.fleet.kill()

    async def stop(self) -> None:
        """End the load, the queue and (unless it is to be kept) the fleet, then the store."""
        await self.snapshots.stop()
        await self._ahead.stop()
        await self._mps.stop()
        await self.queue.stop()
        await tasks.end(self._bench)
        await tasks.all_ended(self._commands)  # none brings up again what is taken down now
        if self._keep_fleet:
            await self.fleet.detach()
        else:
            await self.queue.yield_fleet(pause=False)  # what was told to stop is not started again later
            await self.fleet.down()
        await self._poller.stop()
        await self._store.close()

    # -- questions

    def log_lines(self, source: str, tail: int, *, follow: bool) -> AsyncGenerator[str, None]:
        """Lines of a log: "0", "1", …, "nginx" or "engine". Raises LabError for another name."""
        return follow_lines(log_file(self._logs, source), tail, keep=follow)

    async def presets(self) -> dict[str, SweepSpec]:
        """Every named sweep, over the fleet's settings or the default ones."""
        fleet = self.fleet.spec if self.queue.running() is None else None
        if fleet is None:
            try:
                model = await asyncio.to_thread(default_model, self.settings)
            except LabError:  # none found: the form asks for one
                model = ""
            fleet = fleet_spec(self.settings, model)
        return {name: space.preset(name, space.plain(fleet)) for name in space.PRESETS}

    async def outline(self, spec: SweepSpec) -> Outline:
        """What ``spec`` would come to, checked but not queued. Raises LabError."""

        async def server() -> LlamaServer:
            return (await self.fleet.find_parts())[0]

        return await look_ahead(spec, self._fit.room(), server)

    async def models(self, spec: FleetSpec) -> AsyncGenerator[ModelFile, None]:
        """The models of this machine as they are found: how many instances of ``spec`` fit, how they felt."""
        found, feels = fitting(spec, self._fit.room()), Feels(self._store)
        while (model := await asyncio.to_thread(next, found, None)) is not None:
            yield msgspec.structs.replace(model, felt=await feels.of(model))

    # -- commands

    async def up(self, spec: FleetSpec) -> None:
        """Make the fleet be ``spec``, also when who asked has left. Raises LabError while it is measured."""
        self._refuse_while_measuring()
        await tasks.to_its_end(self._up(spec), "fleet up", self._commands)

    async def _up(self, spec: FleetSpec) -> None:
        async with self._claim:  # the queue waits, so that it does not take the fleet meanwhile
            await self.fleet.check(spec)
            self._refuse_while_stopping()  # that it was asked to do meanwhile
            await self.queue.yield_fleet(pause=False)
            await self.fleet.up(spec)
            self._last.keep(spec)

    async def check(self, spec: FleetSpec) -> str:
        """Why ``spec`` may not fit, "" where it does; nothing is touched. Raises LabError where ``up`` would.

        The estimate keeps nobody from trying: it may be too high.
        """
        self._refuse_while_measuring()
        await self.fleet.check(spec)
        return await self._fit.refusal(spec, ())

    async def instance(self, index: int, action: str) -> None:
        """``start``, ``stop`` or ``restart`` one instance. Raises LabError while something is measured."""
        actions = {"start": self.fleet.start, "stop": self.fleet.stop, "restart": self.fleet.restart}
        if action not in actions:
            raise LabError(f"an instance cannot {action}", f"use {', '.join(actions)}")
        self._refuse_while_measuring()
        await tasks.to_its_end(actions[action](index), f"{action} instance {index}", self._commands)

    def _refuse_while_measuring(self) -> None:
        """A fleet that changes while it is measured would make the figures wrong."""
        self._refuse_while_stopping()
        if self.queue.running() is not None:
            way = "`lab-tui queue pause` lets it finish its cell and stop, or wait for it"
            if self.queue.paused:
                way = "it finishes its cell and stops there; try again once `lab-tui queue` shows that"
            raise LabError("a sweep is using the fleet", way)
        if self._bench is not None and not self._bench.done():
            raise LabError("a bench is measuring the fleet", "wait for it, or `lab-tui down` ends it")

    def _refuse_while_stopping(self) -> None:
        if self.stop_requested.is_set():
            raise LabError("the engine is stopping", "run this again once it has")

    async def down(self) -> None:
        """Stop the fleet; a sweep that uses it is paused at once, a bench of it ends."""
        await tasks.to_its_end(self._down(), "fleet down", self._commands)

    async def _down(self) -> None:
        await tasks.end(self._bench)
        await self.queue.yield_fleet(pause=self.queue.running() is not None)
        await self.fleet.down()

    async def import_results(self, file: ResultsFile) -> SweepView:
        """Keep a CSV of results as a finished sweep. Raises LabError naming what is wrong with it."""
        return await imports.keep(self._store, file)

    async def export(self, asked: ExportSpec) -> dict[str, str]:
        """A sweep, or a fleet of it, as files by name. Raises LabError naming what stands in the way."""
        if asked.format in TABLE_FORMATS:
            detail = await self.queue.detail(asked.sweep)
            return await asyncio.to_thread(exports.table, detail, asked.format)
        gpus, timeout_s = self._poller.latest.gpus, self.settings.serve.ready_timeout_s
        return await exports.fleet_files(asked, self.fleet, gpus, timeout_s)

    def bench_plan(self, spec: BenchSpec) -> LoadPlan:
        """The plan of a bench. Raises LabError when there is nothing to load, or something runs."""
        if self._claim.locked():
            raise self._occupied()
        return bench_plan(self.fleet, spec)

    def _occupied(self) -> LabError:
        """What keeps a bench from beginning, and how it ends."""
        sweep, bench = self.queue.running(), self.snapshots.bench
        if sweep is not None:
            return LabError(
                f"sweep {sweep.id} {sweep.name} is measuring {sweep.now}".rstrip(),
                "wait for it, or `lab-tui queue pause` lets it finish its cell and stop",
            )
        if bench is not None:
            how = f"at concurrency {bench.concurrency}, for {bench.elapsed_s:.0f} s"
            return LabError(
                f"another bench is {bench.phase} {how}",
                "wait for it, or end it with ctrl-C where it was begun",
            )
        return LabError("the fleet is being changed", "measure once `lab-tui status` shows it ready")

    async def bench(self, plan: LoadPlan, *, local: bool) -> AsyncGenerator[BenchEvent, None]:
        """Measure once. Closing the generator ends the load. Raises LabError when it cannot be done.

        It ends, and lets go of the claim, also when nobody reads on; who is slow misses views.
        """
        news = asyncio.Event()
        latest: LoadView | None = None

        def on_view(view: LoadView) -> None:
            nonlocal latest
            self.snapshots.bench = latest = view
            news.set()

        def ended(_: object) -> None:
            self.snapshots.bench = None
            self._claim.release()
            news.set()

        measuring = self._meter.fleet if local else remote
        await self._claim.acquire()
        self._bench_stop.clear()
        task = self._bench = asyncio.create_task(measuring(plan, on_view, self._bench_stop), name="bench")
        task.add_done_callback(ended)
        try:
            while not task.done():
                await news.wait()
                news.clear()
                if latest is not None and not task.done():
                    yield BenchEvent(view=latest)
            if task.cancelled():
                raise LabError("the engine stopped meanwhile", "measure again once it runs")
            yield BenchEvent(result=task.result())
        finally:
            await tasks.end(task)

    def stop_bench(self) -> None:
        """Close the window of the running bench: its result is what was measured until now."""
        self._bench_stop.set()

    # -- inside

    def _around(self) -> Around:
        latest = self._poller.latest
        return Around(
            host=latest.host,
            gpus=latest.gpus,
            instances=self.fleet.views(),
            at=time.monotonic(),
            cards_at=latest.cards_at,
            cards_every_s=latest.cards_every_s,
            slow_every_s=latest.slow_every_s,
        )
