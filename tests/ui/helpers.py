"""Waiting on conditions, not on time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from textual.pilot import Pilot

from lab_tui.config import Settings
from lab_tui.ui.app import LabApp
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.screens.overview import OverviewScreen
from tests.ui.fake import FakeClient


async def until(condition: Callable[[], Any], what: str = "", timeout_s: float = 60.0) -> None:
    """Wait for ``condition`` to hold."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came true: {what or condition}")
        await asyncio.sleep(0.01)


class Lab:
    """The app under test with its fake engine."""

    def __init__(self, app: LabApp, client: FakeClient, pilot: Pilot[int]) -> None:
        self.app, self.client, self.pilot = app, client, pilot

    @property
    def overview(self) -> OverviewScreen:
        return next(screen for screen in self.app.screen_stack if isinstance(screen, OverviewScreen))

    @property
    def screen(self) -> LabScreen:
        return cast(LabScreen, self.app.screen)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def on(self, kind: type, what: str = "") -> Any:
        """Wait until a screen of this kind is on top, and give it."""
        await until(
            lambda: isinstance(self.app.screen, kind) and self.app.screen.is_mounted, f"{kind} {what}"
        )
        await self.pilot.pause()
        return self.app.screen

    async def called(self, *call: Any) -> None:
        await until(lambda: call in self.client.calls, f"{call} in {self.client.calls}")

    async def says(self, text: str) -> None:
        await until(lambda: text in self.overview.status.plain, f"{text!r} in the status line")


@asynccontextmanager
async def lab(
    client: FakeClient | None = None,
    size: tuple[int, int] = (80, 24),
    *,
    read_only: bool = False,
    connected: bool = True,
    settings: Settings | None = None,
) -> AsyncIterator[Lab]:
    """A running app; with ``connected`` it shows its first snapshot already."""
    client, settings = client or FakeClient(), settings or Settings()
    if settings.ui.ascii is None:  # whatever the locale here is
        settings = msgspec.structs.replace(settings, ui=msgspec.structs.replace(settings.ui, ascii=False))
    app = LabApp(settings, client, read_only=read_only)
    async with app.run_test(size=size, notifications=True) as pilot:
        shown = Lab(app, client, pilot)
        if connected:
            await until(lambda: app.snapshot is not None, "first snapshot")
            await until(lambda: shown.overview.instances.plain, "instances are drawn")
        await pilot.pause()
        try:
            yield shown
        finally:
            app.workers.cancel_all()  # as when it is left: the pilot takes the widgets away first
