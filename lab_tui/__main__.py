"""Where ``lab-tui`` and ``python -m lab_tui`` begin: quiet on ctrl-C from the first moment on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Run the command line. A ctrl-C while it is being imported ends it without a traceback."""
    _open_what_is_closed()
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in a background job it is not
    if heard:
        signal.signal(signal.SIGINT, _end)
    from lab_tui.cli.app import main as command

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def _open_what_is_closed() -> None:
    """Whoever closed one of the three standard streams wants nothing of it, and all else to work."""
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115 - for as long as this runs
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def _end(*_: object) -> None:
    """Nothing was begun yet, and what is being imported might swallow an exception."""
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
