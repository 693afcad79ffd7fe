"""Ports, waiting, processes and servers for the tests of what serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import httpx
import psutil

from lab_tui.model import FleetSpec, InstanceState
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.readings import plain_http
from tests.ports import free_ports, is_free

PATIENCE_S = 150.0  # nothing waited for here takes long, but the machine may be busy with other things


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody listens on ``port``."""
    with socket.create_server(("127.0.0.1", port)):
        yield


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for ``condition``; the test fails when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what or condition}"
        await asyncio.sleep(0.01)


async def until_answer(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """As ``until`` for a condition that has to be awaited."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.01)


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


EMBEDDED = f"{shlex.quote(sys.executable)} -m lab_tui.serving.embedded"


def server_script(path: Path, fault: str) -> Path:
    """A llama-server that answers --help and --version as the embedded one does, and runs ``fault`` first.

    ``fault`` is shell; ``$port`` and ``$parallel`` are those of the instance. Unless it ends the
    script, the real embedded server follows.
    """
    return script(
        path,
        f"""case "$1" in --help|--version) exec {EMBEDDED} "$1" ;; esac
words="$*"
port=${{words#*--port }}; port=${{port%% *}}
parallel=${{words#*--parallel }}; parallel=${{parallel%% *}}
{fault}
exec {EMBEDDED} "$@"
""",
    )


def cuda_script(path: Path) -> Path:
    """The embedded llama-server, listing two cards as a build for CUDA does."""
    return script(
        path,
        f"""case "$1" in
--help) {EMBEDDED} --help; echo "--list-devices    print list of available devices and exit"; exit ;;
--list-devices)
    echo "Available devices:"
    for n in 0 1; do echo "  CUDA$n: NVIDIA L4 (23034 MiB, 22700 MiB free)"; done
    exit ;;
esac
exec {EMBEDDED} "$@"
""",
    )


def processes_with(text: str) -> list[psutil.Process]:
    """Every live process whose command line holds ``text``, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if text in words and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def zombies() -> list[psutil.Process]:
    """Dead children of this process that nobody asked after."""
    return [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]


def reap() -> None:
    """Ask after the dead children that a detached fleet left to this process."""
    for child in zombies():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)


def listening(ports: Iterable[int]) -> set[int]:
    """Those of ``ports`` on which somebody accepts connections."""
    return {port for port in ports if not is_free(port)}


# --- a backend that can be slow ---------------------------------------------------------------


class SlowBackend:
    """Streams server-sent events, one for each call of ``say``, until ``finish``."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self.streams: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """As nginx writes it."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on a port of its own."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut what is left."""
        assert self._server is not None
        self._server.close()
        for stream in self.streams:
            stream.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            if b" /stream " not in head.split(b"\r\n")[0]:
                text = json.dumps({"port": self.port, "body": len(body)}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text)
                )
                writer.write(text)
                await writer.drain()
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            self.streams.append(writer)
            self.say("begin")

    def say(self, text: str) -> None:
        """One event on every stream."""
        event = f"data: {text}\n\n".encode()
        for stream in self.streams:
            stream.write(b"%x\r\n%s\r\n" % (len(event), event))

    def finish(self) -> None:
        """End every stream as it should be."""
        for stream in self.streams:
            stream.write(b"0\r\n\r\n")
            stream.close()
        self.streams.clear()


# --- a fleet ------------------------------------------------------------------------------------


def tiny_spec(model: Path, **fields: object) -> FleetSpec:
    """Instances on free ports, the front above them."""
    room = 8
    base = free_ports(room + 1)
    given = {"instances": 2, "parallel": 2, "ctx_per_slot": 256, "threads": 1, "threads_http": 24,
             "base_port": base, "front_port": base + room, "max_streams": 64}  # fmt: skip
    return FleetSpec(model=str(model), **{**given, **fields})  # type: ignore[arg-type]


def states(fleet: Fleet) -> list[InstanceState]:
    """The state of each instance."""
    return [view.state for view in fleet.views()]


def pids(fleet: Fleet) -> list[int | None]:
    """The process of each instance."""
    return [view.pid for view in fleet.views()]


def completion(tokens: int, *, stream: bool = False) -> dict[str, object]:
    """The body of a request for exactly ``tokens`` tokens."""
    return {
        "prompt": "a b c",
        "n_predict": tokens,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": stream,
    }


async def streamed(url: str, tokens: int) -> AsyncIterator[dict[str, object]]:
    """The events of one streamed completion."""
    async with (
        plain_http(timeout=PATIENCE_S) as http,
        http.stream("POST", f"{url}/completion", json=completion(tokens, stream=True)) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


class Hammer:
    """Clients that send short requests one after the other, until ``stop``; every answer is kept."""

    def __init__(self, url: str, clients: int = 2, tokens: int = 4) -> None:
        self.answers: list[int] = []  # status codes
        self.troubles: list[str] = []  # requests that got no whole answer
        self._url = url
        self._tokens = tokens
        self._tasks = [asyncio.create_task(self._run()) for _ in range(clients)]

    async def _run(self) -> None:
        # A connection each: one that is kept may be closed by a reload at the moment of its next request.
        async with plain_http(timeout=PATIENCE_S, headers={"Connection": "close"}) as http:
            while True:
                try:
                    answer = await http.post(f"{self._url}/completion", json=completion(self._tokens))
                    self.answers.append(answer.status_code)
                except httpx.HTTPError as error:
                    self.troubles.append(repr(error))

    async def more(self, count: int) -> None:
        """Wait for ``count`` more answers."""
        goal = len(self.answers) + count
        await until(lambda: len(self.answers) >= goal or self.troubles, "answers through the front")

    async def stop(self) -> None:
        """End the clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
