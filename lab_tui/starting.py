"""The way to start an engine when none runs."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator

from lab_tui import paths
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import LabError

START_TIMEOUT_S = 20.0


async def ensure_engine() -> bool:
    """Start an engine when none runs; whether one was started.

    Raises LabError with the engine's last words when it does not come up.
    """
    async with EngineClient() as client:
        with contextlib.suppress(EngineGone):
            await client.info()
            return False
        try:
            process = await asyncio.to_thread(spawn_engine)
        except OSError as error:
            raise LabError(f"cannot start an engine with {sys.executable} ({error.strerror})") from error
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(EngineGone):
                await client.info()
                return True
            if process.poll() is not None:
                stderr = process.stderr.read() if process.stderr else b""
                lines = stderr.decode(errors="replace").strip().splitlines()
                said = lines[-1].removeprefix("lab-tui: ") if lines else ""
                raise LabError(said or f"the engine ended with code {process.returncode}")
            await asyncio.sleep(0.03)
    raise LabError(
        f"the engine did not answer within {START_TIMEOUT_S:.0f} s", f"see {paths.logs_dir() / 'engine.log'}"
    )


@contextlib.asynccontextmanager
async def engine_session() -> AsyncIterator[EngineClient]:
    """A client of an engine that runs. One that was started for a command that fails ends with it,
    unless there is something for it to look after.
    """
    started = await ensure_engine()
    async with EngineClient() as client:
        try:
            yield client
        except BaseException:
            if started:
                await _stop_if_idle(client)
            raise


async def _stop_if_idle(client: EngineClient) -> None:
    with contextlib.suppress(EngineGone):
        snapshot = await client.snapshot()
        if not snapshot.instances and not snapshot.queue:
            await client.stop_engine()


def spawn_engine() -> subprocess.Popen[bytes]:
    """Start an engine that outlives this process and its terminal.

    Its standard error is a pipe only for the one line it may die with; it closes it once it serves.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "lab_tui.engine.daemon"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
