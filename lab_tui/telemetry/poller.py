"""Reads the machine in threads and hands what they find to the engine's loop.

Two daemon threads, one for the host and one for all cards: a driver that hangs (NVML's start takes
seconds, a broken card forever) must hold up neither the loop nor the host's own figures, and since
they are daemons it cannot hold up the end of the engine either.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from lab_tui.model import Data, GpuReading, HostReading, InstanceView
from lab_tui.telemetry.gpu import SLOW_S, CardReader, Together, all_cards
from lab_tui.telemetry.gpu.reader import FIGURES
from lab_tui.telemetry.host import HostReader

STOP_S = 1.0  # how long `stop` waits for a thread
STALE_S = 10.0  # a card that said nothing for so long says nothing any more
CALM = 2.0  # so much more seldom are cards asked while something is measured: it costs the workload


class Reading(Data, frozen=True, kw_only=True):
    """What was read last."""

    host: HostReading
    gpus: tuple[GpuReading, ...] = ()
    gpu_reason: str = ""  # why `gpus` is empty; "" when it is not
    vram_by_pid: dict[int, int] = {}  # bytes of card memory by process
    vram_by_card: dict[int, dict[int, int]] = {}  # the same by process and index of the card
    cards_at: float = 0.0  # monotonic: when the cards said it
    cards_every_s: float = 0.0  # seconds between two readings of utilisation, memory, power, throttling
    slow_every_s: float = 0.0  # and of the rest

    def with_memory(self, view: InstanceView) -> InstanceView:
        """The instance with what it holds on which cards, as far as the driver tells."""
        held = self.vram_by_card.get(view.pid, {}) if view.pid else {}
        return msgspec.structs.replace(
            view,
            vram_bytes=sum(held.values()) if held else None,
            vram_by_gpu=held,
            gpu=view.gpu or "+".join(map(str, sorted(held))) or None,
        )


class _Cards(Data, frozen=True, kw_only=True):
    """What all cards said, and when (monotonic)."""

    asked: float
    at: float
    gpus: tuple[GpuReading, ...]
    reason: str
    vram_by_card: dict[int, dict[int, int]]


class Poller:
    """Owned by a loop: ``start`` and ``stop`` there, and read ``latest`` there."""

    def __init__(
        self,
        poll_s: float = 1.0,
        *,
        host: HostReader | None = None,
        cards: Sequence[CardReader] | None = None,
    ) -> None:
        """``poll_s`` seconds between readings. ``cards`` are the readers of the makers: all there are."""
        self._poll_s = poll_s
        self._read_host = (host or HostReader()).read
        self._reader = Together(cards) if cards is not None else all_cards()
        self._calm = 0  # how many measurements go on
        self._host = self._read_host()
        self._cards: _Cards | None = None
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()

    @property
    def latest(self) -> Reading:
        """What was read last. Cards that have not answered for ten seconds are N/A, with that reason."""
        cards = self._cards
        silent = time.monotonic() - (cards.at if cards else self._began)
        if cards is None:
            waited = f" for {silent:.0f} s" if silent >= STALE_S else ""
            return Reading(host=self._host, gpu_reason=f"the driver has not answered yet{waited}")
        gpus = cards.gpus
        every_s, slow_s = self._rates()
        if silent >= max(STALE_S, 3 * every_s):
            gpus = tuple(_unknown(gpu, f"the driver has not answered for {silent:.0f} s") for gpu in gpus)
        return Reading(
            host=self._host,
            gpus=gpus,
            gpu_reason=cards.reason,
            vram_by_pid={pid: sum(sizes.values()) for pid, sizes in cards.vram_by_card.items()},
            vram_by_card=cards.vram_by_card,
            cards_at=cards.at,
            cards_every_s=every_s,
            slow_every_s=slow_s,
        )

    async def answered(self, since: float = 0.0) -> Reading:
        """What was read last, once cards were asked after ``since`` (monotonic), or silent for long."""
        patience = max(self._began, since) + STALE_S
        while (self._cards is None or self._cards.asked < since) and time.monotonic() < patience:
            await asyncio.sleep(0.02)
        return self.latest

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Ask the cards more seldom meanwhile: each question takes something from what is measured."""
        self._calm += 1
        try:
            yield
        finally:
            self._calm -= 1

    def _rates(self) -> tuple[float, float]:
        """Seconds between two readings of what changes by the second, and of the rest."""
        factor = CALM if self._calm else 1.0
        return factor * self._poll_s, factor * max(SLOW_S, self._poll_s)

    def start(self) -> None:
        """Begin to read. Needs a running loop."""
        loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._threads = (
            threading.Thread(target=self._poll_host, args=(loop,), name="host readings", daemon=True),
            threading.Thread(target=self._poll_cards, args=(loop,), name="card readings", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """End the threads, within about a second: one that hangs in a driver is left behind."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(deadline - time.monotonic(), 0))

    def _poll_host(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.wait(self._poll_s):
            self._hand_over(loop, functools.partial(self._take_host, self._read_host()))

    def _poll_cards(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._stopping.is_set():
                self._hand_over(loop, functools.partial(self._take_cards, self._ask_cards()))
                self._stopping.wait(self._rates()[0])
        finally:
            self._reader.close()

    def _hand_over(self, loop: asyncio.AbstractEventLoop, take: Callable[[], None]) -> None:
        """Have the loop take a reading, unless it is over: a hung driver may come back after that."""
        if self._stopping.is_set():
            return
        try:
            loop.call_soon_threadsafe(take)
        except RuntimeError:
            self._stopping.set()

    def _take_host(self, reading: HostReading) -> None:
        self._host = reading

    def _take_cards(self, cards: _Cards) -> None:
        self._cards = cards

    def _ask_cards(self) -> _Cards:
        """All cards of all makers."""
        asked = time.monotonic()
        gpus, reason = self._reader.read(self._rates()[1])
        processes = {pid: dict(sizes) for pid, sizes in self._reader.processes.items()}
        return _Cards(asked=asked, at=time.monotonic(), gpus=gpus, reason=reason, vram_by_card=processes)


def _unknown(gpu: GpuReading, reason: str) -> GpuReading:
    """The row of a card whose figures have gone stale."""
    missing = dict.fromkeys(FIGURES, reason)
    return GpuReading(index=gpu.index, name=gpu.name, uuid=gpu.uuid, maker=gpu.maker, missing=missing)
