"""Results as tables: CSV that llama-throughput-lab's scripts read, JSON and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from lab_tui.model import CellView, MachineLoad, Measurement, Percentiles, SweepDetail

# llama-throughput-lab's own nine columns, in its order; ours follow.
NINE = (
    "instances", "parallel", "batch", "ubatch", "concurrency",
    "throughput_tps", "total_tokens", "elapsed_s", "errors",
)  # fmt: skip
# Figures of a measurement that have a column of their own name, and those that have one a rank.
PLAIN = (
    "throughput_ci95_tps", "prompt_tps", "requests", "requests_per_s", "goodput_rps", "output_tokens_mean",
)  # fmt: skip
RANKED = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")
RANKS = ("p50", "p95", "p99")
BETWEEN_FLAGS = "; "


def rank_column(figure: str, rank: str) -> str:
    """The column of one rank: ``ttft_ms``, ``p95`` → ``ttft_p95_ms``."""
    return f"{figure.removesuffix('_ms')}_{rank}_ms"


def row(cell: CellView) -> dict[str, Any]:
    """One cell, flat. What was not measured is ``None``: a failed cell has a reason, never a zero."""
    fleet, result = cell.cell.fleet, cell.result
    flat: dict[str, Any] = {
        "instances": fleet.instances,
        "parallel": fleet.parallel,
        "batch": fleet.batch,
        "ubatch": fleet.ubatch,
        "concurrency": cell.cell.concurrency,
    }
    flat |= _figures(result)
    flat |= {"status": str(cell.status), "reason": cell.reason, "took_s": cell.took_s}
    flat["runs_tps"] = " ".join(f"{tps:.1f}" for tps in cell.runs_tps) or None
    flat |= {name: value for name, value in cell.cell.axes.items() if name not in flat}
    machine = (result.machine if result else None) or MachineLoad()
    return flat | _cards(machine) | {"other_work_pct": machine.other_work_pct}


def _figures(result: Measurement | None) -> dict[str, Any]:
    """The figures of a measurement, flat; the same keys with None when there is none."""
    flat: dict[str, Any] = {name: getattr(result, name, None) for name in (*NINE[5:], *PLAIN)}
    for name in RANKED:
        ranks = getattr(result, name, Percentiles())
        flat |= {rank_column(name, rank): getattr(ranks, rank) for rank in RANKS}
    flat["per_stream_p5_tps"] = result.per_stream_tps.p5 if result else None
    flat["per_stream_p50_tps"] = result.per_stream_tps.p50 if result else None
    flat |= _machine((result.machine if result else None) or MachineLoad())
    flat["verdict"] = result.verdict if result else None
    flat["flags"] = BETWEEN_FLAGS.join(result.flags) if result else None
    return flat


def _machine(machine: MachineLoad) -> dict[str, Any]:
    """The machine's readings, flat; of several cards the busiest, their memory and power together."""
    return {
        "cpu_pct": machine.cpu_pct,
        "rss_bytes": machine.rss_bytes,
        "slots_busy": machine.slots_busy,
        "queue_depth": machine.queue_depth,
        "gpu_util_pct": max((g.util_pct for g in machine.gpus if g.util_pct is not None), default=None),
        "gpu_memory_bytes": _total(g.memory_bytes for g in machine.gpus),
        "gpu_power_w": _total(g.power_w for g in machine.gpus),
        "joules_per_token": machine.joules_per_token,
    }


def _cards(machine: MachineLoad) -> dict[str, Any]:
    """More of the cards: peaks of the busiest, energy and where it comes from, and what slowed them."""
    reasons = dict.fromkeys(reason for gpu in machine.gpus for reason in gpu.throttled or ())
    told = any(gpu.throttled is not None for gpu in machine.gpus)
    return {
        "gpu_util_peak_pct": max(
            (g.util_peak_pct for g in machine.gpus if g.util_peak_pct is not None), default=None
        ),
        "gpu_memory_mean_bytes": _total(g.memory_mean_bytes for g in machine.gpus),
        "gpu_power_peak_w": _total(g.power_peak_w for g in machine.gpus),
        "tokens_per_joule": machine.tokens_per_joule,
        "energy_from": machine.energy_from or None,
        "gpu_slowed_by": (", ".join(reasons) or "nothing") if told else None,
        "gpu_every_s": machine.cards_every_s,
    }


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def to_csv(detail: SweepDetail) -> str:
    """Every cell that is over, a line each, the nine columns first."""
    rows = [row(cell) for cell in detail.cells if cell.status in ("measured", "failed", "skipped")]
    names = list(dict.fromkeys([*NINE, *_figures(None), *(name for r in rows for name in r)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(detail: SweepDetail) -> dict[str, Any]:
    """One sweep as ``sweep --json`` prints it."""
    view = detail.view
    return {
        "id": view.id,
        "name": view.name,
        "status": str(view.status),
        "reason": view.reason,
        "cells_total": view.cells_total,
        "cells_measured": view.cells_measured,
        "cells_failed": view.cells_failed,
        "cells_skipped": view.cells_skipped,
        "elapsed_s": view.elapsed_s,
        "best": msgspec.to_builtins(view.best),
        "tied": msgspec.to_builtins(detail.tied),
        "cells": [row(cell) for cell in detail.cells],
    }


def to_json_text(detail: SweepDetail) -> str:
    """The same as a document."""
    return msgspec.json.format(msgspec.json.encode(to_json(detail)), indent=2).decode() + "\n"


MARKDOWN = ("instances", "parallel", "concurrency", "throughput_tps", "throughput_ci95_tps", "ttft_p95_ms",
            "per_stream_p50_tps", "verdict", "status", "reason")  # fmt: skip


def to_markdown(detail: SweepDetail) -> str:
    """A table for a report: the main columns, one line a cell, and the best below it."""
    columns = (*MARKDOWN[:3], *(name for name in detail.spec.axes if name not in MARKDOWN), *MARKDOWN[3:])
    lines = [
        f"# Sweep {detail.view.id}: {detail.view.name}",
        "",
        _line(columns),
        _line(["---"] * len(columns)),
    ]
    lines += [_line([_short(row(cell)[name]) for name in columns]) for cell in detail.cells]
    best = detail.view.best
    if best is not None:
        lines += [
            "",
            f"Best: {best.instances}×{best.parallel} c={best.concurrency}, {best.throughput_tps:,.1f} tok/s",
        ]
    return "\n".join(lines) + "\n"


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _short(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())
