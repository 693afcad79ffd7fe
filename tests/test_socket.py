"""The socket: in a folder of our own, and answering nobody else."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from aiohttp import web

from lab_tui import __version__, paths
from lab_tui.client import EngineClient, EngineSilent
from lab_tui.engine import peer
from lab_tui.engine.api import run_server
from lab_tui.engine.engine import Engine
from lab_tui.model import VERSION_HEADER, EngineInfo, LabError

INFO = EngineInfo(pid=1, version="0", uptime_s=0.0, socket="", log="")


class Who:
    """As much of an engine as says who it is."""

    snapshots = SimpleNamespace(info=lambda: INFO)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer.uid_of(ours) == os.getuid()
        assert peer.may_ask(ours)


@pytest.mark.parametrize(("uid", "status"), [(4242, 403), (0, 200), (None, 200)])
async def test_only_the_owner_and_root_are_answered(
    uid: int | None, status: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uid is not None:
        monkeypatch.setattr(peer, "uid_of", lambda _: uid)
    file = home / "s"
    runner: web.AppRunner = await run_server(cast(Engine, Who()), str(file))
    try:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(file))) as http:
            answer = await http.get("http://lab/engine")
    finally:
        await runner.cleanup()
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["message"] == "GET /engine: this engine answers its owner alone"


@pytest.mark.parametrize("wrong", ["link", "file", "foreign"])
def test_a_runtime_folder_that_is_not_ours_is_refused(
    wrong: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths.runtime_dir()
    if wrong == "link":
        (home / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(home / "elsewhere")
        says = f"{folder} is a link: remove it"
    elif wrong == "file":
        folder.touch()
        says = f"{folder} is not a folder"
    else:
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        says = f"{folder} belongs to another user: set XDG_RUNTIME_DIR"
    refused: Any
    for refused in (lambda: paths.ensure_private(folder), EngineClient):
        with pytest.raises(LabError, match=says):
            refused()


def test_each_home_of_a_user_has_a_runtime_folder_of_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    here = paths.runtime_dir()
    (home / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(home / "link"))
    assert paths.runtime_dir() == here
    monkeypatch.setenv("HOME", str(home / "run"))
    assert paths.runtime_dir() != here
    assert paths.socket_path()  # it is not too long
    monkeypatch.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    assert paths.runtime_dir().name in ("lab-tui", f"lab-tui-{os.getuid()}")
    assert here.parent == paths.runtime_dir().parent and here.name.startswith(paths.runtime_dir().name)


def test_a_runtime_folder_that_others_could_read_is_closed() -> None:
    folder = paths.runtime_dir() / "wide"
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    assert paths.ensure_private(folder).stat().st_mode & 0o777 == 0o700


async def test_an_engine_that_hangs_is_said_and_a_slow_one_is_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow one answers once its pulse was taken; how long a hanging one has for that, only then counts."""
    monkeypatch.setattr("lab_tui.client.PATIENCE_S", 0.05)
    monkeypatch.setattr("lab_tui.client.PULSE_S", 60.0)
    paths.ensure_private(paths.runtime_dir())
    (paths.runtime_dir() / paths.LOCK).write_text(f"{os.getpid()}")
    hangs = asyncio.Event()
    pulses = asyncio.Semaphore(0)

    async def engine(_: web.Request) -> web.Response:
        pulses.release()
        await (asyncio.Event().wait() if hangs.is_set() else asyncio.sleep(0))
        return web.json_response(None)

    async def presets(_: web.Request) -> web.StreamResponse:
        await pulses.acquire()
        await pulses.acquire()
        return web.json_response({}, headers={VERSION_HEADER: __version__})

    async def watch(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={VERSION_HEADER: __version__})
        await response.prepare(request)
        for half in (b'{"source":"0","te', b'xt":"a"}\n{"source":"0","text":"b"}\n'):
            await response.write(half)
            await pulses.acquire()
        monkeypatch.setattr("lab_tui.client.PULSE_S", 0.2)
        hangs.set()
        await asyncio.Event().wait()
        return response

    async def half_a_sweep(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={VERSION_HEADER: __version__})
        await response.prepare(request)
        await response.write(b'{"view":')
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get("/engine", engine)
    app.router.add_get("/presets", presets)
    app.router.add_get("/logs/0", watch)
    app.router.add_get("/sweeps/1", half_a_sweep)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(paths.socket_path())).start()
    try:
        async with EngineClient() as client:
            assert await client.presets() == {}
            seen = []
            with pytest.raises(LabError, match=rf"the engine \(pid {os.getpid()}\) is busy"):
                async for line in client.logs("0", follow=True):
                    seen.append(line.text)
            assert seen == ["a", "b"]
            async with asyncio.timeout(60):
                with pytest.raises(LabError, match="has not answered"):
                    await client.sweep_detail(1)
    finally:
        await runner.cleanup()


def test_why_an_engine_is_silent_decides_on_the_advice() -> None:
    """It is a process that sleeps, then one that is suspended, then none."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert f"wait and try again; `kill -9 {child.pid}` only as a last" in str(EngineSilent(child.pid))
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        suspended = str(EngineSilent(child.pid))
        assert suspended.endswith(
            f"is suspended by a signal or a debugger: `kill -CONT {child.pid}` lets it go on"
        )
    finally:
        child.kill()
        child.wait()
    assert "has ended" in str(EngineSilent(child.pid))
    assert "kill" not in str(EngineSilent(None))


async def test_one_that_answers_while_its_pulse_is_awaited_is_not_silent(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab_tui.client.PATIENCE_S", 0.0)
    comes = asyncio.Event()

    async def answer() -> str:
        await comes.wait()
        return "late"

    async def no_pulse(_: EngineClient) -> None:
        comes.set()
        for _turn in range(3):
            await asyncio.sleep(0)
        raise EngineSilent(None)

    monkeypatch.setattr(EngineClient, "_check_pulse", no_pulse)
    async with EngineClient() as client:
        assert await client._patiently(answer()) == "late"
