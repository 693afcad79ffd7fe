"""Every sign of the screen in ASCII, for terminals and fonts that have no more than that.

The screen is drawn in Unicode throughout. Where that cannot be shown, ``plain`` puts one ASCII character
for each cell on the way to the terminal, so columns stay where they are and nothing can slip through.
"""

from __future__ import annotations

import locale
import unicodedata
from collections.abc import Mapping

from rich.cells import cell_len

# Signs that stand beside or in place of one another differ in ASCII too.
SIGNS = {
    # states
    "○": "o",
    "◔": "c",
    "◐": "%",
    "●": "*",
    "◌": ":",
    "↻": "@",
    "✖": "X",
    "✔": "v",
    "▶": ">",
    "‖": "=",
    "◇": "H",
    "⊘": "/",
    "·": ".",
    # sparklines: eight heights
    "▁": "_",
    "▂": "-",
    "▃": "~",
    "▄": "=",
    "▅": "+",
    "▆": "*",
    "▇": "%",
    "█": "#",
    # gauges, and the shades of a heat map
    "░": "-",
    "▒": "+",
    "▓": "%",
    "▏": "-",
    "▎": "-",
    "▍": "-",
    "▌": "#",
    "▋": "#",
    "▊": "#",
    "▉": "#",
    "▐": "#",
    "▀": "^",
    "▔": "-",
    # words and figures
    "…": "~",
    "±": "~",
    "×": "x",
    "°": "'",
    "–": "-",
    "—": "-",
    "−": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "•": "*",
    "≤": "<",
    "≥": ">",
    "≈": "~",
    "µ": "u",
    "Δ": "d",
    "∞": "8",
    "√": "v",
    "✓": "v",
    "✗": "x",
    "✘": "x",
    "⚠": "!",
    "ℹ": "i",
    "⏎": "<",
    "↵": "<",
    "⌫": "<",
    "⏸": "=",
    "⏵": ">",
    "⭘": "o",
    "\xa0": " ",
    # pointers
    "←": "<",
    "→": ">",
    "↑": "^",
    "↓": "v",
    "↔": "-",
    "↕": "|",
    "▲": "^",
    "▼": "v",
    "◀": "<",
    "►": ">",
    "◄": "<",
    "▸": ">",
    "▾": "v",
    "◂": "<",
    "▴": "^",
    "▷": ">",
    "◆": "*",
    "◉": "@",
    "◎": "o",
    "■": "#",
    "□": "o",
    "▪": "#",
    "▫": "o",
    "★": "*",
    "☆": "o",
    "🔎": "/ ",
    "🔍": "/ ",
}
# Box drawing by its Unicode names: heavy and double lines stay apart from light ones (they are the focus).
HEAVY = ("HEAVY", "DOUBLE")


def for_ascii(character: str) -> str:
    """``character`` in ASCII, as many characters as it takes cells; "?" for what has no likeness."""
    if character.isascii():
        return character
    known = SIGNS.get(character)
    if known is not None:
        return known
    cells = cell_len(character)
    code = ord(character)
    if 0x2500 <= code <= 0x257F:
        return _line(unicodedata.name(character))
    if 0x2580 <= code <= 0x259F:
        return "#"
    if 0x2800 <= code <= 0x28FF:
        return _braille(code - 0x2800)
    letter = unicodedata.normalize("NFKD", character)[0]
    return letter.ljust(cells) if letter.isascii() and cells else "?" * cells


def _line(name: str) -> str:
    """A piece of a frame by its Unicode name."""
    heavy = any(word in name for word in HEAVY)
    kind = name.removeprefix("BOX DRAWINGS ")
    across = any(word in kind for word in ("HORIZONTAL", "LEFT", "RIGHT"))
    upright = any(word in kind for word in ("VERTICAL", "UP", "DOWN"))
    if "ARC" in kind:
        return "." if "DOWN" in kind else "'"
    if "DIAGONAL" in kind:
        return "X" if "CROSS" in kind else "/" if "UPPER RIGHT TO" in kind else "\\"
    if across and upright:
        return "#" if heavy else "+"
    if across:
        return "=" if heavy else "-"
    return "|"


def _braille(dots: int) -> str:
    """A cell of a plot: where its dots are, upper half, lower half or both."""
    if not dots:
        return " "
    upper, lower = dots & 0b00011011, dots & 0b11100100
    if upper and lower:
        return "*" if dots.bit_count() > 4 else ":"
    return "'" if upper else "."


class _Table(dict[int, str]):
    """For ``str.translate``; fills itself with what it meets."""

    def __missing__(self, code: int) -> str:
        self[code] = found = for_ascii(chr(code))
        return found


_TABLE = _Table()


def plain(text: str) -> str:
    """``text`` without a character outside ASCII, as wide as before."""
    return text if text.isascii() else text.translate(_TABLE)


def speaks_utf8(environ: Mapping[str, str], codeset: str | None = None) -> bool:
    """Whether the locale's encoding is UTF-8. ``codeset`` is the C library's word for it.

    Python takes an unset locale, and LANG=C too, for C.UTF-8. Unset is what containers have, and their
    terminals do speak UTF-8; who says C means ASCII.
    """
    if codeset is None:
        codeset = locale.nl_langinfo(locale.CODESET)
    said = environ.get("LC_ALL") or environ.get("LANG", "")
    if said in ("C", "POSIX"):
        chosen = environ.get("LC_CTYPE", "").partition(".")[0]
        return not environ.get("LC_ALL") and chosen not in ("", "C", "UTF-8", "POSIX")
    return codeset.lower().replace("-", "") == "utf8"
