"""How screens look at three sizes, cell by cell: clock and host stand still."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from textual.widgets import Input

from lab_tui.config import Settings, UiSettings
from lab_tui.ui import app, link
from lab_tui.ui.glyphs import plain
from lab_tui.ui.screens.dialogs import QuitDialog
from lab_tui.ui.screens.form import Form
from lab_tui.ui.screens.help import HelpScreen
from lab_tui.ui.widgets import header
from tests.ui.fake import FakeClient, empty
from tests.ui.helpers import Lab, lab, until
from tests.ui.pictures import check, picture
from tests.ui.test_registry import WAYS, go

SIZES = ((80, 24), (120, 40), (200, 50))


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clock times are those of one place, wherever this runs."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, greenwich: None) -> SimpleNamespace:
    """Ages and waits are told by it; it moves only when a test says so. The terminal has all colours."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    still = SimpleNamespace(now=1000.0)
    frozen = SimpleNamespace(monotonic=lambda: still.now, sleep=time.sleep)
    for module in (app, link, header):
        monkeypatch.setattr(module, "time", frozen)
    return still


async def look(name: str, shown: Lab, aside: Path, change: Callable[[str], str] = str) -> None:
    """Compare the screen with its pictures, at each size as soon as it stands still."""
    seen: list[str] = []
    svgs: list[str] = []
    for entry in shown.app.screen.query(Input):
        entry.cursor_blink = (
            False  # seen or not, it would be another picture from one half second to the next
        )
    for width, height in SIZES:
        await shown.pilot.resize_terminal(width, height)
        await until(lambda height=height: shown.app.screen.size.height == height)  # type: ignore[misc]
        now, before = "", " "
        while now != before:
            await shown.pilot.pause(0.1)
            svg = shown.app.export_screenshot(simplify=True)
            now, before = change(picture(svg, width, height)), now
        seen.append(now)
        svgs.append(svg)
    check(name, seen, svgs, aside)


async def with_log(shown: Lab) -> None:
    await until(lambda: shown.overview.log_tail.total == 40, "the log is there")


async def help_card(shown: Lab) -> None:
    await with_log(shown)
    await shown.press("question_mark")
    await shown.on(HelpScreen)


async def leaving(shown: Lab) -> None:
    await with_log(shown)
    await shown.press("q")
    await shown.on(QuitDialog)


async def gone(shown: Lab) -> None:
    await with_log(shown)
    shown.client.gone = True
    await until(lambda: not shown.app.link.connected)


@pytest.mark.parametrize("act", [help_card, leaving, gone])
async def test_cards_and_a_lost_engine(act: Callable[[Lab], Awaitable[None]], tmp_path: Path) -> None:
    async with lab() as shown:
        await act(shown)
        await look(act.__name__, shown, tmp_path)


@pytest.mark.parametrize("scope", sorted(WAYS.keys() - {"overview"}))
async def test_screens(scope: str, tmp_path: Path) -> None:
    async with lab() as shown:
        await go(shown, scope)
        await look(scope, shown, tmp_path)


@pytest.mark.parametrize(("name", "keys"), [("throughput", ("2", "z")), ("log", ("l",))])
async def test_a_pane_alone(name: str, keys: tuple[str, ...], tmp_path: Path) -> None:
    async with lab() as shown:
        await with_log(shown)
        await shown.press(*keys)
        await look(name, shown, tmp_path)


@pytest.mark.parametrize(("name", "key"), [("new_sweep", "n"), ("fleet", "u")])
async def test_forms(name: str, key: str, tmp_path: Path) -> None:
    async with lab() as shown:
        await with_log(shown)
        await shown.press(key)
        await until(lambda: isinstance(shown.app.screen, Form))
        await look(name, shown, tmp_path)


async def test_empty(tmp_path: Path) -> None:
    async with lab(FakeClient(empty())) as shown:
        await with_log(shown)
        await look("empty", shown, tmp_path)


async def test_read_only_in_ascii(tmp_path: Path) -> None:
    async with lab(read_only=True) as shown:
        await with_log(shown)
        await look("read_only_ascii", shown, tmp_path, plain)


async def test_stale_in_the_safe_theme(clock: SimpleNamespace, tmp_path: Path) -> None:
    async with lab(settings=Settings(ui=UiSettings(theme="lab-safe"))) as shown:
        await with_log(shown)
        shown.client.silent = True
        await shown.pilot.pause(0.1)
        clock.now += 10
        await until(lambda: "stale 10s" in shown.overview.query_one(header.HeaderLine).plain)
        await look("stale_safe", shown, tmp_path)


async def test_no_colour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with lab() as shown:
        await with_log(shown)
        await look("no_colour", shown, tmp_path)
