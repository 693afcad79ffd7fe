"""What this lab has started and still runs, found without any record: the way to clean up after engines
that were killed.

An engine marks the environment of its children with the folder of its lab. nginx writes its title over
that, so it is known by its folder, or by the log it writes to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path

import psutil

from lab_tui.model import LabError
from lab_tui.serving.mps import NAMES as MPS
from lab_tui.serving.process import session_members

MARK = "LAB_TUI_LAB"  # no setting: no section is called so
ASK_S = 3.0  # what was asked to end has so long before it is killed
KILL_S = 5.0  # for the kernel to end what was killed


def mark(environ: MutableMapping[str, str], runtime: Path) -> None:
    """Have every child that gets ``environ`` carry the name of this lab."""
    environ[MARK] = str(runtime)


def started_here(runtime: Path, logs: Path) -> list[psutil.Process]:
    """Every live process that an engine of the lab in ``runtime`` has started. Takes tens of milliseconds."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and _is_ours(process, runtime, logs):
                found[process.pid] = process
    for leader in list(found):
        if _session(leader) == leader:  # what it has started in turn may have left the mark out
            found |= {member.pid: member for member in session_members(leader)}
    return list(found.values())


def orphans(runtime: Path, logs: Path, engine: int | None, cared_for: Iterable[int]) -> list[psutil.Process]:
    """Those that nobody looks after: not the running engine's own, of which it shows ``cared_for``.

    Old workers of nginx that finish their last streams end by themselves and are none.
    """
    kept = set(cared_for)
    left = []
    for process in started_here(runtime, logs):
        with contextlib.suppress(psutil.Error):
            session = _session(process.pid)
            ours = engine is not None and (process.ppid() == engine or _parent(session) == engine)
            leaving = engine is not None and "shutting down" in " ".join(process.cmdline())
            if not ours and not leaving and not {process.pid, session} & kept:
                left.append(process)
    return left


def describe(processes: Iterable[psutil.Process]) -> str:
    """``2 llama-server (pid 12, 13), nginx (pid 14)``."""
    pids: dict[str, list[int]] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            pids.setdefault(_what(process), []).append(process.pid)
    return ", ".join(
        f"{f'{len(them)} ' if len(them) > 1 else ''}{what} (pid {', '.join(map(str, sorted(them)))})"
        for what, them in sorted(pids.items())
    )


def _what(process: psutil.Process) -> str:
    if process.name() == "nginx":
        return "nginx"
    if process.name().startswith(MPS):
        return "MPS"
    return "load worker" if "lab_tui.load" in " ".join(process.cmdline()) else "llama-server"


def end(processes: Iterable[psutil.Process]) -> None:
    """Ask them to end, then kill them. Returns when they are gone; raises LabError naming what is not."""
    left = list(processes)
    for ask, wait_s in ((psutil.Process.terminate, ASK_S), (psutil.Process.kill, KILL_S)):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        _, left = psutil.wait_procs(left, wait_s)
        left = [process for process in left if _runs(process)]
    if left:
        raise LabError(f"{describe(left)} did not end", "the kernel holds it, often in a driver: see `dmesg`")


def _is_ours(process: psutil.Process, runtime: Path, logs: Path) -> bool:
    """Whose environment we may not read is not ours; workers of root's nginx are nobody's."""
    if process.environ().get(MARK) == str(runtime):
        return True
    if process.name() != "nginx":
        return False
    title = " ".join(process.cmdline())
    return f"-p {runtime}/" in title or any(
        file.path == str(logs / "nginx.log") for file in process.open_files()
    )


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return pid


def _parent(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
