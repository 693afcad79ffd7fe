"""One cell in full: its figures, and the commands that made them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from lab_tui.model import CellView, Snapshot, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import CELL, Action
from lab_tui.ui.panes import results
from lab_tui.ui.screens.winner import Target, WinnerCommands
from lab_tui.ui.theme import CELL as LOOKS
from lab_tui.ui.theme import MUTED
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.pane import Pane, set_height

WIDE = 150  # columns from which the two panes stand beside each other


class CellScreen(WinnerCommands):
    """Two panes; a cell that is shown here does not move any more."""

    SCOPE = CELL

    def __init__(self, sweep: SweepView, view: CellView) -> None:
        super().__init__()
        self.sweep, self.view = sweep, view
        self.figures = LineList(id="figures")
        self.ran_on = LineList(id="ran-on")

    def compose_panes(self) -> Iterator[Widget]:
        """Figures, then what it ran on."""
        with Container(classes="pair"):
            yield Pane(1, f"Cell {self.view.index + 1} of sweep {self.sweep.id}", self.figures)
            last = Pane(2, "What it ran on", self.ran_on)
            last.add_class("-last")
            yield last

    def layout_panes(self, snapshot: Snapshot) -> None:
        """Beside each other where there is room, else the figures as high as they are."""
        wide = self.size.width >= WIDE
        self.query_one(".pair").set_class(wide, "-wide")
        one = self.panes()[0]
        half = min(len(self.figures.plain) + 2, self.size.height * 3 // 5)
        set_height(one, "1fr" if wide or self.solo else str(max(half, 3)))

    def draw(self, snapshot: Snapshot) -> None:
        """Fill both panes."""
        look = LOOKS[self.view.status]
        lines: list[Content] = []
        for number, line in enumerate(results.cell_text(self.view).splitlines()):
            for part in _wrapped(line, self.figures.size.width - 1):
                lines.append(Content.styled(f" {part}", look.style if not number else ""))
        self.figures.show(lines)
        width = self.ran_on.size.width - 2
        self.ran_on.show(
            [
                Content.styled(f" {line}", MUTED if line.startswith("#") else "")
                for line in results.ran_on(self.view, max(width, 20))
            ]
            or [Content.styled(" nothing is kept of what it ran on", MUTED)]
        )

    def fade(self, outdated: bool) -> None:
        """What was measured stays so."""

    def selected_sweep(self) -> SweepView | None:
        """The sweep of this cell."""
        return self.sweep

    def target(self) -> Target:
        """This cell."""
        return Target(self.sweep.id, self.view.index + 1)

    def footer_label(self, action: Action) -> str:
        """What can be done with a cell."""
        match action.name:
            case "zoom":
                return "unzoom" if self.zoomed else action.label
            case "apply":
                return action.label if self.view.result is not None else ""
            case "export" | "measure_again" | "copy" | "back" | "quit" | "help":
                return action.label
        return ""

    def filtered_pane(self) -> None:
        """There is nothing to filter."""

    def act_copy(self) -> None:
        """Copy the figures, or the command lines when their pane has the focus."""
        commands = results.commands(self.view)
        if self.focused_pane().number == 2 and commands:
            self.copy("\n".join(commands), fmt.plural(len(commands), "command line"))
        else:
            self.copy(results.cell_text(self.view), f"cell {self.view.index + 1}")


def _wrapped(line: str, width: int) -> list[str]:
    """A line with what it says beyond ``width`` below its figures."""
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, max(width, 20), subsequent_indent=" " * 13, drop_whitespace=True)
