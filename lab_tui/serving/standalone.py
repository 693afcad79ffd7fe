"""A fleet without lab-tui: what to start it from, as files.

The command lines and the nginx configuration are those that lab-tui itself would run; only the
start, the wait for ``/health`` and the end are written for whoever runs them.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lab_tui.model import Data, FleetSpec
from lab_tui.serving import llama_server, mps
from lab_tui.serving.cores import span
from lab_tui.serving.nginx_conf import KEYS_FILE, FrontSpec, config_text, files_needed, keys_command
from lab_tui.serving.parts import LlamaServer, Nginx
from lab_tui.serving.placement import Seat
from lab_tui.text import printable

NAME = "llama-fleet"
FOREGROUND = ("-e", "stderr", "-g", "daemon off;")  # of nginx


class Recipe(Data, frozen=True, kw_only=True):
    """What a fleet is made of."""

    origin: str  # where the settings come from, a few words: "sweep 3, cell 7"
    spec: FleetSpec
    server: LlamaServer
    nginx: Nginx
    ready_timeout_s: float  # how long a model may take to load
    seats: tuple[Seat, ...] = ()  # of each instance; empty: wherever the system puts them
    backend: str = ""  # by which containers use cards: CUDA, ROCm, …; "": they use none
    keys_file: str = KEYS_FILE  # as nginx includes it: beside its configuration

    @property
    def title(self) -> str:
        """One line for the head of a file."""
        s, model = self.spec, printable(Path(self.spec.model).name)
        slots = f"{s.instances} × {s.parallel} slots of {s.ctx_per_slot} tokens"
        return f"{slots}, {model}, behind nginx at {self.front.url} ({self.origin})"

    @property
    def title_with_mps(self) -> str:
        """The same where whoever runs it has to see to NVIDIA's MPS."""
        daemon = {
            "on": f", to be run beside `{mps.PROGRAM} -d`",
            "off": ", to be run without NVIDIA's MPS",
        }
        return f"{self.title}{daemon.get(self.spec.mps, '')}"

    @property
    def front(self) -> FrontSpec:
        """The front with all instances behind it."""
        return FrontSpec(
            host=self.spec.host,
            port=self.spec.front_port,
            backends=tuple(f"127.0.0.1:{port}" for port in self.ports),
            max_streams=self.spec.max_streams,
            balancing=self.spec.balancing,
            max_body_mb=self.spec.max_body_mb,
            keys_file=self.keys_file if self.spec.api_key_file else "",
        )

    @property
    def ports(self) -> range:
        """Where the instances listen, on loopback."""
        return range(self.spec.base_port, self.spec.base_port + self.spec.instances)

    @property
    def files(self) -> int:
        """Open files that nginx needs; no instance needs as many."""
        return files_needed(self.spec.max_streams)

    def command(self, index: int) -> tuple[str, ...]:
        """The command line of an instance."""
        return llama_server.command(self.server, self.spec, index, self.seat(index))

    def seat(self, index: int) -> Seat:
        """Where an instance runs."""
        return self.seats[index] if self.seats else Seat()

    @property
    def placed(self) -> bool:
        """Whether any instance is given cards or cores."""
        return any(seat.visible or seat.devices or seat.cpus for seat in self.seats)

    def make_keys(self, to: str) -> str:
        """Shell that makes what nginx includes of the user's file of API keys; "" when none is asked for.

        ``to`` is as a shell reads it.
        """
        return keys_command(shlex.quote(self.spec.api_key_file), to) if self.spec.api_key_file else ""

    def config(self) -> str:
        """The configuration of nginx."""
        return config_text(self.front, self.nginx, None)


def nginx_conf(recipe: Recipe) -> dict[str, str]:
    """The configuration alone, for instances that something else starts."""
    run = shlex.join((*recipe.nginx.command, "-p", "DIR/", "-c", "nginx.conf", *FOREGROUND))
    head = f"# {recipe.title_with_mps}\n# Into a folder DIR with a folder DIR/tmp, then: {printable(run)}\n"
    keys = printable(recipe.make_keys(f"DIR/{KEYS_FILE}"))
    return {"nginx.conf": head + (f"# Before that: {keys}\n" if keys else "") + recipe.config()}


