"""The ``[keys]`` of the settings laid over the registry: ``stop = "ctrl+x"``, ``zoom = ["f", "f11"]``."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from textual.keys import KEY_ALIASES, KEY_NAME_REPLACEMENTS, Keys

from lab_tui.model import LabError
from lab_tui.ui.actions import ACTIONS, MOVES, Action

MODIFIERS = ("alt", "ctrl", "shift", "super")
NAMED = frozenset(key.value.rpartition("+")[2] for key in Keys)  # up, f5, escape, …

SAME = {alias: key for key, aliases in KEY_ALIASES.items() for alias in aliases}  # ctrl+m is enter
SHORT = {
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
}

Wanted = Mapping[str, tuple[str, ...]]


def _name(character: str) -> str:
    """Textual's name of a punctuation mark, made from the one in Unicode: ``question_mark``."""
    name = unicodedata.name(character).lower().replace("-", "_").replace(" ", "_")
    return KEY_NAME_REPLACEMENTS.get(name, name)


PUNCTUATION = {character: _name(character) for character in string.punctuation} | {" ": "space"}
MARKS = {name: character for character, name in PUNCTUATION.items() if character != " "}


def mapped(settings: Mapping[str, Any]) -> tuple[Action, ...]:
    """The registry with the keys of the settings.

    Raises LabError for an action or key that does not exist, and for two actions on one key of a screen.
    """
    wanted = dict(_wanted(settings))
    registry = tuple(
        action._replace(keys=",".join(wanted[action.name])) if action.name in wanted else action
        for action in ACTIONS
    )
    _check(registry, wanted)
    return tuple(_shown(registry, wanted))


def _wanted(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each mapped action with its keys in Textual's names. ``pane.1 = …`` is a table in TOML."""
    names = [action.name for action in ACTIONS]
    for last, value in settings.items():
        name = f"{above}{last}"
        if isinstance(value, Mapping):
            yield from _wanted(value, f"{name}.")
            continue
        if name not in names:
            raise LabError(f"keys.{name}: there is no such action", f"one of {', '.join(names)}")
        yield name, tuple(_keys(name, value))


def _keys(name: str, value: object) -> Iterator[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise LabError(f"keys.{name}: {value!r} is no key", 'give a text such as "x", or a list of them')
    for text in texts:
        for part in text.split(",") if len(text) > 1 else [text]:
            key = key_name(part.strip() or part)
            if key is None:
                raise LabError(
                    f"keys.{name}: {part!r} is no key", "keys are written x, X, ?, ctrl+x, f5, space"
                )
            yield key


def key_name(text: str) -> str | None:
    """A key as people write it, by Textual's name: ``?`` → ``question_mark``. None: there is no such key."""
    if len(text) == 1:
        return PUNCTUATION.get(text) or (text if text.isalnum() else None)
    *modifiers, last = text.split("+")
    base = key_name(last) if len(last) == 1 else last if last in NAMED or last in MARKS else None
    if base is None or not set(modifiers) <= set(MODIFIERS):
        return None
    if modifiers == ["shift"] and len(base) == 1:
        return base.upper()
    whole = "+".join((*sorted(modifiers), base))
    return SAME.get(whole, whole)


def show(key: str) -> str:
    """Textual's name of a key as people write it: ``question_mark`` → ``?``."""
    modifiers, plus, base = key.rpartition("+")
    return f"{modifiers}{plus}{SHORT.get(base) or MARKS.get(base, base)}"


def _check(registry: Iterable[Action], wanted: Wanted) -> None:
    """Raises LabError for two meanings of one key on one screen."""
    fixed = {key: move.help for move in MOVES for key in move.keys.split(",")}
    taken: dict[tuple[str, str], str] = {}
    for action in registry:
        for key in action.keys.split(","):
            if action.name in wanted and key in fixed:
                raise LabError(
                    f"keys.{action.name}: {show(key)} has a fixed meaning ({fixed[key]})", "take another key"
                )
            for scope in action.scopes:
                other = taken.setdefault((scope, key), action.name)
                if other != action.name:
                    raise LabError(
                        f"keys: {other} and {action.name} are both on {show(key)} on the screen {scope}",
                        "give one of them another key under [keys]",
                    )


def _shown(registry: tuple[Action, ...], wanted: Wanted) -> Iterator[Action]:
    """The registry with what is shown of mapped keys, where one action speaks for its neighbours too."""
    for place, action in enumerate(registry):
        group = [action]
        for other in registry[place + 1 :] if action.help else ():
            if other.help:
                break
            group.append(other)
        if any(member.name in wanted for member in group):
            keys = [member.keys if len(group) == 1 else member.keys.split(",")[0] for member in group]
            action = action._replace(shown=" ".join(show(key) for held in keys for key in held.split(",")))
        yield action
