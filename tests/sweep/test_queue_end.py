"""How a sweep ends: its winner confirmed, within its SLO and its budget."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from lab_tui.model import LabError, Slo, SweepStatus
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep import runner as module
from lab_tui.sweep.queue import Queue
from tests.serving.helpers import until, until_answer
from tests.sweep.queues import FAILED, MEASURED, SHORT, SKIPPED, Bench, Cells, confirmed, finished, statuses


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of a sweep, which moves only when a test says so; it is looked at again and again."""
    held = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: held.now, time=time.time))
    monkeypatch.setattr(module, "JOURNAL_S", 0.01)
    return held


async def kept(queue: Queue, sweep_id: int, elapsed_s: float) -> None:
    """Wait until the store knows that a sweep has taken so long."""

    async def known() -> bool:
        sweep = await queue._store.call(queue._store.sweep, sweep_id)
        return sweep.elapsed_s == pytest.approx(elapsed_s)

    await until_answer(known, f"{elapsed_s} s to be kept")


async def test_a_budget_cuts_off_the_cell_that_outlasts_it(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, clock: SimpleNamespace
) -> None:
    queue = await bench.queue(fleet)
    spec = confirmed(model, 1, 2, 3, budget_s=4.5, window=msgspec.structs.replace(SHORT, max_s=1.5))
    added = await queue.add(spec)
    await cells.at(1)
    clock.now += 0.1
    cells.finish()
    await cells.at(2)
    clock.now += 4.3
    await kept(queue, added.id, 4.4)
    assert queue.running() is not None
    clock.now += 0.1
    detail = await finished(queue, added.id)
    assert detail.view.status == SweepStatus.DONE
    assert statuses(detail) == [MEASURED, SKIPPED, SKIPPED]
    assert {cell.reason for cell in detail.cells[1:]} == {"budget of 4.5s used up"}
    assert detail.view.best is not None and detail.view.best.concurrency == 1
    assert detail.view.reason == "budget of 4.5s used up: 2 cells left out"
    assert detail.view.elapsed_s == pytest.approx(4.5)


async def test_a_budget_counts_over_the_death_of_an_engine(
    bench: Bench, fleet: Fleet, model: Path, cells: Cells, clock: SimpleNamespace
) -> None:
    queue = await bench.queue(fleet)
    added = await queue.add(confirmed(model, 1, 2, budget_s=6.0, confirm=False))
    await cells.at(1)
    clock.now += 0.1
    cells.finish()
    await cells.at(2)
    clock.now += 1.9
    await kept(queue, added.id, 2.0)
    await bench.end(queue)
    heir = await bench.queue(fleet, resume=False)
    (line,) = heir.views()
    assert line.elapsed_s == pytest.approx(2.0)
    await heir.resume()
    await cells.at(3)
    clock.now += 3.9
    await kept(heir, added.id, 5.9)
    assert heir.running() is not None
    clock.now += 0.2
    detail = await finished(heir, added.id)
    assert statuses(detail) == [MEASURED, SKIPPED]


async def test_a_budget_that_is_too_short_is_refused(bench: Bench, fleet: Fleet, model: Path) -> None:
    queue = await bench.queue(fleet)
    with pytest.raises(LabError, match="a budget of 4s is shorter than one cell"):
        await queue.add(confirmed(model, 1, budget_s=4.0))
    assert queue.views() == ()
