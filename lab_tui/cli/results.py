"""results list, show, best, compare, export; import."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lab_tui import files, findings
from lab_tui.cli.fleet import Json
from lab_tui.cli.output import duration, number, put, put_file, put_json, run, say, table, terminal_width
from lab_tui.cli.status import best_text, sweep_line, tried
from lab_tui.cli.sweep import to_json
from lab_tui.findings import Pair
from lab_tui.model import TABLE_FORMATS, CellView, ExportSpec, LabError, ResultsFile, SweepDetail, SweepView
from lab_tui.starting import engine_session
from lab_tui.text import interval_share

COLUMNS = {"instances": "INST", "parallel": "PAR", "concurrency": "CONC"}  # axes that every table has
MOST_BYTES = 4 << 20  # of a CSV; the cells that a sweep may have are less

results = typer.Typer(help="What was measured.", rich_markup_mode=None)
Id = Annotated[int, typer.Argument(metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(results, name="results")
    app.command("import")(import_results)


@results.callback(invoke_without_command=True)
def _default(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_results(as_json)
    elif as_json:
        raise LabError("--json goes to the command", f"put it after `{context.invoked_subcommand}`")


@results.command("list")
def list_results(as_json: Json = False) -> None:
    """Every sweep, newest first."""
    sweeps = run(_sweeps())
    if as_json:
        put_json(sweeps)
    elif sweeps:
        head = ("ID", "NAME", "STATUS", "CELLS", "TOOK", "WHEN", "BEST")
        put(table(head, [_line(sweep) for sweep in sweeps], terminal_width()))
    else:
        put("nothing measured yet: `lab-tui sweep` does")


async def _sweeps() -> list[SweepView]:
    async with engine_session() as client:
        return await client.sweeps()


def _line(view: SweepView) -> tuple[str, ...]:
    return (
        str(view.id),
        view.name,
        str(view.status),
        tried(view) + (f" {view.cells_failed} failed" if view.cells_failed else ""),
        duration(view.elapsed_s),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(view.created)),
        best_text(view.best) if view.best else view.reason,
    )


async def _detail(sweep_id: int) -> SweepDetail:
    async with engine_session() as client:
        return await client.sweep_detail(sweep_id)


@results.command("show")
def show(sweep_id: Id, as_json: Json = False) -> None:
    """One sweep with its cells."""
    detail = run(_detail(sweep_id))
    if as_json:
        put_json(to_json(detail))
        return
    more = [name for name in detail.spec.axes if name not in COLUMNS]
    head = ("#", *COLUMNS.values(), *(name.upper() for name in more), "TOK/S", "±", "TTFT p95", "STREAM p50",
            "STATUS", "VERDICT")  # fmt: skip
    put(table(head, [_cell_line(cell, more) for cell in detail.cells], terminal_width()))
    if detail.view.best is not None:
        put(f"best {best_text(detail.view.best)}")
    if detail.view.reason:
        put(detail.view.reason)


def _cell_line(cell: CellView, more: list[str]) -> tuple[str, ...]:
    """One row; ``more`` are the axes beside those that every cell has a column for."""
    fleet, result = cell.cell.fleet, cell.result
    place = (str(cell.index + 1), str(fleet.instances), str(fleet.parallel), str(cell.cell.concurrency),
             *(str(cell.cell.axes.get(name, "-")) for name in more))  # fmt: skip
    if result is None:
        return (*place, "-", "-", "-", "-", str(cell.status), cell.reason)
    return (
        *place,
        number(result.throughput_tps),
        interval_share(result.throughput_ci95_tps, result.throughput_tps) or "-",
        number(result.ttft_ms.p95, 0),
        number(result.per_stream_tps.p50),
        str(cell.status),
        result.verdict,
    )


@results.command("best")
def best(sweep_id: Id, as_json: Json = False) -> None:
    """The best cell of a sweep, and what ties with it."""
    detail = run(_detail(sweep_id))
    if detail.view.best is None:
        raise LabError(f"sweep {sweep_id} has no best cell", detail.view.reason)
    if as_json:
        put_json({"best": detail.view.best, "tied": detail.tied})
        return
    put(best_text(detail.view.best))
    for tie in detail.tied:
        if tie != detail.view.best:
            put(f"tied  {best_text(tie)}")


WITHIN = {True: "within ±", False: "beyond ±", None: "no interval"}


@results.command("compare")
def compare(first: Annotated[int, typer.Argument(metavar="A")],
            second: Annotated[int, typer.Argument(metavar="B")], as_json: Json = False) -> None:  # fmt: skip
    """The cells that two sweeps have in common, side by side, and whether they can be told apart."""
    a, b = run(_details(first, second))
    names, pairs = findings.compare(a, b)
    differences = findings.differences(a, b)
    if as_json:
        put_json([_pair(pair, names) | {"differences": differences} for pair in pairs])
    elif not pairs:
        raise LabError(f"sweeps {first} and {second} have no measured cell in common")
    else:
        head = ["INST", "PAR", "CONC", *(name.upper() for name in names[3:])]
        head += [f"TOK/S of {first}", "±", f"TOK/S of {second}", "±", "RATIO", "DIFFERENCE"]
        put(table(head, [_pair_line(pair) for pair in pairs]))
        if differences:
            say(f"not measured alike: {'; '.join(differences)}")


async def _details(first: int, second: int) -> tuple[SweepDetail, SweepDetail]:
    async with engine_session() as client:
        return await client.sweep_detail(first), await client.sweep_detail(second)


def _pair(pair: Pair, names: Sequence[str]) -> dict[str, object]:
    return {
        **dict(zip(names, pair.key, strict=True)),
        "throughput_tps": [pair.a.tps, pair.b.tps],
        "throughput_ci95_tps": [pair.a.half_width, pair.b.half_width],
        "ratio": pair.ratio,
        "within": pair.within,
    }


def _pair_line(pair: Pair) -> tuple[str, ...]:
    figures = [
        (number(rate.tps), interval_share(rate.half_width, rate.tps) or "-") for rate in (pair.a, pair.b)
    ]
    return (*map(str, pair.key), *figures[0], *figures[1], number(pair.ratio, 2), WITHIN[pair.within])


@results.command("export")
def export(
    sweep_id: Id,
    format_: Annotated[str, typer.Option("--format", help="csv, json or md.")] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or folder; else, or -, standard output.")
    ] = None,
) -> None:
    """A sweep as CSV (llama-throughput-lab's nine columns first), JSON or Markdown."""
    if format_ not in TABLE_FORMATS:
        raise LabError(f"there is no format {format_}", f"choose one of {', '.join(TABLE_FORMATS)}")
    texts = run(_exported(ExportSpec(format=format_, sweep=sweep_id)))
    if output is None or output == Path("-"):
        put_file(next(iter(texts.values())).rstrip("\n"))
    else:
        files.write(files.places(texts, output))


async def _exported(asked: ExportSpec) -> dict[str, str]:
    async with engine_session() as client:
        return await client.export(asked)


def import_results(file: Annotated[Path, typer.Argument(metavar="FILE.csv")]) -> None:
    """Keep a CSV of llama-throughput-lab, or of `results export`, as a finished sweep."""
    put(sweep_line(run(_import(file))))


async def _import(file: Path) -> SweepView:
    text = await asyncio.to_thread(_text, file)
    async with engine_session() as client:
        return await client.import_results(ResultsFile(name=file.name, text=text))


def _text(file: Path) -> str:
    """The content. Raises LabError when it cannot be read, or is not a table of results."""
    try:
        with file.open("rb") as handle:
            content = handle.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise LabError(f"{file} is larger than {MOST_BYTES >> 20} MB", "give a CSV of results")
        return content.decode()
    except OSError as error:
        raise LabError(f"cannot read {file} ({error.strerror})", "give a CSV of results") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{file} is not UTF-8 text ({error.reason})", "give a CSV of results") from error
