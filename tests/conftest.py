"""What every test may ask for. Each worker gets a home of its own: no test meets a user's engine."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from make_tiny_model import make_tiny_model

# The same examples each time, however long one takes: a machine that stands still for a moment fails none.
settings.register_profile("lab", deadline=None, derandomize=True)
settings.load_profile("lab")

XDG = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_CACHE_HOME": ".cache",
    "XDG_RUNTIME_DIR": "run",
}


# What a terminal, a shell or an account gives every program in it.
OUTSIDE = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES", "OPENAI_API_KEY", "OPENAI_BASE_URL")

# Run in the background, as CI may be, tests would hand an ignored INT on to whatever they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _move_in(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Make ``home`` the home: every XDG place in it, and no setting from outside."""
    for variable in os.environ:
        if variable.startswith(("LAB_TUI_", "LLAMA_")) or variable in OUTSIDE:
            patch.delenv(variable)
    patch.setenv("TERM", "xterm-256color")
    patch.setenv("HOME", str(home))
    for variable, place in XDG.items():
        (home / place).mkdir(parents=True, mode=0o700)
        patch.setenv(variable, str(home / place))


@pytest.fixture(scope="session", autouse=True)
def worker_home() -> Iterator[Path]:
    """The home of this test worker. Its path is short: a socket must fit below it."""
    home = Path(tempfile.mkdtemp(prefix="lab-"))
    with pytest.MonkeyPatch.context() as patch:
        _move_in(home, patch)
        yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home for one test, short enough for a socket."""
    home = Path(tempfile.mkdtemp(prefix="lab-"))
    _move_in(home, monkeypatch)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A random-weight GGUF that serves (see scripts/make_tiny_model.py), made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    model = shared / "tiny.gguf"
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            make_tiny_model(shared / "tiny.part").replace(model)
    return model
