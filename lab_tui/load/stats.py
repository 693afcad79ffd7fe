"""The statistics of a measurement, as plain functions: percentiles, intervals, steadiness.

Rates are tokens a second in equal, contiguous bins of time. Nothing here reads a clock or does
input or output, and nothing needs numpy: a load worker has to start fast.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat

from lab_tui.model import Data, Percentiles

# Two-sided 95 % quantiles of Student's t for 1 to 12 degrees of freedom (any table of t).
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_Z95 = 1.959964

FEWEST_BINS = 20  # below this an interval would be a guess
MOST_BINS = 3000  # of a longer series neighbours are joined: a live view has a few milliseconds for it
FEWEST_FREE = 5  # bins: however alike they are, so many count as independent
MOST_ORDER = 20  # bins that the fitted process looks back
MOST_CORRELATED = 0.99
AS_GOOD = 2.0  # of Akaike's criterion


class Interval(Data, frozen=True):
    """A mean and the half-width of its 95 % confidence interval, in the unit of the values."""

    mean: float
    half_width: float

    @property
    def relative(self) -> float:
        """Half-width as a share of the mean; infinite when the mean is 0."""
        return self.half_width / self.mean if self.mean > 0 else math.inf


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The ``share`` (0 to 1) quantile of ascending values, linear between neighbours.

    The same rule as numpy's default (type 7 of Hyndman and Fan 1996). None when empty.
    """
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles(values: Iterable[float]) -> Percentiles:
    """p50, p95 and p99 of values in any order."""
    ordered = sorted(values)
    return Percentiles(
        p50=percentile(ordered, 0.50), p95=percentile(ordered, 0.95), p99=percentile(ordered, 0.99)
    )


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean. The values must not be empty."""
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Unbiased sample variance; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def t95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t.

    Above 12 degrees of freedom the Cornish-Fisher series (Abramowitz and Stegun 26.7.5), right to
    four digits there.
    """
    if freedom < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def batch_means(values: Sequence[float], batches: int) -> list[float]:
    """The means of ``batches`` equally long runs of neighbours.

    What does not divide evenly is left out at the front, where a measurement is least settled.
    """
    size = len(values) // batches
    start = len(values) - size * batches
    return [mean(values[at : at + size]) for at in range(start, len(values), size)]


