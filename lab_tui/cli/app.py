"""``lab-tui``: the command tree, and the screen when no command is given."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lab_tui import __version__
from lab_tui.cli import bench, engine, fleet, parts, queue, results, service, status, sweep, winner
from lab_tui.cli.output import fail, put, run, show_in_any_encoding
from lab_tui.model import LabError
from lab_tui.text import program, speak_utf8

EPILOG = "Without a command: the screen. Every command takes --help."
app = typer.Typer(
    name="lab-tui",
    help="A full-screen monitor and throughput lab for local LLM serving.",
    epilog=EPILOG,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (fleet, status, bench, sweep, queue, results, winner, parts, engine, service):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        put(f"lab-tui {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def screen(
    context: typer.Context,
    demo: Annotated[bool, typer.Option("--demo", help="Start two instances and a quick sweep.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Look, change nothing.")] = False,
    no_mouse: Annotated[bool, typer.Option("--no-mouse", help="Leave the mouse to the terminal.")] = False,
    ascii: Annotated[bool, typer.Option("--ascii", help="Draw with ASCII characters alone.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The screen: instances, throughput, GPUs, the sweep queue and logs, live."""
    if context.invoked_subcommand is not None:
        if demo or read_only or no_mouse or ascii:
            raise LabError(
                "--demo, --read-only, --no-mouse and --ascii are for the screen",
                "leave them out, or the command",
            )
        return
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if os.environ.get("TERM", "") in ("", "dumb") or not all(stream.isatty() for stream in streams):
        fail("the screen needs a terminal (and TERM set): `lab-tui status` prints the same as text")
    from lab_tui import config
    from lab_tui.starting import ensure_engine

    settings = config.for_screen(config.load(), mouse=False if no_mouse else None, ascii=ascii or None)
    run(ensure_engine())
    if demo:
        sweep.demo(settings)
    from lab_tui.ui.app import run as run_screen

    raise SystemExit(run_screen(settings, read_only=read_only))


def main() -> None:
    """The entry point: every refusal is one line and exit 1."""
    show_in_any_encoding()
    speak_utf8(os.environ)  # of all that is started from here
    try:
        app(prog_name=program())
    except LabError as error:
        fail(str(error))
