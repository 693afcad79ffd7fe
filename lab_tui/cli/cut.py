"""What a command would cut: live streams of others, counted, and asked about on a terminal beforehand."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from lab_tui import access, paths
from lab_tui.cli.output import INTERRUPTED, fail, run, say
from lab_tui.client import EngineClient, EngineGone, EngineSilent
from lab_tui.model import FleetSpec, InstanceView, LabError, Snapshot, SweepSpec
from lab_tui.text import plural

if TYPE_CHECKING:
    from lab_tui.serving.parts import LlamaServer

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before live streams are cut.")]


def ask_before_cutting(spec: FleetSpec, yes: bool) -> None:
    """On a terminal, ask before ``spec`` ends the live streams of others. A no ends the command.

    Raises LabError, and asks nothing, where the engine would refuse ``spec``.
    """
    _ask("This cuts {streams} of the running fleet.", _cut_by_fleet(spec), yes)


def ask_before_sweep(spec: SweepSpec, yes: bool) -> None:
    """The same before a sweep takes the fleet over."""
    _ask("The sweep takes the fleet over and cuts {streams}.", _cut_by_sweep(spec), yes)


def ask_before_resume(yes: bool) -> None:
    """The same before the queue goes on with the sweep that is next."""
    _ask("The sweep that is next takes the fleet over and cuts {streams}.", _cut_by_resume(), yes)


def ask_before_stop(yes: bool) -> None:
    """On a terminal, ask before the fleet ends with its engine, whether or not there are streams on it."""
    if not yes and _somebody_there() and (what := run(_stopped())):
        go_on(what, yes)


def _ask(what: str, counting: Coroutine[Any, Any, int], yes: bool) -> None:
    if yes or not _somebody_there():
        counting.close()
        return
    if streams := run(counting):
        go_on(what.format(streams=plural(streams, "live stream")), yes)


def go_on(said: str, yes: bool) -> None:
    """Ask on a terminal whether to go on all the same; a no ends the command. Elsewhere, only say it."""
    if yes or not _somebody_there():
        say(f"! {said}")
        return
    try:
        if not typer.confirm(f"{said} Go on?", err=True):
            fail("nothing was changed")
    except typer.Abort:  # ctrl-C, which leaves the line unended
        say("")
        raise SystemExit(INTERRUPTED) from None


def _somebody_there() -> bool:
    """Whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def _cut_by_fleet(spec: FleetSpec) -> int:
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            return 0
        streams = await _streams_cut((spec,), snapshot)
        if streams:
            await client.check(spec)
    return streams


async def _cut_by_sweep(spec: SweepSpec) -> int:
    """None while it has to wait: others that wait or run before it decide on the fleet first."""
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            return 0
        if snapshot.queue or snapshot.queue_paused or not _live(snapshot):
            return 0
        streams = await _streams_cut(await asyncio.to_thread(_fleets, spec), snapshot)
        if streams:
            await client.outline(spec)
    return streams


async def _cut_by_resume() -> int:
    """None while a sweep runs: the fleet is its own already."""
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            return 0
        if snapshot.sweep or not snapshot.queue_paused or not snapshot.queue or not _live(snapshot):
            return 0
        spec = (await client.sweep_detail(snapshot.queue[0].id)).spec
        return await _streams_cut(await asyncio.to_thread(_fleets, spec), snapshot)


async def _stopped() -> str:
    """What ends with the engine, as a sentence; "" where nothing serves."""
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            return ""
        except EngineSilent:
            raise
        except LabError as error:  # it is of another version
            return f"This stops the fleet as well if there is one, which is not known: {error.message}."
    serving = sum(view.pid is not None for view in snapshot.instances)
    if not serving:
        return ""
    live = (snapshot.busy or 0) + (snapshot.waiting or 0)
    cuts = f" and cuts {plural(live, 'live stream')}" if live else ""
    return f"This stops {plural(serving, 'instance')}{cuts}; --keep-fleet lets them go on."


def _fleets(spec: SweepSpec) -> tuple[FleetSpec, ...]:
    """Every fleet that a sweep makes."""
    from lab_tui.serving.llama_server import usable_cores
    from lab_tui.sweep import space

    cells = space.cells(space.laid_out(spec, usable_cores()))
    return tuple({msgspec.json.encode(cell.fleet): cell.fleet for cell in cells}.values())


def _live(snapshot: Snapshot) -> int:
    """Requests in the instances that are not of a bench of ours."""
    if snapshot.load is not None:
        return snapshot.foreign
    return (snapshot.busy or 0) + (snapshot.waiting or 0)


async def _streams_cut(fleets: Sequence[FleetSpec], snapshot: Snapshot) -> int:
    """The most live streams in instances that have to be stopped for one of these fleets."""
    now, live = snapshot.fleet, _live(snapshot)
    if not live:
        return 0
    if now is None or snapshot.load is not None:
        return live
    for spec in fleets:
        if (now.host, now.front_port) != (spec.host, spec.front_port):
            return live  # the front begins anew
        if spec.api_key_file and _other_keys(spec.api_key_file, now.api_key_file, snapshot.instances):
            return live  # with other keys all of them do
    build = await _build()
    kept = min(_kept(build, spec, now, len(snapshot.instances)) for spec in fleets)
    return sum((view.busy or 0) + (view.queue or 0) for view in snapshot.instances[kept:])


def _other_keys(file: str, before: str, instances: Sequence[InstanceView]) -> bool:
    """Whether a file of keys is another one than before, or was written after the first of these began."""
    up_s = max((view.uptime_s or 0.0 for view in instances), default=0.0)
    try:
        return file != before or Path(file).stat().st_mtime > time.time() - up_s
    except OSError:  # the engine says what is wrong with it
        return True


async def _build() -> LlamaServer:
    from lab_tui import config
    from lab_tui.serving import parts

    return await parts.probe_llama_server(parts.find_llama_server(config.load()))


def _kept(build: LlamaServer, spec: FleetSpec, now: FleetSpec, running: int) -> int:
    """How many of so many ``running`` instances of the fleet ``now``, from the first on, ``spec`` keeps."""
    from lab_tui.serving import llama_server

    if (now.placement, now.cpu_pin, now.mps) != (spec.placement, spec.cpu_pin, spec.mps):
        return 0  # they all are given places anew
    asked, runs = (access.served(each, paths.runtime_dir()) for each in (spec, now))
    same = (
        llama_server.command(build, runs, at) == llama_server.command(build, asked, at)
        for at in range(min(running, spec.instances))
    )  # what their places add is not known here, and is the same
    return sum(1 for _ in itertools.takewhile(bool, same))
