"""Ports for servers of tests, of which no two are handed out at once."""

from __future__ import annotations

import os
import random
import socket

# Below those the system gives to outgoing connections, and below those of scripts/own_lab.py.
LOWEST, BEYOND = 10_000, 24_000


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on.

    Each worker of a test run has a range of its own: what is free now is often bound seconds later, and
    one that is down for a moment is free as well.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (BEYOND - LOWEST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = LOWEST + worker * share
    for _ in range(1000):
        base = random.randrange(first, first + share - count)
        if all(map(is_free, range(base, base + count))):
            return base
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    """Whether somebody could listen on ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
