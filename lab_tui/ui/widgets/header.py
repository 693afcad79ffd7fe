"""The line at the top: where this is, what serves, what is measured, and how fresh all that is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from textual import events
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from lab_tui.model import FleetSpec, FrontState, InstanceState, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.link import Link
from lab_tui.ui.panes.queue import done
from lab_tui.ui.theme import ACCENT, BAD, FRONT, GOOD, MUTED, STRONG, WARN

LONGEST_MODEL, SHORTEST_MODEL = 40, 8  # cells of the model's name; where there is no room for so many, none


class Part(NamedTuple):
    """Words, how they look, and the action that a click on them stands for."""

    text: str
    style: str
    action: str = ""

    def content(self) -> Content:
        """The words, ready to be shown and clicked."""
        text = Content.styled(self.text, self.style)
        return text.stylize(Style.from_meta({"action": self.action})) if self.action else text


class HeaderLine(Static):
    """One line, rewritten only when its words change."""

    def __init__(self) -> None:
        super().__init__("", id="header")
        self._shown = Content()

    def show(self, content: Content) -> None:
        """Show ``content`` unless it is there already."""
        if not content.is_same(self._shown):
            self._shown = content
            self.update(content, layout=False)

    async def on_click(self, event: events.Click) -> None:
        """Words that stand for an action do it. (Links would lose their own colours.)"""
        action = event.style.meta.get("action")
        if action:
            await self.run_action(f"screen.act('{action}')")

    @property
    def plain(self) -> str:
        """What is shown, without colour."""
        return self._shown.plain


def compose_header(
    snapshot: Snapshot | None,
    link: Link,
    width: int,
    tick_s: float,
    frozen: bool,
    read_only: bool,
    age_s: float,
) -> Content:
    """The header in ``width`` cells; ``age_s`` is how old the snapshot is."""
    parts = [Part(" lab-tui", f"{STRONG} {ACCENT}")]
    if snapshot is not None:
        parts.append(Part(f"  {fmt.middle(snapshot.host.name, max(width // 6, 8))}", STRONG))
    alerts = _alerts(link, snapshot, tick_s, frozen, read_only, age_s)
    facts = _facts(snapshot, link.connected) if snapshot is not None else []
    tick = [Part(f"tick {fmt.interval(tick_s)}", MUTED, "faster")]
    right = [Part(f"  {key('help')} help", MUTED, "help")] if width >= 60 else []
    room = width - _length(parts) - _length(right) - 1
    shown, left = _fitting((*alerts, *facts), room)
    if left >= _length(tick) and right:
        right, left = tick + right, left - _length(tick)
    if snapshot is not None and snapshot.fleet is not None and (name := _model(snapshot.fleet, left)):
        shown.insert(len(alerts), name)
    for part in shown:
        parts += [Part("  ", ""), part]
    parts.append(Part(" " * max(width - _length(parts) - _length(right) - 1, 1), ""))
    return Content("").join(part.content() for part in (*parts, *right)).truncate(width)


def _length(parts: Sequence[Part]) -> int:
    return sum(fmt.width(part.text) for part in parts)


def _fitting(parts: Sequence[Part], room: int) -> tuple[list[Part], int]:
    """Those that fit into ``room``, the first ones first, and what room is left."""
    kept: list[Part] = []
    for part in parts:
        need = fmt.width(part.text) + 2
        if need <= room:
            kept.append(part)
            room -= need
    return kept, room


def _alerts(
    link: Link, snapshot: Snapshot | None, tick_s: float, frozen: bool, read_only: bool, age_s: float
) -> list[Part]:
    """What a user must not overlook."""
    alerts: list[Part] = []
    if not link.connected and snapshot is None:
        since = fmt.duration(time.monotonic() - link.since)
        alerts.append(Part(f"✖ no engine {since}, retrying", f"{BAD} bold", "engine"))
    elif not link.connected:
        alerts.append(Part(f"✖ engine gone, figures {fmt.duration(age_s)} old", f"{BAD} bold", "engine"))
    elif snapshot is not None and age_s > stale_after_s(tick_s):
        alerts.append(Part(f"◌ stale {fmt.duration(age_s)}", f"{WARN} bold"))
    if frozen:
        alerts.append(Part(f"‖ FROZEN, {key('freeze')} goes on", f"{WARN} bold", "freeze"))
    if read_only:
        alerts.append(Part("read-only", WARN))
    return alerts


def stale_after_s(tick_s: float) -> float:
    """How old a snapshot may be and still stand for now."""
    return max(fmt.STALE_AFTER_S, 3 * tick_s)


def _facts(snapshot: Snapshot, live: bool) -> list[Part]:
    """What serves and what is measured. ``live``: it is so now; else it was, and is grey."""
    facts = [_front(snapshot)]
    if snapshot.sweep is not None:
        tried, total = done(snapshot.sweep), snapshot.sweep.cells_total
        facts.append(Part(f"▶ sweep {tried}/{total}", GOOD, "pane.4"))
    elif snapshot.queue_paused:
        facts.append(Part("‖ queue paused", WARN, "pane.4"))
    return facts if live else [fact._replace(style=MUTED) for fact in facts]


def _model(fleet: FleetSpec, room: int) -> Part | None:
    """As much of the model's name as there is room for; None: too little."""
    name = fmt.model_name(fleet.model)
    cells = min(room - len("  model "), LONGEST_MODEL)
    if cells < min(fmt.width(name), SHORTEST_MODEL):
        return None
    return Part(f"model {fmt.middle(name, cells)}", "", "pane.1")


def _front(snapshot: Snapshot) -> Part:
    front = snapshot.front
    total = len(snapshot.instances)
    if front.state is FrontState.STOPPED and not total:
        return Part("no fleet", MUTED, "pane.1")
    look = FRONT[front.state]
    ready = sum(view.state is InstanceState.READY for view in snapshot.instances)
    port = f" :{snapshot.fleet.front_port}" if snapshot.fleet is not None else ""
    style = look.style if ready == total or front.state is not FrontState.READY else WARN
    reason = f" ({front.reason})" if front.reason else ""
    return Part(f"front{port} {look.glyph} {look.word}{reason} {ready}/{total}", style, "pane.1")
