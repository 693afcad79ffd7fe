"""What llama-server instances say about themselves: counters, slots, and whether they are idle."""

from __future__ import annotations

import asyncio
import math
from time import monotonic

import msgspec

from lab_tui.load.http import Broken, Fetch, parse_url
from lab_tui.load.plan import Backend, Target
from lab_tui.model import Data

POLL_S = 0.05


class Counters(Data, frozen=True, kw_only=True):
    """A reading of /metrics. ``None``: not in it."""

    predicted: float | None = None  # output tokens since start, of released slots only
    prompts: float | None = None  # prompt tokens worked off since start, without those of a cache
    processing: float | None = None
    deferred: float | None = None

    @property
    def idle(self) -> bool:
        """Nothing at work and nothing waiting."""
        return not self.processing and not self.deferred


class Props(Data, frozen=True, kw_only=True):
    """What one instance can do. ``None``: it does not say."""

    slots: int | None = None
    slot_tokens: int | None = None  # context of one slot
    cold: tuple[int, ...] = ()  # slots that were never used


_NAMES = {
    "llamacpp:tokens_predicted_total": "predicted",
    "llamacpp:prompt_tokens_total": "prompts",
    "llamacpp:requests_processing": "processing",
    "llamacpp:requests_deferred": "deferred",
}


def parse_metrics(text: str) -> Counters:
    """The counters in a /metrics page; lines that are none of them, or no number, are passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        key = _NAMES.get(name.partition("{")[0])
        if key:
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number):
                found[key] = number
    return Counters(**found)


def quantum(value: float) -> float:
    """How coarse a counter of this size is printed: six significant digits."""
    return 10.0 ** max(0, len(str(int(value))) - 6)


class Backends:
    """The instances behind a target, one kept connection to each."""

    def __init__(self, target: Target) -> None:
        self._key = target.api_key
        self.list = target.backends
        self._lines = {backend.index: Fetch(parse_url(backend.address)) for backend in target.backends}

    def close(self) -> None:
        """Drop the connections."""
        for line in self._lines.values():
            line.abort()

    async def counters(self) -> dict[int, Counters]:
        """A reading of each instance that gives one."""
        readings = await asyncio.gather(*(self._counters(backend) for backend in self.list))
        return {
            backend.index: reading
            for backend, reading in zip(self.list, readings, strict=True)
            if reading is not None
        }

    async def _counters(self, backend: Backend) -> Counters | None:
        try:
            page = await self._lines[backend.index].get("/metrics", self._key)
        except Broken:
            return None
        return parse_metrics(page.decode(errors="replace"))

    async def props(self, backend: Backend) -> Props:
        """What one instance can do. Raises Broken when it cannot be reached at all."""
        line = self._lines[backend.index]
        try:
            props = msgspec.json.decode(await line.get("/props", self._key), type=_Props)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Props()
        except Broken as error:
            if error.kind.startswith("HTTP 4"):  # an older build, or another server
                return Props()
            raise
        cold: tuple[int, ...] = tuple(range(props.total_slots))
        try:
            slots = msgspec.json.decode(await line.get("/slots", self._key), type=list[_Slot])
        except (Broken, msgspec.DecodeError, UnicodeDecodeError):
            pass  # started with --no-slots: taken as cold
        else:
            cold = tuple(slot.id for slot in slots if slot.id_task is None)
        return Props(slots=props.total_slots, slot_tokens=props.default_generation_settings.n_ctx, cold=cold)

    async def drain(self, limit_s: float) -> bool:
        """Wait until every instance that tells is idle; False when ``limit_s`` was not enough."""
        deadline = monotonic() + limit_s
        while True:
            readings = await self.counters()
            if all(reading.idle for reading in readings.values()):
                return True
            if monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)


class _Generation(Data, frozen=True):
    n_ctx: int | None = None


class _Props(Data, frozen=True):
    total_slots: int
    default_generation_settings: _Generation = _Generation()


class _Slot(Data, frozen=True):
    id: int
    id_task: int | None = None
