"""A screen of numbered panes: which of them has the focus, is alone on the screen, is filtered by what."""

from __future__ import annotations

from typing import ClassVar

from textual.dom import DOMNode
from textual.reactive import Reactive
from textual.widget import Widget
from textual.widgets import Input

from lab_tui.ui.actions import OVERVIEW, key
from lab_tui.ui.screens.tidy import TidyScreen
from lab_tui.ui.widgets.footer import StatusLine
from lab_tui.ui.widgets.logview import LogView
from lab_tui.ui.widgets.pane import Pane

TINY_BELOW = 13  # rows: below, only the focused pane is drawn


class FilterInput(Input):
    """The line in which a filter is typed."""

    def __init__(self) -> None:
        text = f"filter: enter keeps it, {key('back')} clears it"
        super().__init__(placeholder=text, id="filter", compact=True)


class PaneScreen(TidyScreen[None], inherit_bindings=False):
    """Focus, zoom and filter of panes."""

    SCOPE: ClassVar[str] = ""

    # Textual's own would send the whole screen again whenever the focus moves; the panes repaint themselves.
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)

    def __init__(self) -> None:
        super().__init__()
        self.zoomed = False
        self.chosen = 1  # number of the pane that has, or had last, the focus
        self.filters: dict[int, str] = {}  # by number of the pane
        self.filtering = 1  # the pane whose filter is being typed

    @property
    def status(self) -> StatusLine:
        """The line that tells what was done."""
        return self.query_one(StatusLine)

    def redraw(self) -> None:
        """Show what is known now."""
        raise NotImplementedError

    def show_footer(self) -> None:
        """The keys that work here and now."""
        raise NotImplementedError

    def panes(self) -> list[Pane]:
        """Every pane, by number."""
        return sorted(self.query(Pane), key=lambda pane: pane.number)

    def focused_pane(self) -> Pane:
        """The pane with the focus, else the one that had it last."""
        node: DOMNode | None = self.focused
        while node is not None and not isinstance(node, Pane):
            node = node.parent
        if node is not None:
            return node
        panes = self.panes()
        return next((pane for pane in panes if pane.number == self.chosen), panes[0])

    @property
    def solo(self) -> bool:
        """Whether one pane has all the room: by zoom, or because there is no room for more."""
        return self.zoomed or self.size.height < TINY_BELOW

    def show_panes(self) -> None:
        """Show the panes that are to be seen."""
        self.set_class(self.solo, "-solo")
        for pane in self.panes():
            pane.display = not self.solo or pane.number == self.chosen
        for row in self.query(".row"):
            row.display = any(pane.display for pane in row.query(Pane))

    def act_pane(self, number: str) -> None:
        """Go to a pane; a zoom goes with it."""
        for pane in self.panes():
            if pane.number == int(number):
                self.chosen = pane.number
                self.show_panes()
                pane.enter()
                if self.solo:  # it was not to be seen, and not drawn
                    self.call_after_refresh(self.redraw)

    def act_next_pane(self) -> None:
        """Go to the next pane."""
        self._step(1)

    def act_previous_pane(self) -> None:
        """Go to the pane before."""
        self._step(-1)

    def _step(self, by: int) -> None:
        panes = self.panes()
        place = panes.index(self.focused_pane())
        self.act_pane(str(panes[(place + by) % len(panes)].number))

    def act_zoom(self) -> None:
        """Give the focused pane the whole screen, or share it again."""
        self.chosen = self.focused_pane().number
        self.zoomed = not self.zoomed
        self.show_panes()
        self.call_after_refresh(self.redraw)

    def on_descendant_focus(self) -> None:
        """The footer follows the focus."""
        if not isinstance(self.focused, Input):
            self.chosen = self.focused_pane().number
        self.show_footer()

    # -- filter

    def filtered_pane(self) -> int | None:
        """The number of the pane that a filter is for, wherever the focus is; None: there is none."""
        return self.focused_pane().number

    def act_filter(self) -> None:
        """Open the filter line."""
        number = self.filtered_pane()
        if number is None:
            self.status.say("nothing to filter here")
            return
        entry = self.query_one(FilterInput)
        self.filtering = number
        entry.value = self.filters.get(self.filtering, "")
        entry.display = True
        self.set_focus(entry)  # at once: the next key may be for it already

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if isinstance(event.input, FilterInput) and event.input.display:
            self.set_filter(self.filtering, event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter and go back to its pane."""
        if isinstance(event.input, FilterInput):
            self._close_filter()

    def set_filter(self, number: int, needle: str) -> None:
        """Show only lines with ``needle`` in a pane."""
        self.filters[number] = needle
        pane = next(pane for pane in self.panes() if pane.number == number)
        if isinstance(pane.body, LogView):
            pane.body.filter(needle)
        self.redraw()

    def _close_filter(self) -> None:
        self.query_one(FilterInput).display = False
        self.act_pane(str(self.filtering))

    def act_back(self) -> None:
        """One step back: out of the filter, the zoom, then the screen."""
        number = self.filtering if self.query_one(FilterInput).display else self.filtered_pane()
        if number is not None and (self.query_one(FilterInput).display or self.filters.get(number)):
            self.set_filter(number, "")
            self.filtering = number
            self._close_filter()
        elif self.zoomed:
            self.act_zoom()
        elif len(self.app.screen_stack) > 1 and self.SCOPE != OVERVIEW:
            self.dismiss()
