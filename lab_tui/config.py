"""Settings, one frozen tree: defaults < LLAMA_* < config.toml < LAB_TUI_* < flags.

``LLAMA_*`` are llama-throughput-lab's own variables, so its users need change nothing.
Each setting has a variable ``LAB_TUI_SECTION_KEY``, such as ``LAB_TUI_SERVE_BASE_PORT``.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lab_tui import access, paths
from lab_tui.model import Data, FleetSpec, LabError


class ServeSettings(Data, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What serves, and where."""

    model: str = ""  # path of a GGUF file; "": the first that is found
    llama_server: str = ""  # path of a llama-server; "": PATH, then the embedded one
    nginx: str = ""  # path of an nginx; "": PATH, then the embedded one
    instances: Annotated[int, Meta(ge=1, le=64)] = 2
    parallel: Annotated[int, Meta(ge=1, le=256)] = 4
    ctx_per_slot: Annotated[int, Meta(ge=64, le=16777216)] = 2048  # tokens
    base_port: Annotated[int, Meta(ge=1, le=65535)] = 9000
    front_port: Annotated[int, Meta(ge=1, le=65535)] = 8088
    host: str = "127.0.0.1"  # where the front listens
    api_key_file: str = ""  # keys that clients must give, one a line; "": on loopback none
    insecure: bool = False  # no key, though other machines can reach it
    placement: str = "auto"  # which cards instances get: auto, spread, pack, split, …, or 0,1,1
    cpu_pin: bool = False  # each instance gets processor cores of its own
    mps: str = ""  # NVIDIA's MPS: "on", "off"; "": as the machine has it
    max_streams: Annotated[int, Meta(ge=1, le=65536)] = 1024  # streams at once the fleet is laid out for
    max_body_mb: Annotated[int, Meta(ge=1, le=4096)] = 64  # the longest request, in MiB
    args: str = ""  # more llama-server arguments, as a shell would split them
    ready_timeout_s: Annotated[float, Meta(ge=1, le=86400)] = 600.0  # how long a model may take to load
    reserve_gb: Annotated[float, Meta(ge=0, le=1024)] = 1.5  # memory that a sweep leaves to the system
    memory_limit_gb: Annotated[float, Meta(ge=0, le=65536)] = 0.0  # an instance above it restarts; 0: none
    drain_s: Annotated[float, Meta(ge=0, le=86400)] = 5.0  # how long a stop waits for streams to finish


