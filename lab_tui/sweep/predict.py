"""What measured cells say about the others of a sweep: tok/s, and whether an SLO is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lab_tui.model import AxisValue, CellView, Data, Measurement, Slo
from lab_tui.sweep.plan import slots
from lab_tui.sweep.runs import Z95, figures, keeps
from lab_tui.sweep.surrogate import Point, Surrogate, chance_below, expected_gain

# How alike cells are, found on the simulated machines of scripts/bench_sweep.py.
DOUBLINGS = 5.0  # of a number, over which its effect changes
PARALLEL_DOUBLINGS = 8.0  # slots that are not busy matter little
QUEUE_DOUBLINGS = 10.0  # nor do streams that wait
WORDS_APART = 0.5
TPS_SPREAD, TPS_NOISE = 0.6, 0.03  # of ln tok/s over a grid, and between runs of one cell
SLO_SPREAD, SLO_NOISE = 1.2, 0.1  # the same of ln TTFT and ln per-stream tok/s
DRIFT, DRIFT_S = 0.05, 600.0  # of ln tok/s of the whole machine, and the time over which it changes


class Bound(Data, frozen=True):
    """One bound of an SLO: a prediction of the logarithm of what it bounds, and which way is good."""

    model: Surrogate
    limit: float  # its logarithm
    sign: float  # 1 when more is better

    def chance(self, point: Point) -> float:
        """The chance that a cell at this point keeps it."""
        predicted, deviation = self.model.predict(point)
        return chance_below(self.sign * (predicted - self.limit) / deviation)


class Outlook(Data, frozen=True, kw_only=True):
    """What is to be expected of a cell."""

    tps: float
    high: float  # tok/s that it may well make: more than `tps` where its own interval is wide
    gain: float  # over the best, as a share, times the chance that the SLO is kept (that alone: none was yet)


class Learnt:
    """Predictions of every cell from those that showed something."""

    def __init__(self, cells: Sequence[CellView], shown: Mapping[int, Measurement], slo: Slo) -> None:
        self._points = Points(cells)
        at = {index: self._points.of(cells[index]) for index in shown}
        times = {index: (cells[index].started or 0.0) / DRIFT_S for index in shown}
        least = max(result.throughput_tps for result in shown.values()) / 1000 or 1.0
        self._tps = Surrogate(
            list(at.values()),
            [math.log(max(result.throughput_tps, least)) for result in shown.values()],
            [_noise(result) for result in shown.values()],
            TPS_SPREAD,
            list(times.values()),
            DRIFT,
        )
        self._bounds = list(_bounds(at, times, shown, slo))
        kept = [i for i, result in shown.items() if (f := figures([result], None)) and keeps(f, slo)]
        self._best = max((self._tps.predict(at[index])[0] for index in kept), default=None)

    def outlook(self, cell: CellView) -> Outlook:
        """What is to be expected of a cell."""
        point = self._points.of(cell)
        predicted, deviation = self._tps.predict(point)
        gain = math.prod(bound.chance(point) for bound in self._bounds)
        if self._best is not None:
            gain *= expected_gain(predicted, deviation, self._best)
        unsure = max(0.0, deviation - TPS_NOISE)  # so much every measured cell is
        return Outlook(tps=math.exp(predicted), high=math.exp(predicted + unsure), gain=gain)

    def why_not(self, cell: CellView) -> str:
        """What its neighbours predict."""
        point = self._points.of(cell)
        predicted, deviation = self._tps.predict(point)
        says = f"neighbours predict {math.exp(predicted):,.0f} tok/s (±{Z95 * deviation:.0%})"
        if self._best is None or math.prod(bound.chance(point) for bound in self._bounds) < 0.5:
            return f"{says}, beyond the SLO"
        return f"{says}, the best has {math.exp(self._best):,.0f}"


def _noise(result: Measurement) -> float:
    """Of ln tok/s: what its interval says, and that no two runs are alike."""
    own = (result.throughput_ci95_tps or 0.0) / Z95 / result.throughput_tps if result.throughput_tps else 0.0
    return math.hypot(own, TPS_NOISE)


def _bounds(
    at: dict[int, Point], times: dict[int, float], shown: Mapping[int, Measurement], slo: Slo
) -> Iterator[Bound]:
    wanted = (
        (slo.ttft_ms, -1.0, {index: result.ttft_ms.p95 for index, result in shown.items()}),
        (slo.stream_tps, 1.0, {index: result.per_stream_tps.p5 for index, result in shown.items()}),
    )
    for limit, sign, found in wanted:
        known = {index: math.log(value) for index, value in found.items() if value}
        if limit is not None and known:
            model = Surrogate(
                [at[index] for index in known],
                list(known.values()),
                [SLO_NOISE] * len(known),
                SLO_SPREAD,
                [times[index] for index in known],
                DRIFT,
            )
            yield Bound(model, math.log(limit), sign)


class Points:
    """Where cells lie: settings by their logarithm, in units over which their effect changes."""

    def __init__(self, cells: Sequence[CellView]) -> None:
        axes: dict[str, list[AxisValue]] = {
            name: list(dict.fromkeys(cell.cell.axes[name] for cell in cells)) for name in cells[0].cell.axes
        }
        self._axes = {name: values for name, values in axes.items() if len(values) > 1}

    def of(self, cell: CellView) -> Point:
        """The point of a cell."""
        return tuple(one for name in self._axes for one in self._on(name, cell))

    def _on(self, name: str, cell: CellView) -> Iterable[float]:
        value = cell.cell.axes[name]
        if isinstance(value, str) or any(isinstance(one, str) for one in self._axes[name]):
            apart = WORDS_APART / math.sqrt(2)
            return (apart * (value == word) for word in self._axes[name])
        if name == "concurrency":
            streams, full = math.log2(value), math.log2(slots(cell))
            return (min(streams, full) / DOUBLINGS, max(streams - full, 0.0) / QUEUE_DOUBLINGS)
        doublings = PARALLEL_DOUBLINGS if name == "parallel" else DOUBLINGS
        return (math.log2(max(value, 0.5)) / doublings,)
