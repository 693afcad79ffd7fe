"""Work that goes on when the one who asked for it leaves."""

from __future__ import annotations

import asyncio

import pytest

from lab_tui import tasks


async def test_work_ends_though_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    go = asyncio.Event()

    async def work(fails: bool) -> str:
        await go.wait()
        done.append("whole")
        if fails:
            raise ValueError("too late to be told")
        return "result"

    asked = [asyncio.create_task(tasks.to_its_end(work(fails), "work")) for fails in (False, True)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)
    go.set()
    assert await tasks.to_its_end(work(False), "work") == "result"
    await asyncio.sleep(0)
    assert done == ["whole"] * 3
    assert "too late to be told" in caplog.text
