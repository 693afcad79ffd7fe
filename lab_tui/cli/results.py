"""results list, show, best, compare, export."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lab_tui.cli.fleet import Json
from lab_tui.cli.output import duration, number, put, put_json, run, table
from lab_tui.cli.status import best_text
from lab_tui.cli.sweep import to_json
from lab_tui.client import engine_session
from lab_tui.model import CellView, LabError, SweepDetail, SweepView

results = typer.Typer(help="What was measured.", rich_markup_mode=None)
Id = Annotated[int, typer.Argument(metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(results, name="results")


@results.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_results()


@results.command("list")
def list_results(as_json: Json = False) -> None:
    """Every sweep, newest first."""
    sweeps = run(_sweeps())
    if as_json:
        put_json(sweeps)
    elif sweeps:
        put(table(("ID", "NAME", "STATUS", "CELLS", "TOOK", "WHEN", "BEST"), [_line(s) for s in sweeps]))
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
        f"{view.cells_measured}/{view.cells_total}",
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
    head = ("INST", "PAR", "CONC", "TOK/S", "±", "TTFT p95", "STREAM p50", "STATUS", "VERDICT")
    put(table(head, [_cell_line(cell) for cell in detail.cells]))
    if detail.view.best is not None:
        put(f"best {best_text(detail.view.best)}")


def _cell_line(cell: CellView) -> tuple[str, ...]:
    fleet, result = cell.cell.fleet, cell.result
    place = (str(fleet.instances), str(fleet.parallel), str(cell.cell.concurrency))
    if result is None:
        return (*place, "-", "-", "-", "-", str(cell.status), cell.reason)
    return (
        *place,
        number(result.throughput_tps),
        number(result.throughput_ci95_tps),
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
        raise LabError(f"sweep {sweep_id} has no measured cell", detail.view.reason)
    if as_json:
        put_json({"best": detail.view.best, "tied": detail.tied})
        return
    put(best_text(detail.view.best))
    for tie in detail.tied:
        if tie != detail.view.best:
            put(f"tied  {best_text(tie)}")


@results.command("compare")
def compare(first: Annotated[int, typer.Argument(metavar="A")],
            second: Annotated[int, typer.Argument(metavar="B")], as_json: Json = False) -> None:  # fmt: skip
    """The cells that two sweeps have in common, side by side."""
    a, b = run(_detail(first)), run(_detail(second))
    others = {_key(cell): cell for cell in b.cells if cell.result is not None}
    pairs = [(c, others[_key(c)]) for c in a.cells if c.result is not None and _key(c) in others]
    if as_json:
        put_json([_pair(x, y) for x, y in pairs])
    elif not pairs:
        raise LabError(f"sweeps {first} and {second} have no measured cell in common")
    else:
        head = ("INST", "PAR", "CONC", f"TOK/S of {first}", f"TOK/S of {second}", "RATIO")
        put(table(head, [_pair_line(x, y) for x, y in pairs]))


def _key(cell: CellView) -> tuple[object, ...]:
    return (cell.cell.fleet.instances, cell.cell.fleet.parallel, cell.cell.concurrency)


def _pair(a: CellView, b: CellView) -> dict[str, object]:
    assert a.result is not None and b.result is not None
    instances, parallel, concurrency = _key(a)
    return {
        "instances": instances,
        "parallel": parallel,
        "concurrency": concurrency,
        "throughput_tps": [a.result.throughput_tps, b.result.throughput_tps],
        "ratio": b.result.throughput_tps / a.result.throughput_tps if a.result.throughput_tps else None,
    }


def _pair_line(a: CellView, b: CellView) -> tuple[str, ...]:
    assert a.result is not None and b.result is not None
    ratio = b.result.throughput_tps / a.result.throughput_tps if a.result.throughput_tps else None
    return (*map(str, _key(a)), number(a.result.throughput_tps), number(b.result.throughput_tps),
            number(ratio, 2))  # fmt: skip


@results.command("export")
def export(
    sweep_id: Id,
    format_: Annotated[str, typer.Option("--format", help="csv, json or md.")] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; else standard output.")
    ] = None,
) -> None:
    """A sweep as CSV (llama-throughput-lab's nine columns first), JSON or Markdown."""
    import msgspec

    from lab_tui.store.export import to_csv, to_markdown

    writers: dict[str, Callable[[SweepDetail], str]] = {
        "csv": to_csv,
        "md": to_markdown,
        "json": lambda d: msgspec.json.format(msgspec.json.encode(to_json(d)), indent=2).decode() + "\n",
    }
    if format_ not in writers:
        raise LabError(f"there is no format {format_}", f"choose one of {', '.join(writers)}")
    text = writers[format_](run(_detail(sweep_id)))
    if output is None:
        put(text.rstrip("\n"))
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise LabError(f"cannot write {output} ({error.strerror})", "choose another -o") from error
