"""The queue: every cell once, whatever fails or is interrupted, and the fleet is given back."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab_tui.load.plan import LoadPlan, Target
from lab_tui.model import (
    AxisValue,
    Cell,
    CellStatus,
    HostReading,
    InstanceState,
    LabError,
    Measurement,
    Slo,
    SweepDetail,
    SweepSpec,
    SweepStatus,
    WindowSpec,
    Workload,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.store.store import Store
from lab_tui.sweep import course, summary
from lab_tui.sweep import runner as module
from lab_tui.sweep.before import Before
from lab_tui.sweep.calibration import Calibration
from lab_tui.sweep.cell import Meter
from lab_tui.sweep.fit import Fit, Room, Taken
from lab_tui.sweep.machine import Around
from lab_tui.sweep.queue import Queue
from lab_tui.telemetry.poller import Reading
from tests.serving.conftest import MakeFleet
from tests.serving.helpers import listening, processes_with, server_script, tiny_spec, until
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


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "lab.db")
    yield bench
    await bench.close()


async def finished(queue: Queue, sweep_id: int) -> SweepDetail:
    """The sweep, once it is over and the queue has let go of it."""
    await until(lambda: all(view.id != sweep_id for view in queue.views()), f"sweep {sweep_id} to end")
    return await queue.detail(sweep_id)


def statuses(detail: SweepDetail) -> list[CellStatus]:
    return [cell.status for cell in detail.cells]


# --- the whole of it ----------------------------------------------------------------------------


async def test_two_cells_are_measured_kept_and_the_machine_is_given_back(
    bench: Bench, fleet: Fleet, model: Path
) -> None:
    queue = await bench.queue(fleet)
    spec = sweep(model, {"instances": (1, 2), "concurrency": (2,)})
    added = await queue.add(spec)
    assert (added.status, added.cells_total) == (SweepStatus.QUEUED, 2)
    seen: set[str] = set()

    def over() -> bool:
        view = queue.running()
        seen.add(view.now if view else "")
        return not queue.views()

    await until(over, "the sweep to end")
    assert {"1×2 c=2", "2×2 c=2"} <= seen
    detail = await queue.detail(added.id)
    assert detail.view.status == SweepStatus.DONE
    assert statuses(detail) == [MEASURED, MEASURED]
    assert detail.view.best is not None
    for number, cell in enumerate(detail.cells, start=1):
        result = cell.result
        assert result is not None
        assert result.throughput_tps > 0
        assert result.errors == 0
        assert result.tokens.stream == result.tokens.timings
        assert len(cell.context["commands"]) == number
        assert f"server 127.0.0.1:{spec.fleet.base_port} " in cell.context["nginx_conf"]
        assert cell.context["model"]["size_bytes"] == model.stat().st_size
        assert cell.context["versions"].keys() == {"lab-tui", "llama-server", "nginx", "python"}
        assert (cell.took_s or 0) > 0 and cell.started
    await until(lambda: fleet.spec is None, "the fleet to be given back")
    await until(lambda: not processes_with(str(model)), "no instance")
    assert not listening([spec.fleet.front_port])


async def test_the_fleet_of_before_comes_back(bench: Bench, fleet: Fleet, model: Path) -> None:
    before = tiny_spec(model, instances=1, parallel=3)
    await fleet.up(before)
    await fleet.wait_ready()
    queue = await bench.queue(fleet)
    base = msgspec.structs.replace(before, parallel=2)
    spec = msgspec.structs.replace(sweep(model, {"concurrency": (1,)}), fleet=base)
    added = await queue.add(spec)
    assert statuses(await finished(queue, added.id)) == [MEASURED]
    await until(lambda: fleet.spec == before, "the fleet of before")
    await until(lambda: [view.state for view in fleet.views()] == [InstanceState.READY])
    assert fleet.views()[0].slots == 3


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


async def test_a_queue_that_dies_in_a_cell_is_gone_on_with_by_the_next(
    bench: Bench, make_fleet: MakeFleet, model: Path
) -> None:
    fleet = make_fleet()
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    await until(lambda: (view := queue.running()) is not None and view.now == "1×2 c=2", "the second cell")
    first = (await queue.detail(added.id)).cells[0]
    await bench.end(queue)
    await fleet.detach()
    heir = make_fleet()
    assert await heir.adopt()
    waiting = await bench.queue(heir, resume=False)
    (line,) = waiting.views()
    assert (line.status, line.cells_measured, waiting.paused) == (SweepStatus.QUEUED, 1, True)
    await waiting.resume()
    detail = await finished(waiting, added.id)
    assert statuses(detail) == [MEASURED] * 2
    assert detail.cells[0] == first  # not measured again


# --- commands, with cells that last as long as a test wants -----------------------------------------


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


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    return Cells(monkeypatch)


async def test_pause_lets_the_cell_finish_and_resume_goes_on(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed_in: set[threading.Thread] = set()

    def amount(*args: Any) -> summary.Amount:
        weighed_in.add(threading.current_thread())
        return weigh(*args)

    weigh = summary.amount
    monkeypatch.setattr(summary, "amount", amount)
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1, 2, 3)}))
    await cells.at(1)
    await queue.pause()
    cells.finish()
    await until(lambda: queue.running() is None, "the queue to pause")
    (line,) = queue.views()
    assert (line.status, line.cells_measured, cells.begun) == (SweepStatus.PAUSED, 1, [1])
    assert line.best is not None and line.best.throughput_tps == 101.0
    assert weighed_in and threading.main_thread() not in weighed_in  # it would hold the loop
    await queue.resume()
    cells.finish(2)
    assert statuses(await finished(queue, added.id)) == [MEASURED] * 3
    assert cells.begun == [1, 2, 3]


async def test_skip_leaves_one_cell_out(bench: Bench, fleet: Fleet, model: Path, cells: Cells) -> None:
    queue = await bench.queue(fleet)
    with pytest.raises(LabError, match="no cell is running"):
        await queue.skip()
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    await cells.at(1)
    await queue.skip()
    cells.finish()
    await cells.at(2)
    detail = await finished(queue, added.id)
    assert statuses(detail) == [SKIPPED, MEASURED]
    assert detail.cells[0].reason == "skipped by hand"


async def test_remove_aborts_the_running_one_and_keeps_what_was_measured(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    first = await queue.add(sweep(model, {"concurrency": (1, 2, 3)}))
    second = await queue.add(sweep(model, {"concurrency": (7,)}))
    third = await queue.add(sweep(model, {"concurrency": (8,)}))
    cells.finish()
    await cells.at(2)
    await queue.remove(second.id)
    await queue.remove(first.id)
    await cells.at(3)
    cells.finish()
    assert (await finished(queue, third.id)).view.status == SweepStatus.DONE
    detail = await queue.detail(first.id)
    assert detail.view.status == SweepStatus.ABORTED
    assert statuses(detail) == [MEASURED, SKIPPED, SKIPPED]
    assert (await queue.detail(second.id)).view.status == SweepStatus.ABORTED
    assert cells.begun == [1, 2, 8]
    with pytest.raises(LabError, match="sweep 99 is not waiting in the queue"):
        await queue.remove(99)
    assert [view.id for view in await queue.all()] == [third.id, second.id, first.id]


async def test_move_changes_the_order_also_for_the_next_engine(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    ids = [(await queue.add(sweep(model, {"concurrency": (n,)}))).id for n in (1, 2, 3, 4)]
    await cells.at(1)
    await queue.move(ids[3], 1)
    await queue.move(ids[1], 99)  # beyond the end is the end
    order = [ids[0], ids[3], ids[2], ids[1]]
    assert [view.id for view in queue.views()] == order
    for position in (0, -1):
        with pytest.raises(LabError, match=f"position is {position}"):
            await queue.move(ids[1], position)
    with pytest.raises(LabError, match="is not waiting"):
        await queue.move(ids[0], 1)  # it runs
    await queue.pause()
    await bench.end(queue)
    heir = await bench.queue(fleet, resume=False)
    assert [view.id for view in heir.views()] == order
    await heir.resume()
    cells.finish(4)
    await finished(heir, ids[1])
    assert cells.begun == [1, 1, 4, 3, 2]


async def test_down_in_any_moment_starts_no_cell_after_it(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet is taken away while a cell is being written down as begun."""
    queue = await bench.queue(fleet)
    written = asyncio.Event()
    go_on = asyncio.Event()
    put = module.Runner._put

    async def slow_put(runner: module.Runner, index: int, **fields: Any) -> None:
        await put(runner, index, **fields)
        if fields.get("status") == CellStatus.RUNNING:
            written.set()
            await go_on.wait()

    monkeypatch.setattr(module.Runner, "_put", slow_put)
    added = await queue.add(sweep(model, {"concurrency": (1,)}))
    await written.wait()
    await queue.yield_fleet(pause=True)
    go_on.set()
    await until(lambda: queue.running() is None, "the queue to pause")
    assert cells.begun == []
    assert statuses(await queue.detail(added.id)) == [PENDING]
    await queue.resume()
    cells.finish()
    assert statuses(await finished(queue, added.id)) == [MEASURED]


