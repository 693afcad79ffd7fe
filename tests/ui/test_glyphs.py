"""The screen in ASCII: every sign has a likeness of the same width, and tells what it told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rich.cells import cell_len

import lab_tui.ui
from lab_tui.config import Settings, UiSettings, for_screen
from lab_tui.ui import theme
from lab_tui.ui.glyphs import plain, speaks_utf8
from lab_tui.ui.widgets.bars import BLOCKS, EMPTY, FULL, GAP, big, gauge, spark
from tests.ui.helpers import lab, until

SOURCES = sorted(Path(lab_tui.ui.__file__).parent.rglob("*.py"))


def signs(source: Path) -> set[str]:
    """What the strings of a module, other than its docstrings, hold outside ASCII."""
    tree = ast.parse(source.read_text())
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    )
    return {character for text in texts for character in text if not character.isascii()}


def test_every_sign_of_the_screen_has_a_likeness() -> None:
    found = {sign for source in SOURCES for sign in signs(source)}
    assert "●" in found
    assert [sign for sign in sorted(found) if "?" in plain(sign)] == []


def test_states_stay_apart() -> None:
    for looks in (theme.INSTANCE, theme.FRONT, theme.SWEEP, theme.CELL):
        assert len({plain(look.glyph) for look in looks.values()}) == len(looks)
    assert len(set(plain(BLOCKS + GAP))) == len(BLOCKS + GAP)
    assert len(set(plain(FULL + EMPTY + GAP))) == 3


@pytest.mark.parametrize(
    "text",
    ["╭─ 1 ─╮ ┃ ┏━┓ ├┼┤ ╳", "⠁⡀⣿⠀⠛⣤", "Müller’s café – naïve", "模型.gguf", "🔎 🦙 é", "\x1b[1m●\x1b[0m\t▁▂"],
)
def test_as_wide_as_before_and_ascii(text: str) -> None:
    assert plain(text).isascii()
    assert cell_len(plain(text)) == cell_len(text)


async def test_plus_minus_takes_two_cells_in_ascii() -> None:
    async with lab(settings=Settings(ui=UiSettings(ascii=True))) as shown:
        await until(lambda: any("1,198 +-1.4%" in line for line in shown.overview.queue.plain))
    async with lab() as shown:
        await until(lambda: any("1,198 ±1.4%" in line for line in shown.overview.queue.plain))


def test_pictures() -> None:
    assert plain("Müller 8×32 ±1.4%…") == "Muller 8x32 ~1.4%~"
    assert plain("╭─╮│━┃") == ".-.|=|"
    assert plain(spark([0, None, 50, 100], 100)[0]) == "_.=#"
    assert plain(gauge(50, 4)) == "##--"
    assert [plain(row) for row in big("06")] == [".-..--", "| |+-.", "'-''-'"]


@pytest.mark.parametrize(
    ("environ", "codeset", "speaks"),
    [
        ({}, "UTF-8", True),  # Python makes C.UTF-8 of nothing
        ({"LANG": "en_US.UTF-8"}, "UTF-8", True),
        ({"LANG": "de_DE.ISO-8859-1"}, "ISO-8859-1", False),
        ({"LC_ALL": "C"}, "ANSI_X3.4-1968", False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "UTF-8", False),  # the same, of LANG=C
        ({"LANG": "C", "LC_CTYPE": "en_US.UTF-8"}, "UTF-8", True),
        ({"LANG": "C.UTF-8"}, "utf8", True),
    ],
)
def test_locales(environ: dict[str, str], codeset: str, speaks: bool) -> None:
    assert speaks_utf8(environ, codeset) is speaks


def test_flags_win_over_settings() -> None:
    usual = for_screen(Settings())
    assert (usual.ui.mouse, usual.ui.ascii) == (True, None)
    asked = for_screen(Settings(), mouse=False, ascii=True)
    assert (asked.ui.mouse, asked.ui.ascii) == (False, True)
