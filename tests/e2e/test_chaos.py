"""A short form of scripts/chaos.py: what is hit comes back, nothing measured is lost; and how it judges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import chaos
import pytest
import soak

from lab_tui.model import EngineInfo, SweepSpec, SweepView
from tests.ui.fake import FakeClient, snapshot, sweep_view


def test_it_keeps_serving_and_loses_nothing() -> None:
    script = Path(__file__).parents[2] / "scripts" / "chaos.py"
    command = [sys.executable, str(script), "--seconds", "8", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout
    assert "stopped" in done.stdout or "killed" in done.stdout


def test_an_error_is_excused_only_by_a_hit_on_what_it_was_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.time.monotonic", lambda: 100.0)
    streams = chaos.Streams("http://127.0.0.1:9", 0)
    streams.hits.append((":9001", 80.0, 90.0))
    assert streams._explained("127.0.0.1:9001", 90.5)
    assert not streams._explained("127.0.0.1:9001", 95.0)
    assert not streams._explained("127.0.0.1:9002", 85.0)
    assert not streams._explained("", 85.0)  # an instance has a name
    streams.hits.append((chaos.FRONT, 90.0, 90.0))
    assert streams._explained("", 95.0)


async def test_a_soak_ends_when_the_queue_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Paused(FakeClient):
        async def info(self) -> EngineInfo:
            return EngineInfo(pid=os.getpid(), version="0", uptime_s=1.0, socket="", log="")

        async def sweep(self, spec: SweepSpec) -> SweepView:
            return sweep_view()

    async def there() -> bool:
        return False

    state = snapshot(queue_paused=True, notices=("the queue is paused: disk full",))
    monkeypatch.setattr(soak, "ensure_engine", there)
    monkeypatch.setattr(soak, "EngineClient", lambda: Paused(state))
    for name in ("MODEL", "BASE_PORT", "FRONT_PORT"):
        monkeypatch.setenv(f"LAB_TUI_SERVE_{name}", "9000")
    assert await soak.soak(400) == ["the queue paused after 0 cells: the queue is paused: disk full"]
