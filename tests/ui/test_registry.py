"""The whole registry, on every screen: each action by key, mouse and palette; what read-only refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.widgets import Input, OptionList

from lab_tui.model import SweepStatus
from lab_tui.ui.actions import ACTIONS, Action, here
from lab_tui.ui.palette import LabCommands
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.screens.help import help_text
from lab_tui.ui.screens.results import ResultsScreen
from tests.ui.fake import sweep_view
from tests.ui.helpers import Lab, lab, until

# The keys that lead to a screen from the overview.
WAYS: dict[str, tuple[str, ...]] = {
    "overview": (),
    "instance": ("1", "enter"),
    "front": ("F",),
    "sweep": ("4", "enter", "1"),
    "results": ("b",),
    "cell": ("4", "enter", "enter"),
    "compare": ("b", "c", "down", "c"),
}
SCOPES = sorted({scope for action in ACTIONS for scope in action.scopes})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is agreed to writes into the working directory."""
    monkeypatch.chdir(tmp_path)


async def go(shown: Lab, scope: str) -> LabScreen:
    assert scope in WAYS, f"say in WAYS how to come to the screen {scope}"
    shown.client.finished = [sweep_view(4, status=SweepStatus.DONE), sweep_view(3, status=SweepStatus.DONE)]
    for key in WAYS[scope]:
        await shown.press(key)
        if isinstance(shown.app.screen, ResultsScreen):
            await until(partial(_is_filled, shown.app.screen))
    await until(lambda: isinstance(shown.app.screen, LabScreen) and scope == shown.screen.SCOPE)
    await until(lambda: shown.screen.is_mounted)
    shown.client.silent = True  # nothing moves by itself from here on
    await shown.pilot.pause()
    return shown.screen


def _is_filled(screen: ResultsScreen) -> bool:
    return screen.table.row_count > 1


async def from_palette(screen: LabScreen, name: str) -> None:
    """Do what the palette offers under the name of an action."""
    hits = [hit async for hit in LabCommands(screen).discover()]
    offered = {getattr(hit.command, "args", ("",))[0]: hit for hit in hits}
    await offered[f"screen.act('{name}')"].command()


@pytest.mark.parametrize("scope", SCOPES)
async def test_every_action_by_key_mouse_and_palette(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is noted in place of being done; the footer names every action."""
    done: list[str] = []

    async def note(self: LabScreen, name: str) -> None:
        done.append(name)

    async with lab(size=(900, 24)) as shown:
        screen = await go(shown, scope)
        monkeypatch.setattr(LabScreen, "action_act", note)
        monkeypatch.setattr(type(screen), "footer_label", lambda self, action: f"<{action.name}>")
        screen.show_footer()
        await shown.pilot.pause()
        footer = str(screen.query_one("#footer").render())
        names = [action.name for action in here(scope)]
        await shown.pilot.press(*(action.keys.split(",")[-1] for action in here(scope)))
        assert done == names, "by key"
        done.clear()
        for name in names:
            await shown.pilot.click("#footer", offset=(footer.index(f"<{name}>") + 1, 0))
        assert done == names, "by mouse"
        done.clear()
        names.remove("palette")
        for name in names:
            await from_palette(screen, name)
        assert done == names, "by palette"


async def test_the_palette_takes_a_click() -> None:
    async with lab() as shown:
        await shown.press("colon")
        palette = await shown.on(CommandPalette)
        await shown.press(*"focused pane")
        options = palette.query_one(OptionList)
        await until(lambda: options.option_count == 1 and "Zoom" in str(options.options[0].prompt))
        await shown.pilot.click(OptionList, offset=(4, 1))
        await until(lambda: shown.overview.zoomed)


@pytest.mark.parametrize("scope", SCOPES)
async def test_read_only_lets_nothing_change(scope: str) -> None:
    """Every action, then a yes to whatever it opened: the engine is asked for nothing."""
    async with lab(read_only=True) as shown:
        screen = await go(shown, scope)
        assert not any(action.changes for action in _in_footer(screen))
        for action in here(scope):
            if action.name in ("quit", "back"):
                continue
            screen.status.say("")
            await shown.pilot.press(action.keys.split(",")[0])
            if action.changes:
                assert shown.app.screen is screen
                assert "read-only" in screen.status.plain
                screen.status.say("")
                await from_palette(screen, action.name)
                assert "read-only" in screen.status.plain
            await _agree_and_come_back(shown, screen)
            assert asked_to_change(shown) == [], action.name
        await shown.press("q")
        await until(lambda: not shown.app.is_running)
        assert asked_to_change(shown) == []


def asked_to_change(shown: Lab) -> list[str]:
    """An export writes a file of the user's, and changes nothing that runs."""
    return [call[0] for call in shown.client.calls if call[0] != "export"]


def _in_footer(screen: LabScreen) -> list[Action]:
    text = str(screen.query_one("#footer").render())
    return [action for action in here(screen.SCOPE) if f" {action.shown} {action.label} " in text]


async def _agree_and_come_back(shown: Lab, screen: LabScreen) -> None:
    if shown.app.screen is not screen:
        await shown.pilot.press("y", "ctrl+s")
    while shown.app.screen is not screen or isinstance(screen.focused, Input):
        await shown.pilot.press("escape")


def test_help_holds_the_whole_screen() -> None:
    for scope in SCOPES:
        text = help_text(scope).plain
        for action in here(scope):
            assert not action.help or f"{action.shown}  {action.help}" in text
