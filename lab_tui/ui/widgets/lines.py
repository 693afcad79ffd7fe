"""A list of text lines, one row of cells each, that repaints only the rows that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style

from lab_tui.ui.theme import MUTED


def changed_to(old: Content, new: Content) -> int:
    """The column behind the last one in which two lines differ; 0 when they are the same.

    A line is sent from its widget's left edge to the right end of what is repainted, and once more for
    each further region in it: one region up to the last difference is the least that can be sent.
    """
    before, now = _cells(old), _cells(new)
    if old.cell_length != len(before) or new.cell_length != len(now):
        return max(old.cell_length, new.cell_length)  # wide characters: columns are not places
    whole = max(len(before), len(now))
    blank: tuple[str, tuple[object, ...]] = (" ", ())
    before += [blank] * (whole - len(before))
    now += [blank] * (whole - len(now))
    return next((place + 1 for place in reversed(range(whole)) if before[place] != now[place]), 0)


def _cells(line: Content) -> list[tuple[str, tuple[object, ...]]]:
    """Each character with its styles."""
    text = line.plain
    styles: list[tuple[object, ...]] = [()] * len(text)
    for start, end, style in line.spans:
        end = min(end, len(text))
        styles[start:end] = [(*held, style) for held in styles[start:end]]
    return list(zip(text, styles, strict=True))


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """The same picture in fewer pieces: each change of style costs some 30 bytes on the wire.

    A blank shows no colour but its ground, so it goes along with what stands beside it.
    """
    kept: list[Segment] = []
    for segment in segments:
        if kept and _alike(kept[-1], segment):
            before = kept[-1]
            style = before.style if before.text.strip(" ") else segment.style
            kept[-1] = Segment(before.text + segment.text, style)
        else:
            kept.append(segment)
    return kept


def _alike(one: Segment, other: Segment) -> bool:
    """Whether two pieces can be drawn in one style."""
    if one.style is None or other.style is None or one.style == other.style:
        return one.style == other.style
    if one.text.strip(" ") and other.text.strip(" "):
        return False
    left, right = one.style, other.style
    drawn = any(style.reverse or style.underline or style.strike for style in (left, right))
    return not drawn and (left.bgcolor, left.meta) == (right.bgcolor, right.meta)


class LineList(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines of which some stand for things that can be selected.

    DataTable sends a whole region again for one changed cell; over SSH that is what counts, so
    live values are drawn here.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "cursor(-1)"),
        ("down,j", "cursor(1)"),
        ("pageup", "cursor(-10)"),
        ("pagedown", "cursor(10)"),
        ("home,g", "cursor(-100000)"),
        ("end,G", "cursor(100000)"),
    ]

    class Moved(Message):
        """Another line is selected."""

        def __init__(self, lines: LineList, key: str) -> None:
            super().__init__()
            self.lines = lines
            self.key = key

        @property
        def control(self) -> LineList:
            """Where it happened."""
            return self.lines

    class Opened(Moved):
        """A line was clicked twice."""

    class Resized(Message):
        """There is room for other lines."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[Content, ...] = ()
        self._keys: tuple[str | None, ...] = ()
        self._selected: str | None = None
        self._parsed: dict[str, Style] = {}
        self._faded = False

    @property
    def selected(self) -> str | None:
        """The key of the selected line; None when none can be selected."""
        return self._selected

    @property
    def plain(self) -> tuple[str, ...]:
        """The lines as they are shown, without colour."""
        return tuple(line.plain for line in self._lines)

    @property
    def _place(self) -> int | None:
        """The row of the selected line."""
        if self._selected is None or self._selected not in self._keys:
            return None
        return self._keys.index(self._selected)

    def show(self, lines: Sequence[Content], keys: Sequence[str | None] = ()) -> None:
        """Show ``lines``; ``keys`` names those that can be selected, None those that cannot."""
        before = self._lines
        self._lines = tuple(lines)
        self._keys = tuple(keys) or (None,) * len(self._lines)
        before_at = self._place
        self._keep_selection()
        now_at = self._place
        if len(before) != len(self._lines):
            self.virtual_size = Size(0, len(self._lines))
            self.refresh()
        else:
            self._refresh_changed(before)
        if now_at != before_at:  # the order changed, and the cursor goes with its line
            for row in (before_at, now_at):
                if row is not None:
                    self.refresh_line(row)
            self.call_after_refresh(self._reveal)

    def fade(self, faded: bool) -> None:
        """Draw everything grey, as what was and may be no more; or in its own colours."""
        if faded != self._faded:
            self._faded = faded
            self.refresh()

    def _refresh_changed(self, before: tuple[Content, ...]) -> None:
        """Paint again what is in sight and not as it was."""
        top = self.scroll_offset.y
        for place, (old, new) in enumerate(zip(before, self._lines, strict=True)):
            if top <= place < top + self.size.height and not old.is_same(new):
                self.refresh(Region(0, place - top, changed_to(old, new), 1))

    def select(self, key: str) -> None:
        """Select the line of ``key`` when it is there."""
        if key in self._keys and key != self._selected:
            self._repaint_selected()
            self._selected = key
            self._repaint_selected()
            self.post_message(self.Moved(self, key))
            self._reveal()

    def action_cursor(self, by: int) -> None:
        """Move the selection; without anything to select, scroll."""
        choices = [key for key in self._keys if key is not None]
        if not choices:
            self.scroll_relative(y=by, animate=False)
            return
        place = choices.index(self._selected) if self._selected in choices else 0
        self.select(choices[min(max(place + by, 0), len(choices) - 1)])

    def on_click(self, event: events.Click) -> None:
        """Select by mouse; a second click opens."""
        place = event.y + self.scroll_offset.y
        key = self._keys[place] if 0 <= place < len(self._keys) else None
        if key is None:
            return
        self.select(key)
        if event.chain == 2:
            self.post_message(self.Opened(self, key))

    def on_resize(self) -> None:
        """What fits is another matter now, and the selected line may not be in sight any more."""
        self.call_after_refresh(self._reveal)
        self.post_message(self.Resized())

    def on_focus(self) -> None:
        """The selected line looks different with focus."""
        self._repaint_selected()

    def on_blur(self) -> None:
        """The selected line looks different without focus."""
        self._repaint_selected()

    def render_line(self, y: int) -> Strip:
        """One line of the list."""
        place = y + self.scroll_offset.y
        width = self.size.width
        style = self.visual_style
        if place >= len(self._lines):
            return Strip.blank(width, style.rich_style)
        line = self._lines[place]
        if self._faded:
            line = Content.styled(line.plain, MUTED)
        if self._selected is not None and self._keys[place] == self._selected:
            line = Content(">").append(line[1:]) if line.plain.startswith(" ") else line
            style = self.get_visual_style("lines--cursor")
            if self.has_focus and self.app.native_ansi_color:
                style = style + Style(reverse=True)
                line = Content(line.plain)
        segments = [
            Segment(text, part.rich_style)
            for text, part in line.render(style, end="", parse_style=self._parse)
        ]
        return Strip(merged(Strip(segments).adjust_cell_length(width, style.rich_style)))

    def _parse(self, style: str | Style) -> Style:
        """A style by its words, in the colours of the theme."""
        if isinstance(style, Style):
            return style
        found = self._parsed.get(style)
        if found is None:
            found = self._parsed[style] = Style.parse(style)
        return found

    def notify_style_update(self) -> None:
        """Another theme has other colours."""
        self._parsed.clear()
        super().notify_style_update()

    def _keep_selection(self) -> None:
        """Hold on to the selected key; when it went, take the first there is."""
        if self._selected is not None and self._selected in self._keys:
            return
        first = next((key for key in self._keys if key is not None), None)
        if first != self._selected:
            self._selected = first
            self.refresh()
            if first is not None:
                self.post_message(self.Moved(self, first))

    def _reveal(self) -> None:
        """Scroll so that the selected line is seen."""
        place = self._place
        if place is None:
            return
        top, height = self.scroll_offset.y, self.size.height
        if place < top:
            self.scroll_to(y=place if place > 1 else 0, animate=False)
        elif height and place >= top + height:
            self.scroll_to(y=place - height + 1, animate=False)

    def _repaint_selected(self) -> None:
        if (place := self._place) is not None:
            self.refresh_line(place)