class EngineSettings(Data, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine process."""

    resume_queue: bool = False  # go on with waiting sweeps, unasked, after an engine died
    calibrate: bool = True  # find out what client and front carry, once, when a cell is fast
    poll_s: Annotated[float, Meta(ge=0.1, le=86400)] = 1.0  # how often instances, host and GPUs are read


class UiSettings(Data, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The screen."""

    tick_s: Annotated[float, Meta(ge=0.1, le=86400)] = 1.0  # how often figures move
    theme: str = "textual-dark"
    mouse: bool = True
    ascii: bool | None = None  # nothing outside ASCII; None: where the locale is not UTF-8


class Settings(Data, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole tree."""

    serve: ServeSettings = ServeSettings()
    engine: EngineSettings = EngineSettings()
    ui: UiSettings = UiSettings()
    keys: dict[str, Any] = msgspec.field(default_factory=dict)  # action: key or keys; the screen checks them


# llama-throughput-lab's variables and the setting each one stands for.
LEGACY = {
    "LLAMA_MODEL_PATH": ("serve", "model"),
    "LLAMA_SERVER_BIN": ("serve", "llama_server"),
    "LLAMA_SERVER_ARGS": ("serve", "args"),
    "LLAMA_SERVER_INSTANCES": ("serve", "instances"),
    "LLAMA_PARALLEL": ("serve", "parallel"),
    "LLAMA_SERVER_BASE_PORT": ("serve", "base_port"),
    "LLAMA_NGINX_PORT": ("serve", "front_port"),
    "LLAMA_SERVER_HOST": ("serve", "host"),
}

Tree = dict[str, Any]
Variables = dict[str, tuple[str, str]]  # variable → section and key


def load(environ: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """The settings of this machine and user, flags not yet applied.

    Raises LabError naming the file and key, or the variable, that is wrong.
    """
    environ = os.environ if environ is None else environ
    file = paths.config_file() if file is None else file
    settings = _apply_variables(Settings(), _legacy(environ), environ)
    settings = _apply_file(settings, file)
    return _apply_variables(settings, _own(environ), environ)


def _apply_file(settings: Settings, file: Path) -> Settings:
    try:
        return _merged(settings, _file(file), strict=True)
    except msgspec.ValidationError as error:
        raise LabError(
            f"{file}: {_named(error)}", "mend or remove that key (see README, Settings)"
        ) from error


def _apply_variables(settings: Settings, variables: Variables, environ: Mapping[str, str]) -> Settings:
    """One by one, so that an error names the variable."""
    for variable, (section, key) in variables.items():
        try:
            settings = _merged(settings, {section: {key: environ[variable]}}, strict=False)
        except msgspec.ValidationError as error:
            text = _named(error).partition(": ")[2]
            raise LabError(
                f"{variable}={environ[variable]}: {text}", "mend or unset that variable"
            ) from error
    return settings


def _merged(settings: Settings, tree: Tree, *, strict: bool) -> Settings:
    """``settings`` with ``tree`` laid over it, checked field by field."""
    merged: Tree = msgspec.to_builtins(settings)
    for section, values in tree.items():
        mine = merged.get(section, {})
        merged[section] = {**mine, **values} if isinstance(values, dict) else values
    return msgspec.convert(merged, Settings, strict=strict)


def _named(error: msgspec.ValidationError) -> str:
    """msgspec's message with the key first: ``serve.instances: expected `int`, got `str```."""
    text, _, where = str(error).partition(" - at `$.")
    key = where.rstrip("`")
    if text.startswith("Object contains unknown field"):
        unknown = text.rsplit("`", 2)[-2]
        return f"{key + '.' if key else ''}{unknown}: unknown key"
    return f"{key}: {text[0].lower()}{text[1:]}" if key else text


def _file(file: Path) -> Tree:
    """The TOML file as a tree; empty when there is none."""
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}", "make it readable or move it away") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LabError(f"{file}: not TOML: {error}", "mend that line or move the file away") from error


def _legacy(environ: Mapping[str, str]) -> Variables:
    """Those of llama-throughput-lab's variables that are set."""
    return {variable: place for variable, place in LEGACY.items() if environ.get(variable)}


def _own(environ: Mapping[str, str]) -> Variables:
    """``LAB_TUI_SECTION_KEY`` variables. An unknown key is refused when it is laid over the settings."""
    found: Variables = {}
    for section in Settings.__struct_fields__:
        prefix = f"LAB_TUI_{section.upper()}_"
        for variable in environ:
            if variable.startswith(prefix):
                found[variable] = (section, variable.removeprefix(prefix).lower())
    return found


def for_screen(settings: Settings, *, mouse: bool | None = None, ascii: bool | None = None) -> Settings:
    """The settings with the flags of the screen laid over them; None is a flag that was not given."""
    ui = settings.ui
    changed = msgspec.structs.replace(
        ui, mouse=ui.mouse if mouse is None else mouse, ascii=ui.ascii if ascii is None else ascii
    )
    return msgspec.structs.replace(settings, ui=changed)


def llama_cpp_dir() -> str:
    """llama-throughput-lab's LLAMA_CPP_DIR: a llama.cpp checkout whose build is looked into."""
    return os.environ.get("LLAMA_CPP_DIR", "")


def extra_args(settings: Settings) -> tuple[str, ...]:
    """``serve.args`` split as a shell would. Raises LabError on an open quote."""
    try:
        return tuple(shlex.split(settings.serve.args))
    except ValueError as error:
        raise LabError(f"serve.args: {error}", "close the quote") from error


def fleet_spec(settings: Settings, model: str, flags: Mapping[str, Any] | None = None) -> FleetSpec:
    """The fleet the settings describe, of ``model``, with ``flags`` over it and the key it wants, if any.

    Raises LabError for an open quote in ``serve.args``.
    """
    serve = settings.serve
    spec = FleetSpec(
        model=model,
        instances=serve.instances,
        parallel=serve.parallel,
        ctx_per_slot=serve.ctx_per_slot,
        base_port=serve.base_port,
        front_port=serve.front_port,
        host=serve.host,
        api_key_file=str(paths.expanded(serve.api_key_file)) if serve.api_key_file else "",
        insecure=serve.insecure,
        placement=serve.placement,
        cpu_pin=serve.cpu_pin,
        mps=serve.mps,
        max_streams=serve.max_streams,
        max_body_mb=serve.max_body_mb,
        extra_args=extra_args(settings),
    )
    return access.keyed(msgspec.structs.replace(spec, **(flags or {})))
