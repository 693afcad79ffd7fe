"""Where ``lab-tui`` and ``python -m lab_tui`` begin: quiet on ctrl-C from the first moment on."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line. A ctrl-C while it is being imported ends it without a traceback."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in a background job it is not
    if heard:
        signal.signal(signal.SIGINT, _end)
    from lab_tui.cli.app import main as command

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def _end(*_: object) -> None:
    """Nothing was begun yet, and what is being imported might swallow an exception."""
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
