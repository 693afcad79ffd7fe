"""Kills and stops whatever serves, at random, and checks that it keeps serving and loses nothing.

Under streams through the front and a sweep in the queue, instances, nginx, load workers and the engine get
SIGKILL, or SIGSTOP and later SIGCONT. In the second half the engine is left alone, so that its memory can be
judged. Exits 1 when something does not hold; the counts are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import psutil
from own_lab import own_lab

from lab_tui import paths
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import (
    CellStatus,
    CellView,
    FleetSpec,
    InstanceState,
    Snapshot,
    SweepSpec,
    WindowSpec,
    Workload,
)
from lab_tui.serving import orphans
from lab_tui.starting import ensure_engine
from lab_tui.sweep import space

INSTANCES, SLOTS = 4, 16
CELL_S = 5.0  # about what a cell takes under all this
OVER = (CellStatus.MEASURED, CellStatus.FAILED)
GRACE_S = 1.0  # a request that begins so long after a hit may still have been sent to whom it hit
BACK_S = 10.0  # for the front to be there again, when the engine has to come back first
SETTLE_S = 120.0  # for everything to serve again, and for the queue to end
MEMORY_FROM_S = 60.0  # an engine younger than this still fills its caches
FILES_SPARE = 4  # descriptors that come and go: a viewer's line, a reading under way
FRONT, WORKER, ENGINE = "front", "load worker", "engine"


class Lab:
    """The lab under attack: an engine is started whenever none runs."""

    def __init__(self) -> None:
        self.runtime, self.logs = paths.runtime_dir(), paths.logs_dir()
        self.sweep = 0  # id of the one that counts

    async def snapshot(self) -> Snapshot:
        while True:
            await ensure_engine()
            with contextlib.suppress(EngineGone):
                async with EngineClient() as client:
                    return await client.snapshot()

    async def cells(self) -> dict[int, CellView]:
        """The cells that are over, by number."""
        while True:
            await ensure_engine()
            with contextlib.suppress(EngineGone):
                async with EngineClient() as client:
                    cells = (await client.sweep_detail(self.sweep)).cells
                return {cell.index: cell for cell in cells if cell.status in OVER}

    async def engine(self) -> psutil.Process:
        return psutil.Process((await self.snapshot()).engine.pid)

    async def until(self, what: str, seconds: float, condition: Callable[[Snapshot], Any]) -> Snapshot | None:
        """The snapshot for which ``condition`` holds, or None when that does not come in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            snapshot = await self.snapshot()
            if condition(snapshot):
                return snapshot
            await asyncio.sleep(0.2)
        print(f"✖ not within {seconds:.0f} s: {what}")
        return None

    async def begin(self, cells: int) -> str:
        """A fleet, and a sweep over it that never restarts an instance; the URL of the front."""
        fleet = FleetSpec(
            model=os.environ["LAB_TUI_SERVE_MODEL"],
            instances=INSTANCES,
            parallel=SLOTS,
            base_port=int(os.environ["LAB_TUI_SERVE_BASE_PORT"]),
            front_port=int(os.environ["LAB_TUI_SERVE_FRONT_PORT"]),
            threads=1,
        )
        spec = space.laid_out(
            SweepSpec(
                name="chaos",
                fleet=fleet,
                axes={"concurrency": tuple(range(1, cells + 1))},
                workload=Workload(prompt_tokens=8, output_tokens=32),
                window=WindowSpec(min_s=0.5, max_s=1.0),
                confirm=False,
            ),
            INSTANCES,
        )
        await ensure_engine()
        async with EngineClient() as client:
            await client.up(spec.fleet)
            await self.until("every instance to serve", SETTLE_S, whole)
            self.sweep = (await client.sweep(spec)).id
        snapshot = await self.until("a first cell", SETTLE_S, lambda s: s.queue and s.queue[0].cells_measured)
        if snapshot is None or snapshot.front.url is None:
            raise SystemExit("the lab did not come up")
        return snapshot.front.url


def whole(snapshot: Snapshot) -> bool:
    """Whether every instance serves."""
    return snapshot.front.ready == len(snapshot.instances) == INSTANCES


