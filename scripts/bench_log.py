"""How smooth a long log is: the log pane with 100,000 lines, scrolled, searched and filtered.

Prints how long each step holds the loop of the screen.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from functools import partial

from textual.app import App, ComposeResult

from lab_tui.ui.loglines import KEEP, WARN
from lab_tui.ui.widgets.logview import LogView

BATCH = 1000  # as many as the screen takes in at once
SIZE = (200, 50)


class Bench(App[None]):
    """A log on the whole screen."""

    def compose(self) -> ComposeResult:
        """The log alone."""
        yield LogView(id="log")


def line(number: int) -> str:
    """A line as llama-server writes it; each hundredth warns."""
    letter = "W" if number % 100 == 0 else "I"
    return f"0.07.{number % 1000:03}.604 {letter} slot get_availabl: id {number} | task -1 | selected slot"


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call holds the loop."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def paint(log: LogView) -> None:
    """Every row in sight, as the screen asks for them."""
    for row in range(log.size.height):
        log.render_line(row)


def page(log: LogView) -> None:
    """A page further, on the screen."""
    log.action_scroll_pages(1)
    paint(log)


def follow(log: LogView, fresh: list[str]) -> None:
    """New lines, on the screen."""
    log.extend(fresh)
    paint(log)


def told(what: str, times: list[float]) -> None:
    print(f"{what:<44} median {statistics.median(times):7.2f} ms  worst {max(times):7.2f} ms")


async def main() -> None:
    app = Bench()
    async with app.run_test(size=SIZE) as pilot:
        log = app.query_one(LogView)
        await pilot.pause()
        batches = [[line(start + place) for place in range(BATCH)] for start in range(0, KEEP, BATCH)]
        began = time.perf_counter()
        told(f"add {BATCH:,} lines (of {KEEP:,})", [timed(partial(log.extend, batch)) for batch in batches])
        print(f"{KEEP:,} lines in {time.perf_counter() - began:.2f} s")
        told(
            "add 1,000 beyond them (drops the oldest)",
            [timed(lambda: log.extend(batches[0])) for _ in range(5)],
        )
        for wrap in (False, True):
            if wrap:
                log.toggle_wrap()
            name = "wrapped" if wrap else "cut"
            log.action_first()
            told(f"a page further, {name}: scroll and paint", [timed(partial(page, log)) for _ in range(200)])
            log.action_follow()
            fresh = batches[0][:20]
            told(
                f"follow, {name}: add 20 lines, paint",
                [timed(partial(follow, log, fresh)) for _ in range(50)],
            )
        told("search that finds nothing", [timed(lambda: log.search("no such text")) for _ in range(5)])
        told("search that finds", [timed(lambda: log.search("task")) for _ in range(5)])
        told("filter by text", [timed(lambda: log.narrow(needle="id 9")) for _ in range(5)])
        told("filter by text, level and time", [timed(lambda: log.narrow("id", WARN, 1.0)) for _ in range(5)])


if __name__ == "__main__":
    asyncio.run(main())
