"""What can be done with the log of a screen: search, level, time, wrap."""

from __future__ import annotations

import time
from collections.abc import Iterator

from textual.widget import Widget
from textual.widgets import Input

from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.loglines import INFO, LEVELS
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.screens.paned import FilterInput
from lab_tui.ui.widgets.logtail import LogTail

SPANS_S = (0, 60, 600, 3600)  # how far back; 0: all


class SearchInput(Input):
    """The line in which a search is typed."""


class LogCommands(LabScreen):
    """A screen with one log."""

    log_tail: LogTail
    span_s = 0  # how far back the log was asked to go; 0: all

    def compose_entries(self) -> Iterator[Widget]:
        """The line of the search."""
        yield SearchInput(
            placeholder=f"find: enter keeps it, {key('back')} ends it,"
            f" then {key('log_hit_next')} go on and back",
            id="search",
            compact=True,
        )

    @property
    def _entry(self) -> SearchInput:
        return self.query_one(SearchInput)

    def log_number(self) -> int:
        """The number of the log's pane."""
        return next(pane.number for pane in self.panes() if pane.body is self.log_tail)

    def log_title(self) -> str:
        """What stands over the log: its source, whether it is followed, and what is left out."""
        log, needle = self.log_tail, self.filters.get(self.log_number())
        notes = [log.title()]
        if needle:
            notes.append(f"/{needle}")
        if log.held.level != INFO:
            notes.append(LEVELS[log.held.level])
        if log.held.since:
            notes.append(f"since {fmt.clock(log.held.since)}")
        if log.wrap:
            notes.append("wrap")
        if log.searching:
            notes.append(f"find {log.searching!r}, {key('log_hit_next')} go on and back")
        return "  ".join(filter(None, notes))

    def show_log_title(self) -> None:
        """Say it over the log."""
        number = self.log_number()
        next(pane for pane in self.panes() if pane.number == number).title(self.log_title())

    # -- actions

    def act_log_find(self) -> None:
        """Open the line of the search."""
        self._entry.display = True
        self._entry.value = self.log_tail.searching
        self.set_focus(self._entry)  # at once: the next key may be for it already

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while it is typed."""
        if event.input is self._entry and self._entry.display:
            found = self.log_tail.search(event.value)
            self.status.say("" if found or not event.value else f"no line contains {event.value!r}", found)
            self.show_log_title()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the search and go to the log."""
        if event.input is self._entry:
            self._close_search()

    def _close_search(self) -> None:
        self._entry.display = False
        self.act_pane(str(self.log_number()))

    def act_log_hit_next(self) -> None:
        """The next line with what is searched for."""
        self._to_hit(1)

    def act_log_hit_previous(self) -> None:
        """The line before with what is searched for."""
        self._to_hit(-1)

    def _to_hit(self, by: int) -> None:
        if not self.log_tail.searching:
            self.act_log_find()
        elif not self.log_tail.search_on(by):
            side = "below" if by > 0 else "above"
            self.status.say(f"no line {side} contains {self.log_tail.searching!r}")
        self.show_log_title()

    def act_log_level(self) -> None:
        """All lines, warnings and errors, errors alone."""
        level = (self.log_tail.held.level + 1) % len(LEVELS)
        self.log_tail.narrow(level=level)
        self.status.say(f"log: {'every line' if level == INFO else f'{LEVELS[level]} and worse'}")
        self.show_log_title()

    def act_log_since(self) -> None:
        """All lines, those of the last minute, ten minutes, hour: counted from now on."""
        self.span_s = SPANS_S[(SPANS_S.index(self.span_s) + 1) % len(SPANS_S)]
        self.log_tail.narrow(since=time.time() - self.span_s if self.span_s else 0.0)
        text = f"of the last {fmt.duration(self.span_s)} and what comes" if self.span_s else "of any time"
        self.status.say(f"log: lines {text}")
        self.show_log_title()

    def act_log_wrap(self) -> None:
        """Wrap long lines or cut them."""
        self.log_tail.toggle_wrap()
        self.show_log_title()

    def act_back(self) -> None:
        """The search ends before anything else is left."""
        if self._entry.display or (self.log_tail.searching and not self.query_one(FilterInput).display):
            self.log_tail.search("")
            self._close_search()
            self.show_log_title()
        else:
            super().act_back()
