"""apply and export: what a sweep found, put to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from lab_tui.cli.fleet import Model, Yes, ask_before_cutting, bring_up
from lab_tui.cli.output import put, put_file, run, say
from lab_tui.client import EngineClient, engine_session
from lab_tui.model import CellStatus, CellView, FleetSpec, LabError, SweepDetail

if TYPE_CHECKING:
    from lab_tui.serving.standalone import Recipe

Id = Annotated[int, typer.Argument(metavar="ID")]
CellNumber = Annotated[
    int | None,
    typer.Option(
        "--cell", metavar="INDEX", help="Another cell than the best: its # in `results show`, from 1."
    ),
]
Context = Annotated[int | None, typer.Option(help="Context of each slot, in tokens; else as measured.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(apply)
    app.command()(export)


class Wish(NamedTuple):
    """Which fleet of a sweep."""

    sweep: int
    cell: int | None  # counted from 1; None: the best
    model: str | None  # None: the one it was measured with
    ctx_per_slot: int | None  # None: as it was measured


def apply(
    sweep_id: Id, cell: CellNumber = None, model: Model = None, ctx_per_slot: Context = None, yes: Yes = False
) -> None:
    """Make the running fleet the best one of a sweep, and print the base URL.

    Where that cuts live streams it asks on a terminal, and goes ahead elsewhere.
    """
    spec = run(_wanted(Wish(sweep_id, cell, model, ctx_per_slot)))
    ask_before_cutting(spec, yes)
    say(f"{spec.ctx_per_slot} tokens of context a slot; --ctx-per-slot N for another")
    url = run(bring_up(spec))
    put(url)
    say(f"OpenAI base URL: {url}/v1")


async def _wanted(wish: Wish) -> FleetSpec:
    async with engine_session() as client:
        return (await _chosen(client, wish))[1]


def export(
    sweep_id: Id,
    format_: Annotated[str, typer.Option("--format", help="sh, systemd, compose or nginx.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or folder; else standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    cell: CellNumber = None,
    model: Model = None,
    ctx_per_slot: Context = None,
) -> None:
    """Files that start the best fleet of a sweep without lab-tui: a script, units, containers, nginx."""
    from lab_tui.serving import compose, standalone, units

    writers: dict[str, Callable[[standalone.Recipe], dict[str, str]]] = {
        "sh": standalone.script,
        "systemd": units.systemd,
        "compose": compose.compose,
        "nginx": standalone.nginx_conf,
    }
    if format_ not in writers:
        raise LabError(f"there is no format {format_}", f"choose one of {', '.join(writers)}")
    files = writers[format_](run(_recipe(Wish(sweep_id, cell, model, ctx_per_slot))))
    if output is None:
        put_file((standalone.as_one(files) if len(files) > 1 else next(iter(files.values()))).rstrip("\n"))
        return
    for path in _write(files, output, force):
        say(f"wrote {path}")


async def _recipe(wish: Wish) -> Recipe:
    """The fleet, and the parts of this machine that start it."""
    from lab_tui import config
    from lab_tui.serving import llama_server, parts
    from lab_tui.serving.standalone import Recipe

    settings = config.load()
    async with engine_session() as client:
        cell, spec = await _chosen(client, wish)
        gpus = (await client.snapshot()).gpus
    server = await parts.probe_llama_server(parts.find_llama_server(settings))
    llama_server.check_extra_args(server, spec.extra_args)
    return Recipe(
        origin=f"lab-tui sweep {wish.sweep}, cell {cell.index + 1}",
        spec=spec,
        server=server,
        nginx=await parts.probe_nginx(parts.find_nginx(settings)),
        ready_timeout_s=settings.serve.ready_timeout_s,
        cuda=bool(gpus) and spec.gpu_layers != 0,
    )


# --- which cell, and its fleet ------------------------------------------------------------------


async def _chosen(client: EngineClient, wish: Wish) -> tuple[CellView, FleetSpec]:
    """The cell, and its fleet on the ports of the user: those of the fleet that runs, else the settings'.

    Raises LabError when there is no such sweep, cell or model.
    """
    from lab_tui import config
    from lab_tui.serving.llama_server import check_spec

    detail = await client.sweep_detail(wish.sweep)
    view = _cell(detail, wish.cell)
    fleet = view.cell.fleet
    model = _absolute(wish.model) if wish.model else fleet.model
    if not model:
        raise LabError(
            f"sweep {wish.sweep} was imported and does not say which model it was", "name it with -m MODEL"
        )
    mine = (await client.snapshot()).fleet or config.fleet_spec(config.load(), model)
    spec = msgspec.structs.replace(
        fleet,
        model=model,
        ctx_per_slot=fleet.ctx_per_slot if wish.ctx_per_slot is None else wish.ctx_per_slot,
        base_port=mine.base_port,
        front_port=mine.front_port,
        host=mine.host,
        api_key_file=mine.api_key_file,
        insecure=mine.insecure,
        max_body_mb=mine.max_body_mb,
    )
    check_spec(spec)
    return view, spec


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _cell(detail: SweepDetail, number: int | None) -> CellView:
    """A cell by its number, from 1; None: the best. Raises LabError when there is none."""
    view = detail.view
    if number is None:
        if view.best is None:
            raise LabError(f"sweep {view.id} has no best cell", view.reason or f"it is {view.status}")
        number = view.best.cell
    if not 1 <= number <= len(detail.cells):
        raise LabError(
            f"sweep {view.id} has no cell {number}",
            f"it has 1 to {len(detail.cells)}, `lab-tui results show {view.id}` shows them",
        )
    chosen = detail.cells[number - 1]
    if chosen.status != CellStatus.MEASURED:
        why = f": {chosen.reason}" if chosen.reason else ""
        raise LabError(f"cell {number} of sweep {view.id} is {chosen.status}{why}", "choose a measured one")
    return chosen


# --- files --------------------------------------------------------------------------------------


def _write(files: dict[str, str], output: Path, force: bool) -> list[Path]:
    """Write them; several, or any into a folder, under their own names. Raises LabError."""
    try:
        if output.is_dir():
            paths = {output / name: text for name, text in files.items()}
        elif len(files) == 1:
            paths = dict(zip([output], files.values(), strict=True))
        elif output.exists():
            raise LabError(f"{output} is a file", f"-o names a folder for {', '.join(files)}")
        else:
            output.mkdir(parents=True)
            paths = {output / name: text for name, text in files.items()}
        there = [path for path in paths if path.exists()]
        if there and not force:
            raise LabError(f"{there[0]} exists", "--force overwrites it, or choose another -o")
        for path, text in paths.items():
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise LabError(
            f"cannot write {error.filename or output} ({error.strerror})", "choose another -o"
        ) from error
    return list(paths)
