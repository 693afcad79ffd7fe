"""Pane 3: the cards, one line each, and the host."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

from textual.content import Content

from lab_tui.model import GpuReading, HostReading, InstanceView, MpsView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.panes import first
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, GOOD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import gauge, spark

Part = tuple[str, str]


SPARK_FROM = 70  # columns of the pane from which utilisation is a curve and no gauge
HEAT_FROM = 50  # and from which a card's own line has its temperature
SHOWN = ("util_pct", "memory_used_bytes", "power_w", "temperature_c")  # figures of a card's own line
SLOWED = "▼"
WORDS = {
    "util_pct": "utilisation",
    "memory_used_bytes": "memory",
    "memory_total_bytes": "total memory",
    "power_w": "power",
    "power_cap_w": "power cap",
    "temperature_c": "temperature",
    "clock_mhz": "clock",
    "clock_max_mhz": "highest clock",
    "memory_clock_mhz": "memory clock",
    "fan_pct": "fan",
    "throttle": "throttling",
    "energy_j": "energy",
    "processes": "memory by process",
}


def lines(snapshot: Snapshot, series: Series, width: int, step: int, *, whole: bool) -> list[Content]:
    """One line a card, or why there is none; then the host. ``whole``: below each card all that is known."""
    rows: list[Content] = []
    room, now = _spark_room(width), int(snapshot.time)
    grid, shared = _grid(snapshot.gpus, width), _shared(snapshot.gpus)
    for card in snapshot.gpus:
        curve = spark(series.columns(f"gpu.{card.index}", room, step, now), 100.0)[0] if room else ""
        rows.append(_card(card, width, grid, curve, whole))
        rows += _details(card, snapshot.instances, shared, width) if whole else []
    if whole:
        rows += _packed([(f"no card tells {text}", MUTED) for text in shared], width)
        rows += _mps(snapshot.mps, width)
    if not rows:
        reason = fmt.clip(snapshot.gpu_reason or "no reading yet", max(width - 10, 0))
        rows = [Content.assemble(" GPU ", ("N/A", WARN), (f": {reason}", MUTED))]
    rows += _host(snapshot.host, width)
    return rows if snapshot.gpus or snapshot.instances else rows + first.no_card()


def _mps(found: MpsView | None, width: int) -> list[Content]:
    """Whether the instances on one card run side by side, and what would have them do so."""
    if found is None or not found.said:
        return []
    style = WARN if found.hint else MUTED
    return [Content.styled(f" {line}", style) for line in wrap(found.said, max(width - 2, 20))]


def title(cards: Sequence[GpuReading]) -> str:
    """What several cards come to: mean utilisation, memory and power, "≥" where some do not tell theirs."""
    if len(cards) < 2:
        return ""
    busy = [card.util_pct for card in cards if card.util_pct is not None]
    watts = [card.power_w for card in cards if card.power_w is not None]
    # Unified memory is the system's, and counted there.
    own = [card for card in cards if card.memory_total_bytes and "memory" not in card.missing]
    parts = [f"({len(cards)})", fmt.percent(sum(busy) / len(busy) if busy else None)]
    if own:
        used = sum(card.memory_used_bytes or 0 for card in own)
        least = "≥" if len(own) < len(cards) else ""
        parts.append(least + fmt.of_total(used, sum(card.memory_total_bytes or 0 for card in own)))
    if watts:
        parts.append(("≥" if len(watts) < len(cards) else "") + _watts(sum(watts)))
    return " ".join(parts)


def _watts(value: float) -> str:
    return f"{value / 1000:.1f}kW" if value >= 999.5 else f"{value:.0f}W"


def _spark_room(width: int) -> int:
    """Columns of the curve of utilisation; 0: too narrow for one."""
    return min((width - 52) // 2, 60) if width >= SPARK_FROM else 0


def _share(used: int | None, total: int | None) -> float | None:
    return None if used is None or not total else 100 * used / total


def _memory_style(share: float | None) -> str:
    """Memory that is nearly full is a warning; the last 3 % are an error about to happen."""
    if share is None:
        return MUTED
    return BAD if share >= 97 else WARN if share >= 90 else GOOD


class _Grid(NamedTuple):
    """How wide the columns of all cards are."""

    number: int
    name: int
    memory: int
    power: int


def _grid(cards: Sequence[GpuReading], width: int) -> _Grid:
    most = 16 if width >= SPARK_FROM else 9
    return _Grid(
        max((len(str(card.index)) for card in cards), default=0),
        min(max((len(_short(card.name)) for card in cards), default=0), most),
        max((len(_memory(card)) for card in cards if _tells(card)), default=0),
        max((len(_power(card, width)) for card in cards if _tells(card)), default=0),
    )


def _tells(card: GpuReading) -> bool:
    """Whether any figure of its line is known."""
    return any(getattr(card, field) is not None for field in SHOWN) or not card.missing


def _memory(card: GpuReading) -> str:
    return fmt.of_total(card.memory_used_bytes, card.memory_total_bytes)


def _card(card: GpuReading, width: int, grid: _Grid, curve: str, whole: bool) -> Content:
    name = fmt.clip(_short(card.name), grid.name).ljust(grid.name)
    head = f" {card.index:>{grid.number}} {name} "
    if not _tells(card):
        reason = fmt.clip(next(iter(card.missing.values())), max(width - len(head) - 5, 0))
        return Content.assemble(head, ("N/A", WARN), (f": {reason}", MUTED))
    share = _share(card.memory_used_bytes, card.memory_total_bytes)
    memory, slowed = _memory(card).rjust(grid.memory), SLOWED if card.throttle else ""
    tail = f"  {_power(card, width).rjust(grid.power)}"
    heat = fmt.NOT_AVAILABLE if card.temperature_c is None else f"{card.temperature_c:.0f}°C"
    rest = f"{' ' if slowed else '  '}{heat:<4}" if width >= HEAT_FROM else ""
    why = _why(card) if width >= 100 and not whole else ""
    taken = len(head) + len(curve) + len(memory) + len(tail) + len(slowed) + len(rest) + len(why) + 12
    bars, bar = _bars(width - taken, 1 if curve else 2)
    parts: list[Part] = [(head, "")]
    if curve:
        parts.append((curve, ACCENT))
    elif bars:
        parts.append((gauge(card.util_pct, bar), ACCENT))
    parts += [(f"{fmt.percent(card.util_pct):>5}", STRONG), ("  MEM ", MUTED)]
    if bars == 2 or (curve and bars):
        parts += [(gauge(share, bar), _memory_style(share)), (" ", "")]
    return Content.assemble(*parts, (memory, _memory_style(share)), tail, (slowed, WARN), rest, (why, MUTED))


def _bars(room: int, most: int = 2) -> tuple[int, int]:
    """How many gauges, ``most`` at most, fit into ``room`` and how wide each is."""
    if most == 2 and room >= 18:
        return 2, min((room - 2) // 2, 30)
    return (1, min(room - 1, 30)) if room >= 6 else (0, 0)


def _power(card: GpuReading, width: int) -> str:
    if card.power_w is None:
        return fmt.NOT_AVAILABLE
    cap = f"/{card.power_cap_w:.0f}" if card.power_cap_w is not None and width >= 80 else ""
    return f"{card.power_w:.0f}{cap}W"


def _why(card: GpuReading) -> str:
    """The reason of the first value that should stand in the line and does not."""
    return next((f"  {WORDS[field]}: {card.missing[field]}" for field in SHOWN if field in card.missing), "")


def _details(
    card: GpuReading, instances: Sequence[InstanceView], shared: Sequence[str], width: int
) -> list[Content]:
    """All that is known of a card beside its own line, and why the rest is not; ``shared`` is said once."""
    if not _tells(card):
        return []  # it is lost, and its line says so
    parts: list[Part] = []
    if card.temperature_c is not None and width < HEAT_FROM:
        parts.append((f"{card.temperature_c:.0f}°C", ""))
    if card.clock_mhz is not None:
        most = "" if card.clock_max_mhz is None else f"/{card.clock_max_mhz:.0f}"
        parts.append((f"clock {card.clock_mhz:.0f}{most} MHz", ""))
    if card.memory_clock_mhz is not None:
        parts.append((f"memory {card.memory_clock_mhz:.0f} MHz", ""))
    if card.power_cap_w is not None:
        parts.append((f"power cap {card.power_cap_w:.0f} W", ""))
    if card.fan_pct is not None:
        parts.append((f"fan {card.fan_pct:.0f}%", ""))
    if card.throttle is not None:
        slowed = f"{SLOWED} slowed by {', '.join(card.throttle)}"
        parts.append((slowed, WARN) if card.throttle else ("not slowed", MUTED))
    parts += [
        (f"instance {view.index}: {fmt.size(view.vram_by_gpu[card.index])}", STRONG)
        for view in instances
        if card.index in view.vram_by_gpu
    ]
    if "memory" in card.missing:
        parts.append((f"memory {card.missing['memory']}", MUTED))
    parts += [(f"N/A: {text}", MUTED) for text in _absent(card) if text not in shared]
    return _packed(parts, width)


def _shared(cards: Sequence[GpuReading]) -> list[str]:
    """What is missing of several cards for the same reason."""
    all_of_them = [_absent(card) for card in cards if _tells(card)]
    if len(all_of_them) < 2:
        return []
    return [text for text in all_of_them[0] if all(text in absent for absent in all_of_them)]


def _absent(card: GpuReading) -> list[str]:
    """The figures that are not known, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for field, word in WORDS.items():
        if field in card.missing:
            by_reason.setdefault(card.missing[field], []).append(word)
    return [f"{', '.join(words)} ({reason})" for reason, words in by_reason.items()]


