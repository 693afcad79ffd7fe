"""The end of the screen, however it comes: asked by a signal, or its terminal gone.

A terminal that hangs up can leave the main thread waiting for ever on output that nobody takes, where
no callback of the loop runs any more, and the input thread spinning on an end of file. So signals are
taken by plain handlers, a thread watches the terminal, and what has not ended in time is ended.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

PATIENCE_S = 1.0  # for an orderly end: the terminal restored, the engine's stream closed
FORCED = 129  # the exit code a shell shows for a hang-up


def leave_when_told(loop: asyncio.AbstractEventLoop, leave: Callable[[], object]) -> None:
    """Call ``leave`` in the loop on SIGTERM, SIGHUP and a hang-up of the terminal.

    The process ends at the latest PATIENCE_S after that.
    """

    def told(*_: object) -> None:
        threading.Thread(target=_force, name="forced end", daemon=True).start()
        loop.call_soon_threadsafe(leave)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told)
    threading.Thread(target=_watch, args=(told,), name="terminal watch", daemon=True).start()


def _watch(told: Callable[[], None]) -> None:
    """Wait for the terminal to hang up. Asking for no event wakes the poll for that alone."""
    poll = select.poll()
    poll.register(sys.__stdin__.fileno() if sys.__stdin__ else 0, 0)
    poll.poll()
    # What is still to be written goes nowhere: Python would try once more at its end, and fail with 120.
    null = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(null, output)
    os.close(null)
    told()


def _force() -> None:
    time.sleep(PATIENCE_S)
    os._exit(FORCED)