async def test_an_abort_while_the_sweep_begins_is_an_abort(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await bench.queue(fleet)
    store = queue._store
    keep = store.set_status

    def slow_keep(sweep_id: int, status: SweepStatus, *more: Any) -> None:
        if status == SweepStatus.RUNNING:
            asyncio.run_coroutine_threadsafe(queue.remove(sweep_id), loop).result(30)
        keep(sweep_id, status, *more)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(store, "set_status", slow_keep)
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    detail = await finished(queue, added.id)
    assert detail.view.status == SweepStatus.ABORTED
    assert cells.begun == []


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


async def test_what_cannot_be_swept_is_refused_and_not_queued(
    bench: Bench, fleet: Fleet, model: Path, tmp_path: Path
) -> None:
    queue = await bench.queue(fleet)
    good = sweep(model, {"concurrency": (1,)})
    replace = msgspec.structs.replace
    refusals = {
        "axis parallel: 300 is out of range": replace(good, axes={"parallel": (300,)}),
        "there is no axis 'x'": replace(good, axes={"x": (1,)}),
        "there is no strategy magic": replace(good, strategy="magic"),
        "model .* does not exist": replace(good, fleet=replace(good.fleet, model=str(tmp_path / "none"))),
        "base-port 65500 leaves no room": replace(
            good, fleet=replace(good.fleet, base_port=65500), axes={"instances": (64,)}
        ),
        "takes no argument --no-such": replace(good, fleet=replace(good.fleet, extra_args=("--no-such",))),
        "takes no argument --such": replace(good, axes={"arg:--such": ("1",)}),
        "llama-server's --jinja takes no value": replace(good, axes={"arg:--jinja": ("on",)}),
    }
    for says, spec in refusals.items():
        with pytest.raises(LabError, match=says):
            await queue.add(spec)
    assert queue.views() == ()
    assert await queue.all() == []


async def test_a_store_that_fails_pauses_the_queue_and_loses_nothing(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1, 2)}))
    await cells.at(1)
    put_cells = queue._store.put_cells

    def full(*_: object) -> None:
        raise LabError("database or disk is full", "free disk space")

    monkeypatch.setattr(queue._store, "put_cells", full)
    cells.finish()
    await until(lambda: queue.paused, "the queue to pause")
    assert "disk is full" in queue.notice
    await until(lambda: [view.id for view in queue.views()] == [added.id])
    monkeypatch.setattr(queue._store, "put_cells", put_cells)
    await queue.resume()
    cells.finish(2)
    assert statuses(await finished(queue, added.id)) == [MEASURED] * 2
    assert queue.notice == ""


