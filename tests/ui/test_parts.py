"""Bars, series, axes, registry, share-out: what needs no screen."""

from __future__ import annotations

import random

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.content import Content

from lab_tui.config import Settings, UiSettings
from lab_tui.model import History, LabError
from lab_tui.ui import theme
from lab_tui.ui.actions import ACTIONS, BY_NAME, CHANGES, EVERYWHERE
from lab_tui.ui.app import LabApp
from lab_tui.ui.screens.cell import CellScreen
from lab_tui.ui.screens.compare import CompareScreen
from lab_tui.ui.screens.front import FrontScreen
from lab_tui.ui.screens.instance import InstanceScreen
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.screens.results import ResultsScreen
from lab_tui.ui.screens.sweep import SweepScreen
from lab_tui.ui.series import Series
from lab_tui.ui.widgets.bars import big, gauge, nice_top, spark
from lab_tui.ui.widgets.lines import changed_to, merged
from lab_tui.ui.widgets.pane import share_out
from lab_tui.ui.widgets.plot import Chart, Curve, draw, ticks
from tests.ui.fake import FakeClient, history, snapshot


def test_spark_tells_zero_from_unknown() -> None:
    assert spark([0, None, 50, 100], 100) == ["▁·▄█"]


def test_spark_of_several_rows() -> None:
    assert spark([100, 50, 0, None], 100, 2) == ["█   ", "██▁·"]


def test_gauge() -> None:
    assert gauge(None, 4) == "····"
    assert gauge(0, 4) == "░░░░"
    assert gauge(50, 4) == "██░░"
    assert gauge(250, 4) == "████"


def test_scale_is_round_and_steady() -> None:
    assert nice_top(1226) == 1500
    assert nice_top(1400, 1500) == 1500
    assert nice_top(700, 1500) == 1500
    assert nice_top(100, 1500) == 100
    assert nice_top(1600, 1500) == 2000
    assert nice_top(0.07) == pytest.approx(0.075)
    assert nice_top(0) == 10


def test_big_figures_are_equally_wide() -> None:
    rows = big("1,226.0-x")
    assert len({len(row) for row in rows}) == 1


def test_series_columns() -> None:
    series = Series()
    for second, value in ((10, 1.0), (11, 2.0), (13, 4.0), (14, None), (15, 6.0)):
        series.add("tps", second + 0.4, value)
    assert series.columns("tps", 6) == [1, 2, 2, 4, 4, 6]
    assert series.columns("tps", 2, 5) == [pytest.approx(7 / 3), 6]
    assert series.columns("nothing", 3) == [None] * 3
    assert series.columns("tps", 0) == []


def test_series_keeps_gaps() -> None:
    series = Series()
    series.add("tps", 10, 1.0)
    series.add("tps", 14, 2.0)
    assert series.columns("tps", 5) == [1, None, None, None, 2]


def test_series_takes_history_below_what_came_since() -> None:
    series = Series()
    series.append(snapshot())
    series.load(history())
    assert series.columns("tps", 1) == [1226.4]
    assert None not in series.columns("tps", 60)
    series.load(History(time=(), series={}))
    assert series.columns("tps", 1) == [1226.4]


def test_a_line_is_repainted_up_to_its_last_change() -> None:
    old = Content.assemble(" 0 ready ", ("412.7", "bold"), "  16/16")
    assert changed_to(old, old) == 0
    assert changed_to(old, Content.assemble(" 0 ready ", ("413.7", "bold"), "  16/16")) == 12
    assert changed_to(old, Content.assemble(" 0 ready ", ("412.7", "dim"), "  16/16")) == 14
    assert changed_to(old, Content(" 0 ready")) == 21
    assert changed_to(Content("模型 a"), Content("模型 b")) == 6


def test_blanks_change_no_style() -> None:
    green, plain = Style(color="green", bgcolor="black"), Style(color="white", bgcolor="black")
    other = Style(color="white", bgcolor="blue")
    pieces = [Segment(" ", plain), Segment("ab", green), Segment("  ", plain), Segment("c", plain)]
    assert merged(pieces) == [Segment(" ab  ", green), Segment("c", plain)]
    apart = [Segment("a", green), Segment(" ", other), Segment(" ", Style(bgcolor="blue", underline=True))]
    assert merged(apart) == apart


