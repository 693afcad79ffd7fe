"""NVIDIA's Multi-Process Service: whether it runs, and a daemon of its own for a fleet that asks for one.

Without it the processes on one card take turns on it; with it their kernels run side by side. CUDA looks
for the daemon's socket when a process begins, in ``CUDA_MPS_PIPE_DIRECTORY``, and goes without when none
is there. Facts: docs.nvidia.com/deploy/mps and nvidia-cuda-mps-control(1).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from lab_tui import tasks
from lab_tui.model import FleetSpec, GpuReading, InstanceView, LabError, MpsView
from lab_tui.serving.cards import CUDA, MIG, Device
from lab_tui.serving.process import Process, ProcessRecord, StopLadder, end_all
from lab_tui.text import plural

log = logging.getLogger(__name__)

PROGRAM = "nvidia-cuda-mps-control"
NAMES = "nvidia-cuda-mps"  # -control, -server: as much of their names as the system keeps
PIPES, LOGS, CARDS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
USUAL_PIPES = Path("/tmp/nvidia-mps")
WSL = Path("/dev/dxg")  # Windows' way to its cards
NVIDIA = "NVIDIA"  # the maker, as the reading of a card has it
LEAVE_OUT = "leave MPS out"
MOST_CLIENTS = 60  # of one card, with the newest drivers; 48 before, 16 before Volta
READY_S = 10.0
RESTART_S = 1.0
LADDER = StopLadder()


def listens(folder: Path) -> bool:
    """Whether a daemon has its socket in ``folder``, and this user may use it.

    The daemon does not notice: it takes connections of another type, so the system says no, but says
    otherwise when nobody is there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(folder / "control"))
        except OSError as error:
            return error.errno == errno.EPROTOTYPE
    return True


