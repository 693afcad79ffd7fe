"""The machine itself."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from lab_tui.telemetry.cgroup import Limits
from lab_tui.telemetry.host import HostReader


def test_reads_without_blocking_and_without_a_made_up_first_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    # Whoever sleeps, as psutil does for a processor figure over an interval, finds that there is no sleep.
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", None)
    reader = HostReader()
    assert reader.read().cpu_pct is None
    now += 0.15
    host = reader.read()
    assert host.cpu_pct is not None
    assert 0 <= host.cpu_pct <= 100
    now += 0.05
    assert reader.read().cpu_pct == host.cpu_pct  # too soon for a new one
    assert socket.gethostname().startswith(host.name)
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert host.memory_used_bytes is not None
    assert host.memory_total_bytes is not None
    assert 0 < host.memory_used_bytes < host.memory_total_bytes


def group(root: Path, name: str, **files: str) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("_", ".", 1)).write_text(text)


def limits(tmp_path: Path) -> Limits:
    """A slice with limits around a service that has wider ones."""
    (tmp_path / "own").write_text("1:name=x:/\n0::/lab.slice/engine\n")
    group(tmp_path / "fs", "lab.slice", memory_max="2000000000\n", memory_current="900000000\n")
    group(tmp_path / "fs", "lab.slice", memory_stat="anon 5\ninactive_file 400000000\n")
    group(tmp_path / "fs", "lab.slice", cpu_max="50000 100000\n", cpu_stat="usage_usec 1000000\n")
    group(tmp_path / "fs", "lab.slice/engine", memory_max="max\n", cpu_max="max 100000\n")
    return Limits(tmp_path / "fs", tmp_path / "own")


def test_limits_of_a_container_count_and_not_the_whole_host(tmp_path: Path) -> None:
    found = limits(tmp_path)
    assert found.memory() == (500_000_000, 2_000_000_000)
    assert found.cpu() == (1.0, 0.5)
    reader = HostReader(found)
    time.sleep(0.2)
    group(tmp_path / "fs", "lab.slice", cpu_stat="usage_usec 1050000\n")  # 0.05 s in 0.2 s of half a core
    host = reader.read()
    assert host.cores == 1
    assert host.cpu_pct is not None
    assert 0 < host.cpu_pct < 51
    assert (host.memory_used_bytes, host.memory_total_bytes) == (500_000_000, 2_000_000_000)


def test_no_limits(tmp_path: Path) -> None:
    nowhere = Limits(tmp_path / "fs", tmp_path / "own")
    assert (nowhere.memory(), nowhere.cpu()) == (None, None)
    (tmp_path / "own").write_text("0::/\n")
    group(tmp_path / "fs", ".", memory_max="max\n", cpu_max="max 100000\n")
    unlimited = Limits(tmp_path / "fs", tmp_path / "own")
    assert (unlimited.memory(), unlimited.cpu()) == (None, None)
