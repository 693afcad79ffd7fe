"""Lines of a log as a viewer holds them: their level, their time, and which of them are to be seen."""

from __future__ import annotations

import re
import time
from array import array
from collections.abc import Iterable, Sequence

KEEP = 100_000  # lines
DROP = 5_000  # lines dropped at once when there are more

INFO, WARN, ERROR = range(3)
LEVELS = ("info", "warnings", "errors")

# How a line says its own level: llama-server's letter, nginx's word, the engine's.
_MARK = re.compile(
    r"\d+\.\d\d\.\d{3}\.\d{3} ([DIWE]) "
    r"|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\]"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) "
)
_MARKED = {
    "W": WARN,
    "E": ERROR,
    "warn": WARN,
    "WARNING": WARN,
    "ERROR": ERROR,
    "CRITICAL": ERROR,
} | dict.fromkeys(("error", "crit", "alert", "emerg"), ERROR)
_BAD = ("error", "failed", "fatal", "abort", "out of memory", "traceback")  # in lines that do not say

_DAY = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d) (\d\d):(\d\d):(\d\d)")
_ELAPSED = re.compile(r"(\d+)\.(\d\d)\.(\d{3})\.\d{3} ")  # minutes, seconds, milliseconds


def level_of(text: str) -> int:
    """INFO, WARN or ERROR: what the line says of itself, else what its words sound like."""
    mark = _MARK.match(text)
    if mark is not None:
        return _MARKED.get(mark[mark.lastindex or 0], INFO)
    lower = text.lower()
    if any(word in lower for word in _BAD):
        return ERROR
    return WARN if "warn" in lower else INFO


def times_of(texts: Sequence[str], started: float | None, arrived: float) -> list[float]:
    """When each line was written, in unix seconds: by its own stamp, else with the line before it.

    llama-server's stamps count from ``started``; lines of a life before that are as old as it at least.
    Where no line has a stamp that can be read they are as old as their arrival.
    """
    times: list[float | None] = []
    lowest: float | None = None
    for text in reversed(texts):
        stamp = _stamp(text, started, lowest)
        if stamp is not None and _ELAPSED.match(text):
            lowest = stamp
        times.append(stamp)
    times.reverse()
    known = next((stamp for stamp in times if stamp is not None), arrived)
    filled: list[float] = []
    for stamp in times:
        known = known if stamp is None else stamp
        filled.append(known)
    return filled


def _stamp(text: str, started: float | None, lowest: float | None) -> float | None:
    """The time that a line tells; ``lowest`` is that of the llama-server line after it."""
    if day := _DAY.match(text):
        return time.mktime((*map(int, day.groups()), 0, 0, -1))  # type: ignore[arg-type]
    elapsed = _ELAPSED.match(text)
    if elapsed is None or started is None:
        return None
    minutes, seconds, milliseconds = map(int, elapsed.groups())
    stamp = started + 60 * minutes + seconds + milliseconds / 1000
    return started if lowest is not None and stamp > lowest + 0.001 else stamp


class LogLines:
    """Up to KEEP lines, and the places of those that pass text, level and time."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._levels = bytearray()
        self._times = array("d")
        self._places: array[int] | None = None  # of the lines that pass; None: all do
        self.needle = ""
        self.level = INFO
        self.since = 0.0  # unix time; 0: all
        self.version = 0  # another one after every change

    def __len__(self) -> int:
        """How many lines pass."""
        return len(self._texts) if self._places is None else len(self._places)

    @property
    def total(self) -> int:
        """How many lines are held."""
        return len(self._texts)

    @property
    def shown(self) -> list[str]:
        """The lines that pass."""
        return self._texts if self._places is None else [self._texts[place] for place in self._places]

    def at(self, place: int) -> tuple[str, int]:
        """Text and level of the line at ``place`` of those that pass."""
        held = place if self._places is None else self._places[place]
        return self._texts[held], self._levels[held]

    def tail(self, number: int) -> list[str]:
        """The last lines, whether they pass or not."""
        return self._texts[-number:]

    def clear(self) -> None:
        """Forget every line; what they must pass stays."""
        self._texts = []
        self._levels.clear()
        self._times = array("d")
        self._narrow()

    def narrow(self, needle: str | None = None, level: int | None = None, since: float | None = None) -> None:
        """Set what a line must contain (in any case), its least level, and when it was written at least."""
        self.needle = self.needle if needle is None else needle.lower()
        self.level = self.level if level is None else level
        self.since = self.since if since is None else since
        self._narrow()

    def _narrow(self) -> None:
        self.version += 1
        if self.needle or self.level or self.since:
            self._places = array("l", self._passing(0))
        else:
            self._places = None

    def _passing(self, start: int) -> Iterable[int]:
        """The places from ``start`` on of lines that pass; the cheapest question comes first."""
        places: Iterable[int] = range(start, len(self._texts))
        if self.level:
            places = [place for place in places if self._levels[place] >= self.level]
        if self.since:
            places = [place for place in places if self._times[place] >= self.since]
        if self.needle:
            places = [place for place in places if self.needle in self._texts[place].lower()]
        return places

    def extend(self, texts: Sequence[str], times: Sequence[float]) -> int:
        """Append lines; how many of those that passed had to go for them."""
        start = len(self._texts)
        self.version += 1
        self._texts.extend(texts)
        self._levels.extend(map(level_of, texts))
        self._times.extend(times)
        if self._places is not None:
            self._places.extend(self._passing(start))
        return self._drop() if len(self._texts) > KEEP else 0

    def _drop(self) -> int:
        gone, before = len(self._texts) - KEEP + DROP, len(self)
        del self._texts[:gone], self._levels[:gone], self._times[:gone]
        if self._places is not None:
            self._places = array("l", (place - gone for place in self._places if place >= gone))
        return before - len(self)

    def find(self, needle: str, start: int, by: int) -> int | None:
        """The first line from ``start`` on, up (-1) or down (1), that contains ``needle`` and passes."""
        needle = needle.lower()
        for place in range(start, len(self) if by > 0 else -1, by):
            held = place if self._places is None else self._places[place]
            if needle in self._texts[held].lower():
                return place
        return None
