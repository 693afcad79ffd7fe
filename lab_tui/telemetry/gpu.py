"""NVIDIA cards through NVML. Every field is optional: what cannot be read says why (facts of NVML).

Readers of other makers stand beside this one: the poller takes any number of ``CardReader``.
All calls may block (NVML's start takes seconds without persistence mode): use a thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil

from lab_tui.model import GpuReading
from lab_tui.telemetry.pids import as_we_number

SLOW_S = 5.0  # how old power, temperature and processes may be: asking disturbs the workload
REOPEN_S = 30.0  # how often a driver or a card that is gone is looked for


class CardReader(Protocol):
    """What reads the cards of one maker. Called by one thread only."""

    def read(self) -> tuple[tuple[GpuReading, ...], str]:
        """The cards now, and why there is none ("" when there is one)."""

    @property
    def vram_by_pid(self) -> Mapping[int, int]:
        """Bytes of card memory by process, numbered as this process numbers them."""

    def close(self) -> None:
        """Let the driver go."""


class GpuReader:
    """Reads all NVIDIA cards. A card that is lost keeps its row; a driver that comes back is seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = False
        self._cards: dict[str, _Card] = {}  # by uuid, in the order first seen
        self._reason = ""
        self._look_again = 0.0

    def read(self) -> tuple[tuple[GpuReading, ...], str]:
        """The cards by index, and why there is none ("" when there is one)."""
        now = self._clock()
        whole = self._open and all(card.handle is not None for card in self._cards.values())
        if not whole and now >= self._look_again:
            self._look_again = now + REOPEN_S
            self._reopen()
        readings = [card.read(now, self._reason) for card in self._cards.values()]
        return tuple(sorted(readings, key=lambda reading: reading.index)), "" if readings else self._reason

    @property
    def vram_by_pid(self) -> Mapping[int, int]:
        """Bytes of card memory by process, over all cards; a process nobody tells of is not in it."""
        total: dict[int, int] = {}
        for card in self._cards.values():
            for pid, size in card.processes.items():
                total[pid] = total.get(pid, 0) + size
        return total

    def close(self) -> None:
        """Let the driver go. ``read`` would start it again."""
        if self._open:
            self._open = False
            nvml = _nvml()
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # it was gone already

    def _reopen(self) -> None:
        """Start NVML anew and find the cards; cards that were seen before and are not there are lost."""
        self.close()
        for card in self._cards.values():
            card.handle = None
        try:
            nvml = _nvml()
        except (ImportError, AttributeError) as error:
            self._reason = f"nvidia-ml-py is missing or shadowed by another pynvml ({error})"
            return
        try:
            nvml.nvmlInit()
            self._open = True  # so that it is closed again, whatever comes
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._reason = _no_driver(nvml, error)
            return
        self._reason = "" if count else "the NVIDIA driver sees no card"
        for index in range(count):
            self._find(nvml, index)

    def _find(self, nvml: Any, index: int) -> None:
        """Put the card at NVML's ``index`` into its row, a new one if it was never seen."""
        taken = {card.index for card in self._cards.values()}
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _ask(nvml, "", nvml.nvmlDeviceGetUUID, handle)
            name = _ask(nvml, "NVIDIA card", nvml.nvmlDeviceGetName, handle)
        except nvml.NVMLError as error:
            if index not in taken:
                self._cards[f"unknown {index}"] = _Card(index, "unknown", "", None, _why(nvml, error))
            return
        known = self._cards.get(uuid or f"index {index}")
        if known is not None:
            known.handle = handle
            return
        if self._cards.pop(f"unknown {index}", None) is not None:
            taken.discard(index)
        # Numbers of cards behind a lost one move up; a row keeps the number it had.
        free = index if index not in taken else max(taken) + 1
        self._cards[uuid or f"index {index}"] = _Card(free, name, uuid, handle, "")


