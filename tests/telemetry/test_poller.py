"""Readings reach the loop, and nothing that hangs holds it up."""

from __future__ import annotations

import asyncio
import re
import threading
import time

import msgspec
import pytest

from lab_tui.model import GpuReading, HostReading, InstanceState, InstanceView
from lab_tui.telemetry import poller as polling
from lab_tui.telemetry.gpu.reader import Processes
from lab_tui.telemetry.poller import Poller, Reading


class Cards:
    """A maker's cards as a test wants them."""

    def __init__(
        self, *gpus: GpuReading, reason: str = "", vram: dict[int, dict[int, int]] | None = None
    ) -> None:
        self.answer = (gpus, reason)
        self.processes: Processes = vram or {}
        self.slow_s = 0.0
        self.go_on = threading.Event()
        self.go_on.set()
        self.closed = threading.Event()
        self.reads = 0

    def read(self, slow_s: float = 5.0) -> tuple[tuple[GpuReading, ...], str]:
        self.reads += 1
        self.slow_s = slow_s
        answer = self.answer  # as it is when it is asked, however long it takes to say it
        self.go_on.wait()
        return answer

    def close(self) -> None:
        self.closed.set()


async def until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_makers_stand_side_by_side() -> None:
    card = GpuReading(index=0, name="A", util_pct=50.0)
    other = GpuReading(index=0, name="B")
    first = Cards(card, vram={1: {0: 10}, 2: {0: 20}})
    second, third = Cards(other, vram={2: {0: 5}}), Cards(reason="no driver of C")
    poller = Poller(0.02, cards=[first, second, third])
    poller.start()
    await until(lambda: poller.latest.gpus)
    assert [(gpu.index, gpu.name) for gpu in poller.latest.gpus] == [(0, "A"), (1, "B")]
    assert poller.latest.gpu_reason == ""
    assert poller.latest.vram_by_pid == {1: 10, 2: 25}
    assert poller.latest.vram_by_card == {1: {0: 10}, 2: {0: 20, 1: 5}}
    first.answer = ((), "no driver of A")
    await until(lambda: len(poller.latest.gpus) == 1)
    assert (poller.latest.gpus[0].index, poller.latest.gpu_reason) == (1, "")  # it keeps its number
    second.answer = ((), "no driver of B")
    await until(lambda: not poller.latest.gpus)
    assert poller.latest.gpu_reason == "no driver of A; no driver of B; no driver of C"
    await until(lambda: poller.latest.host.cpu_pct is not None)
    await poller.stop()
    assert first.closed.is_set()
    reads = first.reads
    await asyncio.sleep(0.1)
    assert first.reads == reads


async def test_cards_are_asked_more_seldom_while_something_is_measured() -> None:
    cards = Cards(GpuReading(index=0, name="A"))
    poller = Poller(0.05, cards=[cards])
    poller.start()
    await until(lambda: poller.latest.gpus)
    assert (poller.latest.cards_every_s, poller.latest.slow_every_s, cards.slow_s) == (0.05, 5.0, 5.0)
    with poller.calm():
        assert (poller.latest.cards_every_s, poller.latest.slow_every_s) == (0.1, 10.0)
        await until(lambda: cards.slow_s == 10.0)
        began, before = poller.latest.cards_at, cards.reads
        await until(lambda: cards.reads >= before + 3)
        assert poller.latest.cards_at - began >= 0.2
    assert poller.latest.cards_every_s == 0.05
    await poller.stop()


async def test_an_answer_to_a_question_asked_before_does_not_count() -> None:
    cards = Cards(GpuReading(index=0, name="A", memory_used_bytes=20))
    poller = Poller(0.02, cards=[cards])
    poller.start()
    await until(lambda: poller.latest.gpus)
    cards.go_on.clear()
    reads = cards.reads
    await until(lambda: cards.reads > reads)  # asked while the memory was taken
    freed = asyncio.create_task(poller.answered(time.monotonic()))
    before, cards.answer = cards.answer, ((GpuReading(index=0, name="A", memory_used_bytes=0),), "")
    assert poller.latest.gpus == before[0]
    cards.go_on.set()
    assert (await freed).gpus == cards.answer[0]
    await poller.stop()


async def test_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "STALE_S", 0.3)
    cards = Cards(GpuReading(index=3, name="A", uuid="u", util_pct=50.0))
    poller = Poller(0.02, cards=[cards])
    poller.start()
    await until(lambda: poller.latest.gpus)
    cards.go_on.clear()
    await until(lambda: poller.latest.gpus[0].util_pct is None)
    (card,) = poller.latest.gpus
    assert (card.index, card.name, card.uuid) == (3, "A", "u")
    assert card.missing["util_pct"].startswith("the driver has not answered for ")
    assert "power_w" in card.missing
    monkeypatch.setattr(polling, "STOP_S", 0.1)
    await asyncio.wait_for(poller.stop(), 60)
    cards.go_on.set()  # it comes back when all is over
    await asyncio.to_thread(cards.closed.wait, 60)
    assert cards.closed.is_set()


async def test_no_answer_yet_says_so_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = Cards()
    cards.go_on.clear()
    poller = Poller(0.02, cards=[cards])
    poller.start()
    assert poller.latest.gpu_reason == "the driver has not answered yet"
    monkeypatch.setattr(polling, "STALE_S", 0.2)
    assert poller.latest.host.memory_total_bytes
    assert (await poller.answered()).gpus == ()
    said = re.compile(r"the driver has not answered yet for \d+ s")
    await until(lambda: said.fullmatch(poller.latest.gpu_reason))
    cards.go_on.set()
    await poller.stop()


def test_what_an_instance_holds_on_which_cards() -> None:
    host = HostReading(name="here", cores=2)
    reading = Reading(host=host, vram_by_card={7: {2: 10, 0: 5}})
    view = InstanceView(index=0, state=InstanceState.READY, port=9000, slots=4, pid=7)
    found = reading.with_memory(view)
    assert (found.vram_bytes, found.vram_by_gpu, found.gpu) == (15, {2: 10, 0: 5}, "0+2")
    pinned = reading.with_memory(msgspec.structs.replace(view, gpu="3", pid=8))
    assert (pinned.vram_bytes, pinned.vram_by_gpu, pinned.gpu) == (None, {}, "3")


async def test_stop_before_start_and_twice() -> None:
    poller = Poller(cards=[])
    await poller.stop()
    await poller.stop()
