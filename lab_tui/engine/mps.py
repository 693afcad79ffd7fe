"""NVIDIA's MPS on this machine, looked at now and then while there is an NVIDIA card."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lab_tui import tasks
from lab_tui.model import GpuReading, InstanceView, MpsView
from lab_tui.serving import mps
from lab_tui.serving.fleet import Fleet

AGAIN_S = 5.0


class MpsWatch:
    """Looks in a thread; nothing is started or spoken to."""

    def __init__(self, gpus: Callable[[], Sequence[GpuReading]]) -> None:
        self._gpus = gpus
        self._machine: mps.Machine | None = None
        self._task: asyncio.Task[None] | None = None

    def view(self, fleet: Fleet, instances: Sequence[InstanceView]) -> MpsView | None:
        """MPS as the instances of the fleet have it, as ``mps.view`` gives it."""
        return mps.view(self._machine, fleet.spec, fleet.mps_pid, self._gpus(), instances)

    def start(self) -> None:
        """Begin to look."""
        self._task = tasks.begin(self._look_on(), "MPS watch")

    async def stop(self) -> None:
        """Look no more."""
        await tasks.end(self._task)

    async def _look_on(self) -> None:
        while True:
            if any(gpu.maker == mps.NVIDIA for gpu in self._gpus()):
                self._machine = await asyncio.to_thread(mps.look)
            await asyncio.sleep(AGAIN_S if self._machine else 0.5)
