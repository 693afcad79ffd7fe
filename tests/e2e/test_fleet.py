"""up, down, start, stop, restart, status as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import openai
import psutil
import pytest

from lab_tui import paths
from lab_tui.engine.last import LastFleet
from lab_tui.model import FleetSpec
from tests.e2e.conftest import PATIENCE_S, Lab, states, until


def test_a_fleet_from_up_to_down(lab: Lab) -> None:
    pin = ("--cpu-pin",) if hasattr(os, "sched_setaffinity") else ()
    done = lab.run("up", "-i", "2", "-p", "2", *pin)
    assert done.stdout == f"{lab.url}\n"
    status = lab.json("status")
    assert status["front"]["state"] == "ready"
    assert status["front"]["url"] == lab.url
    assert [i["port"] for i in status["instances"]] == [lab.base_port, lab.base_port + 1]
    first = status["instances"][0]
    for key in ("index", "state", "reason", "port", "pid", "slots", "busy", "queue", "tps", "rss_bytes",
                "vram_bytes", "gpu", "cores", "uptime_s", "command"):  # fmt: skip
        assert key in first
    assert first["gpu"] is None and bool(first["cores"]) == bool(pin)
    for flag in ("--threads-http", "--ctx-size", "--no-kv-unified", "--cache-ram", "--threads", "--metrics",
                 "--fit", "--parallel"):  # fmt: skip
        assert flag in first["command"]
    for key in ("engine", "front", "instances", "sweep", "queue", "gpus", "host"):
        assert key in status

    lab.run("stop", "1")
    assert states(lab) == ["ready", "stopped"]
    assert lab.status()["front"]["ready"] == 1
    lab.run("start", "1")
    assert states(lab) == ["ready", "ready"]
    pid = lab.status()["instances"][0]["pid"]
    lab.run("restart", "0")
    assert lab.status()["instances"][0]["pid"] != pid
    text = lab.run("status").stdout
    assert "ready" in text
    assert str(lab.base_port) in text
    assert bool(pin) == ("CORES" in text) and " GPU " not in text

    lab.run("down")
    assert lab.json("status")["instances"] == []
    parts = until(lambda: lab.status()["parts"], "the parts are looked for while nothing runs")
    assert [(part["name"], part["found"]) for part in parts] == [
        ("llama-server", True), ("nginx", True), ("model", True),
    ]  # fmt: skip
    last = lab.status()["last_fleet"]
    assert (last["model"], last["instances"], last["parallel"]) == (lab.model, 2, 2)
    lab.run("engine", "stop")
    assert lab.processes() == []
    assert LastFleet(paths.state_dir() / "fleet-last.json").spec == msgspec.convert(last, FleetSpec)


def test_an_openai_client_chats_with_streaming(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    client = openai.OpenAI(base_url=f"{lab.url}/v1", api_key="none", max_retries=0)
    upstreams = set()
    for _ in range(2):
        answer = client.chat.completions.with_raw_response.create(
            model="any",
            messages=[{"role": "user", "content": "Say something."}],
            max_tokens=12,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        upstreams.add(answer.headers["X-Upstream"])
        chunks = [chunk.choices[0] for chunk in answer.parse() if chunk.choices]
        assert chunks[-1].finish_reason == "length"
        assert "".join(choice.delta.content or "" for choice in chunks)
    assert len(upstreams) == 2  # round robin


def test_up_again_restarts_nothing(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    before = lab.status()["instances"]
    lab.run("up", "-i", "2", "-p", "1")
    assert [i["pid"] for i in lab.status()["instances"]] == [i["pid"] for i in before]


def test_down_with_nothing_running_says_so(lab: Lab) -> None:
    assert "nothing is running" in lab.run("down").stderr
    assert lab.json("status")["engine"] is None
    assert lab.processes() == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("-m", "/nowhere.gguf"), "/nowhere.gguf does not exist"),
        (("-m", "{bad}"), "not a GGUF"),
        (("-m", "{cut}"), "cut short"),
        (("-i", "0"), "instances is 0"),
        (("-i", "-3"), "instances is -3"),
        (("-i", "65"), "instances is 65"),
        (("-p", "0"), "parallel is 0"),
        (("-p", "257"), "parallel is 257"),
        (("--base-port", "70000"), "base-port is 70000"),
        (("--placement", "near"), "placement is 'near'"),
        (("--", "--no-such-flag"), "--no-such-flag"),
        (("--", "--port", "1"), "--port is set by lab-tui"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(lab: Lab, args: tuple[str, ...], says: str) -> None:
    bad, cut = lab.home / "bad.gguf", lab.home / "cut.gguf"
    bad.write_bytes(b"no model at all")
    cut.write_bytes(Path(lab.model).read_bytes()[:100_000])
    done = lab.run("up", *(a.format(bad=bad, cut=cut) for a in args), code=1)
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    until(lambda: lab.processes() == [], "everything has ended")


def test_a_port_in_use_in_the_middle_is_named(lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", lab.base_port + 1))
        taken.listen()
        done = lab.run("up", "-i", "3", "-p", "1", code=1)
    assert f"port {lab.base_port + 1}" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    until(lambda: lab.processes() == [], "everything has ended")


@pytest.mark.parametrize(
    ("variable", "program", "says"),
    [
        ("LAB_TUI_SERVE_LLAMA_SERVER", None, "does not exist"),
        ("LAB_TUI_SERVE_LLAMA_SERVER", "plain", "is not executable"),
        ("LAB_TUI_SERVE_LLAMA_SERVER", "#!/bin/sh\necho libcuda.so: not found >&2; exit 127\n", "libcuda.so"),
        ("LAB_TUI_SERVE_NGINX", None, "does not exist"),
        ("LAB_TUI_SERVE_NGINX", "#!/bin/sh\nexit 3\n", "does not answer -V"),
    ],
)
def test_a_missing_or_broken_part_is_named(lab: Lab, variable: str, program: str | None, says: str) -> None:
    part = lab.home / "part"
    if program is not None:
        part.write_text(program)
        part.chmod(0o755 if program.startswith("#!") else 0o644)
    done = lab.run("up", code=1, **{variable: str(part)})
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    doctor = lab.run("doctor", "--json", code=1, **{variable: str(part)})
    parts = {p["name"]: p for p in json.loads(doctor.stdout)["parts"]}
    broken = "nginx" if "NGINX" in variable else "llama-server"
    assert not parts[broken]["found"]
    assert says in parts[broken]["problem"]
    until(lambda: lab.processes() == [], "everything has ended")


def fake_llama_server(lab: Lab, at_start: str) -> None:
    """A llama-server that knows two flags and does ``at_start`` (shell) instead of serving."""
    fake = lab.home / "llama-server"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*--help*) echo "-m, --model FNAME   model"; echo "--port PORT   port" ;;\n'
        '*--version*) echo "version: 1 (abc)" ;;\n'
        f"*) {at_start} ;;\n"
        "esac\n"
    )
    fake.chmod(0o755)
    lab.env |= {"LAB_TUI_SERVE_LLAMA_SERVER": str(fake), "LAB_TUI_SERVE_ARGS": ""}


def test_an_instance_that_crashes_at_start_says_why(lab: Lab) -> None:
    fake_llama_server(lab, "echo 'ggml_backend_cuda: cudaMalloc failed: out of memory' >&2; exit 1")
    done = lab.run("up", "-i", "2", code=1)
    assert "the GPU is out of memory" in done.stderr
    until(lambda: lab.processes() == [], "everything has ended")


def test_ctrl_c_stops_what_was_started(lab: Lab) -> None:
    fake_llama_server(lab, "sleep 1000")  # never listens, so `up` waits
    up = lab.start("up", "-i", "2")
    until(lambda: sum("1000" in command for command in lab.commands()) == 2, "both wait")
    up.send_signal(signal.SIGINT)
    assert up.wait(PATIENCE_S) == 130
    up.communicate()
    until(lambda: lab.processes() == [], "everything has ended")


def test_a_killed_instance_comes_back(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    pid = lab.status()["instances"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    log = paths.logs_dir() / "engine.log"  # it tells for good what the screen may tell for a second
    until(lambda: "instance 0 backoff: killed (SIGKILL" in log.read_text(), "the death is noticed")
    until(lambda: states(lab) == ["ready", "ready"], "it is ready again")
    until(lambda: lab.status()["front"]["ready"] == 2, "it is in the front again")


def test_a_failed_change_leaves_the_fleet_as_it_was(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    before = lab.status()["fleet"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", lab.base_port + 2))
        taken.listen()
        lab.run("up", "-i", "3", "-p", "1", code=1)
    assert states(lab) == ["ready", "ready"]
    done = lab.run("up", "-i", "2", "-p", "1", "--", "--ubatch-size", "none", code=1)  # fails at start
    assert "--ubatch-size" in done.stderr
    until(lambda: states(lab) == ["ready", "ready"], "the fleet of before is back")
    assert lab.status()["fleet"] == before


def test_beyond_loopback_only_with_a_key_that_nothing_shows(lab: Lab) -> None:
    lab.run("up", "-i", "1", "-p", "2")
    pid = lab.status()["instances"][0]["pid"]
    lab.run("up", "-i", "1", "-p", "2", "--host", "0.0.0.0", "--insecure")
    assert lab.status()["instances"][0]["pid"] == pid  # only the front moves
    assert answer(f"{lab.url}/health") == 200
    assert answer(f"{lab.url}/slots") == 404

    made = lab.run("up", "-i", "1", "-p", "2", "--host", "0.0.0.0")
    key = paths.api_key_file().read_text().strip()
    shown = [made.stdout, made.stderr]
    until(lambda: lab.status()["instances"][0]["queue"] == 0, "it is read with the key")
    instance = f"http://127.0.0.1:{lab.base_port}"
    for url, hidden in ((lab.url, 404), (instance, 401)):
        assert answer(f"{url}/props") == hidden
        assert answer(f"{url}/completion", COMPLETION) == 401
        assert answer(f"{url}/completion", COMPLETION, key) == 200
    swept = lab.run("sweep", "--axis", "concurrency=2", "--seconds", "1", "--no-confirm", "--json")
    (cell,) = json.loads(swept.stdout)["cells"]
    assert (cell["status"], cell["errors"]) == ("measured", 0)
    until(lambda: states(lab) == ["ready"], "the fleet of before is back")

    def addresses() -> tuple[set[str], set[str]]:
        listens = {at for process in lab.processes() for at in listening(process)}
        fronts = {at for at in listens if at[0] == "nginx"}
        return {ip for _, ip in listens - fronts}, {ip for _, ip in fronts}

    until(lambda: addresses() == ({"127.0.0.1"}, {"0.0.0.0"}), "only the front listens beyond loopback")
    copies = {paths.runtime_dir() / "nginx" / "keys.conf", paths.runtime_dir() / "api-keys"}
    secret = {paths.api_key_file(), *copies}
    places = [paths.runtime_dir(), paths.state_dir(), paths.config_file().parent]
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (*secret, paths.socket_path())} == {0o600}

    shown += [str(swept), str(lab.commands()), str([environment(process) for process in lab.processes()])]
    exported = lab.run("export", "1", "--format", "sh").stdout
    assert f"--api-key-file {paths.api_key_file()}" in exported
    shown += [exported, json.dumps(lab.json("status"))]
    files = [file for place in (lab.home, *places) for file in place.rglob("*") if file.is_file()]
    assert any(file.name == "lab.db" for file in files)
    assert not [text for text in shown if key in text]
    assert {file for file in files if key.encode() in file.read_bytes()} == secret
    lab.run("down")
    assert not [file for file in copies if file.exists()]


COMPLETION = json.dumps({"prompt": "a", "n_predict": 2}).encode()


def answer(url: str, body: bytes | None = None, key: str = "") -> int:
    """The status of one request."""
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Its name and the addresses where it listens."""
    try:
        lines = process.net_connections("inet")
        return {(process.name(), line.laddr.ip) for line in lines if line.status == psutil.CONN_LISTEN}
    except psutil.Error:  # ended meanwhile
        return set()


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # ended meanwhile
        return {}


def test_output_that_nobody_takes(lab: Lab) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            lab.command("status"), env=lab.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "lab-tui: cannot write to standard output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            lab.command("status"), env=lab.env, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_down_ends_an_up_that_waits(lab: Lab) -> None:
    fake_llama_server(lab, "sleep 1000")  # never listens, so `up` waits
    up = lab.start("up", "-i", "2")
    until(lambda: sum("1000" in command for command in lab.commands()) == 2, "both wait")
    lab.run("down")
    assert up.wait(PATIENCE_S) == 1
    assert "taken down" in up.communicate()[1]
    until(lambda: lab.processes() == [], "everything has ended")
