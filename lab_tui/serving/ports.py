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
    raise _cannot_listen(f"{host}:{port}" if port else host, what, problem)


def check_address(host: str, what: str) -> None:
    """Raise LabError when nothing can listen on ``host``, whatever the port. A name may take seconds."""
    if problem := _bind_problem(host, 0):
        raise _cannot_listen(host, what, problem)


def _cannot_listen(address: str, what: str, problem: OSError) -> LabError:
    return LabError(
        f"cannot listen on {address} for {what} ({problem.strerror})",
        "give a port above 1023 and an address of this machine, such as 127.0.0.1 or 0.0.0.0",
    )


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Every address of this machine, and some that are of no machine (RFC 5737, RFC 3849).
ANY = {"0.0.0.0": ("192.0.2.1",), "::": ("192.0.2.1", "2001:db8::1")}


def outward(host: str) -> str | None:
    """Our own address on the way to other machines, for a listener on every one; None: there is no way.

    The kernel chooses it by its routes; nothing is sent.
    """
    for elsewhere in ANY[host]:
        family = socket.AF_INET6 if ":" in elsewhere else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                address: str = probe.getsockname()[0]
                return address
        except OSError:
            continue  # no route of that kind
    return None


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
