"""Whether a fleet fits into what is free, from the model's header and from what instances really took.

A cell that does not fit is left out with the figures; once an instance of the sweep has run, what
it took beside the estimate is added to every estimate after it, and cells that fit then come back.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from lab_tui.model import CellStatus, CellView, Data, FleetSpec, GpuReading, LabError, ModelFile
from lab_tui.serving import placement
from lab_tui.serving.cards import Card, Own, free_bytes
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.llama_server import MAX_INSTANCES, PLACING
from lab_tui.serving.memory import Estimate, estimate, knows_cards
from lab_tui.serving.models import walk
from lab_tui.serving.shape import Shape, read_shape
from lab_tui.telemetry.cgroup import Limits
from lab_tui.telemetry.poller import Reading

GB = 1_000_000_000
NO_ROOM = "does not fit: "  # begins the reason of every cell that is left out for memory
NOT_KNOWN = ""  # as a placement: of what is on the cards the estimate knows nothing


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
    reserve_bytes: int  # left to the system, and on every card
    cards: tuple[Card, ...] = ()  # with memory of their own, each beyond the reserve
    by_card: bool = True  # whether instances can be given cards; else llama-server lays each over all of them

    @property
    def vram_bytes(self) -> int | None:
        """Of all cards together; None: there is none with memory of its own."""
        return sum(max(0, card.free_bytes) for card in self.cards) if self.cards else None


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


def placing(spec: FleetSpec) -> str:
    """The placement that counts: where llama-server's own arguments say it, it is a split as a rule.

    ``NOT_KNOWN`` where they keep weights off the cards: then cards leave nothing out, as with ``up``.
    """
    if not knows_cards(spec):
        return NOT_KNOWN
    said = any(word in PLACING for word in spec.extra_args)
    return placement.SPLIT if said and spec.placement == placement.AUTO else spec.placement


def problem(need: Estimate, room: Room, way: str = placement.AUTO) -> str:
    """Why a fleet does not fit, with the figures; "" when it does. ``way``: its placement."""
    if need.refused:
        return f"{NO_ROOM}{need.refused}"
    who = f"{need.instances} instances need" if need.instances > 1 else "1 instance needs"
    if need.ram_total_bytes > room.ram_bytes:
        return (
            f"{NO_ROOM}{who} {size(need.ram_total_bytes)}, {size(max(0, room.ram_bytes))} are free "
            f"beyond the {size(room.reserve_bytes)} left to the system"
        )
    one_card = need.vram_bytes and len(room.cards) == 1 and way != NOT_KNOWN
    if one_card and need.vram_total_bytes > room.cards[0].free_bytes:
        return (
            f"{NO_ROOM}{who} {size(need.vram_total_bytes)} on the GPU, {size(room.vram_bytes or 0)} are free "
            f"beyond the {size(room.reserve_bytes)} left to the system"
        )
    try:
        seats(need, room, way)
    except LabError as error:
        return f"{NO_ROOM}{error.message}"
    return ""


def seats(need: Estimate, room: Room, way: str) -> list[placement.Seat]:
    """Where the instances of a fleet would be. Raises LabError when one fits nowhere."""
    if not need.vram_bytes or not room.cards or way == NOT_KNOWN:
        return []
    way = way if room.by_card else placement.SPLIT
    return placement.on_cards(way, need, room.cards, need.instances, reserve_bytes=room.reserve_bytes)


def fitted(model: ModelFile, spec: FleetSpec, room: Room) -> ModelFile:
    """``model`` with how many instances of the slots and the context of ``spec`` it has room for.

    Raises LabError when it cannot be read.
    """
    need, way = corrected(spec, read_shape(model.path), room, None), placing(spec)

    def why_not(instances: int) -> str:
        return problem(msgspec.structs.replace(need, instances=instances), room, way)

    # Where so many fit, fewer do.
    fits = bisect_left(range(1, MAX_INSTANCES + 1), True, key=lambda count: why_not(count) != "")
    return msgspec.structs.replace(model, fits=fits, misfit=why_not(1))


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
    gpus: Sequence[GpuReading],
    held: Mapping[int, Mapping[int, int]],
    reserve_gb: float,
    limits: Limits,
    usable: Sequence[Card] | None = None,
) -> Room:
    """What is free now. ``held``: the processes whose memory comes free, with their bytes by card.

    A process whose bytes on the cards are not told counts as holding none. ``usable`` are the cards that
    the llama-server in use says it can use; None: it does not say, so they are all.
    """
    reserve = int(reserve_gb * GB)
    free = psutil.virtual_memory().available
    limited = limits.memory_available()
    free = free if limited is None else min(free, limited)
    own = [gpu for gpu in gpus if "memory" not in gpu.missing]  # a unified card's memory is the system's
    ours = [Own(told=by_card) for by_card in held.values()]
    frees = [(gpu.index, free_bytes(gpu, ours)) for gpu in own]
    every = tuple(Card(index=n, free_bytes=left - reserve) for n, left in frees if left is not None)
    unified = {gpu.index for gpu in gpus} - {gpu.index for gpu in own}
    return Room(
        ram_bytes=free + sum(map(private_bytes, held)) - reserve,
        reserve_bytes=reserve,
        cards=every if usable is None else tuple(c for c in usable if c.index not in unified),
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
        taken = correction(cells)
        if taken is not None:
            self._fleet.learn(spec.model, taken.vram_offset_bytes)
        return await asyncio.to_thread(self._refusal, spec, self.room(), taken)

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
        vram = self._reading().vram_by_card
        room = self.room()
        taken = await asyncio.to_thread(_taken, spec, pids, vram, room)
        if taken is None:
            return {}
        self._fleet.learn(spec.model, taken.vram_offset_bytes)
        return {"memory": msgspec.to_builtins(taken)}

    def _refusal(self, spec: FleetSpec, room: Room, taken: Taken | None) -> str:
        try:
            shape = read_shape(spec.model)
        except LabError:
            return ""  # the model cannot be read: its start says so, and fails the cell
        return problem(corrected(spec, shape, room, taken), room, placing(spec))

    def _held(self) -> dict[int, dict[int, int]]:
        vram = self._reading().vram_by_card
        return {view.pid: vram.get(view.pid, {}) for view in self._fleet.views() if view.pid}

    def room(self) -> Room:
        """What is free now, with what the fleet holds."""
        read = self._reading()
        found = self._fleet.usable_cards(read)
        known = found.cards if found is not None and (found.cards or found.no_card) else None
        room = measure_room(read.gpus, self._held(), self._reserve_gb, self._limits, known)
        by_itself = found is not None and known is None
        return msgspec.structs.replace(room, by_card=False) if by_itself else room


def _taken(
    spec: FleetSpec, pids: Sequence[int], vram: Mapping[int, Mapping[int, int]], room: Room
) -> Taken | None:
    """What the largest of these processes took, against the estimate; ``vram``: their bytes by card."""
    ram = max(map(private_bytes, pids), default=0)
    if not ram:
        return None
    cards = room.vram_bytes is not None
    on_gpu = cards and any(pid in vram or _uses_cuda(pid) for pid in pids)
    need = estimate(spec, read_shape(spec.model), gpu=on_gpu)
    largest = max(
        (vram[pid] for pid in pids if pid in vram), key=lambda sizes: sum(sizes.values()), default={}
    )
    return Taken(
        on_gpu=on_gpu,
        ram_bytes=ram,
        ram_offset_bytes=ram - need.ram_bytes,
        vram_bytes=sum(largest.values()) if largest else None,
        vram_offset_bytes=_beyond(need, largest) if largest and need.vram_bytes and knows_cards(spec) else 0,
    )


def _beyond(need: Estimate, told: Mapping[int, int]) -> int:
    """By how much ``told``, bytes by card, is more than the estimate, which is of one card."""
    return sum(told.values()) - need.vram_bytes - (len(told) - 1) * need.each_card_bytes


def _uses_cuda(pid: int) -> bool:
    """Whether the process has loaded NVIDIA's driver library: a build for CPUs does not."""
    try:
        return "libcuda" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
