"""One load worker: a process that keeps streams in flight and counts what they bring.

``python -m lab_tui.load.worker``; it takes orders on standard input, answers on standard output
(see wire.py), and ends when standard input closes, so that no worker outlives its engine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
from collections.abc import AsyncIterator, Coroutine
from time import monotonic, process_time
from typing import cast

from lab_tui.load.http import Origin, parse_url, request_bytes
from lab_tui.load.reading import TokenStream
from lab_tui.load.stats import bins_of
from lab_tui.load.tally import Answer, Tally
from lab_tui.load.wire import (
    LINE_LIMIT,
    REPORT_S,
    Message,
    Ready,
    Report,
    Run,
    Setup,
    Stop,
    Warm,
    Warmed,
    encode,
    order_decoder,
)
from lab_tui.load.workload import Asking

LAG_S = 0.05  # time between two looks at how late the loop is
CONNECTING = 128  # connections being opened at once, so that no listen queue overflows
GRACE_S = 0.75  # what an answer may still take when the load stops
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # of a stream whose request failed


class Streams:
    """The streams of one Run order and the tasks that keep them in flight."""

    def __init__(self, setup: Setup, run: Run, asking: Asking) -> None:
        self.setup = setup
        self.run = run
        self.asking = asking
        self.origin = parse_url(setup.url)
        self.tally = Tally()
        self.answers: list[Answer] = []
        self.lags: list[float] = []
        self.begun = 0
        self.in_flight = 0
        self.stopping = False
        self.left = run.requests
        self.streams: list[TokenStream] = []
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self._door = asyncio.Semaphore(CONNECTING)
        self._shares = first_shares(run, setup.workload.seed)

    async def work(self) -> None:
        """Run until stopped or until all requests are done."""
        async with asyncio.TaskGroup() as group:
            aside = [group.create_task(self._watch_lag()), group.create_task(self._watch_stalls())]
            if self.run.rate:
                aside.append(group.create_task(self._arrivals(self.run.rate)))
            lanes = [group.create_task(self._stream(at)) for at in range(self.run.streams)]
            await asyncio.wait(lanes)
            for task in aside:
                task.cancel()

    def stop(self) -> None:
        """Begin no other request, and break off those that would still take long.

        What a server generates between our leaving and its noticing is counted there and never arrives
        here. A fast one makes many tokens in that time, so answers that are nearly done may end.
        """
        self.stopping = True
        for stream in self.streams:
            if stream.left_s() > GRACE_S:
                stream.abort()
        asyncio.get_running_loop().call_later(2 * GRACE_S, self._abort)
        for _ in range(self.run.streams):
            self._due.put_nowait(monotonic())  # wakes streams that wait for work

    def _abort(self) -> None:
        for stream in self.streams:
            stream.abort()

    def report(self, done: bool = False) -> Report:
        """What has happened since the last report."""
        tally = self.tally
        itl = tuple(bins_of(tally.gaps).items())
        tally.gaps.clear()
        answers, self.answers = tuple(self.answers), []
        lags, self.lags = tuple(self.lags), []
        firsts = tuple(tally.first_tokens)
        tally.first_tokens.clear()
        return Report(
            time=monotonic(),
            cpu_s=process_time(),
            tokens={upstream: lane.tokens for upstream, lane in tally.lanes.items()},
            in_flight=self.in_flight,
            begun=self.begun,
            waiting=self._due.qsize() if not self.stopping else 0,
            itl=itl,
            lags=lags,
            firsts=firsts,
            answers=answers,
            done=done,
        )

    async def _stream(self, at: int) -> None:
        """One stream: ask, read to the end, ask again."""
        setup = self.setup
        stream = TokenStream(self.origin, self.tally, setup.recipe.field, setup.limits.connect_s, self._door)
        self.streams.append(stream)
        share = self._shares[at]
        pause = PAUSE_S
        try:
            while not self.stopping and self.left != 0:
                if self.left is not None:
                    self.left -= 1
                due = await self._due.get() if self.run.rate else monotonic()
                if self.stopping:
                    return
                answer = await self._ask(stream, due, share)
                self.answers.append(answer)
                share = 1.0
                if not answer.kind:
                    pause = PAUSE_S
                elif not self.stopping:
                    # A server that fails at once must not be asked a hundred thousand times a second.
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
        finally:
            stream.abort()

    async def _ask(self, stream: TokenStream, due: float, share: float) -> Answer:
        body, asked = self.asking.next(share)
        request = request_bytes(self.origin, self.setup.recipe.path, self.setup.api_key, body)
        self.begun += 1
        self.in_flight += 1
        try:
            return await stream.ask(request, due, asked, ramp=share < 1.0)
        finally:
            self.in_flight -= 1

    async def _arrivals(self, rate: float) -> None:
        """Open loop: put due times into the queue, ``rate`` a second in the mean, Poisson."""
        spacing = random.Random(self.setup.workload.seed * 7919 + self.setup.worker)
        due = monotonic()
        while True:
            due += spacing.expovariate(rate)
            await asyncio.sleep(due - monotonic())
            self._due.put_nowait(due)

    async def _watch_lag(self) -> None:
        """See how much later than asked the loop comes round."""
        while True:
            due = monotonic() + LAG_S
            await asyncio.sleep(LAG_S)
            self.lags.append(max(0.0, monotonic() - due))

    async def _watch_stalls(self) -> None:
        """Fail streams that had begun and then fell silent."""
        stall_s = self.setup.limits.stall_s
        while True:
            await asyncio.sleep(min(1.0, stall_s / 4))
            now = monotonic()
            for stream in self.streams:
                if stream.first is not None and stream.busy and now - stream.last > stall_s:
                    stream.fail("stalled")


def first_shares(run: Run, seed: int) -> list[float]:
    """What part of a whole answer the first request of each stream asks for.

    Streams that begin together and are equally long would end together for ever, and the rate would
    swing with them. Lengths spread evenly from nothing to whole put them where a load that has run
    for long would have them.
    """
    if not run.spread or run.all_streams < 2:
        return [1.0] * run.streams
    places = list(range(run.all_streams))
    random.Random(seed).shuffle(places)
    mine = places[run.first_stream : run.first_stream + run.streams]
    return [(place + 0.5) / run.all_streams for place in mine]


class Worker:
    """Takes orders and answers them."""

    def __init__(self, write: asyncio.StreamWriter) -> None:
        self._write = write
        self._setup: Setup | None = None
        self._asking: Asking | None = None
        self._streams: Streams | None = None

    async def serve(self, orders: AsyncIterator[bytes]) -> None:
        """Work until the orders end. What fails here ends the worker with its traceback."""
        self._tell(Ready(pid=os.getpid(), files=raise_file_limit()))
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[None]] = []
            async for line in orders:
                work = self._obey(line)
                if work is not None:
                    tasks.append(group.create_task(work))
            for task in tasks:
                task.cancel()

    def _obey(self, line: bytes) -> Coroutine[None, None, None] | None:
        """Take one order; what takes time is returned."""
        match order_decoder.decode(line):
            case Setup() as setup:
                self._setup = setup
                self._asking = Asking(setup.workload, setup.recipe, setup.worker, setup.workers)
            case Warm() as warm if self._setup and self._asking:
                return self._warm(self._setup, self._asking, warm)
            case Run() as run if self._setup and self._asking:
                self._streams = Streams(self._setup, run, self._asking)
                return self._load(self._streams)
            case Stop() if self._streams:
                self._streams.stop()
        return None

    def _tell(self, message: Message) -> None:
        self._write.write(encode(message))

    async def _load(self, streams: Streams) -> None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(streams.work())
            while not work.done():
                # Reports fall on the same tenths of a second in every worker.
                await asyncio.wait([work], timeout=REPORT_S - monotonic() % REPORT_S)
                if not work.done():
                    self._tell(streams.report())
        self._tell(streams.report(done=True))

    async def _warm(self, setup: Setup, asking: Asking, warm: Warm) -> None:
        door = asyncio.Semaphore(CONNECTING)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_warm_slot(setup, asking, address, slot, warm.output_tokens, door))
                for address, slot in warm.slots
            ]
        self._tell(Warmed(answers=tuple(task.result() for task in tasks)))


async def _warm_slot(
    setup: Setup, asking: Asking, address: str, slot: int, tokens: int, door: asyncio.Semaphore
) -> Answer:
    """Ask one slot of one backend for a few tokens."""
    origin: Origin = parse_url(address or setup.url)
    stream = TokenStream(origin, Tally(), setup.recipe.field, setup.limits.connect_s, door)
    body = asking.short(tokens, slot if address else None)
    request = request_bytes(origin, setup.recipe.path, setup.api_key, body)
    too_late = asyncio.get_running_loop().call_later(setup.limits.silence_s, stream.fail, "no answer in time")
    try:
        return await stream.ask(request, monotonic(), tokens)
    finally:
        too_late.cancel()
        stream.abort()


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS calls its hard limit infinite and refuses it
            return soft
    return hard if hard != resource.RLIM_INFINITY else 1 << 30


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, cast("asyncio.BaseProtocol", protocol), None, loop)
    await Worker(writer).serve(_lines(reader))


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line


def main() -> None:
    """Run one worker."""
    gc.freeze()  # what is loaded now never goes: the collector need not look at it
    gc.set_threshold(50_000, 20, 50)
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(_main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main())


if __name__ == "__main__":
    main()
