"""scripts/lab and scripts/test, run for real in a checkout of a small stand-in for the project.

The stand-in builds itself and needs no network; what it installs as lab-tui says how it was called.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(240)

SCRIPTS = Path(__file__).parent.parent / "scripts"
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "lab-tui"
version = "1"
"""
BACKEND = """
import os, time, zipfile
def build_editable(directory, config_settings=None, metadata_directory=None):
    if os.environ.get("FAKE_BUILD") == "offline":
        raise SystemExit("NewConnectionError: Failed to establish a new connection")
    if os.environ.get("FAKE_BUILD") == "slow":
        time.sleep(60)
    name, info = "lab_tui-1-py3-none-any.whl", "lab_tui-1.dist-info/"
    scripts = "\\n".join(f"{script}=lab_tui.cli:main" for script in ("lab-tui", "lint-imports"))
    files = {
        "lab_tui.pth": os.getcwd(),
        info + "METADATA": "Metadata-Version: 2.1\\nName: lab-tui\\nVersion: 1\\n"
        "Provides-Extra: embedded\\nProvides-Extra: test\\n",
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        info + "entry_points.txt": f"[console_scripts]\\n{scripts}\\n",
    }
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(info + "RECORD", "".join(f"{path},,\\n" for path in files) + info + "RECORD,,\\n")
    return name
"""
CLI = """
import json, os, pathlib, sys
def main():
    if sys.argv[1:] == ["models", "fetch"]:
        return fetch()
    open_files = [name for name in os.listdir("/dev/fd") if int(name) == 9]
    word = os.environ.get("LAB_TUI_PROGRAM")
    print(json.dumps({"args": sys.argv[1:], "cwd": os.getcwd(), "open": open_files, "word": word}))
def fetch():
    folder = pathlib.Path(os.environ["HOME"]) / "models"
    folder.mkdir(exist_ok=True)
    with (folder / "fetches").open("a") as log:
        log.write("x")
    if os.environ.get("FAKE_FETCH") == "fail":
        sys.exit("lab-tui: cannot fetch the model: no network")
    (folder / "model.gguf").touch()
    print(folder / "model.gguf")
"""
CHECK = """
import os, sys
print("{name}", *sys.argv[1:])
sys.exit(3 if os.environ.get("FAKE_FAILING") == "{name}" else 0)
"""


class Checkout:
    """A checkout of the stand-in, and runs of its scripts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        shutil.copytree(SCRIPTS, root / "scripts")
        files = {
            "pyproject.toml": PYPROJECT,
            "backend.py": BACKEND,
            "lab_tui/cli.py": CLI,
            **{f"{name}/__main__.py": CHECK.format(name=name) for name in ("ruff", "mypy", "pytest")},
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def start(
        self, script: str, *args: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        # The tests themselves may run in a virtual environment: the scripts must not care.
        return subprocess.Popen(
            [str(self.root / "scripts" / script), *args],
            cwd=cwd or self.root,
            env={**os.environ, "PYTHON": sys.executable, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *args: str, cwd: Path | None = None, **variables: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(script, *args, cwd=cwd, **variables)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose first run is behind it; tests leave it working."""
    checkout = Checkout(tmp_path_factory.mktemp("made") / "check out")
    code, _, errors = checkout.run("lab", "--version")
    assert code == 0, errors
    assert "lab: installing into" in errors
    return checkout


def fetches(home: Path) -> str:
    log = home / "models/fetches"
    return log.read_text() if log.exists() else ""


def test_runs_at_once_with_the_arguments_where_it_was_called(
    made: Checkout, home: Path, tmp_path: Path
) -> None:
    log = made.venv / "install.log"
    before = log.stat().st_mtime_ns
    code, out, errors = made.run("lab", "status", "--json", "a b", cwd=tmp_path)
    assert (code, errors) == (0, "")
    word = str(made.root / "scripts" / "lab")
    args = ["status", "--json", "a b"]
    assert json.loads(out) == {"args": args, "cwd": str(tmp_path), "open": [], "word": word}
    assert log.stat().st_mtime_ns == before


def test_the_model_is_fetched_once_for_each_home(made: Checkout, home: Path) -> None:
    for args in ((), ("up", "-i", "2"), ("--read-only",)):
        code, out, _ = made.run("lab", *args)
        assert code == 0
        assert json.loads(out)["args"] == list(args)
    assert fetches(home) == "x"
    (home / "models/model.gguf").unlink()
    assert made.run("lab", "up")[0] == 0
    assert fetches(home) == "xx"


@pytest.mark.parametrize(
    "args", [["--help"], ["up", "-h"], ["--version"], ["down"], ["bench"], ["status"], ["up", "-m", "x.gguf"]]
)
def test_no_model_is_fetched_where_none_is_served(made: Checkout, home: Path, args: list[str]) -> None:
    assert made.run("lab", *args)[0] == 0
    assert fetches(home) == ""


