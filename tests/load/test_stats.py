"""The statistics against references, and what the stated interval is worth."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab_tui.load import stats
from lab_tui.load.window import INTERVAL, TIME_LIMIT, Closing, may_open
from lab_tui.model import WindowSpec

times = st.floats(min_value=1e-6, max_value=3000.0)


@given(st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=200))
def test_percentiles_are_numpys(values: list[float]) -> None:
    found = stats.percentiles(values)
    wanted = numpy.percentile(values, [50, 95, 99])
    assert [found.p50, found.p95, found.p99] == pytest.approx(list(wanted), rel=1e-9, abs=1e-6)


def test_nothing_to_rank_is_not_zero() -> None:
    assert stats.percentiles([]).p50 is None
    assert stats.histogram_percentiles([0] * stats.BINS).p99 is None


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=2, max_size=100))
def test_variance_is_numpys(values: list[float]) -> None:
    assert stats.variance(values) == pytest.approx(numpy.var(values, ddof=1), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (4, 2.776), (9, 2.262), (12, 2.179), (13, 2.160), (19, 2.093), (30, 2.042), (120, 1.980)],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert stats.t95(freedom) == pytest.approx(quantile, abs=0.0006)


def test_t_needs_freedom() -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        stats.t95(0)


@given(times)
def test_a_bin_is_half_a_percent_wide(seconds: float) -> None:
    assert stats.value_of(stats.bin_of(seconds)) == pytest.approx(seconds, rel=0.0026, abs=2e-8)


@given(st.lists(st.one_of(times, st.just(0.0), st.floats(0, 1e-6), st.just(1e5)), max_size=50))
def test_many_bins_are_the_bins_of_each(values: list[float]) -> None:
    assert Counter(stats.bins_of(values)) == Counter(map(stats.bin_of, values))


@given(st.lists(times, min_size=1, max_size=300))
def test_histogram_percentiles_are_near_the_exact_ones(values: list[float]) -> None:
    counts = [0] * stats.BINS
    for at, count in stats.bins_of(values).items():
        counts[at] += count
    found = stats.histogram_percentiles(counts)
    wanted = numpy.percentile(values, [50, 95, 99], method="higher")
    assert [found.p50, found.p95, found.p99] == pytest.approx(list(wanted), rel=0.006)


def test_batches_leave_the_rest_out_in_front() -> None:
    assert stats.batch_means([100, 1, 3, 5, 7], 2) == [2, 6]


def test_too_few_bins_have_no_interval() -> None:
    assert stats.interval([1.0] * (stats.FEWEST_BINS - 1)) is None


def test_a_constant_rate_is_known_exactly() -> None:
    found = stats.interval([250.0] * 40)
    assert found is not None
    assert (found.mean, found.half_width, found.relative) == (250.0, 0.0, 0.0)


def test_steady() -> None:
    luck = random.Random(1)
    assert stats.is_steady([100 + luck.gauss(0, 10) for _ in range(20)])
    assert not stats.is_steady([10.0 * at for at in range(20)])  # ramp
    assert not stats.is_steady([0.0] * 20)  # nothing comes
    assert not stats.is_steady([100.0] * 10 + [80.0] * 10)  # step
    assert not stats.is_steady([100.0])


def test_drift() -> None:
    luck = random.Random(1)
    noise = [100 + luck.gauss(0, 3) for _ in range(60)]
    assert stats.drift(noise) is None
    assert stats.drift([0.0] * 60) is None
    found = stats.drift([rate if at < 30 else rate / 2 for at, rate in enumerate(noise)])
    assert found is not None
    assert list(found) == pytest.approx([100, 50], abs=3)


def test_the_window_opens_when_all_streams_are_out_and_steady() -> None:
    steady = [100.0] * 20
    assert may_open(steady, 64, 64, open_loop=False)
    assert not may_open(steady, 60, 64, open_loop=False)
    assert may_open(steady, 3, 64, open_loop=True)
    assert not may_open(steady[:5], 64, 64, open_loop=False)


def closing_of(rates: list[float], spec: WindowSpec, request_s: float | None = None) -> tuple[str, float]:
    closing = Closing(spec)
    for count in range(1, len(rates) + 1):
        why = closing.look(rates[:count], request_s)
        if why:
            return why, count / 10
    raise AssertionError("the window never closed")


def test_a_quiet_rate_closes_early_and_a_noisy_one_at_the_limit() -> None:
    luck = random.Random(3)
    spec = WindowSpec(min_s=3, max_s=20)
    why, length_s = closing_of([100 + luck.gauss(0, 1) for _ in range(300)], spec)
    assert why == INTERVAL and 3 <= length_s < 6
    assert closing_of([100 + luck.gauss(0, 60) for _ in range(300)], spec) == (TIME_LIMIT, 20)


def test_a_window_is_at_least_one_request_long() -> None:
    why, length_s = closing_of([100.0] * 300, WindowSpec(min_s=3, max_s=20), request_s=9.0)
    assert why == INTERVAL and length_s >= 9


def test_a_handful_of_tokens_closes_nothing() -> None:
    assert closing_of([1.0] * 300, WindowSpec(min_s=3, max_s=10))[0] == TIME_LIMIT


# --- coverage -------------------------------------------------------------------------------

RUNS = 250


def noisy(seed: int, spread: float, memory: float) -> list[float]:
    """Thirty seconds of a server that makes 100 tok/s in the mean, wandering around it.

    A first-order process: each tenth of a second resembles the one before by ``memory``, and deviates
    by ``spread`` in the long run.
    """
    luck = random.Random(seed)
    fresh = spread * math.sqrt(1 - memory**2)
    state, rates = luck.gauss(0, spread), []
    for _ in range(300):
        state = memory * state + luck.gauss(0, fresh)
        rates.append(100 + state)
    return rates


def in_turn(seed: int, length: float, streams: int, spread: float) -> list[float]:
    """Thirty seconds of streams whose requests bring no token in their first fifth, 100 tok/s in the mean.

    A request is ``length`` tenths of a second long, give or take a twentieth; the machine's own pace
    wanders as in :func:`noisy`.
    """
    luck = random.Random(seed)
    rates = [0.0] * 300
    for _ in range(streams):
        begin = -length * luck.random()
        while begin < len(rates):
            end = begin + max(1.0, length * luck.gauss(1, 0.05))
            first = begin + 0.2 * (end - begin)
            for at in range(max(0, int(first)), min(len(rates), math.ceil(end))):
                share = min(end, at + 1) - max(first, at)
                rates[at] += 100 * length / streams * share / (end - first)
            begin = end
    return [rate * pace / 100 for rate, pace in zip(rates, noisy(seed, spread, 0.6), strict=True)]


NOISE = [(2, 0.0), (10, 0.0), (5, 0.3), (5, 0.6), (20, 0.6), (2, 0.8), (10, 0.8), (20, 0.9)]
TURNS = [(7, 1, 3), (12, 2, 3), (33, 4, 5), (33, 8, 5)]
KINDS = [partial(noisy, spread=spread, memory=memory) for spread, memory in NOISE] + [
    partial(in_turn, length=length, streams=streams, spread=spread) for length, streams, spread in TURNS
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.keywords.values())))
def test_the_true_mean_is_in_the_stated_interval(kind: Callable[[int], list[float]]) -> None:
    """250 cells with the true mean 100, each with its own noise and its own moment of closing.

    Counted is in how many of them the stated interval has 100 in it: at least nine in ten.
    """
    hits = 0
    for seed in range(RUNS):
        rates = kind(seed)
        _, length_s = closing_of(rates, WindowSpec())
        found = stats.interval(rates[: round(length_s * 10)])
        assert found is not None
        hits += abs(found.mean - 100) <= found.half_width
    assert hits >= 0.9 * RUNS, f"{hits} of {RUNS}"


def test_the_interval_of_an_hour_costs_no_more_than_that_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    luck = random.Random(1)
    rates = [0.0]
    for _ in range(36_000):
        rates.append(0.8 * rates[-1] + luck.gauss(0, 10))
    taken: list[int] = []
    fit = stats._density_at_zero

    def fitted(bins: Sequence[float]) -> tuple[int, float]:
        taken.append(len(bins))
        return fit(bins)

    monkeypatch.setattr(stats, "_density_at_zero", fitted)
    found = stats.interval(rates)
    assert found is not None and taken[0] <= stats.MOST_BINS
    assert found.mean == pytest.approx(stats.mean(rates))
    assert found.half_width == pytest.approx(1.96 * 10 / (1 - 0.8) / math.sqrt(len(rates)), rel=0.1)


def test_requests_that_take_turns_do_not_widen_the_interval() -> None:
    """The gaps come at a regular pace: after many of them the mean is known better than any one bin."""
    rates = in_turn(seed=1, length=7, streams=1, spread=1)
    found = stats.interval(rates)
    assert found is not None
    assert found.relative < 0.02 < stats.t95(len(rates)) * math.sqrt(stats.variance(rates) / len(rates)) / 100
