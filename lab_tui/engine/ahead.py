"""What a fleet needs, looked for while none is up: a newcomer is told what is missing, and when it came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lab_tui import tasks
from lab_tui.config import Settings
from lab_tui.model import LabError, Part
from lab_tui.serving import models, parts

AGAIN_S = 5.0


def look(settings: Settings) -> tuple[Part, ...]:
    """llama-server, nginx and a model: where each is, or how to get it. Runs nothing, reads files."""
    return (
        _part("llama-server", lambda: parts.find_llama_server(settings).command),
        _part("nginx", lambda: parts.find_nginx(settings).command),
        _part("model", lambda: (models.default_model(settings),)),
    )


def _part(name: str, find: Callable[[], tuple[str, ...]]) -> Part:
    try:
        return Part(name=name, found=True, command=find())
    except LabError as error:
        return Part(name=name, found=False, problem=error.message, remedy=error.remedy)


class Ahead:
    """``parts`` is empty until it was looked for them."""

    def __init__(self, settings: Settings, idle: Callable[[], bool], changed: Callable[[], None]) -> None:
        self._settings, self._idle, self._changed = settings, idle, changed
        self.parts: tuple[Part, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, whenever ``idle`` says that nothing runs."""
        self._task = tasks.begin(self._look_on(), "parts watch")

    async def stop(self) -> None:
        """Look no more."""
        await tasks.end(self._task)

    async def _look_on(self) -> None:
        while True:
            if self._idle():
                found = await asyncio.to_thread(look, self._settings)
                if found != self.parts:
                    self.parts = found
                    self._changed()
            await asyncio.sleep(AGAIN_S)
