"""What a sweep amounts to so far: its line in the queue, the best cell, and what ties with it."""

from __future__ import annotations

from collections.abc import Sequence

from lab_tui.model import Best, CellStatus, CellView, Phase, SweepDetail, SweepView
from lab_tui.store.store import StoredSweep

START_GUESS_S = 3.0  # a cell's start, warm-up and drain, before one was timed


def best(cells: Sequence[CellView]) -> Best | None:
    """The measured cell with the most tok/s; None before there is one."""
    measured = [cell for cell in cells if cell.result is not None]
    return _best(max(measured, key=_tps)) if measured else None


def tied(cells: Sequence[CellView]) -> tuple[Best, ...]:
    """The cells that cannot be told apart from the best, it included, least resources first.

    Two cells tie when their 95 % intervals meet. Empty when the best stands alone.
    """
    measured = [cell for cell in cells if cell.result is not None]
    if not measured:
        return ()
    top = max(measured, key=_tps)
    floor = _tps(top) - _half_width(top)
    equals = [cell for cell in measured if _tps(cell) + _half_width(cell) >= floor]
    return tuple(_best(cell) for cell in sorted(equals, key=_resources)) if len(equals) > 1 else ()


def view(
    sweep: StoredSweep, *, now: str = "", phase: Phase | None = None, running_s: float = 0.0
) -> SweepView:
    """One sweep as a line. ``running_s``: how long the cell at work has taken so far."""
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
        eta_s=max(0.0, open_cells * _cell_s(sweep) - running_s) if open_cells else None,
        best=best(sweep.cells),
        now=now,
        phase=phase,
    )


def detail(sweep: StoredSweep, line: SweepView) -> SweepDetail:
    """One sweep with all its cells."""
    return SweepDetail(view=line, spec=sweep.spec, cells=sweep.cells, tied=tied(sweep.cells))


def _cell_s(sweep: StoredSweep) -> float:
    """How long a cell takes: the mean of those timed, or the most its window may take."""
    timed = [cell.took_s for cell in sweep.cells if cell.result is not None and cell.took_s]
    return sum(timed) / len(timed) if timed else sweep.spec.window.max_s + START_GUESS_S


def _tps(cell: CellView) -> float:
    assert cell.result is not None
    return cell.result.throughput_tps


def _half_width(cell: CellView) -> float:
    assert cell.result is not None
    return cell.result.throughput_ci95_tps or 0.0


def _resources(cell: CellView) -> tuple[int, int, int]:
    fleet = cell.cell.fleet
    return (fleet.instances * fleet.parallel, fleet.instances, cell.cell.concurrency)


def _best(cell: CellView) -> Best:
    assert cell.result is not None
    return Best(
        cell=cell.index + 1,
        instances=cell.cell.fleet.instances,
        parallel=cell.cell.fleet.parallel,
        concurrency=cell.cell.concurrency,
        throughput_tps=cell.result.throughput_tps,
        throughput_ci95_tps=cell.result.throughput_ci95_tps,
    )
