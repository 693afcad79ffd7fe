"""The cards that a llama-server build can use, how each is named to it, and what is free on them.

CUDA's own order of cards is not NVML's (fastest first against bus address), so NVIDIA cards are named by
UUID, which needs no order. ROCm is told indices: not every card has a UUID. Its order is that of the
nodes of the kernel's KFD (HIP and llama-server's ``ROCm0``, ``ROCm1``, … follow it), not that of the bus
addresses nor of sysfs's ``card0``; a node is matched with its card by bus address. Every other backend
takes the names that ``llama-server --list-devices`` prints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab_tui.model import Data, GpuReading

MIB = 1 << 20
CUDA, ROCM = "CUDA", "ROCm"
NOT_CARDS = ("CPU", "BLAS", "RPC")
KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
MIG = "MIG is on"  # as the reading of a parted card says
LEAVE_IT = "or --placement auto, which leaves it to llama-server"

Held = Mapping[int, int]  # bytes by card


class Device(Data, frozen=True, kw_only=True):
    """One line of ``--list-devices``."""

    name: str  # CUDA0, ROCm1, Vulkan0, …
    description: str
    total_bytes: int
    free_bytes: int

    @property
    def kind(self) -> str:
        """The backend that drives it."""
        return self.name.rstrip("0123456789")


class Card(Data, frozen=True, kw_only=True):
    """A card that instances can be given."""

    index: int  # as viewers number it
    free_bytes: int  # free, or held by instances of ours, beyond the reserve
    variable: str = ""  # what shows a process this card alone, as ``value``; "": ``device`` chooses it
    value: str = ""
    device: str = ""  # its name for --device; of cards chosen by a variable the first part: they count from 0


class Usable(Data, frozen=True, kw_only=True):
    """The cards that a build can use, or why none can be given to an instance."""

    cards: tuple[Card, ...] = ()
    why: str = ""
    remedy: str = ""
    no_card: bool = False  # a build for processors: it leaves all cards alone


class Own(Data, frozen=True, kw_only=True):
    """What one running instance of ours holds: as the driver tells it, and as it was reckoned."""

    told: Held = {}
    reckoned: Held = {}

    def on(self, card: int) -> int:
        """Bytes on a card. One that is loading, or not told of, holds what it was reckoned to take."""
        return max(self.told.get(card, 0), self.reckoned.get(card, 0))


def parse_devices(text: str) -> tuple[Device, ...]:
    """The cards in what ``--list-devices`` prints: ``  CUDA0: NAME (24124 MiB, 23801 MiB free)``."""
    found = re.findall(r"^\s*([A-Za-z]+\d*): (.*) \((\d+) MiB, (\d+) MiB free\)\s*$", text, re.MULTILINE)
    devices = (
        Device(name=name, description=said, total_bytes=int(total) * MIB, free_bytes=int(free) * MIB)
        for name, said, total, free in found
    )
    return tuple(device for device in devices if device.kind not in NOT_CARDS)


def main_kind(devices: Sequence[Device]) -> str:
    """The backend whose cards instances are given, where a build has several; "" where it has none."""
    kinds = [device.kind for device in devices]
    return next((known for known in (CUDA, ROCM) if known in kinds), kinds[0] if kinds else "")


def usable(
    devices: Sequence[Device] | None,
    gpus: Sequence[GpuReading],
    own: Sequence[Own],
    reserve_bytes: int,
    environ: Mapping[str, str],
    kfd_nodes: Path = KFD_NODES,
) -> Usable:
    """The cards of a build that lists ``devices`` (None: it cannot), within what ``environ`` allows.

    The reserve is left on each card. What our own instances hold counts as free.
    """
    if devices is None:
        why = "this llama-server does not say which cards it can use (it has no --list-devices)"
        return Usable(why=why, remedy=f"take a newer one, built for your cards, {LEAVE_IT}")
    kinds = list(dict.fromkeys(device.kind for device in devices))
    if not kinds:
        return Usable(
            why="this llama-server can use no card",
            remedy=f"take a build for your cards, {LEAVE_IT}",
            no_card=True,
        )
    kind = main_kind(devices)
    chosen = [device for device in devices if device.kind == kind]
    first_part = kind if len(kinds) > 1 else ""  # else a card of another backend would be used beside it
    if kind == CUDA and any(gpu.maker == "NVIDIA" and gpu.uuid for gpu in gpus):
        return _nvidia(gpus, own, reserve_bytes, environ, first_part)
    if kind == ROCM:
        return _amd(chosen, gpus, own, reserve_bytes, environ, first_part, kfd_nodes)
    return Usable(
        cards=tuple(
            Card(index=n, free_bytes=_listed_free(n, device, own) - reserve_bytes, device=device.name)
            for n, device in enumerate(chosen)
        )
    )


def free_bytes(gpu: GpuReading, own: Sequence[Own]) -> int | None:
    """What would be free on a card without instances of ours; None when the card does not tell."""
    total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
    if total is None or used is None:
        return None
    held = sum(one.on(gpu.index) for one in own)
    return min(total, total - used + held)


def _listed_free(index: int, device: Device, own: Sequence[Own]) -> int:
    """As ``free_bytes``, from what llama-server said when it was asked."""
    held = sum(one.on(index) for one in own)
    return min(device.total_bytes, device.free_bytes + held)


def _nvidia(
    gpus: Sequence[GpuReading],
    own: Sequence[Own],
    reserve_bytes: int,
    environ: Mapping[str, str],
    first_part: str,
) -> Usable:
    """Cards by UUID. One that is parted (MIG) cannot be given: its UUID means one part, nobody says which."""
    variable = "CUDA_VISIBLE_DEVICES"
    known = sorted((g for g in gpus if g.maker == "NVIDIA" and g.uuid), key=lambda gpu: gpu.index)
    seen = _visible(known, environ.get(variable), environ.get("CUDA_DEVICE_ORDER", ""))
    if seen is None:
        return Usable(
            why=f"{variable}={environ[variable]} does not say which cards it means",
            remedy="name them by UUID there (nvidia-smi -L), or set CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    whole = [gpu for gpu in seen if MIG not in gpu.missing.values()]
    cards = tuple(
        Card(index=gpu.index, free_bytes=free - reserve_bytes, variable=variable, value=gpu.uuid,
             device=first_part)
        for gpu in whole
        if (free := free_bytes(gpu, own)) is not None
    )  # fmt: skip
    if cards:
        return Usable(cards=cards)
    parted = len(whole) < len(seen)
    why = "every card is parted (MIG is on)" if parted else "no card tells its memory"
    if not seen:
        why = f"{variable}={environ.get(variable, '')} names no card"
    return Usable(why=why, remedy=f"set {variable} yourself {LEAVE_IT.removeprefix('or ')}")


def _visible(known: list[GpuReading], mask: str | None, order: str) -> list[GpuReading] | None:
    """The cards that CUDA_VISIBLE_DEVICES leaves; None when its numbers are in an order that is not known.

    CUDA numbers the fastest card first, which among equal ones is the order of their bus addresses, and
    heeds nothing after the first entry that names no card.
    """
    if mask is None:
        return known
    ordered = order == "PCI_BUS_ID" or len({gpu.name for gpu in known}) < 2
    seen: list[GpuReading] = []
    for entry in map(str.strip, mask.split(",")):
        if entry.isdecimal():
            if not ordered:
                return None
            found = known[int(entry) : int(entry) + 1]
        else:
            found = [gpu for gpu in known if entry and gpu.uuid.lower().startswith(entry.lower())]
        if len(found) != 1:
            break
        seen += found
    return seen


def _amd(
    devices: Sequence[Device],
    gpus: Sequence[GpuReading],
    own: Sequence[Own],
    reserve_bytes: int,
    environ: Mapping[str, str],
    first_part: str,
    kfd_nodes: Path,
) -> Usable:
    """Cards by HIP's index; their live readings where all of them can be matched with the kernel's."""
    variable = "HIP_VISIBLE_DEVICES"
    mask = environ.get(variable) or environ.get("CUDA_VISIBLE_DEVICES")  # HIP heeds that one then
    values = [entry.strip() for entry in mask.split(",")] if mask else [str(n) for n in range(len(devices))]
    matched = _in_hip_order(values, gpus, environ, kfd_nodes)
    cards = []
    for n, (device, value) in enumerate(zip(devices, values, strict=False)):
        gpu = matched[n] if matched else None
        free = free_bytes(gpu, own) if gpu else None
        cards.append(
            Card(
                index=gpu.index if gpu else n,
                free_bytes=(_listed_free(n, device, own) if free is None else free) - reserve_bytes,
                variable=variable,
                value=value,
                device=first_part,
            )
        )
    return Usable(cards=tuple(cards))


def _in_hip_order(
    values: Sequence[str], gpus: Sequence[GpuReading], environ: Mapping[str, str], kfd_nodes: Path
) -> list[GpuReading]:
    """The reading of each of HIP's cards; empty when one of them is not known."""
    if environ.get("ROCR_VISIBLE_DEVICES") or environ.get("GPU_DEVICE_ORDINAL"):
        return []  # HIP counts only what these leave
    by_identity = {gpu.uuid: gpu for gpu in gpus if gpu.maker == "AMD"}
    nodes = [
        next((by_identity[name] for name in names if name in by_identity), None)
        for names in _kfd_cards(kfd_nodes)
    ]
    found = [nodes[int(value)] if value.isdecimal() and int(value) < len(nodes) else None for value in values]
    return [gpu for gpu in found if gpu] if all(found) else []


def _kfd_cards(nodes: Path) -> list[tuple[str, str]]:
    """The unique id and the bus address of every card that ROCm drives, in the order of their nodes."""
    found = []
    for node in sorted((n for n in nodes.glob("*") if n.name.isdecimal()), key=lambda n: int(n.name)):
        try:
            pairs = [line.split() for line in (node / "properties").read_text().splitlines()]
        except OSError:  # a card that this container may not use
            continue
        told = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
        if not told.get("simd_count"):
            continue  # a processor
        place = told.get("location_id", 0)  # bus, device and function, as PCI packs them
        address = f"{told.get('domain', 0):04x}:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7}"
        found.append((f"{told.get('unique_id', 0):016x}", address))
    return found
