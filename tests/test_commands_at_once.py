"""Three viewers that start, stop and restart at random, at once: no deadlock, and the last word counts."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from lab_tui import paths
from lab_tui.client import EngineClient
from lab_tui.config import EngineSettings, ServeSettings, Settings
from lab_tui.engine.api import run_server
from lab_tui.engine.engine import Engine
from lab_tui.model import FleetSpec, InstanceState
from tests.ports import free_ports
from tests.serving.conftest import embedded_nginx
from tests.serving.helpers import processes_with, script, until

INSTANCES, COMMANDS, VIEWERS = 4, 200, 3
# As much of a llama-server as an instance needs to be ready, at once, in a process of a few MB.
SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"[]" if self.path == "/slots" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer.daemon_threads = True
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@pytest.fixture
def server(home: Path) -> Path:
    (home / "server.py").write_text(SERVER)
    return script(
        home / "llama-server",
        f"""case "$1" in
--help) echo "-m, --model FNAME   model"; echo "--port PORT   port"; exit ;;
--version) echo "version: 1 (abc)"; exit ;;
esac
exec {sys.executable} -S {home / "server.py"} "$@" """,
    )


async def test_the_last_command_of_each_instance_counts(
    home: Path, server: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = paths.ensure_private(paths.runtime_dir())
    settings = Settings(
        serve=ServeSettings(llama_server=str(server), nginx=embedded_nginx(), drain_s=0.0),
        engine=EngineSettings(poll_s=3600.0),
    )
    (home / "logs").mkdir()
    engine = Engine(settings, runtime=runtime, state=home, logs=home / "logs")
    await engine.start()
    runner = await run_server(engine, str(paths.socket_path()))
    port = free_ports(INSTANCES + 1)
    spec = FleetSpec(
        model=str(tiny_model),
        instances=INSTANCES,
        base_port=port,
        front_port=port + INSTANCES,
        max_streams=64,
    )
    last: dict[int, str] = {}
    luck = random.Random(4)
    done = engine.instance

    async def noted(index: int, action: str) -> None:
        await done(index, action)
        last[index] = action  # before any other command can be done

    monkeypatch.setattr(engine, "instance", noted)

    async def viewer(share: int) -> None:
        async with EngineClient() as client:
            for _ in range(share):
                index, action = luck.randrange(INSTANCES), luck.choice(("start", "stop", "restart"))
                await client.instance(index, action)

    try:
        async with EngineClient() as client:
            await client.up(spec)
        async with asyncio.timeout(240):
            await asyncio.gather(*(viewer(COMMANDS // VIEWERS) for _ in range(VIEWERS)))
        wanted = [last[index] != "stop" for index in range(INSTANCES)]
        states = [InstanceState.READY if want else InstanceState.STOPPED for want in wanted]
        await until(lambda: [view.state for view in engine.fleet.views()] == states, f"{states}")
        await until(lambda: engine.fleet.front.view.ready == sum(wanted), "the front to follow")
        alive = [process for process in processes_with(str(home / "server.py")) if process.pid != os.getpid()]
        assert len(alive) == sum(wanted)
    finally:
        await engine.stop()
        await runner.cleanup()
    assert not processes_with(str(home / "server.py"))
