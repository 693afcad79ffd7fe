"""Servers for the load tests. Each test process has its own; all end with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(module: str, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server module that prints its port and ends when its standard input closes."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.fixture(scope="session")
def paced() -> Iterator[str]:
    """Base URL of a paced server; a behaviour is added as a path."""
    process, port = start("tests.load.paced_server")
    yield f"http://127.0.0.1:{port}"
    stop(process)


@pytest.fixture(scope="session")
def null_server() -> Iterator[str]:
    """Base URL of the null server at 10 tok/s a stream."""
    process, port = start("lab_tui.load.null_server", "--rate", "10")
    yield f"http://127.0.0.1:{port}"
    stop(process)