async def test_a_bench_and_a_cell_never_load_at_once(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    async with queue._claim:
        added = await queue.add(sweep(model, {"concurrency": (1,)}))
        await until(lambda: len(queue._waiting) == 1)
        await asyncio.sleep(0)
        assert cells.begun == []
    cells.finish()
    assert statuses(await finished(queue, added.id)) == [MEASURED]


# --- the winner confirmed -----------------------------------------------------------------------------


def confirmed(model: Path, *streams: int, **fields: Any) -> SweepSpec:
    """A sweep of one fleet that confirms its best."""
    spec = sweep(model, {"concurrency": streams})
    return msgspec.structs.replace(spec, **{"confirm": True, **fields})


async def test_the_top_few_are_measured_again_in_turn_and_every_run_is_kept(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    cells.rates = {1: 50.0, 2: 100.0, 3: 100.5, 4: 100.0}
    added = await queue.add(confirmed(model, 1, 2, 3, 4))
    cells.finish(4)
    await cells.at(5)
    running = queue.running()
    assert running is not None
    assert (running.now, running.cells_measured) == ("1×2 c=2 again", 4)
    assert running.eta_s is not None
    cells.finish(6)
    detail = await finished(queue, added.id)
    assert cells.begun == [1, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert [len(cell.runs_tps) for cell in detail.cells] == [0, 3, 3, 3]
    assert statuses(detail) == [MEASURED] * 4
    best = detail.view.best
    assert best is not None
    assert (best.concurrency, best.runs, best.confirmed) == (3, 3, True)
    assert [tie.concurrency for tie in detail.tied] == [2, 3, 4]  # the fewest streams first
    assert detail.view.reason == ""


async def test_a_queue_that_dies_while_it_confirms_goes_on_there(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    cells.rates = {2: 100.0, 3: 100.5}
    added = await queue.add(confirmed(model, 2, 3))
    cells.finish(3)
    await cells.at(4)  # the second one, again
    await bench.end(queue)
    heir = await bench.queue(fleet, resume=False)
    (line,) = heir.views()
    assert (line.status, line.cells_measured) == (SweepStatus.QUEUED, 2)
    assert [len(cell.runs_tps) for cell in (await heir.detail(added.id)).cells] == [2, 0]
    await heir.resume()
    cells.finish(3)
    detail = await finished(heir, added.id)
    assert cells.begun == [2, 3, 2, 3, 3, 2, 3]  # what was under way is measured anew
    assert [len(cell.runs_tps) for cell in detail.cells] == [3, 3]
    assert detail.view.status == SweepStatus.DONE


async def test_a_pause_while_it_confirms_is_a_pause(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    added = await queue.add(confirmed(model, 2, 3))
    cells.finish(2)
    await cells.at(3)
    await queue.pause()
    cells.finish()
    await until(lambda: queue.running() is None, "the queue to pause")
    (line,) = queue.views()
    assert (line.status, line.cells_measured) == (SweepStatus.PAUSED, 2)
    await queue.resume()
    cells.finish(4)
    detail = await finished(queue, added.id)
    assert (detail.view.status, len(cells.begun)) == (SweepStatus.DONE, 6)


async def test_one_skipped_while_it_confirms_keeps_its_figures(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    cells.rates = {2: 100.0, 3: 100.5}
    added = await queue.add(confirmed(model, 2, 3))
    cells.finish(2)
    await cells.at(3)
    await queue.skip()
    cells.finish(2)
    detail = await finished(queue, added.id)
    assert cells.begun == [2, 3, 2, 3, 3]
    assert detail.cells[0].reason == "not measured again: skipped by hand"
    assert (detail.cells[0].status, detail.cells[0].runs_tps) == (MEASURED, ())
    assert detail.cells[0].result is not None


async def test_one_that_fails_when_measured_again_is_no_winner(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    cells.rates = {2: 101.0, 3: 100.5, 4: 10.0}
    added = await queue.add(confirmed(model, 2, 3, 4))
    cells.finish(3)
    await cells.at(4)
    cells.error = LabError("instance 0 failed: out of memory")
    cells.finish()
    await cells.at(5)
    cells.error = None
    cells.finish(5)
    detail = await finished(queue, added.id)
    failed = detail.cells[0]
    assert (failed.status, failed.result, failed.runs_tps) == (FAILED, None, ())
    assert failed.reason == "measured again, it failed: instance 0 failed: out of memory"
    assert failed.context["earlier"][0]["throughput_tps"] == 101.0
    assert detail.view.best is not None and detail.view.best.concurrency == 3


async def test_no_cell_within_the_slo_is_said(bench: Bench, fleet: Fleet, model: Path, cells: Cells) -> None:
    queue = await bench.queue(fleet)
    added = await queue.add(confirmed(model, 2, 3, slo=Slo(ttft_ms=5.0)))
    cells.finish(2)
    detail = await finished(queue, added.id)
    assert (detail.view.status, detail.view.best) == (SweepStatus.DONE, None)
    assert detail.view.reason == "no cell kept the SLO; nearest: 1×2 c=2 (p95 TTFT 20 ms, 5 ms at most)"


# --- a budget -----------------------------------------------------------------------------------------


async def test_a_budget_cuts_off_the_cell_that_outlasts_it(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    spec = confirmed(model, 1, 2, 3, budget_s=4.5, window=msgspec.structs.replace(SHORT, max_s=1.5))
    began = asyncio.get_running_loop().time()
    added = await queue.add(spec)
    cells.finish()
    detail = await finished(queue, added.id)
    assert asyncio.get_running_loop().time() - began < 4.5 + 3.0
    assert detail.view.status == SweepStatus.DONE
    assert statuses(detail) == [MEASURED, SKIPPED, SKIPPED]
    assert {cell.reason for cell in detail.cells[1:]} == {"budget of 4.5s used up"}
    assert detail.view.best is not None and detail.view.best.concurrency == 1
    assert detail.view.reason == "budget of 4.5s used up: 2 cells left out"
    assert detail.view.elapsed_s == pytest.approx(4.5, abs=1.0)


async def test_a_budget_counts_over_the_death_of_an_engine(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOURNAL_S", 0.1)
    queue = await bench.queue(fleet)
    added = await queue.add(confirmed(model, 1, 2, budget_s=6.0, confirm=False))
    cells.finish()
    await cells.at(2)
    await asyncio.sleep(2.0)
    await bench.end(queue)
    heir = await bench.queue(fleet, resume=False)
    (line,) = heir.views()
    assert line.elapsed_s >= 1.5
    began = asyncio.get_running_loop().time()
    await heir.resume()
    detail = await finished(heir, added.id)
    assert asyncio.get_running_loop().time() - began < 6.0
    assert statuses(detail) == [MEASURED, SKIPPED]


async def test_a_budget_that_is_too_short_is_refused(bench: Bench, fleet: Fleet, model: Path) -> None:
    queue = await bench.queue(fleet)
    with pytest.raises(LabError, match="a budget of 4s is shorter than one cell"):
        await queue.add(confirmed(model, 1, budget_s=4.0))
    assert queue.views() == ()


# --- what must not stop it ----------------------------------------------------------------------


async def test_a_sweep_that_is_removed_while_a_bench_runs_leaves_the_queue_alive(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    queue = await bench.queue(fleet)
    async with bench.claim:
        gone = await queue.add(sweep(model, {"concurrency": (1,)}))
        await asyncio.sleep(0.05)  # the queue waits for the claim now
        await queue.remove(gone.id)
    cells.finish()
    added = await queue.add(sweep(model, {"concurrency": (2,)}))
    assert statuses(await finished(queue, added.id)) == [MEASURED]
    assert cells.begun == [2]


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


async def test_an_error_of_our_own_pauses_the_queue_and_is_said(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("oh")

    following = course.following
    monkeypatch.setattr(course, "following", broken)
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1,)}))
    await until(lambda: queue.paused, "the queue to pause")
    assert "internal error: ZeroDivisionError" in queue.notice
    monkeypatch.setattr(course, "following", following)
    cells.finish()
    await queue.resume()
    assert statuses(await finished(queue, added.id)) == [MEASURED]


async def test_the_fleet_of_before_is_given_back_by_the_next_engine(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells
) -> None:
    mine = tiny_spec(model, instances=1)
    await fleet.up(mine)
    await fleet.wait_ready()
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"parallel": (2,), "concurrency": (1,)}))
    await cells.at(1)
    await bench.end(queue)  # killed, with the fleet of the cell left up
    await fleet.up(msgspec.structs.replace(mine, parallel=2))
    heir = await bench.queue(fleet)
    cells.finish()
    await finished(heir, added.id)
    await until(lambda: fleet.spec == mine, "the fleet of before")


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
