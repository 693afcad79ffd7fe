"""Logs: level, time, search, wrap, and that none of it takes away what is being read."""

from __future__ import annotations

import time

import pytest

from lab_tui.ui.loglines import ERROR, INFO, KEEP, WARN, LogLines, level_of, times_of
from lab_tui.ui.screens.front import FrontScreen
from lab_tui.ui.screens.instance import InstanceScreen
from lab_tui.ui.widgets.pane import Pane
from tests.ui.fake import FakeClient
from tests.ui.helpers import Lab, lab, until

SERVER = "0.07.220.656 I slot      release: id  3 | task 14 | stop processing: error = 0"
NGINX = "2026/11/21 15:26:16 [error] 12#12: connect() failed"
ENGINE = "2026-11-21 15:26:17,100 WARNING lab_tui.engine: slow"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (SERVER, INFO),  # it says so itself
        ("0.07.220.656 W srv stop: cancel task", WARN),
        ("12.07.220.656 E srv load: no", ERROR),
        (NGINX, ERROR),
        ("2026/11/21 15:26:16 [notice] 12#12: no error", INFO),
        ("2026/11/21 15:26:16 [emerg] 12#12: bind()", ERROR),
        (ENGINE, WARN),
        ("2026-11-21 15:26:17,100 INFO lab_tui: failed before", INFO),
        ("Traceback (most recent call last):", ERROR),
        ("warning: old flag", WARN),
        ("plain", INFO),
    ],
)
def test_level(text: str, level: int) -> None:
    assert level_of(text) == level


def test_times() -> None:
    wall = time.mktime((2026, 11, 21, 15, 26, 16, 0, 0, -1))
    assert times_of(["begin", NGINX, "\tmore", ENGINE], None, 5.0) == [wall, wall, wall, wall + 1]
    assert times_of([SERVER, "plain"], 1000.0, 5.0) == [pytest.approx(1007.22)] * 2
    assert times_of([SERVER], None, 5.0) == [5.0]
    lives = ["9.00.000.000 I end of a life", "0.01.000.000 I begin", "1.00.500.000 I later"]
    assert times_of(lives, 1000.0, 5.0) == [1000.0, 1001.0, 1060.5]


def test_what_passes() -> None:
    held = LogLines()
    held.extend(["one", "warn two", "ERROR three", "error four"], [1.0, 2.0, 3.0, 4.0])
    held.narrow(level=WARN)
    assert held.shown == ["warn two", "ERROR three", "error four"]
    held.narrow(since=3.0)
    held.narrow(needle="THREE")
    assert held.shown == ["ERROR three"]
    held.extend(["error three again", "three"], [5.0, 5.0])
    assert held.shown == ["ERROR three", "error three again"]
    assert held.find("again", 0, 1) == 1
    assert held.find("again", 0, -1) is None
    gone = held.extend(["x"] * KEEP, [6.0] * KEEP)
    assert (gone, len(held), held.total) == (2, 0, KEEP - 5_000)
    held.narrow("", INFO, 0.0)
    assert len(held) == held.total


def title(shown: Lab) -> str:
    return str(shown.screen.query_one(f"#pane-{shown.screen.log_number()}", Pane).border_title)  # type: ignore[attr-defined]


LINES = [f"line {number}: slot 0 released" for number in range(200)]
LINES[50] = "a WARNING: " + "long " * 60
LINES[100] = "error: needle 1"
LINES[120] = "error: Needle 2"


@pytest.mark.parametrize("where", ["overview", "instance", "front"])
async def test_search_level_since_and_wrap_by_key(where: str) -> None:
    client = FakeClient()
    client.log_lines = LINES
    async with lab(client) as shown:
        if where != "overview":
            await shown.press("enter" if where == "instance" else "F")
            await shown.on(InstanceScreen if where == "instance" else FrontScreen)
        log = shown.screen.log_tail  # type: ignore[attr-defined]
        await until(lambda: log.total == 200)
        await shown.press("ctrl+f", *"needle")
        await until(lambda: str(log.hit).endswith("Needle 2"))
        assert not log.following
        await shown.press("enter", "comma")
        assert str(log.hit).endswith("needle 1")
        assert log.top <= 100 < log.top + log.size.height
        reversed_text = [
            segment.text
            for strip in log.render_lines(log.size.region)
            for segment in strip
            if segment.style and segment.style.reverse
        ]
        assert "needle" in reversed_text
        top = log.top
        log.extend(["more"] * 50)
        assert log.top == top
        await shown.press("full_stop", "full_stop")
        assert "no line below contains" in shown.screen.status.plain
        await shown.press("escape")
        assert not log.searching
        await shown.press("v")
        await until(lambda: len(log.lines) == 3)
        assert "warnings" in title(shown)
        await shown.press("w")
        assert log.wrap
        assert log._rows(0) > 1
        await shown.press("g")
        assert log.edge == (0, 0)
        await shown.press("down")
        assert log.edge <= log._last_edge()
        await shown.press("v")
        await until(lambda: len(log.lines) == 2)
        await shown.press("v", "T")
        assert "since" in title(shown)
        log.extend(["old"], [time.time() - 90])
        assert log.lines[-1] != "old"
        await shown.press("T")
        assert log.lines[-1] == "old"
        await shown.press("w", "slash", *"needle", "enter")
        await until(lambda: len(log.lines) == 2)


async def test_a_wrapped_log_follows_and_scrolls_by_rows() -> None:
    client = FakeClient()
    client.log_lines = ["x" * 300] * 20 + ["end"]
    async with lab(client) as shown:
        log = shown.overview.log_tail
        await until(lambda: log.total == 21)
        await shown.press("5", "w")
        rows = log._rows(0)
        assert rows == -(-304 // log.size.width)  # with the label of the fake
        assert log.render_line(log.size.height - 1).text.strip() == "[0] end"
        await shown.press("up")
        assert not log.following
        first = log.render_line(0).text
        log.extend(["more"])
        assert log.render_line(0).text == first
        await shown.press("g", *["down"] * (rows + 1))
        assert log.edge == (1, 1)
        await shown.press("f")
        assert log.following


async def test_escape_closes_a_search_before_it_turns_the_curves_to_now() -> None:
    async with lab() as shown:
        await until(lambda: shown.overview.log_tail.total == 40)
        await shown.press("2", "left", "ctrl+f", "escape")
        assert not shown.overview.query_one("#search").display
        assert shown.overview.until is not None
        await shown.press("escape")
        assert shown.overview.until is None
