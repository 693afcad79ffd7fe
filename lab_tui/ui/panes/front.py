"""What the front is and what went through it."""

from __future__ import annotations

from textual.content import Content

from lab_tui.model import FrontTraffic, InstanceTraffic, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.panes.facts import fact
from lab_tui.ui.theme import ACCENT, BAD, FRONT, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import gauge

WIDE = 60  # columns from which there are bars


def facts(snapshot: Snapshot, width: int) -> list[Content]:
    """State, connections and how requests ended, one line each."""
    front, traffic, look = snapshot.front, snapshot.traffic, FRONT[snapshot.front.state]
    balancing = snapshot.fleet.balancing.replace("_", " ") if snapshot.fleet else fmt.UNKNOWN
    pid = fmt.UNKNOWN if front.pid is None else str(front.pid)
    lines = [
        fact("state", (f"{look.glyph} {look.word}", look.style), (f"  {front.reason}", BAD)),
        fact("address", (front.url or fmt.UNKNOWN, STRONG), (f"  {front.beside}", MUTED)),
        fact("sends to", (f"{front.ready} of {fmt.plural(len(snapshot.instances), 'instance')}", "")),
        fact("how", (balancing, ""), (f"  nginx pid {pid}", MUTED)),
    ]
    if traffic is None:
        return [*lines, Content.styled(" No nginx runs, so nothing goes through it.", MUTED)]
    return [line.truncate(width, ellipsis=True) for line in (*lines, *_traffic(traffic))]


def _traffic(traffic: FrontTraffic) -> list[Content]:
    if traffic.connections is None:
        connections = fact("clients", (fmt.NOT_AVAILABLE, WARN), (f": {traffic.connections_reason}", MUTED))
    else:
        connections = fact("clients", (fmt.plural(traffic.connections, "open connection"), STRONG))
    pace = fmt.UNKNOWN if traffic.requests_per_s is None else f"{traffic.requests_per_s:,.1f}"
    errors = sum(traffic.errors.values())
    kinds = ", ".join(f"{count:,} × {status}" for status, count in sorted(traffic.errors.items()))
    wait = fmt.milliseconds(traffic.first_byte_p95_ms)
    timed = fmt.plural(traffic.streams_timed, "stream")
    since = fmt.clock(traffic.since)
    return [
        connections,
        fact("requests", (f"{traffic.requests:,}", STRONG), (f" ended since {since}", MUTED)),
        fact("pace", (pace, STRONG), (" requests/s, last 10s", MUTED)),
        fact("errors", (f"{errors:,}", BAD if errors else STRONG), (f"  {kinds}" if kinds else "", BAD)),
        fact("cut off", (f"{traffic.cut_off:,}", STRONG), (" before their end", MUTED)),
        fact("1st byte", (f"p95 {wait}", STRONG), (f" of {timed} in 1m", MUTED)),
    ]


def instances(snapshot: Snapshot, width: int) -> tuple[list[Content], list[str | None]]:
    """One line an instance and their keys; what nginx answered itself, or an instance that is gone, below.

    PASSED counts what an instance did not take, so that the next one got it.
    """
    traffic = snapshot.traffic
    if traffic is None:
        return [Content.styled(" Nothing is counted while no front runs.", MUTED)], []
    counted = {one.address: one for one in traffic.instances}
    most = max((one.requests for one in traffic.instances), default=0)
    lines = [Content.styled("     #  REQUESTS ERRORS   CUT PASSED", MUTED).truncate(width)]
    keys: list[str | None] = [None]
    for view in snapshot.instances:
        address = f"127.0.0.1:{view.port}"
        one = counted.pop(address, _nothing(address))
        lines.append(_line(str(view.index), one, most, width))
        keys.append(str(view.index))
    for one in counted.values():
        lines.append(_line("gone" if one.address else "nginx", one, most, width))
        keys.append(None)
    return lines, keys


def _nothing(address: str) -> InstanceTraffic:
    return InstanceTraffic(address=address, requests=0, errors=0, cut_off=0, passed_on=0)


def _line(head: str, one: InstanceTraffic, most: int, width: int) -> Content:
    bar = gauge(100 * one.requests / most if most else 0.0, min(width - 40, 40)) if width >= WIDE else ""
    return Content.assemble(
        f"{head:>6}{one.requests:>10,}",
        (f"{one.errors:>7,}", BAD if one.errors else ""),
        f"{one.cut_off:>6,}",
        (f"{one.passed_on:>7,}", WARN if one.passed_on else ""),
        "  ",
        (bar, ACCENT),
    )