def _packed(parts: Sequence[Part], width: int) -> list[Content]:
    """``parts`` on as few lines as hold them, in order; one that is too long is cut."""
    indent, room = "     ", max(width - 6, 0)
    rows: list[list[Part]] = []
    used = room
    for text, style in parts:
        text = fmt.clip(text, room)
        if used + 2 + len(text) > room:
            rows.append([(indent, "")])
            used = -2
        rows[-1] += [("  " if used >= 0 else "", ""), (text, style)]
        used += 2 + len(text)
    return [Content.assemble(*row) for row in rows]


def _short(name: str) -> str:
    """A card's name without its maker."""
    for maker in ("NVIDIA ", "GeForce ", "Tesla ", "AMD "):
        name = name.removeprefix(maker)
    return name


def _host(host: HostReading, width: int) -> list[Content]:
    share = _share(host.memory_used_bytes, host.memory_total_bytes)
    memory = fmt.of_total(host.memory_used_bytes, host.memory_total_bytes)
    tail = f"  load {host.load1:.1f} of {fmt.plural(host.cores, 'core')}" if host.load1 is not None else ""
    if width < 56:
        tail = f"  {fmt.plural(host.cores, 'core')}" if width >= 36 else ""
    bars, bar = _bars(width - len(memory) - len(tail) - 17)
    parts: list[Part] = [(" CPU ", MUTED)]
    if bars:
        parts.append((gauge(host.cpu_pct, bar), ACCENT))
    parts += [(f"{fmt.percent(host.cpu_pct):>5}", STRONG), ("  MEM ", MUTED)]
    if bars == 2:
        parts += [(gauge(share, bar), _memory_style(share)), (" ", "")]
    return [Content.assemble(*parts, (memory, _memory_style(share)), tail)]
