"""Curves, drawn by plotext: the only module that knows it.

plotext has one figure for the whole process, so a plot is cleared, filled and built in one go on
the event loop. It ends the process on NaN between joined points and on sizes too small for its
frame; neither ever reaches it.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.text import Text
from textual import work
from textual.widget import Widget

from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key

MIN_WIDTH, MIN_HEIGHT = 24, 7
SIDE_BY_SIDE = 100  # columns from which two charts stand beside each other
TWO_ROWS = 28  # rows from which they stand above each other
FACTORS = (1.0, 2.0, 2.5, 5.0)  # of a decade, between two ticks of an axis
DOT = "•"
SIGNS = "abcdef"  # of the curves, which not every eye and terminal tells apart by colour
MOST_SIGNS = 8  # on one curve
MOST_POINTS = 500  # of a curve: plotext takes 40 µs for each
COLOURS = (14, 11, 10, 13, 12, 9)  # of the 16 that every terminal has
LEGEND = ("bright_cyan", "bright_yellow", "bright_green", "bright_magenta", "bright_blue", "bright_red")


class Curve(NamedTuple):
    """One line of a chart, points in rising order of x; or points that stand for themselves."""

    name: str
    points: tuple[tuple[float, float], ...]
    joined: bool = True


class Chart(NamedTuple):
    """What is drawn, tok/s upwards."""

    title: str
    curves: tuple[Curve, ...]
    doubling: bool = True  # x is a number of streams, on a scale of powers of two; else it is tok/s


class CurvePlot(Widget, can_focus=True):
    """Some charts, two in sight where there is room for them, else one; ``turn`` brings the next."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._charts: tuple[Chart, ...] = ()
        self._first = 0
        self._ready = False  # plotext is imported

    def on_mount(self) -> None:
        """Have plotext imported beside the event loop: that takes the better part of a second."""
        self._import()

    @work(group="plotext")
    async def _import(self) -> None:
        await asyncio.to_thread(importlib.import_module, "plotext")
        self._ready = True
        self.refresh()

    def show(self, charts: Sequence[Chart]) -> None:
        """Draw other charts, when they are others."""
        if tuple(charts) != self._charts:
            self._charts = tuple(charts)
            self.refresh()

    def turn(self) -> None:
        """Show the next chart first."""
        self._first = (self._first + 1) % max(len(self._charts), 1)
        self.refresh()

    @property
    def hint(self) -> str:
        """What the key that turns would show; "" when every chart is in sight."""
        seen = 2 if self.size.width >= SIDE_BY_SIDE or self.size.height >= TWO_ROWS else 1
        hidden = len(self._charts) - seen
        return f"({key('span')}: {hidden} more)" if hidden > 0 else ""

    def render(self) -> Text:
        """The charts as text."""
        if not self._ready:
            return Text(" …", style="dim")
        width, height = self.size
        charts = self._charts[self._first :] + self._charts[: self._first]
        if not any(chart.curves for chart in charts):
            return Text(" No cell is measured yet: curves come with the first one.", style="dim")
        if width >= SIDE_BY_SIDE and len(charts) > 1:
            left = width // 2
            return beside(draw(charts[0], left, height), draw(charts[1], width - left, height))
        if height >= TWO_ROWS and len(charts) > 1:
            upper = height // 2
            return Text("\n").join((draw(charts[0], width, upper), draw(charts[1], width, height - upper)))
        return draw(charts[0], width, height)


def beside(left: Text, right: Text) -> Text:
    """Two texts of equal height side by side."""
    rows = zip(left.split(allow_blank=True), right.split(allow_blank=True), strict=False)
    return Text("\n").join(Text.assemble(one, other) for one, other in rows)


def draw(chart: Chart, width: int, height: int) -> Text:
    """One chart with its legend, as many lines as ``height``."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return Text(f" {chart.title}: too little room, {key('zoom')} zooms", style="dim")
    curves = [_drawable(curve) for curve in chart.curves]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Text(f" {chart.title}: nothing measured yet", style="dim")
    legend = Text(f" {chart.title} ", no_wrap=True)
    for place, curve in enumerate(curves):
        legend.append(f" {_sign(curve, place)} {curve.name}", LEGEND[place % len(LEGEND)])
    legend.truncate(width, overflow="ellipsis", pad=True)
    picture = Text.from_ansi(_build(chart._replace(curves=tuple(curves)), width, height - 1))
    return Text("\n").join((legend, picture))


def _sign(curve: Curve, place: int) -> str:
    """What marks the points of a curve."""
    return SIGNS[place % len(SIGNS)] if curve.joined else DOT


def _drawable(curve: Curve) -> Curve:
    """What of a curve plotext survives."""
    points = [(x, y) for x, y in curve.points if x > 0 and math.isfinite(x) and math.isfinite(y)]
    return curve._replace(points=tuple(points[:MOST_POINTS]))


def ticks(top: float, most: int) -> list[float]:
    """Round values from 0 to ``top``, at most ``most`` of them and at least two."""
    step = 10.0 ** math.floor(math.log10(top)) / 10
    while True:
        for factor in FACTORS:
            steps = int(top / (step * factor))
            if steps + 1 <= max(most, 2):
                return [place * step * factor for place in range(steps + 1)]
        step *= 10


def _build(chart: Chart, width: int, height: int) -> str:
    import plotext  # here, so that nothing else waits for it

    figure = plotext.figure
    plotext.terminal.limit(False, False)
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    right = max(x for curve in chart.curves for x, _ in curve.points)
    if chart.doubling:
        values = sorted({x for curve in chart.curves for x, _ in curve.points})
        shown = values[:: max(1, math.ceil(len(values) / max(width // 8, 2)))]
        figure.ruler("x").ticks([math.log2(x) for x in shown], [fmt.short(x) for x in shown])
    else:
        figure.ruler("x").lim(0, right * 1.05)
        _round(figure.ruler("x"), right * 1.05, width // 12)
    top = max(y for curve in chart.curves for _, y in curve.points) * 1.05 or 1.0
    figure.ruler("y").lim(0, top)
    _round(figure.ruler("y"), top, height // 3)
    signals = [
        (
            [math.log2(x) if chart.doubling else x for x, _ in curve.points],
            [y for _, y in curve.points],
            COLOURS[place % len(COLOURS)],
        )
        for place, curve in enumerate(chart.curves)
    ]
    for curve, (xs, ys, colour) in zip(chart.curves, signals, strict=True):
        if curve.joined and len(xs) > 1:
            figure.draw(figure.signal(xs, ys, marker=plotext.marker("braille", colour)).lines())
    for place, (curve, (xs, ys, colour)) in [*enumerate(zip(chart.curves, signals, strict=True))][::-1]:
        step = -(-len(xs) // MOST_SIGNS) if curve.joined else 1  # from the last on, which is always marked
        marker = plotext.marker(_sign(curve, place), colour)
        figure.draw(figure.signal(xs[::-step], ys[::-step], marker=marker))
    return str(figure.build()).removesuffix("\n")


def _round(ruler: Any, top: float, most: int) -> None:
    """Give an axis that begins at 0 round figures."""
    values = ticks(top, most)
    ruler.ticks(values, [fmt.short(value) for value in values])
