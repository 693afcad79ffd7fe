"""One supervised child of this machine: start, signal, wait, log lines, resources.

A child runs in a session of its own and writes to a file, never to a pipe, so it lives on
unharmed when the engine dies; the next engine adopts it by pid, create time and command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from lab_tui.model import Data, LabError
from lab_tui.text import printable

log = logging.getLogger(__name__)

LOG_LIMIT_BYTES = 32 * 1024 * 1024  # a log longer than this starts anew; the old one is kept as .1
TAIL_BLOCK_BYTES = 256 * 1024
KILL_WAIT_S = 5.0  # for the kernel to end what was killed
HALTED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
GONE_POLL_S = 0.1  # where the system has no pidfd


class ProcessRecord(Data, frozen=True, kw_only=True):
    """What proves that a pid is still the process it was."""

    pid: int
    create_time: float  # unix time, as psutil gives it
    command: tuple[str, ...]
    log: str
    log_offset: int = 0  # where in the log this run of it begins


class StopLadder(Data, frozen=True, kw_only=True):
    """How long to wait after each rung: ask, ask again, kill."""

    first: signal.Signals = signal.SIGTERM
    first_wait_s: float = 3.0
    second: signal.Signals = signal.SIGTERM
    second_wait_s: float = 1.0


class Process:
    """A running child, ours or adopted. Make one with ``start`` or ``adopt``."""

    def __init__(self, record: ProcessRecord, popen: subprocess.Popen[bytes] | None) -> None:
        self.record = record
        self.returncode: int | None = None  # None after the end of an adopted child: nobody told us
        self._popen = popen
        self._ps = _psutil_process(record.pid)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
        nice: int = 0,
        cpus: Sequence[int] = (),
    ) -> Process:
        """Run ``command``, its output appended to ``log``. Raises LabError when it cannot be run.

        ``nice`` is how much it stands back behind this process when processors are short, 0 to 19.
        ``cpus`` are the processors that all its threads may use from the first moment on; empty: all.
        Not a coroutine, so that no cancellation can come between the birth of a child and its record.
        """
        try:
            rotate(log)
            output = log.open("ab")
        except OSError as error:
            raise LabError(
                f"cannot write the log {log}: {error.strerror}", "mend its permissions or free disk space"
            ) from error
        with output, _confined(cpus):
            offset = output.tell()
            try:
                popen = subprocess.Popen(
                    tuple(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(
                    f"cannot run {command[0]}: {error.strerror}", "`lab-tui doctor` shows the parts in use"
                ) from error
        if nice:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, popen.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        ps = _psutil_process(popen.pid)
        record = ProcessRecord(
            pid=popen.pid,
            create_time=ps.create_time() if ps else 0.0,
            command=tuple(command),
            log=str(log),
            log_offset=offset,
        )
        return cls(record, popen)

    @classmethod
    def adopt(cls, record: ProcessRecord) -> Process | None:
        """The process of ``record`` when it still runs and is the same one; else None."""
        ps = _psutil_process(record.pid)
        try:
            same = (
                ps is not None
                and ps.status() != psutil.STATUS_ZOMBIE
                and abs(ps.create_time() - record.create_time) < 0.5
                and _same_command(ps.cmdline(), record.command)
            )
        except psutil.Error:
            same = False
        return cls(record, None) if same else None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.record.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process is gone."""
        if self._ps is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._ps.send_signal(number)

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not). Reaps it when it is ours."""
        if self._popen is not None:
            self.returncode = self._popen.poll()
            return self.returncode is None
        return self._ps is not None and not _ended(self._ps)

    async def wait(self) -> int | None:
        """Until it is gone; the exit code (negative: a signal), None for an adopted child."""
        await _until_exit(self)
        return self.returncode

    async def stop(self, ladder: StopLadder) -> None:
        """Ask, ask again, kill. Returns only when the process and all of its session are gone."""
        await self._stop_leader(ladder)
        await end_session(self.pid)

    async def _stop_leader(self, ladder: StopLadder) -> None:
        for rung, wait_s in ((ladder.first, ladder.first_wait_s), (ladder.second, ladder.second_wait_s)):
            self.signal(rung)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), wait_s)
                return
        self.signal(signal.SIGKILL)
        await self.wait()

    def rss_bytes(self) -> int | None:
        """Resident memory in bytes; None when it is gone."""
        try:
            return int(self._ps.memory_info().rss) if self._ps is not None else None
        except psutil.Error:
            return None

    def halted(self) -> bool:
        """Whether it was stopped by SIGSTOP, by job control or by a debugger."""
        try:
            return self._ps is not None and self._ps.status() in HALTED
        except psutil.Error:
            return False

    def log_lines(self, count: int) -> list[str]:
        """The last ``count`` lines that this run of the child has logged."""
        return tail(Path(self.record.log), count, start=self.record.log_offset)


@contextlib.contextmanager
def _confined(cpus: Sequence[int]) -> Iterator[None]:
    """Have what this thread starts meanwhile run on these processors alone.

    The mask is the thread's own and a child inherits it as it is born: no other thread is confined, and
    no thread of the child can have escaped. Nothing may be awaited meanwhile. Raises LabError.
    """
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise LabError(
            f"cannot use processors {', '.join(map(str, cpus))}: {error.strerror}",
            "`lab-tui up` again gives seats anew, or leave out --cpu-pin",
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def nice_session(leader: int, nice: int) -> bool:
    """Have the session that ``leader`` began stand back by ``nice``, 0 to 19, behind other sessions.

    Linux with autogroups (sched(7)) shares processors out among sessions first, whatever the niceness
    of the processes in them. False: it takes one such change in 0.1 s, and this one came too soon.
    """
    try:
        Path(f"/proc/{leader}/autogroup").write_text(str(nice))
    except BlockingIOError:
        return False
    except (FileNotFoundError, ProcessLookupError):
        pass  # a system without autogroups, or it has ended
    except OSError as error:
        log.info("the processors are shared with pid %d as with any other: %s", leader, error)
    return True


def session_members(leader: int) -> list[psutil.Process]:
    """What else runs in the session that ``leader`` began, also after its death.

    The kernel gives no new process a pid that is still the id of a session, so this cannot name
    somebody else's.
    """
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if pid != leader and os.getsid(pid) == leader:
                member = psutil.Process(pid)
                if not _ended(member):
                    members.append(member)
    return members


async def end_session(leader: int) -> None:
    """Kill what is left of the session of a leader that has just died. Returns when it is gone."""
    await end_all(await asyncio.to_thread(session_members, leader))


async def end_all(processes: Sequence[psutil.Process]) -> None:
    """Kill them. Returns when they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await asyncio.to_thread(_wait_gone, processes)


