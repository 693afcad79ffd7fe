"""Whose processor time it was while a window was open: ours, with all we started, or that of other work."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable

import psutil

from lab_tui import tasks
from lab_tui.model import Data
from lab_tui.serving.fleet import Fleet

TIMES = ("user", "system", "children_user", "children_system")
SHORTEST_S = 1.0  # less is too short for the host's figure, which is read once a second


class Spent(Data, frozen=True, kw_only=True):
    """Processor time so far."""

    at: float  # monotonic seconds
    cpu_s: float


def spent(roots: Iterable[int]) -> Spent:
    """What these processes and all below them have taken. Looks at every process: call it in a thread."""
    below: dict[int, list[int]] = {}
    took: dict[int, float] = {}
    for process in psutil.process_iter(("ppid", "cpu_times")):
        times = process.info["cpu_times"]
        # Those below it that have ended count with it. None: it is not ours to read.
        took[process.pid] = sum(getattr(times, name, 0.0) for name in TIMES) if times else 0.0
        below.setdefault(process.info["ppid"], []).append(process.pid)
    found: set[int] = set()
    left = list(roots)
    while left:
        if (pid := left.pop()) not in found:
            found.add(pid)
            left += below.get(pid, [])
    return Spent(at=time.monotonic(), cpu_s=sum(took.get(pid, 0.0) for pid in found))


def other_work_pct(began: Spent, ended: Spent, cpu_pct: float | None, cores: int) -> float | None:
    """Per cent of ``cores`` that other work took, where all work took ``cpu_pct``; None when not known."""
    took_s = ended.cpu_s - began.cpu_s
    long_enough = ended.at - began.at >= SHORTEST_S
    if cpu_pct is None or not long_enough or took_s < 0:  # what nobody waited for has taken its time along
        return None
    return max(0.0, cpu_pct - 100 * took_s / (ended.at - began.at) / cores)


class Processors:
    """Looks when a window opens and closes, beside the loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._looks: list[asyncio.Task[Spent]] = []

    def look(self) -> None:
        """Begin a look at what was taken so far."""
        served = (self._fleet.front.view.pid, *(view.pid for view in self._fleet.views()))
        roots = {os.getpid(), *(pid for pid in served if pid)}  # an adopted fleet is not below this process
        self._looks.append(tasks.begin(asyncio.to_thread(spent, roots), "processor time"))

    async def other_work_pct(self, cpu_pct: float | None, cores: int) -> float | None:
        """As :func:`other_work_pct`, between the first look and the last."""
        looks = await asyncio.gather(*self._looks)
        return other_work_pct(looks[0], looks[-1], cpu_pct, cores) if looks else None

    async def end(self) -> None:
        """Wait for no look any more."""
        for task in self._looks:
            await tasks.end(task)
