"""The front: what it is told to be it becomes, without a stream being cut, and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from lab_tui.model import USER_AGENT, FrontState, LabError
from lab_tui.serving import front as module
from lab_tui.serving import parts, ports
from lab_tui.serving.front import Front, check_files
from lab_tui.serving.nginx_conf import (
    KEYS_FILE,
    FrontSpec,
    config_text,
    files_needed,
    keys_command,
    keys_text,
)
from lab_tui.serving.parts import Found, Nginx
from lab_tui.serving.process import ProcessRecord, session_members
from lab_tui.serving.readings import plain_http
from tests.ports import free_ports

from .helpers import PATIENCE_S, SlowBackend, listening, taken, until

OLD = Nginx(command=("nginx",), source="PATH", version=(1, 22, 1))
NEW = Nginx(command=("nginx",), source="PATH", version=(1, 29, 7))
SPEC = FrontSpec(host="127.0.0.1", port=8088, backends=("127.0.0.1:9000", "127.0.0.1:9001"), max_streams=100)


needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")


def but(spec: FrontSpec, **fields: Any) -> FrontSpec:
    return msgspec.structs.replace(spec, **fields)


# --- the configuration --------------------------------------------------------------------------


def test_config() -> None:
    text = config_text(SPEC, OLD, 7)
    for line in (
        "server 127.0.0.1:9000 max_fails=0;",
        "server 127.0.0.1:9001 max_fails=0;",
        "zone llm 64k;",
        "listen 127.0.0.1:8088 backlog=4096;",
        "worker_connections 369;",  # two a stream, some, and an eighth to spare
        "worker_rlimit_nofile 369;",
        "proxy_buffering off;",
        "proxy_read_timeout 3600s;",
        'return 200 "7";',
    ):
        assert line in text, line
    assert "access_log access.log lab" in text
    assert "access_log" not in config_text(SPEC, OLD, None).replace("access_log off;", "")
    assert "least_conn" not in text
    assert "keepalive" not in text


def test_keepalive_is_turned_off_only_where_it_is_known() -> None:
    assert "keepalive 0;" in config_text(SPEC, NEW, 1)
    assert "keepalive 0;" not in config_text(SPEC, msgspec.structs.replace(NEW, version=(1, 29, 6)), 1)
    assert "keepalive 0;" in config_text(SPEC, msgspec.structs.replace(NEW, version=(1, 31)), 1)


def test_least_conn_comes_first_in_the_upstream() -> None:
    text = config_text(but(SPEC, balancing="least_conn"), NEW, 1)
    assert text.index("least_conn;") < text.index("server 127.0.0.1:9000") < text.index("keepalive 0;")


def test_no_backend_is_503() -> None:
    text = config_text(but(SPEC, backends=()), NEW, 1)
    assert "upstream llm" not in text
    assert "return 503" in text
    assert "proxy_pass" not in text


def test_what_others_ask_is_hidden_beyond_loopback() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        assert "return 404" not in config_text(but(SPEC, host=host), OLD, 1)
    for host in ("0.0.0.0", "::", "192.168.1.7", "gpu1"):
        assert "(slots|props|metrics|lora-adapters)" in config_text(but(SPEC, host=host), OLD, 1)


def test_ipv6() -> None:
    assert "listen [::1]:8088 " in config_text(but(SPEC, host="::1"), OLD, 1)
    assert "listen [::]:8088 ipv6only=off " in config_text(but(SPEC, host="::"), OLD, 1)


def test_url_is_one_that_this_machine_reaches() -> None:
    hosts = {
        "127.0.0.1": "127.0.0.1",
        "0.0.0.0": "127.0.0.1",
        "::": "[::1]",
        "fe80::1": "[fe80::1]",
        "gpu1": "gpu1",
    }
    for host, seen in hosts.items():
        assert but(SPEC, host=host).url == f"http://{seen}:8088"


def test_others_are_told_an_address_that_leads_out(monkeypatch: pytest.MonkeyPatch) -> None:
    address = ports.outward("0.0.0.0")
    with socket.socket(socket.AF_INET6 if address and ":" in address else socket.AF_INET) as probe:
        probe.bind((address or "127.0.0.1", 0))  # ours, where there is one
    monkeypatch.setattr(module, "outward", lambda _: "10.1.2.3")
    hosts = {
        "127.0.0.1": None,
        "0.0.0.0": "http://10.1.2.3:8088",
        "::": "http://10.1.2.3:8088",
        "gpu1": "http://gpu1:8088",
    }
    assert {host: module._elsewhere(but(SPEC, host=host)) for host in hosts} == hosts
    assert (but(SPEC, host="::").listens, SPEC.listens) == ("[::]:8088", "127.0.0.1:8088")


def test_too_many_streams_for_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (256, 1024))  # type: ignore[attr-defined]
    check_files(391)
    with pytest.raises(LabError, match=r"392 streams need 1026 open files, the hard limit is 1024: .*ulimit"):
        check_files(392)


@pytest.mark.parametrize("streams", [1, 64, 1024, 65_536])
def test_a_sixteenth_of_the_connections_stays_free(streams: int) -> None:
    """With less, nginx closes kept-alive connections of clients."""
    assert files_needed(streams) - 2 * streams - 16 > files_needed(streams) / 16


# --- a real nginx -------------------------------------------------------------------------------


class Stand:
    """A front before slow backends."""

    def __init__(self, folder: Path, nginx: Nginx, backends: list[SlowBackend]) -> None:
        self.folder = folder
        self.nginx = nginx
        self.backends = backends
        self.spec = FrontSpec(
            host="127.0.0.1",
            port=free_ports(1),
            backends=tuple(backend.address for backend in backends),
            max_streams=50,
        )
        self.fronts: list[Front] = []
        self.masters: set[int] = set()

    def front(self) -> Front:
        front = Front(self.folder / "nginx", self.folder / "nginx.log", lambda: self._note(front))
        self.fronts.append(front)
        return front

    def _note(self, front: Front) -> None:
        if front.view.pid:
            self.masters.add(front.view.pid)

    def left(self) -> list[psutil.Process]:
        """Everything of every nginx that was ever started here."""
        masters = [psutil.Process(pid) for pid in self.masters if _is_nginx(pid)]
        return [*masters, *(worker for pid in self.masters for worker in session_members(pid))]

    async def get(self, path: str = "/", **more: Any) -> httpx.Response:
        async with plain_http(timeout=PATIENCE_S) as http:
            return await http.get(self.spec.url + path, **more)

    async def served_by(self, count: int) -> set[str]:
        """The backends that ``count`` new connections were sent to."""
        return {(await self.get()).headers["X-Upstream"] for _ in range(count)}

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """The events of a live stream, of which the first has come."""
        async with (
            plain_http(timeout=PATIENCE_S) as http,
            http.stream("GET", self.spec.url + "/stream") as answer,
        ):
            lines = (line async for line in answer.aiter_lines() if line)
            assert await anext(lines) == "data: begin"
            yield lines


@pytest.fixture
async def stand(tmp_path: Path, any_nginx: str) -> AsyncIterator[Stand]:
    nginx = await parts.probe_nginx(Found(command=(any_nginx,), source="PATH"))
    backends = [SlowBackend(), SlowBackend()]
    for backend in backends:
        await backend.start()
    stand = Stand(tmp_path, nginx, backends)
    yield stand
    for front in stand.fronts:
        await front.stop()
    for backend in backends:
        await backend.stop()
    left = stand.left()
    for process in left:
        process.kill()
    assert not left
    assert not listening([stand.spec.port])


async def test_each_kind_of_front_serves(stand: Stand) -> None:
    front = stand.front()
    one, two = stand.spec.backends
    for fields in (
        {},
        {"balancing": "least_conn"},
        {"host": "0.0.0.0", "port": free_ports(1)},
        {"backends": (one,)},
        {"port": free_ports(1)},
    ):
        spec = but(stand.spec, **fields)
        await front.apply(spec, stand.nginx)
        assert front.view.state == FrontState.READY
        assert (front.view.url, front.view.ready) == (spec.url, len(spec.backends))
        async with plain_http() as http:
            seen = {(await http.get(spec.url)).headers["X-Upstream"] for _ in range(4)}
        assert seen == set(spec.backends), fields
        assert front.config() == config_text(
            spec, stand.nginx, int(front.config().split('return 200 "')[1].split('"')[0])
        )
    assert not listening([stand.spec.port])  # the port of before was let go
    assert {one, two} == set(stand.spec.backends)


async def test_no_backend_says_so_as_llama_server_would(stand: Stand) -> None:
    await stand.front().apply(but(stand.spec, backends=()), stand.nginx)
    answer = await stand.get("/v1/models")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "no instance is ready"


async def test_what_goes_through_is_counted(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.05)
    front = stand.front()
    assert front.traffic is None
    await front.apply(stand.spec, stand.nginx)
    await stand.served_by(4)
    async with stand.stream():
        open_now = 1 if stand.nginx.stub_status else None
        await until(lambda: front.traffic and front.traffic.connections == open_now)
    await until(lambda: front.traffic and front.traffic.requests == 5)  # the stream was left
    assert front.traffic is not None
    assert (front.traffic.errors, front.traffic.cut_off) == ({}, 1)
    assert {one.address for one in front.traffic.instances} == set(stand.spec.backends)
    assert (front.traffic.connections is None) == bool(front.traffic.connections_reason)
    begun = time.time()
    for agent in (USER_AGENT, "chat"):
        async with plain_http() as http:
            await http.post(f"{stand.spec.url}/completion", headers={"User-Agent": agent}, content=b"x")
    assert (await front.of_others(begun, time.time()))[0] == 1
    log = stand.folder / "nginx.log"
    monkeypatch.setattr("lab_tui.serving.process.LOG_LIMIT_BYTES", 1000)
    log.write_text("x" * 1001)
    await until(lambda: log.stat().st_size < 1000, "the log to be trimmed")
    await front.stop()
    assert front.traffic is None


@needs_ipv6
async def test_ipv6_loopback(stand: Stand) -> None:
    await stand.front().apply(but(stand.spec, host="::1"), stand.nginx)
    async with plain_http() as http:
        assert (await http.get(f"http://[::1]:{stand.spec.port}/")).status_code == 200


@needs_ipv6
async def test_any_address_is_v4_and_v6(stand: Stand) -> None:
    await stand.front().apply(but(stand.spec, host="::"), stand.nginx)
    async with plain_http() as http:
        for host in ("[::1]", "127.0.0.1"):
            assert (await http.get(f"http://{host}:{stand.spec.port}/")).status_code == 200


async def test_private_paths_are_there_on_loopback_and_hidden_beyond(stand: Stand) -> None:
    front = stand.front()
    paths = (
        "/slots",
        "/slots/0?action=save",
        "/props",
        "/metrics",
        "//metrics",
        "/%6detrics",
        "/lora-adapters",
        "/v1/../slots",
        "/v1/%2e%2e%2fslots",
        "/./props?x",
        "/slots%3fa",
        "/v1/lora-adapters",
    )
    await front.apply(stand.spec, stand.nginx)
    assert {(await stand.get(path)).status_code for path in paths} == {200}
    stand.spec = but(stand.spec, host="0.0.0.0", port=free_ports(1))
    await front.apply(stand.spec, stand.nginx)
    assert {(await stand.get(path)).status_code for path in paths} == {404}
    assert {(await stand.get(path)).status_code for path in ("/health", "/v1/models", "/completion")} == {200}


async def test_a_key_is_asked_for_and_failed_ones_are_slowed_down(stand: Stand) -> None:
    key, other = "k.+/=~_-ABCdefghi", "another-key-0123456789"
    spec = but(stand.spec, host="0.0.0.0", keys_file=KEYS_FILE, keys=(key, other), max_body_mb=1)
    stand.spec = spec
    front = stand.front()
    await front.apply(spec, stand.nginx)
    assert key not in front.config()
    assert (stand.folder / "nginx" / KEYS_FILE).stat().st_mode & 0o777 == 0o600
    asked = stand.backends[0].requests + stand.backends[1].requests
    good = {"Authorization": f"Bearer {key}"}
    async with plain_http(timeout=PATIENCE_S, base_url=spec.url) as http:
        for headers, status in (
            ({}, 401),
            ({"Authorization": f"Bearer {key.swapcase()}"}, 401),
            ({"Authorization": f"Bearer {key}x"}, 401),
            ({"Authorization": "Bearer none", "X-Api-Key": key}, 401),
            (good, 200),
            ({"Authorization": f"Bearer {other}"}, 200),
            ({"X-Api-Key": key}, 200),
        ):
            assert (await http.post("/completion", headers=headers, content=b"x")).status_code == status
        for method, path in (("GET", "/health"), ("GET", "/v1/health"), ("OPTIONS", "/v1/chat/completions")):
            assert (await http.request(method, path)).status_code == 200
            assert (await http.request(method, path, content=b"x" * 2000)).status_code == 413
        assert (await http.post("/completion", headers=good, content=b"x" * 1_000_000)).status_code == 200
        assert (await http.post("/completion", headers=good, content=b"x" * 1_100_000)).status_code == 413
        seen = [(await http.post("/completion", content=b"x" * 500_000)) for _ in range(20)]
        assert {answer.status_code for answer in seen} == {401, 429}
        assert seen[0].json()["error"]["message"] == "Invalid API Key"
        assert seen[-1].json()["error"]["code"] == 429
        # Nobody pays for it who has a key, not even from the same address.
        assert {(await http.get("/v1/models", headers=good)).status_code for _ in range(20)} == {200}
    assert stand.backends[0].requests + stand.backends[1].requests == asked + 3 + 3 + 1 + 20

    await front.apply(but(spec, keys=(other,)), stand.nginx)
    assert (await stand.get("/", headers=good)).status_code in (401, 429)
    assert (await stand.get("/", headers={"X-Api-Key": other})).status_code == 200
    await front.stop()
    assert not (stand.folder / "nginx" / KEYS_FILE).exists()


def test_a_shell_makes_of_a_file_of_keys_what_lab_tui_makes(tmp_path: Path) -> None:
    source, made = tmp_path / "it's $HOME", tmp_path / KEYS_FILE
    keys = ("k.+/=~_-ABCdefghi", "another-key-0123456789")
    source.write_text("\n".join((*keys, "", "short", "no; } key-0123456789", "")))
    command = keys_command(shlex.quote(str(source)), shlex.quote(str(made)))
    subprocess.run(["/bin/sh", "-c", command], check=True)
    assert made.read_text() == keys_text(keys)
    assert made.stat().st_mode & 0o777 == 0o600


async def test_a_long_prompt_gets_through(stand: Stand) -> None:
    await stand.front().apply(stand.spec, stand.nginx)
    async with plain_http(timeout=PATIENCE_S) as http:
        for size in (1_000, 200_000, 5_000_000):
            answer = await http.post(stand.spec.url, content=b"x" * size)
            assert answer.status_code == 200, answer.text
            assert answer.json()["body"] == size
        assert (await http.post(stand.spec.url, content=b"x" * 70_000_000)).status_code == 413


async def test_a_configuration_that_nginx_refuses_changes_nothing(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    kept = front.config()
    with pytest.raises(LabError, match=r"nginx refuses its configuration: .*emerg"):
        await front.apply(but(stand.spec, backends=("no such; place",)), stand.nginx)
    assert front.view.state == FrontState.READY
    assert front.config() == kept
    assert await stand.served_by(4) == set(stand.spec.backends)


async def test_a_first_configuration_that_nginx_refuses_starts_nothing(stand: Stand) -> None:
    front = stand.front()
    with pytest.raises(LabError, match="nginx refuses its configuration"):
        await front.apply(but(stand.spec, backends=("no such; place",)), stand.nginx)
    assert front.record is None
    assert not listening([stand.spec.port])


async def test_a_port_in_use_is_said_and_nothing_is_left(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = stand.front()
    with (
        taken(stand.spec.port),
        pytest.raises(LabError, match=r"nginx did not start: .*Address (already )?in use"),
    ):
        await front.apply(stand.spec, stand.nginx)
    assert front.view.state == FrontState.FAILED
    assert "in use" in front.view.reason
    assert not stand.left()
    await front.apply(stand.spec, stand.nginx)  # once it is free
    assert await stand.served_by(2) == set(stand.spec.backends)


# --- reloads ------------------------------------------------------------------------------------


async def test_backends_come_and_go_and_no_stream_is_cut(stand: Stand) -> None:
    front = stand.front()
    one, two = stand.backends
    await front.apply(but(stand.spec, backends=(one.address,)), stand.nginx)
    master = front.view.pid
    async with stand.stream() as lines:
        await front.apply(stand.spec, stand.nginx)
        assert await stand.served_by(6) == {one.address, two.address}
        one.say("after one reload")
        assert await anext(lines) == "data: after one reload"
        await front.apply(but(stand.spec, backends=(two.address,)), stand.nginx)
        # The worker of the stream lives; yet no new connection may reach it once `apply` returned.
        assert await stand.served_by(20) == {two.address}
        one.say("after its backend was taken out")
        assert await anext(lines) == "data: after its backend was taken out"
        one.finish()
        assert [line async for line in lines] == []
    assert front.view.pid == master
    assert one.requests > 1


async def test_the_same_again_is_no_reload(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    kept = front.config()
    await front.apply(stand.spec, stand.nginx)
    assert front.config() == kept


async def test_a_change_given_up_half_way_is_made_good_by_the_next(stand: Stand) -> None:
    front = stand.front()
    one, two = stand.backends
    await front.apply(stand.spec, stand.nginx)
    for wait_s in (0.0, 0.01, 0.03, 0.05, 0.1):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(front.apply(but(stand.spec, backends=(two.address,)), stand.nginx), wait_s)
        await front.apply(stand.spec, stand.nginx)
        assert await stand.served_by(6) == {one.address, two.address}, wait_s


async def test_changes_at_once_end_with_the_last(stand: Stand) -> None:
    front = stand.front()
    one, two = stand.backends
    each = ((one.address,), (two.address,), (), stand.spec.backends, (two.address,))
    await asyncio.gather(*(front.apply(but(stand.spec, backends=b), stand.nginx) for b in each))
    assert await stand.served_by(6) == {two.address}


# --- its death and its heirs --------------------------------------------------------------------


async def test_killed_it_comes_back_and_live_streams_go_on(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    first = front.view.pid
    assert first is not None
    async with stand.stream() as lines:
        os.kill(first, signal.SIGKILL)
        await back(front, first)
        assert await stand.served_by(6) == set(stand.spec.backends)
        for backend in stand.backends:
            backend.say("still here")
            backend.finish()
        assert first in front._dead_masters
        assert [line async for line in lines] == ["data: still here"]
    await until(lambda: not session_members(first), "the old worker to end after its stream")
    await until(lambda: not front._dead_masters, "its master to be forgotten: the pid may become another's")


async def test_stop_leaves_nothing_also_of_one_that_was_killed(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    first = front.view.pid
    assert first is not None
    async with stand.stream():
        os.kill(first, signal.SIGKILL)
        await back(front, first)
        assert session_members(first)  # its worker keeps the stream
        await front.stop()
        assert front.view.state == FrontState.STOPPED
        assert front.view.pid is None
        assert not stand.left()
    assert not listening([stand.spec.port])


async def test_stop_with_a_live_stream_leaves_no_worker(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    async with stand.stream():
        await front.apply(but(stand.spec, backends=stand.spec.backends[:1]), stand.nginx)
        await front.stop()
        assert not stand.left()


async def test_killed_again_and_again(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    for _ in range(3):
        pid = front.view.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await back(front, pid)
    assert await stand.served_by(4) == set(stand.spec.backends)


async def test_an_heir_takes_it_over(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    record = front.record
    assert record is not None
    async with stand.stream() as lines:
        await front.detach()
        assert (await stand.get()).status_code == 200
        heir = stand.front()
        await heir.adopt(record)
        await heir.apply(but(stand.spec, backends=stand.spec.backends[:1]), stand.nginx)
        assert heir.view.pid == record.pid
        assert await stand.served_by(6) == set(stand.spec.backends[:1])
        for backend in stand.backends:
            backend.finish()
        assert [line async for line in lines] == []
        os.kill(record.pid, signal.SIGKILL)  # the heir guards it too
        await back(heir, record.pid)


async def test_an_heir_of_a_dead_one_starts_another(stand: Stand) -> None:
    front = stand.front()
    await front.apply(stand.spec, stand.nginx)
    record = front.record
    assert record is not None
    async with stand.stream():
        await front.detach()
        os.kill(record.pid, signal.SIGKILL)
        await until(lambda: not _is_nginx(record.pid))
        heir = stand.front()
        await heir.adopt(record)
        await heir.apply(stand.spec, stand.nginx)
        assert heir.view.pid != record.pid
        assert await stand.served_by(4) == set(stand.spec.backends)
        await heir.stop()
        assert not stand.left()


async def test_an_heir_leaves_alone_who_has_the_pid_of_a_dead_one(tmp_path: Path) -> None:
    """As after a boot that a record on disk has outlived."""
    other = await asyncio.create_subprocess_shell(
        "sleep 1000 & echo there; wait", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert other.stdout is not None
    await other.stdout.readline()
    front = Front(tmp_path / "nginx", tmp_path / "nginx.log", lambda: None)
    record = ProcessRecord(
        pid=other.pid, create_time=1.0, command=("nginx",), log=str(tmp_path / "nginx.log")
    )
    await front.adopt(record)
    await front.stop()
    (member,) = session_members(other.pid)
    member.kill()
    assert await other.wait() == 0


async def back(front: Front, dead: int) -> None:
    """Wait for the front to serve again after the death of its master."""
    await until(lambda: front.view.state == FrontState.READY and front.view.pid != dead, "nginx to be back")


def _is_nginx(pid: int) -> bool:
    """Whether an nginx runs under this pid now."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "nginx" in process.name()
    except psutil.NoSuchProcess:
        return False
