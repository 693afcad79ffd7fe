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
from typing import NamedTuple

from rich.text import Text
from textual import work
from textual.widget import Widget

MIN_WIDTH, MIN_HEIGHT = 24, 7
SIDE_BY_SIDE = 100  # columns from which two charts stand beside each other
COLOURS = (14, 11, 10, 13, 12, 9)  # of the 16 that every terminal has
LEGEND = ("bright_cyan", "bright_yellow", "bright_green", "bright_magenta", "bright_blue", "bright_red")


class Curve(NamedTuple):
    """One line of a chart: points in rising order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


class Chart(NamedTuple):
    """What is drawn against concurrency."""

    title: str
    curves: tuple[Curve, ...]


class CurvePlot(Widget, can_focus=True):
    """Up to two charts, side by side where there is room, else one at a time."""

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
        """Show the other chart first."""
        self._first = (self._first + 1) % max(len(self._charts), 1)
        self.refresh()

    @property
    def both(self) -> bool:
        """Whether every chart is in sight."""
        return self.size.width >= SIDE_BY_SIDE or self.size.height >= 28

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
        if height >= 28 and len(charts) > 1:
            upper = height // 2
            return Text("\n").join((draw(charts[0], width, upper), draw(charts[1], width, height - upper)))
        return draw(charts[0], width, height)


def beside(left: Text, right: Text) -> Text:
    """Two texts of equal height side by side."""
    rows = zip(left.split(allow_blank=True), right.split(allow_blank=True), strict=False)
    return Text("\n").join(Text.assemble(one, other) for one, other in rows)


def draw(chart: Chart, width: int, height: int) -> Text:
    """One chart, x on a scale of powers of two."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return Text(f" {chart.title}: too little room, z zooms", style="dim")
    curves = [
        Curve(curve.name, tuple((x, y) for x, y in curve.points if x > 0 and math.isfinite(y)))
        for curve in chart.curves
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Text(f" {chart.title}: nothing measured yet", style="dim")
    legend = Text(f" {chart.title} ", no_wrap=True)
    for place, curve in enumerate(curves):
        legend.append(f" ━ {curve.name}", LEGEND[place % len(LEGEND)])
    legend.truncate(width, overflow="ellipsis", pad=True)
    return Text("\n").join((legend, Text.from_ansi(_build(curves, width, height - 1))))


def _build(curves: Sequence[Curve], width: int, height: int) -> str:
    import plotext  # here, so that nothing else waits for it

    figure = plotext.figure
    plotext.terminal.limit(False, False)
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    values = sorted({x for curve in curves for x, _ in curve.points})
    shown = values[:: max(1, math.ceil(len(values) / max(width // 8, 2)))]
    figure.ruler("x").ticks([math.log2(x) for x in shown], [f"{x:g}" for x in shown])
    highest = max(y for curve in curves for _, y in curve.points)
    figure.ruler("y").lim(0, highest * 1.05 or 1.0)
    for place, curve in enumerate(curves):
        marker = plotext.marker("braille", COLOURS[place % len(COLOURS)])
        xs = [math.log2(x) for x, _ in curve.points]
        signal = figure.signal(xs, [y for _, y in curve.points], marker=marker)
        if len(xs) > 1:
            signal = signal.lines()
        figure.draw(signal)
    return str(figure.build()).removesuffix("\n")
