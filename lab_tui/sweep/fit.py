"""Whether a fleet fits into what is free, from the model's header and from what instances really took.

A cell that does not fit is left out with the figures; once an instance of the sweep has run, what
it took beside the estimate is added to every estimate after it, and cells that fit then come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from lab_tui.model import CellStatus, CellView, Data, FleetSpec, GpuReading, LabError, ModelFile
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.llama_server import MAX_INSTANCES
from lab_tui.serving.memory import Estimate, estimate
from lab_tui.serving.models import walk
from lab_tui.serving.shape import Shape, read_shape
from lab_tui.telemetry.cgroup import Limits
from lab_tui.telemetry.poller import Reading

GB = 1_000_000_000
NO_ROOM = "does not fit: "  # begins the reason of every cell that is left out for memory


class Taken(Data, frozen=True, kw_only=True):
    """What one instance of a measured cell took, beside the estimate. Kept in the cell's context."""

    on_gpu: bool
    ram_bytes: int  # of its own, not counting what is mapped from the model
    ram_offset_bytes: int  # beyond the estimate; negative: less
    vram_bytes: int | None  # None: the driver does not tell it by process
    vram_offset_bytes: int  # 0 when it is not known


class Room(Data, frozen=True, kw_only=True):
    """What a fleet may take: free, or held by the instances that it replaces, beyond the reserve."""

    ram_bytes: int
    vram_bytes: int | None  # of all cards together; None: there is none with memory of its own
    reserve_bytes: int


def correction(cells: Sequence[CellView]) -> Taken | None:
    """What the cell measured last has taught; None before there is one."""
    known = [c for c in cells if "memory" in c.context]
    last = max(known, key=lambda c: c.started or 0.0, default=None)
    return msgspec.convert(last.context["memory"], Taken) if last else None


def corrected(spec: FleetSpec, shape: Shape, room: Room, taken: Taken | None) -> Estimate:
    """The estimate of ``spec`` with what was learnt."""
    gpu = room.vram_bytes is not None and (taken is None or taken.on_gpu)
    plain = estimate(spec, shape, gpu=gpu)
    if taken is None:
        return plain
    return msgspec.structs.replace(
        plain,
        ram_bytes=max(0, plain.ram_bytes + taken.ram_offset_bytes),
        vram_bytes=max(0, plain.vram_bytes + taken.vram_offset_bytes) if plain.vram_bytes else 0,
    )


def problem(need: Estimate, room: Room) -> str:
    """Why a fleet does not fit, with the figures; "" when it does."""
    who = f"{need.instances} instances need" if need.instances > 1 else "1 instance needs"
    places = (
        (need.ram_total_bytes, room.ram_bytes, ""),
        (need.vram_total_bytes, room.vram_bytes or 0, " on the GPU"),
    )
    for total, free, where in places:
        if total and total > free:
            return (
                f"{NO_ROOM}{who} {size(total)}{where}, {size(max(0, free))} are free "
                f"beyond the {size(room.reserve_bytes)} left to the system"
            )
    return ""


def fitted(model: ModelFile, spec: FleetSpec, room: Room) -> ModelFile:
    """``model`` with how many instances of the slots and the context of ``spec`` it has room for.

    Raises LabError when it cannot be read.
    """
    need = corrected(spec, read_shape(model.path), room, None)
    one = msgspec.structs.replace(need, instances=1)
    counts = range(MAX_INSTANCES, 0, -1)
    fits = next((n for n in counts if not problem(msgspec.structs.replace(need, instances=n), room)), 0)
    return msgspec.structs.replace(model, fits=fits, misfit=problem(one, room))


def fitting(spec: FleetSpec, room: Room) -> Iterator[ModelFile]:
    """The models of this machine as they are found, each with what of it fits."""
    for model in walk():
        try:
            yield fitted(model, spec, room)
        except LabError:
            continue  # it went away since it was found


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