def test_no_model_is_fetched_when_one_is_set(made: Checkout, home: Path) -> None:
    assert made.run("lab", LLAMA_MODEL_PATH="x.gguf")[0] == 0
    assert fetches(home) == ""


def test_a_failed_fetch_is_its_one_line(made: Checkout, home: Path) -> None:
    code, out, errors = made.run("lab", FAKE_FETCH="fail")
    assert (code, out, errors) == (1, "", "lab-tui: cannot fetch the model: no network\n")
    assert made.run("lab")[0] == 0


def test_a_link_to_the_script_works(made: Checkout, home: Path) -> None:
    link = home / "lab"
    link.symlink_to(made.root / "scripts/lab")
    run = subprocess.run([link, "--help"], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["args"] == ["--help"]


def test_a_changed_pyproject_updates_and_a_run_cut_off_rebuilds(made: Checkout, home: Path) -> None:
    kept = made.venv / "kept"
    kept.touch()
    with (made.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    code, out, errors = made.run("lab", "--help")
    assert (code, errors.count("\n")) == (0, 1)
    assert "installing" in errors
    assert kept.exists()

    with (made.root / "pyproject.toml").open("a") as file:
        file.write("# changed again\n")
    code, out, errors = made.run("lab", "--help", FAKE_BUILD="offline")
    log = made.venv / "install.log"
    assert (code, out, errors.count("\n")) == (1, "", 2)
    assert f"no network, the package registry cannot be reached (log: {log})" in errors
    assert "NewConnectionError" in log.read_text()
    assert kept.exists()
    assert made.run("lab", "--help")[0] == 0
    assert kept.exists()

    (made.venv / "unfinished").touch()
    shutil.rmtree(made.venv / "bin")
    code, out, errors = made.run("lab", "--help")
    assert (code, json.loads(out)["args"]) == (0, ["--help"])
    assert not kept.exists()


def test_test_runs_every_step_and_stops_at_the_first_that_fails(made: Checkout, home: Path) -> None:
    code, out, errors = made.run("test", "-k", "some")
    assert code == 0, errors
    steps = [line for line in out.splitlines() if not line.startswith("{")]
    assert steps == ["ruff check", "ruff format --check", "mypy", "pytest -k some"]
    assert out.index("mypy") < out.index('"args": []') < out.index("pytest")  # lint-imports
    for failing, last in (("ruff", "ruff check"), ("mypy", "mypy")):
        code, out, _ = made.run("test", FAKE_FAILING=failing)
        assert code == 3
        assert out.splitlines()[-1] == last
    assert made.run("test", FAKE_FAILING="pytest")[0] == 3
    (made.venv / "stamp-embedded").unlink()
    assert made.run("lab", "--help")[2] == ""  # what test installs serves lab too


def stand_in(folder: Path, name: str, text: str) -> str:
    """An executable in ``folder``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_one_line_without_a_fitting_python(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    old = stand_in(tmp_path, "old", "case $2 in *print*) echo 3.9 ;; *) exit 1 ;; esac")
    bare = stand_in(tmp_path, "bare", "case $2 in *print*) echo 3.11 ;; *venv*) exit 1 ;; *) exit 0 ;; esac")
    for python, words in (
        ("no-such-python", "needs Python 3.11 or newer, none found"),
        (old, f"needs Python 3.11 or newer, {old} is 3.9"),
        (bare, f"{bare} has no venv module: install it (Debian, Ubuntu: apt install python3.11-venv)"),
    ):
        code, out, errors = checkout.run("lab", PYTHON=python)
        assert (code, out, errors.count("\n")) == (1, "", 1)
        assert errors.startswith(f"lab: {words}")
    assert not checkout.venv.exists()


def test_one_line_when_the_checkout_cannot_be_written(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    checkout.venv.touch()
    code, _, errors = checkout.run("lab")
    assert (code, errors.count("\n")) == (1, 1)
    assert f"lab: cannot write in {checkout.venv}" in errors


def test_one_line_without_tmux(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname", "readlink", "id"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    code, _, errors = checkout.run("test", PATH=str(tools))
    assert (code, errors) == (1, "test: the tests of the screen need tmux: install it\n")


def test_recovers_from_ctrl_c_and_runs_two_at_once(home: Path, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    log = checkout.venv / "install.log"
    run = checkout.start("lab", FAKE_BUILD="slow")
    deadline = time.monotonic() + 60
    while not (log.exists() and "editable" in log.read_text()):  # pip is building it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == 130
    assert [entry.name for entry in checkout.venv.iterdir()] == ["lock"]

    runs = [checkout.start("lab", "--help") for _ in range(2)]
    answers = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert [json.loads(out)["args"] for out, _ in answers] == [["--help"], ["--help"]]
    assert sum("installing into" in errors for _, errors in answers) == 1
    assert not (checkout.venv / "unfinished").exists()
