"""A short form of scripts/chaos.py: whatever is hit comes back, and nothing measured is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_it_keeps_serving_and_loses_nothing() -> None:
    script = Path(__file__).parents[2] / "scripts" / "chaos.py"
    command = [sys.executable, str(script), "--seconds", "8", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout
    assert "stopped" in done.stdout or "killed" in done.stdout
