"""service install, remove, status: the engine as a systemd user unit."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path

import typer

from lab_tui import config
from lab_tui.cli.fleet import Json
from lab_tui.cli.output import put, put_json, run, say
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import Data, LabError
from lab_tui.text import PROGRAM, printable

NAME = "lab-tui.service"
WANTS = "default.target.wants"  # beside the unit: links to what begins at login
MARK = "# Written by `lab-tui service install`."
# KillMode: an engine that dies leaves its fleet serving, and the one that follows takes it over. When it
# is told to stop, it ends the fleet itself.
UNIT = """\
{mark}
[Unit]
Description=lab-tui engine

[Service]
Type=exec
{environment}ExecStart={command}
KillMode=process
Restart=on-failure
RestartSec=2
TimeoutStopSec=90

[Install]
WantedBy=default.target
"""
# What a shell has and a service has not; no secret is among them.
KEPT = ("PATH", "LD_LIBRARY_PATH", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME",
        "HF_HOME", "LLAMA_CACHE", "LLAMA_CPP_DIR", *config.LEGACY)  # fmt: skip
TIMEOUT_S = 30.0

service = typer.Typer(help="The engine as a systemd user unit.", no_args_is_help=True, rich_markup_mode=None)


class State(Data, frozen=True, kw_only=True):
    """What ``service status --json`` prints."""

    unit: str
    installed: bool
    enabled: str  # in the words of systemctl; "unknown" where it does not answer
    active: str
    lingering: str  # yes, no, unknown


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(service, name="service")


@service.command()
def install() -> None:
    """Write the unit, and begin with it at each login; with lingering, at each boot."""
    _need_systemd()
    file = _file()
    try:
        if file.exists() and not file.read_text("utf-8").startswith(MARK):
            raise LabError(f"{file} is not of lab-tui", "move it away")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(unit_text(), "utf-8")
    except OSError as error:
        raise LabError(f"cannot write {file} ({error.strerror})", "mend its permissions") from error
    say(f"wrote {printable(str(file))}")
    _systemctl("daemon-reload")
    if run(_engine_runs()):
        _systemctl("enable", NAME)
        say(f"an engine runs already; `lab-tui engine stop --keep-fleet && systemctl --user start {NAME}`")
        say("hands its fleet over to the service")
    else:
        _systemctl("enable", "--now", NAME)
        say("the engine runs")
    if _lingering() != "yes":
        say("it begins when you log in and ends when you log out: `loginctl enable-linger` keeps it")


@service.command()
def remove() -> None:
    """Take the unit away. The engine and the fleet that run go on."""
    _need_systemd()
    file = _file()
    if not file.exists():
        raise LabError(f"there is no {file}", "`lab-tui service install` writes it")
    if not file.read_text("utf-8").startswith(MARK):
        raise LabError(f"{file} is not of lab-tui", "remove it yourself")
    try:
        _systemctl("disable", NAME)
    except LabError as error:  # without a bus of this user nobody answers, and it is done by hand
        say(f"{error.message}: systemd forgets the unit when you log in again")
    (file.parent / WANTS / NAME).unlink(missing_ok=True)
    file.unlink()
    say(f"removed {printable(str(file))}")
    with contextlib.suppress(LabError):  # said above
        _systemctl("daemon-reload")
    if run(_engine_runs()):
        say("the engine that runs goes on; `lab-tui engine stop` ends it and its fleet")


@service.command()
def status(as_json: Json = False) -> None:
    """Whether the unit is there, enabled and running."""
    _need_systemd()
    state = State(
        unit=str(_file()),
        installed=_file().exists(),
        enabled=_said("systemctl", "--user", "is-enabled", NAME),
        active=_said("systemctl", "--user", "is-active", NAME),
        lingering=_lingering(),
    )
    if as_json:
        put_json(state)
        return
    there = "installed" if state.installed else "not installed"
    put(f"{there}  {state.unit}\nenabled  {state.enabled}\nactive   {state.active}")
    put(f"lingers  {state.lingering}")


def unit_text() -> str:
    """The unit of an engine of this Python, with those settings of the environment that it needs."""
    from lab_tui.serving.units import word

    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or (name.startswith("LAB_TUI_") and name != PROGRAM)
    }
    return UNIT.format(
        mark=MARK,
        environment="".join(f"Environment={word(f'{name}={kept[name]}')}\n" for name in sorted(kept)),
        command=" ".join((word(f":{sys.executable}"), "-m", "lab_tui.engine.daemon")),
    )


def _file() -> Path:
    """Where systemd looks for a user's own units."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "systemd" / "user" / NAME


def _need_systemd() -> None:
    """Raise LabError where there is none, with the way out."""
    if shutil.which("systemctl"):
        return
    command = f"{sys.executable} -m lab_tui.engine.daemon"
    if sys.platform == "darwin":
        raise LabError(
            "macOS has no systemd",
            f"a launch agent with KeepAlive may run `{command}`, see `man launchd.plist`",
        )
    raise LabError("there is no systemd here (no systemctl)", f"let your own service manager run `{command}`")


def _systemctl(*words: str) -> None:
    """Raise LabError when the user's systemd does not do it."""
    code, said = _output("systemctl", "--user", *words)
    if code:
        raise LabError(
            f"systemctl --user {' '.join(words)}: {printable(said) or f'exit code {code}'}",
            "log in as this user (not by su or sudo), or `loginctl enable-linger` first, and run this again",
        )


def _lingering() -> str:
    user = getpass.getuser()
    return _said("loginctl", "show-user", user, "--property=Linger", "--value")


def _said(*command: str) -> str:
    """The one word that a command answers; "unknown" when it does not answer in one."""
    said = _output(*command)[1]
    return said if said and " " not in said else "unknown"


def _output(*command: str) -> tuple[int, str]:
    """Exit code and the last line."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    lines = done.stdout.strip().splitlines()
    return done.returncode, lines[-1] if lines else ""


async def _engine_runs() -> bool:
    async with EngineClient() as client:
        try:
            await client.info()
        except EngineGone:
            return False
    return True
