"""What measured cells say about the others: a Gaussian process over points, in plain Python.

A sweep measures tens of cells, so everything here is small: no library is worth its start-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

Point = tuple[float, ...]  # coordinates in units of the distance over which cells are alike


class Surrogate:
    """A Gaussian process with a Matérn-5/2 kernel and a constant mean.

    After Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006): prediction is
    algorithm 2.1, the kernel equation 4.17, the mean (estimated by generalised least squares) section
    2.7. ``spread`` is the prior standard deviation of the values, ``noise`` that of each measurement.
    What all values gain or lose together as time goes by is a process of its own, with the standard
    deviation ``drift`` over ``times``; predictions leave it out.
    """

    def __init__(
        self,
        points: Sequence[Point],
        values: Sequence[float],
        noise: Sequence[float],
        spread: float,
        times: Sequence[float],
        drift: float,
    ) -> None:
        self._times = times
        self._drift = (drift / spread) ** 2
        self._points = points
        self._spread = spread
        self._rows = self._factor([(one / spread) ** 2 for one in noise])
        ones = self._forward([1.0] * len(points))
        whitened = self._forward(list(values))
        self._weight = sum(map(mul, ones, ones))
        self.mean = sum(map(mul, ones, whitened)) / self._weight
        self._residual = [value - self.mean * one for value, one in zip(whitened, ones, strict=True)]
        self._ones = ones

    def _factor(self, noise: Sequence[float]) -> list[list[float]]:
        """The lower triangle of the Cholesky factor of the points' correlation plus noise, by rows."""
        rows: list[list[float]] = []
        for i, point in enumerate(self._points):
            row: list[float] = []
            for j in range(i):
                alike = matern(math.dist(point, self._points[j]))
                alike += self._drift * matern(abs(self._times[i] - self._times[j]))
                row.append((alike - sum(map(mul, row, rows[j]))) / rows[j][j])
            row.append(math.sqrt(1 + self._drift + noise[i] - sum(map(mul, row, row))))
            rows.append(row)
        return rows

    def _forward(self, values: Sequence[float]) -> list[float]:
        """Solve the factor for ``values``."""
        found: list[float] = []
        for row, value in zip(self._rows, values, strict=True):
            found.append((value - sum(map(mul, row, found))) / row[-1])
        return found

    def predict(self, point: Point) -> tuple[float, float]:
        """Mean and standard deviation of the value at a point, without the noise of a measurement."""
        solved = self._forward([matern(math.dist(point, known)) for known in self._points])
        mean = self.mean + sum(map(mul, solved, self._residual))
        unexplained = 1 - sum(map(mul, solved, self._ones))
        variance = 1 - sum(map(mul, solved, solved)) + unexplained**2 / self._weight
        return mean, self._spread * math.sqrt(max(variance, 1e-12))


def matern(distance: float) -> float:
    """Correlation of two values that lie ``distance`` apart: Matérn with smoothness 5/2."""
    scaled = math.sqrt(5) * distance
    return (1 + scaled + scaled * scaled / 3) * math.exp(-scaled)


def expected_gain(mean: float, deviation: float, best: float) -> float:
    """By how much a normal value is expected to exceed ``best``, counting nothing where it does not.

    Expected improvement: Jones, Schonlau and Welch, "Efficient global optimization of expensive
    black-box functions" (1998), equation 15.
    """
    z = (mean - best) / deviation
    return (mean - best) * chance_below(z) + deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def chance_below(z: float) -> float:
    """The chance that a standard normal value is below ``z``."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
