"""What each process loads: a command answers at once, and the engine draws nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from lab_tui import paths

LOADED = "import sys; print('LOADED', *sys.modules)"
RUN_HELP = f"""
import sys
sys.argv = ["lab-tui", *sys.argv[1:]]
from lab_tui.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
{LOADED}
"""


RUN_ENGINE = f"""
from lab_tui.engine.daemon import main
assert main() == 0
{LOADED}
"""
INTERRUPT_AT_TYPER = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
runpy.run_module("lab_tui", run_name="__main__")
"""


def loaded(*command: str) -> set[str]:
    """The top-level modules in memory after ``python -c COMMAND``."""
    run = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=True, timeout=60
    )
    return named(run.stdout)


def named(output: str) -> set[str]:
    """The top-level modules that LOADED has printed."""
    last = output.splitlines()[-1].split()
    assert last[0] == "LOADED"
    return {module.partition(".")[0] for module in last[1:]}


def test_ctrl_c_before_anything_has_begun_is_quiet() -> None:
    run = subprocess.run([sys.executable, "-c", INTERRUPT_AT_TYPER], capture_output=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (130, b"", b"")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["sweep", "--help"]])
def test_help_loads_neither_screen_nor_server(arguments: list[str]) -> None:
    assert not loaded(RUN_HELP, *arguments) & {"textual", "plotext", "aiohttp", "numpy", "gguf", "xllamacpp"}


def test_an_engine_that_runs_has_loaded_no_screen_library(home: Path) -> None:
    engine = subprocess.Popen([sys.executable, "-c", RUN_ENGINE], stdout=subprocess.PIPE, text=True)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(paths.socket_path()), retries=5)) as client:
            deadline = time.monotonic() + 60
            while not paths.socket_path().exists():
                assert engine.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for question in ("/history", "/nothing"):
                client.get(f"http://engine{question}", timeout=30)
        engine.terminate()
        output, _ = engine.communicate(timeout=60)
    finally:
        engine.kill()
        engine.wait()
    modules = named(output)
    assert "uvloop" in modules
    assert not modules & {"textual", "rich", "plotext", "typer", "xllamacpp", "numpy", "gguf"}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_in_another_encoding_has_likenesses_and_json_keeps_its_meaning(encoding: str) -> None:
    text = "4×8 ≈ ● 模"
    script = f"""
import os
from lab_tui.cli import output
from lab_tui.text import speak_utf8
output.show_in_any_encoding()
speak_utf8(os.environ)
output.put({text!r})
output.put_json({{"a": {text!r}}})
output.say({text!r})
assert os.environ["PYTHONUTF8"] == "1" and "PYTHONIOENCODING" not in os.environ
output.put_file({text!r})
"""
    own = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", script], env=own, capture_output=True, check=True, timeout=60
    )
    shown = "4×8 ~ * ??" if encoding == "latin-1" else "4x8 ~ * ??"
    first, *document, last = done.stdout.splitlines()
    assert (first.decode(encoding), last.decode()) == (shown, text)
    assert json.loads(b"".join(document)) == {"a": text}
    assert done.stderr.decode(encoding) == f"{shown}\n"
