"""A screen as text: its characters, and below them the colours of each line, so that a diff can be read.

Pictures are stored rather than SVG files because one of those is 70 to 200 KB of markup that nobody can
review. They come from Textual's own SVG export; when one differs, that SVG is left for the eye.
``PICTURES=write`` in the environment stores what is seen now.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from string import ascii_letters

STORE = Path(__file__).parent / "pictures"
CELL_WIDTH, LINE_HEIGHT = 12.2, 24.4  # of Rich's SVG
STYLE = re.compile(r"\.terminal-\d+-(r\d+) {([^}]*)}")
TEXT = re.compile(r'<text class="terminal-\d+-(r\d+)" x="([\d.]+)"[^>]*line-(\d+)\)">([^<]*)</text>')
RECT = re.compile(r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"[^>]*crispEdges')
Cell = tuple[str, str, str]  # character, its style, background


def picture(svg: str, width: int, height: int) -> str:
    """The screen in ``svg``."""
    rows = cells(svg, width, height)
    names: dict[tuple[str, str], str] = {}
    runs = [" ".join(_runs(row, names)) for row in rows]
    return "\n".join(
        (
            f"{width}x{height}",
            *("".join(character for character, _, _ in row).rstrip() for row in rows),
            "colours",
            *(f"{place:>2} {row}" for place, row in enumerate(runs) if place == 0 or row != runs[place - 1]),
            *(f"{name}: {style} on {ground}" for (style, ground), name in names.items()),
        )
    )


def cells(svg: str, width: int, height: int) -> list[list[Cell]]:
    """Every cell of the screen."""
    styles = {name: _style(rules) for name, rules in STYLE.findall(svg)}
    grounds = [[""] * width for _ in range(height)]
    for ground, x, y, wide in RECT.findall(svg):
        row, first = round((float(y) - 1.5) / LINE_HEIGHT), round(float(x) / CELL_WIDTH)
        for column in range(first, min(first + round(float(wide) / CELL_WIDTH), width)):
            grounds[row][column] = ground
    rows: list[list[Cell]] = [[(" ", "", ground) for ground in line] for line in grounds]
    for name, x, line, text in TEXT.findall(svg):
        cells_of_line = rows[int(line)]
        characters = html.unescape(text).replace("\xa0", " ")
        for column, character in enumerate(characters, round(float(x) / CELL_WIDTH)):
            if column < width and character != "\n":
                cells_of_line[column] = (character, styles[name], cells_of_line[column][2])
    return rows


def _style(rules: str) -> str:
    """``fill: #e0e0e0;font-weight: bold`` as ``#e0e0e0 bold``."""
    return " ".join(rule.partition(":")[2].strip() for rule in rules.split(";") if ":" in rule)


def _runs(row: list[Cell], names: dict[tuple[str, str], str]) -> Iterator[str]:
    """``12a 3b``: twelve cells of one style, three of the next. Empty cells show their background alone."""
    for look, run in groupby(row, lambda cell: ("" if cell[0] == " " else cell[1], cell[2])):
        letters = ascii_letters[len(names) % 52] + ascii_letters[len(names) // 52 - 1] * (len(names) >= 52)
        yield f"{len(list(run))}{names.setdefault(look, letters)}"


def check(name: str, seen: list[str], svgs: list[str], aside: Path) -> None:
    """Compare pictures with what is stored under ``name``; what differs is left in ``aside``."""
    stored = STORE / f"{name}.txt"
    now = "\n\n".join(seen) + "\n"
    if os.environ.get("PICTURES") == "write":
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(now)
    before = stored.read_text()
    if now != before:
        for place, svg in enumerate(svgs):
            (aside / f"{name}-{place}.svg").write_text(svg)
    assert now.splitlines() == before.splitlines(), f"{name} looks different: see {aside}/{name}-*.svg"