def _wait_gone(killed: Sequence[psutil.Process]) -> None:
    """Until the kernel has ended every one."""
    deadline = time.monotonic() + KILL_WAIT_S
    for process in killed:
        while not _ended(process) and time.monotonic() < deadline:
            time.sleep(0.005)


def _ended(process: psutil.Process) -> bool:
    """Whether nothing of it runs and all it held is free.

    A zombie has ended (in a container the process that should reap it may take seconds, or never do),
    but not while threads of it are still ending: they hold its ports.
    """
    try:
        if not process.is_running():
            return True
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def tail(path: Path, count: int, start: int = 0) -> list[str]:
    """The last ``count`` lines of a file from offset ``start`` on, as printable text."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(start if start <= size else 0, size - TAIL_BLOCK_BYTES)
            file.seek(begin)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    if begin > start and len(lines) > 1:
        del lines[0]  # cut in the middle
    return [printable(line) for line in lines[max(0, len(lines) - count) :]]


def trim(file: Path) -> None:
    """Empty the overlong log of a running child, what it said kept as .1; the child appends on.

    Blocks for as long as the copy takes: call it in a thread.
    """
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_size > LOG_LIMIT_BYTES:
            older = file.with_name(file.name + ".1")
            try:
                shutil.copyfile(file, older)
            except OSError as error:  # a full disk needs the room all the more
                log.warning("the older lines of %s are lost: %s", file, error.strerror)
                older.unlink(missing_ok=True)
            os.truncate(file, 0)


def rotate(log: Path) -> None:
    """Set an overlong log aside, keeping one older file."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_name(log.name + ".1"))


def _psutil_process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _same_command(now: Sequence[str], recorded: Sequence[str]) -> bool:
    """Whether a process that was started as ``recorded`` can have the command line ``now``.

    nginx rewrites its title and scripts gain an interpreter, so the recorded words need only be in it;
    a wrapper becomes the program it runs, and keeps the arguments.
    """
    text = " ".join(now)
    arguments = " ".join(recorded[1:])
    return recorded[0] in text or (arguments != "" and arguments in text)


async def _until_exit(process: Process) -> None:
    """Return when the process is gone, woken by the kernel where it offers pidfd."""
    if not process.alive():
        return
    fd = _pidfd(process.pid)
    if fd is None:
        while process.alive():
            await asyncio.sleep(GONE_POLL_S)
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    while process.alive():  # the kernel wakes us a moment before it can be reaped
        await asyncio.sleep(0.001)


def _pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