class Streams:
    """Clients that stream through the front, one request after the other; every outcome is counted."""

    def __init__(self, url: str, count: int) -> None:
        self.counts: Counter[str] = Counter()
        self.unexplained: list[str] = []
        self.hits: list[tuple[str, float, float]] = []  # whom, from when, till when (monotonic)
        self._url = f"{url}/completion"
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(count)]

    async def _client(self, number: int) -> None:
        body = {"prompt": f"{number} a b c", "n_predict": 32, "ignore_eos": True, "stream": True}
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1)) as http:
            while True:
                await self._request(http, body)

    async def _request(self, http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        began, upstream, trouble = time.monotonic(), "", ""
        try:
            async with http.post(self._url, json=body, headers={"Connection": "close"}) as answer:
                upstream = answer.headers.get("X-Upstream", "")
                last = b""
                async for line in answer.content:
                    last = line.strip() or last
                if answer.status != 200:
                    trouble = f"{answer.status}"
                elif b'"stop":true' not in last.replace(b" ", b""):
                    trouble = "ended before its end"
        except (aiohttp.ClientError, TimeoutError) as error:
            trouble = type(error).__name__
        if not trouble:
            self.counts["answered"] += 1
            return
        if self._explained(upstream, began):
            self.counts["errors on what was hit"] += 1
        else:
            self.counts["errors not explained"] += 1
            self.unexplained.append(f"{trouble} from {upstream or 'nobody'} after {_since(began)}")
        await asyncio.sleep(0.2)  # a front that is away is not to be hammered

    def _explained(self, upstream: str, began: float) -> bool:
        """Whether what it was on was hit while it ran; without the name of an instance that is the front."""
        now = time.monotonic()
        for whom, since, until in self.hits:
            mine, grace_s = (whom in upstream, GRACE_S) if upstream else (whom == FRONT, BACK_S)
            if mine and since <= now and began <= until + grace_s:
                return True
        return False

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Chaos:
    """Hits somebody every few seconds."""

    def __init__(self, lab: Lab, streams: Streams, luck: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lab = lab
        self._streams = streams
        self._luck = luck
        self._kept: dict[int, CellView] = {}
        self._stopped: set[asyncio.Task[None]] = set()

    async def rage(self, seconds: float, *, engine: bool) -> None:
        """Go on for so long; the engine is spared unless ``engine``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await asyncio.sleep(self._luck.uniform(0.5, 3.0))
            whom = self._luck.choices(("instance", FRONT, WORKER, ENGINE), (5, 2, 2, 2 * engine))[0]
            await self._hit(whom, kill=self._luck.random() < 0.6)
            await self.check_cells()
        if self._stopped:
            await asyncio.gather(*self._stopped)

    async def check_cells(self) -> None:
        """What was finished has to be as it was. Starts an engine when none runs."""
        now = await self._lab.cells()
        changed = [at for at, cell in self._kept.items() if now.get(at) != cell]
        if changed:
            self.lost.append(f"cells {changed} are not what they were")
        self._kept = now

    async def _hit(self, whom: str, *, kill: bool) -> None:
        target, name = self._target(await self._lab.snapshot(), whom)
        if target is None:
            return
        self.counts[f"{whom} {'killed' if kill else 'stopped'}"] += 1
        began = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            if kill:
                self._streams.hits.append((name, began, began))
                target.kill()
            else:
                halt_s = self._luck.uniform(1.0, 12.0 if whom == "instance" else 3.0)
                self._streams.hits.append((name, began, began + halt_s))
                target.suspend()
                task = asyncio.create_task(self._resume(target, halt_s))
                self._stopped.add(task)
                task.add_done_callback(self._stopped.discard)
                if whom == ENGINE:
                    await task  # its commands would only wait for it

    async def _resume(self, target: psutil.Process, after_s: float) -> None:
        await asyncio.sleep(after_s)
        with contextlib.suppress(psutil.NoSuchProcess):
            target.resume()

    def _target(self, snapshot: Snapshot, whom: str) -> tuple[psutil.Process | None, str]:
        """Somebody of that kind, and the name under which the streams know it."""
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            engine = psutil.Process(snapshot.engine.pid)
            if whom == "instance":
                view = self._luck.choice(snapshot.instances)
                return (psutil.Process(view.pid), f":{view.port}") if view.pid else (None, "")
            if whom == FRONT:
                return (psutil.Process(snapshot.front.pid), FRONT) if snapshot.front.pid else (None, "")
            if whom == WORKER:
                workers = [p for p in engine.children() if "lab_tui.load.worker" in p.cmdline()]
                return self._luck.choice(workers), WORKER
            return engine, ENGINE
        return None, whom


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.1f} s"


async def attack(lab: Lab, seconds: float, streams: int, seed: int) -> list[str]:
    """Everything; what does not hold."""
    cells = 4 + int(seconds / CELL_S)
    url = await lab.begin(cells)
    files = await _files(await lab.engine())
    clients = Streams(url, streams)
    chaos = Chaos(lab, clients, random.Random(seed))
    await chaos.rage(seconds / 2, engine=True)
    grown = asyncio.create_task(memory(await lab.engine(), seconds / 2))
    await chaos.rage(seconds / 2, engine=False)
    wrong = [await grown]
    await clients.stop()
    wrong += await aftermath(lab, chaos, cells, files)
    print(f"hits: {_counts(chaos.counts)}\nstreams: {_counts(clients.counts)}")
    wrong += [f"a stream that was not hit: {words}" for words in clients.unexplained]
    if not clients.counts["answered"]:
        wrong.append("no stream was answered")
    return [*filter(None, wrong), *chaos.lost]


async def memory(engine: psutil.Process, seconds: float) -> str:
    """By how much the engine grows in ``seconds``, its first minute left out; what is wrong with that."""
    if seconds < 2 * MEMORY_FROM_S:
        print(f"memory of the engine: not judged in less than {2 * MEMORY_FROM_S:.0f} s")
        return ""
    await asyncio.sleep(MEMORY_FROM_S)
    before = engine.memory_info().rss
    await asyncio.sleep(seconds - MEMORY_FROM_S - 1)
    after = engine.memory_info().rss
    print(f"memory of the engine: {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB")
    return "" if after <= before * 1.05 else "the engine grew by more than 5 %"


async def aftermath(lab: Lab, chaos: Chaos, cells: int, files: int) -> list[str]:
    """What does not hold once nobody is hit any more."""
    wrong = []
    await chaos.check_cells()
    if await lab.until("the queue to end", SETTLE_S + cells * CELL_S, lambda s: not s.queue) is None:
        wrong.append("the queue did not end")
    await chaos.check_cells()
    over = await lab.cells()
    print(f"cells: {_counts(Counter(str(cell.status) for cell in over.values()))} of {cells}")
    if len(over) != cells:
        wrong.append("not every cell was measured")
    async with EngineClient() as client:
        for view in (await lab.snapshot()).instances:
            if view.state == InstanceState.FAILED:
                print(f"instance {view.index} was given up: {view.reason}")
                await client.instance(view.index, "start")
        snapshot = await lab.until("every instance to serve", SETTLE_S, whole)
        if snapshot is None:
            return [*wrong, "not every instance serves again"]
        engine = await lab.engine()
        now = await _files(engine)
        print(f"descriptors of the engine: {files} before, {now} after")
        if now > files + FILES_SPARE:
            wrong.append("the engine has leaked descriptors")
        pids = [view.pid for view in (*snapshot.instances, snapshot.front) if view.pid]  # type: ignore[attr-defined]
        left = await asyncio.to_thread(orphans.orphans, lab.runtime, lab.logs, engine.pid, pids)
        if left:
            wrong.append(f"orphans: {orphans.describe(left)}")
        await client.stop_engine()
    await asyncio.to_thread(psutil.wait_procs, [engine], SETTLE_S)
    left = await asyncio.to_thread(orphans.started_here, lab.runtime, lab.logs)
    if left:
        wrong.append(f"left after the stop: {orphans.describe(left)}")
    if list(lab.runtime.glob("*.sock")):
        wrong.append("the socket was left")
    return wrong


async def _files(engine: psutil.Process) -> int:
    """The descriptors it always has: others come and go."""
    least = engine.num_fds()
    for _ in range(10):
        await asyncio.sleep(0.2)
        least = min(least, engine.num_fds())
    return int(least)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the lab is ended also then
    with own_lab(INSTANCES, ENGINE_RESUME_QUEUE="true") as env:
        os.environ.update(env)
        wrong = asyncio.run(attack(Lab(), args.seconds, args.streams, args.seed))
    for line in wrong[:20]:
        print(f"✖ {line}")
    print("everything held" if not wrong else f"{len(wrong)} things did not hold")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
