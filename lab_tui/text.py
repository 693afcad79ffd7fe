"""Words: counts as they are said, hints as they are typed, text that others wrote made safe to be shown."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Callable, MutableMapping

HINT = re.compile(r"(^|`|\$ )lab-tui(?=[ `])")
PROGRAM = "LAB_TUI_PROGRAM"  # the word by which this program was called, where that is not its own name


def program() -> str:
    """What to type for this program: ``lab-tui``, or the script that has started it."""
    return shlex.quote(os.environ.get(PROGRAM) or "lab-tui")


def typed(text: str) -> str:
    """``text``, a command or with hints such as `lab-tui up` in it, as it is to be typed here."""
    return HINT.sub(lambda found: f"{found[1]}{program()}", text)


def printable(text: str) -> str:
    """``text`` as one line that no terminal obeys: what does not print is shown as ``\\x1b``, ``\\u202e``.

    That is C0, C1, line ends, bidirectional overrides and other formats, and bytes of a path that are
    no UTF-8. Tabs become spaces.
    """
    return _each(text.expandtabs(4), _escaped)


def printable_lines(text: str) -> str:
    """As ``printable`` for several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """A JSON document with what does not print escaped in JSON's own way, so that it means the same."""
    return "\n".join(_each(line, _escaped_in_json) for line in text.split("\n"))


def ascii_json(text: str) -> str:
    """A JSON document in ASCII alone that means the same."""
    return text if text.isascii() else re.sub(r"[^\x00-\x7f]", lambda found: _escaped_in_json(found[0]), text)


def speak_utf8(environ: MutableMapping[str, str]) -> None:
    """Make every Python that is started with ``environ`` read and write UTF-8, whatever the terminal does."""
    environ["PYTHONUTF8"] = "1"
    environ.pop("PYTHONIOENCODING", None)


def one_cell(text: str) -> str:
    """``text`` with one sign for each character that does not print: ``␛`` for ESC, ``␦`` beyond ASCII."""
    return _each(text, lambda c: chr(0x2400 + ord(c)) if ord(c) < 0x20 else "␦")


def _each(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(c if _prints(c) else escape(c) for c in text)


def _prints(c: str) -> bool:
    return c.isprintable() or unicodedata.category(c) == "Zs"  # a wide or narrow space moves nothing


def _escaped(c: str) -> str:
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped_in_json(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def plural(number: int, noun: str) -> str:
    """``1 stream``, ``2 streams``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def interval_share(half_width: float | None, mean: float) -> str:
    """A 95 % half-width as a share of its mean: ``±1.4%``; "" when the window was too short for one.

    Beyond all of the mean it says nothing more: ``±>100%``.
    """
    if half_width is None or mean <= 0:
        return ""
    return "±>100%" if half_width > mean else f"±{100 * half_width / mean:.1f}%"


def energy(joules_per_token: float, tokens_per_joule: float | None, source: str) -> str:
    """``0.412 J a token, 2.43 tokens a J (counter)``; ``source`` is empty for what an import does not say."""
    other = "" if tokens_per_joule is None else f", {tokens_per_joule:.3g} tokens a J"
    return f"{joules_per_token:.3g} J a token{other}{f' ({source})' if source else ''}"
