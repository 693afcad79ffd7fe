"""What a sweep amounts to so far: its line in the queue, the best cell, and what ties with it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lab_tui.model import (
    Best,
    CellStatus,
    CellView,
    Data,
    LoadView,
    Measurement,
    Phase,
    Slo,
    SweepDetail,
    SweepStatus,
    SweepView,
    WindowSpec,
)
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import confirm, course
from lab_tui.sweep.plan import slots
from lab_tui.sweep.runs import (
    WRONG,
    Figures,
    Spread,
    alone_tps,
    beyond,
    drift,
    figures,
    keeps,
    repeated,
    runs,
    spread,
)
from lab_tui.sweep.space import label
from lab_tui.sweep.verdict import UNSTABLE, is_shared
from lab_tui.text import plural

OVER = (SweepStatus.DONE, SweepStatus.FAILED, SweepStatus.ABORTED)
RUNS = "runs_tps"  # in the context of an imported cell: the tok/s of its runs, where the file has them
OF_ONE_RUN = "all but tok/s and its interval is of this one, the nearest to the mean"
DRIFT_WORTH_SAYING = 0.01  # as a share of tok/s


class Amount(Data, frozen=True, kw_only=True):
    """What the cells of a sweep amount to."""

    best: Best | None = None
    tied: tuple[Best, ...] = ()  # what cannot be told apart from it, least resources first
    remark: str = ""  # what a user must know of the best, or why there is none


def amount(cells: Sequence[CellView], slo: Slo) -> Amount:
    """The best cell, what ties with it (two 95 % intervals meet), and what must be said about it.

    The best has the most tok/s, as the mean of its runs, of all cells that are sound and keep the SLO.
    Where every cell is unstable, the one with the most tok/s is given all the same, as not confirmed:
    on a machine that is never quiet that is worth more than nothing. A failing cell is never given.
    """
    found = confirm.known(cells, slo)
    index = confirm.best(cells, slo)
    if index is None:
        return _without_sound(cells, slo)
    equals = [cells[i] for i in confirm.tied(found, index)]
    ties = [_best(cell, found[cell.index]) for cell in sorted(equals, key=_resources)]
    return Amount(
        best=_best(cells[index], found[index]),
        tied=tuple(ties) if len(ties) > 1 else (),
        remark="; ".join(filter(None, (say(cells, found, index) for say in REMARKS))),
    )


def _passed_over(cells: Sequence[CellView], found: confirm.Known, best: int) -> str:
    """That unstable cells made more than the best: whoever reads the table will ask."""
    rates = [
        run.throughput_tps
        for cell in cells
        for run in runs(cell)[:1]
        if cell.index not in found
        and run.verdict == UNSTABLE
        and not is_shared(run)
        and run.throughput_tps > found[best].tps
    ]
    if not rates:
        return ""
    return f"{plural(len(rates), 'cell')} made more, up to {max(rates):,.0f} tok/s, but unstable: no winner"


def _never_alone(cells: Sequence[CellView], found: confirm.Known, best: int) -> str:
    """That cells might have made more than the best, had others not had a share of every run."""
    last = [runs(cell)[-1] for cell in cells if cell.index not in found and runs(cell)]
    count = sum(is_shared(run) and alone_tps(run) > found[best].tps for run in last)
    if not count:
        return ""
    return f"{plural(count, 'cell')} may make more: others asked the instances while they were measured"


def _without_sound(cells: Sequence[CellView], slo: Slo) -> Amount:
    """What there is to say where no cell can win."""
    between = spread(map(runs, cells))
    shown = {cell.index: one for cell in cells if (one := figures(runs(cell), between))}
    if not shown:
        return Amount()
    sound = confirm.known(cells, Slo())
    if sound:
        nearest = min(sound, key=lambda index: beyond(sound[index], slo))
        return Amount(remark=f"no cell kept the SLO; nearest: {_missed(cells[nearest], sound[nearest], slo)}")
    shaky = {cell.index for cell in cells if not any(run.verdict in WRONG for run in runs(cell))}
    kept = [index for index, one in shown.items() if index in shaky and keeps(one, slo)]
    if not kept:
        return Amount(remark="every measured cell is failing")
    top = max(kept, key=lambda index: shown[index].tps)
    unconfirmed = msgspec.structs.replace(_best(cells[top], shown[top]), confirmed=False)
    return Amount(
        best=unconfirmed, remark="every cell is unstable or too widely known: the best is not confirmed"
    )


def _missed(cell: CellView, found: Figures, slo: Slo) -> str:
    """A cell, and the bounds it misses."""
    words = []
    if slo.ttft_ms is not None and (found.ttft_p95_ms is None or found.ttft_p95_ms > slo.ttft_ms):
        seen = "unknown" if found.ttft_p95_ms is None else f"{found.ttft_p95_ms:,.0f} ms"
        words.append(f"p95 TTFT {seen}, {slo.ttft_ms:g} ms at most")
    if slo.stream_tps is not None and (found.stream_p5_tps or 0.0) < slo.stream_tps:
        seen = "unknown" if found.stream_p5_tps is None else f"{found.stream_p5_tps:,.1f}"
        words.append(f"p5 of per-stream tok/s {seen}, {slo.stream_tps:g} at least")
    return f"{label(cell.cell)} ({'; '.join(words)})"


def _drift_text(cells: Sequence[CellView], found: confirm.Known, best: int) -> str:
    """That the machine is not what it was when the cells were first measured."""
    change = drift(cells)
    if change is None or abs(change) < DRIFT_WORTH_SAYING:
        return ""
    first = cells[best].result
    assert first is not None
    return (
        f"drift: measured again, the top cells made {change:+.0%} tok/s "
        f"({label(cells[best].cell)} {first.throughput_tps:,.0f} at first), so only those runs count"
    )


REMARKS = (_drift_text, _passed_over, _never_alone)


def view(
    sweep: StoredSweep,
    *,
    now: str = "",
    load: LoadView | None = None,
    running_s: float = 0.0,
    found: Amount | None = None,
) -> SweepView:
    """One sweep as a line; ``found`` if known.

    Of the cell at work: its name, its load, and how long it has taken so far.
    """
    found = amount(sweep.cells, sweep.spec.slo) if found is None else found
    counts = {status: sum(c.status == status for c in sweep.cells) for status in CellStatus}
    open_cells = counts[CellStatus.PENDING] + counts[CellStatus.RUNNING]
    return SweepView(
        id=sweep.id,
        name=sweep.spec.name,
        strategy=sweep.spec.strategy,
        status=sweep.status,
        reason=sweep.reason,
        created=sweep.created,
        cells_total=len(sweep.cells),
        cells_measured=counts[CellStatus.MEASURED],
        cells_failed=counts[CellStatus.FAILED],
        cells_skipped=counts[CellStatus.SKIPPED],
        elapsed_s=sweep.elapsed_s + running_s,
        eta_s=_eta_s(sweep, open_cells, running_s, load),
        best=found.best,
        now=now,
        phase=load.phase if load else None,
    )


def closing_words(sweep: StoredSweep) -> str:
    """What a user must know of a sweep that is done, one line; "" when nothing."""
    out = [cell.reason for cell in sweep.cells if cell.status == CellStatus.SKIPPED]
    cut = [reason for reason in out if reason.startswith(course.budget_words(sweep.spec))]
    budget = (
        f"{cut[0]}: {plural(len(cut), 'cell')} left out" if sweep.spec.budget_s is not None and cut else ""
    )
    return "; ".join(filter(None, (amount(sweep.cells, sweep.spec.slo).remark, budget)))


def detail(sweep: StoredSweep, line: SweepView) -> SweepDetail:
    """One sweep with all its cells."""
    return SweepDetail(
        view=line,
        spec=sweep.spec,
        cells=shown(sweep.cells),
        tied=amount(sweep.cells, sweep.spec.slo).tied,
    )


def shown(cells: Sequence[CellView]) -> tuple[CellView, ...]:
    """The cells as they are shown: those with several runs at the tok/s of them together."""
    found, counted = confirm.known(cells, Slo()), confirm.counting(cells)
    between = spread(map(runs, cells))
    return tuple(_together(cell, found.get(cell.index), counted(cell), between) for cell in cells)


def _together(
    cell: CellView, found: Figures | None, counted: Sequence[Measurement], between: Spread | None
) -> CellView:
    """A cell as it is shown: tok/s and interval of its runs together, all else of one, named in the flags.

    That one is the nearest to their mean, of those that are not unstable where there are any: verdict and
    notes of several runs have no mean, and figures of different ones would not belong together.
    """
    if cell.result is None or not cell.repeats:
        return msgspec.structs.replace(cell, runs_tps=tuple(cell.context.get(RUNS, ())))
    every = runs(cell)
    counted = counted if found else every
    shown = found or figures(every, between)
    assert shown is not None  # it has runs
    steady = [run for run in counted if run.verdict != UNSTABLE] or counted
    nearest = min(steady, key=lambda run: abs(run.throughput_tps - shown.tps))
    number = next(place for place, run in enumerate(every, start=1) if run is nearest)
    result = msgspec.structs.replace(
        nearest,
        throughput_tps=shown.tps,
        throughput_ci95_tps=shown.half_width,
        flags=(f"run {number} of {len(every)}: {OF_ONE_RUN}", *nearest.flags),
    )
    rates = tuple(run.throughput_tps for run in every)
    return msgspec.structs.replace(cell, result=result, repeats=(), runs_tps=rates)


def _eta_s(sweep: StoredSweep, open_cells: int, running_s: float, load: LoadView | None) -> float | None:
    """Time to go, up to about, confirmation included; None when nothing is left.

    How long starts and warm-ups take is guessed until cells were timed. A run that takes longer than was to
    be expected takes no time from those after it.
    """
    if sweep.status in OVER:
        return None
    expected = course.pace(sweep, open_cells)
    if not expected.to_go_s:
        return None
    left_of_run_s = max(expected.each_s - running_s, _least_s(sweep.spec.window, load) if running_s else 0.0)
    most = max(0.0, expected.to_go_s - expected.each_s) + left_of_run_s
    left_s = course.time_left_s(sweep)
    return most if left_s is None else max(0.0, min(most, left_s - running_s))


def _least_s(window: WindowSpec, load: LoadView | None) -> float:
    """What the run at work still takes at the least: the shortest window, or what is left of it."""
    if window.requests is not None or (load and load.phase in (Phase.DRAINING, Phase.CALIBRATING)):
        return 0.0
    if load is None or load.phase is not Phase.MEASURING:
        return window.min_s
    return max(0.0, window.min_s - (load.phase_s or 0.0))


def _resources(cell: CellView) -> tuple[int, int, int]:
    return (slots(cell), cell.cell.fleet.instances, cell.cell.concurrency)


def _best(cell: CellView, found: Figures) -> Best:
    return Best(
        cell=cell.index + 1,
        instances=cell.cell.fleet.instances,
        parallel=cell.cell.fleet.parallel,
        concurrency=cell.cell.concurrency,
        throughput_tps=found.tps,
        throughput_ci95_tps=found.half_width,
        runs=found.runs,
        confirmed=bool(repeated(cell)),
    )
