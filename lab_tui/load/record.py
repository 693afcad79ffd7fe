"""What a run has brought so far, gathered from all workers, and the questions one asks of it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from time import monotonic

from lab_tui.load.stats import BINS, percentile
from lab_tui.load.tally import Answer
from lab_tui.load.wire import REPORT_S, Report

RECENT_S = 5.0  # what "recently" is for the live TTFT
CANCELLED = "cancelled"


class Curve:
    """A count that only grows, known at the moments of reports; a straight line between them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.counts: list[int] = []

    def add(self, time: float, count: int) -> None:
        """One more point, later than all before."""
        self.times.append(time)
        self.counts.append(count)

    def at(self, time: float) -> float:
        """The count at a moment; flat before the first point and after the last."""
        place = bisect_left(self.times, time)
        if place == 0:
            return float(self.counts[0]) if self.counts else 0.0
        if place == len(self.times):
            return float(self.counts[-1])
        before, after = self.times[place - 1], self.times[place]
        share = (time - before) / (after - before) if after > before else 1.0
        return self.counts[place - 1] + share * (self.counts[place] - self.counts[place - 1])


class Record:
    """Everything the workers of one run have reported."""

    def __init__(self, workers: int, start: float) -> None:
        self.start = start
        self.last: list[Report | None] = [None] * workers
        self.reports: list[list[Report]] = [[] for _ in range(workers)]
        self.answers: list[Answer] = []
        self.errors: Counter[str] = Counter()
        self.details: dict[str, str] = {}  # the server's own words, by kind of error
        self.finished = 0
        self.moved = start  # when anything last came
        self.first_token: float | None = None  # about when the first one came
        self._curves: dict[str, dict[int, Curve]] = {}  # by upstream address and worker
        self._firsts: deque[tuple[float, float]] = deque()  # when, TTFT in seconds
        self.rates: list[float] = []  # tokens a second, in bins of REPORT_S from `start` on

    def add(self, worker: int, report: Report) -> None:
        """One report of one worker."""
        before = self.last[worker]
        self.last[worker] = report
        self.reports[worker].append(report)
        moved = bool(report.answers) or report.tokens != (before.tokens if before else {})
        if moved:
            self.moved = monotonic()
        if self.first_token is None and any(report.tokens.values()):
            self.first_token = report.time
        for upstream, count in report.tokens.items():
            curves = self._curves.setdefault(upstream, {})
            curve = curves.get(worker)
            if curve is None:
                curve = curves[worker] = Curve()
                # It had brought nothing up to the report before this one.
                curve.add(before.time if before else self.start, 0)
            curve.add(report.time, count)
        self._firsts.extend((report.time, first) for first in report.firsts)
        while self._firsts and self._firsts[0][0] < report.time - RECENT_S:
            self._firsts.popleft()
        for answer in report.answers:
            self.answers.append(answer)
            if not answer.kind:
                self.finished += 1
            elif answer.kind != CANCELLED:
                self.errors[answer.kind] += 1
                if answer.detail:
                    self.details.setdefault(answer.kind, answer.detail)
        self._fill_rates()

    def _fill_rates(self) -> None:
        until = self.seen_until
        while (end := self.start + (len(self.rates) + 1) * REPORT_S) <= until:
            self.rates.append((self.tokens_at(end) - self.tokens_at(end - REPORT_S)) / REPORT_S)

    @property
    def seen_until(self) -> float:
        """The moment up to which every worker has reported."""
        return min((report.time if report else self.start) for report in self.last)

    def tokens_at(self, time: float, upstream: str | None = None) -> float:
        """Tokens that had come by a moment, from one instance or from all."""
        if upstream is not None:
            return sum(curve.at(time) for curve in self._curves.get(upstream, {}).values())
        return sum(curve.at(time) for curves in self._curves.values() for curve in curves.values())

    def upstreams(self) -> set[str]:
        """The addresses tokens came from; "" where answers name none."""
        return set(self._curves)

    @property
    def tokens(self) -> int:
        """All tokens of the run."""
        return sum(sum(report.tokens.values()) for report in self.last if report)

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return sum(report.in_flight for report in self.last if report)

    @property
    def begun(self) -> int:
        """Requests sent."""
        return sum(report.begun for report in self.last if report)

    @property
    def waiting(self) -> int:
        """Open loop: requests that are due and have no free stream."""
        return sum(report.waiting for report in self.last if report)

    @property
    def done(self) -> bool:
        """Every worker has made its last report."""
        return all(report is not None and report.done for report in self.last)

    @property
    def error_count(self) -> int:
        """Failed requests, cancelled ones not counted."""
        return sum(self.errors.values())

    def rate_now(self, span_s: float = 1.0, upstream: str | None = None) -> float:
        """Tokens a second over the last second that is known."""
        until = self.seen_until
        begin = max(self.start, until - span_s)
        if until <= begin:
            return 0.0
        return (self.tokens_at(until, upstream) - self.tokens_at(begin, upstream)) / (until - begin)

    def ttft_p95_now(self) -> float | None:
        """95th percentile in ms of the times to first token of the last five seconds."""
        found = percentile(sorted(first for _, first in self._firsts), 0.95)
        return None if found is None else found * 1000

    def rates_between(self, begin: float, end: float) -> list[float]:
        """The rates of the whole bins between two moments on the bins' edges."""
        low = round((begin - self.start) / REPORT_S)
        high = round((end - self.start) / REPORT_S)
        return self.rates[low:high]

    def itl_between(self, begin: float, end: float) -> list[int]:
        """The histogram of inter-token latencies (stats.bin_of) reported in a span."""
        counts = [0] * BINS
        for report in self._between(begin, end):
            for at, count in report.itl:
                counts[at] += count
        return counts

    def lags_between(self, begin: float, end: float) -> list[float]:
        """How late the workers' loops were, in seconds."""
        return [lag for report in self._between(begin, end) for lag in report.lags]

    def cpu_between(self, begin: float, end: float) -> float:
        """CPU seconds all workers took in a span."""
        total = 0.0
        for reports in self.reports:
            inside = [report.cpu_s for report in reports if begin <= report.time <= end + REPORT_S / 2]
            if len(inside) > 1:
                total += inside[-1] - inside[0]
        return total

    def _between(self, begin: float, end: float) -> list[Report]:
        return [
            report
            for reports in self.reports
            for report in reports
            if begin < report.time <= end + REPORT_S / 2
        ]
