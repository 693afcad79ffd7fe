"""When the window opens and when it closes: the rules, without clocks or sockets."""

from __future__ import annotations

from collections.abc import Sequence

from lab_tui.load.stats import Interval, interval, is_steady
from lab_tui.load.wire import REPORT_S
from lab_tui.model import WindowSpec

LOOK_BACK = round(2.0 / REPORT_S)  # bins that have to be steady
SHORTEST_LOOK = round(1.0 / REPORT_S)
PATIENCE_S = 5.0  # for a steady rate, or half the longest window if that is longer

FEWEST_SEEN = 20  # tokens in the steady seconds: between fewer, nothing can be told apart
FEWEST_TOKENS = 50  # fewer say little, however evenly they came

INTERVAL = "interval"
TIME_LIMIT = "time limit"
REQUESTS = "requests"
HAND = "hand"


def may_open(rates: Sequence[float], in_flight: int, concurrency: int, open_loop: bool) -> bool:
    """Whether the load stands: every stream is out and the last two seconds run at one rate.

    ``rates`` are those since all streams were begun. In an open loop the number in flight varies by
    nature and is not asked for.
    """
    if not open_loop and in_flight < concurrency * 0.98 - 1:
        return False
    recent = rates[-LOOK_BACK:]
    if len(recent) < SHORTEST_LOOK or sum(recent) * REPORT_S < FEWEST_SEEN:
        return False
    return is_steady(recent)


def patience_s(spec: WindowSpec) -> float:
    """How long after the first token a steady rate is waited for before the window opens without one."""
    return max(PATIENCE_S, spec.max_s / 2)


def may_close(spec: WindowSpec, length_s: float, found: Interval | None, request_s: float | None) -> str:
    """Why the window is to close now, or "" when it is not.

    An interval only counts once the window is as long as a whole request (``request_s``, where one is
    known), so that every part of a request's life is in it.
    """
    if length_s >= spec.max_s:
        return TIME_LIMIT
    if length_s < spec.min_s or found is None or found.mean * length_s < FEWEST_TOKENS:
        return ""
    if request_s is not None and length_s < request_s:
        return ""
    return INTERVAL if found.relative <= spec.ci_half_width else ""


class Closing:
    """Applies :func:`may_close` at set points of a window's growth.

    To look after every bin would be to wait for a lucky narrow moment, which makes intervals too
    narrow on the whole. So looks are spaced by a fifth of the window, and two in a row have to agree.
    """

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        self._next_s = spec.min_s
        self._most = max(1, round(spec.max_s / REPORT_S))  # bins
        self._agreed = False
        self.found: Interval | None = None

    def look(self, rates: Sequence[float], request_s: float | None) -> str:
        """Why the window of these rates is to close now, or ""."""
        rates = rates[: self._most]
        length_s = len(rates) * REPORT_S
        last = len(rates) >= self._most
        if length_s < self._next_s - REPORT_S / 2 and not last:
            return ""
        self._next_s = length_s * 1.2
        self.found = interval(rates)
        if last:
            return TIME_LIMIT
        why = may_close(self._spec, length_s + REPORT_S / 2, self.found, request_s)
        agreed, self._agreed = self._agreed, why == INTERVAL
        return INTERVAL if agreed and self._agreed else ""
