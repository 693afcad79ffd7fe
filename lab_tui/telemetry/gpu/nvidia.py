"""NVIDIA cards through NVML: found, kept when they are lost, found again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lab_tui.model import GpuReading
from lab_tui.telemetry.gpu.nvml import Card, library, lost_codes, no_driver, why
from lab_tui.telemetry.gpu.reader import REOPEN_S, SLOW_S, Lost, Processes, Row


class NvidiaReader:
    """Reads all NVIDIA cards. A card that is lost keeps its row; a driver that comes back is seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = False
        self._cards: dict[str, _Place] = {}  # by uuid, in the order first seen
        self._reason = ""
        self._look_again = 0.0

    def read(self, slow_s: float = SLOW_S) -> tuple[tuple[GpuReading, ...], str]:
        """The cards by index, and why there is none ("" when there is one)."""
        now = self._clock()
        whole = self._open and all(place.card is not None for place in self._cards.values())
        if not whole and now >= self._look_again:
            self._look_again = now + REOPEN_S
            self._reopen()
        readings = [place.read(now, slow_s, self._reason) for place in self._cards.values()]
        return tuple(sorted(readings, key=lambda reading: reading.index)), "" if readings else self._reason

    @property
    def processes(self) -> Processes:
        """Card memory by process, of the cards that answer."""
        found: dict[int, dict[int, int]] = {}
        for place in self._cards.values():
            for pid, size in (place.card.processes if place.card else {}).items():
                found.setdefault(pid, {})[place.row.index] = size
        return found

    def close(self) -> None:
        """Let the driver go. ``read`` would start it again."""
        if self._open:
            self._open = False
            nvml = library()
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # it was gone already

    def _reopen(self) -> None:
        """Start NVML anew and find the cards; cards that were seen before and are not there are lost."""
        self.close()
        for place in self._cards.values():
            place.card = None
        try:
            nvml = library()
        except (ImportError, AttributeError) as error:
            self._reason = f"nvidia-ml-py is missing or shadowed by another pynvml ({error})"
            return
        try:
            nvml.nvmlInit()
            self._open = True  # so that it is closed again, whatever comes
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._reason = no_driver(nvml, error)
            return
        self._reason = "" if count else "the NVIDIA driver sees no card"
        for index in range(count):
            self._find(nvml, index)

    def _find(self, nvml: Any, index: int) -> None:
        """Put the card at NVML's ``index`` into its row, a new one if it was never seen."""
        taken = {place.row.index for place in self._cards.values()}
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _ask(nvml, "", nvml.nvmlDeviceGetUUID, handle)
            name = _ask(nvml, "NVIDIA card", nvml.nvmlDeviceGetName, handle)
        except nvml.NVMLError as error:
            if index not in taken:
                row = Row(index, "unknown", "", "NVIDIA")
                self._cards[f"unknown {index}"] = _Place(row, None, why(nvml, error))
            return
        known = self._cards.get(uuid or f"index {index}")
        if known is not None:
            known.card = Card(handle)
            return
        if self._cards.pop(f"unknown {index}", None) is not None:
            taken.discard(index)
        # Numbers of cards behind a lost one move up; a row keeps the number it had.
        free = index if index not in taken else max(taken) + 1
        row = Row(free, name, uuid, "NVIDIA")
        self._cards[uuid or f"index {index}"] = _Place(row, Card(handle))


class _Place:
    """The row of a card, and the card itself while it answers."""

    def __init__(self, row: Row, card: Card | None, lost: str = "the card is lost") -> None:
        self.row, self.card = row, card
        self._lost = lost

    def read(self, now: float, slow_s: float, driver_gone: str) -> GpuReading:
        """The card now; with ``driver_gone``, or once it is lost, a row that says so."""
        if self.card is not None:
            try:
                return self.row.read(now, slow_s, self.card)
            except Lost as lost:
                self.card = None
                self._lost = str(lost)
        return self.row.unread(driver_gone or self._lost)


def _ask(nvml: Any, otherwise: Any, question: Callable[..., Any], handle: Any) -> Any:
    """The answer, or ``otherwise`` where the card does not know the question. Raises NVMLError when lost."""
    try:
        return question(handle)
    except nvml.NVMLError as error:
        if error.value in lost_codes(nvml):
            raise
        return otherwise
