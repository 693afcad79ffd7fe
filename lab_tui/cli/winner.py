"""apply and export: what a sweep found, put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from lab_tui import files, findings, paths
from lab_tui.cli.cut import Yes, ask_before_cutting
from lab_tui.cli.fleet import Model, bring_up, say_where
from lab_tui.cli.output import put_file, run, say
from lab_tui.client import EngineClient
from lab_tui.model import FLEET_FORMATS, CellView, ExportSpec, FleetSpec, LabError
from lab_tui.starting import engine_session

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
    say_where(run(bring_up(spec, yes)))


async def _wanted(wish: Wish) -> FleetSpec:
    async with engine_session() as client:
        return (await _chosen(client, wish))[1]


def export(
    sweep_id: Id,
    format_: Annotated[str, typer.Option("--format", help="sh, systemd, compose or nginx.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or folder; else, or -, standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    cell: CellNumber = None,
    model: Model = None,
    ctx_per_slot: Context = None,
) -> None:
    """Files that start the best fleet of a sweep without lab-tui: a script, units, containers, nginx."""
    if format_ not in FLEET_FORMATS:
        raise LabError(f"there is no format {format_}", f"choose one of {', '.join(FLEET_FORMATS)}")
    texts = run(_exported(Wish(sweep_id, cell, model, ctx_per_slot), format_))
    if output is None or output == Path("-"):
        from lab_tui.serving.standalone import as_one

        put_file((as_one(texts) if len(texts) > 1 else next(iter(texts.values()))).rstrip("\n"))
        return
    targets = files.places(texts, output)
    older = files.left_over(targets)
    if (there := [*files.taken(targets), *older]) and not force:
        raise LabError(f"{there[0]} exists", "--force overwrites it, or choose another -o")
    files.remove(older)
    for path in older:
        say(f"removed {path}, of an older export")
    files.write(targets)
    for path in targets:
        say(f"wrote {path}")


async def _exported(wish: Wish, format_: str) -> dict[str, str]:
    async with engine_session() as client:
        cell, spec = await _chosen(client, wish)
        origin = f"lab-tui sweep {wish.sweep}, cell {cell.index + 1}"
        return await client.export(ExportSpec(format=format_, sweep=wish.sweep, fleet=spec, origin=origin))


async def _chosen(client: EngineClient, wish: Wish) -> tuple[CellView, FleetSpec]:
    """The cell, and its fleet on the ports of the user: those of the fleet that runs, else the settings'.

    Raises LabError when there is no such sweep, cell or model.
    """
    from lab_tui import config
    from lab_tui.serving.llama_server import check_spec

    detail = await client.sweep_detail(wish.sweep)
    view = findings.chosen(detail, wish.cell)
    model = _absolute(wish.model) if wish.model else findings.model_of(detail, view)
    mine = (await client.snapshot()).fleet or config.fleet_spec(config.load(), model)
    spec = findings.fleet_of(view, mine, model, wish.ctx_per_slot)
    check_spec(spec)
    return view, spec


def _absolute(path: str) -> str:
    return str(paths.expanded(path))
