"""Files that a user asked for: where they go, and how they get there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lab_tui.model import LabError


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


def write(files: Mapping[Path, str]) -> None:
    """Write them, scripts so that they can be run; the folder of several is made. Raises LabError."""
    for path, text in files.items():
        try:
            if len(files) > 1:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise LabError(
                f"cannot write {error.filename or path} ({error.strerror})", "choose another place"
            ) from error
