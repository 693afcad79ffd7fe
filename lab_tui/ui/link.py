"""The line to the engine: what a viewer knows of it, and since when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from lab_tui.client import EngineClient
from lab_tui.model import History, LabError, Snapshot

RETRY_S = 1.0


@dataclass(frozen=True)
class Link:
    """Whether the engine answers. ``since`` is of the monotonic clock."""

    connected: bool
    since: float
    message: str = ""
    remedy: str = ""


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
    """Hand on snapshots for ever; when the line breaks, say so and come back by itself."""
    lost: Link | None = None
    while True:
        try:
            on_history(await client.history())
            async for snapshot in client.watch(interval_s):
                lost = None
                on_link(Link(True, time.monotonic()))
                on_snapshot(snapshot)
            error = LabError(
                "the engine closed the line", "it may be stopping; this screen comes back by itself"
            )
        except LabError as refused:
            error = refused
        except msgspec.MsgspecError as garbled:
            error = LabError(
                f"the engine's answer could not be read ({garbled})", "see `lab-tui logs engine`"
            )
        lost = Link(False, lost.since if lost else time.monotonic(), error.message, error.remedy)
        on_link(lost)
        await asyncio.sleep(retry_s)
