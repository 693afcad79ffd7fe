"""What a sweep comes to before anything of it runs: cells, starts, memory, time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from lab_tui.model import CellStatus, CellView, FleetSpec, Outline, SweepSpec, SweepStatus
from lab_tui.serving import llama_server
from lab_tui.serving.memory import Estimate
from lab_tui.serving.parts import LlamaServer
from lab_tui.serving.placement import AUTO, Seat, words
from lab_tui.serving.shape import read_shape
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import course, space, summary
from lab_tui.sweep.adaptive import most_cells
from lab_tui.sweep.fit import Room, corrected, placing, problem, seats
from lab_tui.sweep.strategy import strategy


async def look_ahead(spec: SweepSpec, room: Room, server: Callable[[], Awaitable[LlamaServer]]) -> Outline:
    """The outline of ``spec`` as it was asked for, checked as the queue would check it. Raises LabError.

    ``server`` gives the llama-server build; it is asked only where arguments or places are given.
    """
    space.check(spec)
    strategy(spec.strategy)
    course.check_budget(spec)
    llama_server.check_spec(spec.fleet)
    asked = any(name in ("placement", "cpu-pin", "mps") or name.startswith(space.ARG) for name in spec.axes)
    if asked or spec.fleet.extra_args or spec.fleet.placement != AUTO or spec.fleet.cpu_pin or spec.fleet.mps:
        build = await server()
        llama_server.check_extra_args(build, spec.fleet.extra_args)
        await space.check_arguments(build, spec)
    laid_out = space.laid_out(spec, llama_server.usable_cores())
    return await asyncio.to_thread(outline, laid_out, room)


def outline(spec: SweepSpec, room: Room) -> Outline:
    """The outline of a checked and laid out ``spec``. Raises LabError when the model cannot be read."""
    shape = read_shape(spec.fleet.model)
    needs: dict[bytes, tuple[FleetSpec, Estimate, str]] = {}  # and why it does not fit
    views = []
    for index, cell in enumerate(space.cells(spec)):
        key = msgspec.json.encode(cell.fleet)
        if key not in needs:
            need = corrected(cell.fleet, shape, room, None)
            needs[key] = (cell.fleet, need, problem(need, room, placing(cell.fleet)))
        why = needs[key][2]
        status = CellStatus.SKIPPED if why else CellStatus.PENDING
        views.append(CellView(index=index, cell=cell, status=status, reason=why))
    largest, most, reason = max(  # of those that do not fit, where there are such
        needs.values(), key=lambda n: (n[2] != "", n[1].vram_total_bytes, n[1].ram_total_bytes)
    )
    line = summary.view(_queued(spec, views))
    most_instances = max(fleet.instances for fleet, _, _ in needs.values())
    return Outline(
        name=spec.name,
        strategy=spec.strategy,
        cells=line.cells_total,
        cells_too_large=line.cells_skipped,
        instance_starts=_search_starts(spec, views, most_instances),
        confirm_starts=course.most_to_confirm(len(views)) * most_instances if spec.confirm else 0,
        longest_s=line.eta_s or 0.0,
        largest=largest,
        weights_bytes=most.weights_bytes,
        kv_bytes=most.kv_bytes,
        ram_each_bytes=most.ram_bytes,
        vram_each_bytes=most.vram_bytes,
        ram_bytes=most.ram_total_bytes,
        vram_bytes=most.vram_total_bytes,
        ram_free_bytes=room.ram_bytes,
        vram_free_bytes=room.vram_bytes,
        reserve_bytes=room.reserve_bytes,
        fits=not reason,
        reason=reason,
        cards_free_bytes={card.index: max(0, card.free_bytes) for card in room.cards},
        placement=_placement(largest, most, room, reason),
    )


def _placement(fleet: FleetSpec, need: Estimate, room: Room, reason: str) -> str:
    """Where the instances of a fleet would run; "" where they are given no place, or have none."""
    if reason or not room.by_card:
        return ""
    cards = [] if placing(fleet) != fleet.placement else seats(need, room, fleet.placement)
    pinned = Seat(threads=fleet.threads) if fleet.cpu_pin else Seat()
    return words([*cards, pinned])


def _search_starts(spec: SweepSpec, views: list[CellView], most_instances: int) -> int:
    """A grid starts each instance of a setting once; the adaptive search may come from anywhere."""
    if spec.strategy == "adaptive":
        return most_cells(views) * most_instances
    return space.model_loads(spec)


def _queued(spec: SweepSpec, cells: list[CellView]) -> StoredSweep:
    """The sweep as the queue would hold it."""
    return StoredSweep(
        id=0, created=0.0, status=SweepStatus.QUEUED, reason="", elapsed_s=0.0, spec=spec, cells=tuple(cells)
    )
