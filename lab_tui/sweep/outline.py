"""What a sweep comes to before anything of it runs: cells, starts, memory, time."""

from __future__ import annotations

import math

import msgspec

from lab_tui.model import Data, FleetSpec, SweepSpec
from lab_tui.serving.memory import Estimate
from lab_tui.serving.shape import read_shape
from lab_tui.sweep import course, space
from lab_tui.sweep.fit import Room, corrected, problem


class Outline(Data, frozen=True, kw_only=True):
    """Field names are those of ``sweep --dry-run --json``. ``None``: there are no cards."""

    name: str
    strategy: str
    cells: int
    cells_too_large: int  # of them, left out because they do not fit
    instance_starts: int  # at most
    longest_s: float  # at most, before the best is confirmed: every window runs to its limit
    largest: FleetSpec  # the fleet that needs most
    weights_bytes: int  # of the model
    kv_bytes: int  # of each instance of the largest fleet, as are the next two
    ram_each_bytes: int
    vram_each_bytes: int
    ram_bytes: int  # of the largest fleet
    vram_bytes: int
    ram_free_bytes: int  # beyond the reserve, with what our own instances hold
    vram_free_bytes: int | None
    reserve_bytes: int
    fits: bool  # the largest fleet does
    reason: str  # why it does not


def outline(spec: SweepSpec, room: Room) -> Outline:
    """The outline of a checked and laid out ``spec``. Raises LabError when the model cannot be read."""
    shape = read_shape(spec.fleet.model)
    needs: dict[bytes, tuple[FleetSpec, Estimate, int]] = {}  # and how many cells it has
    for cell in space.cells(spec):
        key = msgspec.json.encode(cell.fleet)
        fleet, need, count = needs.get(key) or (cell.fleet, corrected(cell.fleet, shape, room, None), 0)
        needs[key] = (fleet, need, count + 1)
    largest, most, _ = max(needs.values(), key=lambda n: (n[1].vram_total_bytes, n[1].ram_total_bytes))
    too_large = sum(count for _, need, count in needs.values() if problem(need, room))
    count = space.count_cells(spec)
    return Outline(
        name=spec.name,
        strategy=spec.strategy,
        cells=count,
        cells_too_large=too_large,
        instance_starts=space.model_loads(spec),
        longest_s=min((count - too_large) * course.longest_s(spec.window), spec.budget_s or math.inf),
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
        fits=not problem(most, room),
        reason=problem(most, room),
    )
