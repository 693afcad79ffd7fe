"""What client and front carry on this machine with nothing behind them.

A paced null server takes the place of the instances, and its pace is doubled until what arrives falls
behind what is sent, or the load workers run late. The most that arrived in order is the ceiling; a
cell near it says more about client and front than about the model.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from lab_tui.load.driver import OnView, measure
from lab_tui.load.plan import LoadPlan, Target
from lab_tui.model import LabError, LoadView, Phase, WindowSpec, Workload

FIRST_PACE = 10.0  # tok/s of a stream
STEPS = 10
ARRIVED = 0.95  # share of what was sent that has to arrive
LATE_MS = 25.0  # p99 lag of the workers' loops that still is in order
WINDOW_S = 1.5

Front = Callable[[str], AbstractAsyncContextManager[str]]  # address of a server -> URL of a front before it


async def ceiling_tps(
    streams: int, front: Front | None = None, steps: int = STEPS, on_view: OnView | None = None
) -> float:
    """The most tok/s that so many streams carry, through ``front`` where one is given.

    ``on_view`` sees it work, in the phase of a calibration.
    Takes about four seconds a step, at most ten of them and one over. Raises LabError when nothing
    comes through.
    """
    best = 0.0
    pace = FIRST_PACE
    for _ in range(steps):
        found, in_order = await _carried(streams, pace, front, on_view)
        if not in_order:  # once more: the machine may have been busy with something else
            found, in_order = await _carried(streams, pace, front, on_view)
        if in_order or not best:
            best = max(best, found)
        if not in_order:
            break
        pace *= 2
    if not best:
        raise LabError("nothing came through the front from a null server", "see `lab-tui logs nginx`")
    return best


async def _carried(
    streams: int, pace: float, front: Front | None, on_view: OnView | None
) -> tuple[float, bool]:
    """What arrives at one pace, in tok/s, and whether all of it arrives in time."""
    async with null_server(pace) as address:
        if front is None:
            return await _measured(f"http://{address}", streams, pace, on_view)
        async with front(address) as url:
            return await _measured(url, streams, pace, on_view)


async def _measured(url: str, streams: int, pace: float, on_view: OnView | None) -> tuple[float, bool]:
    def show(view: LoadView) -> None:
        if on_view is not None:
            on_view(msgspec.structs.replace(view, phase=Phase.CALIBRATING))

    plan = LoadPlan(
        target=Target(url=url, dialect="llama"),
        concurrency=streams,
        # Long enough that hardly any answer ends while we look: this is about tokens.
        workload=Workload(prompt_tokens=64, output_tokens=round(pace * 30)),
        window=WindowSpec(min_s=WINDOW_S, max_s=WINDOW_S),
    )
    found = await measure(plan, show)
    lag = found.client.loop_lag_ms_p99 or 0.0
    in_order = found.throughput_tps >= ARRIVED * pace * streams and lag <= LATE_MS and not found.errors
    return found.throughput_tps, in_order


@asynccontextmanager
async def null_server(pace: float) -> AsyncIterator[str]:
    """A null server in a process of its own, at ``pace`` tok/s a stream; its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lab_tui.load.null_server",
        "--rate",
        str(pace),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise LabError("the null server did not start", "try again; if it stays so, report it")
        yield f"127.0.0.1:{int(line)}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
