"""How commands speak: results on standard output, everything else on standard error."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import msgspec

from lab_tui import tasks
from lab_tui.text import ascii_json, printable, printable_json, printable_lines, typed

T = TypeVar("T")

INTERRUPTED = 130
# 1,226.4  16/16  2h05  5.1G  ±1.4%: what a table has to the right
FIGURE = re.compile(r"-?|±>?[\d.]+%|[\d.,/hms]+[A-Z%]?")


UTF_8 = codecs.lookup("utf-8")


def show_in_any_encoding() -> None:
    """Standard output and error show a sign that their encoding has not by its likeness in ASCII."""
    codecs.register_error("likeness", _likeness)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="likeness")


def _likeness(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from lab_tui.ui.glyphs import plain  # of use here alone

    return plain(error.object[error.start : error.end]), error.end


def _speaks_utf8(encoding: str | None) -> bool:
    return encoding is None or codecs.lookup(encoding) == UTF_8


def say(text: str) -> None:
    """A message for the person at the terminal."""
    print(printable_lines(typed(text)), file=sys.stderr, flush=True)  # noqa: T201


def put(text: str) -> None:
    """A result, for a person or a pipe. What does not print is shown, for it may be somebody else's."""
    _put(printable_lines(typed(text)))


def put_file(text: str) -> None:
    """The content of a file: exact and in UTF-8, except on a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    _put(printable_lines(text) if sys.stdout.isatty() else text)


def put_page(text: str) -> None:
    """A result in the place of the one before, as ``--watch`` wants it."""
    _put(f"\x1b[H\x1b[2J{printable_lines(typed(text))}")


def _put(text: str) -> None:
    """Print it. Ends the command when nobody reads it any more."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # `lab-tui logs | head`
        _mute_stdout()
        raise SystemExit(0) from None
    except OSError as error:
        _mute_stdout()
        fail(f"cannot write to standard output: {error.strerror}")


def _mute_stdout() -> None:
    """Python must not try again when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def put_json(value: Any) -> None:
    """One JSON document."""
    _put_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def put_json_line(value: Any) -> None:
    """One JSON document on one line, of several."""
    _put_json(msgspec.json.encode(value).decode())


def _put_json(text: str) -> None:
    text = printable_json(text)
    _put(text if _speaks_utf8(sys.stdout.encoding) else ascii_json(text))


def fail(message: str, code: int = 1) -> NoReturn:
    """One line, and the end."""
    say(f"lab-tui: {printable(message)}")
    raise SystemExit(code)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end; ctrl-C lets it clean up and exits 130."""
    try:
        return asyncio.run(_until_terminated(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(INTERRUPTED) from None


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """A TERM is an interruption too. A hang-up is not: what was begun goes on in the engine."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


@asynccontextmanager
async def first_interrupt(act: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Event]:
    """The first ctrl-C or TERM in here is ``act``, an orderly end, and sets the event; a second one
    interrupts.
    """
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    told = asyncio.Event()

    async def end_orderly() -> None:
        await told.wait()
        await act()

    def interrupted() -> None:
        if told.is_set():
            main.cancel()
        told.set()

    ending = tasks.begin(end_orderly(), "orderly end")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        yield told
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await tasks.end(ending)


class Progress:
    """One line that changes on a terminal; elsewhere a plain line now and then."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._live = sys.stderr.isatty()
        self._every_s = every_s
        self._last = 0.0
        self._width = 0

    def show(self, text: str) -> None:
        """Show where the work is."""
        text = printable(text)
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps is not written over
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)  # noqa: T201
            self._width = len(text)
            return
        now = asyncio.get_running_loop().time()
        if now - self._last >= self._every_s:
            self._last = now
            say(text)

    def done(self) -> None:
        """Clear the line."""
        if self._live and self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)  # noqa: T201
            self._width = 0


def terminal_width() -> int | None:
    """How wide standard output is; None when it is no terminal, and nothing has to be shortened."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns aligned; those whose cells are all numbers to the right. Lines are at most ``width`` long."""
    rows = [[printable(" ".join(cell.split())) for cell in row] for row in rows]
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(map(FIGURE.fullmatch, column[1:])) for column in columns]
    lines = []
    for line in (head, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        text = "  ".join(cells).rstrip()
        lines.append(text if width is None or len(text) <= width else f"{text[: width - 1]}…")
    return "\n".join(lines)


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A figure, or ``-`` when it is not known."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def count(value: int | None) -> str:
    """A count of parameters: 135M, 4.0B; ``-`` when it is not known."""
    if value is None:
        return "-"
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value / 1e3:.0f}K"


def gigabytes(value: int | None) -> str:
    """Bytes as GiB or MiB."""
    if value is None:
        return "-"
    return f"{value / 2**30:.1f}G" if value >= 2**30 else f"{value / 2**20:.0f}M"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 12s, 4m10s, 2h05."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}"
