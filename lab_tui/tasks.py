"""Tasks with an owner: begun by name, ended by who began them, never dying in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Run ``work`` in a task; when it dies of an error, the log says so at once, with a traceback."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


async def to_its_end(work: Coroutine[Any, Any, T], name: str, owner: set[asyncio.Task[Any]]) -> T:
    """The result of ``work``, which is not cut short when the one who asked for it leaves.

    It is in ``owner`` for as long as it goes on.
    """
    task = asyncio.create_task(work, name=name)
    owner.add(task)
    task.add_done_callback(owner.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_tell)  # nobody else hears of an error now
        raise


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and return when it has ended, however it ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})


async def all_ended(owner: set[asyncio.Task[Any]]) -> None:
    """Return when nothing of ``owner`` goes on any more, however it ended."""
    while owner:
        await asyncio.wait(set(owner))


def _tell(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s died: %r", task.get_name(), error, exc_info=error)
