"""How states look: glyph, word and colour always together, so that none of them is needed alone.

Colours are Textual's theme variables; they follow the theme, 16 colours and ``NO_COLOR``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lab_tui.model import CellStatus, FrontState, InstanceState, SweepStatus

GOOD = "$text-success"
WARN = "$text-warning"
BAD = "$text-error"
ACCENT = "$text-primary"
MUTED = "dim"
STRONG = "bold"

DEFAULT_THEME = "textual-dark"
PLAIN_THEME = "ansi-dark"  # for terminals of 16 colours: their own palette


class Look(NamedTuple):
    """A state on the screen."""

    glyph: str
    word: str
    style: str


INSTANCE: Mapping[InstanceState, Look] = {
    InstanceState.STOPPED: Look("○", "stopped", MUTED),
    InstanceState.STARTING: Look("◔", "starting", WARN),
    InstanceState.LOADING: Look("◐", "loading", WARN),
    InstanceState.READY: Look("●", "ready", GOOD),
    InstanceState.STOPPING: Look("◌", "stopping", WARN),
    InstanceState.BACKOFF: Look("↻", "backoff", WARN),
    InstanceState.FAILED: Look("✖", "failed", BAD),
}

FRONT: Mapping[FrontState, Look] = {
    FrontState.STOPPED: Look("○", "stopped", MUTED),
    FrontState.STARTING: Look("◔", "starting", WARN),
    FrontState.READY: Look("●", "ready", GOOD),
    FrontState.FAILED: Look("✖", "failed", BAD),
}

SWEEP: Mapping[SweepStatus, Look] = {
    SweepStatus.QUEUED: Look("·", "queued", MUTED),
    SweepStatus.RUNNING: Look("▶", "running", GOOD),
    SweepStatus.PAUSED: Look("‖", "paused", WARN),
    SweepStatus.DONE: Look("✔", "done", GOOD),
    SweepStatus.FAILED: Look("✖", "failed", BAD),
    SweepStatus.ABORTED: Look("⊘", "aborted", WARN),
}

CELL: Mapping[CellStatus, Look] = {
    CellStatus.PENDING: Look("·", "pending", MUTED),
    CellStatus.RUNNING: Look("▶", "running", ACCENT),
    CellStatus.MEASURED: Look("✔", "measured", GOOD),
    CellStatus.FAILED: Look("✖", "failed", BAD),
    CellStatus.SKIPPED: Look("⊘", "skipped", WARN),
}


def pick(theme: str, environ: Mapping[str, str]) -> str:
    """The theme to start with: the terminal's own 16 colours where it has no more than those.

    A theme that was chosen in the settings is left alone.
    """
    if theme != DEFAULT_THEME:
        return theme
    rich = ("256color", "truecolor", "direct", "kitty", "ghostty", "alacritty", "wezterm", "iterm")
    if environ.get("COLORTERM") or any(name in environ.get("TERM", "") for name in rich):
        return theme
    return PLAIN_THEME
