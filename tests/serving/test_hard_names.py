"""Whatever a path, a name or an argument consists of, it stays one word wherever it is written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab_tui.model import FleetSpec
from lab_tui.serving.compose import compose
from lab_tui.serving.parts import LlamaServer, Nginx, parse_flags
from lab_tui.serving.standalone import NAME, Recipe, nginx_conf, script
from lab_tui.serving.units import systemd
from lab_tui.text import printable, printable_lines

from .helptexts import HELP_2026

FLAGS = parse_flags(HELP_2026) | {"--api-key-file": "FNAME", "--alias": "STRING"}
PLAIN = "plainname"
PRINT = "/usr/bin/printf"
END = "=end="
# What a file name on Linux may hold, as far as it can be written as UTF-8; ``%`` for systemd, ``$`` for all.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40)
HARD = (
    "it's a \"model\" of 100% $HOME `date` $(id) \\ ;{} #\n'\nEND OF nginx.conf\n} server { listen 1; }"
    " \t\r\x1b[2J\u202e"
)
hard = settings(max_examples=60, deadline=None)


def recipe(name: str, program: str = PRINT) -> Recipe:
    path = f"/models/{name}"
    return Recipe(
        origin="sweep 3, cell 7",
        spec=FleetSpec(
            model=f"{path}.gguf", instances=1, threads=1, api_key_file=path, extra_args=("--alias", name, END)
        ),
        server=LlamaServer(command=(program,), source="PATH", version="", flags=FLAGS),
        nginx=Nginx(command=(f"/opt/{name}/nginx",), source="PATH", version=(1, 22)),
        ready_timeout_s=9.0,
    )


def asked(made: Recipe) -> list[str]:
    return list(made.command(0)[1:])


@hard
@given(NAMES)
@example(HARD)
def test_nginx_reads_nothing_of_a_name(name: str) -> None:
    plain, made = nginx_conf(recipe(PLAIN))["nginx.conf"], nginx_conf(recipe(name))["nginx.conf"]
    head, usual = made.split("\n"), plain.split("\n")
    assert all(line.startswith("# ") and printable(line) == line for line in head[:3])
    assert head[3:] == usual[3:]
    assert recipe(name).config() == recipe(PLAIN).config()


@hard
@given(NAMES)
@example(HARD)
def test_a_shell_reads_the_words_of_a_command(name: str) -> None:
    """The line of the script that starts an instance is run, its program prints what it was given."""
    made = recipe(name)
    text = script(made)[f"{NAME}.sh"]
    start = text[text.index(f"{PRINT} ") : text.index(" >&2 &\npids=")]
    run = start.replace(PRINT, f"{PRINT} '%s\\0'", 1)
    done = subprocess.run(["/bin/sh", "-c", run], capture_output=True, check=True, timeout=30)
    assert done.stdout.decode().split("\0")[:-1] == asked(made)
    title = text.split("\n")[1]
    assert title.startswith("# ")
    assert printable(title) == title


@hard
@given(NAMES)
@example(HARD)
def test_a_script_is_whole_and_begins_nothing_of_its_own(name: str) -> None:
    """A shell finds no fault in it, and what it would run is what a plain name gives."""
    text = script(recipe(name))[f"{NAME}.sh"]
    checked = subprocess.run(["/bin/sh", "-n"], input=text.encode(), capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    expected = re.sub(
        rf"(/models/|/opt/)?{PLAIN}(\.gguf|/nginx)?",
        lambda found: shlex.quote(found[0].replace(PLAIN, name)),
        script(recipe(PLAIN))[f"{NAME}.sh"].partition("\nset -u\n")[2],
    )
    assert text.partition("\nset -u\n")[2] == expected


@hard
@given(NAMES)
@example(HARD)
def test_systemd_reads_the_words_of_a_command(name: str) -> None:
    made = recipe(name)
    files = systemd(made)
    for text in files.values():
        assert printable_lines(text) == text
    lines = [line for line in files[f"{NAME}@.service"].split("\n") if line.startswith("ExecStart=")]
    (start,) = lines
    words = unit_words(start.removeprefix("ExecStart="))
    assert words == [f":{PRINT}", *(w.replace("9000", "\0%i") if w == "9000" else w for w in asked(made))]
    before = [line for line in files[f"{NAME}-front.service"].split("\n") if line.startswith("ExecStartPre=")]
    shell, flag, command, _ = unit_words(before[0].removeprefix("ExecStartPre="))
    assert (shell, flag) == (":/bin/sh", "-c")
    assert shlex.quote(f"/models/{name}") in command


def unit_words(line: str) -> list[str]:
    """As systemd splits a line of Exec (systemd.syntax, Quoting); ``%i`` becomes NUL ``%i``."""
    words: list[str] = []
    for found in re.finditer(r'"((?:[^"\\]|\\.)*)"|(\S+)', line):
        quoted, plain = found.groups()
        assert quoted is not None or not set(plain) & set("\"'\\;"), plain
        text = plain if quoted is None else re.sub(r"\\(x..|u....|U.{8}|.)", _unescaped, quoted)
        percents = text.replace("%%", "\0")
        assert re.fullmatch(r"[^%]*|%i|%E/systemd/user", percents), percents
        words.append(percents.replace("%i", "\0%i") if percents == "%i" else percents.replace("\0", "%"))
    return words


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else {"n": "\n", "t": "\t", "r": "\r"}.get(code, code)


@hard
@given(NAMES)
@example(HARD)
def test_compose_reads_the_words_of_a_command(name: str) -> None:
    text = compose(recipe(name))["compose.yaml"]
    plain = compose(recipe(PLAIN))["compose.yaml"]
    assert not [c for c in text if printable_lines(c) != c and c <= "\uffff"]
    made, usual = (yaml_words(one) for one in (text, plain))
    assert len(text.split("\n")) == len(plain.split("\n"))
    assert [word.replace(PLAIN, name) for word in usual[0]] == made[0]
    secret = text.partition("api_keys: {file: ")[2].removesuffix("}\n")
    assert json.loads(secret).replace("$$", "$") == f"/models/{name}"


def yaml_words(text: str) -> list[list[str]]:
    """The commands in it, without compose's own doubling of ``$``."""
    lines = [line.split("command: ", 1)[1] for line in text.split("\n") if line.startswith("    command: ")]
    return [[word.replace("$$", "$") for word in json.loads(line)] for line in lines]
