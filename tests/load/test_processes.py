"""Load workers: gone when they should be, many streams, clear words when something is too much."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
from typing import Any

import psutil
import pytest
import uvloop

from lab_tui.load import pool
from lab_tui.load.driver import Limits, LoadPlan, Target, measure
from lab_tui.load.pool import workers_for
from lab_tui.model import LabError, LoadView, Phase, WindowSpec, Workload

from .conftest import start, stop


def workers() -> list[psutil.Process]:
    """Those that run. One may end while it is looked at."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie, which is said so too
            if "lab_tui.load.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def ignore(_: LoadView) -> None:
    pass


def plan(url: str, **changes: Any) -> LoadPlan:
    fields: dict[str, Any] = {
        "target": Target(url=url, dialect="llama"),
        "concurrency": 8,
        "workload": Workload(prompt_tokens=8, output_tokens=1000),
        "window": WindowSpec(min_s=1.0, max_s=1.0),
    }
    return LoadPlan(**(fields | changes))


async def test_cancelling_leaves_no_worker(null_server: str) -> None:
    phases: list[Phase] = []
    seen: list[int] = []

    def note(view: LoadView) -> None:
        phases.append(view.phase)
        seen.append(len(workers()))

    task = asyncio.create_task(measure(plan(null_server, window=WindowSpec(max_s=60, min_s=60)), note))
    while Phase.MEASURING not in phases:
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert max(seen) == 1
    assert not workers()


async def test_cancelling_at_the_very_start_leaves_no_worker(null_server: str) -> None:
    for delay in (0.0, 0.01, 0.05, 0.1):
        task = asyncio.create_task(measure(plan(null_server), ignore))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not workers()


async def test_a_viewer_that_fails_ends_the_measurement(null_server: str) -> None:
    def fail(_: LoadView) -> None:
        raise RuntimeError("no screen")

    with pytest.raises(RuntimeError, match="no screen"):
        await measure(plan(null_server), fail)
    assert not workers()


async def test_a_worker_that_dies_is_said(null_server: str) -> None:
    def kill(view: LoadView) -> None:
        if view.phase == Phase.MEASURING:
            for worker in workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()

    with pytest.raises(LabError, match="a load worker died"):
        await measure(plan(null_server, window=WindowSpec(max_s=60, min_s=60)), kill)


async def test_several_workers_share_streams_and_requests(
    null_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab_tui.load.driver.workers_for", lambda *_: 3)
    short = Workload(prompt_tokens=8, output_tokens=5)
    m = await measure(
        plan(null_server, concurrency=7, workload=short, window=WindowSpec(requests=20)), ignore
    )
    assert (m.requests, m.total_tokens) == (20, 100)
    m = await measure(plan(null_server, concurrency=7), ignore)
    assert m.throughput_tps == pytest.approx(70, rel=0.1)


def test_a_measurement_runs_in_uvloop_too(null_server: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        m = runner.run(measure(plan(null_server), ignore))
        assert m.throughput_tps == pytest.approx(80, rel=0.1)
        assert not workers()


def test_a_worker_ends_with_its_standard_input() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "lab_tui.load.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None and worker.stdout is not None
    assert b"Ready" in worker.stdout.readline()
    worker.stdin.close()
    assert worker.wait(timeout=10) == 0
    worker.stdout.close()


def test_a_worker_loads_nothing_heavy() -> None:
    code = "import sys, lab_tui.load.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "aiohttp", "httpx", "textual"} & set(loaded.split())


async def test_four_thousand_streams(null_server: str) -> None:
    views: list[LoadView] = []
    limits = Limits(connect_s=20)
    m = await measure(plan(null_server, concurrency=4096, limits=limits), views.append)
    assert m.errors == 0, m.errors_by_kind
    assert m.throughput_tps > 0


async def test_one_request_that_is_shorter_than_a_report() -> None:
    process, port = start("lab_tui.load.null_server", "--rate", "5000")
    try:
        for _ in range(5):
            once = {"workload": Workload(output_tokens=4), "window": WindowSpec(requests=1)}
            m = await measure(plan(f"http://127.0.0.1:{port}", concurrency=1, **once), ignore)
            assert (m.requests, m.total_tokens) == (1, 4)
    finally:
        stop(process)


async def test_too_few_files_are_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    with pytest.raises(LabError, match=r"2000 streams need \d+ open files a process, 1024 are allowed"):
        monkeypatch.setattr("lab_tui.load.checks.workers_for", lambda *_: 1)
        await measure(plan("http://127.0.0.1:1", concurrency=2000), ignore)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concurrency": 0}, "concurrency 0"),
        ({"window": WindowSpec(requests=0)}, "0 requests"),
        ({"workload": Workload(output_tokens=0)}, "at least one token"),
        ({"workload": Workload(rate=-1.0)}, "rate -1.0"),
        ({"target": Target(url="http://127.0.0.1:1", api_key="a\r\nb")}, "API key"),
    ],
)
async def test_plans_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LabError, match=words):
        await measure(plan("http://127.0.0.1:1", **changes), ignore)


def test_workers_are_shared_out_by_streams_and_cores() -> None:
    assert workers_for(1, 64) == 1
    assert workers_for(256, 64) == 1
    assert workers_for(1024, 64) == 4
    assert workers_for(4096, 64) == pool.MOST_WORKERS
    assert workers_for(4096, 2) == 1
