"""Sweeps, cells and figures made by hand."""

from __future__ import annotations

from typing import Any

from lab_tui.model import (
    Cell,
    CellStatus,
    CellView,
    ClientCost,
    FleetSpec,
    Measurement,
    Percentiles,
    StreamRate,
    SweepSpec,
    TokenCounts,
)
from lab_tui.sweep import space


def sweep_spec(**fields: Any) -> SweepSpec:
    """Eight cells."""
    given = {
        "name": "custom",
        "fleet": FleetSpec(model="/models/m.gguf"),
        "axes": {"parallel": (1, 4), "instances": (1, 2), "concurrency": (1, 8)},
    }
    return SweepSpec(**{**given, **fields})


def cells_of(spec: SweepSpec) -> list[Cell]:
    """Its cells."""
    return space.cells(spec)


def measurement(tps: float, ci: float | None = 1.0, **fields: Any) -> Measurement:
    """A measurement of so many tok/s."""
    given: dict[str, Any] = {
        "throughput_tps": tps,
        "throughput_ci95_tps": ci,
        "prompt_tps": 10.0,
        "requests_per_s": 2.0,
        "total_tokens": 1000,
        "elapsed_s": 8.0,
        "requests": 16,
        "concurrency": 8,
        "errors": 0,
        "ttft_ms": Percentiles(p50=10.0, p95=20.0, p99=30.0),
        "itl_ms": Percentiles(p50=1.0),
        "tpot_ms": Percentiles(),
        "e2e_ms": Percentiles(p50=100.0),
        "per_stream_tps": StreamRate(p5=5.0, p50=6.0),
        "tokens": TokenCounts(stream=1000, timings=1000, metrics=1001),
        "client": ClientCost(),
        "verdict": "slots full",
    }
    return Measurement(**{**given, **fields})


def viewed(spec: SweepSpec, *tps: float | None, ci: float | None = 1.0) -> tuple[CellView, ...]:
    """The cells of a sweep, measured with so many tok/s each; ``None`` and the rest are pending."""
    cells = cells_of(spec)
    figures = [*tps, *[None] * (len(cells) - len(tps))]
    return tuple(
        CellView(index=i, cell=cell, status=CellStatus.PENDING)
        if figure is None
        else CellView(
            index=i, cell=cell, status=CellStatus.MEASURED, result=measurement(figure, ci), took_s=10.0
        )
        for i, (cell, figure) in enumerate(zip(cells, figures, strict=True))
    )
