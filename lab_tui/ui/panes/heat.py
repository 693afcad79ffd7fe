"""The heat map: a sweep's cells on the two axes that say most, the best of each square shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textual.content import Content

from lab_tui.model import AxisValue, CellStatus, CellView, SweepDetail
from lab_tui.ui import format as fmt
from lab_tui.ui.theme import CELL, GOOD, MUTED, STRONG, heat

SHADES = "░▒▓█"
NAMES = {"parallel": "slots each"}
CURSOR = "▸"
# What a square says first of the cells in it that have no figures, and which of them it opens.
TELLING = (
    CellStatus.RUNNING,
    CellStatus.FAILED,
    CellStatus.PENDING,
    CellStatus.SKIPPED,
    CellStatus.MEASURED,
)


class Square(NamedTuple):
    """The cells that share their values on both axes."""

    cells: tuple[CellView, ...]
    shown: CellView  # stands for them: the fastest, else the one that tells most


class Grid(NamedTuple):
    """Squares by their values on two axes. ``across`` is "" when only one varies."""

    down: str
    across: str
    rows: list[AxisValue]
    columns: list[AxisValue]
    squares: dict[tuple[AxisValue, AxisValue], Square]
    top: float  # the most tok/s of all; 0.0: nothing measured
    states: frozenset[CellStatus]

    def at(self, row: int, column: int) -> Square | None:
        """The square in a place; None: no cell is there."""
        return self.squares.get((self.rows[row], self.columns[column]))

    def find(self, cell: CellView) -> tuple[int, int]:
        """The square a cell is in."""
        across = value(cell, self.across) if self.across else ""
        return self.rows.index(value(cell, self.down)), self.columns.index(across)


class Frame(NamedTuple):
    """Where the squares stand on the screen."""

    left: int  # columns before the first
    width: int  # of a square
    first: int  # number of the leftmost one
    seen: int  # how many of them there is room for
    wide: bool  # whether there is room for whole figures


HEAD = 2  # lines above the squares


def axes(detail: SweepDetail) -> tuple[str, str]:
    """Instances and slots where both vary, else the two axes with the most values. "" is none.

    Of these two, the one that restarts less stands across: concurrency, else the later one.
    """
    held = {name: len(values) for name, values in detail.spec.axes.items() if len(values) > 1}
    if "instances" in held and "parallel" in held:
        return "instances", "parallel"
    most = sorted(held, key=lambda name: -held[name])[:2]
    if not most:
        return next(iter(detail.spec.axes), "concurrency"), ""
    order = sorted(most, key=lambda name: (name == "concurrency", list(held).index(name)))
    return order[0], order[1] if len(order) > 1 else ""


def value(view: CellView, axis: str) -> AxisValue:
    """What an axis is set to in a cell."""
    return view.cell.axes.get(axis, view.cell.concurrency if axis == "concurrency" else "")


def grid(detail: SweepDetail) -> Grid:
    """The cells, sorted into squares."""
    down, across = axes(detail)
    squares: dict[tuple[AxisValue, AxisValue], list[CellView]] = {}
    for view in detail.cells:
        squares.setdefault((value(view, down), value(view, across) if across else ""), []).append(view)
    return Grid(
        down,
        across,
        sorted({row for row, _ in squares}, key=_order),
        sorted({column for _, column in squares}, key=_order),
        {place: Square(tuple(held), _shown(held)) for place, held in squares.items()},
        max((view.result.throughput_tps for view in detail.cells if view.result is not None), default=0.0),
        frozenset(view.status for view in detail.cells),
    )


def _order(value: AxisValue) -> tuple[int, str]:
    return (value, "") if isinstance(value, int) else (0, value)


def _shown(cells: Sequence[CellView]) -> CellView:
    measured = [(view.result.throughput_tps, -view.index, view) for view in cells if view.result is not None]
    if measured:
        return max(measured, key=lambda one: one[:2])[2]
    return min(cells, key=lambda view: TELLING.index(view.status))


def frame(held: Grid, width: int, column: int) -> Frame:
    """Squares as wide as their figures, as many as there is room for, with ``column`` among them."""
    left = max(len(NAMES.get(held.down, held.down)), *(len(str(row)) for row in held.rows), 1) + 2
    room = max(width - left, 1)
    for wide in (True, False):
        figures = (_figure(square, wide) for square in held.squares.values())
        widest = max(map(len, (*figures, *map(str, held.columns))), default=1) + 3
        if widest * len(held.columns) <= room:
            break
    count = max(min(room // widest, len(held.columns)), 1)
    first = min(max(column - count + 1, 0), len(held.columns) - count)
    return Frame(left, widest, first, count, wide)


def lines(
    held: Grid, detail: SweepDetail, place: Frame, cursor: tuple[int, int], focused: bool, width: int
) -> list[Content]:
    """The map, below it what its signs mean, then the cells that tie."""
    seen = held.columns[place.first : place.first + place.seen]
    before, after = place.first, len(held.columns) - place.first - place.seen
    hidden = f"  ({before} ◂ ▸ {after} more)" if before or after else ""
    across = NAMES.get(held.across, held.across)
    names = "".join(f"{name!s:>{place.width - 2}}  " for name in seen)
    out = [
        Content.styled(f" {'':>{place.left - 1}}{across} →{hidden}" if across else "", MUTED),
        Content.styled(f" {NAMES.get(held.down, held.down):<{place.left - 1}}{names}", MUTED),
    ]
    for number, row in enumerate(held.rows):
        squares = [
            _square(held.at(number, column), held.top, place, ((number, column) == cursor, focused))
            for column in range(place.first, place.first + len(seen))
        ]
        out.append(Content.assemble((f" {row!s:<{place.left - 1}}", MUTED), *squares))
    return [*out, *_legend(held, width), *_remarks(detail)]


def _figure(square: Square, wide: bool) -> str:
    """What stands in a square: tok/s of its best cell, else the sign of what became of it."""
    view = square.shown
    if view.result is None:
        return CELL[view.status].glyph
    tps = view.result.throughput_tps
    return fmt.rate(tps) if wide else fmt.short(round(tps)) if tps >= 10 else fmt.rate(tps)


def _square(square: Square | None, top: float, place: Frame, cursor: tuple[bool, bool]) -> Content:
    """One square: the sign of what happens in it, its figure, a shade. ``cursor``: is here, has focus."""
    here, focused = cursor
    if square is None:
        return Content(f"{CURSOR if here else ' '}{' ':{place.width - 1}}")
    view, figure = square.shown, _figure(square, place.wide)
    tps = view.result.throughput_tps if view.result else None
    shade = " " if tps is None else SHADES[min(int(4 * tps / top), 3)] if top else SHADES[0]
    colour = heat(tps / top) if tps is not None and top else ""
    style = CELL[view.status].style if tps is None else STRONG if tps >= top else ""
    sign, sign_style = _sign(square.cells) if tps is not None else ("", "")
    if here:
        sign, style = CURSOR, f"{style} bold reverse".strip() if focused else f"{style} bold".strip()
    return Content.assemble(
        (f"{sign:1}", sign_style), (f"{figure:>{place.width - 3}}", style), (shade, colour), " "
    )


def _sign(cells: Sequence[CellView]) -> tuple[str, str]:
    """That something runs in a square that has a figure already, or failed there."""
    states = {view.status for view in cells}
    for status in (CellStatus.RUNNING, CellStatus.FAILED):
        if status in states:
            return CELL[status].glyph, CELL[status].style
    return "", ""


def _legend(held: Grid, width: int) -> list[Content]:
    """The signs that are there, as many a line as fit."""
    parts = [
        Content.styled(f" {CELL[status].glyph} {CELL[status].word}", CELL[status].style)
        for status in (CellStatus.RUNNING, CellStatus.FAILED, CellStatus.SKIPPED, CellStatus.PENDING)
        if status in held.states
    ]
    if held.top:
        parts.insert(0, Content.styled(f" {SHADES} to {fmt.rate(held.top)} tok/s", MUTED))
    out: list[Content] = []
    for part in parts:
        if out and out[-1].cell_length + part.cell_length + 1 <= width:
            out[-1] = out[-1].append(" ").append(part)
        else:
            out.append(part)
    return out


def _remarks(detail: SweepDetail) -> list[Content]:
    if not detail.tied:
        return []
    ties = [Content.styled(f"  {fmt.best(tied)}", GOOD) for tied in detail.tied]
    return [Content(), Content.styled(" tied, leanest first:", MUTED), *ties]


def told(view: CellView, others: Sequence[CellView] = ()) -> Content:
    """One cell in a line: its figures, or why it has none; ``others`` share its square."""
    look, result = CELL[view.status], view.result
    head = ((f" {fmt.axes(view.cell)}", STRONG), (f"  {look.glyph} {look.word}", look.style))
    parts: list[tuple[str, str]] = []
    if result is not None:
        share = fmt.interval_share(result.throughput_ci95_tps, result.throughput_tps)
        parts.append((f"  {fmt.rate(result.throughput_tps)} {share} tok/s", GOOD))
        feels = f", {result.feels}" if result.feels else ""
        parts.append((f"  {fmt.rate(result.per_stream_tps.p50)} a stream{feels}", ""))
        parts.append((f"  p95 TTFT {fmt.milliseconds(result.ttft_ms.p95)}", ""))
        errors = f"{fmt.plural(result.errors, 'error')}, " if result.errors else ""
        parts.append((f"  {errors}{result.verdict}", MUTED))
    elif view.reason:
        parts.append((f": {view.reason}", look.style))
    if len(others) > 1:
        counts = [(status, sum(one.status is status for one in others)) for status in CellStatus]
        many = ", ".join(f"{number} {CELL[status].word}" for status, number in counts if number)
        parts.append((f"  (best of {many})" if result is not None else f"  ({many})", MUTED))
    return Content.assemble(*head, *parts)
