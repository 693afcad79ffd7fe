"""A machine with a driver of NVIDIA's that a test tells what to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Reads once for each line of its input, which is the time on the clock.
READER = """
import sys, msgspec
from lab_tui.telemetry.gpu import NvidiaReader
now = 0.0
reader = NvidiaReader(lambda: now)
for line in sys.stdin:
    now = float(line)
    gpus, reason = reader.read()
    row = {"gpus": gpus, "reason": reason, "vram": reader.processes}
    print(msgspec.json.encode(row).decode(), flush=True)
reader.close()
"""


class Driver:
    """A machine with the fake driver, and a process that reads its cards."""

    def __init__(self, library: Path, knobs: Path) -> None:
        self._knobs = knobs
        self.be()
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "DYLD_LIBRARY_PATH": str(library),
            "FAKE_NVML": str(knobs),
        }
        self._process: subprocess.Popen[str] | None = None

    def be(self, **knobs: int) -> None:
        """Change what the driver says from now on."""
        self._knobs.write_text("".join(f"{word} {number}\n" for word, number in knobs.items()))

    def read(self, at: float = 0.0) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", READER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{at}\n")
        self._process.stdin.flush()
        row: dict[str, Any] = json.loads(self._process.stdout.readline())
        return row

    def gone(self) -> int | None:
        """End the reader; its exit code."""
        if self._process is None:
            return None
        self._process.communicate(timeout=10)
        return self._process.returncode
