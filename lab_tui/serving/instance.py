"""One instance: a llama-server process and the states it goes through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec

from lab_tui import tasks
from lab_tui.model import InstanceState, InstanceView, LabError, SlotsView
from lab_tui.serving import llama_server
from lab_tui.serving.cores import span
from lab_tui.serving.placement import Seat
from lab_tui.serving.ports import check_free
from lab_tui.serving.process import Process, ProcessRecord, StopLadder, nice_session, trim
from lab_tui.serving.pulse import PULSE_S, SILENT, Look, Pulse, look_at
from lab_tui.serving.readings import InstanceReading, plain_http, read_instance

log = logging.getLogger(__name__)

HEALTH_POLL_S = 0.1
READ_TIMEOUT_S = 2.0
FRESH_S = 2.0  # a reading not older shows that it answers
MAX_RESTARTS = 5
STEADY_S = 60.0  # ready for so long: the count of restarts begins anew
MAX_BACKOFF_S = 30.0
# Hundreds of threads of theirs may want a processor at once: who measures them, shows them and brings
# their tokens out comes first. With processors to spare it changes nothing. A key is shown within 85 ms at 5,
# 53 at 10 and 160 at 0 (p95, 16 instances of a real model on two cores, 1,024 streams); but beside two busy
# processes of others two instances make 45 tok/s at 0, 20 at 5 and 5 at 10.
NICE = 5
LOG_LINES = 20  # kept of a run that ended, to show why
GB = 1e9
LADDER = StopLadder()  # facts: with a live stream the first TERM usually hangs, the second ends it
LIVE = (
    InstanceState.STARTING,
    InstanceState.LOADING,
    InstanceState.READY,
    InstanceState.HUNG,
    InstanceState.BACKOFF,
)


class Instance:
    """Start, stop and watch one llama-server. ``changed`` is called after every change of state."""

    def __init__(
        self,
        index: int,
        command: tuple[str, ...],
        seat: Seat,
        *,
        port: int,
        slots: int,
        log: Path,
        api_key: str | None,
        poll_s: float,
        ready_timeout_s: float,
        memory_limit_bytes: float,
        changed: Callable[[], None],
        see_off: Callable[[Instance], Awaitable[None]],
    ) -> None:
        """``see_off`` lets its streams end before it restarts; no limit of memory is infinity."""
        self.index = index
        self.command = command
        self.seat = seat
        self.port = port
        self.slots = slots
        self.state = InstanceState.STOPPED
        self.reason = ""
        self._log = log
        self._api_key = api_key
        self._poll_s = poll_s
        self._ready_timeout_s = ready_timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._changed = changed
        self._see_off = see_off
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._log_tail: tuple[str, ...] = ()
        self._reading: InstanceReading | None = None
        self._restarts = 0
        self._started_at: float | None = None  # monotonic

    @property
    def address(self) -> str:
        """Host and port, as nginx writes them in X-Upstream."""
        return f"127.0.0.1:{self.port}"

    @property
    def record(self) -> ProcessRecord | None:
        """What the next engine needs to adopt it; None when nothing runs."""
        return self._process.record if self._process else None

    @property
    def wanted(self) -> bool:
        """Whether it is meant to run, also while it is being ended only to begin anew, which has a reason."""
        return self.state in LIVE or (self.state == InstanceState.STOPPING and self.reason != "")

    async def start(self, adopted: Process | None = None) -> None:
        """Begin to run, or go on with an adopted process. Returns at once; the state tells the rest.

        One that hangs is ended and begins anew.
        """
        async with self._lock:
            if self.state in (InstanceState.HUNG, InstanceState.FAILED):
                await self._end_task()  # of a failed one it may still be closing its connection
            if self._task is not None and not self._task.done():
                return
            if self._process is not None:  # it hangs, or a stop was given up half way
                await self._process.stop(LADDER)
            self._restarts = 0
            self._process = adopted
            self._started_at = None
            if adopted is not None:
                self._started_at = time.monotonic() - (time.time() - adopted.record.create_time)
            self._set(InstanceState.STARTING)
            self._task = tasks.begin(self._supervise(adopted), f"instance {self.index}")

    async def stop(self) -> None:
        """End it. Returns when the process is gone."""
        async with self._lock:
            await self._end_task()
            if self._process is not None:
                self._set(InstanceState.STOPPING)
                await self._process.stop(LADDER)
                self._process = None
            self._started_at = None
            self._set(InstanceState.STOPPED)

    def kill(self) -> None:
        """End its process at once; whoever stops it notices."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def detach(self) -> None:
        """Leave the process running and forget it: the engine ends."""
        async with self._lock:
            await self._end_task()

    async def at_work(self) -> bool:
        """Ask it now whether a request is in it, at work or waiting; False when it is not to be asked."""
        if self.state == InstanceState.HUNG:
            return False
        try:
            async with self._http() as http:
                reading = await read_instance(http, time.monotonic(), None)
        except httpx.TimeoutException:
            return True  # some builds do not answer while they decode
        except httpx.HTTPStatusError as error:
            return error.response.status_code == 401  # it serves with a key that we do not know
        except (httpx.HTTPError, msgspec.DecodeError):
            return False
        return reading.busy + reading.queue > 0

    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        return plain_http(base_url=f"http://{self.address}", timeout=READ_TIMEOUT_S, headers=headers)

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        await tasks.end(task)

    def view(self) -> InstanceView:
        """What a viewer shows."""
        reading = self._reading if self.state == InstanceState.READY else None
        now = time.monotonic()
        return InstanceView(
            index=self.index,
            state=self.state,
            reason=self.reason,
            log_tail=self._log_tail,
            port=self.port,
            pid=self._process.pid if self._process else None,
            slots=self.slots,
            busy=reading.busy if reading else None,
            queue=reading.queue if reading else None,
            tps=reading.tps if reading else None,
            rss_bytes=self._process.rss_bytes() if self._process else None,
            gpu="+".join(map(str, self.seat.cards)) or None,
            cores=span(self.seat.cpus) or None,
            uptime_s=now - self._started_at if self._started_at else None,
            reading_age_s=now - reading.time if reading else None,
            restarts=self._restarts,
            command=self.command,
        )

    def slots_view(self) -> SlotsView:
        """What each slot does, as it was last read."""
        reading = self._reading if self.state == InstanceState.READY else None
        if reading is None:
            return SlotsView()
        return SlotsView(age_s=time.monotonic() - reading.time, slots=reading.slots)

    # -- the task

    async def _supervise(self, process: Process | None) -> None:
        proven = process is not None  # it can serve, so its death is worth another try
        async with self._http() as http:
            while True:
                try:
                    why = await self._run(http, process)
                    proven = True
                except LabError as error:
                    why = str(error)
                    if not proven:
                        self._fail(why)
                        return
                process = None
                if self._restarts == MAX_RESTARTS:
                    self._fail(f"{why}; given up after {MAX_RESTARTS} restarts")
                    return
                self._restarts += 1
                delay = min(2.0 ** (self._restarts - 1), MAX_BACKOFF_S)
                reason = f"{why}; restart {self._restarts} of {MAX_RESTARTS} after {delay:.0f} s"
                self._set(InstanceState.BACKOFF, reason=reason)
                await asyncio.sleep(delay)

    async def _run(self, http: httpx.AsyncClient, process: Process | None) -> str:
        """One life; why it ended. Raises LabError when it was never ready."""
        self._log_tail = ()
        process = process or await self._spawn()
        failure = await self._until_ready(http, process)
        if failure:
            await self._end(process)
            raise LabError(failure)
        self._set(InstanceState.READY)
        ready_at = time.monotonic()
        why = await self._while_fit(http, process)
        if why:
            self._set(InstanceState.STOPPING, reason=why)
            await self._see_off(self)
        await self._end(process)
        if time.monotonic() - ready_at > STEADY_S:
            self._restarts = 0
        return why or llama_server.why_it_ended(self._log_tail, process.returncode)

    async def _end(self, process: Process) -> None:
        """Also of one that is dead: what it may have started itself is not, and has the port."""
        await process.stop(LADDER)
        self._process = None
        self._log_tail = tuple(process.log_lines(LOG_LINES))

    async def _spawn(self) -> Process:
        self._set(InstanceState.STARTING)
        await check_free("127.0.0.1", self.port, f"instance {self.index}")
        environment = llama_server.environment(os.environ, self.seat)
        process = Process.start(self.command, self._log, environment, nice=NICE, cpus=self.seat.cpus)
        self._process = process
        self._started_at = time.monotonic()
        self._changed()
        return process

    async def _until_ready(self, http: httpx.AsyncClient, process: Process) -> str:
        """Wait for ``/health`` to be 200. "" then, or why it will never be."""
        deadline = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline:
            if not process.alive():
                return llama_server.why_it_ended(process.log_lines(200), process.returncode)
            try:
                answer = await http.get("/health")
            except httpx.TransportError:
                pass  # not listening yet
            else:
                if answer.status_code == 200:
                    return ""
                if self.state != InstanceState.LOADING:
                    self._set(InstanceState.LOADING)
            await asyncio.sleep(HEALTH_POLL_S)
        return f"not ready within {self._ready_timeout_s:.0f} s (serve.ready_timeout_s)"

    async def _while_fit(self, http: httpx.AsyncClient, process: Process) -> str:
        """Until it is dead, or has to be ended; why it has to be, "" when it is dead."""
        poller = tasks.begin(self._poll(http, process.pid), f"instance {self.index} readings")
        pulse = tasks.begin(self._until_unfit(http, process), f"instance {self.index} pulse")
        death = tasks.begin(process.wait(), f"instance {self.index} end")
        try:
            await asyncio.wait({pulse, death}, return_when=asyncio.FIRST_COMPLETED)
            return "" if death.done() else pulse.result()
        finally:
            for task in (poller, pulse, death):
                await tasks.end(task)
            self._reading = None

    async def _until_unfit(self, http: httpx.AsyncClient, process: Process) -> str:
        """Show when it hangs and when it goes on; return why it has to be ended."""
        pulse = Pulse(time.monotonic())
        while True:
            await asyncio.sleep(PULSE_S)
            why = pulse.judge(time.monotonic(), await self._look(http, process))
            state = InstanceState.HUNG if why else InstanceState.READY
            if (self.state, self.reason) != (state, why):
                self._set(state, reason=why)
            if pulse.given_up(time.monotonic()):
                return SILENT
            rss = process.rss_bytes() or 0
            if rss > self._memory_limit_bytes:
                limit = self._memory_limit_bytes / GB
                return f"it took {rss / GB:.1f} GB, more than {limit:g} GB (serve.memory_limit_gb)"

    async def _look(self, http: httpx.AsyncClient, process: Process) -> Look | None:
        """What the system says of it; None when it answers, which it is asked only in doubt."""
        if not process.halted() and self._reading and time.monotonic() - self._reading.time < FRESH_S:
            return None
        try:
            await http.get("/health")
        except httpx.TransportError:
            return await asyncio.to_thread(look_at, process)
        return None

    async def _poll(self, http: httpx.AsyncClient, pid: int) -> None:
        """Read the instance again and again; a reading that fails leaves the old one to age."""
        stands_back = False
        while True:
            stands_back = stands_back or nice_session(pid, NICE)
            with contextlib.suppress(httpx.HTTPError, msgspec.DecodeError):
                self._reading = await read_instance(http, time.monotonic(), self._reading)
            await asyncio.to_thread(trim, self._log)
            await asyncio.sleep(self._poll_s)

    def _fail(self, reason: str) -> None:
        self._process = None
        self._started_at = None
        self._set(InstanceState.FAILED, reason=reason)

    def _set(self, state: InstanceState, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            log.info("instance %d %s%s", self.index, state, f": {reason}" if reason else "")
        self.state = state
        self.reason = reason
        if state in (InstanceState.READY, InstanceState.STOPPED):
            self._log_tail = ()
        self._changed()