def machine_runs_one(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether processes that begin with this environment become clients of a daemon."""
    return listens(Path(environ.get(PIPES) or USUAL_PIPES))


def obstacle() -> LabError | None:
    """Why no daemon can be started on this machine; None when nothing is known to stand in the way."""
    if sys.platform != "linux" or WSL.exists():
        return LabError(f"NVIDIA has no MPS for {'WSL' if WSL.exists() else sys.platform}", LEAVE_OUT)
    if shutil.which(PROGRAM) is None:
        return LabError(
            f"{PROGRAM} is not installed",
            f"it comes with NVIDIA's driver (Debian, Ubuntu: nvidia-compute-utils); or {LEAVE_OUT}",
        )
    return None


def check(spec: FleetSpec, gpus: Sequence[GpuReading], devices: Sequence[Device] | None) -> None:
    """Raise LabError when the daemon that ``spec`` asks for cannot be had, or would be for nothing.

    ``devices`` are those that the llama-server in use lists; None: it does not say.
    """
    cards = sum(gpu.maker == NVIDIA for gpu in gpus)
    if not cards:
        raise LabError("MPS is for NVIDIA's cards, and none answers here", LEAVE_OUT)
    if (error := obstacle()) is not None:
        raise error
    if devices is not None and not any(device.kind == CUDA for device in devices):
        raise LabError(
            "MPS is for CUDA, and this llama-server does not use it",
            f"take a build that does, or {LEAVE_OUT}",
        )
    if spec.instances > MOST_CLIENTS * cards:
        raise LabError(
            f"{spec.instances} instances on {plural(cards, 'card')}: MPS takes {MOST_CLIENTS} on each",
            f"ask for fewer, or {LEAVE_OUT}",
        )


class Machine(NamedTuple):
    """What the machine itself has."""

    on: bool  # a daemon that an instance becomes a client of, unless the fleet has it otherwise
    obstacle: LabError | None


def look() -> Machine:
    """What the machine has now. Reads a few files: use a thread."""
    return Machine(machine_runs_one(), obstacle())


def view(
    machine: Machine | None,
    spec: FleetSpec | None,
    daemon: int | None,
    gpus: Sequence[GpuReading],
    instances: Sequence[InstanceView],
) -> MpsView | None:
    """MPS as the instances have it; None without an NVIDIA card, or where nobody has looked yet.

    ``daemon`` is the pid of the fleet's own. Where MPS was asked for, or not wanted, there is no advice.
    """
    if spec is not None and spec.mps == "on":
        return MpsView(on=True, own=True, pid=daemon)
    if machine is None or not any(gpu.maker == NVIDIA for gpu in gpus):
        return None
    if spec is not None and spec.mps:
        return MpsView(on=False, own=True)
    return MpsView(on=machine.on, own=False, hint="" if machine.on else _hint(machine, gpus, instances))


def _hint(machine: Machine, gpus: Sequence[GpuReading], instances: Sequence[InstanceView]) -> str:
    """What MPS may bring where instances share a card, and the way to it; "" where none do.

    A card in parts (MIG) does not count: who shares a part with whom is not told.
    """
    whole = {gpu.index for gpu in gpus if gpu.maker == NVIDIA and MIG not in gpu.missing.values()}
    on_cards = [set(map(int, view.gpu.split("+"))) for view in instances if view.pid and view.gpu]
    counts = Counter(card for cards in on_cards for card in cards & whole)
    shared = sorted(card for card, count in counts.items() if count > 1)
    if not shared:
        return ""
    count = sum(not cards.isdisjoint(shared) for cards in on_cards)
    where = f"GPU {', '.join(map(str, shared))}" if len(shared) < 4 else plural(len(shared), "card")
    text = f"MPS is off: {count} instances take turns on {where}. With it their kernels run side by side"
    if machine.obstacle is not None:
        return f"{text}, but {machine.obstacle.message}: {machine.obstacle.remedy}"
    return f"{text}: `lab-tui up --mps on`; a sweep with `--axis mps=off,on` measures what it brings"


def environment(mode: str, folder: Path) -> dict[str, str]:
    """What makes an instance a client of the daemon in ``folder`` ("on"), of none ("off"), or as it comes."""
    if mode == "on":
        return {PIPES: str(folder / "pipe"), LOGS: str(folder / "log")}
    return {PIPES: str(folder / "none")} if mode == "off" else {}


class Daemon:
    """The daemon of a fleet that asked for one, in a private ``folder``; ``changed`` when it comes or goes.

    One that dies is started again: instances that begin later, or anew, want it.
    """

    def __init__(self, folder: Path, log: Path, changed: Callable[[], None]) -> None:
        self.folder = folder
        self.problem = ""  # why it does not run though it should
        self._log = log
        self._changed = changed
        self._process: Process | None = None
        self._guard: asyncio.Task[None] | None = None

    @property
    def record(self) -> ProcessRecord | None:
        """What the next engine needs to adopt it; None when none runs."""
        return self._process.record if self._process else None

    async def start(self) -> None:
        """Have it run. Returns when it takes clients. Raises LabError with what it said."""
        if self._process is None or not self._process.alive():
            await self._end_guard()
            await self._start()
        self._begin_guard()

    async def adopt(self, record: ProcessRecord | None, patience_s: float) -> None:
        """Take over the one that an engine before had; one that died, or was just to begin anew, is started.

        Returns when it takes clients, cannot be started (``problem``), or is slow: an instance that begins
        before would go without.
        """
        self._process = Process.adopt(record) if record is not None else None
        self._begin_guard()
        deadline = time.monotonic() + patience_s
        while not (self.problem or listens(self.folder / "pipe")) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it. Returns when it, and every server that it or one before it started, are gone."""
        await self._end_guard()
        process, self._process, self.problem = self._process, None, ""
        if process is not None:
            await process.stop(LADDER)
        if self.folder.exists():
            await end_all(await asyncio.to_thread(_left, self.folder))
            shutil.rmtree(self.folder, ignore_errors=True)
            self._changed()

    def kill(self) -> None:
        """End it at once; whoever stops it ends what it started."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def detach(self) -> None:
        """Leave it running and forget it: the engine ends."""
        await self._end_guard()
        self._process = None

    async def _start(self) -> None:
        process = Process.start((PROGRAM, "-f"), self._log, self._prepared())
        self._process = process
        self._changed()  # it is on record from its first moment on
        deadline = time.monotonic() + READY_S
        while process.alive() and time.monotonic() < deadline:
            if listens(self.folder / "pipe"):
                self.problem = ""
                return
            await asyncio.sleep(0.02)
        said = next(reversed(process.log_lines(5)), "it said nothing")
        await process.stop(LADDER)
        self._process = None
        raise LabError(f"NVIDIA's MPS daemon did not start: {said}", f"see {self._log}, or {LEAVE_OUT}")

    def _prepared(self) -> dict[str, str]:
        """Fresh folders, and the environment of the daemon: of all cards, since clients count among its."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            for name in ("pipe", "log"):
                (self.folder / name).mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise LabError(f"cannot make {error.filename}: {error.strerror}") from error
        inherited = {name: value for name, value in os.environ.items() if name != CARDS}
        return {**inherited, **environment("on", self.folder)}

    def _begin_guard(self) -> None:
        if self._guard is None:
            self._guard = tasks.begin(self._watch(), "MPS guard")

    async def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        await tasks.end(guard)

    async def _watch(self) -> None:
        while True:
            if self._process is not None:
                await self._process.wait()  # servers of its own go on with the instances that they have
                log.warning("the MPS daemon has ended; starting it again")
            try:
                await self._start()
            except LabError as error:
                self.problem = error.message
                self._changed()
                await asyncio.sleep(RESTART_S)


def _left(folder: Path) -> list[psutil.Process]:
    """What runs of MPS with its pipes in ``folder``: nobody else's, for they have folders of their own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(NAMES) and process.environ().get(PIPES) == str(folder / "pipe"):
                found.append(process)
    return found
