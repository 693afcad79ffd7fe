"""Sparklines and gauges as text, on a fixed scale that the caller states."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
GAP = "·"  # nothing is known of that time
FULL, EMPTY = "█", "░"
PARTS = " ▏▎▍▌▋▊▉"

STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)


def nice_top(highest: float, current: float = 0.0) -> float:
    """The top of a scale that holds ``highest``, a round number.

    ``current`` is the top in use: it is kept until it is overrun or mostly empty, so that a live
    curve does not change its scale with every reading.
    """
    if current and 0.35 * current <= highest <= current:
        return current
    if highest <= 0:
        return current or 10.0
    magnitude = 1.0
    while magnitude * 10 <= highest:
        magnitude *= 10
    while magnitude > highest:
        magnitude /= 10
    return next(step * magnitude for step in STEPS if step * magnitude >= highest)


def spark(values: Sequence[float | None], top: float, rows: int = 1) -> list[str]:
    """``values`` as ``rows`` lines of blocks from 0 to ``top``, the uppermost first.

    A known 0 is a low line, an unknown value a dot.
    """
    lines = [[" "] * len(values) for _ in range(rows)]
    for column, value in enumerate(values):
        if value is None:
            lines[-1][column] = GAP
            continue
        filled = min(max(round(value / top * rows * 8) if top > 0 else 0, 1), rows * 8)
        for row in range(rows):
            lines[rows - 1 - row][column] = BLOCKS[min(max(filled - row * 8, 0), 8)]
    return ["".join(line) for line in lines]


def gauge(percentage: float | None, width: int) -> str:
    """0 to 100 as a bar of ``width`` cells; dots when it is not known."""
    if percentage is None:
        return GAP * width
    eighths = round(min(max(percentage, 0.0), 100.0) / 100 * width * 8)
    full, part = divmod(eighths, 8)
    bar = FULL * full + (PARTS[part] if part else "")
    return bar + EMPTY * (width - len(bar))


def sampled(values: Sequence[float | None]) -> float:
    """The highest known value, 0 when there is none."""
    return max((value for value in values if value is not None), default=0.0)


_DIGITS = {
    "0": ("╭─╮", "│ │", "╰─╯"),
    "1": ("╶╮ ", " │ ", "╶┴╴"),
    "2": ("╶─╮", "╭─╯", "╰─╴"),
    "3": ("╶─╮", " ─┤", "╶─╯"),
    "4": ("╷ ╷", "╰─┤", "  ╵"),
    "5": ("╭─╴", "╰─╮", "╶─╯"),
    "6": ("╭─╴", "├─╮", "╰─╯"),
    "7": ("╶─╮", "  │", "  ╵"),
    "8": ("╭─╮", "├─┤", "╰─╯"),
    "9": ("╭─╮", "╰─┤", "╶─╯"),
    ",": (" ", " ", ","),
    ".": (" ", " ", "."),
    "-": ("   ", "╶─╴", "   "),
}


def big(text: str) -> tuple[str, str, str]:
    """A figure three rows high."""
    glyphs = [_DIGITS.get(character, ("   ", "   ", "   ")) for character in text]
    top, middle, bottom = ("".join(glyph[row] for glyph in glyphs) for row in range(3))
    return top, middle, bottom
