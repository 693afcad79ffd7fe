"""A lab of its own for a script: a home, ports and a small model that no other lab knows."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import make_tiny_model


@contextlib.contextmanager
def own_lab(instances: int, **settings: str) -> Iterator[dict[str, str]]:
    """The environment of a lab for so many instances; ``settings`` are LAB_TUI_ variables without that."""
    with tempfile.TemporaryDirectory(prefix="lab-tui-") as folder:
        home = Path(folder)
        model = make_tiny_model.make_tiny_model(home / "tiny.gguf")
        (home / "run").mkdir(mode=0o700)
        mine = ("XDG_", "LAB_TUI_", "LLAMA_", "COLUMNS", "LINES")
        env = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        env |= {"HOME": folder, "XDG_RUNTIME_DIR": str(home / "run"), "TERM": "xterm-256color"}
        base_port = free_ports(instances + 1)
        own = {
            "SERVE_MODEL": str(model),
            "SERVE_BASE_PORT": str(base_port),
            "SERVE_FRONT_PORT": str(base_port + instances),
            "ENGINE_CALIBRATE": "false",
        }
        env |= {f"LAB_TUI_{name}": value for name, value in (own | settings).items()}
        try:
            yield env
        finally:
            lab_tui(env, "engine", "stop")


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on, below those the system gives out."""
    for base in range(24_000, 32_000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return base
    raise SystemExit(f"no {count} free ports in a row")


def lab_tui(env: dict[str, str], *args: str) -> str:
    """What ``lab-tui ARGS`` prints. Ends the script when it fails."""
    done = subprocess.run([sys.executable, "-m", "lab_tui", *args], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lab-tui {' '.join(args)}: {done.stderr}")
    return done.stdout
