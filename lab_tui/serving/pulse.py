"""Whether a process that serves is still alive to its clients: what tells a hung one from a busy one.

A busy server can be slow to say how it is (all of its HTTP threads taken, some builds not answering while
they decode), but it works: its processor time moves. A hung one neither answers nor works.
"""

from __future__ import annotations

import contextlib

import psutil

from lab_tui.model import Data
from lab_tui.serving.process import HALTED, Process, session_members

PULSE_S = 1.0  # between two looks
SILENT_S = 6.0  # without an answer and without work: hung
WORKS_FROM = 0.01  # of one processor; threads that wake up to look at a clock take less
GIVEN_UP_S = 60.0  # hung so long without having been stopped by somebody: it is started anew
STOPPED = "stopped by a signal or a debugger (`kill -CONT` lets it go on)"
SILENT = f"it neither answers nor works, for {SILENT_S:.0f} s and more"


class Look(Data, frozen=True, kw_only=True):
    """A process and its session, seen from outside."""

    halted: bool  # by SIGSTOP, by job control or by a debugger
    cpu_s: float  # processor time of all of them so far


def look_at(process: Process) -> Look:
    """What the system says of it. Blocks for a few milliseconds: call it in a thread."""
    halted, cpu_s = False, 0.0
    for pid in (process.pid, *(member.pid for member in session_members(process.pid))):
        with contextlib.suppress(psutil.Error):
            one = psutil.Process(pid)
            halted = halted or one.status() in HALTED
            times = one.cpu_times()
            cpu_s += times.user + times.system
    return Look(halted=halted, cpu_s=cpu_s)


class Pulse:
    """Judges one look after the other. Times are of the monotonic clock."""

    def __init__(self, now: float) -> None:
        self._hung_since: float | None = None
        self._sign_of_life = now  # an answer, or work
        self._before: tuple[float, float] | None = None  # of the last look without an answer: when, cpu_s

    def judge(self, now: float, look: Look | None) -> str:
        """Why it counts as hung, "" while it does not. ``look`` is None when it has answered."""
        if look is None:
            self._sign_of_life, self._before, self._hung_since = now, None, None
            return ""
        if self._before is not None:
            then, cpu_s = self._before
            if look.cpu_s - cpu_s > WORKS_FROM * (now - then):
                self._sign_of_life = now
        self._before = (now, look.cpu_s)
        if look.halted:
            self._hung_since = None  # somebody did that, and can undo it
            return STOPPED
        if now - self._sign_of_life < SILENT_S:
            self._hung_since = None
            return ""
        self._hung_since = now if self._hung_since is None else self._hung_since
        return SILENT

    def given_up(self, now: float) -> bool:
        """Whether it has hung for so long, by itself, that nothing more is to be hoped for."""
        return self._hung_since is not None and now - self._hung_since >= GIVEN_UP_S
