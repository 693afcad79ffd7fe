"""The first start: what the empty panes tell a newcomer, in each state and at each size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lab_tui.config import ServeSettings, Settings
from lab_tui.engine.ahead import look
from lab_tui.model import FleetSpec, Part
from lab_tui.serving import parts as serving_parts
from lab_tui.ui.screens.up import UpForm
from tests.ui.fake import FLEET, FakeClient, empty, snapshot
from tests.ui.helpers import Lab, lab, until

THERE = (
    Part(name="llama-server", found=True, command=("/usr/bin/llama-server",)),
    Part(name="nginx", found=True, command=("/usr/sbin/nginx",)),
    Part(name="model", found=True, command=(FLEET.model,)),
)


@pytest.fixture
def nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Part, ...]:
    """What the engine finds on a machine that has none of it."""
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(serving_parts, "NGINX_PLACES", ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    return look(Settings())


def whole(shown: Lab) -> str:
    """Pane 1, of which nothing may be cut off."""
    pane = shown.overview.instances
    assert len(pane.plain) <= pane.size.height, pane.plain
    assert max(map(len, pane.plain)) <= pane.size.width, pane.plain
    return "\n".join(pane.plain)


SIZES = [(80, 24), (120, 40), (200, 50)]


@pytest.mark.parametrize("size", SIZES)
async def test_nothing_is_there(nothing: tuple[Part, ...], size: tuple[int, int]) -> None:
    async with lab(FakeClient(empty(parts=nothing)), size) as shown:
        await until(lambda: "no nginx" in whole(shown))
        text = whole(shown)
        for words in (
            "✖ no llama-server found",
            "pip install 'lab-tui[embedded]'",
            "✖ no nginx found",
            "apt install nginx",
            "✖ no model found",
            "`lab-tui models fetch` brings a small one",
            "u and a path",
        ):
            assert words in text
        card = "\n".join(shown.overview.gpus.plain)
        assert "N/A: no NVIDIA driver" in card and "Models run on the CPU" in card
        assert "Press n" in shown.overview.queue.plain[0]
        shown.client.set(empty(seq=2, parts=THERE))
        await until(lambda: "lab-tui up -i 2 -p 4 (takes qwen3-4b-" in whole(shown))


@pytest.mark.parametrize("name", ["llama-server", "nginx", "model"])
async def test_one_thing_is_missing(nothing: tuple[Part, ...], name: str) -> None:
    missing = tuple(part for part in nothing if part.name == name)
    others = tuple(part for part in THERE if part.name != name)
    async with lab(FakeClient(empty(parts=(*others, *missing)))) as shown:
        await until(lambda: f"✖ no {name} found" in whole(shown))
        assert whole(shown).count("✖") == 1
        await shown.press("u")
        await shown.on(UpForm)


def test_a_model_of_the_settings_that_is_gone_is_named(home: Path) -> None:
    found = look(Settings(serve=ServeSettings(model="/gone/a.gguf")))[-1]
    assert (found.found, found.problem) == (False, "model /gone/a.gguf does not exist")


@pytest.mark.parametrize("size", SIZES)
async def test_everything_is_there(size: tuple[int, int]) -> None:
    async with lab(FakeClient(empty(parts=THERE)), size) as shown:
        await until(lambda: "Press u to choose a model" in whole(shown))
        assert "n to start a sweep" in whole(shown)
        assert "lab-tui up -i 2 -p 4" in whole(shown)
        last = FleetSpec(model=FLEET.model, instances=3, parallel=8)
        shown.client.set(empty(seq=2, parts=THERE, last_fleet=last))
        await until(lambda: "S starts the last one again: 3×8 of" in whole(shown))


async def test_with_a_fleet_nobody_is_told_about_drivers() -> None:
    async with lab(FakeClient(snapshot(gpus=(), gpu_reason="no driver"))) as shown:
        await until(lambda: "N/A: no driver" in shown.overview.gpus.plain[0])
        assert len(shown.overview.gpus.plain) == 2
