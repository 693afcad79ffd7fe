"""The one registry of what a user can do: it feeds keys, footer, help and palette.

An action is carried out by the method ``act_<name>`` of the screen it is pressed on, else of the
app (``act_start_all`` for ``start_all``). A name such as ``pane.3`` calls ``act_pane("3")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from textual.binding import Binding
from textual.style import Style

OVERVIEW, INSTANCE, SWEEP, FRONT = "overview", "instance", "sweep", "front"
RESULTS, CELL, COMPARE = "results", "cell", "compare"
EVERYWHERE = (OVERVIEW, INSTANCE, SWEEP, FRONT, RESULTS, CELL, COMPARE)
LAB = (OVERVIEW,)
PROCESS = (OVERVIEW, INSTANCE)
MEASURE = (OVERVIEW, SWEEP)
LISTS = (*MEASURE, FRONT, RESULTS)
WINNER = (SWEEP, RESULTS, CELL)
TABLE = (OVERVIEW, SWEEP, RESULTS, COMPARE)
BACKWARDS = (SWEEP, RESULTS, COMPARE)
MARK = (SWEEP, RESULTS)
SEARCH = (*MEASURE, RESULTS)
LOGS = (OVERVIEW, INSTANCE, FRONT)

# How the help calls what belongs together; actions of other screens stand under the names of those.
GROUPS = {
    PROCESS: "The selected instance",
    LAB: "Overview",
    MEASURE: "Sweeps and curves",
    WINNER: "What was found",
    LOGS: "Logs",
    EVERYWHERE: "Every screen",
}


class Action(NamedTuple):
    """One thing a user can do."""

    name: str
    keys: str  # Textual's key names, comma between alternatives
    shown: str  # the key as people write it
    label: str  # one or two words, for the footer
    help: str  # one line, for help and palette; "": a neighbour speaks for it
    scopes: tuple[str, ...] = EVERYWHERE

    @property
    def changes(self) -> bool:
        """Whether it changes what runs: ``--read-only`` refuses those."""
        return self.name in CHANGES


ACTIONS: tuple[Action, ...] = (
    Action("start", "s", "s", "start", "Start the selected instance", PROCESS),
    Action("stop", "x", "x", "stop", "Stop the selected instance", PROCESS),
    Action("restart", "r", "r", "restart", "Restart the selected instance", PROCESS),
    Action("start_all", "S", "S", "start all", "Start every instance and the front", LAB),
    Action("stop_all", "X", "X", "stop all", "Stop every instance and the front", LAB),
    Action("up", "u", "u", "fleet", "Choose a model and start a fleet", LAB),
    Action("new_sweep", "n", "n", "new sweep", "Start a new sweep", SEARCH),
    Action("pause", "p", "p", "pause", "Pause or resume the sweep queue", MEASURE),
    Action("skip", "greater_than_sign", ">", "skip cell", "Skip the cell that is measured now", MEASURE),
    Action("abort", "a", "a", "abort", "Abort the selected sweep, or take it out of the queue", MEASURE),
    Action("sooner", "less_than_sign", "<", "sooner", "Put the selected waiting sweep next", LAB),
    Action("open", "enter", "enter", "open", "Open the selected instance, sweep or cell", LISTS),
    Action("apply", "A", "A", "apply", "Make the fleet that of the selected cell, or of the best", WINNER),
    Action("export", "E", "E", "export", "Write it to a file: script, units, containers, table", WINNER),
    Action("measure_again", "M", "M", "re-measure", "Measure the selected cell again, alone", WINNER),
    Action("compare", "c", "c", "compare", "Mark a sweep; on another one, compare both", MARK),
    Action("results", "b", "b", "results", "Browse every sweep that was ever kept", MEASURE),
    Action("front", "F", "F", "front", "The front in full: connections, requests, errors", PROCESS),
    Action("logs", "l", "l", "logs", "The log of the selected instance on the whole screen", LAB),
    Action("zoom", "z", "z", "zoom", "Give the focused pane the whole screen, and back"),
    Action("filter", "slash", "/", "filter", "Show only lines that contain a text"),
    Action("sort", "o", "o", "sort", "Sort by the next column", TABLE),
    Action("sort_back", "O", "O", "sort back", "Turn the order round", BACKWARDS),
    Action("log_previous", "left_square_bracket", "[ ]", "log", "Another log: instances, nginx, engine", LAB),
    Action("log_next", "right_square_bracket", "]", "next log", "", LAB),
    Action("log_find", "ctrl+f", "ctrl+f", "find", "Find a text in the log", LOGS),
    Action(
        "log_hit_next",
        "full_stop",
        ". ,",
        "next hit",
        "The next place with that text, or the one before",
        LOGS,
    ),
    Action("log_hit_previous", "comma", ",", "previous hit", "", LOGS),
    Action("log_level", "v", "v", "level", "Log: every line, warnings and errors, errors alone", LOGS),
    Action("log_since", "T", "T", "since", "Log: of any time, the last minute, ten minutes, hour", LOGS),
    Action("log_wrap", "w", "w", "wrap", "Log: wrap long lines, or cut them (← → go sideways)", LOGS),
    Action("span", "t", "t", "turn", "Other time span of the curves; other chart of a sweep", MEASURE),
    Action("earlier", "left", "← →", "time", "Back through the last hour of the curves, and on", LAB),
    Action("later", "right", "→", "later", "", LAB),
    Action("copy", "y", "y", "copy", "Copy the selected line or command to the clipboard"),
    Action("faster", "plus,equals_sign", "+ -", "tick", "Refresh more or less often"),
    Action("slower", "minus", "-", "slower", ""),
    Action("freeze", "space", "space", "freeze", "Freeze the figures, and go on"),
    Action("mouse", "m", "m", "mouse", "Leave the mouse to the terminal, to select text, or take it again"),
    Action("theme", "C", "C", "theme", "Choose other colours"),
    Action("pane.1", "1", "1-5", "panes", "Go to a pane by its number"),
    Action("pane.2", "2", "2", "pane 2", ""),
    Action("pane.3", "3", "3", "pane 3", ""),
    Action("pane.4", "4", "4", "pane 4", ""),
    Action("pane.5", "5", "5", "pane 5", ""),
    Action("next_pane", "tab", "tab", "next pane", "Go to the next pane"),
    Action("previous_pane", "shift+tab", "shift+tab", "previous pane", "Go to the pane before"),
    Action("engine", "e", "e", "engine", "Start the engine when it is gone"),
    Action("back", "escape", "esc", "back", "Leave filter, zoom or this screen"),
    Action("palette", "colon", ":", "palette", "Find an action by its name"),
    Action("quit", "q", "q", "detach", "Leave the screen; everything goes on in the engine"),
    Action("help", "question_mark", "?", "help", "Show every key"),
)

CHANGES = frozenset(
    {
        "start",
        "stop",
        "restart",
        "start_all",
        "stop_all",
        "up",
        "new_sweep",
        "pause",
        "skip",
        "abort",
        "apply",
        "measure_again",
        "sooner",
        "engine",
    }
)

BY_NAME = {action.name: action for action in ACTIONS}


class Move(NamedTuple):
    """Keys that are the same on every screen and cannot be mapped: Textual's, and those of lists and logs."""

    keys: str
    shown: str
    help: str


