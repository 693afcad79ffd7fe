"""The plain data every room shares: what is asked for, what is, what was measured.

All of it is frozen. A change is a new object, so a snapshot that a viewer holds never moves
under it. Field names that reach ``--json`` or CSV are a contract (see the README).
Units are in the names: ``_ms`` milliseconds, ``_s`` seconds, ``_tps`` tokens a second,
``_bytes`` bytes, ``_pct`` 0 to 100. ``None`` means "not known", never zero.
"""

from __future__ import annotations

from lab_tui.model.asked import (
    FLEET_FORMATS,
    TABLE_FORMATS,
    AxisValue,
    BenchSpec,
    ExportSpec,
    FleetSpec,
    Outline,
    ResultsFile,
    Slo,
    SweepSpec,
    WindowSpec,
    Workload,
)
from lab_tui.model.data import Data, LabError
from lab_tui.model.lab import (
    USER_AGENT,
    VERSION_HEADER,
    BenchEvent,
    EngineInfo,
    Failure,
    History,
    LogLine,
    Snapshot,
)
from lab_tui.model.machine import GpuReading, HostReading, MpsView
from lab_tui.model.measured import (
    ClientCost,
    GpuLoad,
    LoadView,
    MachineLoad,
    Measurement,
    Others,
    Percentiles,
    Phase,
    StreamRate,
    TokenCounts,
)
from lab_tui.model.serving import (
    Felt,
    FrontState,
    FrontTraffic,
    FrontView,
    InstanceState,
    InstanceTraffic,
    InstanceView,
    ModelFile,
    Part,
    SlotsView,
    SlotView,
)
from lab_tui.model.sweeps import Best, Cell, CellStatus, CellView, SweepDetail, SweepStatus, SweepView

__all__ = [
    "FLEET_FORMATS",
    "TABLE_FORMATS",
    "USER_AGENT",
    "VERSION_HEADER",
    "AxisValue",
    "BenchEvent",
    "BenchSpec",
    "Best",
    "Cell",
    "CellStatus",
    "CellView",
    "ClientCost",
    "Data",
    "EngineInfo",
    "ExportSpec",
    "Failure",
    "Felt",
    "FleetSpec",
    "FrontState",
    "FrontTraffic",
    "FrontView",
    "GpuLoad",
    "GpuReading",
    "History",
    "HostReading",
    "InstanceState",
    "InstanceTraffic",
    "InstanceView",
    "LabError",
    "LoadView",
    "LogLine",
    "MachineLoad",
    "Measurement",
    "ModelFile",
    "MpsView",
    "Others",
    "Outline",
    "Part",
    "Percentiles",
    "Phase",
    "ResultsFile",
    "Slo",
    "SlotView",
    "SlotsView",
    "Snapshot",
    "StreamRate",
    "SweepDetail",
    "SweepSpec",
    "SweepStatus",
    "SweepView",
    "TokenCounts",
    "WindowSpec",
    "Workload",
]
