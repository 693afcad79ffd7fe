"""A lab of its own for each test: a home, free ports, and nothing left when it is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lab_tui import paths
from tests.ports import free_ports

# Instances stand back behind whatever else runs, such as the other tests: what takes them a second takes
# minutes then. The whole test has 300 s.
TIMEOUT_S = 240.0  # of one command
PATIENCE_S = 150.0  # of what is waited for
AS_FROM_A_TERMINAL = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Lab:
    """The command line of one user on one machine."""

    def __init__(self, home: Path, model: Path) -> None:
        self.home = home
        self.model = str(model)
        self.base_port = free_ports(9)  # of eight instances at most, then the front's
        self.front_port = self.base_port + 8
        self.env = {
            **os.environ,
            "LAB_TUI_SERVE_MODEL": self.model,
            "LAB_TUI_SERVE_BASE_PORT": str(self.base_port),
            "LAB_TUI_SERVE_FRONT_PORT": str(self.front_port),
            "LAB_TUI_ENGINE_CALIBRATE": "false",  # half a minute, in each new home
            # Several threads wait for each other many times a token: beside other tests, which instances
            # stand back behind, that took seconds for each.
            "LAB_TUI_SERVE_ARGS": "--threads 1",
        }
        self.url = f"http://127.0.0.1:{self.front_port}"
        self._sessions: set[int] = set()

    def command(self, *args: str) -> list[str]:
        """The command line of ``lab-tui ARGS``."""
        return [sys.executable, "-m", "lab_tui", *args]

    def run(self, *args: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """``lab-tui ARGS`` to its end; ``code`` is the exit code it must have."""
        done = subprocess.run(
            self.command(*args),
            env=self.env | env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *args: str) -> Any:
        """What ``lab-tui ARGS --json`` prints."""
        return json.loads(self.run(*args, "--json").stdout)

    def status(self) -> Any:
        """As ``status --json`` prints it, asked of the engine itself: quick, for waiting; None without."""
        transport = httpx.HTTPTransport(uds=str(paths.socket_path()))
        with httpx.Client(transport=transport, base_url="http://lab", timeout=30) as http:
            try:
                return http.get("/status").json()
            except httpx.TransportError:
                return None

    def start(self, *args: str) -> subprocess.Popen[str]:
        """``lab-tui ARGS`` in the background, with the signals of a terminal.

        Whoever runs the tests may have INT and HUP ignored, and that would be inherited.
        """
        return subprocess.Popen(
            [sys.executable, "-c", AS_FROM_A_TERMINAL, *self.command(*args)],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in this home, by its environment, its command line or its session.

        nginx writes its title over its environment, and a worker's title says nothing.
        """
        every = [p for p in psutil.process_iter() if p.pid != os.getpid()]
        ours = {p.pid for p in every if self._is_ours(p)}
        self._sessions |= ours  # workers outlive a master that was killed
        return [p for p in every if p.pid in ours or (_session(p) in self._sessions and _runs(p))]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get("HOME") == str(self.home) or any(
                f"{self.home}/" in word for word in process.cmdline()
            )
        except psutil.Error:
            return False

    def commands(self) -> list[list[str]]:
        """The command lines of all of them."""
        found = []
        for process in self.processes():
            try:
                found.append(process.cmdline())
            except psutil.Error:  # ended meanwhile
                continue
        return found

    def engine_pid(self) -> int:
        """Pid of the running engine."""
        return int(self.status()["engine"]["pid"])


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return -1


def until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Wait for ``condition`` to be true; its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s")


def states(lab: Lab) -> list[str]:
    """What its instances are, in their order. A screen and the engine are not of one moment: wait for it."""
    return [i["state"] for i in lab.status()["instances"]]


@pytest.fixture
def lab(home: Path, tiny_model: Path) -> Iterator[Lab]:
    """A lab that leaves nothing running, however the test ended."""
    lab = Lab(home, tiny_model)
    yield lab
    until(lambda: not _killed(lab.processes()), "the lab is empty")


def _killed(processes: list[psutil.Process]) -> int:
    """Kill these; how many there were. An engine among them may have started another one meanwhile."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, 1)
    return len(processes)
