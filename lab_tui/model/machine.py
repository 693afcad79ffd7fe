"""What the machine itself tells."""

from __future__ import annotations

from lab_tui.model.data import Data


class HostReading(Data, frozen=True, kw_only=True):
    """The machine itself, read at 1 Hz."""

    name: str
    cores: int
    cpu_pct: float | None = None  # of all cores together
    load1: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


class MpsView(Data, frozen=True, kw_only=True):
    """NVIDIA's Multi-Process Service, as the instances have it or would have it."""

    on: bool
    own: bool  # as the fleet was asked to have it; else as the machine has it
    pid: int | None = None  # of the fleet's own daemon
    hint: str = ""  # what it may bring and the way to it, where it is off and instances share a card

    @property
    def said(self) -> str:
        """It for a person; "" where there is nothing to say: it is off, and nobody would miss it."""
        if self.own:
            return "MPS is on: a daemon of the fleet's own" if self.on else "MPS is off, as asked"
        return "MPS is on: the machine's daemon" if self.on else self.hint


class GpuReading(Data, frozen=True, kw_only=True):
    """One card. A field that is ``None`` has its reason in ``missing`` under the field's name."""

    index: int
    name: str
    uuid: str = ""
    util_pct: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    temperature_c: float | None = None
    missing: dict[str, str] = {}  # also "memory": it is the system's; "processes": whose memory is not told
    maker: str = ""  # NVIDIA, AMD, Apple
    clock_mhz: float | None = None  # of the processors
    clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    fan_pct: float | None = None  # of its full speed
    throttle: tuple[str, ...] | None = None  # what holds the clocks back; empty: nothing
    energy_j: float | None = None  # used since the driver started to count
