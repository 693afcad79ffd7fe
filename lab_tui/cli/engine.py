"""engine run, stop, status."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from lab_tui import __version__, paths
from lab_tui.cli.cut import Yes, ask_before_stop
from lab_tui.cli.fleet import Json
from lab_tui.cli.output import duration, fail, put, put_json, run, say
from lab_tui.client import EngineClient, EngineGone

STOP_TIMEOUT_S = 60.0

engine = typer.Typer(help="The process that owns everything.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(engine, name="engine")


@engine.command("run")
def run_engine() -> None:
    """Run the engine in the foreground."""
    from lab_tui.engine.daemon import main

    raise SystemExit(main())


@engine.command("stop")
def stop_engine(
    keep_fleet: Annotated[bool, typer.Option("--keep-fleet", help="Let instances and nginx go on.")] = False,
    yes: Yes = False,
) -> None:
    """Stop the engine and, unless it is kept, the fleet; where one serves it asks on a terminal."""
    ask_before_stop(yes or keep_fleet)
    run(_stop(keep_fleet))


async def _stop(keep_fleet: bool) -> None:
    async with EngineClient() as client:
        try:
            pid = (await client.info()).pid
            await client.stop_engine(keep_fleet)
        except EngineGone:
            say("no engine is running")
            return
    for _ in range(int(STOP_TIMEOUT_S / 0.05)):
        if not _alive(pid):
            say("the engine stopped; the fleet goes on" if keep_fleet else "the engine stopped")
            return
        await asyncio.sleep(0.05)
    fail(
        f"the engine (pid {pid}) did not end within {STOP_TIMEOUT_S:.0f} s: see {paths.logs_dir()}/engine.log"
    )


def _alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not fetched by its parent does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@engine.command("status")
def engine_status(as_json: Json = False) -> None:
    """Whether an engine runs, and where it listens."""
    run(_status(as_json))


async def _status(as_json: bool) -> None:
    async with EngineClient() as client:
        try:
            info = await client.info()
        except EngineGone:
            if as_json:
                put_json({"state": "stopped", "pid": None, "version": None, "socket": str(client.socket)})
            else:
                put("stopped")
            return
    if as_json:
        put_json({"state": "running", "pid": info.pid, "version": info.version, "socket": info.socket,
                  "uptime_s": info.uptime_s, "log": info.log})  # fmt: skip
        return
    put(f"running  pid {info.pid}  version {info.version}  up {duration(info.uptime_s)}  {info.socket}")
    if info.version != __version__:
        say(f"this is {__version__}: `lab-tui engine stop --keep-fleet`, then any command starts the new one")
