"""Make the README's pictures from a real run: scripts/screenshots.py MODEL.gguf [FOLDER]

Starts an engine in a home of its own, a fleet and the quick sweep, and draws the screen in the middle
of it. The pictures are SVG, without the web fonts that Textual links to.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from textual.app import App

from lab_tui import paths
from lab_tui.client import EngineClient, EngineGone
from lab_tui.config import Settings
from lab_tui.model import CellStatus, FleetSpec
from lab_tui.starting import engine_session
from lab_tui.ui.app import LabApp

SIZE = (120, 36)
WAIT_S = 300.0


async def draw(model: Path, folder: Path) -> None:
    """Run the lab and save the overview and one sweep."""
    async with engine_session() as client:
        presets = await client.presets()
        fleet = FleetSpec(model=str(model), instances=2, parallel=4)
        await client.up(fleet)
        sweep = await client.sweep(msgspec.structs.replace(presets["quick"], fleet=fleet))

        async def measured(count: int) -> bool:
            detail = await client.sweep_detail(sweep.id)
            return sum(cell.status == CellStatus.MEASURED for cell in detail.cells) >= count

        async with EngineClient() as viewer:
            app = LabApp(Settings(), viewer)
            async with app.run_test(size=SIZE) as pilot:
                await _until(lambda: measured(7))
                await pilot.pause(6.0)  # into the window of the next cell
                _save(app, folder / "overview.svg")
                await pilot.press("4", "enter")
                await pilot.pause(2.0)
                _save(app, folder / "sweep.svg")
        await client.stop_engine()
        await _until(lambda: _gone(client))


async def _gone(client: EngineClient) -> bool:
    """Whether the engine has ended, its fleet before it."""
    try:
        await client.info()
    except EngineGone:
        return not paths.socket_path().exists() and not (paths.runtime_dir() / "fleet.json").exists()
    return False


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"screenshots: nothing measured within {WAIT_S:.0f} s")
        await asyncio.sleep(0.5)


def _save(app: App[int], file: Path) -> None:
    svg = re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(title="lab-tui"), flags=re.DOTALL)
    file.write_text(svg)
    print(file)


def main() -> None:
    """Take the pictures."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: scripts/screenshots.py MODEL.gguf [FOLDER]")
    model = Path(sys.argv[1]).resolve()
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / ".github")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lab-") as home:
        for variable, place in (
            ("HOME", "."), ("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config"),
        ):  # fmt: skip
            os.environ[variable] = str(Path(home, place))
        asyncio.run(draw(model, folder))


if __name__ == "__main__":
    main()
