"""Engines that die, a store that fails, errors of our own: nothing measured is lost, and it goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lab_tui.model import LabError, SweepStatus
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep import course
from tests.serving.conftest import MakeFleet
from tests.serving.helpers import tiny_spec, until
from tests.sweep.queues import MEASURED, Bench, Cells, finished, statuses, sweep


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
    assert "disk is full" in queue.paused_why
    await until(lambda: [view.id for view in queue.views()] == [added.id])
    monkeypatch.setattr(queue._store, "put_cells", put_cells)
    await queue.resume()
    cells.finish(2)
    assert statuses(await finished(queue, added.id)) == [MEASURED] * 2
    assert queue.paused_why == ""


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
    assert "internal error: ZeroDivisionError" in queue.paused_why
    monkeypatch.setattr(course, "following", following)
    cells.finish()
    await queue.resume()
    assert statuses(await finished(queue, added.id)) == [MEASURED]


async def test_a_fleet_of_before_that_cannot_be_had_again_leaves_none_and_is_said(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-0123456789\n")
    keys.chmod(0o600)
    await fleet.up(tiny_spec(model, instances=1, api_key_file=str(keys)))
    queue = await bench.queue(fleet)
    added = await queue.add(sweep(model, {"concurrency": (1,)}))
    await cells.at(1)
    assert queue.before.owed
    keys.chmod(0o644)
    cells.finish()
    await finished(queue, added.id)
    await until(lambda: not queue.before.owed, "the fleet to be given back")
    assert fleet.spec is None and not fleet.views()
    said = queue.before.notice
    assert said.startswith("the fleet from before the sweep is down: ") and str(keys) in said
    assert "then start it anew" in said
    await queue.yield_fleet(pause=False)  # as somebody brings a fleet up
    assert queue.before.notice == ""