SCRIPT = """\
#!/bin/sh
# {title}
# Runs until TERM or INT, or until one of them ends; then it ends them all.
set -u
cd /

pids=
run=$(mktemp -d "${{TMPDIR:-/tmp}}/{name}.XXXXXX") || exit 1

fail() {{
    echo "{name}: $1" >&2
    exit 1
}}

running() {{
    left=
    for pid in $pids; do kill -0 "$pid" 2>/dev/null && left="$left $pid"; done
    [ -n "$left" ]
}}

finish() {{
    code=$?
    trap '' EXIT HUP INT TERM
    tries=0
    while running; do
        # A llama-server with a live stream waits for it; the second TERM ends it.
        case $tries in 0 | 30) kill -TERM $left 2>/dev/null ;; 40) kill -KILL $left 2>/dev/null ;; esac
        tries=$((tries + 1))
        sleep 0.1
    done
{end_mps}    rm -rf "$run"
    exit "$code"
}}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

if command -v curl >/dev/null; then
    answers() {{ curl -fs --noproxy '*' --max-time 2 -o /dev/null "$1"; }}
elif command -v wget >/dev/null; then
    answers() {{ no_proxy='*' wget -q -T 2 -O /dev/null "$1" 2>/dev/null; }}
else
    fail "curl or wget is needed to see when a server is ready"
fi

# until_ready URL PID NAME
until_ready() {{
    tries=0
    until answers "$1"; do
        kill -0 "$2" 2>/dev/null || fail "$3 ended before it was ready"
        tries=$((tries + 1))
        [ "$tries" -lt {tries} ] || fail "$3 was not ready within {timeout_s} s"
        sleep {poll_s}
    done
}}

[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge {files} ] || ulimit -n {files} ||
    fail "{streams} streams need {files} open files, raise the hard limit (ulimit -Hn)"

# They would change what the flags below say.
unset LLAMA_API_KEY
for name in $(env | sed -n 's/^\\(LLAMA_ARG_[A-Za-z0-9_]*\\)=.*/\\1/p'); do unset "$name"; done

mkdir "$run/tmp" || exit 1
cat >"$run/nginx.conf" <<'END OF nginx.conf' || exit 1
{config}END OF nginx.conf
{keys}{mps}
{starts}

{waits}

{nginx} -p "$run/" -c nginx.conf {foreground} >&2 &
pids="$pids $!" pid_nginx=$!
until_ready {health} "$pid_nginx" nginx
echo {url}

while sleep 1; do
{checks}
done
"""
POLL_S = 0.2
# Pipes of its own, so that nobody else's daemon is met; and of all cards, since instances count among its.
MPS_ON = """\
mkdir "$run/pipe" "$run/log" || exit 1
export {pipes}="$run/pipe" {logs}="$run/log"
(unset {cards}; exec {program} -f) >&2 &
pid_mps=$!
tries=0
until [ -S "$run/pipe/control" ]; do
    tries=$((tries + 1))
    kill -0 "$pid_mps" 2>/dev/null && [ "$tries" -lt {tries} ] || fail "NVIDIA's MPS daemon did not start"
    sleep {poll_s}
done
"""
MPS_OFF = 'export {pipes}="$run/none"\n'
MPS_END = """\
    if [ -n "${{pid_mps-}}" ]; then  # its clients are gone: it ends, and its servers with it
        echo quit | timeout {wait_s} {program} >/dev/null 2>&1
        kill -KILL "$pid_mps" 2>/dev/null
    fi
"""
MPS_WAIT_S = 10


def script(recipe: Recipe) -> dict[str, str]:
    """One shell script that starts the fleet, prints its base URL, and ends all it started."""
    starts, waits, checks = [], [], []
    for index, port in enumerate(recipe.ports):
        name = f"instance {index}"
        words = (*_seated(recipe.seat(index)), *recipe.command(index))
        starts.append(f'{shlex.join(words)} >&2 &\npids="$pids $!" pid_{index}=$!')
        waits.append(f'until_ready http://127.0.0.1:{port}/health "$pid_{index}" "{name}"')
        checks.append(_check(f"pid_{index}", name))
    checks.append(_check("pid_nginx", "nginx"))
    if recipe.spec.mps == "on":
        checks.append(_check("pid_mps", "NVIDIA's MPS daemon"))
    text = SCRIPT.format(
        title=recipe.title,
        name=NAME,
        tries=max(1, round(recipe.ready_timeout_s / POLL_S)),
        timeout_s=f"{recipe.ready_timeout_s:g}",
        poll_s=POLL_S,
        files=recipe.files,
        streams=recipe.spec.max_streams,
        config=recipe.config(),
        keys=f"({keys}) || exit 1\n" if (keys := recipe.make_keys(f'"$run/{KEYS_FILE}"')) else "",
        mps=_mps({"on": MPS_ON, "off": MPS_OFF}.get(recipe.spec.mps, "")),
        end_mps=_mps(MPS_END if recipe.spec.mps == "on" else ""),
        starts="\n".join(starts),
        waits="\n".join(waits),
        checks="\n".join(checks),
        nginx=shlex.join(recipe.nginx.command),
        foreground=shlex.join(FOREGROUND),
        health=shlex.quote(f"{recipe.front.url}/health"),
        url=shlex.quote(recipe.front.url),
    )
    return {f"{NAME}.sh": text}


def _mps(text: str) -> str:
    return text.format(
        program=mps.PROGRAM,
        pipes=mps.PIPES,
        logs=mps.LOGS,
        cards=mps.CARDS,
        tries=round(mps.READY_S / POLL_S),
        poll_s=POLL_S,
        wait_s=MPS_WAIT_S,
    )


def _seated(seat: Seat) -> tuple[str, ...]:
    """What keeps a command to the cards and cores of a seat; both become the command."""
    cards = [f"{name}={value}" for name, value in seat.visible.items()]
    return (
        *(("env", *cards) if cards else ()),
        *(("taskset", "-c", span(seat.cpus)) if seat.cpus else ()),
    )


def _check(variable: str, name: str) -> str:
    return f'    kill -0 "${variable}" 2>/dev/null || fail "{name} has ended"'


def as_one(files: dict[str, str]) -> str:
    """Several files as one text, each below a line with its name."""
    return "\n".join(f"# ==> {name} <==\n{text}" for name, text in files.items())
