"""The graphics of a Mac: ``ioreg`` tells utilisation and memory, ``macmon`` (where installed) the rest.

Neither needs root. Power, clock and temperature have no public interface; macmon knows the private one.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any
from xml.parsers.expat import ExpatError

import msgspec
import psutil

from lab_tui.model import GpuReading
from lab_tui.telemetry.gpu.reader import REOPEN_S, SLOW_S, Fields, Lost, Processes, Row

IOREG = ("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator", "-a")
IOREG_S = 5.0  # it takes some 20 ms
STALE_S = 10.0  # what macmon said so long ago holds no more
UNIFIED = "unified: all of it is the system's memory"
NOT_TOLD = "macOS does not tell it"


class AppleReader:
    """Reads the graphics of this Mac, in which there is one as a rule."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._macmon = _Macmon(clock)
        self._rows: list[Row] = []

    def read(self, slow_s: float = SLOW_S) -> tuple[tuple[GpuReading, ...], str]:
        """What is there, and why there is nothing ("" when there is something)."""
        now = self._clock()
        found, reason = _ioreg()
        for entry in found[len(self._rows) :]:
            self._rows.append(Row(len(self._rows), _name(entry), "", "Apple"))
        if not self._rows:
            return (), reason or "macOS lists no graphics"
        self._macmon.read(now)
        readings = []
        for place, row in enumerate(self._rows):
            try:
                source = _Card(found[place] if place < len(found) else None, self._macmon)
                readings.append(row.read(now, slow_s, source))
            except Lost as lost:
                readings.append(row.unread(reason or str(lost)))
        return tuple(readings), ""

    @property
    def processes(self) -> Processes:
        """Nothing: macOS does not tell it by process."""
        return {}

    def close(self) -> None:
        """End macmon."""
        self._macmon.close()


class _Card:
    """One entry of ioreg, and what macmon says."""

    def __init__(self, entry: dict[str, Any] | None, macmon: _Macmon) -> None:
        self._entry, self._macmon = entry, macmon

    def fast(self) -> Fields:
        """Utilisation, memory and power. Raises Lost."""
        if self._entry is None:
            raise Lost("the card is lost")
        told, fields = self._entry["PerformanceStatistics"], Fields()
        used = told.get("Device Utilization %")
        fields.put("util_pct", None if used is None else float(used), NOT_TOLD)
        fields.put("memory_used_bytes", told.get("In use system memory"), NOT_TOLD)
        fields.put("memory_total_bytes", psutil.virtual_memory().total, NOT_TOLD)
        fields.put("power_w", self._macmon.figure("gpu_power"), self._macmon.reason)
        fields.missing |= {"memory": UNIFIED, "energy_j": NOT_TOLD, "throttle": NOT_TOLD}
        return fields

    def slow(self) -> Fields:
        """Temperature and clock."""
        fields = Fields()
        fields.put("temperature_c", self._macmon.figure("temp", "gpu_temp_avg"), self._macmon.reason)
        fields.put("clock_mhz", self._macmon.figure("gpu_usage", 0), self._macmon.reason)
        names = ("power_cap_w", "clock_max_mhz", "memory_clock_mhz", "fan_pct", "processes")
        fields.missing |= dict.fromkeys(names, NOT_TOLD)
        return fields


class _Macmon:
    """``macmon pipe``: a child that writes a line of JSON a second. It ends when nobody reads it any more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.reason = "macmon is not installed (`brew install macmon`)"
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._start_again = clock()
        self._rest = b""
        self._latest: dict[str, Any] = {}
        self._latest_at = clock()

    def read(self, now: float) -> None:
        """Take what it wrote meanwhile; start it where it does not run."""
        if self._process is None and now >= self._start_again:
            self._start_again = now + REOPEN_S
            self._start()
        if self._process is None or self._process.stdout is None:
            return
        try:
            written = os.read(self._process.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            if now - self._latest_at > STALE_S:
                self._latest, self.reason = {}, f"macmon has not answered for {now - self._latest_at:.0f} s"
            return
        if written:
            self._take(written, now)
        else:
            self.close()
            self.reason = "macmon ended"

    def _take(self, written: bytes, now: float) -> None:
        """Keep the last whole line."""
        *lines, self._rest = (self._rest + written).split(b"\n")
        for line in lines[-1:]:
            self._latest_at = now
            try:
                self._latest = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError:
                self._latest, self.reason = {}, "macmon says what is not understood here"

    def figure(self, *path: str | int) -> float | None:
        """The number at ``path`` of the last line."""
        value: Any = self._latest
        for step in path:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return None
        return float(value) if isinstance(value, int | float) else None

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._latest, self._rest = None, {}, b""

    def _start(self) -> None:
        program = shutil.which("macmon")
        if program is None:
            return
        self._process = subprocess.Popen(
            [program, "pipe", "-i", "1000"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self.reason, self._latest_at = "macmon has not answered yet", self._clock()


def _ioreg() -> tuple[list[dict[str, Any]], str]:
    """The accelerators that tell how busy they are, and why none could be asked."""
    try:
        told = subprocess.run(IOREG, stdin=subprocess.DEVNULL, capture_output=True, timeout=IOREG_S)
        entries = plistlib.loads(told.stdout) if told.stdout.strip() else []
    except (OSError, subprocess.TimeoutExpired, plistlib.InvalidFileException, ExpatError) as error:
        return [], f"ioreg: {error}"
    return [entry for entry in entries if "PerformanceStatistics" in entry], ""


def _name(entry: dict[str, Any]) -> str:
    model = entry.get("model", "Apple GPU")  # on Macs with Intel's processors it is data
    return model.decode(errors="replace").rstrip("\0") if isinstance(model, bytes) else str(model)
