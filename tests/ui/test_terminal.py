"""The screen on a real pseudo terminal: it starts, and gives the terminal back however it ends."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab_tui.ui.terminal import MOUSE_OFF, MOUSE_ON

ROOT = Path(__file__).parents[2]
ALTERNATE, RESTORED = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A child on a pseudo terminal, and what it wrote."""

    def __init__(self, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            termios.tcsetwinsize(0, (24, 80))
            os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | env
            os.execv(sys.executable, [sys.executable, "-m", "tests.ui.screen_of_a_fake"])
        self.written = b""

    def read_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.written[-2000:]
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.written += os.read(self.fd, 65536)
                except OSError:  # Linux says so when the child is gone
                    break

    def shows(self, text: str) -> None:
        self.read_until(lambda: text.encode() in self.written)

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def code(self) -> int:
        """Wait for the end and give the exit code."""
        self.read_until(lambda: False)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    held = Terminal()
    yield held
    os.close(held.fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(terminal: Terminal, number: signal.Signals) -> None:
    terminal.shows("412.7")
    assert ALTERNATE in terminal.written
    os.kill(terminal.pid, number)
    assert terminal.code() == 0, terminal.written[-3000:].decode(errors="replace")
    assert RESTORED in terminal.written


@pytest.mark.parametrize("keys", [b"\x11", b"q\r"])
def test_keys_leave(terminal: Terminal, keys: bytes) -> None:
    terminal.shows("412.7")
    for key in keys:
        os.write(terminal.fd, bytes([key]))
        if key == ord("q"):
            terminal.shows("Detach, all goes on")
    assert terminal.code() == 0, terminal.written[-3000:].decode(errors="replace")
    assert RESTORED in terminal.written


def test_the_mouse_is_let_go_of_and_taken_again(terminal: Terminal) -> None:
    terminal.shows("412.7")
    assert MOUSE_OFF.encode() not in terminal.written
    terminal.press("m")
    terminal.shows(MOUSE_OFF)
    terminal.shows("mouse off")
    terminal.press("m")
    terminal.shows(MOUSE_ON)
    terminal.press("\x11")
    assert terminal.code() == 0
    assert terminal.written.rindex(b"?1003l") > terminal.written.rindex(b"?1003h")


def test_ascii_without_mouse_and_colour_where_that_is_asked_for() -> None:
    held = Terminal(
        LAB_TUI_UI_MOUSE="false", LAB_TUI_UI_ASCII="true",
        NO_COLOR="1", COLORTERM="truecolor", LAB_TUI_UI_THEME="nord",
    )  # fmt: skip
    held.shows("412.7")
    assert held.written.rindex(b"?1003l") > held.written.rindex(b"?1003h")
    held.press("?")
    held.shows("Instances")
    held.press("\x11")
    assert held.code() == 0
    assert held.written.isascii(), held.written
    codes = {code for found in re.findall(rb"\x1b\[([\d;]*)m", held.written) for code in found.split(b";")}
    assert codes <= {b"", b"0", b"1", b"2", b"3", b"4", b"7", b"39", b"49"}, codes
    os.close(held.fd)


@contextmanager
def unsignalled() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A screen whose terminal is not its controlling one, so that no signal comes from it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    env = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    env |= {"COLUMNS": "80", "LINES": "24"}  # as a shell exports them; the terminal knows better
    screen = subprocess.Popen(
        [sys.executable, "-m", "tests.ui.screen_of_a_fake"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield ours, screen
    finally:
        screen.kill()
        screen.wait()


def read_until(terminal: int, text: bytes) -> bytes:
    """What comes from the terminal, up to and with ``text``; the test's timeout is the limit."""
    written = b""
    while text not in written:
        written += os.read(terminal, 4096)
    return written


def test_a_terminal_that_hangs_up_unread_ends_it() -> None:
    """Nobody reads, no signal comes, and then the terminal is gone."""
    with unsignalled() as (ours, screen):
        read_until(ours, ALTERNATE)
        time.sleep(2.0)  # its output fills the terminal meanwhile
        os.close(ours)
        assert screen.wait(60) in (0, 129)


def test_a_resize_that_nobody_told_is_noticed() -> None:
    with unsignalled() as (ours, _):
        read_until(ours, b"412.7")
        termios.tcsetwinsize(ours, (50, 120))
        read_until(ours, b"\x1b[50;1H")  # its last line is drawn
        os.close(ours)
