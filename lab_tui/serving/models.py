"""GGUF files: which are on this machine, what they are, whether they are whole; and the one to fetch."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab_tui import paths
from lab_tui.config import Settings
from lab_tui.model import LabError, ModelFile
from lab_tui.serving.fetch import FILE_NAME, fetch
from lab_tui.serving.gguf_header import Damaged, Header, read_header

__all__ = ["check", "default_model", "fetch", "find", "headers", "inspect", "model_folders", "named", "walk"]

DEPTH = 6  # folders below a place that are looked into; Hugging Face's cache needs four
FETCH = "`lab-tui models fetch`"
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
# What is kept as GGUF and generates no text: encoders, and the eyes of a multimodal model.
NO_TEXT = frozenset(
    {"bert", "clip", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert", "t5encoder"}
)
# general.file_type by number where it says more than the main tensor type does (llama.h)
FILE_TYPES = {
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    21: "Q2_K_S",
    22: "IQ3_XS",
    27: "IQ3_M",
    29: "IQ2_M",
    31: "IQ1_M",
}


def model_folders() -> tuple[Path, ...]:
    """Where models are looked for, in this order.

    lab-tui's own folder; ``LLAMA_MODEL_DIRS`` (split at ``:`` and ``,``, as llama-throughput-lab
    does); then where LM Studio, Hugging Face, llama.cpp and people keep them.
    """
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = os.environ.get("HF_HUB_CACHE")
    llama = os.environ.get("LLAMA_CACHE")
    named = re.split(r"[:,]", os.environ.get("LLAMA_MODEL_DIRS", ""))
    return (
        paths.models_dir(),
        *(paths.expanded(folder) for folder in named if folder),
        home / ".lmstudio" / "models",
        cache / "lm-studio" / "models",
        Path(hub) if hub else Path(os.environ.get("HF_HOME") or cache / "huggingface") / "hub",
        Path(llama) if llama else cache / "llama.cpp",
        home / "Library" / "Caches" / "llama.cpp",
        home / "models",
    )


def find(folders: Sequence[Path] | None = None) -> list[ModelFile]:
    """The models of this machine, each once, in the order of ``model_folders``.

    Left out: files that are damaged or cut short, vision projectors (mmproj), adapters, encoders
    that generate no text, and every part of a model in parts but the first. Within a folder by
    name, with the model that ``fetch`` brings after the others.
    """
    return list(walk(folders))


def walk(folders: Sequence[Path] | None = None) -> Iterator[ModelFile]:
    """The models that ``find`` gives, one by one: the first is there before the last is looked for."""
    yield from _candidates(model_folders() if folders is None else folders)


def named(path: str | Path) -> Iterator[ModelFile]:
    """The model at ``path``, or those in the folder. Raises LabError as ``check`` does, or when none is."""
    place = _expanded(path)
    if not place.is_dir():
        yield inspect(place)
        return
    found = walk([place])
    first = next(found, None)
    if first is None:
        raise LabError(f"there is no model in {place}", f"{FETCH} brings a small one")
    yield first
    yield from found


def inspect(path: str | Path) -> ModelFile:
    """What the header of the file says (of all parts together, if it has several).

    Takes some 30 ms the first time, nothing when the file was seen before. Raises LabError as
    ``check`` does.
    """
    files = [(part, _checked(part)) for part in _parts(_expanded(path))]
    first, header = files[0]
    architecture = str(header.fields.get("general.architecture", ""))
    context = header.fields.get(f"{architecture}.context_length")
    file_type = header.fields.get("general.file_type")
    return ModelFile(
        path=str(first),
        size_bytes=sum(part.stat().st_size for part, _ in files),
        name=PART.sub("", first.name).removesuffix(".gguf"),
        quantisation=FILE_TYPES.get(file_type, header.main_type)
        if isinstance(file_type, int)
        else header.main_type,
        parameters=sum(header.parameters for _, header in files) or None,
        context_length=context if isinstance(context, int) else None,
    )


def check(path: str | Path) -> None:
    """Raise LabError, one line, unless ``path`` is a whole GGUF model.

    Told apart: missing, a folder, not a plain file, unreadable, empty, not a GGUF, cut short, a
    part missing, not the first part.
    """
    for part in _parts(_expanded(path)):
        _checked(part)


def headers(path: str | Path) -> tuple[Header, ...]:
    """The header of each part of the model. Raises LabError as ``check`` does."""
    return tuple(_checked(part) for part in _parts(_expanded(path)))


def default_model(settings: Settings) -> str:
    """The model to serve when none was named: ``serve.model``, else the first that ``find`` gives.

    So a model that the user put into lab-tui's own folder comes first, then the small one that
    ``lab-tui models fetch`` brings, and only then what other programs keep: which of those is
    meant cannot be known, and two instances of a large one may not fit.

    Raises LabError when ``serve.model`` is not a whole GGUF file, or nothing is found.
    """
    if settings.serve.model:
        check(settings.serve.model)
        return str(_expanded(settings.serve.model))
    for model in walk():
        return model.path
    raise LabError("no model found", f"{FETCH} brings a small one, or name a GGUF file with -m")


def _expanded(path: str | Path) -> Path:
    return Path(os.path.abspath(paths.expanded(path)))  # noqa: PTH100 - a link keeps its name


def _parts(path: Path) -> list[Path]:
    """All files of the model that begins with ``path``. Raises LabError for a later part."""
    match = PART.search(path.name)
    if match is None:
        return [path]
    stem, count = path.name[: match.start()], int(match[2])
    names = [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    if int(match[1]) != 1:
        raise LabError(f"{path} is a later part of a model", f"name its first part, {names[0]}")
    return [path.with_name(name) for name in names]


def _checked(path: Path) -> Header:
    """The header of one file that is whole. Raises LabError."""
    try:
        str(path).encode()  # what cannot be written into JSON cannot be asked for
    except UnicodeEncodeError as error:
        raise LabError(f"the name of model {path} is not UTF-8", "rename it") from error
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise LabError(f"model {path} is a folder", _inside(path))
        if not stat.S_ISREG(info.st_mode):
            raise LabError(f"model {path} is not a plain file", "name a GGUF file")
        if info.st_size == 0:
            raise LabError(f"model {path} is empty", "download it again")
        header = _header(path, info.st_size, info.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"model {path} does not exist", "`lab-tui models list` shows what there is") from error
    except OSError as error:
        raise LabError(f"model {path} cannot be read ({error.strerror})", "mend its permissions") from error
    except Damaged as error:
        raise LabError(
            f"model {path} cannot be used: {error}", "name a GGUF file or download it again"
        ) from error
    if info.st_size < header.end:
        raise LabError(
            f"model {path} is cut short: {info.st_size:,} of {header.end:,} bytes", "download it again"
        )
    return header


@functools.lru_cache(maxsize=512)
def _header(path: Path, size: int, mtime_ns: int) -> Header:
    """``read_header``, once for each version of a file."""
    return read_header(path)


def _inside(folder: Path) -> str:
    """What to do instead of naming ``folder``."""
    names = sorted(entry.name for entry in folder.glob("*.gguf"))
    return f"name a file in it, such as {names[0]}" if names else "name a GGUF file"


def _candidates(folders: Sequence[Path]) -> Iterator[ModelFile]:
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        found = sorted(_gguf_files(folder, DEPTH, seen), key=lambda path: (path.name == FILE_NAME, path))
        for path in found:
            try:
                model, header = inspect(path), _checked(path)
            except LabError:
                continue  # `check` says what is wrong once somebody names it
            kind = header.fields.get("general.type", "model")
            if header.tensors and kind == "model" and _architecture(header) not in NO_TEXT:
                yield model


def _architecture(header: Header) -> str:
    return str(header.fields.get("general.architecture", ""))


def _gguf_files(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """GGUF files that may be models, links followed, no file or folder twice (``seen``: device, inode)."""
    folders: list[Path] = []
    try:
        if not _first_sight(folder.stat(), seen):
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # not there, or not ours to look into
    for entry in entries:
        try:
            info = entry.stat()
        except OSError:
            continue  # a link that leads nowhere
        if entry.name.startswith("."):
            continue
        if stat.S_ISDIR(info.st_mode):
            folders.append(Path(entry.path))
        elif stat.S_ISREG(info.st_mode) and _may_be_model(entry.name) and _first_sight(info, seen):
            yield Path(entry.path)
    for below in folders if depth > 0 else ():
        yield from _gguf_files(below, depth - 1, seen)


def _first_sight(info: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    identity = (info.st_dev, info.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _may_be_model(name: str) -> bool:
    """Whether a file name is that of a model or of the first of its parts."""
    low = name.lower()
    part = PART.search(low)
    return low.endswith(".gguf") and "mmproj" not in low and (part is None or int(part[1]) == 1)
