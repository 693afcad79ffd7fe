"""The engine as a process: one per user, found by its socket, kept single by a lock.

``python -m lab_tui.engine.daemon`` runs it in the foreground; viewers start it in a session of
its own. What goes wrong before it serves is one line on standard error; after that, in its log.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import logging.handlers
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import uvloop

from lab_tui import __version__, config, paths
from lab_tui.engine.api import run_server
from lab_tui.engine.engine import Engine
from lab_tui.model import LabError
from lab_tui.serving import orphans
from lab_tui.text import printable, speak_utf8

FORCE_S = 3.0  # after a second signal: then the process ends, whatever it waits for
FORCED = 130
LOG_BYTES = 4 * 1024 * 1024
log = logging.getLogger("lab_tui.engine")


def main() -> int:
    """Run until told to stop. 0 after an orderly end, 1 when it could not start (one line why)."""
    try:
        settings = config.load()
        runtime = paths.ensure_private(paths.runtime_dir())
        state = paths.ensure_writable(paths.state_dir(), "XDG_STATE_HOME")
        logs = paths.ensure_writable(paths.logs_dir(), "XDG_STATE_HOME")
        lock = sole(runtime)
        orphans.mark(os.environ, runtime)
        speak_utf8(os.environ)
        _log_to(logs / "engine.log")
        _raise_file_limit()
        engine = Engine(settings, runtime=runtime, state=state, logs=logs)
        uvloop.run(_serve(engine))
    except LabError as error:
        print(f"lab-tui: {printable(str(error))}", file=sys.stderr)  # noqa: T201 - before the log there is only this
        return 1
    lock.close()
    return 0


async def _serve(engine: Engine) -> None:
    """Serve on the socket until a signal or a command asks to stop; then leave nothing behind."""
    socket = paths.socket_path()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _told, engine)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    await engine.start()
    try:
        with suppress(FileNotFoundError):
            socket.unlink()  # of an engine that died: we hold the lock, so nobody listens there
        old_mask = os.umask(0o177)  # from its first moment the socket is ours alone
        try:
            runner = await run_server(engine, str(socket))
        finally:
            os.umask(old_mask)
        log.info("engine %s serves on %s", __version__, socket)
        _leave_terminal()
        await engine.stop_requested.wait()
        log.info("engine stops")
        with suppress(FileNotFoundError):
            socket.unlink()
        await engine.stop()
        await runner.cleanup()
    except BaseException:
        await engine.stop()
        raise


def _told(engine: Engine) -> None:
    """The first signal asks for an orderly end, another one forces it: children are killed at once."""
    if not engine.stop_requested.is_set():
        engine.request_stop()
        return
    log.warning("told again: everything is killed")
    engine.kill_children()
    last = threading.Timer(FORCE_S, os._exit, (FORCED,))
    last.daemon = True
    last.start()


def sole(runtime: Path) -> TextIO:
    """The lock that keeps engines single. Raises LabError while another one holds it."""
    handle = (runtime / paths.LOCK).open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        pid = handle.read().strip() or "unknown"
        raise LabError(f"an engine is already running (pid {pid})", "`lab-tui engine stop` ends it") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _log_to(file: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _raise_file_limit() -> None:
    """Soft limit of open files up to the hard one, for nginx and the load workers after us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_terminal() -> None:
    """Once it serves, nobody reads our standard error: what still comes there goes to nowhere.

    In the foreground (``engine run``) the terminal stays.
    """
    if not sys.stderr.isatty():
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
