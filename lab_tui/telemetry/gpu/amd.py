"""AMD cards through sysfs (the kernel's amdgpu driver): no library, no root, and no card is woken up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab_tui.model import GpuReading
from lab_tui.telemetry.gpu.reader import REOPEN_S, SLOW_S, Fields, Lost, Processes, Row
from lab_tui.telemetry.pids import as_we_number

VENDOR = "0x1002"
NAMES = Path("/usr/share/libdrm/amdgpu.ids")  # lines "device, revision, name", in hexadecimal
APU_METRICS = (2, 3)  # format revisions of gpu_metrics that only processors with graphics have
ASLEEP = "asleep: reading it would wake it"
UNIFIED = "unified: part of it is the system's memory"
NOT_TOLD = "amdgpu does not tell it in sysfs"


class AmdReader:
    """Reads all AMD cards. One that goes away keeps its row."""

    def __init__(
        self, sys: Path = Path("/sys"), names: Path = NAMES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sys, self._names, self._clock = sys, names, clock
        self._cards: dict[str, tuple[Row, _Card]] = {}  # by PCI address
        self._look_again: float | None = None

    def read(self, slow_s: float = SLOW_S) -> tuple[tuple[GpuReading, ...], str]:
        """The cards in the order of their PCI addresses, and why there is none ("" when there is one)."""
        now = self._clock()
        if self._look_again is None or now >= self._look_again:
            self._look_again = now + REOPEN_S
            self._find()
        readings = tuple(_read(row, card, now, slow_s) for row, card in self._cards.values())
        return readings, "" if readings else "no AMD card"

    @property
    def processes(self) -> Processes:
        """Card memory of the processes that compute through ROCm; Vulkan's are not listed by process."""
        by_card = {card.kfd_id: row.index for row, card in self._cards.values() if card.kfd_id}
        found: dict[int, dict[int, int]] = {}
        for file in self._sys.glob("class/kfd/kfd/proc/*/vram_*"):
            index, size = by_card.get(file.name.removeprefix("vram_")), _number(file)
            if index is not None and size is not None and file.parent.name.isdigit():
                found.setdefault(as_we_number(int(file.parent.name)), {})[index] = size
        return found

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self) -> None:
        """Look for cards that were not there before."""
        devices = {link.resolve() for link in self._sys.glob("class/drm/card*/device")}
        for device in sorted(devices, key=lambda folder: folder.name):
            if device.name in self._cards or _text(device / "vendor") != VENDOR:
                continue
            uuid = _text(device / "unique_id") or device.name
            row = Row(len(self._cards), _name(device, self._names), uuid, "AMD")
            self._cards[device.name] = row, _Card(device, self._sys)


def _read(row: Row, card: _Card, now: float, slow_s: float) -> GpuReading:
    """A card now; a row that says why where it is lost or asleep."""
    if _text(card.device / "power/runtime_status") == "suspended":
        return row.unread(ASLEEP)
    try:
        return row.read(now, slow_s, card)
    except Lost as lost:
        return row.unread(str(lost))


class _Card:
    """One card and its folder in sysfs."""

    def __init__(self, device: Path, sys: Path) -> None:
        self.device = device
        self.kfd_id = _kfd_id(device, sys)
        self._apu = _is_apu(device)

    def fast(self) -> Fields:
        """Utilisation, memory and power. Raises Lost."""
        if not (self.device / "vendor").exists():
            raise Lost("the card is lost")
        fields = Fields()
        self._put(fields, "util_pct", "gpu_busy_percent")
        self._memory(fields)
        self._put(fields, "power_w", "hwmon/*/power1_average", "hwmon/*/power1_input", scale=1e-6)
        fields.missing |= {"energy_j": NOT_TOLD, "throttle": NOT_TOLD}
        return fields

    def slow(self) -> Fields:
        """Power cap, temperature, clocks and fan."""
        fields = Fields()
        self._put(fields, "power_cap_w", "hwmon/*/power1_cap", scale=1e-6)
        self._put(fields, "temperature_c", "hwmon/*/temp1_input", scale=1e-3)
        self._put(fields, "clock_mhz", "hwmon/*/freq1_input", scale=1e-6)
        self._put(fields, "memory_clock_mhz", "hwmon/*/freq2_input", scale=1e-6)
        self._put(fields, "fan_pct", "hwmon/*/pwm1", scale=100 / 255)
        fields.put("clock_max_mhz", _highest(_text(self.device / "pp_dpm_sclk")), NOT_TOLD)
        if not self.kfd_id:
            fields.missing["processes"] = "ROCm does not drive this card"
        return fields

    def _memory(self, fields: Fields) -> None:
        """Used and total: the card's own, and what a processor with graphics may take of the system's."""
        kinds = ("vram", "gtt") if self._apu else ("vram",)
        for field, word in (("memory_used_bytes", "used"), ("memory_total_bytes", "total")):
            parts = [_number(self.device / f"mem_info_{kind}_{word}") for kind in kinds]
            known = [part for part in parts if part is not None]
            fields.put(field, sum(known) if len(known) == len(kinds) else None, NOT_TOLD)
        if self._apu:
            fields.missing["memory"] = UNIFIED

    def _put(self, fields: Fields, name: str, *patterns: str, scale: float = 1.0) -> None:
        """Put the first of these files that holds a number, times ``scale``."""
        files = [file for pattern in patterns for file in self.device.glob(pattern)]
        value = next((number for file in files if (number := _number(file)) is not None), None)
        reason = "the driver cannot read it" if files else NOT_TOLD
        fields.put(name, None if value is None else value * scale, reason)


def _name(device: Path, names: Path) -> str:
    """The card's name: the driver's, else that of libdrm's list, else its number."""
    told = _text(device / "product_name")
    number = _text(device / "device").removeprefix("0x").upper()
    revision = _text(device / "revision").removeprefix("0x").upper()
    return told or next(_listed(names, number, revision), f"AMD card {number}".rstrip())


def _listed(names: Path, number: str, revision: str) -> Iterator[str]:
    for line in _text(names).splitlines():
        words = [word.strip() for word in line.split(",", 2)]
        if len(words) == 3 and (words[0].upper(), words[1].upper().zfill(2)) == (number, revision):
            yield words[2]


def _is_apu(device: Path) -> bool:
    """Whether this is a processor with graphics: it uses the system's memory beside a part set aside."""
    try:
        head = (device / "gpu_metrics").read_bytes()[:4]  # size (2 bytes), format revision, content revision
    except OSError:
        return False
    return len(head) == 4 and head[2] in APU_METRICS


def _kfd_id(device: Path, sys: Path) -> str:
    """ROCm's number of the card, under which its processes are listed; "" where ROCm does not know it."""
    minors = {node.name.removeprefix("renderD") for node in device.glob("drm/renderD*")}
    for node in sys.glob("class/kfd/kfd/topology/nodes/*"):
        words = (line.split() for line in _text(node / "properties").splitlines())
        if any(word[:1] == ["drm_render_minor"] and word[-1] in minors for word in words):
            return _text(node / "gpu_id")
    return ""


def _highest(levels: str) -> float | None:
    """The highest of lines such as ``1: 2304Mhz *``."""
    words = [line.split()[1].lower().removesuffix("mhz") for line in levels.splitlines() if ": " in line]
    return max((float(word) for word in words if word.isdigit()), default=None)


def _number(file: Path) -> int | None:
    """The number in a file; a driver that cannot tell refuses the reading itself."""
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
