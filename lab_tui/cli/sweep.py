"""sweep, and the demo."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from lab_tui.cli import workload as options
from lab_tui.cli.bench import StreamTps, Ttft, check_seconds, slo
from lab_tui.cli.cut import ask_before_cutting, ask_before_sweep
from lab_tui.cli.dry_run import outlined
from lab_tui.cli.dry_run import text as outline_text
from lab_tui.cli.fleet import Json, Model, bring_up, spec_from
from lab_tui.cli.follow import follow, given_back
from lab_tui.cli.output import duration, fail, put, put_file, put_json, run, say
from lab_tui.cli.status import best_text, sweep_line
from lab_tui.client import EngineClient, EngineGone
from lab_tui.config import Settings
from lab_tui.model import (
    FleetSpec,
    LabError,
    Snapshot,
    SweepDetail,
    SweepSpec,
    SweepStatus,
    Workload,
)
from lab_tui.starting import engine_session
from lab_tui.text import plural

if TYPE_CHECKING:
    from lab_tui.model import Outline

Asked = Callable[[Snapshot | None], SweepSpec]  # what was asked for, over the fleet that runs


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(sweep)


def sweep(
    model: Model = None,
    preset: Annotated[str | None, typer.Option(help="quick, standard, full, threads or tokens.")] = None,
    axis: Annotated[list[str] | None, typer.Option(help="A setting that varies: instances=1,2,4")] = None,
    strategy: Annotated[str | None, typer.Option(help="grid, ladder or adaptive.")] = None,
    slo_ttft_ms: Ttft = None,
    slo_stream_tps: StreamTps = None,
    seconds: Annotated[float | None, typer.Option(help="Longest window of a cell.")] = None,
    prompt_tokens: options.SweepPromptTokens = None,
    output_tokens: options.SweepOutputTokens = None,
    output_distribution: options.OutputDistribution = None,
    prompt_file: options.PromptFile = None,
    unique_prefix: options.UniquePrefix = None,
    seed: options.Seed = None,
    endpoint: options.Endpoint = None,
    ignore_eos: options.IgnoreEos = None,
    budget: Annotated[
        str | None, typer.Option(help="End within this time, best so far: 90s, 10m, 1h30m.")
    ] = None,
    no_confirm: Annotated[
        bool, typer.Option("--no-confirm", help="Do not measure the top few again.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(help="Write results here as they come; -: to standard output, at the end.")
    ] = None,
    as_json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it comes to; start and queue nothing.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do not ask before live streams are cut; take over 10,000 cells."),
    ] = False,
) -> None:
    """Search the settings for the sweet spot: measure every cell of the axes, name the best.

    Without --preset and --axis it is the quick one. --axis beside --preset adds to its axes, or replaces one.
    It takes the running fleet over. Where that cuts live streams it asks on a terminal, and goes ahead
    elsewhere.
    """
    changes: dict[str, Any] = {"slo": slo(slo_ttft_ms, slo_stream_tps), "large": yes}
    if strategy is not None:
        changes["strategy"] = strategy
    if budget is not None:
        changes["budget_s"] = budget_seconds(budget)
    if no_confirm:
        changes["confirm"] = False
    if seconds is not None:
        check_seconds(seconds)
        changes["window"] = seconds
    if csv is not None and detach:
        raise LabError("--csv does not go with --detach", "later: `lab-tui results export ID -o FILE`")
    workload = functools.partial(
        options.workload,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_distribution=output_distribution,
        prompt_file=prompt_file,
        unique_prefix=unique_prefix,
        seed=seed,
        endpoint=endpoint,
        ignore_eos=ignore_eos,
    )
    asked = functools.partial(_spec, model, preset, axis or [], changes, workload, starts=not dry_run)
    if dry_run:
        if csv is not None or detach:
            raise LabError("--dry-run queues nothing", "leave out --csv and --detach")
        found = run(_dry_run(asked))
        put_json(found) if as_json else put(outline_text(found))
        return
    to_stdout = csv == Path("-")
    if to_stdout and as_json:
        raise LabError("--csv - and --json both write to standard output", "choose one")
    if csv is not None and not to_stdout:
        _check_writable(csv)
    spec = asked(run(_snapshot()))
    ask_before_sweep(spec, yes)
    detail = run(_sweep(spec, None if to_stdout else csv, detach))
    if detach:
        put_json(to_json(detail)) if as_json else put(sweep_line(detail.view))
        return
    if to_stdout:
        from lab_tui.store.export import to_csv

        put_file(to_csv(detail).rstrip("\n"))
        say(_result_text(detail))
    else:
        put_json(to_json(detail)) if as_json else put(_result_text(detail))
    if detail.view.status != SweepStatus.DONE:
        fail(f"sweep {detail.view.id} {detail.view.status}: {detail.view.reason or 'see `lab-tui results`'}")


def budget_seconds(text: str) -> float:
    """Seconds of 90, 90s, 10m, 1h30m or 1.5h. Raises LabError for anything else."""
    number = r"(\d+(?:\.\d+)?)"
    wanted = f"{number}s?|(?:{number}h)?(?:{number}m)?(?:{number}s)?"
    found = re.fullmatch(wanted, text.strip().lower())
    plain, *parts = found.groups() if found else (None,)
    seconds = float(plain or 0) + sum(
        float(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False)
    )
    if not seconds > 0:
        raise LabError(f"--budget is {text!r}", "give a time such as 90s, 10m, 1h30m or 1.5h")
    return seconds


def to_json(detail: SweepDetail) -> object:
    """One sweep as ``--json`` prints it."""
    from lab_tui.store.export import to_json as document

    return document(detail)


async def _sweep(spec: SweepSpec, csv: Path | None, detach: bool) -> SweepDetail:
    async with engine_session() as client:
        known = (await client.snapshot()).notices
        view = await client.sweep(spec)
        cells = plural(view.cells_total, "cell")
        say(f"sweep {view.id} {view.name}: {cells}, up to about {duration(view.eta_s)}")
        try:
            now = await client.snapshot()
            if now.queue_paused and not now.queue_paused_why:
                say("the queue is paused, so it waits: `lab-tui queue resume` goes on")
            if not detach:
                await follow(client, view.id, csv)
                await given_back(client, known)
            return await client.sweep_detail(view.id)
        except EngineGone as error:
            raise LabError(
                f"the engine ended under sweep {view.id}, which keeps what it measured",
                f"`lab-tui queue resume` goes on, `lab-tui results show {view.id}` shows it",
            ) from error


async def _dry_run(asked: Asked) -> Outline:
    snapshot = await _snapshot()
    return await outlined(asked(snapshot), snapshot)


def _spec(
    model: str | None,
    preset: str | None,
    axis: list[str],
    changes: dict[str, Any],
    workload: Callable[[Workload], Workload],
    snapshot: Snapshot | None,
    *,
    starts: bool,
) -> SweepSpec:
    """The sweep that was asked for, checked. Raises LabError.

    What does not vary is of the running fleet when no model is named, else of the settings. ``starts``: it
    is to be run, so a key is made where its fleet wants one.
    """
    from lab_tui.sweep import course, space

    axes = space.parse_axes(axis)
    name = preset or ("custom" if axes else "quick")
    running = snapshot.fleet if snapshot is not None else None
    if running is not None and snapshot is not None and snapshot.sweep is not None:
        base = spec_from(model or running.model, {}, starts=starts)  # what runs now is a cell of that sweep
    else:
        base = running if running is not None and model is None else spec_from(model, {}, starts=starts)
    base = space.plain(base)
    spec = SweepSpec(name=name, fleet=base, axes={}) if name == "custom" else space.preset(name, base)
    if (seconds := changes.pop("window", None)) is not None:
        changes["window"] = msgspec.structs.replace(
            spec.window, min_s=min(seconds, spec.window.min_s), max_s=seconds
        )
    spec = msgspec.structs.replace(
        spec, axes={**spec.axes, **axes}, workload=workload(spec.workload), **changes
    )
    space.check(spec)
    course.check_budget(spec)
    return spec


async def _snapshot() -> Snapshot | None:
    """Everything that runs; None without an engine."""
    async with EngineClient() as client:
        try:
            return await client.snapshot()
        except EngineGone:
            return None


def _check_writable(file: Path) -> None:
    try:
        with file.open("a"):
            pass
    except OSError as error:
        raise LabError(f"cannot write {file} ({error.strerror})", "choose another --csv") from error


def _result_text(detail: SweepDetail) -> str:
    view = detail.view
    text = [sweep_line(view), f"took {duration(view.elapsed_s)}"]
    if view.best is not None:
        text.append(f"best {best_text(view.best)}")
    if detail.tied:
        first, more = detail.tied[:3], len(detail.tied) - 3
        text.append("not told apart from it, least resources first: " + ", ".join(map(best_text, first)))
        text += [f"  and {more} more"] if more > 0 else []
    return "\n".join(text)


def demo(settings: Settings) -> None:
    """Two instances of the model and the quick sweep, so that everything on the screen moves.

    Where that cuts live streams of a running fleet, it asks.
    """
    spec = spec_from(settings.serve.model or None, {"instances": 2})
    ask_before_cutting(spec, yes=False)
    run(_demo(spec))


async def _demo(spec: FleetSpec) -> None:
    from lab_tui.sweep import space

    await bring_up(spec, yes=True)
    async with EngineClient() as client:
        await client.sweep(space.preset("quick", spec))
