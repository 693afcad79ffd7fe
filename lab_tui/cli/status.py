"""status, logs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from lab_tui.cli.fleet import left_behind
from lab_tui.cli.output import (
    duration,
    gigabytes,
    number,
    put,
    put_file,
    put_json,
    put_json_line,
    put_page,
    run,
    say,
    table,
)
from lab_tui.client import EngineClient, EngineGone, EngineSilent
from lab_tui.model import (
    Best,
    FrontState,
    FrontView,
    GpuReading,
    InstanceView,
    LabError,
    Snapshot,
    SweepView,
)
from lab_tui.text import interval_share, printable


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, logs):
        app.command()(command)


def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; with --watch one on each line.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second, until ctrl-C.")] = False,
) -> None:
    """What runs now."""
    run(_status(as_json, watch))


async def _status(as_json: bool, watch: bool) -> None:
    async with EngineClient() as client:
        try:
            if not watch:
                snapshot = await client.snapshot()
                put_json(snapshot) if as_json else put(status_text(snapshot))
                return
            async with aclosing(client.watch(1.0)) as snapshots:
                async for snapshot in snapshots:
                    if as_json:
                        put_json_line(snapshot)
                    else:
                        put_page(status_text(snapshot))
            raise EngineGone
        except EngineGone as error:
            if watch:
                raise
            put_json(NOTHING) if as_json else put(error.message)
            if left_behind():
                say("the last one's fleet may still serve: `lab-tui` takes it over, `lab-tui down` ends it")


# What `status --json` says when no engine runs: the same keys, nothing in them.
NOTHING: dict[str, object] = {
    **dict.fromkeys(Snapshot.__struct_fields__),
    "front": FrontView(state=FrontState.STOPPED),
    "instances": [],
    "queue": [],
    "queue_paused": False,
    "queue_paused_why": "",
    "fleet_owed": False,
    "gpus": [],
    "host": {},
    "notices": ["no engine is running"],
    "parts": [],
}


def status_text(snapshot: Snapshot) -> str:
    """A snapshot for a person."""
    front = snapshot.front
    model = printable(Path(snapshot.fleet.model).name) if snapshot.fleet else "no fleet"
    beside = f" ({front.beside})" if front.beside else ""
    where = f"{front.url or front.state}{beside}"
    lines = [f"{model}  front {where} {front.ready}/{len(snapshot.instances)} ready"]
    if snapshot.instances:
        placed = [name for name in ("gpu", "cores") if any(getattr(i, name) for i in snapshot.instances)]
        head = ("#", "STATE", "PORT", "PID", "TOK/S", "SLOTS", "QUEUE", "RSS", "UP",
                *map(str.upper, placed), "REASON")  # fmt: skip
        lines.append(table(head, [_instance_row(i, placed) for i in snapshot.instances]))
    else:
        lines.append("start one with `lab-tui up -m MODEL -i 2 -p 4`")
    if snapshot.load:
        load = snapshot.load
        lines.append(
            f"{load.phase}  {number(load.tps)} tok/s  {load.in_flight}/{load.concurrency} streams"
            f"  p95 TTFT {number(load.ttft_p95_ms, 0, ' ms')}"
        )
    lines += [sweep_line(sweep) for sweep in snapshot.queue]
    host = snapshot.host
    lines.append(
        f"{host.name}: {host.cores} cores {number(host.cpu_pct, 0, ' %')}  memory "
        f"{gigabytes(host.memory_used_bytes)} of {gigabytes(host.memory_total_bytes)}"
    )
    lines += [_gpu_line(g) for g in snapshot.gpus] or [f"GPU: {snapshot.gpu_reason}"]
    lines += [snapshot.mps.said] if snapshot.mps and snapshot.mps.said else []
    return "\n".join([*lines, *(f"! {notice}" for notice in snapshot.notices)])


def _instance_row(i: InstanceView, placed: Sequence[str]) -> tuple[str, ...]:
    """``placed`` are the fields that say where it runs, as far as there is something to say."""
    return (
        str(i.index),
        str(i.state),
        str(i.port),
        str(i.pid or "-"),
        number(i.tps),
        f"{'-' if i.busy is None else i.busy}/{i.slots}",
        "-" if i.queue is None else str(i.queue),
        gigabytes(i.rss_bytes),
        duration(i.uptime_s),
        *(getattr(i, name) or "-" for name in placed),
        i.reason,
    )


def _gpu_line(gpu: GpuReading) -> str:
    return (
        f"GPU {gpu.index} {gpu.name}  {number(gpu.util_pct, 0, ' %')}  "
        f"{gigabytes(gpu.memory_used_bytes)} of {gigabytes(gpu.memory_total_bytes)}"
        f"  {number(gpu.power_w, 0, ' W')}"
    )


def sweep_line(view: SweepView) -> str:
    """One sweep of the queue for a person."""
    text = f"sweep {view.id} {view.name}  {view.status}  {tried(view)}"
    if view.cells_failed:
        text += f"  {view.cells_failed} failed"
    if view.cells_skipped:
        text += f"  {view.cells_skipped} skipped"
    if view.now:
        text += f"  {view.now} {view.phase or ''}".rstrip()
    if view.eta_s is not None:
        text += f"  ETA {duration(view.eta_s)}"
    if view.best is not None:
        text += f"  best {best_text(view.best)}"
    return text + (f"  {view.reason}" if view.reason else "")


def tried(view: SweepView) -> str:
    """How many cells of a sweep were tried, whatever came of it: ``11/12``."""
    return f"{view.cells_measured + view.cells_failed}/{view.cells_total}"


def best_text(best: Best) -> str:
    """The best cell for a person: ``2×4 c=16 412.0 ±1.5% tok/s (3 runs)``."""
    interval = f" {interval_share(best.throughput_ci95_tps, best.throughput_tps)}".rstrip()
    runs = f" ({best.runs} runs)" if best.runs > 1 else ""
    figure = f"{best.throughput_tps:,.1f}{interval} tok/s{runs}"
    return f"{best.instances}×{best.parallel} c={best.concurrency} {figure}"


def logs(
    source: Annotated[str, typer.Argument(metavar="[N|nginx|engine]")] = "engine",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")] = 200,
) -> None:
    """The log of an instance, of nginx or of the engine, also when none of them runs any more."""
    if lines < 0:
        raise LabError(f"lines is {lines}", "give 0 or more")
    run(_logs(source, lines, follow))


async def _logs(source: str, lines: int, follow: bool) -> None:
    async with EngineClient() as client:
        try:
            await client.info()
        except (EngineGone, EngineSilent) as error:
            await _kept_logs(source, lines, follow, error.message)
            return
        async with aclosing(client.logs(source, lines, follow)) as stream:
            async for line in stream:
                put_file(line.text)


async def _kept_logs(source: str, lines: int, follow: bool, why: str) -> None:
    """The file itself: who looks for why the engine ended has none to ask."""
    from lab_tui import paths
    from lab_tui.engine import logs as files

    file = files.log_file(paths.logs_dir(), source)
    say(f"{why}: this is {file}")
    async with aclosing(files.follow(file, lines, keep=follow)) as texts:
        async for text in texts:
            put_file(text)