def interval(rates: Sequence[float]) -> Interval | None:
    """The mean rate with its 95 % interval; None when there are too few bins.

    Bins resemble or oppose each other: a slow wander makes the mean less certain than as many free
    bins would, requests that begin and end in turn make it more so. Both are in the spectral density
    of the rate at frequency zero, estimated from an autoregressive process fitted to the bins (Heidelberger
    and Welch, "A spectral method for confidence interval generation", 1981).
    """
    if len(rates) < FEWEST_BINS:
        return None
    centre = mean(rates)
    if len(rates) > MOST_BINS:
        rates = batch_means(rates, len(rates) // math.ceil(len(rates) / MOST_BINS))
    count = len(rates)
    spread = variance(rates)
    if spread <= 0:
        return Interval(centre, 0.0)
    order, density = _density_at_zero(rates)
    free = max(count * spread / density, FEWEST_FREE)  # independent bins that would say as much
    # The spread around a mean of its own is too small, by the more the fewer of them are free.
    uncertain = spread / (free - 1) if free < count else density / count
    known = min(free, count / (2 * max(order, 1)))  # a density of many coefficients is known badly itself
    return Interval(centre, t95(max(1, round(known) - 1)) * math.sqrt(uncertain))


def _density_at_zero(rates: Sequence[float]) -> tuple[int, float]:
    """The order of the fitted process, and the variance that the mean of ``n`` bins has ``n`` times.

    Of the orders that explain the bins about as well as the best (Akaike's criterion within
    :data:`AS_GOOD`; Burnham and Anderson, "Model Selection and Multimodel Inference"), the one that
    leaves the mean least certain.
    """
    count = len(rates)
    fits = _fits(_autocovariances(rates, min(MOST_ORDER, count // 4)))
    scores = [count * math.log(left) + 2 * order for order, (left, _) in enumerate(fits)]
    found = []
    for order, (left, memory) in enumerate(fits):
        if scores[order] > min(scores) + AS_GOOD:
            continue
        # What a short series hides of its memory (Marriott and Pope 1954, for order 1) ...
        memory = min(max(memory, memory + (1 + 3 * memory) / count), MOST_CORRELATED)
        # ... and of its noise (Akaike's final prediction error).
        left *= (count + order + 1) / (count - order - 1)
        found.append((left / (1 - memory) ** 2, order))
    density, order = max(found)
    return order, density


def _fits(products: Sequence[float]) -> list[tuple[float, float]]:
    """For each order of an autoregressive process: the variance it leaves, the sum of its coefficients.

    Yule and Walker's equations for these autocovariances, solved by Levinson and Durbin's recursion (any
    textbook of time series; Brockwell and Davis, "Introduction to Time Series and Forecasting", 5.1).
    """
    weights: list[float] = []
    left = products[0]
    found = [(left, 0.0)]
    for order in range(1, len(products)):
        seen = math.fsum(weight * products[order - 1 - at] for at, weight in enumerate(weights))
        last = (products[order] - seen) / left
        weights = [a - last * b for a, b in zip(weights, reversed(weights), strict=True)] + [last]
        left *= 1 - last * last
        if left <= 0:
            break
        found.append((left, math.fsum(weights)))
    return found


def _autocovariances(rates: Sequence[float], most: int) -> list[float]:
    """For lags from 0 to ``most``, each a sum divided by the number of all bins."""
    centre = mean(rates)
    apart = [rate - centre for rate in rates]
    return [
        math.fsum(map(operator.mul, apart, itertools.islice(apart, lag, None))) / len(rates)
        for lag in range(most + 1)
    ]


def is_steady(rates: Sequence[float], tolerance: float = 0.05) -> bool:
    """Whether the later half of the bins runs at the same rate as the earlier half.

    The same means: apart by no more than ``tolerance`` of the mean, or by no more than noise of
    this size would put them (two standard errors).
    """
    half = len(rates) // 2
    if half < 2:
        return False
    early, late = rates[-2 * half : -half], rates[-half:]
    centre = mean(rates)
    if centre <= 0:
        return False
    apart = abs(mean(late) - mean(early))
    noise = math.sqrt((variance(early) + variance(late)) / half)
    return apart <= max(tolerance * centre, 2 * noise)


def drift(rates: Sequence[float]) -> tuple[float, float] | None:
    """The mean rates of the first and of the last third, when they are not the same; else None.

    The same means: apart by less than 5 % of the mean, or by less than three standard errors.
    """
    third = len(rates) // 3
    if third < 4:
        return None
    first, last = rates[:third], rates[-third:]
    early, late = batch_means(first, 4), batch_means(last, 4)
    noise = math.sqrt((variance(early) + variance(late)) / 4)
    before, after = mean(first), mean(last)
    if abs(after - before) < max(0.05 * mean(rates), 3 * noise):
        return None
    return (before, after) if before != after else None


# --- a histogram that costs one increment a value and can be added up over workers ----------

_FLOOR_S = 1e-6
_PER_E = 200.0  # bins per factor e: a bin is 0.5 % wide
BINS = 4400  # from 1 µs to about 3,600 s


def bin_of(seconds: float) -> int:
    """The bin of a time; what is below 1 µs or above an hour goes into the outermost bins."""
    if seconds <= _FLOOR_S:
        return 0
    at = int(math.log(seconds * 1e6) * _PER_E)
    return at if at < BINS else BINS - 1


def bins_of(times: Sequence[float]) -> dict[int, int]:
    """How many of the times fall into each bin: :func:`bin_of` for many, at a third of the cost."""
    micros = map(operator.mul, times, repeat(1e6))
    try:
        found = Counter(map(int, map(operator.mul, map(math.log, micros), repeat(_PER_E))))
    except ValueError:  # a clock that stood still: no logarithm of zero
        return Counter(map(bin_of, times))
    if min(found, default=0) < 0 or max(found, default=0) >= BINS:
        return Counter(map(bin_of, times))
    return found


def value_of(at: int) -> float:
    """The time in seconds in the middle of a bin, off by at most 0.25 %."""
    return _FLOOR_S * math.exp((at + 0.5) / _PER_E)


def histogram_percentiles(counts: Sequence[int], scale: float = 1.0) -> Percentiles:
    """p50, p95 and p99 of a histogram of :func:`bin_of`, times ``scale`` (1000 gives ms)."""
    total = sum(counts)
    if not total:
        return Percentiles()
    found: list[float] = []
    shares = (0.50, 0.95, 0.99)
    seen = 0
    for at, count in enumerate(counts):
        seen += count
        # Nearest rank at or above: a histogram cannot put a value between two.
        while len(found) < len(shares) and count and seen - 1 >= shares[len(found)] * (total - 1):
            found.append(value_of(at) * scale)
    return Percentiles(p50=found[0], p95=found[1], p99=found[2])
