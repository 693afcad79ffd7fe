"""The queue: every cell once, as it is told, and the fleet is given back."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab_tui.model import CellStatus, InstanceState, LabError, SweepStatus
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep import runner as module
from lab_tui.sweep import summary
from tests.serving.helpers import listening, processes_with, tiny_spec, until
from tests.sweep.queues import MEASURED, PENDING, SKIPPED, Bench, Cells, finished, statuses, sweep


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
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
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
    shown = await queue.all()
    assert [view.id for view in shown] == [third.id, second.id, first.id]
    read: list[int] = []
    monkeypatch.setattr(queue._store, "sweep", read.append)
    assert (await queue.all(), read) == (shown, [])  # what is over is read once


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
        "none.jsonl: no such file": replace(
            good, workload=replace(good.workload, prompt_file=str(tmp_path / "none.jsonl"))
        ),
        "llama-server's --jinja takes no value": replace(good, axes={"arg:--jinja": ("on",)}),
    }
    for says, spec in refusals.items():
        with pytest.raises(LabError, match=says):
            await queue.add(spec)
    assert queue.views() == ()
    assert await queue.all() == []


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
