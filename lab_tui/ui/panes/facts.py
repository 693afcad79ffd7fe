"""A fact in a line: what it is called, and what it is."""

from __future__ import annotations

import textwrap

from textual.content import Content

from lab_tui.ui.theme import MUTED

NAME = 8  # cells of its name


def fact(name: str, *parts: tuple[str, str]) -> Content:
    """A line such as `` port     9000``; ``parts``: words, each with its style."""
    return Content.assemble((f" {name:<{NAME}} ", MUTED), *parts)


def more(text: str, style: str, width: int) -> list[Content]:
    """What there is to say of the fact above, whole, in as many lines as it takes."""
    indent = " " * 3
    lines = textwrap.wrap(text, max(width - 1, 12), initial_indent=indent, subsequent_indent=indent)
    return [Content.styled(line, style) for line in lines]
