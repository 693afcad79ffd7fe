"""The last hour of readings, kept by the engine so that a viewer that attaches sees curves at once."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

from lab_tui import model

SPAN_S = 3600
UNKNOWN = math.nan


class History:
    """A ring of one hour at 1 Hz in columns: 29 KB for each series, however long the engine runs.

    Series come and go with the instances. One that has had no value for an hour is dropped.
    """

    def __init__(self, span_s: int = SPAN_S) -> None:
        self._span = span_s
        self._times = array("d")
        self._columns: dict[str, array[float]] = {}
        self._last_value: dict[str, float] = {}  # time of the newest value that is known
        self._next = 0  # the slot that is written next; the oldest one once the ring is full

    def append(self, time: float, values: Mapping[str, float | None]) -> None:
        """Keep the ``values`` at ``time`` (unix seconds). ``None``, NaN and infinity mean "not known".

        A second one within the same second takes the place of the first.
        """
        slot = self._newest()
        if slot is None or int(self._times[slot]) != int(time):
            slot = self._claim()
        self._times[slot] = time
        for column in self._columns.values():
            column[slot] = UNKNOWN
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                column = self._columns.setdefault(name, array("d", [UNKNOWN]) * len(self._times))
                column[slot] = value
                self._last_value[name] = time
        self._drop_gone(time)

    def view(self) -> model.History:
        """The hour up to the newest reading, oldest first."""
        order = [*range(self._next, len(self._times)), *range(self._next)]
        newest = self._newest()
        if newest is not None:
            since = self._times[newest] - self._span
            order = [slot for slot in order if self._times[slot] > since]
        return model.History(
            time=tuple(self._times[slot] for slot in order),
            series={
                name: tuple(None if math.isnan(column[slot]) else column[slot] for slot in order)
                for name, column in self._columns.items()
            },
        )

    def _newest(self) -> int | None:
        """The slot written last."""
        return (self._next - 1) % len(self._times) if self._times else None

    def _claim(self) -> int:
        """A slot for one more reading: a new one, or the oldest."""
        slot = self._next
        if slot == len(self._times):
            self._times.append(0.0)
            for column in self._columns.values():
                column.append(UNKNOWN)
        self._next = (slot + 1) % self._span
        return slot

    def _drop_gone(self, now: float) -> None:
        for name in [name for name, time in self._last_value.items() if time <= now - self._span]:
            del self._columns[name], self._last_value[name]
