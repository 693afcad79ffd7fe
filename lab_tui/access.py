"""Who may ask the fleet: this machine alone, or whoever has an API key.

Keys lie in a file of the user's own, one a line. Every part is handed the file, never a key: what is in
an argument, a setting or an exported file can be read by others.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import stat
from pathlib import Path

import msgspec

from lab_tui import paths
from lab_tui.files import at_once
from lab_tui.model import FleetSpec, LabError

# What a bearer token may consist of (RFC 6750, 2.1); none of it means anything to nginx, sed or a shell.
KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
HOST = re.compile(r"[A-Za-z0-9_.:-]+")
MAKE_ONE = "`lab-tui up --host {host}` makes one, --api-key-file FILE names yours, --insecure goes without"
FILE_BYTES = 65_536
COPY = "api-keys"  # of a fleet, in the runtime folder


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_to_others(spec: FleetSpec) -> bool:
    """Whether other machines could ask it without a key, and nobody has said that they may."""
    return not (is_loopback(spec.host) or spec.api_key_file or spec.insecure)


def check(spec: FleetSpec) -> None:
    """Raise LabError when other machines would be let in unasked, or the host or the key is none."""
    if not HOST.fullmatch(spec.host):
        raise LabError(f"host is {spec.host!r}", "give an address, or 0.0.0.0 for all of this machine's")
    if open_to_others(spec):
        raise LabError(
            f"other machines can reach {spec.host}: that wants an API key", MAKE_ONE.format(host=spec.host)
        )
    read_keys(spec)


def keyed(spec: FleetSpec) -> FleetSpec:
    """``spec`` with the key that was made before, where it wants one and there is one."""
    file = paths.api_key_file()
    if open_to_others(spec) and file.exists():
        return msgspec.structs.replace(spec, api_key_file=str(file))
    return spec


def make_key() -> str:
    """Make the user's key and keep it; the key. Raises LabError when it cannot be kept."""
    file = paths.api_key_file()
    key = secrets.token_urlsafe(32)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(f"{key}\n")
    except OSError as error:
        raise LabError(f"cannot keep an API key in {file} ({error.strerror})", "mend that place") from error
    return key


def read_keys(spec: FleetSpec) -> tuple[str, ...]:
    """The keys of a fleet, none when it wants none. Raises LabError for a file that is not fit."""
    if not spec.api_key_file:
        return ()
    file = Path(spec.api_key_file)
    try:
        with open(file, "rb", opener=at_once) as opened:
            info = os.fstat(opened.fileno())
            content = opened.read(FILE_BYTES) if stat.S_ISREG(info.st_mode) else b""  # a device has no end
    except OSError as error:
        raise LabError(
            f"cannot read the API key in {file} ({error.strerror})", "mend it, or --api-key-file another"
        ) from error
    if not stat.S_ISREG(info.st_mode):
        raise LabError(f"{file} is not a plain file", "--api-key-file takes one with a key on each line")
    if info.st_mode & 0o077:
        raise LabError(f"others can read the API key in {file}", f"chmod 600 {file}")
    keys = tuple(content.decode("utf-8", "replace").split("\n"))
    keys = tuple(line for line in keys if line)
    if not keys or not all(map(KEY.fullmatch, keys)):
        raise LabError(
            f"{file} has no API keys",
            "on each line 16 or more of letters, digits and -._~+/=, such as `openssl rand -hex 32` gives",
        )
    return keys


def served(spec: FleetSpec, runtime: Path) -> FleetSpec:
    """``spec`` as its parts are started: with a copy of the keys that nobody changes but ``up``.

    One that restarts by itself must not know other keys than the rest.
    """
    return msgspec.structs.replace(spec, api_key_file=str(runtime / COPY)) if spec.api_key_file else spec


def keep_copy(keys: tuple[str, ...], runtime: Path) -> None:
    """Write that copy; without keys there is none. Raises LabError when it cannot be written."""
    try:
        if keys:
            write_private(runtime / COPY, "".join(f"{key}\n" for key in keys))
        else:
            (runtime / COPY).unlink(missing_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot keep the API keys in {runtime} ({error.strerror})",
            "free disk space or mend its permissions",
        ) from error


def write_private(file: Path, text: str) -> None:
    """Replace ``file``, which nobody else can read from its first moment on."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    draft.replace(file)
