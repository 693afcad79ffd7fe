"""The front: one nginx that spreads requests over the ready instances.

A change of its configuration is tested (``nginx -t``), reloaded,
and waited for until no old worker accepts connections any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import psutil

from lab_tui import tasks
from lab_tui.access import is_loopback, write_private
from lab_tui.model import FrontState, FrontTraffic, FrontView, LabError
from lab_tui.serving.nginx_conf import (
    GENERATION_PATH,
    KEYS_FILE,
    FrontSpec,
    config_text,
    files_needed,
    keys_text,
)
from lab_tui.serving.parts import Nginx
from lab_tui.serving.ports import ANY, outward
from lab_tui.serving.process import Process, ProcessRecord, StopLadder, end_all, session_members, trim
from lab_tui.serving.readings import plain_http
from lab_tui.serving.traffic import FLUSH_MS, Traffic

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 10.0
RESTART_DELAY_S = 0.5
LOGGED_S = 1.25 * FLUSH_MS / 1000  # after that a request that has ended is in the log
READ_S = 1.0  # between two looks at the traffic
# QUIT waits for live streams; INT ends at once.
LADDER = StopLadder(first=signal.SIGQUIT, first_wait_s=0.3, second=signal.SIGTERM, second_wait_s=2.0)


def check_files(max_streams: int) -> None:
    """Raise LabError when the hard limit of open files is too low for ``max_streams``."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < files_needed(max_streams):
        raise LabError(
            f"{max_streams} streams need {files_needed(max_streams)} open files, the hard limit is {hard}",
            "raise it (ulimit -Hn, limits.conf) or ask for fewer --max-streams",
        )


