"""What a sweep found, as a heat map, as curves and as table rows."""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text
from textual.content import Content

from lab_tui.model import AxisValue, CellStatus, CellView, MachineLoad, SweepDetail
from lab_tui.ui import format as fmt
from lab_tui.ui.theme import CELL, GOOD, MUTED, STRONG, WARN, heat
from lab_tui.ui.widgets.plot import Chart, Curve

SHADES = " ░▒▓█"
MOST_CURVES = 6
TABLE_STYLE = {CellStatus.MEASURED: "green", CellStatus.FAILED: "red", CellStatus.RUNNING: "cyan"}
COLUMNS = ("#", "cell", "state", "tok/s", "±", "TTFT p95", "1 stream", "feels", "verdict or reason")


class Point(NamedTuple):
    """What a heat map knows of one of its squares."""

    best: float | None
    status: CellStatus


def heat_axes(detail: SweepDetail) -> tuple[str, str]:
    """The two axes of the heat map: instances and slots, or what varies instead. "" is none."""
    names = [name for name, values in detail.spec.axes.items() if len(values) > 1]
    fleet = [name for name in ("instances", "parallel") if name in names]
    rest = [name for name in names if name not in ("instances", "parallel", "concurrency")]
    order = [*fleet, *rest, "concurrency"]
    return order[0], order[1] if len(order) > 1 else ""


def value(view: CellView, axis: str) -> AxisValue:
    """What an axis is set to in a cell."""
    return view.cell.axes.get(axis, view.cell.concurrency if axis == "concurrency" else "")


