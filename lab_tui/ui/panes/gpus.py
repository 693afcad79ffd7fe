"""Pane 3: the cards, one line each, and the host."""

from __future__ import annotations

from textual.content import Content

from lab_tui.model import GpuReading, HostReading, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.panes import first
from lab_tui.ui.theme import ACCENT, BAD, GOOD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import gauge

Part = tuple[str, str]


def lines(snapshot: Snapshot, width: int) -> list[Content]:
    """One line a card, or why there is none; then the host."""
    rows = [_card(card, width) for card in snapshot.gpus]
    if not rows:
        reason = fmt.clip(snapshot.gpu_reason or "no reading yet", max(width - 10, 0))
        rows = [Content.assemble(" GPU ", ("N/A", WARN), (f": {reason}", MUTED))]
    rows += _host(snapshot.host, width)
    return rows if snapshot.gpus or snapshot.instances else rows + first.no_card()


def _share(used: int | None, total: int | None) -> float | None:
    return None if used is None or not total else 100 * used / total


def _memory_style(share: float | None) -> str:
    """Memory that is nearly full is a warning; the last 3 % are an error about to happen."""
    if share is None:
        return MUTED
    return BAD if share >= 97 else WARN if share >= 90 else GOOD


def _card(card: GpuReading, width: int) -> Content:
    known = (card.util_pct, card.memory_used_bytes, card.power_w, card.temperature_c)
    name = fmt.clip(_short(card.name), 16 if width >= 70 else 9)
    head = f" {card.index} {name} "
    if all(value is None for value in known) and card.missing:
        reason = fmt.clip(next(iter(card.missing.values())), max(width - len(head) - 5, 0))
        return Content.assemble(head, ("N/A", WARN), (f": {reason}", MUTED))
    share = _share(card.memory_used_bytes, card.memory_total_bytes)
    memory = fmt.of_total(card.memory_used_bytes, card.memory_total_bytes)
    heat = fmt.NOT_AVAILABLE if card.temperature_c is None else f"{card.temperature_c:.0f}°C"
    tail = f"  {_power(card, width)}" + (f"  {heat}" if width >= 50 else "")
    why = _why(card) if width >= 100 else ""
    bars, bar = _bars(width - len(head) - len(memory) - len(tail) - len(why) - 12)
    parts: list[Part] = [(head, "")]
    if bars:
        parts.append((gauge(card.util_pct, bar), ACCENT))
    parts += [(f"{fmt.percent(card.util_pct):>5}", STRONG), ("  MEM ", MUTED)]
    if bars == 2:
        parts += [(gauge(share, bar), _memory_style(share)), (" ", "")]
    return Content.assemble(*parts, (memory, _memory_style(share)), tail, (why, MUTED))


def _bars(room: int) -> tuple[int, int]:
    """How many gauges fit into ``room`` and how wide each is."""
    if room >= 18:
        return 2, min((room - 2) // 2, 30)
    return (1, room - 1) if room >= 6 else (0, 0)


def _power(card: GpuReading, width: int) -> str:
    if card.power_w is None:
        return fmt.NOT_AVAILABLE
    cap = f"/{card.power_cap_w:.0f}" if card.power_cap_w is not None and width >= 80 else ""
    return f"{card.power_w:.0f}{cap}W"


def _why(card: GpuReading) -> str:
    """The reason of the first value that is missing."""
    return next((f"  {field}: {reason}" for field, reason in card.missing.items()), "")


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
