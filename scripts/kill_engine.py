"""Kills the engine at random moments of a sweep, and checks that nothing measured is lost.

Each time the next engine is told to go on. Every cell that was finished has to stay as it was, none may
be measured twice, and in the end all are there. Exits 1 when one of that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from typing import Any

import psutil
from own_lab import lab_tui, own_lab

AXES = ("--axis", "instances=1,2,4", "--axis", "parallel=1,2,4", "--axis", "concurrency=1,2,4,8")


def cells(env: dict[str, str]) -> list[dict[str, Any]]:
    document = json.loads(lab_tui(env, "results", "export", "1", "--format", "json"))
    found: list[dict[str, Any]] = document["cells"]
    return found


def finished(env: dict[str, str]) -> dict[int, dict[str, Any]]:
    return {at: cell for at, cell in enumerate(cells(env)) if cell["status"] == "measured"}


def kill(env: dict[str, str]) -> None:
    pid = json.loads(lab_tui(env, "engine", "status", "--json"))["pid"]
    os.kill(pid, signal.SIGKILL)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    luck = random.Random(args.seed)
    with own_lab(4) as env:
        lab_tui(env, "sweep", *AXES, "--strategy", "grid", "--no-confirm", "--seconds", "1", "--detach")
        before: dict[int, dict[str, Any]] = {}
        for time_ in range(args.times):
            time.sleep(luck.uniform(0.2, 6.0))
            kill(env)
            now = finished(env)  # starts the next engine, whose queue waits for a word
            changed = [at for at, cell in before.items() if now.get(at) != cell]
            print(f"kill {time_ + 1:>2}: {len(now)} cells measured, {len(changed)} of those before changed")
            if changed:
                raise SystemExit(f"cells {changed} are not what they were")
            before = now
            if len(now) < len(cells(env)):
                lab_tui(env, "queue", "resume")
        while json.loads(lab_tui(env, "status", "--json"))["queue"]:
            time.sleep(1)
        end = cells(env)
        print(f"in the end: {sum(cell['status'] == 'measured' for cell in end)} of {len(end)} cells measured")
        kept = all(end[at] == cell for at, cell in before.items())
        if not kept or any(cell["status"] != "measured" for cell in end):
            raise SystemExit("something measured was lost, or measured twice")


if __name__ == "__main__":
    main()
