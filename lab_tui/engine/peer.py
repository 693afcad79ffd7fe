"""Who is at the other end of a Unix socket: only the owner of the engine is served, and root."""

from __future__ import annotations

import os
import socket
import struct
import sys

SOL_LOCAL, LOCAL_PEERCRED = 0, 1  # macOS: <sys/un.h>
XUCRED_BYTES = 76  # macOS, <sys/ucred.h>: version, uid, count of groups, 16 groups


def may_ask(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to our user or to root.

    The folder and the mode of the socket say so already; this holds where somebody widened them.
    """
    return uid_of(connection) in (os.getuid(), 0)


def uid_of(connection: socket.socket) -> int:
    """The user at the other end, as the kernel noted it when the line was made."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED_BYTES)
        return int(struct.unpack_from("II", credentials)[1])
    size = struct.calcsize("iII")  # struct ucred: pid, uid, gid
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("iII", credentials)[1])
