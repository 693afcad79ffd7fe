"""What fits of which model on this machine, and how it felt: found out here, with or without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lab_tui import config, paths
from lab_tui.cli.dry_run import room_here
from lab_tui.cli.output import count, gigabytes, number, say
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import Felt, FleetSpec, LabError, ModelFile
from lab_tui.text import plural

if TYPE_CHECKING:
    from lab_tui.sweep.fit import Room
    from lab_tui.sweep.what_fits import Fits, WhatFits

LABEL = 10  # columns of a context
NARROWEST = 9  # of what fits with so many slots
MOST = 18  # of what has most slots


async def look(path: Path | None, spec: FleetSpec) -> tuple[list[ModelFile], Room]:
    """The models of this machine, or at ``path``, as ``models list`` has them; and the room there is.

    Raises LabError when there is no model at ``path``.
    """
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            snapshot = None
    room = await room_here(snapshot, config.load().serve.reserve_gb)
    return await _felt(await asyncio.to_thread(_fitted, path, spec, room)), room


def _fitted(path: Path | None, spec: FleetSpec, room: Room) -> list[ModelFile]:
    from lab_tui.serving.models import named
    from lab_tui.sweep.fit import fitted, fitting

    return list(fitting(spec, room)) if path is None else [fitted(m, spec, room) for m in named(path)]


async def _felt(models: list[ModelFile]) -> list[ModelFile]:
    """Each with how it felt, as far as the store can be read."""
    from lab_tui.store.store import FILE_NAME, Store
    from lab_tui.sweep.feel import Feels

    file = paths.state_dir() / FILE_NAME
    if not file.exists():
        return models  # nothing was measured yet
    store = Store(file)
    feels = Feels(store)
    try:
        await store.call(store.open_to_read)
        models = [msgspec.structs.replace(model, felt=await feels.of(model)) for model in models]
        problem = feels.problem
    except LabError as error:
        problem = str(error)
    finally:
        await store.close()
    if problem:
        say(f"what was measured is not known: {problem}")
    return models


def looked_into(
    models: Sequence[ModelFile], spec: FleetSpec, room: Room, ctx_per_slot: int | None, parallel: int | None
) -> Iterator[WhatFits]:
    """What fits of each, as it is found out; None: as usual."""
    from lab_tui.sweep.what_fits import what_fits

    contexts = () if ctx_per_slot is None else (ctx_per_slot,)
    slots = () if parallel is None else (parallel,)
    return (what_fits(model, spec, room, contexts=contexts, slots=slots) for model in models)


def text(found: WhatFits) -> str:
    """What fits of one model, for a person."""
    model = found.model
    trained = f"trained for {model.context_length:,} tokens" if model.context_length else ""
    facts = (model.name, model.quantisation, count(model.parameters), gigabytes(model.size_bytes), trained)
    lines = ["  ".join(filter(None, facts)), f"  {model.path}"]
    if any(line.most.instances for line in found.lines) or any(one.ctx_per_slot for one in found.longest):
        lines += _table(found)
    if found.misfit:
        lines.append(f"  {found.misfit}")
    if model.felt is not None:
        lines.append(f"  {felt_text(model.felt)}")
    return "\n".join(lines)


def felt_text(felt: Felt) -> str:
    """How a model felt, and where that was measured."""
    return (
        f"feels {felt.feels}: {number(felt.stream_tps)} tok/s a stream of {number(felt.throughput_tps, 0)} "
        f"in all, with {plural(felt.concurrency, 'stream')} on {felt.instances}×{felt.parallel} "
        f"(sweep {felt.sweep}, cell {felt.cell})"
    )


def _table(found: WhatFits) -> list[str]:
    """A line a context, a column a number of slots; last the longest context of one instance."""
    slots = [fits.parallel for fits in found.lines[0].fits]
    rows = [["CONTEXT", *(f"{n} SLOT{'S' if n > 1 else ''}" for n in slots), "MOST SLOTS"]]
    for line in found.lines:
        most = f"{_fits(line.most)} = {line.most.slots:,}" if line.most.instances else "no"
        rows.append([f"{line.ctx_per_slot:,}", *map(_fits, line.fits), most])
    if found.longest:
        rows.append(
            ["longest", *(f"{one.ctx_per_slot:,}" if one.ctx_per_slot else "no" for one in found.longest)]
        )
    widths = (LABEL, *[NARROWEST] * len(slots), MOST)
    return ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=False)) for row in rows]


def _fits(fits: Fits) -> str:
    return f"{fits.instances}×{fits.parallel}" if fits.instances else "no"


def legend(spec: FleetSpec, room: Room, *, by_slots: bool) -> str:
    """What the figures mean, and in how much room."""
    from lab_tui.sweep.fit import size

    if not by_slots:
        return f"FITS: instances of {spec.parallel} slots x {spec.ctx_per_slot:,} tokens in what is free now"
    where = f"{size(max(room.ram_bytes, 0))} of RAM"
    if room.vram_bytes is not None:
        on = "the GPU" if len(room.cards) == 1 else f"{len(room.cards)} cards"
        where = f"{size(room.vram_bytes)} on {on} and {where}"
    left = f"{size(room.reserve_bytes)} left to the system" + (" and on each card" if room.cards else "")
    return (
        f"instances × slots that fit into what is free now: {where}, beyond the {left}; "
        f"KV cache {spec.cache_type_k}/{spec.cache_type_v}; longest: of one instance"
    )
