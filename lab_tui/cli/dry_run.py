"""What a sweep would come to, found out here: no engine is started, nothing is queued."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

from lab_tui.cli.output import duration
from lab_tui.model import GpuReading, Snapshot, SweepSpec
from lab_tui.text import plural

if TYPE_CHECKING:
    from lab_tui.model import Outline
    from lab_tui.sweep.fit import Room


async def outlined(spec: SweepSpec, snapshot: Snapshot | None) -> Outline:
    """The outline of ``spec`` on this machine, checked as the engine would. Raises LabError.

    ``snapshot``: of the engine that runs, if any; what its instances hold counts as free.
    """
    from lab_tui import config
    from lab_tui.serving import parts
    from lab_tui.serving.parts import LlamaServer
    from lab_tui.sweep.outline import look_ahead

    settings = config.load()

    async def server() -> LlamaServer:
        return await parts.probe_llama_server(parts.find_llama_server(settings))

    return await look_ahead(spec, await room_here(snapshot, settings.serve.reserve_gb), server)


async def room_here(snapshot: Snapshot | None, reserve_gb: float) -> Room:
    """What is free on this machine now; what the instances of ``snapshot`` hold counts as free."""
    from lab_tui.sweep.fit import measure_room
    from lab_tui.telemetry.cgroup import Limits

    gpus = snapshot.gpus if snapshot else await asyncio.to_thread(_cards)
    held = {i.pid: i.vram_by_gpu for i in snapshot.instances if i.pid} if snapshot else {}
    return measure_room(gpus, held, reserve_gb, Limits())


def _cards() -> tuple[GpuReading, ...]:
    """All cards, read once."""
    from lab_tui.telemetry.gpu import all_cards

    with closing(all_cards()) as reader:
        return reader.read()[0]


def text(found: Outline) -> str:
    """An outline for a person."""
    from lab_tui.sweep.fit import size

    def memory(ram: int, vram: int) -> str:
        return f"{size(ram)} and {size(vram)} on the GPU" if vram else size(ram)

    again = f", {found.confirm_starts:,} to confirm the best" if found.confirm_starts else ""
    fleet = f"{found.largest.instances}×{found.largest.parallel}"
    head = f"{found.name}: {plural(found.cells, 'cell')}, {found.strategy}"
    lines = [
        f"{head}, up to about {duration(found.longest_s)}",
        f"instance starts  {found.instance_starts:,} at most{again}",
        f"model            {size(found.weights_bytes)}",
        f"largest fleet    {fleet}: {memory(found.ram_bytes, found.vram_bytes)}, of it "
        f"{size(found.kv_bytes)} of KV cache for each instance",
        f"free here        {memory(found.ram_free_bytes, found.vram_free_bytes or 0)} "
        f"beyond the {size(found.reserve_bytes)} left to the system",
    ]
    if len(found.cards_free_bytes) > 1:
        free = ", ".join(f"GPU {index} {size(left)}" for index, left in found.cards_free_bytes.items())
        lines.append(f"on each card     {free}")
    if found.placement:
        lines.append(f"placement        {found.placement}")
    if found.fits:
        lines.append("all of it fits")
    else:
        out = found.cells_too_large
        lines.append(
            f"{plural(out, 'cell')} {'is' if out == 1 else 'are'} left out; the largest {found.reason}"
        )
    return "\n".join(lines)
