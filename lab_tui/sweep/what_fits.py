"""What a machine has room for of a model: instances by slots and context, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import msgspec

from lab_tui.model import Data, FleetSpec, ModelFile
from lab_tui.serving.llama_server import MAX_PARALLEL
from lab_tui.serving.memory import CACHE_STEP
from lab_tui.sweep.fit import Room, fitted

CONTEXTS = (2048, 8192, 32768)  # tokens of a slot: short questions, chats, documents
SLOTS = (1, 4, 16, 64)


class Fits(Data, frozen=True, kw_only=True):
    """So many instances (0 to 64) of so many slots."""

    instances: int
    parallel: int

    @property
    def slots(self) -> int:
        """Of all instances."""
        return self.instances * self.parallel


class ContextLine(Data, frozen=True, kw_only=True):
    """What fits where every slot has so many tokens."""

    ctx_per_slot: int
    fits: tuple[Fits, ...]  # one for each number of slots asked about
    most: Fits  # with which most slots fit, whatever their number in one instance


class Longest(Data, frozen=True, kw_only=True):
    """The longest context with which one instance of so many slots fits; 0: none does."""

    parallel: int
    ctx_per_slot: int  # tokens of a slot, at most what the model was trained for


class WhatFits(Data, frozen=True, kw_only=True):
    """One model, by context and by slots."""

    model: ModelFile
    lines: tuple[ContextLine, ...]
    longest: tuple[Longest, ...]  # empty: nobody knows what it was trained for
    misfit: str = ""  # why nothing of `lines` fits


def what_fits(
    model: ModelFile, spec: FleetSpec, room: Room, *, contexts: Sequence[int] = (), slots: Sequence[int] = ()
) -> WhatFits:
    """What ``room`` has room for of ``model``, all else being as in ``spec``. Takes some 10 ms.

    Without ``contexts`` (tokens a slot) and ``slots`` (of an instance): the usual ones, up to what the
    model was trained for. Raises LabError when the model cannot be read.
    """

    def instances(parallel: int, ctx_per_slot: int) -> int:
        asked = msgspec.structs.replace(spec, parallel=parallel, ctx_per_slot=ctx_per_slot)
        return fitted(model, asked, room).fits or 0

    trained = model.context_length
    usual = sorted({*(c for c in CONTEXTS if not trained or c < trained), *([trained] if trained else ())})
    contexts, slots = contexts or usual, slots or SLOTS
    least = msgspec.structs.replace(spec, parallel=min(slots), ctx_per_slot=min(contexts))
    return WhatFits(
        model=model,
        lines=tuple(_line(context, slots, instances) for context in contexts),
        longest=tuple(_longest(parallel, trained, instances) for parallel in slots if trained),
        misfit=fitted(model, least, room).misfit,
    )


def _line(context: int, columns: Sequence[int], instances: Callable[[int, int], int]) -> ContextLine:
    return ContextLine(
        ctx_per_slot=context,
        fits=tuple(Fits(instances=instances(slots, context), parallel=slots) for slots in columns),
        most=_most(lambda slots: instances(slots, context)),
    )


def _most(instances: Callable[[int], int]) -> Fits:
    """With which most slots fit, of equals the fewest instances.

    More slots never leave room for more instances, so between two numbers of slots at most as many
    instances fit as with the smaller one: where that cannot beat what is known, nobody looks.
    """
    fits = cache(instances)
    best = Fits(instances=0, parallel=1)
    spans = [(1, MAX_PARALLEL)]
    while spans:
        low, high = spans.pop()
        for parallel in (low, high):
            if fits(parallel) and (fits(parallel) * parallel, parallel) > (best.slots, best.parallel):
                best = Fits(instances=fits(parallel), parallel=parallel)
        if high - low > 1 and fits(low) > fits(high) and fits(low) * (high - 1) > best.slots:
            middle = (low + high) // 2
            spans += [(low, middle), (middle, high)]
    return best


def _longest(parallel: int, trained: int, instances: Callable[[int, int], int]) -> Longest:
    steps = max(trained // CACHE_STEP, 1)

    def tokens(step: int) -> int:
        return trained if step == steps else step * CACHE_STEP

    found = _largest(0, steps, lambda step: instances(parallel, tokens(step)) > 0)
    return Longest(parallel=parallel, ctx_per_slot=tokens(found) if found else 0)


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest number from ``low``, which is good, to ``high`` that is, those below it being so too."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low
