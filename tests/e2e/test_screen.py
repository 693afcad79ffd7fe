"""The screen on a real terminal: tmux, the real engine, real instances."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import PATIENCE_S, Lab, states, until


class Terminal:
    """A tmux server of its own with one window that runs the screen."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._opened = 0

    def tmux(self, *args: str) -> str:
        """One tmux command; what it prints."""
        return subprocess.run(
            ["tmux", "-S", str(self._lab.home / f"tmux-{self._opened}"), "-f", "/dev/null", *args],
            env=self._lab.env | {"TERM": "xterm-256color"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout

    def open(self, width: int, height: int, *args: str) -> None:
        """Run ``lab-tui ARGS`` in a window of this size; the window stays when it ends."""
        command = shlex.join(self._lab.command(*args))
        self.tmux("kill-server")
        self._opened += 1  # a server of its own: the one before may still be about to end
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), f"{command}; echo EXIT=$?; cat")

    def text(self) -> str:
        """What the window shows."""
        return self.tmux("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", *keys)

    def shows(self, pattern: str, timeout_s: float = PATIENCE_S) -> str:
        """Wait until the window shows ``pattern``; the whole of it then."""

        def found() -> str:
            text = self.text()
            return text if re.search(pattern, text) else ""

        try:
            return str(until(found, pattern, timeout_s))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}\n{self.state()}") from None

    def state(self) -> str:
        """What is worth knowing of a window that does not show what it should."""
        pane = self.tmux(
            "display-message", "-p", "#{pane_width}x#{pane_height} #{pane_tty} dead=#{pane_dead}"
        )
        with Path(pane.split()[1]).open() as tty:
            columns, rows = os.get_terminal_size(tty.fileno())
        given = {k: v for k, v in psutil.Process(self.pid()).environ().items() if k in ("COLUMNS", "LINES")}
        return f"pane {pane.strip()}, its terminal says {columns}x{rows}, its environment {given}"

    def pid(self) -> int:
        """The process of the screen."""
        shell = psutil.Process(int(self.tmux("display-message", "-p", "#{pane_pid}")))
        screens = [p for p in shell.children(recursive=True) if "lab_tui" in p.cmdline()]
        return screens[0].pid


@pytest.fixture
def terminal(lab: Lab) -> Iterator[Terminal]:
    terminal = Terminal(lab)
    yield terminal
    terminal.tmux("kill-server")


def ready(count: int) -> str:
    return f"ready {count}/2"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_start_stop_sweep_detach_attach(lab: Lab, terminal: Terminal, width: int, height: int) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    terminal.open(width, height)
    terminal.shows(ready(2))
    text = terminal.shows("5 Log 0")
    for pane in ("1 Instances", "2 Throughput", "3 GPU", "4 Sweep queue"):
        assert pane in text
    assert all(len(line) <= width for line in text.splitlines())
    terminal.shows(rf"● ready +{lab.base_port}\b")
    terminal.shows("N/A")  # no GPU on machines that run tests, or MIG: the reason stands beside it

    terminal.keys("x")  # the first instance is selected; it asks, Cancel has the focus
    terminal.shows("Cancel")
    terminal.keys("Tab", "Enter")
    terminal.shows(ready(1))  # said when it begins to stop
    until(lambda: states(lab) == ["stopped", "ready"], "it has stopped")
    terminal.shows(rf"○ stopped +{lab.base_port}\b")
    terminal.keys("s")
    terminal.shows(ready(2))

    lab.run("sweep", "--axis", "instances=1", "--axis", "parallel=1", "--axis", "concurrency=1,2",
            "--seconds", "3", "--detach")  # fmt: skip
    terminal.shows("custom")
    terminal.keys("q")  # something runs, so it asks; detach is the default
    terminal.shows("(?i)stop everything")
    terminal.keys("Enter")
    terminal.shows("EXIT=0")
    terminal.open(width, height)
    terminal.shows(r"✔ done +#1 custom.*2/2")
    terminal.shows(r"best 1×1 c=\d")
    terminal.shows(ready(2))  # the fleet of before is back


def test_a_sweep_from_the_form(lab: Lab, terminal: Terminal) -> None:
    lab.run("up", "-i", "1", "-p", "1")
    terminal.open(100, 30)
    terminal.shows("ready 1/1")
    terminal.keys("n")
    terminal.shows("New sweep")
    terminal.shows("12 cells")
    terminal.keys("C-s")
    until(lambda: lab.status()["sweep"], "the sweep runs")
    terminal.shows(r"quick")
    sweep = lab.status()["sweep"]["id"]
    lab.run("queue", "remove", str(sweep))
    terminal.shows("aborted|✖|■")


def test_resize_while_it_runs(lab: Lab, terminal: Terminal) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    terminal.open(120, 40)
    terminal.shows(ready(2))
    for width, height in ((40, 10), (200, 50), (80, 24)):
        terminal.tmux("resize-window", "-x", str(width), "-y", str(height))
        text = terminal.shows("Instances")
        assert all(len(line) <= width for line in text.splitlines())
    terminal.shows(ready(2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_screen_and_nothing_else(
    lab: Lab, terminal: Terminal, number: signal.Signals
) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    terminal.open(100, 30)
    terminal.shows(ready(2))
    os.kill(terminal.pid(), number)
    text = terminal.shows("EXIT=")
    assert "Instances" not in text  # the terminal is as it was
    assert states(lab) == ["ready", "ready"]


def test_a_killed_terminal_ends_only_the_screen(lab: Lab, terminal: Terminal) -> None:
    lab.run("up", "-i", "2", "-p", "1")
    terminal.open(100, 30)
    terminal.shows(ready(2))
    screen = psutil.Process(terminal.pid())
    terminal.tmux("kill-server")
    until(lambda: not screen.is_running() or screen.status() == psutil.STATUS_ZOMBIE, "the screen has ended")
    assert states(lab) == ["ready", "ready"]


def test_a_first_start_starts_an_engine_and_says_what_to_do(lab: Lab, terminal: Terminal) -> None:
    terminal.open(100, 30)
    terminal.shows("(?i)no fleet")
    assert lab.status()["instances"] == []
    terminal.keys("q")
    terminal.shows("EXIT=0")
    lab.run("engine", "stop")


def test_without_a_terminal_it_says_so(lab: Lab) -> None:
    done = lab.run(code=1)
    assert "needs a terminal" in done.stderr
    assert Path(lab.home).exists()
    assert lab.processes() == []


def test_the_demo_moves(lab: Lab, terminal: Terminal) -> None:
    terminal.open(120, 40, "--demo")
    terminal.shows(r"quick.*\d+/12")
    until(lambda: lab.status()["instances"], "its fleet starts")
