"""The hour that viewers see."""

from __future__ import annotations

import math

from lab_tui.telemetry.history import History


def test_empty() -> None:
    assert History().view().time == ()


def test_series_come_and_go() -> None:
    history = History(span_s=5)
    history.append(1.0, {"tps": 10.0})
    history.append(2.0, {"tps": 20.0, "tps.0": 5.0})
    history.append(3.0, {"tps.0": None, "tps": math.nan})
    view = history.view()
    assert view.time == (1.0, 2.0, 3.0)
    assert view.series == {"tps": (10.0, 20.0, None), "tps.0": (None, 5.0, None)}


def test_the_oldest_go_and_a_series_without_values_too() -> None:
    history = History(span_s=5)
    for second in range(1, 14):
        values = {"tps": float(second)} | ({"tps.0": 1.0} if second <= 3 else {})
        history.append(float(second), values)
        view = history.view()
        assert view.time == tuple(float(s) for s in range(max(1, second - 4), second + 1))
        assert view.series["tps"] == view.time
        assert ("tps.0" in view.series) == (second < 8)
    history.append(14.0, {"tps.0": 2.0, "tps": 14.0})
    assert history.view().series["tps.0"] == (None, None, None, None, 2.0)


def test_a_second_reading_in_a_second_replaces_the_first() -> None:
    history = History(span_s=5)
    history.append(1.1, {"a": 1.0, "b": 1.0})
    history.append(1.6, {"a": 2.0})
    history.append(2.0, {"a": 3.0})
    view = history.view()
    assert view.time == (1.6, 2.0)
    assert view.series["a"] == (2.0, 3.0)
    assert view.series["b"] == (None, None)


def test_what_is_older_than_the_span_goes_after_a_gap() -> None:
    history = History(span_s=5)
    history.append(1.0, {"a": 1.0})
    history.append(2.0, {"a": 2.0})
    history.append(100.0, {"a": 3.0})
    assert history.view().time == (100.0,)


def test_zero_is_a_value() -> None:
    history = History()
    history.append(1.0, {"a": 0.0})
    assert history.view().series == {"a": (0.0,)}
