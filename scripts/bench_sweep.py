#!/usr/bin/env python3
"""How near the adaptive search comes, in how little time, on simulated machines.

Each machine (see surfaces.py) is searched over the 308 cells of the preset `full` with many seeds, by
the code that runs real sweeps, confirmation included. Regret is what the chosen cell's true tok/s lack
of the best cell's; time is compared with what llama-throughput-lab takes for the grid:

- llama-throughput-lab (scripts/full_sweep.py): for each of the 28 settings of instances × parallel,
  loads the model once an instance, one after the other (LOAD_S each); then for each concurrency sends as
  many requests of 128 tokens and waits for all of them, no longer than its request timeout of 120 s.
- ours: instances start side by side (LOAD_S, and BESIDE_S for each further one) and only what is
  missing starts; then ramp and warm-up, a window of at least WINDOW_S and a whole request, at most
  MOST_WINDOW_S, and drain.

Exits 1 when a target is missed: median regret 1 %, 95th percentile 3 %, a tenth of the time.
"""

from __future__ import annotations

import argparse
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

import msgspec
from surfaces import MACHINES, Machine, measured

from lab_tui.load.stats import percentile
from lab_tui.model import Cell, CellStatus, CellView, Data, FleetSpec, LabError, Slo, SweepSpec, SweepStatus
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import confirm, course, space

LOAD_S = 3.0  # one model
BESIDE_S = 0.3  # more, for each instance that loads beside it
STOP_S = 1.0  # until the instances before are gone
RAMP_S = 2.5  # warm-up, and until the rate is steady
WINDOW_S, MOST_WINDOW_S = 5.0, 30.0
DRAIN_S = 0.5
TIMEOUT_S = 120.0  # of a request of llama-throughput-lab

MEDIAN_REGRET, P95_REGRET, TIME_SHARE = 0.01, 0.03, 0.10


class Outcome(Data, frozen=True):
    """One search."""

    regret: float
    time_share: float
    cells: int
    runs: int


def search(machine: Machine, spec: SweepSpec, seed: int) -> tuple[StoredSweep, float]:
    """The sweep carried to its end, as the queue does it, and the seconds it took."""
    noise = random.Random(seed)
    views = tuple(
        CellView(index=i, cell=cell, status=CellStatus.PENDING) for i, cell in enumerate(space.cells(spec))
    )
    sweep = StoredSweep(
        id=1, created=0.0, status=SweepStatus.RUNNING, reason="", elapsed_s=0.0, spec=spec, cells=views
    )
    fleet: FleetSpec | None = None
    while True:
        step = course.following(sweep)
        cells = list(sweep.cells)
        for index, why in step.skips.items():
            cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.SKIPPED, reason=why)
        sweep = msgspec.structs.replace(sweep, cells=tuple(cells))
        if step.index is None:
            return sweep, sweep.elapsed_s
        view = cells[step.index]
        took_s = our_cell_s(machine, fleet, view.cell)
        fleet = view.cell.fleet
        cells[step.index] = run_cell(machine, view, sweep.elapsed_s, took_s, noise)
        sweep = msgspec.structs.replace(sweep, cells=tuple(cells), elapsed_s=sweep.elapsed_s + took_s)


def run_cell(machine: Machine, view: CellView, now_s: float, took_s: float, noise: random.Random) -> CellView:
    """The cell after one more run."""
    timed = msgspec.structs.replace(
        view, started=now_s if view.started is None else view.started, took_s=took_s
    )
    try:
        result = measured(machine, view.cell, now_s, noise)
    except LabError as error:
        return msgspec.structs.replace(timed, status=CellStatus.FAILED, reason=str(error))
    if view.result is not None:
        return msgspec.structs.replace(timed, repeats=(*view.repeats, result))
    return msgspec.structs.replace(timed, status=CellStatus.MEASURED, result=result)


