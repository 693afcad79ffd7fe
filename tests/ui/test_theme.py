"""Colours: told apart by every eye, evenly stepped, none where none is wanted, and changed while it runs."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from textual.color import Color, rgb_to_lab
from textual.command import CommandPalette

from lab_tui.config import Settings, UiSettings
from lab_tui.model import SweepStatus
from lab_tui.ui import theme
from lab_tui.ui.app import LabApp
from lab_tui.ui.screens.results import ResultsScreen
from tests.ui.fake import FakeClient, sweep_view
from tests.ui.helpers import lab, until

Rows = tuple[tuple[float, float, float], ...]

# Machado, Oliveira and Fernandes 2009: linear RGB as it is seen without one kind of cone.
VISIONS: dict[str, Rows] = {
    "usual": (
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}


def seen(colour: str, rows: Rows) -> Color:
    linear = [_linear(part / 255) for part in Color.parse(colour).rgb]
    mixed = (sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows)
    red, green, blue = (round(255 * _gamma(min(max(part, 0), 1))) for part in mixed)
    return Color(red, green, blue)


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def _gamma(part: float) -> float:
    return 12.92 * part if part <= 0.0031308 else float(1.055 * part ** (1 / 2.4) - 0.055)


def apart(one: Color, other: Color) -> float:
    """Distance in CIELAB: 2 is just seen side by side."""
    return math.dist(rgb_to_lab(one), rgb_to_lab(other))


@pytest.mark.parametrize("vision", VISIONS)
def test_states_of_the_safe_theme_are_told_apart(vision: str) -> None:
    app = LabApp(Settings(ui=UiSettings(theme="lab-safe")), FakeClient())
    names = ("text-success", "text-warning", "text-error", "background")
    colours = [seen(app.get_css_variables()[name], VISIONS[vision]) for name in names]
    assert min(apart(one, other) for one, other in combinations(colours, 2)) > 30


@pytest.mark.parametrize("dark", [True, False])
@pytest.mark.parametrize("vision", VISIONS)
def test_the_heat_scale_is_even(vision: str, dark: bool) -> None:
    scale = [seen(colour, VISIONS[vision]) for colour in theme.heat_scale(dark).values()]
    brighter = [rgb_to_lab(other).L - rgb_to_lab(one).L for one, other in pairwise(scale)]
    lighter = brighter if dark else [-step for step in brighter]
    assert min(lighter) > max(3, 0.5 * max(lighter))
    if vision == "usual":
        steps = [apart(one, other) for one, other in pairwise(scale)]
        assert min(steps) > 0.9 * max(steps)


def test_heat() -> None:
    assert [theme.heat(share) for share in (-1, 0, 0.5, 1, 2)] == [f"$heat-{n}" for n in (0, 0, 4, 8, 8)]


def test_without_colour_states_have_glyph_and_word() -> None:
    for looks in (theme.INSTANCE, theme.FRONT, theme.SWEEP, theme.CELL):
        shown = [(look.glyph, look.word) for look in looks.values()]
        assert len({glyph for glyph, _ in shown}) == len({word for _, word in shown}) == len(shown)


async def test_another_theme_by_key_is_shown_and_how_to_keep_it() -> None:
    async with lab() as shown:
        await shown.press("C")
        palette = await shown.on(CommandPalette)
        await shown.press(*"lab-safe")
        await until(lambda: palette.query_one("OptionList").option_count == 1)
        await shown.press("down", "enter")
        await until(lambda: shown.app.theme == "lab-safe")
        await shown.says('theme = "lab-safe" under [ui]')


async def test_tables_follow_the_theme() -> None:
    client = FakeClient()
    states = (SweepStatus.DONE, SweepStatus.FAILED, SweepStatus.DONE)  # the first has the cursor
    client.finished = [sweep_view(5 - place, status=state) for place, state in enumerate(states)]
    async with lab(client, (160, 40), settings=Settings(ui=UiSettings(theme="lab-safe"))) as shown:
        await shown.press("b")
        screen: ResultsScreen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 3)

        def colours() -> set[str]:
            rows = (screen.table.render_line(y) for y in (2, 3))
            pieces = [
                piece for row in rows for piece in row if "done" in piece.text or "failed" in piece.text
            ]
            return {piece.style.color.name.upper() for piece in pieces if piece.style and piece.style.color}

        assert colours() == {"#56B4E9", "#D55E00"}
        shown.app.theme = "textual-light"
        await shown.says('theme = "textual-light"')
        variables = shown.app.theme_variables
        assert colours() == {Color.parse(variables[f"text-{name}"]).hex for name in ("success", "error")}
