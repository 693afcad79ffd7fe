"""The ceilings: found through the real nginx, once, and nothing left of it."""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest

from lab_tui.config import Settings
from lab_tui.load.ceiling import ceiling_tps
from lab_tui.model import LoadView, Phase
from lab_tui.serving.front import Front
from lab_tui.serving.nginx_conf import FrontSpec
from lab_tui.serving.parts import Nginx, find_nginx, probe_nginx
from lab_tui.sweep import calibration as module
from lab_tui.sweep.calibration import STREAMS, Calibration
from tests.ports import free_ports
from tests.serving.helpers import processes_with


@pytest.fixture
async def nginx() -> Nginx:
    return await probe_nginx(find_nginx(Settings()))


def calibration(folder: Path, *, wanted: bool = True) -> Calibration:
    return Calibration(folder / "front", folder / "ceiling.json", folder / "nginx.log", wanted=wanted)


async def test_it_is_found_through_nginx_once_and_leaves_nothing(
    nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ceiling_tps", functools.partial(ceiling_tps, steps=1))
    views: list[LoadView] = []
    record = tmp_path / "front" / "running.json"
    kept: list[bool] = []

    def on_view(view: LoadView) -> None:
        views.append(view)
        kept.append(record.exists())

    found = await calibration(tmp_path).through_front(nginx, on_view)
    assert any(kept) and not record.exists()  # for the next engine, should this one be killed
    assert found is not None and 0 < found < STREAMS * 10 * 1.1  # the first pace is 10 tok/s a stream
    assert {view.phase for view in views} == {Phase.CALIBRATING}
    assert processes_with(str(tmp_path)) == []

    monkeypatch.setattr(module, "ceiling_tps", None)  # another engine does not look again
    assert await calibration(tmp_path).through_front(nginx, views.append) == found


async def test_another_nginx_has_another_ceiling(
    nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter((1000.0, 2000.0, 3000.0))

    async def ceiling(*_: object, **__: object) -> float:
        return next(found)

    monkeypatch.setattr(module, "ceiling_tps", ceiling)
    kept = calibration(tmp_path)
    assert await kept.through_front(nginx, lambda _: None) == 1000.0
    assert await kept.client(nginx, lambda _: None) == 2000.0
    assert await kept.through_front(nginx, lambda _: None) == 1000.0
    newer = msgspec.structs.replace(nginx, version=(99, 0, 0))
    assert await kept.through_front(newer, lambda _: None) == 3000.0


async def test_a_broken_file_is_found_anew_and_unwanted_is_not_known(nginx: Nginx, tmp_path: Path) -> None:
    (tmp_path / "ceiling.json").write_text("{")
    assert await calibration(tmp_path, wanted=False).through_front(nginx, lambda _: None) is None


async def test_the_nginx_of_a_killed_engine_is_ended_and_nobody_else(nginx: Nginx, tmp_path: Path) -> None:
    folder = tmp_path / "front"
    folder.mkdir()
    left = Front(folder, tmp_path / "nginx.log", lambda: None)
    await left.apply(FrontSpec(host="127.0.0.1", port=free_ports(1), backends=(), max_streams=8), nginx)
    assert left.record is not None
    (folder / "running.json").write_bytes(msgspec.json.encode(left.record))
    await left.detach()
    words = ("-c", "input()", "-p", f"{folder}/", "x")
    stranger = await asyncio.create_subprocess_exec(sys.executable, *words, stdin=PIPE)
    try:
        await calibration(tmp_path).clear()
        assert [process.pid for process in processes_with(str(tmp_path))] == [stranger.pid]
        await calibration(tmp_path).clear()  # nothing there is no error
        (folder / "running.json").write_text("{")
        await calibration(tmp_path).clear()
        assert stranger.returncode is None
    finally:
        await stranger.communicate(b"\n")