def heat_map(detail: SweepDetail, width: int) -> list[Content]:
    """Best tok/s over whatever else varies: rows and columns are the two axes of the fleet."""
    down, across = heat_axes(detail)
    points = _points(detail, down, across)
    rows = sorted({row for row, _ in points}, key=_order)
    columns = sorted({column for _, column in points}, key=_order)
    top = max((point.best for point in points.values() if point.best is not None), default=0.0)
    names = {"parallel": "slots each"}
    left = max(max((len(str(row)) for row in rows), default=1), len(names.get(down, down))) + 2
    cell = min(max((width - left) // max(len(columns), 1), 6), 12)
    fitting = columns[: max((width - left) // cell, 1)]
    more = f"  (+{len(columns) - len(fitting)} to the right)" if len(fitting) < len(columns) else ""
    lines = [
        Content.styled(f" {'':>{left - 1}}{names.get(across, across)} →{more}", MUTED),
        Content.styled(
            f" {names.get(down, down):<{left - 1}}" + "".join(f"{c!s:>{cell}}" for c in fitting), MUTED
        ),
    ]
    for row in rows:
        parts = [_square(points.get((row, column)), top, cell) for column in fitting]
        lines.append(Content.assemble((f" {row!s:<{left - 1}}", MUTED), *parts))
    scale = f" best tok/s: {SHADES[1]} low, {SHADES[4]} {fmt.rate(top)}" if top else ""
    lines.append(Content.styled(scale, MUTED))
    if detail.view.best is not None:
        lines += [Content(), Content.assemble(" best ", (fmt.best(detail.view.best), GOOD))]
    if detail.view.reason:
        lines.append(Content.styled(f" {detail.view.reason}", WARN))
    if detail.tied:
        lines.append(Content.styled(" these cannot be told apart, leanest first:", MUTED))
        lines += [Content(f"  {fmt.best(tied)}") for tied in detail.tied]
    return lines


def _order(value: AxisValue) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, value)


def _points(detail: SweepDetail, down: str, across: str) -> dict[tuple[AxisValue, AxisValue], Point]:
    points: dict[tuple[AxisValue, AxisValue], Point] = {}
    weight = [
        CellStatus.SKIPPED,
        CellStatus.FAILED,
        CellStatus.PENDING,
        CellStatus.MEASURED,
        CellStatus.RUNNING,
    ]
    for view in detail.cells:
        key = (value(view, down), value(view, across) if across else "")
        tps = view.result.throughput_tps if view.result else None
        old = points.get(key)
        if old is None:
            points[key] = Point(tps, view.status)
        else:
            known = [one for one in (old.best, tps) if one is not None]
            status = max(old.status, view.status, key=weight.index)
            points[key] = Point(max(known) if known else None, status)
    return points


def _square(point: Point | None, top: float, width: int) -> Content:
    if point is None:
        return Content(" " * width)
    look = CELL[point.status]
    if point.best is None:
        return Content.styled(look.glyph.rjust(width), look.style)
    shade = SHADES[min(1 + int(3.999 * point.best / top), 4)] if top else SHADES[1]
    style = STRONG if point.best >= top else ""
    running = f"{look.glyph}" if point.status is CellStatus.RUNNING else ""
    number = f"{running}{fmt.rate(point.best) if width > 7 else f'{point.best:.0f}'}"
    colour = heat(point.best / top) if top else ""
    return Content.assemble((f"{number:>{width - 2}}", style), " ", (shade, colour))


def curves(detail: SweepDetail) -> tuple[Chart, Chart]:
    """Total and per-stream tok/s against concurrency, one line a configuration, the best ones."""
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for view in detail.cells:
        if view.result is None:
            continue
        rest = [
            f"{k}={v}" for k, v in view.cell.axes.items() if k not in ("instances", "parallel", "concurrency")
        ]
        name = " ".join((f"{view.cell.fleet.instances}×{view.cell.fleet.parallel}", *rest))
        rate = view.result.per_stream_tps.p50
        lines.setdefault(name, []).append((view.cell.concurrency, view.result.throughput_tps, rate))
    ranked = sorted(lines, key=lambda name: -max(tps for _, tps, _ in lines[name]))
    chosen = ranked[:MOST_CURVES]
    best = f" ({MOST_CURVES} best of {len(ranked)})" if len(ranked) > MOST_CURVES else ""
    total = [
        Curve(name, tuple((c, tps) for c, tps, _ in sorted(lines[name], key=lambda p: p[0])))
        for name in chosen
    ]
    single = [
        Curve(
            name, tuple((c, one) for c, _, one in sorted(lines[name], key=lambda p: p[0]) if one is not None)
        )
        for name in chosen
    ]
    return (
        Chart(f"tok/s against streams{best}", tuple(total)),
        Chart(f"tok/s of one stream against streams{best}", tuple(single)),
    )


def table_row(view: CellView) -> tuple[Text, ...]:
    """One cell as a row of the table, which measures only Rich's text rightly."""
    look, result = CELL[view.status], view.result
    state = Text(f"{look.glyph} {look.word}", TABLE_STYLE.get(view.status, ""))
    head = (Text(str(view.index + 1), justify="right"), Text(fmt.axes(view.cell)), state)
    if result is None:
        blanks = (Text(fmt.UNKNOWN, justify="right"),) * 4
        return (*head, *blanks, Text(fmt.UNKNOWN), Text(view.reason, TABLE_STYLE.get(view.status, "")))
    figures = (
        fmt.rate(result.throughput_tps),
        fmt.interval_share(result.throughput_ci95_tps, result.throughput_tps),
        fmt.milliseconds(result.ttft_ms.p95),
        fmt.rate(result.per_stream_tps.p50),
    )
    errors = f"{fmt.plural(result.errors, 'error')}; " if result.errors else ""
    flags = f" ({', '.join(result.flags)})" if result.flags else ""
    said = Text.assemble((errors, "red"), f"{result.verdict}{flags}")
    numbers = (Text(figure, justify="right") for figure in figures)
    return (*head, *numbers, Text(result.feels or fmt.UNKNOWN), said)


def _machine_lines(machine: MachineLoad | None) -> list[str]:
    """Slots, processor and cards while the window was open; none when another machine served."""
    if machine is None:
        return []
    lines = [
        f"machine      slots busy {fmt.rate(machine.slots_busy)}, queue {fmt.rate(machine.queue_depth)},"
        f" CPU {fmt.percent(machine.cpu_pct)}, RSS {fmt.size(machine.rss_bytes)}"
    ]
    for gpu in machine.gpus:
        lines.append(
            f"{f'GPU {gpu.index}':<12} {fmt.percent(gpu.util_pct)} (peak {fmt.percent(gpu.util_peak_pct)}),"
            f" {fmt.size(gpu.memory_bytes)}, {fmt.rate(gpu.power_w)} W"
        )
    if machine.joules_per_token is not None:
        lines.append(f"energy       {machine.joules_per_token:.3g} J a token")
    return lines


def cell_text(view: CellView) -> str:
    """One cell in full, as plain lines."""
    lines = [f"cell {view.index + 1}: {fmt.axes(view.cell)}, {view.status}"]
    if view.reason:
        lines.append(view.reason)
    if (result := view.result) is not None:
        share = fmt.interval_share(result.throughput_ci95_tps, result.throughput_tps)
        lines += [
            f"tok/s        {fmt.rate(result.throughput_tps)} {share}, prompt {fmt.rate(result.prompt_tps)}",
            f"per stream   p50 {fmt.rate(result.per_stream_tps.p50)}, p5 {fmt.rate(result.per_stream_tps.p5)}"
            f"  {result.feels}",
        ]
        for name, held in (("TTFT", result.ttft_ms), ("ITL", result.itl_ms), ("E2E", result.e2e_ms)):
            p50, p95, p99 = (fmt.milliseconds(one) for one in (held.p50, held.p95, held.p99))
            lines.append(f"{name:<12} p50 {p50}, p95 {p95}, p99 {p99}")
        tokens, kinds = result.tokens, result.errors_by_kind
        named = ", ".join(f"{kind} {number:,}" for kind, number in kinds.items())
        closed = result.window_closed_by or fmt.UNKNOWN
        lines += [
            f"window       {fmt.duration(result.elapsed_s)}, closed by {closed}",
            f"requests     {fmt.count(result.requests)}, "
            f"errors {result.errors:,}{f' ({named})' if named else ''}",
            f"tokens       by stream {fmt.count(tokens.stream)}, by timings {fmt.count(tokens.timings)},"
            f" by /metrics {fmt.count(tokens.metrics)}",
            *_machine_lines(result.machine),
            f"verdict      {result.verdict or fmt.UNKNOWN}",
            *(f"             {reading}" for reading in result.verdict_readings),
            *(f"note         {flag}" for flag in result.flags),
        ]
    if view.took_s is not None:
        lines.append(f"took         {fmt.duration(view.took_s)} with start-up, warm-up and drain")
    return "\n".join(lines)
