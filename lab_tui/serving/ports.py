"""Whether a TCP port can be had, and who has it."""

from __future__ import annotations

import asyncio
import errno
import socket

import psutil

from lab_tui.model import LabError


async def check_free(host: str, port: int, what: str) -> None:
    """Raise LabError naming the holder when ``port`` on ``host`` cannot be bound. Port 0: the host alone."""
    problem = _bind_problem(host, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRINUSE:
        holder = await asyncio.to_thread(_holder, port)
        raise LabError(
            f"port {port} for {what} is in use{holder}",
            "stop it, or choose another --base-port or --front-port",
        )
    address = f"{host}:{port}" if port else host
    raise LabError(
        f"cannot listen on {address} for {what} ({problem.strerror})",
        "give a port above 1023 and an address of this machine, such as 127.0.0.1 or 0.0.0.0",
    )


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bind_problem(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _holder(port: int) -> str:
    """`` by python (pid 12)``, or nothing where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr
            if connection.pid and connection.status == psutil.CONN_LISTEN and at and at.port == port:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
