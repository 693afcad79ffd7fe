"""Pane 2 with the whole screen: the curves of the last hour, each on a scale that it states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from textual.content import Content

from lab_tui.model import Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.panes.throughput import NOT_TIMED, Window, one_line
from lab_tui.ui.series import Series, Value
from lab_tui.ui.theme import ACCENT, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import nice_top, sampled, spark

WIDE = 100  # columns from which there are two columns of curves
MOST_ROWS = 10  # of one curve
LABEL = 14  # number and tok/s before the curve of an instance


class Kind(NamedTuple):
    """One curve: its series, its name, and how a value of it is written."""

    name: str
    title: str
    text: Callable[[float | None], str]


def _whole(value: float | None) -> str:
    return fmt.UNKNOWN if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


TOTAL = Kind("tps", "tok/s", fmt.rate)
TTFT = Kind("ttft_p95_ms", "p95 TTFT", fmt.milliseconds)
QUEUE = Kind("queue", "waiting in instances", _whole)
STREAMS = Kind("streams", "streams", _whole)


class CurvesLines:
    """Builds the lines and remembers the scales, which must not move with every reading."""

    def __init__(self) -> None:
        self._tops: dict[str, float] = {}

    def lines(
        self, snapshot: Snapshot, series: Series, width: int, height: int, window: Window
    ) -> list[Content]:
        """As many lines as the instances need: those beyond ``height`` are scrolled to."""
        wide = width >= WIDE
        left = (width * 3) // 5 if wide else width
        head = [one_line(snapshot, width), _when(window, columns(width), width)]
        room = height - len(head)
        count = len(snapshot.instances)
        tall = min(max((room - MOST_ROWS - 2) // count, 1), 4) if wide and count else 1
        each = self._instances(snapshot, series, left, tall, window)
        if wide:
            total = self._curve(TOTAL, snapshot, series, left, max(room - len(each) - 1, 4), window)
            side = [
                line
                for kind in (TTFT, QUEUE, STREAMS)
                for line in self._curve(kind, snapshot, series, width - left, max((room - 3) // 3, 2), window)
            ]
            return [*head, *_beside([*total, *each], side, left)]
        spare = max(room - count - 1 - 3, 6)
        low = max(spare // 4, 1)
        total = self._curve(TOTAL, snapshot, series, left, spare - 2 * low, window)
        ttft = self._curve(TTFT, snapshot, series, left, low, window)
        queue = self._curve(QUEUE, snapshot, series, left, low, window)
        return [*head, *total, *ttft, *queue, *each]

    def _top(self, name: str, highest: float) -> float:
        self._tops[name] = nice_top(highest, self._tops.get(name, 0.0))
        return self._tops[name]

    def _curve(
        self, kind: Kind, snapshot: Snapshot, series: Series, width: int, rows: int, window: Window
    ) -> list[Content]:
        """A line that names curve, value at its right edge and scale, then ``rows`` lines of it."""
        values = series.columns(kind.name, max(width - 2, 1), window.step, window.end)
        top = self._top(kind.name, sampled(values))
        known = any(value is not None for value in values)
        scale = f"  scale 0 to {kind.text(top)}" if known else _why(kind, snapshot)
        title = Content.assemble(
            (f" {kind.title} ", ""), (kind.text(values[-1]), STRONG if known else MUTED), (scale, MUTED)
        ).truncate(width, ellipsis=True)
        return [
            title,
            *(Content.styled(f" {line}", ACCENT) for line in spark(values, top, min(rows, MOST_ROWS))),
        ]

    def _instances(
        self, snapshot: Snapshot, series: Series, width: int, tall: int, window: Window
    ) -> list[Content]:
        """``tall`` lines an instance, all on one scale."""
        if not snapshot.instances:
            return []
        curves: dict[int, list[Value]] = {
            view.index: series.columns(
                f"tps.{view.index}", max(width - LABEL - 1, 1), window.step, window.end
            )
            for view in snapshot.instances
        }
        top = self._top("each", max(map(sampled, curves.values())))
        head = Content.assemble(" tok/s of each instance", (f"  scale 0 to {fmt.rate(top)}", MUTED))
        rows = []
        for index, values in curves.items():
            label = f" {index:>3} {fmt.rate(values[-1]):>7}  "
            for place, line in enumerate(spark(values, top, tall)):
                first = label if place == tall - 1 else " " * LABEL
                rows.append(Content.assemble(first.ljust(LABEL), (line, ACCENT)))
        return [head.truncate(width, ellipsis=True), *rows]


def columns(width: int) -> int:
    """How many columns the longest curve has."""
    return max(((width * 3) // 5 if width >= WIDE else width) - 2, 1)


def _when(window: Window, shown: int, width: int) -> Content:
    """What time the curves show, and how to get elsewhere."""
    column = f", one column {fmt.duration(window.step)}"
    if window.back_s:
        keys = f"{key('later')} goes on, {key('back')}: now"
        text = f" {window.clock(shown)}, {fmt.duration(window.back_s)} ago  {keys}"
        return Content.styled(fmt.clip(text, width), WARN)
    keys = f"{key('earlier')} other times, {key('span')} other span"
    text = f" last {fmt.duration(shown * window.step)} to now{column}  {keys}"
    return Content.styled(fmt.clip(text, width), MUTED)


def _why(kind: Kind, snapshot: Snapshot) -> str:
    """Why nothing is known of a curve."""
    if kind is TTFT:
        return f"  N/A: {NOT_TIMED}" if snapshot.load is None else "  no answer yet"
    return "  N/A: no instance has been read in this time"


def _beside(left: list[Content], right: list[Content], width: int) -> list[Content]:
    """Two columns of lines, the left one ``width`` cells wide."""
    rows = max(len(left), len(right))
    left = left + [Content()] * (rows - len(left))
    right = right + [Content()] * (rows - len(right))
    return [
        one.pad_right(max(width - one.cell_length, 0)) + two for one, two in zip(left, right, strict=True)
    ]
