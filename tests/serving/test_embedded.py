"""The embedded llama-server takes flags, logs, fails and ends as a native one does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from lab_tui.serving import embedded
from lab_tui.serving.process import Process, StopLadder
from lab_tui.serving.readings import plain_http
from tests.ports import free_ports

from .helpers import PATIENCE_S, completion, streamed, taken, until, until_answer

LADDER = StopLadder(first_wait_s=10, second_wait_s=10)


async def output(*args: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and error."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lab_tui.serving.embedded", *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(child.communicate(), PATIENCE_S)
    return child.returncode, out.decode(), err.decode()


async def test_help_and_version() -> None:
    code, out, err = await output("-m", "x", "--help")
    assert (code, err) == (0, "")
    assert out.startswith("----- common params -----")
    assert "\n-np, --parallel N                       number of slots\n" in out
    code, out, _ = await output("--version")
    assert code == 0
    assert out.startswith("version: xllamacpp 20")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--no-such",), "error: invalid argument: --no-such"),
        (("--port=1",), "error: invalid argument: --port=1"),
        (("stray",), "error: invalid argument: stray"),
        (("--parallel", "many"), "error: argument --parallel: invalid value: many"),
        (("--parallel", "99999999999"), "error: argument --parallel: invalid value: 99999999999"),
        (("-fa", "maybe"), "error: argument -fa: invalid value: maybe"),
        (("-fit", "maybe"), "error: argument -fit: invalid value: maybe"),
        (("-ctk", "q3"), "error: argument -ctk: invalid value: q3"),
        (("--port",), "error: argument --port: expected value for argument"),
        (("-np", "2"), "error: --model is required"),
        (("-m", "x", "-np", "257"), "error: n_seq_max must be <= 256, got 257"),
    ],
)
async def test_a_wrong_command_line(args: tuple[str, ...], error: str) -> None:
    code, out, err = await output(*args)
    assert (code, out) == (1, "")
    assert error in err


async def test_every_flag_can_be_set() -> None:
    import xllamacpp

    values = {"FNAME": "/dev/null", "N": "3", "PORT": "9", "HOST": "127.0.0.1", "INDEX": "0",
              "N0,N1,…": "1,2", "KEY": "a,b", "STRING": "x", "TEMPLATE": "chatml"}  # fmt: skip
    for flag in embedded.FLAGS:
        choices = flag.value.strip("[]{}").replace("|", ",").split(",") if flag.value[:1] in "[{" else []
        for value in choices or [values.get(flag.value, "")]:
            words = [flag.names[0], value] if flag.value else [flag.names[0]]
            embedded.parse(words, xllamacpp.CommonParams())


def test_flags_reach_the_parameters() -> None:
    import xllamacpp

    params = embedded.parse(
        ["-np", "7", "-c", "512", "--no-kv-unified", "-ngl", "all", "--host", "127.0.0.1", "--fit", "off"],
        xllamacpp.CommonParams(),
    )
    assert (params.n_parallel, params.n_ctx, params.kv_unified, params.fit_params) == (7, 512, False, False)
    assert params.n_gpu_layers == -2
    assert embedded.parse(["-ngl", "0"], xllamacpp.CommonParams()).n_gpu_layers == 0


async def test_failures_exit_with_1(tmp_path: Path, tiny_model: Path) -> None:
    code, _, err = await output("-m", str(tmp_path / "none.gguf"), "--port", str(free_ports(1)))
    assert code == 1
    assert "failed to load model" in err
    port = free_ports(1)
    with taken(port):
        code, _, err = await output("-m", str(tiny_model), "--port", str(port))
    assert code == 1
    assert f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}" in err


async def test_without_xllamacpp_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert embedded.main(["-m", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: the embedded server needs xllamacpp")
    assert embedded.main(["--help"]) == 0


# --- signals ------------------------------------------------------------------------------------


def start(model: Path, tmp_path: Path, *more: str) -> tuple[Process, str]:
    port = free_ports(1)
    command = (sys.executable, "-m", "lab_tui.serving.embedded", "-m", str(model), "--port", str(port),
               "-np", "2", "-c", "16384", "-t", "1", "--threads-http", "8", "--metrics", "--cache-ram", "0",
               *more)  # fmt: skip
    return Process.start(command, tmp_path / "log", os.environ), f"http://127.0.0.1:{port}"


@pytest.fixture
async def server(tiny_model: Path, tmp_path: Path) -> AsyncIterator[tuple[Process, str]]:
    """An embedded server that is ready, and its URL."""
    child, url = start(tiny_model, tmp_path)
    async with plain_http() as http:

        async def ready() -> bool:
            assert child.alive(), child.log_lines(20)
            with contextlib.suppress(httpx.TransportError):
                return (await http.get(f"{url}/health")).status_code == 200
            return False

        await until_answer(ready, "the server to be ready")
    yield child, url
    await child.stop(LADDER)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_it_ends_with_0(server: tuple[Process, str], number: signal.Signals) -> None:
    child, url = server
    async with plain_http(base_url=url, timeout=PATIENCE_S) as http:
        answer = await http.post("/completion", json=completion(5))
        assert answer.json()["tokens_predicted"] == 5
    child.signal(number)
    assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0


async def test_before_the_model_is_loaded_a_term_ends_it(tmp_path: Path) -> None:
    loading = """if True:
        import sys, time, xllamacpp
        from lab_tui.serving import embedded
        def load(params):
            print("loading", flush=True)
            time.sleep(300)
        xllamacpp.Server = load
        sys.exit(embedded.main(["-m", "large.gguf"]))
    """
    child = Process.start((sys.executable, "-c", loading), tmp_path / "log", os.environ)
    await until(lambda: "loading" in child.log_lines(5))
    child.signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), PATIENCE_S) == -15


async def test_a_second_term_ends_it_with_a_live_stream(server: tuple[Process, str]) -> None:
    child, url = server
    events = streamed(url, 8000)
    assert (await anext(events))["stop"] is False
    child.signal(signal.SIGTERM)
    await until(lambda: any("~Server" in line for line in child.log_lines(20)), "the first TERM to be taken")
    child.signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), PATIENCE_S) in (0, -15)  # 0: the stream ended just then
    with contextlib.suppress(httpx.HTTPError):
        async for _ in events:
            pass