def measure_room(
    gpus: Sequence[GpuReading], held: Mapping[int, int | None], reserve_gb: float, limits: Limits
) -> Room:
    """What is free now. ``held``: the processes whose memory comes free, with their bytes on the cards.

    A process whose bytes on the cards are not told counts as holding none.
    """
    reserve = int(reserve_gb * GB)
    free = psutil.virtual_memory().available
    limited = limits.memory_available()
    free = free if limited is None else min(free, limited)
    own = [gpu for gpu in gpus if "memory" not in gpu.missing]  # a unified card's memory is the system's
    vram = [
        gpu.memory_total_bytes - gpu.memory_used_bytes
        for gpu in own
        if gpu.memory_total_bytes is not None and gpu.memory_used_bytes is not None
    ]
    return Room(
        ram_bytes=free + sum(map(private_bytes, held)) - reserve,
        vram_bytes=sum(vram) + sum(size or 0 for size in held.values()) - reserve if vram else None,
        reserve_bytes=reserve,
    )


def private_bytes(pid: int) -> int:
    """RAM that would come free if the process ended: not what it maps from files. 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        memory = process.memory_info()
        if hasattr(memory, "shared"):  # Linux
            return int(memory.rss - memory.shared)
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


class Fit:
    """Asks these questions for the queue. ``reading`` gives the cards as they were read last."""

    def __init__(self, fleet: Fleet, reading: Callable[[], Reading], reserve_gb: float) -> None:
        self._fleet = fleet
        self._reading = reading
        self._reserve_gb = reserve_gb
        self._limits = Limits()

    async def refusal(self, spec: FleetSpec, cells: Sequence[CellView]) -> str:
        """Why ``spec`` cannot run, from all that ``cells`` have taught; "" when it can."""
        return await asyncio.to_thread(self._refusal, spec, self.room(), correction(cells))

    async def come_back(self, cells: Sequence[CellView]) -> list[int]:
        """The cells left out for memory that fit by what is known now."""
        out = [c for c in cells if c.status == CellStatus.SKIPPED and c.reason.startswith(NO_ROOM)]
        room, taken = self.room(), correction(cells)

        def fitting() -> list[int]:
            verdicts: dict[bytes, str] = {}  # cells that differ only in their load share a fleet
            for cell in out:
                key = msgspec.json.encode(cell.cell.fleet)
                if key not in verdicts:
                    verdicts[key] = self._refusal(cell.cell.fleet, room, taken)
            return [c.index for c in out if not verdicts[msgspec.json.encode(c.cell.fleet)]]

        return await asyncio.to_thread(fitting) if out else []

    async def taken(self, spec: FleetSpec) -> dict[str, Any]:
        """What the running instances of ``spec`` took, as ``Taken`` in plain words; empty when none runs."""
        pids = tuple(self._held())
        vram = self._reading().vram_by_pid
        room = self.room()
        taken = await asyncio.to_thread(_taken, spec, pids, vram, room)
        return {"memory": msgspec.to_builtins(taken)} if taken else {}

    def _refusal(self, spec: FleetSpec, room: Room, taken: Taken | None) -> str:
        try:
            shape = read_shape(spec.model)
        except LabError:
            return ""  # the model cannot be read: its start says so, and fails the cell
        return problem(corrected(spec, shape, room, taken), room)

    def _held(self) -> dict[int, int | None]:
        vram = self._reading().vram_by_pid
        return {view.pid: vram.get(view.pid) for view in self._fleet.views() if view.pid}

    def room(self) -> Room:
        """What is free now, with what the fleet holds."""
        return measure_room(self._reading().gpus, self._held(), self._reserve_gb, self._limits)


def _taken(spec: FleetSpec, pids: Sequence[int], vram: Mapping[int, int], room: Room) -> Taken | None:
    ram = max(map(private_bytes, pids), default=0)
    if not ram:
        return None
    cards = room.vram_bytes is not None
    on_gpu = cards and any(pid in vram or _uses_cuda(pid) for pid in pids)
    need = estimate(spec, read_shape(spec.model), gpu=on_gpu)
    told = [vram[pid] for pid in pids if pid in vram]
    return Taken(
        on_gpu=on_gpu,
        ram_bytes=ram,
        ram_offset_bytes=ram - need.ram_bytes,
        vram_bytes=max(told) if told else None,
        vram_offset_bytes=max(told) - need.vram_bytes if told and need.vram_bytes else 0,
    )


def _uses_cuda(pid: int) -> bool:
    """Whether the process has loaded NVIDIA's driver library: a build for CPUs does not."""
    try:
        return "libcuda" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
