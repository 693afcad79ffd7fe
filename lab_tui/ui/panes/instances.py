"""Pane 1: one line an instance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from textual.content import Content

from lab_tui.model import InstanceState, InstanceView, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import no_match
from lab_tui.ui.panes import first
from lab_tui.ui.series import Series
from lab_tui.ui.theme import ACCENT, BAD, INSTANCE, MUTED, STRONG, WARN
from lab_tui.ui.widgets.bars import sampled, spark

SPARK_MIN, SPARK_MAX = 8, 60


class Column(NamedTuple):
    """One column: how wide, how much it matters (0 most), and what it says."""

    title: str
    width: int
    rank: int
    text: Callable[[InstanceView], str]


def _slots(view: InstanceView) -> str:
    busy = fmt.UNKNOWN if view.busy is None else str(view.busy)
    return f"{busy}/{view.slots}"


def _memory_bytes(view: InstanceView) -> int | None:
    return view.vram_bytes if view.vram_bytes is not None else view.rss_bytes


def _memory(view: InstanceView) -> str:
    return fmt.size(_memory_bytes(view))


def _gpu(view: InstanceView) -> str:
    """Its cards; several in a row as their ends."""
    cards = (view.gpu or fmt.UNKNOWN).split("+")
    if len(cards) > 2 and cards == [str(n) for n in range(int(cards[0]), int(cards[-1]) + 1)]:
        return f"{cards[0]}-{cards[-1]}"
    return "+".join(cards)


def _most_first(value: float | None) -> float:
    """Its rank where the largest stand at the top, and what is not known at the end."""
    return 1.0 if value is None else -value


def _up(view: InstanceView) -> str:
    """Seconds count while it starts."""
    ready = view.state is InstanceState.READY
    return fmt.uptime(view.uptime_s) if ready else fmt.duration(view.uptime_s)


COLUMNS = (
    Column("PORT", 5, 2, lambda view: str(view.port)),
    Column("TOK/S", 7, 0, lambda view: fmt.rate(view.tps)),
    Column("SLOTS", 7, 1, _slots),
    Column("QUEUE", 5, 4, lambda view: fmt.count(view.queue)),
    Column("VRAM/RSS", 8, 5, _memory),
    Column("UP", 6, 3, _up),
    Column("GPU", 4, 6, lambda view: fmt.clip(_gpu(view), 4)),
    Column("CORES", 8, 6, lambda view: fmt.clip(view.cores or fmt.UNKNOWN, 8)),
    Column("RSS", 6, 7, lambda view: fmt.size(view.rss_bytes)),
    Column("RESTARTS", 8, 8, lambda view: str(view.restarts)),
    Column("PID", 8, 9, lambda view: fmt.UNKNOWN if view.pid is None else str(view.pid)),
)
Rank = Callable[[InstanceView], float]
TROUBLE_FIRST = (
    InstanceState.FAILED,
    InstanceState.BACKOFF,
    InstanceState.STOPPING,
    InstanceState.STARTING,
    InstanceState.LOADING,
    InstanceState.READY,
    InstanceState.STOPPED,
)
# What a user can sort by; the smallest comes first. "#" is the number of the instance.
SORTS: Mapping[str, Rank] = {
    "#": lambda view: view.index,
    "state": lambda view: TROUBLE_FIRST.index(view.state),
    "tok/s": lambda view: _most_first(view.tps),
    "queue": lambda view: _most_first(view.queue),
    "memory": lambda view: _most_first(_memory_bytes(view)),
}
HEAD_WIDTH = 4 + 11  # number and state
SPACE = 1
RICH = 7  # columns of a higher rank only come when the sparkline has all the room it needs


def chosen(width: int, *, pinned: bool = False) -> tuple[tuple[Column, ...], int]:
    """The columns that fit into ``width`` and what is left for the sparkline (0: none).

    ``pinned``: whether an instance has cores of its own.
    """
    columns: list[Column] = []
    left = width - HEAD_WIDTH
    offered = (column for column in COLUMNS if pinned or column.title != "CORES")
    for column in sorted(offered, key=lambda column: column.rank):
        need = column.width + SPACE
        spare = 48 if column.rank >= RICH else SPARK_MIN + SPACE if column.rank > 3 else 0
        if left - need < spare:
            break
        columns.append(column)
        left -= need
    kept = tuple(column for column in COLUMNS if column in columns)
    return kept, min(left - SPACE, SPARK_MAX) if left - SPACE >= SPARK_MIN else 0


def lines(
    snapshot: Snapshot, series: Series, width: int, step: int, needle: str = "", sort: str = "#"
) -> tuple[list[Content], list[str | None]]:
    """Lines and their keys (the index of the instance), by one of SORTS, equal ones by number."""
    if not snapshot.instances:
        return first.steps(snapshot), []
    columns, room = chosen(width, pinned=any(view.cores for view in snapshot.instances))
    now = int(snapshot.time)
    curves = {view.index: series.columns(f"tps.{view.index}", room, step, now) for view in snapshot.instances}
    top = max((sampled(curve) for curve in curves.values()), default=0.0)
    rows: list[Content] = [_head(columns, room, top)]
    keys: list[str | None] = [None]
    for view in sorted(snapshot.instances, key=lambda view: (SORTS[sort](view), view.index)):
        row = _row(view, columns, room, spark(curves[view.index], top)[0] if room else "", width)
        if needle.lower() in f"{row.plain} {view.reason}".lower():
            rows.append(row)
            keys.append(str(view.index))
    if len(rows) == 1:
        rows.append(Content.styled(f" {no_match(needle)}", MUTED))
        keys.append(None)
    return rows, keys


# What stands before the words that tell why: how it ended, and the stamp and the function of its log.
_BEFORE = re.compile(r"ended with code -?\d+: |ended: |\d+\.\d\d\.\d{3}\.\d{3} [DIWE] |[a-z]+_\w+: ")
_FOLDERS = re.compile(r"(?<![\w/])(?:~|\.{1,2})?/(?:[^/\s']+/)+")


def gist(reason: str, cells: int) -> str:
    """A reason in ``cells`` cells, without what tells least when it is too long."""
    if fmt.width(reason) <= cells:
        return reason
    short = _FOLDERS.sub("…/", reason)
    while fmt.width(short) > cells and (found := _BEFORE.match(short)):
        short = short[found.end() :]
    return fmt.clip(short, cells)


def rows(snapshot: Snapshot) -> int:
    """How many lines there are to show."""
    return len(snapshot.instances) + 1 if snapshot.instances else len(first.steps(snapshot))


def _head(columns: tuple[Column, ...], room: int, top: float) -> Content:
    text = "  # STATE     "
    for column in columns:
        text += " " + column.title.rjust(column.width)
        if column.title == "TOK/S" and room:
            label = f"0 to {fmt.rate(top)}" if top else "idle"
            text += " " + fmt.clip(label, room).ljust(room)
    return Content.styled(text, MUTED)


def _row(view: InstanceView, columns: tuple[Column, ...], room: int, curve: str, width: int) -> Content:
    look = INSTANCE[view.state]
    old = fmt.age(view.reading_age_s) if view.state is InstanceState.READY else ""
    head = (f" {view.index:>2} ", (f"{look.glyph} {look.word}".ljust(10), look.style))
    if view.reason and view.state is not InstanceState.READY:
        port = f" {view.port:>5}  " if any(column.title == "PORT" for column in columns) else " "
        reason = gist(view.reason, max(width - HEAD_WIDTH - len(port), 0))
        style = BAD if view.state is InstanceState.FAILED else WARN
        return Content.assemble(*head, port, (reason, style))
    parts: list[str | tuple[str, str]] = []
    for column in columns:
        text = column.text(view).rjust(column.width)
        live = column.title in ("TOK/S", "SLOTS", "QUEUE")
        strong = STRONG if column.title == "TOK/S" and view.tps else ""
        parts += [" ", (text, MUTED if (old and live) or text.strip() == fmt.UNKNOWN else strong)]
        if column.title == "TOK/S" and room:
            parts += [" ", (curve, MUTED if old else ACCENT)]
    row = Content.assemble(*head, *parts)
    if old:
        row = row.truncate(width - len(old) - 1).pad_right(1).append_text(old, WARN)
    return row
