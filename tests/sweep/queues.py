"""Queues over a store of their own, as one engine after the other has them, and cells that wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab_tui.model import (
    AxisValue,
    Cell,
    CellStatus,
    HostReading,
    Measurement,
    SweepDetail,
    SweepSpec,
    WindowSpec,
    Workload,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.store.store import Store
from lab_tui.sweep.before import Before
from lab_tui.sweep.calibration import Calibration
from lab_tui.sweep.cell import Meter
from lab_tui.sweep.fit import Fit
from lab_tui.sweep.machine import Around
from lab_tui.sweep.queue import Queue
from lab_tui.telemetry.poller import Reading
from tests.serving.helpers import tiny_spec, until
from tests.store.helpers import measurement

MEASURED, FAILED, SKIPPED, PENDING = (
    CellStatus.MEASURED,
    CellStatus.FAILED,
    CellStatus.SKIPPED,
    CellStatus.PENDING,
)
SHORT = WindowSpec(ci_half_width=0.5, min_s=0.4, max_s=1.5)
Axes = dict[str, tuple[AxisValue, ...]]


def sweep(model: Path, axes: Axes, **fleet: Any) -> SweepSpec:
    """Cells of these axes, each measured once."""
    return SweepSpec(
        confirm=False,
        name="custom",
        fleet=tiny_spec(model, instances=1, **fleet),
        axes=axes,
        workload=Workload(prompt_tokens=8, output_tokens=16),
        window=SHORT,
    )


def confirmed(model: Path, *streams: int, **fields: Any) -> SweepSpec:
    """A sweep of one fleet that confirms its best."""
    spec = sweep(model, {"concurrency": streams})
    return msgspec.structs.replace(spec, **{"confirm": True, **fields})


class Bench:
    """Queues over one store, as one engine after the other has them."""

    def __init__(self, file: Path) -> None:
        self.reserve_gb = 0.0
        self.claim = asyncio.Lock()
        self._file = file
        self._made: list[tuple[Queue, Store]] = []

    async def queue(self, fleet: Fleet, *, resume: bool = True) -> Queue:
        store = Store(self._file)
        await store.call(store.open)
        around = Around(host=HostReading(name="here", cores=2))
        folder = self._file.parent
        calibration = Calibration(folder / "c", folder / "ceiling.json", folder / "c.log", wanted=False)
        meter = Meter(fleet, lambda: around, calibration)
        fit = Fit(fleet, lambda: Reading(host=around.host), self.reserve_gb)
        before = Before(fleet, folder / "before.json")
        queue = Queue(fleet, store, meter, fit, before, self.claim, lambda: None)
        self._made.append((queue, store))
        await queue.start(resume)
        return queue

    async def end(self, queue: Queue) -> None:
        store = next(store for made, store in self._made if made is queue)
        self._made.remove((queue, store))
        await queue.stop()
        await store.close()

    async def close(self) -> None:
        for queue, _ in list(self._made):
            await self.end(queue)


async def finished(queue: Queue, sweep_id: int) -> SweepDetail:
    """The sweep, once it is over and the queue has let go of it."""
    await until(lambda: all(view.id != sweep_id for view in queue.views()), f"sweep {sweep_id} to end")
    return await queue.detail(sweep_id)


def statuses(detail: SweepDetail) -> list[CellStatus]:
    return [cell.status for cell in detail.cells]


class Cells:
    """Stands in for the measuring of cells: each waits for its word."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[int] = []  # concurrency of each cell, as it began
        self.open = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.rates: dict[int, float] = {}  # tok/s by concurrency, where it is not 100 and that
        monkeypatch.setattr(Meter, "cell", lambda _, cell, *__: self._measure(cell))

    async def _measure(self, cell: Cell) -> Measurement:
        self.begun.append(cell.concurrency)
        await self.open.acquire()
        if self.error is not None:
            raise self.error
        return measurement(self.rates.get(cell.concurrency, 100.0 + cell.concurrency))

    async def at(self, count: int) -> None:
        await until(lambda: len(self.begun) == count, f"cell {count} to begin")

    def finish(self, count: int = 1) -> None:
        for _ in range(count):
            self.open.release()
