"""The ceiling of client and front: found, through a front too, and nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from lab_tui.load import ceiling


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_the_ceiling_is_the_last_pace_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def carried(streams: int, pace: float, front: object, on_view: object) -> tuple[float, bool]:
        asked.append(pace)
        return min(streams * pace, 900.0), streams * pace < 900

    monkeypatch.setattr(ceiling, "_carried", carried)
    assert await ceiling.ceiling_tps(10) == 800
    assert asked == [10, 20, 40, 80, 160, 160]  # the pace that fails is tried twice


async def test_it_goes_through_the_front_it_is_given_and_leaves_nothing() -> None:
    seen: list[str] = []
    before = children()

    @asynccontextmanager
    async def front(address: str) -> AsyncIterator[str]:
        seen.append(address)
        yield f"http://{address}"

    found = await ceiling.ceiling_tps(8, front, steps=1)
    assert 0 < found < 8 * 10 * 1.1
    assert seen
    assert children() <= before  # what an earlier test left to end may have ended
