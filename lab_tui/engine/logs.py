"""Log files as lines: the last ones, then new ones as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from lab_tui.model import LabError
from lab_tui.serving.process import tail
from lab_tui.text import printable

FOLLOW_POLL_S = 0.25
BLOCK_BYTES = 256 * 1024
MAX_TAIL = 100_000


def log_file(folder: Path, source: str) -> Path:
    """The file of a log: "0", "1", … an instance, "nginx", "engine". Raises LabError when there is none."""
    if source.isascii() and source.isdigit():
        file = folder / f"instance-{int(source)}.log"
    elif source in ("nginx", "engine"):
        file = folder / f"{source}.log"
    else:
        raise LabError(f"there is no log {source!r}", "give an instance's number, nginx or engine")
    if not file.exists():
        name = f"instance {int(source)}" if source.isdigit() else source
        there = ", ".join(_logs(folder))
        raise LabError(f"{name} has no log", f"there are: {there}" if there else "nothing was started yet")
    return file


def _logs(folder: Path) -> list[str]:
    """The names of the logs there are, instances first."""
    numbers = sorted(
        int(number) for file in folder.glob("instance-*.log") if (number := file.stem[9:]).isdigit()
    )
    return [*map(str, numbers), *(name for name in ("nginx", "engine") if (folder / f"{name}.log").exists())]


async def follow(file: Path, count: int, *, keep: bool) -> AsyncGenerator[str, None]:
    """The last ``count`` lines of ``file``; with ``keep``, new ones for ever, through rotation."""
    offset = _size(file)
    for line in tail(file, min(max(count, 0), MAX_TAIL)):
        yield line
    rest = b""
    while keep:
        await asyncio.sleep(FOLLOW_POLL_S)
        size = _size(file)
        if size < offset:  # it began anew
            offset, rest = 0, b""
        while offset < size:
            with file.open("rb") as handle:
                handle.seek(offset)
                block = handle.read(BLOCK_BYTES)
            offset += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for raw in lines:
                yield printable(raw.decode("utf-8", "replace"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
