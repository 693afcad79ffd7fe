"""How states look: glyph, word and colour always together, so that none of them is needed alone.

Colours are Textual's theme variables; they follow the theme, 16 colours and ``NO_COLOR``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.theme import Theme as Styles
from textual.color import Color, Lab, lab_to_rgb, rgb_to_lab
from textual.style import Style
from textual.theme import Theme

from lab_tui.model import CellStatus, FrontState, InstanceState, SweepStatus

GOOD = "$text-success"
WARN = "$text-warning"
BAD = "$text-error"
ACCENT = "$text-primary"
MUTED = "dim"
STRONG = "bold"

DEFAULT_THEME = "textual-dark"
PLAIN_THEME = "ansi-dark"  # for terminals of 16 colours, and of none: their own palette

# Good is blue, a warning yellow, bad vermilion: Okabe and Ito's colours that people of every colour vision
# tell apart (https://jfly.uni-koeln.de/color/). Text has them pure; Textual would mix it with white.
SAFE = Theme(
    name="lab-safe",
    primary="#CC79A7",
    secondary="#0072B2",
    accent="#CC79A7",
    success="#56B4E9",
    warning="#F0E442",
    error="#D55E00",
    foreground="#E0E0E0",
    background="#121212",
    variables={
        "text-primary": "#CC79A7",
        "text-success": "#56B4E9",
        "text-warning": "#F0E442",
        "text-error": "#D55E00",
    },
)

HEAT_STEPS = 9
# From little to much. Equal steps in CIELAB look equally large; blue to yellow is seen by all, and as a
# rise in brightness alone where there is no colour. On a light background much is dark.
HEAT_DARK = ("#3060A8", "#FFEA46")
HEAT_LIGHT = ("#C9B458", "#002A66")


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
    InstanceState.HUNG: Look("◇", "hung", BAD),
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


def for_tables() -> Styles:
    """The colours above for Rich's text, in the theme of the running app: tables know no other text."""
    return Styles({name: Style.parse(name).rich_style for name in (GOOD, WARN, BAD, ACCENT)}, inherit=False)


def heat(share: float) -> str:
    """The style of a value that is ``share`` (0 to 1) of the highest, in the scale of the theme."""
    return f"$heat-{round(min(max(share, 0.0), 1.0) * (HEAT_STEPS - 1))}"


def heat_scale(dark: bool) -> dict[str, str]:
    """The colours of ``heat`` as variables of a theme."""
    low, high = (rgb_to_lab(Color.parse(end)) for end in (HEAT_DARK if dark else HEAT_LIGHT))
    scale: dict[str, str] = {}
    for step in range(HEAT_STEPS):
        share = step / (HEAT_STEPS - 1)
        between = (a + (b - a) * share for a, b in zip(low, high, strict=True))
        scale[f"heat-{step}"] = lab_to_rgb(Lab(*between)).hex
    return scale


def pick(theme: str, environ: Mapping[str, str]) -> str:
    """The theme to start with: the terminal's own colours where it has no more than 16, or none is wanted.

    A theme that was chosen in the settings is left alone, unless ``NO_COLOR`` is set.
    """
    if "NO_COLOR" in environ:
        return PLAIN_THEME
    if theme != DEFAULT_THEME:
        return theme
    rich = ("256color", "truecolor", "direct", "kitty", "ghostty", "alacritty", "wezterm", "iterm")
    if environ.get("COLORTERM") or any(name in environ.get("TERM", "") for name in rich):
        return theme
    return PLAIN_THEME
