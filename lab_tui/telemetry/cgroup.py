"""What a container or a systemd slice leaves of the machine: Linux control groups, version 2.

Inside a container /proc tells of the whole host, so a box of 64 cores looks idle while its two are
busy. Where version 1 is still in use, and on other systems, nothing is limited as far as we know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


class Limits:
    """The tightest limits on this process, found once; their use is read anew each time."""

    def __init__(self, root: Path = ROOT, own: Path = OWN) -> None:
        groups = _groups(root, own)
        self._memory = _tightest(groups, _memory_limit)
        self._cpu = _tightest(groups, _cpu_limit)

    def memory(self) -> tuple[int, int] | None:
        """Bytes used and allowed; ``None`` without a limit. Files cached by the kernel do not count."""
        if self._memory is None:
            return None
        allowed, group = self._memory
        used = _number(group / "memory.current")
        if used is None:
            return None
        cached = _entry(group / "memory.stat", "inactive_file") or 0
        return max(used - cached, 0), int(allowed)

    def memory_available(self) -> int | None:
        """Bytes that can still be had; ``None`` without a limit. All files cached could be given up."""
        if self._memory is None:
            return None
        allowed, group = self._memory
        used = _number(group / "memory.current")
        if used is None:
            return None
        files = sum(_entry(group / "memory.stat", name) or 0 for name in ("active_file", "inactive_file"))
        return int(allowed) - max(used - files, 0)

    def cpu(self) -> tuple[float, float] | None:
        """Seconds of processor time used so far, and cores allowed; ``None`` without a limit."""
        if self._cpu is None:
            return None
        cores, group = self._cpu
        used = _entry(group / "cpu.stat", "usage_usec")
        return None if used is None else (used / 1e6, cores)


def _groups(root: Path, own: Path) -> list[Path]:
    """The folders of our group and of all groups around it."""
    line = next((line for line in _text(own).splitlines() if line.startswith("0::/")), None)
    if line is None:
        return []
    group = root / line.removeprefix("0::/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]


def _tightest(groups: list[Path], limit: Callable[[Path], float | None]) -> tuple[float, Path] | None:
    found = [(value, group) for group in groups if (value := limit(group)) is not None]
    return min(found, default=None)


def _memory_limit(group: Path) -> float | None:
    return _number(group / "memory.max")


def _cpu_limit(group: Path) -> float | None:
    """Cores: ``cpu.max`` holds microseconds allowed in a period, and the period."""
    words = _text(group / "cpu.max").split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or words[1] == "0":
        return None  # "max 100000"
    return int(words[0]) / int(words[1])


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _entry(file: Path, name: str) -> int | None:
    """The number behind ``name`` in a file of such lines."""
    for line in _text(file).splitlines():
        word, _, number = line.partition(" ")
        if word == name and number.isdigit():
            return int(number)
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
