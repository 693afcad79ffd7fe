"""Files that a user asked for: where they go, how they get there, and how one that is named is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab_tui.model import LabError

EXPORTED = "# Written by `lab-tui export`."  # a line of what a later export may remove
MOST_BYTES = 1 << 20  # of a file that was exported


def places(files: Mapping[str, str], output: Path) -> dict[Path, str]:
    """Where each goes: one file to ``output`` itself, several (or any into a folder) below it.

    Raises LabError when several would go into what is a file.
    """
    if output.is_dir():
        return {output / name: text for name, text in files.items()}
    if len(files) == 1:
        return dict(zip([output], files.values(), strict=True))
    if output.exists():
        raise LabError(f"{output} is a file", f"name a folder for {', '.join(files)}")
    return {output / name: text for name, text in files.items()}


def taken(paths: Iterable[Path]) -> list[Path]:
    """Those that exist already."""
    return [path for path in paths if path.exists()]


def left_over(targets: Mapping[Path, str]) -> list[Path]:
    """Units that an older export has written beside these, and this one does not: named alike, and marked.

    systemd would heed them still, such as that of one instance before the template of all.
    """
    names = {path.with_name(path.name.partition("@")[0]) for path in targets if "@" in path.name}
    beside = [path for name in names for path in name.parent.glob(f"{name.name}*")]
    return sorted(path for path in beside if path not in targets and _marked(path))


def _marked(path: Path) -> bool:
    try:
        return EXPORTED in read_plain(str(path), MOST_BYTES, "").decode("utf-8", "replace").splitlines()
    except (OSError, LabError):  # of another kind than what was written
        return False


def remove(paths: Iterable[Path]) -> None:
    """Remove what was left over. Raises LabError."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LabError(f"cannot remove {path} ({error.strerror})", "remove it yourself") from error


def write(files: Mapping[Path, str]) -> None:
    """Write them, scripts so that they can be run; the folder of several is made. Raises LabError."""
    for path, text in files.items():
        try:
            if len(files) > 1:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise LabError(
                f"cannot write {error.filename or path} ({error.strerror})", "choose another place"
            ) from error


def at_once(file: str, flags: int) -> int:
    """Open a file without waiting, as for a named pipe, for somebody who writes into it."""
    return os.open(file, flags | os.O_NONBLOCK)


def read_plain(file: str, most_bytes: int, remedy: str) -> bytes:
    """The content of a plain file of at most ``most_bytes``.

    Raises LabError for one that is larger or never ends, and OSError for one that cannot be read.
    """
    with open(file, "rb", opener=at_once) as opened:
        info = os.fstat(opened.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise LabError(f"{file} is not a plain file", remedy)
        content = opened.read(most_bytes + 1) if info.st_size <= most_bytes else None
    if content is None or len(content) > most_bytes:
        raise LabError(f"{file} is larger than {most_bytes >> 20} MB", remedy)
    return content
