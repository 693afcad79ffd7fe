"""The line to the engine: what a viewer knows of it, and since when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import History, LabError, Snapshot

RETRY_S = 1.0


@dataclass(frozen=True)
class Link:
    """Whether the engine answers. ``since`` is of the monotonic clock."""

    connected: bool
    since: float
    message: str = ""
    remedy: str = ""
    gone: bool = False  # there is none, so that another one may be started


def connecting() -> Link:
    """Before the first answer."""
    return Link(False, time.monotonic(), "connecting to the engine")


async def follow(
    client: EngineClient,
    interval_s: float,
    on_history: Callable[[History], None],
    on_snapshot: Callable[[Snapshot], None],
    on_link: Callable[[Link], None],
    retry_s: float = RETRY_S,
) -> None:
    """Hand on snapshots for ever; when the line breaks, say so and try again until an engine answers."""
    lost: Link | None = None
    while True:
        try:
            on_history(await client.history())
            async for snapshot in client.watch(interval_s):
                lost = None
                on_link(Link(True, time.monotonic()))
                on_snapshot(snapshot)
            error, gone = LabError("the engine closed the line", EngineGone().remedy), True
        except LabError as refused:
            error, gone = refused, isinstance(refused, EngineGone)
        except msgspec.MsgspecError as garbled:
            said = f"the engine's answer could not be read ({garbled})"
            error, gone = LabError(said, "see `lab-tui logs engine`"), False
        lost = Link(False, lost.since if lost else time.monotonic(), error.message, error.remedy, gone)
        on_link(lost)
        await asyncio.sleep(retry_s)
