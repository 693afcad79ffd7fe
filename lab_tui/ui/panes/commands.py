"""Command lines as a shell takes them, broken so that they can be read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def broken(words: Sequence[str], width: int) -> list[str]:
    """A command in as few lines as hold it, with backslashes between its options, to be pasted as it is seen.

    A flag stays with its value; one that is longer than ``width`` has a line to itself.
    """
    parts: list[str] = []
    for word in words:
        flag = word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit()
        if not flag and parts and parts[-1].startswith("-") and " " not in parts[-1]:
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return lines
