"""The line at the top: where this is, what serves, what is measured, and how fresh all that is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from textual import events
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from lab_tui.model import FrontState, InstanceState, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.link import Link
from lab_tui.ui.panes.queue import done
from lab_tui.ui.theme import ACCENT, BAD, FRONT, GOOD, MUTED, STRONG, WARN


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
    arrived: float,
) -> Content:
    """The header in ``width`` cells; ``arrived`` is when the snapshot came, by the monotonic clock."""
    parts = [Part(" lab-tui", f"{STRONG} {ACCENT}")]
    if snapshot is not None:
        parts.append(Part(f"  {snapshot.host.name}", STRONG))
    alerts = _alerts(link, snapshot, tick_s, frozen, read_only, arrived)
    facts = _facts(snapshot, width) if snapshot is not None else []
    right: list[Part] = []
    if width >= 60:
        right.append(Part(f"tick {fmt.interval(tick_s)}", MUTED, "faster"))
        right.append(Part(f"  {key('help')} help", MUTED, "help"))
    used = _length(parts) + _length(right) + 1
    for part in (*alerts, *facts):
        if used + fmt.width(part.text) + 2 > width:
            break
        parts += [Part("  ", ""), part]
        used += fmt.width(part.text) + 2
    parts.append(Part(" " * max(width - _length(parts) - _length(right) - 1, 1), ""))
    return Content("").join(part.content() for part in (*parts, *right)).truncate(width)


def _length(parts: Sequence[Part]) -> int:
    return sum(fmt.width(part.text) for part in parts)


def _alerts(
    link: Link, snapshot: Snapshot | None, tick_s: float, frozen: bool, read_only: bool, arrived: float
) -> list[Part]:
    """What a user must not overlook."""
    alerts: list[Part] = []
    if not link.connected:
        since = fmt.duration(time.monotonic() - link.since)
        word = "no engine" if snapshot is None else "engine gone"
        alerts.append(Part(f"✖ {word} {since}, retrying", f"{BAD} bold", "engine"))
    elif snapshot is not None and (age := time.monotonic() - arrived) > max(fmt.STALE_AFTER_S, 3 * tick_s):
        alerts.append(Part(f"◌ stale {fmt.duration(age)}", f"{WARN} bold"))
    if frozen:
        alerts.append(Part(f"‖ FROZEN, {key('freeze')} goes on", f"{WARN} bold", "freeze"))
    if read_only:
        alerts.append(Part("read-only", WARN))
    return alerts


def _facts(snapshot: Snapshot, width: int) -> list[Part]:
    """What serves and what is measured, the most telling first."""
    facts: list[Part] = []
    if width < 60:
        facts.append(_front(snapshot))
    if snapshot.fleet is not None:
        room = 40 if width >= 140 else 22 if width >= 100 else 14
        facts.append(Part(f"model {fmt.middle(fmt.model_name(snapshot.fleet.model), room)}", "", "pane.1"))
    if width >= 60:
        facts.append(_front(snapshot))
    if snapshot.sweep is not None:
        tried, total = done(snapshot.sweep), snapshot.sweep.cells_total
        facts.append(Part(f"▶ sweep {tried}/{total}", GOOD, "pane.4"))
    elif snapshot.queue_paused:
        facts.append(Part("‖ queue paused", WARN, "pane.4"))
    facts += [Part(notice, WARN) for notice in notices(snapshot)]
    return facts


def notices(snapshot: Snapshot) -> tuple[str, ...]:
    """What the engine wants known and the header does not say in its own words."""
    paused = "queue is paused" if snapshot.queue_paused else ""
    return tuple(
        notice
        for notice in snapshot.notices
        if notice != snapshot.front.reason and not (paused and paused in notice)
    )


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
