"""Two sweeps side by side: their best cells, and the cells that both have measured."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from lab_tui.findings import Pair, Rate, differences
from lab_tui.model import Best, SweepDetail
from lab_tui.ui import format as fmt
from lab_tui.ui.theme import BAD, GOOD, MUTED, STRONG, WARN
from lab_tui.ui.widgets.table import Row

WITHIN = {True: "≈ within ±", False: "≠ beyond ±", None: "? no interval"}
FALLING = ("change",)


def columns(a: SweepDetail, b: SweepDetail) -> tuple[str, ...]:
    """The heads of the table."""
    one, two = a.view.id, b.view.id
    return ("cell", f"tok/s #{one}", f"± #{one}", f"tok/s #{two}", f"± #{two}", "change", "difference")


def change(pair: Pair) -> str:
    """How much more or less the second is: ``+12.3%``."""
    return fmt.UNKNOWN if pair.ratio is None else f"{100 * (pair.ratio - 1):+.1f}%"


def row(number: int, pair: Pair, names: Sequence[str]) -> Row:
    """One cell of both; ``number``: its place among them."""
    instances, slots, streams = pair.key[:3]
    name = fmt.settings(instances, slots, streams, dict(zip(names, pair.key, strict=True)))
    shares = [fmt.interval_share(rate.half_width, rate.tps) for rate in (pair.a, pair.b)]
    style = "" if pair.within is not False else GOOD if (pair.ratio or 0) > 1 else BAD
    words = (
        name,
        fmt.rate(pair.a.tps),
        shares[0],
        fmt.rate(pair.b.tps),
        shares[1],
        change(pair),
        fmt.signed(WITHIN[pair.within]),
    )
    widths = [_share(rate) for rate in (pair.a, pair.b)]
    order = (number, pair.a.tps, widths[0], pair.b.tps, widths[1], pair.ratio, WITHIN[pair.within])
    return Row(words, order, (*[""] * 5, style, style))


def _share(rate: Rate) -> float | None:
    return rate.half_width / rate.tps if rate.half_width is not None and rate.tps else None


def summary(a: SweepDetail, b: SweepDetail, pairs: Sequence[Pair]) -> list[Content]:
    """The best of each, how they differ, and what the common cells come to."""
    lines = [_one(detail) for detail in (a, b)]
    if a.view.best is not None and b.view.best is not None:
        best = Pair((), _rate(a.view.best), _rate(b.view.best))
        word = fmt.signed(WITHIN[best.within])
        style = MUTED if best.within is not False else GOOD if (best.ratio or 0) > 1 else BAD
        lines.append(Content.assemble(" best against best  ", (f"{change(best)}  {word}", style)))
    apart = [pair for pair in pairs if pair.within is False]
    more = sum((pair.ratio or 0) > 1 for pair in apart)
    unknown = sum(pair.within is None for pair in pairs)
    counts = (
        f" #{b.view.id} makes more in {more} and less in {len(apart) - more} of"
        f" {fmt.plural(len(pairs), 'cell')}; {len(pairs) - len(apart) - unknown} within {fmt.signed('±')}"
        + (f", {unknown} without an interval" if unknown else "")
        if pairs
        else " no cell was measured in both"
    )
    lines.append(Content.styled(counts, MUTED))
    if found := differences(a, b):
        lines.append(Content.styled(f" ! not measured alike: {'; '.join(found)}", WARN))
    return lines


def _one(detail: SweepDetail) -> Content:
    view = detail.view
    head = Content.assemble(
        (f" #{view.id} {view.name}", STRONG), (f"  {view.strategy}, {view.status}", MUTED)
    )
    if view.best is None:
        return head.append(Content.styled(f"  no best cell{f': {view.reason}' if view.reason else ''}", BAD))
    ties = f"  tied with {len(detail.tied) - 1} more" if len(detail.tied) > 1 else ""
    return head.append(Content.assemble("  best ", (fmt.best(view.best), GOOD), (ties, MUTED)))


def _rate(best: Best) -> Rate:
    return Rate(best.throughput_tps, best.throughput_ci95_tps)
