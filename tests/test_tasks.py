"""Work that goes on when the one who asked for it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lab_tui import tasks
from lab_tui.config import Settings
from lab_tui.engine.engine import Engine
from lab_tui.load.plan import LoadPlan, Target
from lab_tui.model import FleetSpec, LabError, LoadView, Measurement, Phase
from tests.store.helpers import measurement


async def test_work_ends_though_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    go = asyncio.Event()

    async def work(fails: bool) -> str:
        await go.wait()
        done.append("whole")
        if fails:
            raise ValueError("too late to be told")
        return "result"

    owner: set[asyncio.Task[str]] = set()
    asked = [asyncio.create_task(tasks.to_its_end(work(fails), "work", owner)) for fails in (False, True)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)
    assert len(owner) == 2
    go.set()
    assert await tasks.to_its_end(work(False), "work", owner) == "result"
    await tasks.all_ended(owner)
    assert done == ["whole"] * 3
    assert "too late to be told" in caplog.text


async def test_an_engine_that_stops_brings_nothing_up_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(), runtime=tmp_path, state=tmp_path, logs=tmp_path)
    checking, go = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def check(_: FleetSpec) -> None:
        checking.set()
        await go.wait()

    async def up(_: FleetSpec) -> None:
        done.append("up")

    async def down() -> None:
        done.append("down")

    monkeypatch.setattr(engine.fleet, "check", check)
    monkeypatch.setattr(engine.fleet, "up", up)
    monkeypatch.setattr(engine.fleet, "down", down)
    await engine.start()
    asked = asyncio.create_task(engine.up(FleetSpec(model="m")))
    await checking.wait()
    engine.request_stop()
    stopping = asyncio.create_task(engine.stop())
    await asyncio.wait({stopping}, timeout=0.5)  # as far as it goes while the fleet is being checked
    go.set()
    await stopping
    with pytest.raises(LabError, match="the engine is stopping"):
        await asked
    assert done == ["down"]


async def test_a_viewer_that_reads_no_further_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Settings(), runtime=tmp_path, state=tmp_path, logs=tmp_path)

    async def measured(_: LoadPlan, on_view: Callable[[LoadView], None], __: object) -> Measurement:
        on_view(LoadView(phase=Phase.MEASURING, concurrency=1, in_flight=1, tps=1.0))
        await asyncio.sleep(0)
        return measurement(5.0)

    async def nothing(_: object = None) -> None:
        """The fleet does as it is told."""

    monkeypatch.setattr("lab_tui.engine.engine.remote", measured)
    for command in ("check", "up", "down"):
        monkeypatch.setattr(engine.fleet, command, nothing)
    await engine.start()
    events = engine.bench(LoadPlan(target=Target(url="http://127.0.0.1:9"), concurrency=1), local=False)
    assert (await anext(events)).view is not None
    assert engine._bench is not None
    await asyncio.wait({engine._bench})
    await asyncio.wait_for(engine.up(FleetSpec(model="m")), 5)
    (last,) = [event async for event in events]
    assert last.result is not None and last.result.throughput_tps == 5.0
    await engine.stop()
