"""How counts are said, alike everywhere."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """``1 stream``, ``2 streams``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
