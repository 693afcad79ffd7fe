"""What becomes of the cells of a sweep: failed, left out for memory, or kept with what they ran on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab_tui.load.plan import LoadPlan, Target
from lab_tui.model import CellStatus, HostReading, LabError, Measurement, SweepStatus
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep.calibration import Calibration
from lab_tui.sweep.cell import Meter
from lab_tui.sweep.fit import Room, Taken
from lab_tui.sweep.machine import Around
from tests.serving.conftest import MakeFleet
from tests.serving.helpers import server_script
from tests.store.helpers import measurement
from tests.sweep.queues import (
    FAILED,
    MEASURED,
    PENDING,
    SKIPPED,
    Axes,
    Bench,
    Cells,
    finished,
    statuses,
    sweep,
)


async def test_a_cell_that_fails_says_why_and_the_sweep_goes_on(
    bench: Bench, make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    fault = 'if [ "$parallel" = 4 ]; then echo "E failed to create_context with model"; exit 1; fi'
    fleet = make_fleet(llama_server=str(server_script(tmp_path / "server", fault)))
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"parallel": (4, 8), "concurrency": (1,)}))
    detail = await finished(queue, added.id)
    assert statuses(detail) == [FAILED, MEASURED]
    failed = detail.cells[0]
    assert failed.reason.startswith("instance 0 failed: the context does not fit")
    assert failed.result is None
    assert any("create_context" in line for line in failed.context["log"])
    assert (detail.view.status, detail.view.cells_failed) == (SweepStatus.DONE, 1)


async def test_a_sweep_of_which_nothing_could_be_measured_has_failed(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    cells.error = LabError("port 1 is in use", "stop it")
    cells.finish(2)
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    detail = await finished(queue, added.id)
    assert (detail.view.status, detail.view.reason) == (SweepStatus.FAILED, "port 1 is in use: stop it")
    assert statuses(detail) == [FAILED, FAILED]
    assert all(cell.result is None for cell in detail.cells)
    cells.error = ZeroDivisionError("oops")
    cells.finish()
    added = await queue.add(sweep(model, {"concurrency": (1,)}))
    assert (await finished(queue, added.id)).cells[0].reason == "internal error: ZeroDivisionError('oops')"


async def test_cells_that_do_not_fit_are_left_out_with_the_figures_and_come_back_when_they_do(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes first seems to need too much until an instance has shown that it does not."""
    room = Room(ram_bytes=60_000_000, reserve_bytes=1_500_000_000)
    monkeypatch.setattr("lab_tui.sweep.fit.measure_room", lambda *_: room)
    less = Taken(
        on_gpu=False, ram_bytes=1, ram_offset_bytes=-70_000_000, vram_bytes=None, vram_offset_bytes=0
    )

    async def learnt(*_: object) -> dict[str, Any]:
        return {"memory": msgspec.to_builtins(less)}

    monkeypatch.setattr("lab_tui.sweep.fit.Fit.taken", learnt)
    queue = await bench.queue(fleet)
    large: Axes = {"ctx-per-slot": (8192,), "flash-attn": ("off", "on"), "parallel": (1, 64)}
    added = await queue.add(sweep(model, {**large, "concurrency": (1, 2)}))
    await cells.at(1)
    assert statuses(await queue.detail(added.id)) == [SKIPPED] * 4 + [CellStatus.RUNNING] + [PENDING] * 3
    cells.finish(4)
    detail = await finished(queue, added.id)
    assert statuses(detail) == ([MEASURED] * 2 + [SKIPPED] * 2) * 2
    for cell in detail.cells:
        fits = cell.status == MEASURED
        needs = (
            r"does not fit: 1 instance needs \d{3} MB, 60 MB are free beyond the 1.5 GB left to the system"
        )
        assert re.fullmatch("" if fits else needs, cell.reason), cell.reason
    assert detail.view.status == SweepStatus.DONE


async def test_adaptive_searches_among_what_fits(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(ram_bytes=60_000_000, reserve_bytes=0)
    monkeypatch.setattr("lab_tui.sweep.fit.measure_room", lambda *_: room)
    queue = await bench.queue(fleet)
    large: Axes = {"instances": (1, 2, 4), "parallel": (1, 2, 64, 128), "ctx-per-slot": (8192,)}
    spec = sweep(model, {**large, "concurrency": (1, 2, 4, 64, 128, 256)})
    added = await queue.add(msgspec.structs.replace(spec, strategy="adaptive"))
    cells.finish(100)
    detail = await finished(queue, added.id)
    assert detail.view.status == SweepStatus.DONE and detail.view.best is not None
    assert detail.view.best.parallel in (1, 2)
    for cell in detail.cells:
        assert cell.cell.fleet.parallel in (1, 2) or cell.status == SKIPPED
    assert any(cell.reason.startswith("does not fit: ") for cell in detail.cells)


async def test_a_sweep_of_which_nothing_fits_says_so(bench: Bench, fleet: Fleet, model: Path) -> None:
    bench.reserve_gb = 1e6
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    detail = await finished(queue, added.id)
    assert (detail.view.status, statuses(detail)) == (SweepStatus.FAILED, [SKIPPED, SKIPPED])
    assert detail.view.reason.startswith("does not fit: 1 instance needs ")
    assert fleet.spec is None


async def test_a_result_is_kept_though_its_surroundings_are_not_known(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(_: Path) -> None:
        raise FileNotFoundError(2, "No such file", str(model))

    monkeypatch.setattr("lab_tui.sweep.runner.model_identity", moved)
    queue = await bench.queue(fleet)
    cells.finish()
    added = await queue.add(sweep(model, {"concurrency": (1,)}))
    (cell,) = (await finished(queue, added.id)).cells
    assert cell.status == MEASURED and "No such file" in cell.context["unknown"]


async def test_a_measured_cell_outlives_a_skip_while_the_ceiling_is_found(
    fleet: Fleet, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = asyncio.Event()

    async def measured(*_: object) -> Measurement:
        assert calm == ["measured"]  # the cards are asked more seldom meanwhile
        return measurement(50_000.0)

    async def for_ever(*_: object) -> float:
        looking.set()
        await asyncio.Event().wait()
        return 0.0

    monkeypatch.setattr("lab_tui.sweep.cell.measure", measured)
    monkeypatch.setattr(Calibration, "through_front", for_ever)
    calibration = Calibration(tmp_path / "c", tmp_path / "ceiling.json", tmp_path / "c.log")
    calm: list[str] = []

    @contextmanager
    def calmly() -> Iterator[None]:
        calm.append("measured")
        yield
        calm.append("over")

    meter = Meter(fleet, lambda: Around(host=HostReading(name="here", cores=2)), calibration, calmly)
    plan = LoadPlan(target=Target(url="http://127.0.0.1:9"), concurrency=1)
    task = asyncio.create_task(meter.fleet(plan, lambda _: None))
    await looking.wait()
    assert calm == ["measured", "over"]
    task.cancel()
    result = await task
    assert result.throughput_tps == 50_000.0
    assert any("stopped meanwhile" in flag for flag in result.flags)
