"""The engine: one per user, found again, outliving its viewers, leaving nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import urllib.request
from pathlib import Path

import httpx
import psutil

import lab_tui
from lab_tui import paths
from tests.e2e.conftest import PATIENCE_S, Lab, until

LONG = {"prompt": "a", "n_predict": 2000, "ignore_eos": True, "stream": True}


def test_one_engine_per_user(lab: Lab) -> None:
    assert lab.json("engine", "status")["state"] == "stopped"
    lab.run("results")  # starts one
    status = lab.json("engine", "status")
    assert status["state"] == "running"
    assert set(status) >= {"state", "pid", "version", "socket"}
    mode = Path(status["socket"]).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    second = lab.run("engine", "run", code=1)
    assert f"already running (pid {status['pid']})" in second.stderr
    assert lab.engine_pid() == status["pid"]
    lab.run("engine", "stop")
    assert lab.processes() == []
    assert not Path(status["socket"]).exists()


def test_many_first_viewers_start_one_engine(lab: Lab) -> None:
    viewers = [lab.start("results", "list") for _ in range(5)]
    for viewer in viewers:
        out, err = viewer.communicate(timeout=PATIENCE_S)
        assert viewer.returncode == 0, out + err
    # The others may still be on their way out: each ended without ever serving.
    until(lambda: sum("lab_tui.engine.daemon" in command for command in lab.commands()) == 1, "one is left")
    assert (paths.logs_dir() / "engine.log").read_text().count(" serves on ") == 1
    lab.run("engine", "stop")


def test_a_socket_of_a_dead_engine_is_no_obstacle(lab: Lab) -> None:
    socket_file = paths.socket_path()
    socket_file.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_file))
    assert lab.json("engine", "status")["state"] == "stopped"
    lab.run("results")
    assert lab.json("engine", "status")["state"] == "running"
    lab.run("engine", "stop")


def test_a_fleet_outlives_its_engine_and_is_adopted(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1", "--ctx-per-slot", "8192")
    before = lab.status()
    with httpx.stream("POST", f"{lab.url}/completion", json=LONG, timeout=PATIENCE_S) as stream:
        lines = (line for line in stream.iter_lines() if line)
        next(lines)
        os.kill(lab.engine_pid(), signal.SIGKILL)
        until(lambda: lab.status() is None, "the engine is dead")
        assert urllib.request.urlopen(f"{lab.url}/health", timeout=PATIENCE_S).status == 200
        assert "may still serve" in lab.run("status").stderr
        lab.run("results")  # any command that needs an engine starts one
        *_, last = lines  # a client notices nothing of all this
        assert json.loads(last.removeprefix("data: "))["tokens_predicted"] == LONG["n_predict"]
    after = lab.status()
    assert [i["pid"] for i in after["instances"]] == [i["pid"] for i in before["instances"]]
    assert [i["state"] for i in after["instances"]] == ["ready", "ready"]
    assert after["front"]["pid"] == before["front"]["pid"]
    lab.run("doctor")  # what an engine looks after is nobody's orphan
    lab.run("engine", "stop", "--keep-fleet")
    assert urllib.request.urlopen(f"{lab.url}/health", timeout=PATIENCE_S).status == 200
    (paths.runtime_dir() / "fleet.json").unlink()  # so that no engine can take it over
    os.kill(before["front"]["pid"], signal.SIGKILL)  # its worker serves on
    doctor = lab.run("doctor", code=1).stdout
    assert "2 llama-server (pid " in doctor and "nginx (pid " in doctor
    assert "`lab-tui down --all` ends them" in doctor
    assert "ended 2 llama-server" in lab.run("down", "--all").stderr
    assert lab.processes() == []


def test_terminating_the_engine_stops_everything(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    engine = psutil.Process(lab.engine_pid())
    instance = psutil.Process(lab.status()["instances"][0]["pid"])
    instance.suspend()
    engine.terminate()
    until(lambda: "engine stops" in (paths.logs_dir() / "engine.log").read_text(), "it stops")
    engine.terminate()  # told again it waits for nothing
    until(lambda: lab.processes() == [], "everything has ended")
    assert "everything is killed" in (paths.logs_dir() / "engine.log").read_text()


def test_another_version_is_told_how_to_go_on(lab: Lab) -> None:
    lab.run("results")
    site = lab.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import lab_tui\nlab_tui.__version__ = '99.0.0'\n")
    path = f"{site}:{Path(lab_tui.__file__).parents[1]}"
    done = lab.run("status", code=1, PYTHONPATH=path)
    assert "the running engine is version" in done.stderr
    assert "engine stop --keep-fleet" in done.stderr
    doctor = lab.run("doctor", code=1, PYTHONPATH=path).stdout
    assert "● nginx" in doctor and "the running engine is version" in doctor
    lab.run("engine", "stop", PYTHONPATH=path)
    assert lab.processes() == []


def test_a_state_folder_that_cannot_be_written(lab: Lab) -> None:
    blocked = lab.home / "file"
    blocked.write_text("")
    done = lab.run("up", code=1, XDG_STATE_HOME=str(blocked))
    assert str(blocked) in done.stderr
    assert "XDG_STATE_HOME" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert lab.processes() == []


def test_wrong_settings_name_the_key(lab: Lab) -> None:
    file = paths.config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    for content, says in (
        ('[serve]\ninstances = "two"\n', "serve.instances: expected `int`"),
        ("[serve]\nnonsense = 1\n", "serve.nonsense: unknown key"),
        ("[serve]\ninstances = -4\n", "serve.instances: expected `int` >= 1"),
        ("[engine]\npoll_s = 0\n", "engine.poll_s: expected `float` >= 0.1"),
        ("[serve\n", "not TOML"),
        ("serve = 3\n", "serve: expected `object`"),
    ):
        file.write_text(content)
        done = lab.run("up", code=1)
        assert says in done.stderr
        assert str(file) in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert lab.processes() == []