def test_share_out() -> None:
    assert share_out(16, (5, 4, 2, 3), (2, 2, 1, 1)) == [5, 4, 2, 5]
    assert share_out(6, (65, 15, 9, 9), (2, 2, 1, 1)) == [2, 2, 1, 1]
    assert sum(share_out(30, (65, 15, 9, 9), (2, 2, 1, 1))) == 30


def test_every_action_can_be_carried_out() -> None:
    screens = {
        "overview": OverviewScreen, "instance": InstanceScreen, "sweep": SweepScreen, "front": FrontScreen,
        "results": ResultsScreen, "cell": CellScreen, "compare": CompareScreen,
    }  # fmt: skip
    for action in ACTIONS:
        method = f"act_{action.name.partition('.')[0]}"
        for scope in action.scopes:
            assert hasattr(screens[scope], method) or hasattr(LabApp, method), (scope, method)


def test_keys_are_unique() -> None:
    for scope in EVERYWHERE:
        keys = [key for action in ACTIONS if scope in action.scopes for key in action.keys.split(",")]
        assert len(keys) == len(set(keys))
    assert set(BY_NAME) >= CHANGES


def test_theme_of_plain_terminals() -> None:
    assert theme.pick("textual-dark", {"TERM": "linux"}) == "ansi-dark"
    assert theme.pick("textual-dark", {"TERM": "xterm-256color"}) == "textual-dark"
    assert theme.pick("textual-dark", {"TERM": "screen", "COLORTERM": "truecolor"}) == "textual-dark"
    assert theme.pick("nord", {"TERM": "linux"}) == "nord"
    assert theme.pick("nord", {"TERM": "xterm-256color", "NO_COLOR": "1"}) == "ansi-dark"


@pytest.mark.parametrize("size", [(1, 1), (24, 7), (25, 8), (80, 20), (300, 80)])
@pytest.mark.parametrize(
    "points",
    [
        (),
        ((1.0, 2.0),),
        ((1.0, 0.0), (2.0, 0.0)),
        ((1.0, float("nan")), (4.0, 3.0)),
        ((4.0, 3.0), (4.0, 5.0)),
        ((0.0, 1.0),),
    ],
)
def test_plots_survive_poor_data(size: tuple[int, int], points: tuple[tuple[float, float], ...]) -> None:
    """plotext ends the whole process on some of these, so none may reach it."""
    for doubling in (True, False):
        curves = (Curve("1×1", points), Curve("2×2", ((1.0, 5.0), (1024.0, 1e9))))
        chart = Chart("t", (*curves, Curve("others", points, joined=False)), doubling)
        rows = draw(chart, *size).split(allow_blank=True)
        assert len(rows) <= max(size[1], 1)


def test_axes_of_plots_are_round() -> None:
    assert ticks(6930, 4) == [0, 2000, 4000, 6000]
    assert ticks(6930, 2) == [0, 5000]
    assert ticks(1, 0) == [0, 1]
    text = draw(Chart("t", (Curve("1×1", ((1.0, 6500.0), (1024.0, 12.0))),)), 60, 14).plain
    assert "6,000┤" in text
    assert "1,024" in text


def test_a_theme_that_does_not_exist_is_named() -> None:
    settings = Settings(ui=UiSettings(theme="nope"))
    with pytest.raises(LabError, match="nope"):
        LabApp(settings, FakeClient())


def test_columns_reckoned_as_readings_come_are_those_reckoned_at_once() -> None:
    chance = random.Random(1)
    live, readings, time = Series(), [], 1_790_000_000.0
    for _ in range(400):
        time += chance.choice((0.25, 0.5, 1, 1, 2, 7))
        readings.append((time, chance.choice((None, chance.random()))))
        live.add("x", *readings[-1])
        if chance.random() < 0.2:
            fresh = Series()
            for reading in readings:
                fresh.add("x", *reading)
            asked = (chance.randint(0, 90), chance.choice((1, 5, 60)), int(time) - chance.choice((0, 5, 300)))
            assert live.columns("x", *asked) == fresh.columns("x", *asked)
