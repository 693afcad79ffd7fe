"""doctor, models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from lab_tui import config, paths
from lab_tui.cli.fleet import Json, left_over
from lab_tui.cli.output import INTERRUPTED, count, gigabytes, number, put, put_json, run, say, table
from lab_tui.cli.what_fits import legend, look, looked_into, text
from lab_tui.client import EngineClient, EngineGone, EngineSilent
from lab_tui.model import FleetSpec, LabError, ModelFile, Part
from lab_tui.text import printable

Parallel = Annotated[int | None, typer.Option("--parallel", "-p", help="FITS is for so many slots.")]
CtxPerSlot = Annotated[int | None, typer.Option(help="FITS is for so many tokens a slot.")]
CacheType = Annotated[str | None, typer.Option(help="For a KV cache of this type: f16, q8_0, q4_0, …")]


class _ListUnlessToldOtherwise(TyperGroup):
    """`models ARGS` is `models list ARGS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asked = args[:1]
        if not asked or (asked[0] not in self.commands and asked[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(
    cls=_ListUnlessToldOtherwise,
    help="GGUF files of this machine. `models ARGS` is `models list ARGS`.",
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)
    app.add_typer(models, name="models")


def doctor(as_json: Json = False) -> None:
    """Which parts are used, their versions, what is wrong and how to mend it. Exit 1 when something is."""
    parts = run(_survey())
    if as_json:
        put_json({"parts": parts, "places": _places()})
    else:
        put("\n".join(map(_part_text, parts)))
        put("\n".join(f"  {name:<13} {place}" for name, place in _places().items()))
    if not all(part.found for part in parts):
        raise SystemExit(1)


async def _survey() -> list[Part]:
    from lab_tui.serving.parts import survey

    settings, wrong = _settings()
    served, model, engine, mps, left = await asyncio.gather(
        survey(settings), asyncio.to_thread(_model, settings), _engine(), _mps(), _orphans()
    )  # beside each other, for an engine that hangs keeps each of them waiting
    return [*wrong, *served, model, engine, *mps, *left]


def _settings() -> tuple[config.Settings, list[Part]]:
    """What to look for; and where nobody can read what is asked, the defaults, and what is wrong with it."""
    try:
        return config.load(), []
    except LabError as error:
        problem = f"{error.message} (what follows is by the defaults)"
        return config.Settings(), [Part(name="settings", found=False, problem=problem, remedy=error.remedy)]


async def _mps() -> list[Part]:
    """What is to be said of NVIDIA's MPS to the fleet that runs. It is no part that anything lacks."""
    async with EngineClient() as client:
        try:
            found = (await client.snapshot()).mps
        except LabError:  # none runs, or one of another version, which `_orphans` tells
            return []
    return [Part(name="MPS", found=True, source=found.said)] if found and found.said else []


async def _orphans() -> list[Part]:
    """What an engine that died has left running; nothing when there is nothing."""
    from lab_tui.serving.orphans import describe

    try:
        left = await left_over()
    except LabError as error:  # an engine of another version does not say what it looks after
        problem = f"not known: {error.message}"
        return [Part(name="left behind", found=False, problem=problem, remedy=error.remedy)]
    if not left:
        return []
    problem = f"{describe(left)} of an engine that died still run"
    return [
        Part(name="left behind", found=False, problem=problem, remedy="`lab-tui down --all` ends them; "
             "an engine takes over those it finds in its records")
    ]  # fmt: skip


def _model(settings: config.Settings) -> Part:
    from lab_tui.serving.models import default_model

    try:
        path = default_model(settings)
    except LabError as error:
        return Part(name="model", found=False, problem=error.message, remedy=error.remedy)
    source = "configured" if settings.serve.model else "found"
    return Part(name="model", found=True, source=source, command=(path,))


async def _engine() -> Part:
    """The engine is found also when it rests: it starts by itself."""
    async with EngineClient() as client:
        try:
            info = await client.info()
        except EngineGone:
            return Part(name="engine", found=True, source="not running; starts by itself")
        except EngineSilent as error:
            return Part(name="engine", found=False, problem=error.message, remedy=error.remedy)
    return Part(
        name="engine", found=True, source="running", command=(f"pid {info.pid}",), version=info.version
    )


def _places() -> dict[str, str]:
    return {
        "settings": str(paths.config_file()),
        "store, logs": str(paths.state_dir()),
        "models": str(paths.models_dir()),
        "socket": str(paths.socket_path()),
    }


def _part_text(part: Part) -> str:
    if not part.found:
        return f"✖ {part.name:<13} {part.problem}: {part.remedy}"
    words = (f"● {part.name:<12}", part.version, part.source, printable(" ".join(part.command)))
    return "  ".join(word for word in words if word)


@models.command("list")
def list_models(
    path: Annotated[Path | None, typer.Argument(help="Of this file or folder alone.")] = None,
    as_json: Json = False,
    fit: Annotated[bool, typer.Option("--fit", help="By context and by slots.")] = False,
    parallel: Parallel = None,
    ctx_per_slot: CtxPerSlot = None,
    cache_type_k: CacheType = None,
    cache_type_v: CacheType = None,
) -> None:
    """The GGUF files that lab-tui finds, and how many instances of each there is room for now."""
    asked = {
        "parallel": parallel, "ctx_per_slot": ctx_per_slot,
        "cache_type_k": cache_type_k, "cache_type_v": cache_type_v,
    }  # fmt: skip
    spec = _usual(**{key: value for key, value in asked.items() if value is not None})
    found, room = run(look(path, spec))
    if not (as_json or found):
        raise LabError("no model found", "`lab-tui models fetch` brings a small one")
    if fit:
        by_slots = looked_into(found, spec, room, ctx_per_slot, parallel)
        if as_json:
            put_json(list(by_slots))
        else:
            for found_out in by_slots:
                put(f"{text(found_out)}\n")
    else:
        put_json(found) if as_json else put(_list(found))
    if not as_json:
        say(legend(spec, room, by_slots=fit))


def _list(found: Sequence[ModelFile]) -> str:
    rows = [
        (m.name, m.quantisation, count(m.parameters), gigabytes(m.size_bytes),
         number(m.context_length, 0), number(m.fits, 0), m.felt.feels if m.felt else "-", m.path)
        for m in found
    ]  # fmt: skip
    return table(("NAME", "QUANT", "PARAMETERS", "SIZE", "CONTEXT", "FITS", "FEELS", "PATH"), rows)


def _usual(**changes: Any) -> FleetSpec:
    """The fleet of the settings with changes, of no model. Raises LabError."""
    from lab_tui.serving.llama_server import check_ranges
    from lab_tui.sweep.space import CACHE_TYPES

    spec = msgspec.structs.replace(config.fleet_spec(config.load(), ""), **changes)
    check_ranges(spec)  # who may ask does not matter for what fits
    for name, kind in (("cache-type-k", spec.cache_type_k), ("cache-type-v", spec.cache_type_v)):
        if kind not in CACHE_TYPES:
            raise LabError(f"{name} is {kind}", f"give one of {', '.join(CACHE_TYPES)}")
    return spec


@models.command("fetch")
def fetch_model() -> None:
    """Fetch SmolLM2-135M-Instruct (98 MB), checked by its hash; prints where it lies."""
    from lab_tui.serving.fetch import ProgressBar, fetch

    try:
        with ProgressBar() as bar:
            path = fetch(bar)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    put(str(path))
