"""queue pause, resume, skip, remove, move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from lab_tui.cli.cut import Yes, ask_before_resume
from lab_tui.cli.fleet import Json
from lab_tui.cli.output import put, put_json, run, say
from lab_tui.cli.status import sweep_line
from lab_tui.client import EngineClient
from lab_tui.model import LabError
from lab_tui.starting import engine_session

queue = typer.Typer(help="Sweeps that wait and the one that runs.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(queue, name="queue")


@queue.callback(invoke_without_command=True)
def _show_queue(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        run(_queue_text(as_json))
    elif as_json:
        raise LabError("--json is for `lab-tui queue` alone", "leave it out, or the command")


async def _queue_text(as_json: bool = False) -> None:
    async with EngineClient() as client:
        snapshot = await client.snapshot()
    lines = [sweep_line(view) for view in snapshot.queue] or ["the queue is empty"]
    put_json(snapshot.queue) if as_json else put("\n".join(lines))
    if snapshot.queue_paused:
        why = f" ({snapshot.queue_paused_why})" if snapshot.queue_paused_why else ""
        say(f"the queue is paused{why}: `lab-tui queue resume` goes on")


async def _with_client(work: Callable[[EngineClient], Awaitable[None]]) -> None:
    async with EngineClient() as client:
        await work(client)
    await _queue_text()


@queue.command()
def pause() -> None:
    """Let the running cell finish, then wait."""
    run(_with_client(lambda client: client.queue("pause")))


@queue.command()
def resume(yes: Yes = False) -> None:
    """Go on; starts an engine where none runs. Where that cuts live streams it asks on a terminal."""
    ask_before_resume(yes)
    run(_resume())


async def _resume() -> None:
    async with engine_session() as client:
        await client.queue("resume")
    await _queue_text()


@queue.command()
def skip() -> None:
    """Leave the running cell out."""
    run(_with_client(lambda client: client.queue("skip")))


@queue.command()
def remove(sweep_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Take a sweep out of the queue; a running one is aborted, what it measured stays."""
    run(_with_client(lambda client: client.remove(sweep_id)))


@queue.command()
def move(
    sweep_id: Annotated[int, typer.Argument(metavar="ID")],
    position: Annotated[int, typer.Argument(metavar="POS")],
) -> None:
    """Put a waiting sweep at place POS of those that wait, 1 being next."""
    run(_with_client(lambda client: client.move(sweep_id, position)))
