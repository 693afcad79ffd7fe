"""What the screen costs and how fast it is, over a real pseudo terminal with a real fleet behind it.

Starts an engine of its own with 16 small instances, loads them, and prints: the time to the first frame,
bytes and processor time a second at 80×24 and 200×50 under load and at rest, and how long a key takes
until the screen shows it while 1,024 streams run. Nothing of it touches the user's own lab.

The tiny model makes thousands of tokens a second, each of which wakes every HTTP thread of its server:
the hardest case for whoever waits for a processor. ``--model`` takes a real one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import select
import signal
import statistics
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from own_lab import lab_tui, own_lab

FOCUSED = "┏".encode()  # the corner that only the focused pane has
FIRST_FRAME = b"1 Instances"
SIZES = ((80, 24), (200, 50))
STREAMS = 1024
CURVE_S = max(columns for columns, _ in SIZES) // 2 + 10  # what the widest curve shows, a second a column


class Screen:
    """One ``lab-tui`` on a pseudo terminal of a certain size."""

    def __init__(self, env: dict[str, str], columns: int, rows: int) -> None:
        self.fd, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        self.began = time.monotonic()
        self.process = psutil.Popen(
            [sys.executable, "-m", "lab_tui"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def read_for(self, seconds: float, until: bytes = b"") -> tuple[int, float]:
        """Read until ``until`` comes or time is up: the bytes that came, and after how many seconds."""
        begun = time.monotonic()
        came, last = 0, b""
        while (left := begun + seconds - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                break
            piece = os.read(self.fd, 65536)
            came += len(piece)
            last = last[-len(until) :] + piece
            if until and until in last:
                break
        return came, time.monotonic() - begun

    def first_frame_s(self) -> float:
        """Seconds from the start to the first whole frame."""
        self.read_for(60, FIRST_FRAME)
        return time.monotonic() - self.began

    def cost(self, seconds: float) -> tuple[float, float]:
        """KiB a second, and per cent of one core."""
        before = sum(self.process.cpu_times()[:2])
        came, took = self.read_for(seconds)
        return came / took / 1024, 100 * (sum(self.process.cpu_times()[:2]) - before) / took

    def key_ms(self, presses: int) -> list[float]:
        """Milliseconds from a key to the screen that shows it: the focus goes from pane to pane."""
        found = []
        for press in range(presses):
            self.read_for(0.15)
            os.write(self.fd, b"21"[press % 2 : press % 2 + 1])
            found.append(self.read_for(5, FOCUSED)[1] * 1000)
        return found

    def close(self) -> None:
        """End it as a closed terminal does."""
        os.close(self.fd)
        self.process.wait(20)


@contextlib.contextmanager
def screen(env: dict[str, str], columns: int, rows: int) -> Iterator[Screen]:
    shown = Screen(env, columns, rows)
    try:
        yield shown
    finally:
        shown.close()


@contextlib.contextmanager
def load(env: dict[str, str], streams: int) -> Iterator[None]:
    """A running load of so many streams."""
    command = [sys.executable, "-m", "lab_tui", "bench", "-c", str(streams), "--seconds", "3600"]
    bench = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(5)
    try:
        yield
    finally:
        for _ in range(2):  # the first one closes the window, the second one does not wait for the result
            bench.send_signal(signal.SIGINT)
            time.sleep(0.5)
        bench.wait(60)


def report(env: dict[str, str], columns: int, rows: int, how: str, seconds: float) -> None:
    with screen(env, columns, rows) as shown:
        shown.read_for(5)
        kib, cpu = shown.cost(seconds)
    print(f"{columns}×{rows} {how:<9} {kib:5.2f} KiB/s  {cpu:4.1f} % of a core")


def report_keys(env: dict[str, str], presses: int, pinned: str) -> None:
    with screen(env, 80, 24) as shown, load(env, STREAMS):
        shown.read_for(5)  # what came while the load began
        times = sorted(shown.key_ms(presses))
    p95 = times[int(0.95 * (len(times) - 1))]
    figures = f"p50 {statistics.median(times):.0f} ms, p95 {p95:.0f} ms"
    print(f"key to screen    {figures}, {STREAMS} streams, {pinned.removeprefix('--')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--instances", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each look at the cost")
    parser.add_argument("--presses", type=int, default=40)
    parser.add_argument("--model", type=Path, help="a GGUF file; a tiny one of random weights without it")
    args = parser.parse_args()
    model = {"SERVE_MODEL": str(args.model.absolute())} if args.model else {}
    with own_lab(args.instances, **model) as env:
        lab_tui(env, "up", "-i", str(args.instances), "-p", "4", "--max-streams", str(STREAMS))
        up = time.monotonic()
        starts = []
        for _ in range(5):
            with screen(env, 80, 24) as shown:
                starts.append(shown.first_frame_s())
                shown.read_for(0.5)
        spread = f"{min(starts):.2f} to {max(starts):.2f}"
        print(f"first frame      {statistics.median(starts):.2f} s (of 5: {spread})")
        time.sleep(max(up + CURVE_S - time.monotonic(), 0))  # until its start has left every curve
        for columns, rows in SIZES:
            report(env, columns, rows, "at rest", args.seconds)
        for columns, rows in SIZES:
            with load(env, 64):
                report(env, columns, rows, "loaded", args.seconds)
        for pinned in ("--no-cpu-pin", "--cpu-pin"):
            lab_tui(env, "up", "-i", str(args.instances), "-p", "4", "--max-streams", str(STREAMS), pinned)
            report_keys(env, args.presses, pinned)


if __name__ == "__main__":
    main()
