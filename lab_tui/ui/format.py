"""Numbers as words: what is not known is N/A or "-", never 0."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import PurePath

from rich.cells import cell_len

from lab_tui.model import Best, Cell
from lab_tui.text import interval_share as _share
from lab_tui.text import plural as plural
from lab_tui.text import printable

UNKNOWN = "-"
NOT_AVAILABLE = "N/A"
STALE_AFTER_S = 3.0  # a reading older than this shows its age


def rate(value: float | None) -> str:
    """Tokens a second: ``1,226``, ``412.7``, ``8.42``; ``-`` when not known."""
    if value is None:
        return UNKNOWN
    if value >= 999.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 or value == 0 else f"{value:.2f}"


def short(value: float) -> str:
    """A figure on an axis, in few characters: ``0``, ``2.5``, ``6,500``, ``12.5k``, ``1.2M``."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:.4g}M"
    if value >= 10_000:
        return f"{value / 1_000:.4g}k"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return UNKNOWN if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in binary units, three figures at most: ``5.4G``, ``141G``, ``512M``."""
    if value is None:
        return UNKNOWN
    amount = float(value)
    for unit in ("B", "K", "M", "G", "T"):
        if amount < 999.5 or unit == "T":
            break
        amount /= 1024
    return f"{amount:.0f}{unit}" if unit == "B" or amount >= 9.95 else f"{amount:.1f}{unit}"


def decimal(value: int) -> str:
    """Bytes in decimal units, as estimates of memory and their reasons give them: ``5.8 GB``, ``120 MB``."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def parameters(value: int | None) -> str:
    """How many numbers a model has: ``4.02B``, ``135M``."""
    if value is None:
        return UNKNOWN
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value / 1e3:.0f}K"


def of_total(used: int | None, total: int | None) -> str:
    """``86G/141G``, or what of it is known."""
    if used is None and total is None:
        return NOT_AVAILABLE
    if total is None:
        return size(used)
    return f"{size(used)}/{size(total)}"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: ``12s``, ``4m05s``, ``2h11m``, ``3d4h``."""
    if seconds is None:
        return UNKNOWN
    whole = int(max(seconds, 0) + 0.5)
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h}h"
    if hours:
        return f"{hours}h{m:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"


def uptime(seconds: float | None) -> str:
    """How long something has run, to the minute: ``<1m``, ``12m``, ``2h11m``, ``3d4h``.

    What grows for ever must not change, and be sent, with every second.
    """
    if seconds is None or seconds >= 3600:
        return duration(seconds)
    return f"{int(seconds) // 60}m" if seconds >= 60 else "<1m"


def interval(seconds: float) -> str:
    """A tick: ``0.25s``, ``1s``."""
    return f"{seconds:g}s"


def milliseconds(value: float | None) -> str:
    """A latency: ``310 ms``, ``8.4 ms``, ``12.3 s``."""
    if value is None:
        return UNKNOWN
    if value >= 9_999.5:
        return f"{value / 1000:.1f} s"
    return f"{value:,.0f} ms" if value >= 99.95 or value == 0 else f"{value:.1f} ms"


def percent(value: float | None) -> str:
    """0 to 100 as ``97%``."""
    return NOT_AVAILABLE if value is None else f"{value:.0f}%"


_plus_minus = ["±"]


def use_ascii(ascii: bool) -> None:
    """From now on (there is one screen a process) ``±`` is written ``+-``.

    It is the one sign that takes more cells in ASCII, so it must be that before anything is laid out.
    """
    _plus_minus[0] = "+-" if ascii else "±"


def signed(text: str) -> str:
    """``text`` with ``±`` as this screen writes it."""
    return text.replace("±", _plus_minus[0])


def interval_share(half_width: float | None, mean: float) -> str:
    """A 95 % half-width as a share of its mean, as commands write it; ``±?`` when it is not known."""
    return signed(_share(half_width, mean) or "±?")


def clock(second: float) -> str:
    """A unix time of the last hours by the clock of this machine: ``14:03:59``."""
    return time.strftime("%H:%M:%S", time.localtime(second))


def moment(second: float, now: float) -> str:
    """A unix time, as short as it can be told on the day of ``now``: ``14:03``, ``2026-11-20 14:03``."""
    then, today = time.localtime(second), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def age(seconds: float | None) -> str:
    """How old a reading is, only when that matters: ``(5s old)``."""
    return f"({duration(seconds)} old)" if seconds is not None and seconds > STALE_AFTER_S else ""


def best(value: Best) -> str:
    """The best cell: ``8×32 c=256 1,198 ±1.4%``."""
    share = interval_share(value.throughput_ci95_tps, value.throughput_tps)
    return f"{place(value)} {rate(value.throughput_tps)} {share}"


def place(best: Best) -> str:
    """Where the best is: ``8×32 c=256``."""
    return settings(best.instances, best.parallel, best.concurrency)


def axes(cell: Cell) -> str:
    """The settings that make a cell: ``2×4 c=16 batch=512``."""
    return settings(cell.fleet.instances, cell.fleet.parallel, cell.concurrency, cell.axes)


NAMED = ("instances", "parallel", "concurrency")  # axes that `settings` writes without their names


def settings(
    instances: object, slots: object, streams: object = None, rest: Mapping[str, object] | None = None
) -> str:
    """A fleet, or a cell of it: ``2×4``, ``2×4 c=16``, ``2×4 c=16 batch=512``."""
    others = (f"{name}={value}" for name, value in (rest or {}).items() if name not in NAMED)
    words = (f"{instances}×{slots}", "" if streams is None else f"c={streams}", *others)
    return " ".join(filter(None, words))


def model_name(path: str) -> str:
    """A model's file name without its folder and ``.gguf``."""
    name = printable(PurePath(path).name)
    return name[:-5] if name.lower().endswith(".gguf") else name


def width(text: str) -> int:
    """How many cells ``text`` takes: signs of Chinese and Japanese, and most emoji, take two."""
    return len(text) if text.isascii() else cell_len(text)


def _head(text: str, cells: int) -> str:
    """As much of ``text`` from its beginning as fits into ``cells``."""
    if width(text) <= cells:
        return text
    kept = text[: max(cells, 0)]
    while width(kept) > max(cells, 0):
        kept = kept[:-1]
    return kept


def middle(text: str, cells: int) -> str:
    """``text`` cut in its middle to ``cells`` cells, so that both ends of a path stay."""
    if width(text) <= cells:
        return text
    if cells <= 1:
        return _head(text, cells)
    head = (cells - 1) // 2
    tail = _head(text[::-1], cells - 1 - head)[::-1]
    return f"{_head(text, head)}…{tail}"


def clip(text: str, cells: int) -> str:
    """``text`` cut at its end to ``cells`` cells."""
    return text if width(text) <= cells else _head(text, cells - 1) + "…" * (cells > 0)


def padded(text: str, cells: int) -> str:
    """``text`` with blanks behind it, ``cells`` cells wide at least."""
    return text + " " * max(cells - width(text), 0)
