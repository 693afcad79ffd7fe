"""up, down, start, stop, restart."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from lab_tui import access, paths
from lab_tui.cli.cut import Yes, ask_before_cutting, go_on
from lab_tui.cli.output import Progress, put, run, say
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import (
    FleetSpec,
    FrontState,
    FrontView,
    InstanceState,
    InstanceView,
    LabError,
    Snapshot,
)
from lab_tui.starting import engine_session, ensure_engine
from lab_tui.text import plural, printable

if TYPE_CHECKING:
    import psutil

LOST = (InstanceState.FAILED, InstanceState.HUNG)  # not waited for any longer
OVER = (InstanceState.READY, InstanceState.STOPPED)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="A GGUF file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, down, start, stop, restart):
        app.command()(command)


def up(
    model: Model = None,
    instances: Annotated[
        int | None, typer.Option("--instances", "-i", help="llama-servers, 1 to 64.")
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", "-p", help="Slots each, 1 to 256.")] = None,
    base_port: Annotated[int | None, typer.Option(help="Port of instance 0; the next ones follow.")] = None,
    front_port: Annotated[int | None, typer.Option(help="Port of the front (nginx).")] = None,
    host: Annotated[str | None, typer.Option(help="Where the front listens; 0.0.0.0: everywhere.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that clients must give, one a line.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No key, though other machines can reach it.")
    ] = False,
    ctx_per_slot: Annotated[int | None, typer.Option(help="Context of each slot, in tokens.")] = None,
    max_streams: Annotated[
        int | None, typer.Option(help="Streams at once the fleet is laid out for.")
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(help="Cards: auto, spread, pack, split, split-row, split-tensor; or each one's: 0,1,1."),
    ] = None,
    cpu_pin: Annotated[
        bool | None, typer.Option("--cpu-pin/--no-cpu-pin", help="Give each instance cores of its own.")
    ] = None,
    mps: Annotated[
        str | None, typer.Option(help="NVIDIA's MPS: on, with a daemon of the fleet's own, or off.")
    ] = None,
    yes: Yes = False,
    args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- LLAMA-SERVER ARGS]", help="llama-server's own.")
    ] = None,
) -> None:
    """Start N llama-server instances behind one nginx, and print the base URL.

    A running fleet becomes it. Where that cuts live streams it asks on a terminal, and goes ahead elsewhere.
    """
    if insecure and api_key_file:
        raise LabError("--insecure and --api-key-file exclude each other", "choose one")
    flags = {
        "instances": instances,
        "parallel": parallel,
        "base_port": base_port,
        "front_port": front_port,
        "host": host,
        "api_key_file": str(paths.expanded(api_key_file)) if api_key_file else None,
        "insecure": insecure or (False if api_key_file else None),
        "ctx_per_slot": ctx_per_slot,
        "max_streams": max_streams,
        "placement": placement,
        "cpu_pin": cpu_pin,
        "mps": mps,
        "extra_args": tuple(args) if args else None,
    }
    if insecure:
        flags["api_key_file"] = ""
    spec = spec_from(model, {k: v for k, v in flags.items() if v is not None})
    ask_before_cutting(spec, yes)
    say_where(run(bring_up(spec, yes)))


def spec_from(model: str | None, flags: dict[str, object], *, starts: bool = True) -> FleetSpec:
    """The fleet of the settings with flags over it, checked; with a key where it wants one.

    A key is made, last of all, where there is none; one that never ``starts`` wants none. Raises LabError.
    """
    from lab_tui import config
    from lab_tui.serving.llama_server import check_spec
    from lab_tui.serving.models import default_model
    from lab_tui.serving.ports import check_address

    settings = config.load()
    path = str(paths.expanded(model)) if model else default_model(settings)
    spec = config.fleet_spec(settings, path, flags)
    if not access.open_to_others(spec):
        check_spec(spec)
        return spec
    keyless = msgspec.structs.replace(spec, insecure=True)
    check_spec(keyless)
    if not starts:
        return keyless
    check_address(spec.host, "the front")
    _show_key(access.make_key())
    return access.keyed(spec)


def _show_key(key: str) -> None:
    """Once, and only to a person: what goes into a file may be a log."""
    if sys.stderr.isatty():
        say(f"API key, shown this once: {key}")
    say(f"API key kept in {paths.api_key_file()}: clients send it as `Authorization: Bearer KEY`")


def say_where(front: FrontView) -> None:
    """The base URL on standard output; and those that clients want, of this machine and of others."""
    put(front.url or "")
    say(f"OpenAI base URL: {front.url}/v1")
    if front.beside:
        say(f"it {front.beside}{'/v1' if front.url_elsewhere else ''}")


async def bring_up(spec: FleetSpec, yes: bool) -> FrontView:
    """Start the fleet and wait for it; its front. Where it may not fit, a terminal asks unless ``yes``.

    When it fails or is interrupted, the fleet is what it was before: the one that ran, or none.
    """
    async with engine_session() as client:
        before = (await client.snapshot()).fleet
        if misfit := await client.check(spec):
            go_on(f"It {misfit}.", yes)
        try:
            await client.up(spec)
            snapshot = await _settle(client, range(spec.instances))
            failed = [i for i in snapshot.instances if i.state != InstanceState.READY]
            if failed:
                raise _failure(next((i for i in failed if i.state in LOST), failed[0]))
        except (LabError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and before is None:
                say("stopping what was started")
            if (await client.snapshot()).fleet == spec != before:  # else somebody has decided otherwise
                if before is not None:
                    say("going back to the fleet of before: `lab-tui status` shows it")
                await (client.down() if before is None else client.up(before))
            raise
        model = printable(Path(spec.model).name)
        say(f"{spec.instances} × {plural(spec.parallel, 'slot')} of {model} are ready")
        return snapshot.front


def _failure(instance: InstanceView) -> LabError:
    return LabError(
        f"instance {instance.index} {instance.state}: {instance.reason or 'no reason given'}",
        f"`lab-tui logs {instance.index}` shows its log",
    )


async def _settle(client: EngineClient, indexes: range | tuple[int, ...]) -> Snapshot:
    """Until these instances are ready or stopped, and the front has the ready ones; or one is lost."""
    progress = Progress()
    async with aclosing(client.watch(0.5)) as snapshots:
        async for snapshot in snapshots:
            views = [i for i in snapshot.instances if i.index in indexes]
            if len(views) < len(indexes):
                progress.done()
                raise LabError("the fleet was taken down or changed meanwhile", "`lab-tui status` shows it")
            progress.show("  ".join(f"{i.index}:{i.state}" for i in views))
            ready = sum(i.state == InstanceState.READY for i in snapshot.instances)
            in_front = snapshot.front.state == FrontState.READY and snapshot.front.ready == ready
            front_failed = snapshot.front.state == FrontState.FAILED
            lost = any(i.state in LOST for i in views)
            if lost or (all(i.state in OVER for i in views) and (in_front or front_failed)):
                progress.done()
                return snapshot
    raise LabError("the engine stopped meanwhile", "see `lab-tui logs engine`")


def down(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what engines that died left, and no engine takes over.")
    ] = False,
) -> None:
    """Stop every instance and the front."""
    run(_down_all() if everything else _down())


async def _down() -> None:
    async with EngineClient() as client:
        try:
            snapshot = await client.snapshot()
        except EngineGone:
            if not left_behind():
                say("nothing is running")
                return
            await ensure_engine()  # it takes over what a dead engine left, to stop it
            snapshot = await client.snapshot()
        await _take_down(client, snapshot)


async def _take_down(client: EngineClient, snapshot: Snapshot) -> None:
    await client.down()
    after = await client.snapshot()
    count = sum(i.pid is not None for i in snapshot.instances)
    say(f"stopped {plural(count, 'instance')} and the front" if snapshot.instances else "nothing is running")
    if after.queue_paused and after.queue:
        say("the sweep queue is paused: `lab-tui queue resume` goes on")


async def _down_all() -> None:
    """The fleet of the engine, when one runs; then every process that this lab has started and that is
    left. No engine is begun for it, and none may begin meanwhile.
    """
    from lab_tui.engine.daemon import sole
    from lab_tui.serving import orphans

    with contextlib.ExitStack() as stack:
        async with EngineClient() as client:
            try:
                await _take_down(client, await client.snapshot())
            except EngineGone:
                runtime = paths.ensure_private(paths.runtime_dir())
                stack.enter_context(sole(runtime))
                (runtime / "fleet.json").unlink(missing_ok=True)
        left = await left_over()
        words = orphans.describe(left)
        await asyncio.to_thread(orphans.end, left)
        _forget_keys()
    say(f"ended {words}" if left else "nothing else is left")


def _forget_keys() -> None:
    """Remove what an engine that died left of API keys: nobody serves with them any more."""
    from lab_tui.serving.nginx_conf import KEYS_FILE

    runtime = paths.runtime_dir()
    access.keep_copy((), runtime)
    (runtime / "nginx" / KEYS_FILE).unlink(missing_ok=True)


async def left_over() -> list[psutil.Process]:
    """Processes of this lab that no engine looks after."""
    from lab_tui.serving import orphans

    engine: int | None = None
    cared_for: list[int] = []
    async with EngineClient() as client:
        with contextlib.suppress(EngineGone):
            engine = (await client.info()).pid
            snapshot = await client.snapshot()
            pids = [snapshot.front.pid, *(view.pid for view in snapshot.instances)]
            pids += [snapshot.mps.pid] if snapshot.mps else []
            cared_for = [pid for pid in pids if pid is not None]
    return await asyncio.to_thread(orphans.orphans, paths.runtime_dir(), paths.logs_dir(), engine, cared_for)


def left_behind() -> bool:
    """Whether an engine that died left a fleet."""
    return (paths.runtime_dir() / "fleet.json").exists()


def start(index: Annotated[int, typer.Argument(metavar="N")]) -> None:
    """Start instance N and wait until it is ready."""
    run(_act(index, "start"))


def stop(index: Annotated[int, typer.Argument(metavar="N")]) -> None:
    """Take instance N out of the front and stop it."""
    run(_act(index, "stop"))


def restart(index: Annotated[int, typer.Argument(metavar="N")]) -> None:
    """Stop and start instance N, and wait until it is ready."""
    run(_act(index, "restart"))


async def _act(index: int, action: str) -> None:
    async with EngineClient() as client:
        await client.instance(index, action)
        snapshot = await client.snapshot() if action == "stop" else await _settle(client, (index,))
    view = next(i for i in snapshot.instances if i.index == index)
    if action != "stop" and view.state != InstanceState.READY:
        raise _failure(view)
    say(f"instance {index} is {view.state}")
