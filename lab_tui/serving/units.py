"""A fleet as systemd user units: one template for the instances, nginx, and a target for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from lab_tui.files import EXPORTED
from lab_tui.serving import mps
from lab_tui.serving.cores import span
from lab_tui.serving.placement import Seat
from lab_tui.serving.standalone import FOREGROUND, NAME, Recipe

CONFIG = f"{NAME}.nginx.conf"
KEYS = f"{NAME}.keys.conf"
FOLDER = "%E/systemd/user"
STOP_S = 10  # how long an instance or nginx may take to end its streams
# %i of the template is the port of the instance: all that differs between their command lines, unless
# they are given cards or cores. Then each has a unit of its own, which systemd takes before a template.
INSTANCE = """\
# {title}
{mark}
[Unit]
Description=llama-server on port %i
PartOf={name}.target
{after}
[Service]
Type=exec
WorkingDirectory=/
{seat}ExecStart={command}
ExecStartPost=/bin/sh -c {wait}
TimeoutStartSec={timeout_s}
TimeoutStopSec={stop_s}
Restart=on-failure
"""
# The daemon that a fleet with MPS has for itself, and has all cards; its servers end with it.
MPS = """\
# {title}
{mark}
[Unit]
Description=NVIDIA's MPS for the llama-servers
PartOf={name}.target

[Service]
Type=exec
RuntimeDirectory={name}-mps {name}-mps/pipe {name}-mps/log
RuntimeDirectoryMode=0700
UnsetEnvironment={cards}
{environment}ExecStart=:{program} -f
ExecStartPost=/bin/sh -c "until [ -S %t/{name}-mps/pipe/control ]; do sleep 0.1; done"
TimeoutStartSec={timeout_s}
TimeoutStopSec={stop_s}
Restart=on-failure
"""
FRONT = """\
# {title}
{mark}
[Unit]
Description=nginx before the llama-servers
PartOf={name}.target
Wants={instances}
After={instances}

[Service]
Type=exec
RuntimeDirectory={name} {name}/tmp
{before}ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
KillSignal=SIGQUIT
TimeoutStopSec={stop_s}
LimitNOFILE={files}
Restart=on-failure
"""
TARGET = """\
# {title}
{mark}
# Put these files into ~/.config/systemd/user (in the place of others: stop {name}.target before), then:
#   systemctl --user daemon-reload && systemctl --user enable --now {name}.target
# To run without anybody logged in: loginctl enable-linger
[Unit]
Description={instances} llama-servers behind nginx at {url}
Wants={units} {name}-front.service

[Install]
WantedBy=default.target
"""


def systemd(recipe: Recipe) -> dict[str, str]:
    """The units and the configuration of nginx, which belongs beside them."""
    recipe = msgspec.structs.replace(recipe, keys_file=KEYS)
    title = recipe.title
    keys = recipe.make_keys(f'"$0/{KEYS}"')
    units = " ".join(f"{NAME}@{port}.service" for port in recipe.ports)
    each = {f"{NAME}@{port}.service": index for index, port in enumerate(recipe.ports)}
    servers = each if recipe.placed else {f"{NAME}@.service": 0}
    health = "http://127.0.0.1:%i/health"
    wait = (
        f"until curl -fs --noproxy 127.0.0.1 -o /dev/null {health} ||"
        f" no_proxy=127.0.0.1 wget -q -O /dev/null {health}; do sleep 0.5; done"
    )
    nginx = _program(recipe.nginx.command)
    nginx += ["-p", f"%t/{NAME}/", "-c", f"{FOLDER}/{CONFIG}", *map(word, FOREGROUND)]
    daemon = f"{NAME}-mps.service"
    clients = _environment(mps.environment(recipe.spec.mps, Path(f"%t/{NAME}-mps")))
    own = recipe.spec.mps == "on"
    return {
        **{
            unit: INSTANCE.format(
                title=title,
                mark=EXPORTED,
                name=NAME,
                after=f"Requires={daemon}\nAfter={daemon}\n" if own else "",
                seat=f"{_seated(recipe.seat(index))}{clients}",
                command=" ".join(_instance(recipe.command(index))),
                wait=f'"{wait}"',
                timeout_s=round(recipe.ready_timeout_s),
                stop_s=STOP_S,
            )
            for unit, index in servers.items()
        },
        **({daemon: _mps(title, clients)} if own else {}),
        f"{NAME}-front.service": FRONT.format(
            title=title,
            mark=EXPORTED,
            name=NAME,
            instances=units,
            before=f'ExecStartPre=:/bin/sh -c {word(keys)} "{FOLDER}"\n' if keys else "",
            command=" ".join(nginx),
            stop_s=STOP_S,
            files=recipe.files,
        ),
        f"{NAME}.target": TARGET.format(
            title=title,
            mark=EXPORTED,
            name=NAME,
            units=units,
            instances=recipe.spec.instances,
            url=recipe.front.url.replace("%", "%%"),
        ),
        CONFIG: f"# {title}\n{EXPORTED}\n{recipe.config()}",
    }


def _mps(title: str, environment: str) -> str:
    return MPS.format(
        title=title,
        mark=EXPORTED,
        name=NAME,
        cards=mps.CARDS,
        environment=environment,
        program=mps.PROGRAM,
        timeout_s=round(mps.READY_S),
        stop_s=STOP_S,
    )


def _environment(variables: Mapping[str, str]) -> str:
    """The line of a unit; ``%t`` in a value is the runtime folder."""
    words = " ".join(f"{name}={value}" for name, value in variables.items())
    return f"Environment={words}\n" if words else ""


def _instance(command: tuple[str, ...]) -> list[str]:
    """The command of an instance, its port that of the unit."""
    server = _program(command)
    server[server.index("--port") + 1] = "%i"
    return server


def _seated(seat: Seat) -> str:
    """The lines that keep a unit to the cards and cores of a seat."""
    lines = [f"Environment={word(f'{name}={value}')}\n" for name, value in seat.visible.items()]
    lines += [f"CPUAffinity={span(seat.cpus)}\n"] if seat.cpus else []
    return "".join(lines)


def _program(command: tuple[str, ...]) -> list[str]:
    """The words of a command, of which the first says that ``$`` stands for itself.

    systemd runs no program with quotes in its path; ``env`` does.
    """
    program, *rest = ("/usr/bin/env", *command) if set(command[0]) & set("\"'\\") else command
    return [word(f":{program}"), *map(word, rest)]


def word(text: str) -> str:
    """A word of an Exec line as systemd reads it (systemd.service, Command lines).

    ``%`` is doubled; ``$`` is left to ``_program``.
    """
    escapes = {"\\": "\\\\", '"': '\\"', "%": "%%", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    escaped = "".join(
        escapes.get(letter) or (letter if letter.isprintable() else f"\\U{ord(letter):08x}")
        for letter in text
    )
    plain = text and text.isprintable() and not set(text) & set(" \"';\\")
    return escaped if plain else f'"{escaped}"'
