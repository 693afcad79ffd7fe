"""A sweep: its cells, how far it is, what is best."""

from __future__ import annotations

import enum
from typing import Any

from lab_tui.model.asked import AxisValue, FleetSpec, SweepSpec, Workload
from lab_tui.model.data import Data
from lab_tui.model.measured import Measurement, Phase


class SweepStatus(enum.StrEnum):
    """Where a sweep is in its life. DONE, FAILED and ABORTED are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


class CellStatus(enum.StrEnum):
    """What became of one cell. A failed or skipped cell has a reason and no figures."""

    PENDING = "pending"
    RUNNING = "running"
    MEASURED = "measured"
    FAILED = "failed"
    SKIPPED = "skipped"


class Best(Data, frozen=True, kw_only=True):
    """The best cell so far."""

    cell: int  # its number in the sweep, from 1
    instances: int
    parallel: int
    concurrency: int
    throughput_tps: float  # the mean of its runs
    throughput_ci95_tps: float | None
    runs: int = 1  # how often it was measured
    confirmed: bool = False  # measured again, and steady


class SweepView(Data, frozen=True, kw_only=True):
    """One sweep in the queue, as a line on the screen."""

    id: int
    name: str
    strategy: str
    status: SweepStatus
    reason: str = ""
    created: float  # unix time
    cells_total: int
    cells_measured: int = 0
    cells_failed: int = 0
    cells_skipped: int = 0
    elapsed_s: float = 0.0
    eta_s: float | None = None
    best: Best | None = None
    now: str = ""  # the cell being worked on, such as "2×4 c=16"
    phase: Phase | None = None


class Cell(Data, frozen=True, kw_only=True):
    """One point of settings."""

    fleet: FleetSpec
    concurrency: int
    workload: Workload
    axes: dict[str, AxisValue]  # the values that make it this cell


class CellView(Data, frozen=True, kw_only=True):
    """One cell of a sweep and what became of it."""

    index: int  # place in the order of the sweep
    cell: Cell
    status: CellStatus
    reason: str = ""
    result: Measurement | None = None  # as it is kept: of the first run; as it is shown: see `runs_tps`
    repeats: tuple[Measurement, ...] = ()  # of those that confirm it, in order; as they are kept
    # As it is shown: of every run, where `result` has the tok/s of all, and all else of the one it names.
    runs_tps: tuple[float, ...] = ()
    started: float | None = None  # unix time
    took_s: float | None = None  # the first run, with start-up, warm-up and drain
    context: dict[str, Any] = {}  # commands, nginx.conf, versions, model hash, last log lines


class SweepDetail(Data, frozen=True, kw_only=True):
    """One sweep with all its cells."""

    view: SweepView
    spec: SweepSpec
    cells: tuple[CellView, ...]
    tied: tuple[Best, ...] = ()  # what cannot be told apart from the best, least resources first
