"""Questions to NVML. Every field is optional: what cannot be read says why."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from lab_tui.telemetry.gpu.reader import Fields, Lost
from lab_tui.telemetry.pids import as_we_number

NOT_SUPPORTED = "not supported by this card"
UNIFIED = "unified: this is the system's memory"
# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) in words. Bit 0, idleness, holds nothing back.
THROTTLE = {
    0x002: "clocks set by hand",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat",
    0x040: "heat (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}


@functools.cache
def library() -> Any:
    """nvidia-ml-py. Raises ImportError or AttributeError when it, or another pynvml, is not it."""
    import pynvml

    _ = pynvml.nvmlMemory_v2, pynvml.nvmlDeviceGetComputeRunningProcesses_v3
    return pynvml


class Card:
    """One NVIDIA card that answers."""

    def __init__(self, handle: Any) -> None:
        self._nvml = library()
        self._handle = handle
        self._mig = False
        self.processes: Mapping[int, int] = {}  # bytes by process

    def fast(self) -> Fields:
        """Utilisation, memory, power, energy and throttling. Raises Lost."""
        nvml, fields = self._nvml, Fields()
        utilisation = self._put(fields, "util_pct", nvml.nvmlDeviceGetUtilizationRates)
        if utilisation is not None:
            fields.values["util_pct"] = float(utilisation.gpu)
        self._memory(fields)
        self._put(fields, "power_w", nvml.nvmlDeviceGetPowerUsage, scale=1e-3)
        self._put(fields, "energy_j", nvml.nvmlDeviceGetTotalEnergyConsumption, scale=1e-3)
        self._throttle(fields)
        return fields

    def slow(self) -> Fields:
        """Power cap, temperature, clocks, fan and processes. Raises Lost."""
        nvml, fields = self._nvml, Fields()
        gpu, memory, heat = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM, nvml.NVML_TEMPERATURE_GPU
        mode, _ = self._ask(nvml.nvmlDeviceGetMigMode)
        self._mig = bool(mode and mode[0])
        self._put(fields, "power_cap_w", nvml.nvmlDeviceGetEnforcedPowerLimit, scale=1e-3)
        self._put(fields, "temperature_c", nvml.nvmlDeviceGetTemperature, heat, scale=1.0)
        self._put(fields, "clock_mhz", nvml.nvmlDeviceGetClockInfo, gpu, scale=1.0)
        self._put(fields, "clock_max_mhz", nvml.nvmlDeviceGetMaxClockInfo, gpu, scale=1.0)
        self._put(fields, "memory_clock_mhz", nvml.nvmlDeviceGetClockInfo, memory, scale=1.0)
        self._put(fields, "fan_pct", nvml.nvmlDeviceGetFanSpeed, scale=1.0)
        self._read_processes(fields)
        return fields

    def _put(
        self, fields: Fields, name: str, question: Callable[..., Any], *more: Any, scale: float | None = None
    ) -> Any | None:
        """Put the answer times ``scale`` (without one it is given back alone), or the reason of none."""
        answer, reason = self._ask(question, *more)
        if answer is None:
            fields.missing[name] = reason
        elif scale is not None:
            fields.values[name] = answer * scale
        return answer

    def _ask(self, question: Callable[..., Any], *more: Any) -> tuple[Any | None, str]:
        """The answer, or None and the reason. Raises Lost."""
        try:
            return question(self._handle, *more), ""
        except self._nvml.NVMLError as error:
            reason = why(self._nvml, error)
            if error.value in lost_codes(self._nvml):
                raise Lost(reason) from error
            return None, "MIG is on" if self._mig and reason == NOT_SUPPORTED else reason

    def _memory(self, fields: Fields) -> None:
        """Used and total. Unified memory (the card has none of its own) is the system's."""
        nvml = self._nvml
        # Version 2 leaves the driver's own reserve out of what is used, as nvidia-smi does.
        memory, reason = self._ask(nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2)
        if memory is None:
            memory, reason = self._ask(nvml.nvmlDeviceGetMemoryInfo)
        if memory is not None and memory.total:
            used, total = memory.used, memory.total
        elif memory is not None or reason == NOT_SUPPORTED:
            system = psutil.virtual_memory()
            used, total = system.total - system.available, system.total
            fields.missing["memory"] = UNIFIED
        else:
            used, total = None, None
        fields.put("memory_used_bytes", used, reason)
        fields.put("memory_total_bytes", total, reason)

    def _throttle(self, fields: Fields) -> None:
        """What holds the clocks back, in words; idleness does not count."""
        nvml = self._nvml
        bits, reason = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:  # its name before driver 535
            bits, reason = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        said = None if bits is None else tuple(word for bit, word in THROTTLE.items() if bits & bit)
        fields.put("throttle", said, reason)

    def _read_processes(self, fields: Fields) -> None:
        """Bytes by process; a process of which the driver does not tell them is not in it."""
        nvml = self._nvml
        found, reason = self._ask(nvml.nvmlDeviceGetComputeRunningProcesses_v3)
        if found is None:
            found, reason = self._ask(nvml.nvmlDeviceGetComputeRunningProcesses_v2)
        if found is None:
            self.processes = {}
            fields.missing["processes"] = reason
            return
        self.processes = {as_we_number(p.pid): p.usedGpuMemory for p in found if p.usedGpuMemory is not None}
        if len(self.processes) < len(found):
            fields.missing["processes"] = "the driver does not tell the memory of some"


def lost_codes(nvml: Any) -> tuple[int, ...]:
    """Errors after which a card does not answer any more."""
    return (
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_RESET_REQUIRED,
        nvml.NVML_ERROR_GPU_NOT_FOUND,
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
    )


def why(nvml: Any, error: Any) -> str:
    """Why a card did not answer."""
    reasons = {
        nvml.NVML_ERROR_NOT_SUPPORTED: NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "this driver is too old to tell",
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to read it",
        nvml.NVML_ERROR_GPU_IS_LOST: "the card is lost",
        nvml.NVML_ERROR_RESET_REQUIRED: "the card is lost: it needs a reset",
        nvml.NVML_ERROR_GPU_NOT_FOUND: "the card is lost",
        nvml.NVML_ERROR_UNINITIALIZED: "the driver is gone",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is gone",
    }
    return reasons.get(error.value, str(error))


def no_driver(nvml: Any, error: Any) -> str:
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
