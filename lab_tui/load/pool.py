"""The load workers as the driver has them: started, ordered about, heard, and gone for certain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from lab_tui.load.wire import LINE_LIMIT, Message, Order, Ready, encode, message_decoder
from lab_tui.model import LabError

Hear = Callable[[int, Message], None]  # number of the worker, what it said

STREAMS_PER_WORKER = 256
MOST_WORKERS = 8


def workers_for(concurrency: int, cores: int) -> int:
    """How many processes so many streams are shared out to: one for 256, a quarter of the cores at most."""
    wanted = -(-concurrency // STREAMS_PER_WORKER)
    return max(1, min(wanted, cores // 4, MOST_WORKERS))


class Pool:
    """A number of workers. On the way out of the context every one is dead and reaped.

    Their readers are tasks of ``group``: a worker that dies unasked raises LabError there.
    """

    def __init__(self, count: int, group: asyncio.TaskGroup, hear: Hear, start_s: float) -> None:
        self._count = count
        self._group = group
        self._hear = hear
        self._start_s = start_s
        self._processes: list[asyncio.subprocess.Process] = []
        self._ready = 0
        self._all_ready = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def order(self, worker: int, order: Order) -> None:
        """Tell one worker to do something."""
        stdin = self._processes[worker].stdin
        if stdin is not None:
            stdin.write(encode(order))

    async def _start(self) -> None:
        for number in range(self._count):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lab_tui.load.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
                start_new_session=True,  # a terminal's ctrl-C is for the engine to answer
            )
            self._processes.append(process)
            self._group.create_task(self._read(number, process))
        try:
            async with asyncio.timeout(self._start_s):
                await self._all_ready.wait()
        except TimeoutError as error:
            raise LabError(
                f"the load workers did not start within {self._start_s:.0f} s", "is the machine overloaded?"
            ) from error

    async def _read(self, number: int, process: asyncio.subprocess.Process) -> None:
        """Hand on what one worker says until it is gone."""
        assert process.stdout is not None and process.stderr is not None
        # The little a worker says on standard error fits into the pipe; it is read once it is dead.
        while line := await process.stdout.readline():
            try:
                message = message_decoder.decode(line)
            except msgspec.DecodeError as error:
                raise LabError(f"load worker {number} said something odd: {error}") from error
            if isinstance(message, Ready):
                self._ready += 1
                if self._ready == self._count:
                    self._all_ready.set()
            else:
                self._hear(number, message)
        words = await process.stderr.read()
        if not self._closing:
            lines = words.decode(errors="replace").strip().splitlines()
            raise LabError(f"a load worker died: {lines[-1] if lines else 'no word of why'}")

    async def _end(self) -> None:
        """Kill every worker and wait until it is gone, whoever cancels us meanwhile."""
        self._closing = True
        for process in self._processes:
            if process.returncode is None:
                process.kill()  # it holds nothing but sockets
        if not self._processes:
            return
        gone = asyncio.ensure_future(asyncio.gather(*(process.wait() for process in self._processes)))
        cancelled: asyncio.CancelledError | None = None
        while not gone.done():
            try:
                await asyncio.shield(gone)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
