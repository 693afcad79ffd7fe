"""The machine itself, or as much of it as we may use: processor and memory."""

from __future__ import annotations

import math
import os
import socket
import time

import psutil

from lab_tui.model import HostReading
from lab_tui.telemetry.cgroup import Limits

SHORTEST_S = 0.1  # over less than this a processor figure means nothing


class HostReader:
    """Reads the host. Never blocks; the processor figure is the mean since the reading before."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._name = socket.gethostname().split(".")[0]
        self._cpu_pct: float | None = None
        psutil.cpu_percent(percpu=True)  # what the first figure counts from
        limit = self._limits.cpu()
        self._used_s = limit[0] if limit else None
        self._before = time.monotonic()

    def read(self) -> HostReading:
        """The host now.

        ``cpu_pct`` is of the cores we may use (affinity, and a container's quota), and ``None`` in
        the first tenth of a second. Memory is the container's where it has a limit of its own.
        """
        cores = float(len(_cores()) or psutil.cpu_count() or 1)
        limit = self._limits.cpu()
        quota = limit[1] if limit and limit[1] < cores else None
        self._read_cpu(limit[0] if limit else None, quota)
        used, total = self._memory()
        return HostReading(
            name=self._name,
            cores=math.ceil(quota or cores),
            cpu_pct=self._cpu_pct,
            load1=_load1(),
            memory_used_bytes=used,
            memory_total_bytes=total,
        )

    def _read_cpu(self, used_s: float | None, quota: float | None) -> None:
        """``used_s`` of processor time, of ``quota`` cores, when there is a quota that binds."""
        now = time.monotonic()
        since = now - self._before
        if since < SHORTEST_S:
            return  # keep what was read a moment ago
        before_s, self._used_s, self._before = self._used_s, used_s, now
        every = psutil.cpu_percent(percpu=True)
        if quota and used_s is not None and before_s is not None:
            self._cpu_pct = min(100 * (used_s - before_s) / since / quota, 100.0)
            return
        ours = [every[core] for core in _cores() if core < len(every)] or every
        self._cpu_pct = sum(ours) / len(ours) if ours else None

    def _memory(self) -> tuple[int, int]:
        """Used and total bytes."""
        machine = psutil.virtual_memory()
        limited = self._limits.memory()
        if limited and limited[1] < machine.total:
            return limited
        return machine.total - machine.available, machine.total


def _cores() -> list[int]:
    """The cores this process may run on: in a container often a few of many. Empty: not told here."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return []


def _load1() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
