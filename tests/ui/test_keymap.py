"""The ``[keys]`` of the settings: what they may say, and that they are what a user presses and reads."""

from __future__ import annotations

from typing import Any

import pytest

from lab_tui.config import Settings, load
from lab_tui.model import LabError, SweepStatus
from lab_tui.ui.actions import ACTIONS, MOVES
from lab_tui.ui.keymap import key_name, mapped
from lab_tui.ui.palette import LabCommands
from lab_tui.ui.panes import course
from lab_tui.ui.screens.dialogs import ConfirmDialog
from lab_tui.ui.screens.help import help_text
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.logview import LogView
from tests.ui.fake import FakeClient, empty, sweep_view
from tests.ui.helpers import lab


def other_than_usual(keys: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        action.name: (action.keys, action.shown)
        for action, usual in zip(mapped(keys), ACTIONS, strict=True)
        if action != usual
    }


def test_the_registry_is_written_in_names_that_settings_may_use() -> None:
    for action in ACTIONS:
        for key in action.keys.split(","):
            assert key_name(key) == key


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"stop": "s", "start": "x"}, {"start": ("x", "x"), "stop": ("s", "s")}),
        ({"zoom": ["i", "Q"]}, {"zoom": ("i,Q", "i Q")}),
        ({"zoom": "i, f11"}, {"zoom": ("i,f11", "i f11")}),
        ({"stop": "shift+o"}, {"stop": ("O", "O")}),
        ({"stop": ";"}, {"stop": ("semicolon", ";")}),
        ({"open": "alt+ctrl+o"}, {"open": ("alt+ctrl+o", "alt+ctrl+o")}),
        ({"slower": "_"}, {"slower": ("underscore", "_"), "faster": ("plus,equals_sign", "+ _")}),
        ({"pane": {"1": "f1"}}, {"pane.1": ("f1", "f1 2 3 4 5")}),
    ],
)
def test_keys_as_people_write_them(keys: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    assert other_than_usual(keys) == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"stpo": "x"}, ["keys.stpo", "stop"]),
        ({"stop": "hyper"}, ["keys.stop", "hyper"]),
        ({"stop": ""}, ["keys.stop", "''"]),
        ({"stop": 5}, ["keys.stop", "5"]),
        ({"stop": []}, ["keys.stop"]),
        ({"stop": "s"}, ["start", "stop", "s", "overview"]),
        ({"stop": "ctrl+m"}, ["stop", "open", "enter"]),
        ({"stop": "v", "zoom": "v"}, ["stop", "zoom", "v"]),
        ({"stop": "j"}, ["keys.stop", "j", "Select"]),
        ({"stop": "ctrl+q"}, ["keys.stop", "ctrl+q"]),
    ],
)
def test_what_cannot_be_is_named(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(LabError) as refused:
        mapped(keys)
    assert all(word in str(refused.value) for word in words), refused.value


def test_fixed_keys_are_all_told() -> None:
    told = {key for move in MOVES for key in move.keys.split(",")}
    for widget in (LineList, LogView):
        for binding in widget.BINDINGS:
            keys = binding[0] if isinstance(binding, tuple) else binding.key
            assert set(keys.split(",")) <= told, keys


async def test_mapped_keys_act_and_are_shown_everywhere(tmp_path: Any) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[keys]\nstop = "ctrl+x"\nzoom = ["i"]\nnext_pane = "d"\nhelp = "f1"\npane.3 = "tab"\n')
    settings = load({"LAB_TUI_KEYS_FILTER": "Q"}, file)
    async with lab(size=(160, 40), settings=settings) as shown:
        footer = str(shown.overview.query_one("#footer").render())
        assert "ctrl+x stop" in footer
        assert "i zoom" in footer
        assert "f1 help" in shown.overview.query_one("#header").render().plain  # type: ignore[union-attr]
        text = help_text("overview").plain
        assert "ctrl+x  Stop the selected instance" in text
        assert " x  Stop" not in text
        hits = [hit async for hit in LabCommands(shown.screen).search("focused pane")]
        assert [hit.help for hit in hits] == ["key i"]
        await shown.press("x", "z", "d")
        assert not shown.overview.zoomed
        assert shown.overview.focused_pane().number == 2
        await shown.press("tab")
        assert shown.overview.focused_pane().number == 3
        await shown.press("1", "Q", "d", "x", "escape")  # a mapped letter is still a letter in a filter
        assert shown.overview.focused_pane().number == 1
        await shown.press("ctrl+x")
        await shown.on(ConfirmDialog)


async def test_another_screen_has_the_usual_keys_again() -> None:
    async with lab(settings=Settings(keys={"stop": "ctrl+x"})):
        pass
    async with lab() as shown:
        assert "x stop" in str(shown.overview.query_one("#footer").render())


async def test_hints_name_the_keys_that_are_mapped() -> None:
    keys = {
        "up": "f2",
        "new_sweep": "f3",
        "span": "f4",
        "back": "f5",
        "later": "f6",
        "engine": "f7",
        "pause": "f8",
    }
    client = FakeClient(empty(parts=()))
    async with lab(client, size=(160, 40), settings=Settings(keys=keys)) as shown:
        assert "Press f2 to choose a model" in "\n".join(shown.overview.instances.plain)
        assert "Press f3 to search" in "\n".join(shown.overview.queue.plain)
        await shown.press("2", "z")
        assert "← f6 other times, f4 other span" in shown.overview.throughput.plain[1]
        await shown.press("left")
        assert "f6 goes on, f5: now" in shown.overview.throughput.plain[1]
        held = sweep_view(5, status=SweepStatus.QUEUED, now="", phase=None)
        assert "f8 goes on" in course.lines(held, None, True, 120)[1].plain
        shown.overview.draw_nothing()
        assert "f7 starts an engine" in shown.overview.instances.plain[-1]
