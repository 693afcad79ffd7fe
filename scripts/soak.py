"""A day in miniature: after thousands of short cells the engine is no larger, and the store as predicted.

Sweeps of a hundred cells follow each other on one small instance that never restarts. Memory and store are
looked at when a quarter is done, and at the end. Exits 1 when the engine has grown by more than 5 %, or
the store by other than the cells predict.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import psutil
from own_lab import own_lab

from lab_tui import paths
from lab_tui.client import EngineClient
from lab_tui.model import AxisValue, FleetSpec, SweepSpec, WindowSpec, Workload
from lab_tui.starting import ensure_engine
from lab_tui.sweep import space

SWEEP = 100  # cells
GROWTH = 0.05  # of the engine, at most
STORE = 0.10  # how far off the prediction may be
AHEAD = 2  # sweeps in the queue, so that it never runs dry and gives the fleet back


def sweep() -> SweepSpec:
    """A hundred cells of one request each, which restart nothing."""
    fleet = FleetSpec(
        model=os.environ["LAB_TUI_SERVE_MODEL"],
        instances=1,
        parallel=10,
        base_port=int(os.environ["LAB_TUI_SERVE_BASE_PORT"]),
        front_port=int(os.environ["LAB_TUI_SERVE_FRONT_PORT"]),
        threads=1,
    )
    axes: dict[str, tuple[AxisValue, ...]] = {
        "concurrency": tuple(range(1, 11)),
        "output-tokens": tuple(range(4, 14)),
    }
    window = WindowSpec(requests=10, min_s=0.01, max_s=5.0)
    workload = Workload(prompt_tokens=8)
    return SweepSpec(name="soak", fleet=fleet, axes=axes, workload=workload, window=window, confirm=False)


def store_bytes() -> int:
    """The database, and what of it is still in its log."""
    folder = paths.state_dir()
    return sum(file.stat().st_size for file in folder.glob("lab.db*") if not file.name.endswith("-shm"))


async def soak(cells: int) -> list[str]:
    """All of it; what does not hold."""
    await ensure_engine()
    sweeps = max(4, cells // SWEEP)
    looks: dict[int, tuple[int, int]] = {}  # sweeps done → memory and store, in bytes
    began = time.monotonic()
    async with EngineClient() as client:
        engine = psutil.Process((await client.info()).pid)
        added = 0
        while len(looks) < sweeps:
            done = len(looks)
            while added < min(done + AHEAD, sweeps):
                await client.sweep(space.laid_out(sweep(), 1))
                added += 1
            state = await client.snapshot()
            if state.queue_paused:  # nothing will ever be done
                return [f"the queue paused after {SWEEP * done} cells: {'; '.join(state.notices)}"]
            if added - len(state.queue) > done:  # to list all of them takes memory itself
                looks[done + 1] = (engine.memory_info().rss, store_bytes())
                rss, size = looks[done + 1]
                rate = SWEEP * (done + 1) / (time.monotonic() - began)
                print(f"{SWEEP * (done + 1):>6} cells  {rss / 1e6:6.1f} MB  store {size / 1e6:6.2f} MB  "
                      f"{rate:4.1f} cells/s", flush=True)  # fmt: skip
            await asyncio.sleep(0.5)
        failed = sum(view.cells_failed for view in await client.sweeps())
    return judged(looks, sweeps, failed)


def judged(looks: dict[int, tuple[int, int]], sweeps: int, failed: int) -> list[str]:
    """What does not hold of what was seen."""
    quarter, half = sweeps // 4, sweeps // 2
    each = (looks[half][1] - looks[quarter][1]) / (half - quarter)
    predicted = looks[half][1] + each * (sweeps - half)
    grown = looks[sweeps][0] / looks[quarter][0] - 1
    off = looks[sweeps][1] / predicted - 1
    print(f"memory {grown:+.1%} since a quarter was done; store {each / SWEEP / 1e3:.1f} kB a cell, "
          f"{off:+.1%} off what the first half predicts")  # fmt: skip
    wrong = [f"{failed} cells failed"] if failed else []
    wrong += [f"the engine has grown by {grown:.1%}"] if grown > GROWTH else []
    return wrong + ([f"the store is {off:+.1%} off"] if abs(off) > STORE else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    args = parser.parse_args()
    with own_lab(1) as env:
        os.environ.update(env)
        wrong = asyncio.run(soak(args.cells))
    for line in wrong:
        print(f"✖ {line}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
