"""What the runs of one cell amount to together, and whether they keep an SLO."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from lab_tui.load.stats import mean, t95, variance
from lab_tui.model import CellStatus, CellView, Data, Measurement, Slo
from lab_tui.sweep.verdict import FAILING, MOVED, NO_MEMORY, UNSTABLE, WIDE, is_shared

WRONG = (FAILING, NO_MEMORY)  # figures of something else than the cell
Z95 = 1.96  # a 95 % interval reaches so many standard deviations to each side


class Spread(Data, frozen=True):
    """How much runs of the same cell differ: standard deviation as a share of tok/s, and its freedom."""

    share: float
    freedom: int


class Figures(Data, frozen=True, kw_only=True):
    """The means over the sound runs of a cell; ``None`` where it is not known."""

    tps: float
    half_width: float | None  # of the 95 % interval of tok/s
    within: float | None  # the same by the runs' own intervals alone
    apart: float  # standard error of tok/s by how far the runs are apart; 0 of a single one
    ttft_p95_ms: float | None
    stream_p5_tps: float | None
    runs: int


def runs(cell: CellView) -> tuple[Measurement, ...]:
    """Every run of a measured cell, the first one first."""
    if cell.result is None or cell.status != CellStatus.MEASURED:
        return ()
    return (cell.result, *cell.repeats)


def sound(cell: CellView) -> tuple[Measurement, ...]:
    """The runs that count: at one rate, however widely that is known, and not shared with others.

    None do when one is failing, or the rate of more than half moved.
    """
    if any(run.verdict in WRONG for run in runs(cell)):
        return ()
    alone = (run for run in runs(cell) if not is_shared(run))
    kept = tuple(run for run in alone if run.verdict != UNSTABLE or _only_wide(run))
    return kept if 2 * len(kept) >= len(runs(cell)) else ()


def alone(cell: CellView) -> CellView:
    """The cell as if it had not been measured a first time where others shared that, and it was once more."""
    if cell.result is None or not is_shared(cell.result) or not cell.repeats:
        return cell
    return msgspec.structs.replace(cell, result=cell.repeats[0], repeats=cell.repeats[1:])


def alone_tps(run: Measurement) -> float:
    """What a run would have made without others, about: as if they had taken their share of it."""
    return run.throughput_tps / (1 - run.others.share) if run.others and run.others.share < 1 else math.inf


def _only_wide(run: Measurement) -> bool:
    """Whether nothing is wrong with it but its interval, which more runs make narrower."""
    width = run.throughput_ci95_tps
    moved = any(flag.startswith(MOVED) for flag in run.flags)
    return not moved and width is not None and width > WIDE * run.throughput_tps


def is_settled(found: Figures) -> bool:
    """Whether these runs know their rate narrowly enough, and are near enough, for it to be one number.

    Not by ``half_width``: two runs know their spread so badly (Student's t) that nothing would be settled.
    """
    return max(found.within or 0.0, found.apart) <= WIDE * found.tps


def repeated(cell: CellView) -> tuple[Measurement, ...]:
    """The sound runs that confirm a cell: without the first, by which it was chosen."""
    return tuple(run for run in sound(cell) if run is not cell.result)


def spread(groups: Iterable[Sequence[Measurement]]) -> Spread | None:
    """How much runs differ, from groups of runs of one cell each; None when no group has two.

    The pooled variance of runs around the mean of their cell, as a share of it: the "within" mean
    square of a one-way analysis of variance (any textbook; Box, Hunter and Hunter, "Statistics for
    Experimenters", chapter 4). Cells lend each other their freedom, which two or three runs lack.
    """
    squares, freedom = 0.0, 0
    for group in groups:
        rates = [run.throughput_tps for run in group]
        if len(rates) < 2 or not (centre := mean(rates)):
            continue
        squares += math.fsum((rate / centre - 1) ** 2 for rate in rates)
        freedom += len(rates) - 1
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def drift(cells: Sequence[CellView]) -> float | None:
    """By what share of tok/s the cells measured again differ from their first runs, all together.

    None unless it is more than the spread between repeats, and the intervals of the runs, allow (Student's
    t): then the machine is not what it was, and figures of different times cannot be compared.
    """
    pairs = [(cell.result, again) for cell in cells if cell.result is not None and (again := repeated(cell))]
    pairs = [(first, again) for first, again in pairs if first.throughput_tps and not is_shared(first)]
    between = spread(again for _, again in pairs)
    if between is None:
        return None
    changes = [
        mean([run.throughput_tps for run in again]) / first.throughput_tps - 1 for first, again in pairs
    ]
    share = max(between.share, _own_share([run for first, again in pairs for run in (first, *again)]))
    noise = math.fsum(1 + 1 / len(again) for _, again in pairs)
    allowed = t95(between.freedom) * share * math.sqrt(noise) / len(pairs)
    return mean(changes) if abs(mean(changes)) > allowed else None


def _own_share(counted: Sequence[Measurement]) -> float:
    """The standard deviation of a run by its own interval, as a share of tok/s: their root mean square."""
    widths = [(run.throughput_ci95_tps or 0.0) / Z95 / run.throughput_tps for run in counted]
    return math.sqrt(mean([width * width for width in widths]))


def figures(counted: Sequence[Measurement], between: Spread | None) -> Figures | None:
    """What these runs of a cell amount to; None for none.

    tok/s is their plain mean. The half-width of its interval is the wider of what the runs' own
    intervals say (root mean square / √runs) and what the spread between runs says (Student's t × spread
    × tok/s / √runs); a single run has only its own.
    """
    if not counted:
        return None
    tps = mean([run.throughput_tps for run in counted])
    own = [run.throughput_ci95_tps for run in counted if run.throughput_ci95_tps is not None]
    within = half_width = math.sqrt(mean([one * one for one in own]) / len(own)) if own else None
    if between is not None and len(counted) > 1:
        apart = t95(between.freedom) * between.share * tps / math.sqrt(len(counted))
        half_width = max(half_width or 0.0, apart)
    return Figures(
        tps=tps,
        half_width=half_width,
        within=within,
        apart=math.sqrt(variance([run.throughput_tps for run in counted]) / len(counted)),
        ttft_p95_ms=_mean(run.ttft_ms.p95 for run in counted),
        stream_p5_tps=_mean(run.per_stream_tps.p5 for run in counted),
        runs=len(counted),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Their mean; None when one is not known."""
    known = list(values)
    return None if None in known else mean([value for value in known if value is not None])


def beyond(found: Figures, slo: Slo) -> float:
    """By what factor the worst bound is missed: at most 1 when all are kept, infinite when not known."""
    ratios = [0.0]
    if slo.ttft_ms is not None:
        ratios.append(math.inf if found.ttft_p95_ms is None else found.ttft_p95_ms / slo.ttft_ms)
    if slo.stream_tps is not None:
        ratios.append(slo.stream_tps / found.stream_p5_tps if found.stream_p5_tps else math.inf)
    return max(ratios)


def keeps(found: Figures, slo: Slo) -> bool:
    """Whether these figures keep every bound of the SLO."""
    return beyond(found, slo) <= 1
