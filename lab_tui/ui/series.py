"""The readings of the last hour as a viewer holds them, ready to be drawn in columns."""

from __future__ import annotations

from collections import deque

from lab_tui.model import History, Snapshot

KEEP = 3600  # seconds

Value = float | None


class Series:
    """Readings by name, one a second, the newest last. Seconds without one are unknown."""

    def __init__(self) -> None:
        self._rows: dict[str, deque[tuple[int, Value]]] = {}
        self._columns: dict[tuple[str, int], tuple[int, int, dict[int, float]]] = {}  # lowest, newest, means
        self.newest = 0  # unix second of the newest reading

    def load(self, history: History) -> None:
        """Take over what the engine kept; what came in since stays."""
        fresh = self._rows
        self._rows = {}
        self._columns = {}
        for name, values in history.series.items():
            for time, value in zip(history.time, values, strict=True):
                self.add(name, time, value)
        for name, row in fresh.items():
            for second, value in row:
                self.add(name, second, value)

    def append(self, snapshot: Snapshot) -> None:
        """Add what a snapshot tells."""
        time = snapshot.time
        self.add("tps", time, snapshot.tps)
        self.add("ttft_p95_ms", time, snapshot.ttft_p95_ms)
        self.add("streams", time, snapshot.streams)
        self.add("queue", time, snapshot.waiting)
        self.add("cpu_pct", time, snapshot.host.cpu_pct)
        for instance in snapshot.instances:
            self.add(f"tps.{instance.index}", time, instance.tps)
        for gpu in snapshot.gpus:
            self.add(f"gpu.{gpu.index}", time, gpu.util_pct)

    def add(self, name: str, time: float, value: Value) -> None:
        """Add one reading; a second that has one already takes the later. Older ones are dropped."""
        row = self._rows.setdefault(name, deque(maxlen=KEEP))
        second = int(time)
        self.newest = max(self.newest, second)
        if row and row[-1][0] == second:
            row[-1] = (second, value)
        elif not row or row[-1][0] < second:
            row.append((second, value))

    def columns(self, name: str, width: int, step: int = 1, end: int | None = None) -> list[Value]:
        """``width`` columns of ``step`` seconds each, every one the mean of what it holds.

        The last one holds the unix second ``end``, or the newest reading.
        A single empty column between two known ones is jitter of the clock, not a gap, and takes
        its neighbour's value.
        """
        if width <= 0:
            return []
        last = (self.newest if end is None else end) // step
        first = last - width + 1
        held = self._means(name, step, first)
        means = [held.get(column) for column in range(first, last + 1)]
        known = [mean is not None for mean in means]
        for place in range(1, width - 1):
            if means[place] is None and known[place - 1] and means[place + 1] is not None:
                means[place] = means[place - 1]
        return means

    def _means(self, name: str, step: int, first: int) -> dict[int, float]:
        """The mean of every column from ``first`` on that has readings, by its number since 1970.

        Nothing older than the newest reading comes in, so only columns from that one's on are reckoned
        again, and earlier ones when they are looked at for the first time.
        """
        row = self._rows.get(name)
        if not row:
            return {}
        lowest, newest, held = self._columns.get((name, step), (first, first, {}))
        if first < lowest or len(held) > 2 * KEEP // step + 2:  # or it has grown for an hour
            lowest, newest, held = first, first, {}
        sums: dict[int, list[float]] = {}
        for second, value in reversed(row):
            column = second // step
            if column < newest:
                break
            if value is not None:
                sums.setdefault(column, []).append(value)
        held.pop(newest, None)
        held.update((column, sum(values) / len(values)) for column, values in sums.items())
        self._columns[name, step] = (lowest, max(row[-1][0] // step, first), held)
        return held
