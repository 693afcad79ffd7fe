"""What viewers see of the engine: a frozen snapshot of everything, now, again and again, by the hour."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from lab_tui import __version__, paths, tasks
from lab_tui.engine.ahead import Ahead
from lab_tui.engine.last import LastFleet
from lab_tui.engine.mps import MpsWatch
from lab_tui.model import EngineInfo, FrontState, InstanceView, LoadView, Snapshot
from lab_tui.serving.fleet import Fleet
from lab_tui.store.store import Store
from lab_tui.sweep.queue import Queue
from lab_tui.telemetry.history import History
from lab_tui.telemetry.poller import Poller

COALESCE_S = 0.05  # changes closer together than this reach viewers as one snapshot


class Changes:
    """That something has changed anywhere."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait now; later ones wait for the next change."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def next_or(self, timeout_s: float) -> None:
        """Until the next change, and what comes right after it, or for so long."""
        event = self._event
        try:
            await asyncio.wait_for(event.wait(), max(timeout_s, 0.001))
        except TimeoutError:
            return
        await asyncio.sleep(COALESCE_S)


class Snapshots:
    """Reads what the engine owns, and changes nothing of it. ``bench``: the load of a bench that runs."""

    def __init__(
        self,
        fleet: Fleet,
        queue: Queue,
        store: Store,
        poller: Poller,
        ahead: Ahead,
        mps: MpsWatch,
        last: LastFleet,
        changes: Changes,
        over: asyncio.Event,
        log: Path,
    ) -> None:
        """``over`` is set when the engine ends; ``log`` is its own."""
        self.history = History()
        self.bench: LoadView | None = None
        self._fleet, self._queue, self._store = fleet, queue, store
        self._poller, self._ahead, self._mps, self._last = poller, ahead, mps, last
        self._changes, self._over, self._log = changes, over, log
        self._began = time.monotonic()
        self._seq = 0
        self._sampler: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep the hour."""
        self._sampler = tasks.begin(self._sample(), "history sampler")

    async def stop(self) -> None:
        """Keep no more."""
        await tasks.end(self._sampler)

    def info(self) -> EngineInfo:
        """Who this is."""
        return EngineInfo(
            pid=os.getpid(),
            version=__version__,
            uptime_s=time.monotonic() - self._began,
            socket=str(paths.socket_path()),
            log=str(self._log),
        )

    def now(self) -> Snapshot:
        """Everything, whole."""
        self._seq += 1
        reading = self._poller.latest
        load = self._queue.load or self.bench
        instances = self._instances(load)
        return Snapshot(
            seq=self._seq,
            time=time.time(),
            engine=self.info(),
            fleet=self._fleet.spec,
            front=self._fleet.front.view,
            traffic=self._fleet.front.traffic,
            instances=instances,
            load=load,
            sweep=self._queue.running(),
            queue=self._queue.views(),
            queue_paused=self._queue.paused,
            queue_paused_why=self._queue.paused_why,
            fleet_owed=self._queue.before.owed,
            gpus=reading.gpus,
            gpu_reason=reading.gpu_reason,
            host=reading.host,
            notices=self._notices(),
            parts=self._ahead.parts if self._fleet.spec is None else (),
            mps=self._mps.view(self._fleet, instances),
            last_fleet=self._last.spec,
        )

    async def watch(self, interval_s: float) -> AsyncGenerator[Snapshot, None]:
        """Snapshots until the engine stops: every ``interval_s``, and at once when a state changes."""
        before: Snapshot | None = None
        due = 0.0
        while not self._over.is_set():
            now = time.monotonic()
            snapshot = self.now()
            if now >= due or before is None or _states(snapshot) != _states(before):
                yield snapshot
                before = snapshot
                due = now + interval_s
            await self._changes.next_or(due - time.monotonic())

    def _instances(self, load: LoadView | None) -> tuple[InstanceView, ...]:
        """The instances, with the load's own live rate where it loads them, and memory on the GPU."""
        rates = load.tps_by_instance if load else {}
        reading = self._poller.latest
        return tuple(
            msgspec.structs.replace(reading.with_memory(view), tps=rates.get(view.index, view.tps))
            for view in self._fleet.views()
        )

    def _notices(self) -> tuple[str, ...]:
        rooms = (self._fleet, self._queue.before, self._store)
        notices = [room.notice for room in rooms if room.notice]
        front = self._fleet.front.view
        if front.state == FrontState.FAILED and front.reason:
            notices.append(front.reason)
        if self._queue.paused and self._queue.views():
            why = f" ({self._queue.paused_why})" if self._queue.paused_why else ""
            notices.append(f"the sweep queue is paused{why}: p or `lab-tui queue resume` goes on")
        return tuple(notices)

    async def _sample(self) -> None:
        while True:
            snapshot = self.now()
            self.history.append(snapshot.time, _series(snapshot))
            await asyncio.sleep(1.0)


def _states(snapshot: Snapshot) -> tuple[object, ...]:
    """What of a snapshot is a state rather than a reading: its change cannot wait for the tick."""
    return (
        snapshot.fleet,
        snapshot.front,
        tuple((i.state, i.reason, i.pid) for i in snapshot.instances),
        snapshot.load.phase if snapshot.load else None,
        tuple((s.id, s.status, s.now, s.cells_measured, s.cells_failed) for s in snapshot.queue),
        snapshot.queue_paused,
        snapshot.fleet_owed,
        snapshot.notices,
        snapshot.parts,
    )


def _series(snapshot: Snapshot) -> dict[str, float | None]:
    """The readings of a snapshot that are kept for an hour."""
    series: dict[str, float | None] = {
        "tps": snapshot.tps,
        "ttft_p95_ms": snapshot.ttft_p95_ms,
        "streams": snapshot.streams,
        "queue": snapshot.waiting,
        "cpu_pct": snapshot.host.cpu_pct,
    }
    series |= {f"tps.{i.index}": i.tps for i in snapshot.instances}
    series |= {f"gpu.{gpu.index}": gpu.util_pct for gpu in snapshot.gpus}
    return series