class Front:
    """The one nginx. ``apply`` makes it be what a spec says; ``stop`` ends it."""

    def __init__(self, folder: Path, log: Path, changed: Callable[[], None]) -> None:
        self.view = FrontView(state=FrontState.STOPPED)
        self._folder = folder
        self._traffic = Traffic(folder)
        self._log = log
        self._changed = changed
        self._lock = asyncio.Lock()
        self._nginx: Nginx | None = None
        self._spec: FrontSpec | None = None
        self._text = ""
        self._generation = int(time.time())  # larger than that of any engine before
        self._unsettled = False  # a change was written, and it is not known to be in effect
        self._process: Process | None = None
        self._dead_masters: set[int] = set()  # whose workers may still finish their streams
        self._guard: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def record(self) -> ProcessRecord | None:
        """What the next engine needs to adopt it."""
        return self._process.record if self._process else None

    @property
    def traffic(self) -> FrontTraffic | None:
        """What went through it; None while it does not run."""
        return self._traffic.view() if self._process is not None else None

    async def of_others(self, begun: float, ended: float) -> tuple[int, float]:
        """The requests that were not ours, as :meth:`Traffic.of_others` has them. Those at work are not in.

        Takes as long as the log is late. Raises OSError when it cannot be read.
        """
        await asyncio.sleep(LOGGED_S)
        while self._traffic.read():
            await asyncio.sleep(0)
        return self._traffic.of_others(begun, ended)

    def config(self) -> str:
        """The configuration in effect, "" before the first."""
        return self._text

    async def apply(self, spec: FrontSpec, nginx: Nginx) -> None:
        """Serve ``spec``. Returns when it is in effect. Raises LabError, the old one then still serving."""
        async with self._lock:
            running = self._process if self._process is not None and self._process.alive() else None
            if running is not None and spec == self._spec and not self._unsettled:
                return
            await self._write(spec, nginx)
            self._unsettled = True
            if running is not None and self._moves(
                spec
            ):  # nginx cannot take another address of its port in a reload
                await self._end_guard()
                await running.stop(LADDER)
                running = None
            if running is not None:
                await self._reload(spec)
            else:
                await self._start(spec, nginx)
            self._unsettled = False
            self._spec, self._nginx = spec, nginx
            self._begin_guard()
            self._set(FrontState.READY, spec=spec)

    def _moves(self, spec: FrontSpec) -> bool:
        return self._spec is not None and (self._spec.host, self._spec.port) != (spec.host, spec.port)

    async def adopt(self, record: ProcessRecord) -> None:
        """Take over an nginx that an engine before started; its spec is applied next by the fleet."""
        self._process = Process.adopt(record)
        if self._process is not None:
            self._begin_guard()
        else:
            await self._quit_workers_of(record.pid)

    async def stop(self) -> None:
        """End nginx. Returns when its master and all its workers are gone, and what it knew of keys."""
        async with self._lock:
            await self._end_guard()
            process, self._process, self._spec = self._process, None, None
            if process is not None:
                await process.stop(LADDER)
            for master in self._dead_masters:
                await end_all(await asyncio.to_thread(_workers, master))
            self._dead_masters.clear()
            (self._folder / KEYS_FILE).unlink(missing_ok=True)
            self._set(FrontState.STOPPED)

    def kill(self) -> None:
        """End its master at once; whoever stops it ends the workers."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def detach(self) -> None:
        """Leave nginx running and forget it: the engine ends."""
        async with self._lock:
            await self._end_guard()
            self._process = None

    def _begin_guard(self) -> None:
        if self._guard is None:
            self._guard = tasks.begin(self._watch(), "front guard")
            self._traffic.begin()
            self._reader = tasks.begin(self._read(), "front readings")

    async def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        reader, self._reader = self._reader, None
        await tasks.end(guard)
        await tasks.end(reader)

    # -- inside the lock

    async def _write(self, spec: FrontSpec, nginx: Nginx) -> None:
        """Write and test the configuration. Raises LabError."""
        try:
            await self._try_write(spec, nginx)
        except OSError as error:
            raise LabError(
                f"nginx cannot be set up: {error.filename or nginx.command[0]}: {error.strerror}",
                "`lab-tui doctor` shows the parts in use",
            ) from error

    async def _try_write(self, spec: FrontSpec, nginx: Nginx) -> None:
        self._generation += 1
        (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        candidate = self._folder / "candidate.conf"
        text = config_text(spec, nginx, self._generation)
        candidate.write_text(text, "utf-8")
        if spec.keys:  # else those of before stay
            write_private(self._folder / spec.keys_file, keys_text(spec.keys))
        test = await asyncio.create_subprocess_exec(
            *self._command(nginx, "candidate.conf"),
            "-t",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await test.communicate()
        if test.returncode != 0:
            lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if "emerg" in line]
            raise LabError(f"nginx refuses its configuration: {lines[0] if lines else stderr.decode()}")
        candidate.replace(self._folder / "nginx.conf")
        self._text = text

    def _command(self, nginx: Nginx, config: str) -> tuple[str, ...]:
        return (*nginx.command, "-p", f"{self._folder}/", "-c", config, "-e", str(self._log))

    async def _start(self, spec: FrontSpec, nginx: Nginx) -> None:
        command = (*self._command(nginx, "nginx.conf"), "-g", "daemon off;")
        self._process = Process.start(command, self._log, os.environ)
        self._set(FrontState.STARTING, spec=spec)  # whoever keeps its record can from now on
        if not await self._in_effect(spec):
            await self._process.stop(LADDER)
            complaints = [line for line in self._process.log_lines(20) if "emerg" in line]
            reason = complaints[0] if complaints else "see `lab-tui logs nginx`"
            self._set(FrontState.FAILED, reason=reason)
            raise LabError(f"nginx did not start: {reason}")

    async def _reload(self, spec: FrontSpec) -> None:
        """HUP, then wait until the new worker answers and the old ones have stopped listening."""
        process = self._process
        assert process is not None
        old = await asyncio.to_thread(_listening_workers, process.pid)
        process.signal(signal.SIGHUP)
        if not await self._in_effect(spec):
            raise LabError("nginx did not take its new configuration", "see `lab-tui logs nginx`")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if not old & await asyncio.to_thread(_listening_workers, process.pid):
                return
            await asyncio.sleep(0.02)

    async def _in_effect(self, spec: FrontSpec) -> bool:
        """Wait until the front answers with this generation; False when it ended or time is up."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        async with plain_http(timeout=2.0, headers={"Connection": "close"}) as http:
            while time.monotonic() < deadline and self._process and self._process.alive():
                try:
                    answer = await http.get(spec.url + GENERATION_PATH)
                    if answer.text == str(self._generation):
                        return True
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(0.02)
        return False

    # -- guarding

    async def _watch(self) -> None:
        """Bring nginx back whenever it dies without having been asked."""
        while self._process is not None:
            process = self._process
            await process.wait()
            async with self._lock:
                if process is self._process and self._spec and self._nginx:
                    await self._revive(process, self._spec, self._nginx)
            await asyncio.sleep(RESTART_DELAY_S)

    async def _read(self) -> None:
        """Count what goes through, and keep its log short, for as long as it runs."""
        while True:
            await asyncio.sleep(READ_S)
            await self._forget_masters()
            await asyncio.to_thread(trim, self._log)
            try:
                while self._traffic.read():
                    await asyncio.sleep(0)  # others have their turn between the blocks
            except OSError as error:
                log.warning("the requests at the front are not counted: %s", error)
            if self._spec is not None and self._nginx is not None:
                async with plain_http(base_url=self._spec.url, timeout=READ_S) as http:
                    await self._traffic.ask(http, self._nginx)

    async def _revive(self, dead: Process, spec: FrontSpec, nginx: Nginx) -> None:
        self._set(FrontState.FAILED, reason="nginx died; starting it again")
        await self._quit_workers_of(dead.pid)
        try:
            await self._write(spec, nginx)
            await self._start(spec, nginx)
        except LabError as error:
            self._set(FrontState.FAILED, reason=error.message)
        else:
            self._set(FrontState.READY, spec=spec)

    async def _quit_workers_of(self, master: int) -> None:
        """Let the workers of a dead master finish their streams; they stop listening at once."""
        self._dead_masters.add(master)
        for worker in await asyncio.to_thread(_workers, master):
            with contextlib.suppress(psutil.Error):
                worker.send_signal(signal.SIGQUIT)

    async def _forget_masters(self) -> None:
        """Those whose last worker has ended: the kernel may give their pid to somebody else now."""
        for master in tuple(self._dead_masters):
            if not await asyncio.to_thread(_workers, master):
                self._dead_masters.discard(master)

    def _set(self, state: FrontState, *, spec: FrontSpec | None = None, reason: str = "") -> None:
        spec = spec or self._spec
        self.view = FrontView(
            state=state,
            reason=reason,
            url=spec.url if spec and state != FrontState.STOPPED else None,
            listens=spec.listens if spec and state != FrontState.STOPPED else "",
            url_elsewhere=_elsewhere(spec) if spec and state != FrontState.STOPPED else None,
            pid=self._process.pid if self._process and state != FrontState.STOPPED else None,
            ready=len(spec.backends) if spec and state == FrontState.READY else 0,
        )
        self._changed()


def _elsewhere(spec: FrontSpec) -> str | None:
    """The base URL for other machines; None for loopback, and where no address of ours can be told."""
    host = outward(spec.host) if spec.host in ANY else None if is_loopback(spec.host) else spec.host
    return None if host is None else msgspec.structs.replace(spec, host=host).url


def _workers(master: int) -> list[psutil.Process]:
    """The workers of a dead master. Since it died its session may be another's: nginx alone counts."""
    workers = []
    for member in session_members(master):
        with contextlib.suppress(psutil.Error):
            if member.name() == "nginx":
                workers.append(member)
    return workers


def _listening_workers(master: int) -> set[int]:
    """Pids of the workers that still accept connections: nginx says in its title when one does not."""
    listening = set()
    for worker in session_members(master):
        try:
            if "shutting down" not in " ".join(worker.cmdline()):
                listening.add(worker.pid)
        except psutil.Error:
            continue  # gone meanwhile
    return listening
