"""A bordered box with a number, and the share-out of a screen's rows among such boxes."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget


class Pane(Vertical):
    """A numbered pane around one widget, which takes the focus for it."""

    def __init__(self, number: int, name: str, body: Widget) -> None:
        super().__init__(id=f"pane-{number}", classes="pane")
        self.number = number
        self.body = body
        self.label = name
        self.title("")

    def compose(self) -> ComposeResult:
        """The body alone."""
        yield self.body

    def title(self, more: str) -> None:
        """Set what stands in the border after the number and the name."""
        set_title(self, f"{self.number} {self.label}{f' {more}' if more else ''}")

    async def on_click(self, event: events.Click) -> None:
        """A click on the frame goes to the pane, two zoom it."""
        if event.widget is self:
            self.enter()
            if event.chain == 2:
                await self.run_action("screen.act('zoom')")

    async def replace(self, body: Widget) -> None:
        """Put another widget in."""
        await self.body.remove()
        self.body = body
        await self.mount(body)

    def enter(self) -> None:
        """Give the pane the focus at once: the next key may be for it already."""
        self.screen.set_focus(self.body)


def set_title(widget: Widget, text: str) -> None:
    """Set what stands in a border, word by word, when it is something else."""
    title = Content(text).markup
    if title != widget.border_title:
        widget.border_title = title


def set_height(widget: Widget, height: str) -> None:
    """Set a height when it is another one: each setting lays the screen out again."""
    if str(widget.styles.height) != height:
        widget.styles.height = height


def share_out(rows: int, wants: Sequence[int], least: Sequence[int]) -> list[int]:
    """``rows`` shared out: everyone the ``least`` first, then in turn until nobody ``wants`` more.

    What nobody wants goes to the last.
    """
    shares = list(least)
    left = rows - sum(shares)
    while left > 0 and any(share < want for share, want in zip(shares, wants, strict=True)):
        for place, want in enumerate(wants):
            if left > 0 and shares[place] < want:
                shares[place] += 1
                left -= 1
    shares[-1] += max(left, 0)
    return shares
