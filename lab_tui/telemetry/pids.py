"""Process numbers: a driver counts them as the host does, we as our container does."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def _level(proc: Path) -> int:
    """How many process namespaces lie between /proc and this process: 0 as a rule."""
    return max(len(_numbers(proc / "self" / "status")) - 1, 0)


def as_we_number(pid: int, proc: Path = Path("/proc")) -> int:
    """The number this process knows ``pid`` by, which came from the driver.

    They differ in a container that sees its host's /proc: there ``NSpid`` lists a process's numbers
    from the outermost namespace inwards.
    """
    level = _level(proc)
    numbers = _numbers(proc / str(pid) / "status") if level else []
    return numbers[level] if level < len(numbers) else pid


def _numbers(status: Path) -> list[int]:
    """The ``NSpid`` line of a status file; empty where there is none."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return []
    return next(([int(n) for n in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])
