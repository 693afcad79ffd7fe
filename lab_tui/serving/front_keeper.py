"""Keeps the front in step with the instances: who serves, who joins, who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

from lab_tui import tasks
from lab_tui.model import InstanceState, LabError
from lab_tui.serving.front import Front
from lab_tui.serving.instance import Instance
from lab_tui.serving.nginx_conf import FrontSpec
from lab_tui.serving.parts import Nginx

RETRY_S = 1.0


class FrontKeeper:
    """Applies what is wanted of the front whenever it is ``due``, and again until it could be."""

    def __init__(
        self,
        front: Front,
        wanted: Callable[[], FrontSpec | None],
        nginx: Callable[[], Awaitable[Nginx]],
        changed: Callable[[], None],
        drain_s: float,
    ) -> None:
        """``wanted`` says what the front is to be now, None for no front; ``changed`` that a try failed.

        ``drain_s``: how long streams have to end before their instance stops.
        """
        self.problem = ""  # what went wrong the last time
        self.leaving: set[int] = set()  # instances that are ready and about to stop
        self._drain_s = drain_s
        self._front = front
        self._wanted, self._nginx, self._changed = wanted, nginx, changed
        self._lock = asyncio.Lock()
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def apply(self) -> None:
        """Make the front be what is wanted now. Raises LabError."""
        async with self._lock:
            if self._wanted() is None:
                return
            nginx = await self._nginx()
            if (spec := self._wanted()) is not None:
                await self._front.apply(spec, nginx)

    async def attempt(self) -> None:
        """Apply, and keep for the screen what went wrong."""
        try:
            await self.apply()
            self.problem = ""
        except LabError as error:
            self.problem = error.message
            self._changed()

    async def stop(self, instances: Iterable[Instance]) -> None:
        """Take instances out of the front, let their streams end for a while, and stop them.

        Raises LabError when the front could not be told.
        """
        stopping = [i for i in instances if i.state not in (InstanceState.STOPPED, InstanceState.FAILED)]
        if not stopping:
            return
        self.leaving |= {i.index for i in stopping}
        try:
            await self.apply()
            await self._drain(stopping)
            await asyncio.gather(*(i.stop() for i in stopping))
        finally:
            self.leaving -= {i.index for i in stopping}

    async def see_off(self, instance: Instance) -> None:
        """Let the streams end of one that is no longer ready and has to restart."""
        await self.attempt()
        await self._drain([instance])

    async def _drain(self, instances: list[Instance]) -> None:
        """Give live streams time to finish: after TERM a llama-server lets them hang."""
        deadline = time.monotonic() + self._drain_s
        while time.monotonic() < deadline and any(await asyncio.gather(*(i.at_work() for i in instances))):
            await asyncio.sleep(0.1)

    def due(self) -> None:
        """Something changed that the front may have to follow."""
        self._due.set()

    def begin(self) -> None:
        """Follow from now on."""
        if self._task is None:
            self._task = tasks.begin(self._keep(), "front keeper")

    async def end(self) -> None:
        """Follow no more."""
        task, self._task = self._task, None
        await tasks.end(task)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # what went wrong is tried again
                await asyncio.wait_for(self._due.wait(), RETRY_S if self.problem else None)
            self._due.clear()
            await self.attempt()
