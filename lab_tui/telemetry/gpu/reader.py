"""What every reader of cards gives, and the row that a card keeps when it is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from lab_tui.model import GpuReading

SLOW_S = 5.0  # how old temperature, clocks, fan and processes may be: asking disturbs the workload
REOPEN_S = 30.0  # how often a driver or a card that is gone is looked for
IDENTITY = ("index", "name", "uuid", "maker", "missing")
FIGURES = tuple(field for field in GpuReading.__struct_fields__ if field not in IDENTITY)

Processes = Mapping[int, Mapping[int, int]]  # bytes by process, as we number it, and index of the card


class CardReader(Protocol):
    """What reads the cards of one maker. Called by one thread only."""

    def read(self, slow_s: float = SLOW_S) -> tuple[tuple[GpuReading, ...], str]:
        """The cards now, and why there is none ("" when there is one).

        Utilisation, memory, power and throttling are asked each time, the rest every ``slow_s`` seconds.
        """

    @property
    def processes(self) -> Processes:
        """Card memory by process, as far as the driver tells."""

    def close(self) -> None:
        """Let the driver go."""


class Lost(Exception):
    """A card does not answer any more; the words say why."""


class Fields:
    """What a card was asked: figures by the names of GpuReading's fields, and why others are missing."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def put(self, name: str, value: Any | None, reason: str) -> None:
        """Keep a value, or the ``reason`` why there is none."""
        if value is None:
            self.missing[name] = reason
        else:
            self.values[name] = value


class Source(Protocol):
    """One card that can be asked. Both raise Lost once it is gone."""

    def fast(self) -> Fields:
        """What is cheap to ask and changes by the second."""

    def slow(self) -> Fields:
        """The rest."""


class Row:
    """The row of one card, with its slow fields as they were last read."""

    def __init__(self, index: int, name: str, uuid: str, maker: str) -> None:
        self.index, self.uuid = index, uuid
        self._name, self._maker = name, maker
        self._slow = Fields()
        self._slow_at: float | None = None

    def read(self, now: float, slow_s: float, source: Source) -> GpuReading:
        """The card at ``now`` (monotonic). Raises Lost."""
        if self._slow_at is None or now - self._slow_at >= slow_s:
            self._slow = source.slow()
            self._slow_at = now
        fast = source.fast()
        return self._reading(fast.values | self._slow.values, fast.missing | self._slow.missing)

    def unread(self, reason: str) -> GpuReading:
        """The row of a card that is lost, or not to be disturbed."""
        self._slow_at = None
        return self._reading({}, dict.fromkeys(FIGURES, reason))

    def _reading(self, values: dict[str, Any], missing: dict[str, str]) -> GpuReading:
        return GpuReading(
            index=self.index, name=self._name, uuid=self.uuid, maker=self._maker, missing=missing, **values
        )


class Together:
    """The cards of several readers as those of one: every card has a number of its own, and keeps it."""

    def __init__(self, readers: Sequence[CardReader]) -> None:
        self._readers = tuple(readers)
        self._numbers: dict[tuple[int, int], int] = {}  # by reader and its own number of the card

    def read(self, slow_s: float = SLOW_S) -> tuple[tuple[GpuReading, ...], str]:
        """The cards of all makers by number, and why there is none ("" when there is one)."""
        gpus: list[GpuReading] = []
        reasons: list[str] = []
        for place, reader in enumerate(self._readers):
            found, reason = reader.read(slow_s)
            reasons += [reason] if reason else []
            gpus += [msgspec.structs.replace(gpu, index=self._number(place, gpu.index)) for gpu in found]
        ordered = tuple(sorted(gpus, key=lambda gpu: gpu.index))
        return ordered, "" if gpus else "; ".join(reasons)

    @property
    def processes(self) -> Processes:
        """Card memory by process over all cards."""
        found: dict[int, dict[int, int]] = {}
        for place, reader in enumerate(self._readers):
            for pid, cards in reader.processes.items():
                held = found.setdefault(pid, {})
                held |= {self._number(place, index): size for index, size in cards.items()}
        return found

    def close(self) -> None:
        """Let all drivers go."""
        for reader in self._readers:
            reader.close()

    def _number(self, place: int, index: int) -> int:
        """The reader's own number where it is free: CUDA and HIP count like that."""
        known = self._numbers.get((place, index))
        if known is None:
            taken = self._numbers.values()
            known = self._numbers[place, index] = index if index not in taken else max(taken) + 1
        return known
