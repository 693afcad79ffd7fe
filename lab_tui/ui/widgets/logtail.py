"""The live log of one source, asked of the engine and followed until another is chosen."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import msgspec
from textual import work

from lab_tui.model import InstanceState, LabError, Snapshot
from lab_tui.ui.loglines import times_of
from lab_tui.ui.widgets.logview import LogView

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

TAIL = 1000  # lines asked for at first
SETTLE_S = 0.15  # a cursor that runs over ten instances asks for one log
FIRST_S = 0.1  # lines that come within it are drawn at once; later ones with the tick
RETRY_S = 2.0


class LogTail(LogView):
    """Follows the selected instance until the reader asks for another log."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.source = ""
        self._chosen = ""  # what the reader asked for; "": the selected instance
        self._fresh: list[str] = []
        self._started: float | None = None  # unix time from which llama-server's stamps count
        self._again = False  # the next lines are a tail that may be known already

    def title(self) -> str:
        """What is shown, for the border."""
        return (
            f"{self.source} - {'follow' if self.following else 'scrolled, f follows'}" if self.source else ""
        )

    def follow_selection(self) -> None:
        """Show the log of whatever instance is selected."""
        self._chosen = ""

    def choose(self, snapshot: Snapshot, selected: str | None) -> None:
        """Show what was asked for, else the log of the selected instance, else the engine's."""
        source = self._chosen or selected or "engine"
        if source.isdecimal() and source not in {str(view.index) for view in snapshot.instances}:
            source = "engine"
        self._show(source, snapshot)

    def step(self, snapshot: Snapshot, by: int) -> None:
        """Show the log ``by`` places further: the instances, then nginx, then the engine."""
        sources = [*(str(view.index) for view in snapshot.instances), "nginx", "engine"]
        place = sources.index(self.source) if self.source in sources else 0
        self._chosen = sources[(place + by) % len(sources)]
        self._show(self._chosen, snapshot)

    def _show(self, source: str, snapshot: Snapshot) -> None:
        view = next((view for view in snapshot.instances if str(view.index) == source), None)
        uptime = view.uptime_s if view is not None else None
        self._started = None if uptime is None else snapshot.time - uptime
        if source == self.source:
            return
        self.source = source
        self.empty(f"no line in the log of {source} yet")
        self._fresh = []
        self._again = False
        if view is not None and view.state is InstanceState.FAILED:
            self.placeholder = f"instance {source} failed: {view.reason}"
        self._follow(source)

    @work(group="log", exclusive=True)
    async def _follow(self, source: str) -> None:
        """Bring in lines for as long as this source is shown; after a broken line, begin again."""
        lab = cast("LabApp", self.app)
        await asyncio.sleep(SETTLE_S)
        while True:
            try:
                async for line in lab.client.logs(source, tail=TAIL, follow=True):
                    if not self._fresh:
                        self.set_timer(lab.tick_s if self.total else FIRST_S, self._flush)
                    self._fresh.append(line.text)
                    if len(self._fresh) >= TAIL:
                        self._flush()
                        await asyncio.sleep(0)
            except LabError as error:
                self._tell(str(error))
            except msgspec.MsgspecError as error:
                self._tell(f"unreadable log line: {error}")
            self._flush()
            await asyncio.sleep(RETRY_S)
            while not self.following:  # what is being read must not be taken away
                await asyncio.sleep(RETRY_S)
            self._again = True

    def _tell(self, text: str) -> None:
        """Why there is no line to be seen."""
        if text != self.placeholder:
            self.placeholder = text
            self.refresh()

    def _flush(self) -> None:
        """Show what came in. After a broken line it is the whole tail again, known or not."""
        fresh, self._fresh = self._fresh, []
        if self._again and fresh:
            self._again = False
            if self.total >= len(fresh) and self.tail(len(fresh)) == fresh:
                return
            self.empty()
        self.extend(fresh, times_of(fresh, self._started, time.time()))
