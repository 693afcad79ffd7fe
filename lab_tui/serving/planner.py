"""What a fleet comes to before it is touched: its parts, the command of each instance, its seat."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from lab_tui import access
from lab_tui.config import Settings
from lab_tui.model import Data, FleetSpec, GpuReading, LabError
from lab_tui.serving import llama_server, models, mps, parts, placement
from lab_tui.serving.cards import Own, Usable, usable
from lab_tui.serving.cores import Core, read_cores, share_out
from lab_tui.serving.instance import GB, Instance
from lab_tui.serving.memory import Estimate, estimate, knows_cards
from lab_tui.serving.parts import LlamaServer, Nginx
from lab_tui.serving.placement import Seat
from lab_tui.serving.shape import read_shape


class CardsRead(Protocol):
    """What was read of the cards."""

    @property
    def gpus(self) -> tuple[GpuReading, ...]:
        """Every card."""

    @property
    def vram_by_card(self) -> Mapping[int, Mapping[int, int]]:
        """Bytes by process and card."""


LookAtCards = Callable[[float], Awaitable[CardsRead]]  # as they are after so many monotonic seconds


class NoCards(Data, frozen=True, kw_only=True):
    """A machine without any."""

    gpus: tuple[GpuReading, ...] = ()
    vram_by_card: dict[int, dict[int, int]] = {}


async def no_cards(_: float = 0.0) -> CardsRead:
    """The cards of a machine that has none."""
    return NoCards()


class Berth(NamedTuple):
    """How one instance is run."""

    command: tuple[str, ...]
    seat: Seat


class Planner:
    """Finds the parts, and gives the instances of a fleet their commands and seats."""

    def __init__(self, settings: Settings, look: LookAtCards, runtime: Path, mps_folder: Path) -> None:
        """``mps_folder`` is that of the MPS daemon that the fleet may have for itself."""
        self._settings, self._look = settings, look
        self._runtime, self._mps_folder = runtime, mps_folder
        self._parts: tuple[LlamaServer, Nginx] | None = None
        self._accepted: set[tuple[str, ...]] = set()  # extra arguments that this llama-server takes
        self._pids: frozenset[int] = frozenset()  # of the instances
        self._freed_at = 0.0  # monotonic: when one of them had ended
        self._learnt = ("", 0)  # of which model instances took so many bytes more on a card than estimated

    @property
    def reserve_bytes(self) -> int:
        """What is left on every card."""
        return int(self._settings.serve.reserve_gb * GB)

    async def find_parts(self) -> tuple[LlamaServer, Nginx]:
        """The llama-server and nginx to use, asked once. Raises LabError for what is missing."""
        if self._parts is None:
            server, nginx = parts.find_llama_server(self._settings), parts.find_nginx(self._settings)
            self._parts = await parts.probe_llama_server(server), await parts.probe_nginx(nginx)
        return self._parts

    def saw(self, instances: Sequence[Instance]) -> None:
        """Which processes they have now: what one that has ended held is free in no reading before that."""
        pids = frozenset(one.record.pid for one in instances if one.record is not None)
        if self._pids - pids:
            self._freed_at = time.monotonic()
        self._pids = pids

    def forget(self) -> None:
        """Another build may be wanted next time."""
        self._parts = None
        self._accepted.clear()

    def learn(self, model: str, more_bytes: int) -> None:
        """An instance of ``model`` took so much more on a card than estimated; negative: less."""
        self._learnt = (model, more_bytes)

    def cards(self, read: CardsRead, running: Sequence[Instance]) -> Usable | None:
        """The cards that instances can be given; None while no llama-server was asked."""
        return None if self._parts is None else self._usable(self._parts[0], read, running)

    async def plan(
        self, spec: FleetSpec, now: FleetSpec | None, running: Sequence[Instance]
    ) -> tuple[Berth, ...]:
        """The berth of each instance of ``spec``, everything looked at that can be wrong with it but ports.

        Those of ``running``, the fleet ``now``, that can stay keep theirs. Raises LabError.
        """
        llama_server.check_spec(spec)
        await asyncio.to_thread(models.check, Path(spec.model))
        build, _ = await self.find_parts()
        llama_server.check_extra_args(build, spec.extra_args)
        if spec.extra_args and spec.extra_args not in self._accepted:
            await parts.try_arguments(build, spec.extra_args)
            self._accepted.add(spec.extra_args)
        if spec.mps == "on":
            mps.check(spec, (await self._look(0.0)).gpus, build.devices)
        seats = await self.seats(spec, now, running)
        served = access.served(spec, self._runtime)
        return tuple(
            Berth(llama_server.command(build, served, i, seat), seat) for i, seat in enumerate(seats)
        )

    async def seats(
        self, spec: FleetSpec, now: FleetSpec | None, running: Sequence[Instance]
    ) -> tuple[Seat, ...]:
        """Where the instances of ``spec`` run; those of ``running`` that can stay keep theirs.

        Raises LabError.
        """
        build, _ = await self.find_parts()
        llama_server.check_placement(build, spec)
        cores = await asyncio.to_thread(read_cores) if spec.cpu_pin else ()
        kept = _kept(build, access.served(spec, self._runtime), now, running, _each(spec, cores))
        seats = await self._on_cards(build, spec, running, kept)
        seats = _on_cores(spec, cores, kept, seats)
        clients = mps.environment(spec.mps, self._mps_folder)
        return (*kept, *(msgspec.structs.replace(seat, mps=clients) for seat in seats))

    async def _on_cards(
        self, build: LlamaServer, spec: FleetSpec, running: Sequence[Instance], kept: Sequence[Seat]
    ) -> list[Seat]:
        """The cards of the instances after those that keep theirs. Raises LabError."""
        left_alone = spec.placement == placement.AUTO and (
            not build.devices or any(word in llama_server.PLACING for word in spec.extra_args)
        )
        read = await no_cards() if left_alone else await self._look(self._freed_at)
        found = Usable() if left_alone else self._usable(build, read, running)
        if not found.cards and spec.placement != placement.AUTO:
            raise LabError(f"placement {spec.placement}: {found.why}", found.remedy)
        need = await asyncio.to_thread(self._need, spec) if found.cards else None
        # What stays takes what it really holds, which is what counts as free of it.
        full = [_holding(seat, _own(one, read)) for seat, one in zip(kept, running, strict=False)]
        return placement.on_cards(spec.placement, need, found.cards, spec.instances, full, self.reserve_bytes)

    def _usable(self, build: LlamaServer, read: CardsRead, running: Sequence[Instance]) -> Usable:
        own = [_own(instance, read) for instance in running if instance.record is not None]
        return usable(build.devices, read.gpus, own, self.reserve_bytes, os.environ)

    def _need(self, spec: FleetSpec) -> Estimate | None:
        """What one instance takes on cards; None when that is not known.

        So it is when the header of the model cannot be read, as its start will say, and when arguments of
        llama-server's own keep some of the weights off the cards.
        """
        if not knows_cards(spec):
            return None
        try:
            need = estimate(spec, read_shape(spec.model), gpu=True)
        except LabError:
            return None
        model, more = self._learnt
        if model != spec.model or not need.vram_bytes:
            return need
        return msgspec.structs.replace(need, vram_bytes=max(0, need.vram_bytes + more))


def _own(instance: Instance, read: CardsRead) -> Own:
    """What an instance holds on cards."""
    told = read.vram_by_card.get(instance.record.pid, {}) if instance.record is not None else {}
    return Own(told=told, reckoned=instance.seat.reckoned)


def _holding(seat: Seat, own: Own) -> Seat:
    """A seat that takes what its instance holds."""
    return msgspec.structs.replace(seat, vram_bytes=tuple(own.on(card) for card in seat.cards))


def _each(spec: FleetSpec, cores: Sequence[Core]) -> int | None:
    """How many cores each instance gets: one a thread, else the same share of all; None: it is not pinned."""
    if not cores:
        return None
    return min(spec.threads or max(1, len(cores) // spec.instances), len(cores))


def _kept(
    build: LlamaServer,
    spec: FleetSpec,
    now: FleetSpec | None,
    running: Sequence[Instance],
    threads: int | None,
) -> list[Seat]:
    """The seats of the instances that ``spec`` leaves as they are, from the first on."""
    if now is None or (now.placement, now.cpu_pin, now.mps) != (spec.placement, spec.cpu_pin, spec.mps):
        return []
    kept: list[Seat] = []
    for index, instance in zip(range(spec.instances), running, strict=False):
        same = instance.command == llama_server.command(build, spec, index, instance.seat)
        if not same or instance.seat.threads != threads:
            break
        kept.append(instance.seat)
    return kept


def _on_cores(
    spec: FleetSpec, cores: Sequence[Core], kept: Sequence[Seat], seats: Sequence[Seat]
) -> list[Seat]:
    """``seats``, which follow those that are kept, with cores of their own where that is asked."""
    each = _each(spec, cores)
    if each is None:
        return list(seats)
    shares = share_out(cores, each, spec.instances, [seat.cpus for seat in kept])
    return [
        msgspec.structs.replace(seat, cpus=cpus, threads=each)
        for seat, cpus in zip(seats, shares, strict=True)
    ]