class _Card:
    """One card, and what was last read of its slow fields."""

    def __init__(self, index: int, name: str, uuid: str, handle: Any | None, lost: str) -> None:
        self.index = index
        self.handle = handle  # None while the card is lost
        self.processes: dict[int, int] = {}
        self._name, self._uuid, self._lost = name, uuid, lost or "the card is lost"
        self._slow: dict[str, float | None] = {}
        self._slow_missing: dict[str, str] = {}
        self._slow_at = -SLOW_S
        self._mig = False

    def read(self, now: float, driver_gone: str) -> GpuReading:
        """The card now; with ``driver_gone``, or once it is lost, a row that says so."""
        if self.handle is not None:
            nvml = _nvml()
            try:
                return self._ask_all(nvml, now)
            except nvml.NVMLError as error:
                self.handle = None
                self._lost = _why(nvml, error)
        self.processes = {}
        self._slow_at = -SLOW_S
        reason = driver_gone or self._lost
        fields = (
            "util_pct",
            "memory_used_bytes",
            "memory_total_bytes",
            "power_w",
            "power_cap_w",
            "temperature_c",
        )
        return GpuReading(
            index=self.index, name=self._name, uuid=self._uuid, missing=dict.fromkeys(fields, reason)
        )

    def _ask_all(self, nvml: Any, now: float) -> GpuReading:
        """Raises NVMLError when the card is lost."""
        if now - self._slow_at >= SLOW_S:
            self._ask_slow(nvml)
            self._slow_at = now
        asked = _Asked(nvml, self.handle, self._mig)
        utilisation = asked("util_pct", nvml.nvmlDeviceGetUtilizationRates)
        used, total = self._memory(asked)
        return GpuReading(
            index=self.index,
            name=self._name,
            uuid=self._uuid,
            util_pct=None if utilisation is None else float(utilisation.gpu),
            memory_used_bytes=used,
            memory_total_bytes=total,
            **self._slow,
            missing=asked.missing | self._slow_missing,
        )

    def _ask_slow(self, nvml: Any) -> None:
        mode = _ask(nvml, (0, 0), nvml.nvmlDeviceGetMigMode, self.handle)
        self._mig = bool(mode[0])
        asked = _Asked(nvml, self.handle, self._mig)
        power = asked("power_w", nvml.nvmlDeviceGetPowerUsage)
        cap = asked("power_cap_w", nvml.nvmlDeviceGetEnforcedPowerLimit)
        temperature = asked("temperature_c", nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        self._slow = {
            "power_w": None if power is None else power / 1000,
            "power_cap_w": None if cap is None else cap / 1000,
            "temperature_c": None if temperature is None else float(temperature),
        }
        self._slow_missing = asked.missing
        self.processes = _processes(nvml, self.handle)

    @staticmethod
    def _memory(asked: _Asked) -> tuple[int | None, int | None]:
        """Used and total bytes. Unified memory (the card has none of its own) is the system's."""
        nvml = asked.nvml
        # Version 2 leaves the driver's own reserve out of what is used, as nvidia-smi does.
        memory = asked("memory_used_bytes", nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2)
        if memory is None:
            memory = asked("memory_used_bytes", nvml.nvmlDeviceGetMemoryInfo)
        if memory is not None and memory.total:
            asked.missing.pop("memory_used_bytes", None)
            return memory.used, memory.total
        reason = asked.missing.pop("memory_used_bytes", "")
        if memory is not None or reason == NOT_SUPPORTED:
            system = psutil.virtual_memory()
            asked.missing["memory"] = "unified: this is the system's memory"
            return system.total - system.available, system.total
        asked.missing["memory_used_bytes"] = asked.missing["memory_total_bytes"] = reason
        return None, None


NOT_SUPPORTED = "not supported by this card"


class _Asked:
    """Questions to one card; the reasons of those that were not answered."""

    def __init__(self, nvml: Any, handle: Any, mig: bool) -> None:
        self.nvml = nvml
        self.missing: dict[str, str] = {}
        self._handle, self._mig = handle, mig

    def __call__(self, field: str, function: Callable[..., Any], *arguments: Any) -> Any | None:
        """The answer, or ``None``. Raises NVMLError when the card is lost."""
        try:
            return function(self._handle, *arguments)
        except self.nvml.NVMLError as error:
            if error.value in _lost_codes(self.nvml):
                raise
            reason = _why(self.nvml, error)
            self.missing[field] = "MIG is on" if self._mig and reason == NOT_SUPPORTED else reason
            return None


def _ask(nvml: Any, otherwise: Any, function: Callable[..., Any], handle: Any) -> Any:
    """The answer, or ``otherwise`` where the card does not know the question."""
    try:
        return function(handle)
    except nvml.NVMLError as error:
        if error.value in _lost_codes(nvml):
            raise
        return otherwise


@functools.cache
def _nvml() -> Any:
    """nvidia-ml-py. Raises ImportError or AttributeError when it, or another pynvml, is not it."""
    import pynvml

    _ = pynvml.nvmlMemory_v2, pynvml.nvmlDeviceGetComputeRunningProcesses_v3
    return pynvml


def _lost_codes(nvml: Any) -> tuple[int, ...]:
    return (
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_RESET_REQUIRED,
        nvml.NVML_ERROR_GPU_NOT_FOUND,
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
    )


def _why(nvml: Any, error: Any) -> str:
    """Why a card did not answer."""
    reasons = {
        nvml.NVML_ERROR_NOT_SUPPORTED: NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "this driver is too old to tell",
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to read it",
        nvml.NVML_ERROR_GPU_IS_LOST: "the card is lost",
        nvml.NVML_ERROR_RESET_REQUIRED: "the card needs a reset",
        nvml.NVML_ERROR_GPU_NOT_FOUND: "the card is lost",
        nvml.NVML_ERROR_UNINITIALIZED: "the driver is gone",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is gone",
    }
    return reasons.get(error.value, str(error))


def _no_driver(nvml: Any, error: Any) -> str:
    """Why NVML did not start."""
    reasons = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver (libnvidia-ml.so.1 not found)",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA kernel driver is not loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver and its library differ in version (after an update: reboot)"
        ),
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to use the NVIDIA driver",
    }
    return reasons.get(error.value, f"NVML: {error}")


def _processes(nvml: Any, handle: Any) -> dict[int, int]:
    """Bytes by process on one card; empty where that is not told."""
    for function in (
        nvml.nvmlDeviceGetComputeRunningProcesses_v3,
        nvml.nvmlDeviceGetComputeRunningProcesses_v2,
    ):
        found = _ask(nvml, None, function, handle)
        if found is not None:
            return {as_we_number(p.pid): p.usedGpuMemory for p in found if p.usedGpuMemory is not None}
    return {}