def our_cell_s(machine: Machine, before: FleetSpec | None, cell: Cell) -> float:
    """What one run takes after a cell on the fleet ``before``."""
    fleet = cell.fleet
    same = before is not None and msgspec.structs.replace(before, instances=fleet.instances) == fleet
    missing = fleet.instances - (before.instances if same and before else 0)
    start_s = LOAD_S + BESIDE_S * (missing - 1) if missing > 0 else 0.0
    start_s += STOP_S if before is not None and (not same or missing < 0) else 0.0
    if not machine.fits(fleet.instances, fleet.parallel):
        return start_s
    life_s = machine.life_s(fleet.instances, fleet.parallel, cell.concurrency)
    return start_s + RAMP_S + min(max(WINDOW_S, life_s), MOST_WINDOW_S) + DRAIN_S


def their_grid_s(machine: Machine, spec: SweepSpec) -> float:
    """What llama-throughput-lab takes for all cells."""
    total, before = 0.0, None
    for cell in space.cells(spec):
        fleet = cell.fleet
        if fleet != before:
            total += LOAD_S * fleet.instances
        before = fleet
        if machine.fits(fleet.instances, fleet.parallel):
            total += min(machine.life_s(fleet.instances, fleet.parallel, cell.concurrency), TIMEOUT_S)
    return total


def quiet(machine: Machine, spec: SweepSpec) -> list[CellView]:
    """Every cell as it truly is: cold, and without noise."""
    steady = random.Random(0)
    steady.gauss = lambda mu=0.0, sigma=1.0: mu  # type: ignore[method-assign]
    views = [CellView(index=i, cell=c, status=CellStatus.PENDING) for i, c in enumerate(space.cells(spec))]
    return [run_cell(machine, view, 0.0, 0.0, steady) for view in views]


def full() -> SweepSpec:
    """The 308 cells, searched."""
    return msgspec.structs.replace(space.preset("full", FleetSpec(model="m.gguf")), strategy="adaptive")


def outcome(machine: Machine, seed: int) -> Outcome:
    """One search, judged."""
    spec = full()
    sweep, took_s = search(machine, spec, seed)
    truth = {
        cell.index: machine.tps(cell.cell.fleet.instances, cell.cell.fleet.parallel, cell.cell.concurrency)
        for cell in sweep.cells
        if machine.fits(cell.cell.fleet.instances, cell.cell.fleet.parallel)
    }
    chosen = confirm.best(sweep.cells, Slo())
    assert chosen is not None
    tried = [cell for cell in sweep.cells if cell.status != CellStatus.SKIPPED]
    return Outcome(
        1 - truth[chosen] / max(truth.values()),
        took_s / their_grid_s(machine, spec),
        len(tried),
        sum(len(cell.repeats) for cell in tried),
    )


class Row(Data, frozen=True, kw_only=True):
    """All searches of one machine."""

    name: str
    median_regret: float
    p95_regret: float
    time_share: float  # the largest
    cells: float  # the median
    runs: float  # that confirm, the median

    @property
    def kept(self) -> bool:
        """Whether the targets are."""
        return (
            self.median_regret <= MEDIAN_REGRET
            and self.p95_regret <= P95_REGRET
            and self.time_share <= TIME_SHARE
        )


def row(name: str, outcomes: list[Outcome]) -> Row:
    """The figures of one machine."""
    regrets = sorted(one.regret for one in outcomes)
    return Row(
        name=name,
        median_regret=statistics.median(regrets),
        p95_regret=percentile(regrets, 0.95) or 0.0,
        time_share=max(one.time_share for one in outcomes),
        cells=statistics.median(one.cells for one in outcomes),
        runs=statistics.median(one.runs for one in outcomes),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100, help="searches of each machine")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--machine", choices=MACHINES, help="only this one")
    args = parser.parse_args()
    print(f"{'machine':<27}{'regret p50':>11}{'p95':>7}{'time':>8}{'of grid':>9}{'cells':>7}{'again':>7}")
    missed = False
    with ProcessPoolExecutor(args.processes) as pool:
        for name in [args.machine] if args.machine else MACHINES:
            machine = MACHINES[name]
            found = row(name, list(pool.map(outcome, repeat(machine, args.seeds), range(args.seeds))))
            grid_s = their_grid_s(machine, full())
            print(
                f"{name:<27}{found.median_regret:>11.1%}{found.p95_regret:>7.1%}"
                f"{found.time_share:>8.1%}{grid_s:>8,.0f}s{found.cells:>7g}{found.runs:>7g}"
                f"{'' if found.kept else '  missed'}",
                flush=True,
            )
            missed = missed or not found.kept
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
