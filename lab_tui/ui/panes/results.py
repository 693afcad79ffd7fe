"""What a sweep found, as curves, as table rows and as one cell in full."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from lab_tui.model import CellView, MachineLoad, Measurement, SweepDetail
from lab_tui.text import energy
from lab_tui.ui import format as fmt
from lab_tui.ui.panes.commands import broken
from lab_tui.ui.theme import BAD, CELL
from lab_tui.ui.widgets.plot import Chart, Curve
from lab_tui.ui.widgets.table import Row

MOST_CURVES = 6
COLUMNS = ("#", "cell", "state", "tok/s", "±", "TTFT p95", "1 stream", "feels", "verdict or reason")
FALLING = ("tok/s", "1 stream")
FIGURES = ("#", "tok/s", "±", "TTFT p95", "1 stream")

Point = tuple[float, float]


# --- charts -----------------------------------------------------------------------------------


def charts(detail: SweepDetail) -> tuple[Chart, ...]:
    """Total and per-stream tok/s against streams, one line a configuration; the Pareto front."""
    lines: dict[str, list[tuple[int, Measurement]]] = {}
    for view in detail.cells:
        if view.result is not None:
            lines.setdefault(_configuration(view), []).append((view.cell.concurrency, view.result))
    ranked = sorted(lines, key=lambda name: -max(result.throughput_tps for _, result in lines[name]))
    chosen = ranked[:MOST_CURVES]
    best = f" ({MOST_CURVES} best of {len(ranked)})" if len(ranked) > MOST_CURVES else ""
    total, single = [], []
    for name in chosen:
        held = sorted(lines[name], key=lambda one: one[0])
        total.append(Curve(name, tuple((streams, result.throughput_tps) for streams, result in held)))
        single.append(
            Curve(
                name,
                tuple((s, one) for s, result in held if (one := result.per_stream_tps.p50) is not None),
            )
        )
    return (
        Chart(f"tok/s against streams{best}", tuple(total)),
        Chart(f"tok/s of one stream against streams{best}", tuple(single)),
        pareto(detail),
    )


def _configuration(view: CellView) -> str:
    """Everything of a cell but its streams."""
    fleet = view.cell.fleet
    return fmt.settings(fleet.instances, fleet.parallel, rest=view.cell.axes)


def pareto(detail: SweepDetail) -> Chart:
    """Total tok/s against that of one stream: the cells that nothing beats in both, and the others."""
    points = [
        (one, view.result.throughput_tps)
        for view in detail.cells
        if view.result is not None and (one := view.result.per_stream_tps.p50) is not None
    ]
    best = front(points)
    beaten = sorted(set(points) - set(best), key=lambda point: -point[1])
    curves = (Curve("Pareto front", tuple(best)), Curve("beaten", tuple(beaten), joined=False))
    return Chart("total against one stream's tok/s", curves, doubling=False)


def front(points: Sequence[Point]) -> list[Point]:
    """The points of which no other has as much of both, in rising order of the first."""
    kept: list[Point] = []
    most = float("-inf")
    for point in sorted(set(points), reverse=True):
        if point[1] > most:
            kept.append(point)
            most = point[1]
    return kept[::-1]


# --- the table --------------------------------------------------------------------------------


def table_row(view: CellView) -> Row:
    """One cell as a row of the table."""
    look, result = CELL[view.status], view.result
    name = fmt.axes(view.cell)
    head = (str(view.index + 1), name, f"{look.glyph} {look.word}")
    place = (view.index, name, look.word)
    if result is None:
        words = (*head, *[fmt.UNKNOWN] * 5, view.reason)
        return Row(words, (*place, *[None] * 5, view.reason), ("", "", look.style, *[""] * 5, look.style))
    one, half, tps = result.per_stream_tps.p50, result.throughput_ci95_tps, result.throughput_tps
    figures = (
        fmt.rate(tps),
        fmt.interval_share(half, tps),
        fmt.milliseconds(result.ttft_ms.p95),
        fmt.rate(one),
    )
    share = half / tps if half is not None and tps else None
    errors = f"{fmt.plural(result.errors, 'error')}; " if result.errors else ""
    flags = f" ({', '.join(result.flags)})" if result.flags else ""
    said = fmt.signed(f"{errors}{result.verdict}{flags}")
    return Row(
        (*head, *figures, result.feels or fmt.UNKNOWN, said),
        (*place, tps, share, result.ttft_ms.p95, one, one, said),  # "feels" goes by the rate it names
        ("", "", look.style, *[""] * 5, BAD if errors else ""),
    )


# --- one cell ---------------------------------------------------------------------------------


def _machine_lines(machine: MachineLoad | None) -> list[str]:
    """Slots, processor and cards while the window was open; none when another machine served."""
    if machine is None:
        return []
    lines = [
        f"machine      slots busy {fmt.rate(machine.slots_busy)}, queue {fmt.rate(machine.queue_depth)},"
        f" CPU {fmt.percent(machine.cpu_pct)} (other work {fmt.percent(machine.other_work_pct)}),"
        f" RSS {fmt.size(machine.rss_bytes)}"
    ]
    for gpu in machine.gpus:
        lines.append(
            f"{f'GPU {gpu.index}':<12} {fmt.percent(gpu.util_pct)} (peak {fmt.percent(gpu.util_peak_pct)}),"
            f" {fmt.size(gpu.memory_bytes)}, {fmt.rate(gpu.power_w)} W (peak {fmt.rate(gpu.power_peak_w)} W)"
        )
    if machine.joules_per_token is not None:
        said = energy(machine.joules_per_token, machine.tokens_per_joule, machine.energy_from)
        lines.append(f"energy       {said}")
    return lines


def cell_text(view: CellView) -> str:
    """One cell in full, as plain lines."""
    lines = [f"cell {view.index + 1}: {fmt.axes(view.cell)}, {view.status}"]
    if view.reason:
        lines.append(view.reason)
    if view.result is not None:
        lines += _measured_lines(view, view.result)
    if view.took_s is not None:
        lines.append(f"took         {fmt.duration(view.took_s)} with start-up, warm-up and drain")
    return fmt.signed("\n".join(lines))


def _measured_lines(view: CellView, result: Measurement) -> list[str]:
    share = fmt.interval_share(result.throughput_ci95_tps, result.throughput_tps)
    lines = [
        f"tok/s        {fmt.rate(result.throughput_tps)} {share}, prompt {fmt.rate(result.prompt_tps)}",
        f"per stream   p50 {fmt.rate(result.per_stream_tps.p50)}, p5 {fmt.rate(result.per_stream_tps.p5)}"
        f"  {result.feels}",
    ]
    if len(view.runs_tps) > 1:
        lines.insert(1, f"runs         {', '.join(map(fmt.rate, view.runs_tps))}")
    for name, held in (
        ("TTFT", result.ttft_ms),
        ("ITL", result.itl_ms),
        ("TPOT", result.tpot_ms),
        ("E2E", result.e2e_ms),
    ):
        p50, p95, p99 = (fmt.milliseconds(one) for one in (held.p50, held.p95, held.p99))
        lines.append(f"{name:<12} p50 {p50}, p95 {p95}, p99 {p99}")
    tokens, kinds = result.tokens, result.errors_by_kind
    named = f" ({', '.join(f'{kind} {number:,}' for kind, number in kinds.items())})" if kinds else ""
    closed = result.window_closed_by or fmt.UNKNOWN
    lines += [
        f"window       {fmt.duration(result.elapsed_s)}, closed by {closed}",
        f"requests     {fmt.count(result.requests)}, errors {result.errors:,}{named}",
        f"tokens       by stream {fmt.count(tokens.stream)}, by timings {fmt.count(tokens.timings)},"
        f" by /metrics {fmt.count(tokens.metrics)}",
    ]
    if result.goodput_rps is not None:
        lines.append(f"goodput      {fmt.rate(result.goodput_rps)} requests/s within the SLO")
    if result.tokens_by_instance:
        shares = ", ".join(f"{index}: {number:,}" for index, number in result.tokens_by_instance.items())
        lines.append(f"by instance  {shares}")
    return [
        *lines,
        *_machine_lines(result.machine),
        f"verdict      {result.verdict or fmt.UNKNOWN}",
        *(f"             {reading}" for reading in result.verdict_readings),
        *(f"note         {flag}" for flag in result.flags),
    ]


def commands(view: CellView) -> list[str]:
    """The command line of every instance, kept to its cards and cores, as a shell takes it."""
    return [shlex.join(words) for words in _commands(view)]


def _commands(view: CellView) -> list[list[str]]:
    held = view.context.get("commands", [])
    seats = view.context.get("seats") or [{}] * len(held)
    return [[*_seated(seat), *map(str, words)] for seat, words in zip(seats, held, strict=False)]


def _seated(seat: dict[str, Any]) -> list[str]:
    """What keeps a command to the cards and cores of a seat."""
    words = [f"{name}={value}" for name, value in (seat.get("environment") or {}).items()]
    return words + (["taskset", "-c", str(seat["cores"])] if seat.get("cores") else [])


def ran_on(view: CellView, width: int) -> list[str]:
    """What a cell ran on: commands, then whatever else was kept with it."""
    lines: list[str] = []
    for index, words in enumerate(_commands(view)):
        lines += [f"# instance {index}", *broken(words, width), ""]
    for name, held in view.context.items():
        if name in ("commands", "seats"):
            continue
        lines.append(f"# {name.replace('_', ' ')}")
        if isinstance(held, dict):
            lines += [f"{key}: {value}" for key, value in held.items()]
        else:
            lines += [str(line) for line in held] if isinstance(held, list) else str(held).splitlines()
        lines.append("")
    return lines[:-1]