MOVES: tuple[Move, ...] = (
    Move("up,k,down,j", "↑ ↓ k j", "Select, or scroll"),
    Move("pageup,pagedown", "pgup pgdn", "Scroll by a page"),
    Move("home,g,end,G", "g G", "The first, the last (also home, end)"),
    Move("left,right", "← →", "Sideways through a log, or a table column by column"),
    Move("f", "f", "Follow the log again after scrolling"),
    Move("ctrl+p", "ctrl+p", "Find an action by its name"),
    Move("ctrl+q", "ctrl+q", "Leave at once; everything goes on"),
    Move("ctrl+c", "ctrl+c", "Copy what the mouse has marked"),
)

_registry: list[Action] = list(ACTIONS)


def use(registry: Iterable[Action]) -> None:
    """Show keys as ``registry`` maps them from now on (see ``keymap``): there is one screen a process."""
    _registry[:] = registry


def here(scope: str) -> Iterator[Action]:
    """The actions of one screen, in the order of the registry, with the keys they are mapped to."""
    return (action for action in tuple(_registry) if scope in action.scopes)


def key(name: str) -> str:
    """The key of an action as people write it, for hints such as ``Press u``."""
    return next(action.shown for action in _registry if action.name == name)


def no_match(needle: str) -> str:
    """What a list says of which a filter leaves nothing."""
    return f"nothing matches /{needle}/, {key('back')} clears"


def click(name: str) -> Style:
    """What makes words on the screen do an action when they are clicked."""
    return Style.from_meta({"@click": f"screen.act('{name}')"})


def bindings(scope: str) -> list[Binding]:
    """Textual's bindings for one screen. Their ids let ``App.set_keymap`` put them on other keys."""
    return [
        Binding(action.keys, f"act('{action.name}')", action.label, show=False, id=action.name)
        for action in ACTIONS
        if scope in action.scopes
    ]
