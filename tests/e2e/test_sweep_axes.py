"""sweep before anything runs: what it comes to, and what is refused."""

from __future__ import annotations

import json

import httpx
import pytest

from lab_tui import paths
from tests.e2e.conftest import Lab, until

NOTHING_RUNS = None
AXES = ("--axis", "arg:--verbosity=2,4", "--axis", "concurrency=1", "--axis", "instances=1")


def test_a_dry_run_says_what_it_comes_to_and_starts_nothing(lab: Lab) -> None:
    text = lab.run("sweep", "--preset", "full", "--dry-run").stdout
    assert text.splitlines()[0] == "full: 308 cells, grid, up to about 2h55"
    assert "instance starts  112 at most, 128 to confirm the best" in text
    found = lab.json("sweep", "--preset", "full", "--dry-run")
    assert (found["cells"], found["instance_starts"], found["strategy"]) == (308, 112, "grid")
    assert (found["largest"]["instances"], found["largest"]["parallel"]) == (16, 64)
    at_least_s = (308 + 2 * 4) * 33.0 + (28 + 2 * 4) * 2.0  # the best four are measured twice more
    assert at_least_s < found["longest_s"] < at_least_s + 60  # that read the model
    assert found["ram_bytes"] > 16 * found["ram_each_bytes"] > 16 * found["kv_bytes"] > 0
    assert found["fits"] and found["cells_too_large"] == 0 and found["reason"] == ""
    assert lab.status() is NOTHING_RUNS
    assert lab.processes() == []


def test_a_dry_run_tells_what_does_not_fit(lab: Lab) -> None:
    asked = (
        "sweep",
        "--axis",
        "instances=1,64",
        "--axis",
        "ctx-per-slot=256,2097152",
        "--no-confirm",
        "--dry-run",
    )
    found = lab.json(*asked)
    assert (found["cells"], found["cells_too_large"], found["fits"]) == (4, 1, False)
    assert found["reason"].startswith("does not fit: 64 instances need ")
    assert found["longest_s"] == pytest.approx(3 * (33.0 + 2.0), abs=1)
    assert lab.json(*asked, "--budget", "40s")["longest_s"] == 40.0
    text = lab.run(*asked).stdout
    assert "1 cell is left out; the largest does not fit: 64 instances need " in text
    reserved = json.loads(lab.run(*asked, "--json", LAB_TUI_SERVE_RESERVE_GB="1024").stdout)
    assert reserved["cells_too_large"] == 4 and reserved["reserve_bytes"] == 1024 * 10**9


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--axis", "instancez=1"), 1, "there is no axis 'instancez': choose of "),
        (("--axis", ""), 1, "there is no axis ''"),
        (("--axis", "instances="), 1, "axis instances has an empty value"),
        (("--axis", "instances=1", "--axis", "instances=2"), 1, "axis instances is given twice"),
        (("--axis", "parallel=4,4"), 1, "axis parallel has a value twice"),
        (("--axis", "parallel=257"), 1, "axis parallel: 257 is out of range: give 1 to 256"),
        (("--axis", "parallel=four"), 1, "axis parallel: 'four' is not a number"),
        (("--axis", "arg:--no-such=1"), 1, "llama-server takes no argument --no-such"),
        (("--axis", "arg:--jinja=on"), 1, "axis arg:--jinja: llama-server's --jinja takes no value"),
        (("--axis", "arg:--threads=1"), 1, "axis arg:--threads has a name of its own: use threads"),
        (("--axis", "arg:--port=1"), 1, "--port is set by lab-tui itself"),
        (("--strategy", "magic"), 1, "there is no strategy magic"),
        (("--preset", "slow"), 1, "there is no preset slow"),
        (("--dry-run", "--detach"), 1, "--dry-run queues nothing"),
        (("--axe", "instances=1"), 2, "No such option: --axe"),
        (("--axis",), 2, "requires an argument"),
    ],
)
def test_what_is_wrong_is_one_line(lab: Lab, args: tuple[str, ...], code: int, says: str) -> None:
    for more in ((), ("--dry-run",)) if "--dry-run" not in args and code == 1 else ((),):
        done = lab.run("sweep", *args, *more, code=code)
        assert says in done.stderr
        assert code == 2 or done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
    until(lambda: lab.status() is NOTHING_RUNS, "the engine that was started for it to end")


def test_more_than_ten_thousand_cells_are_asked_for_twice(lab: Lab) -> None:
    many = ",".join(map(str, range(1, 102)))
    axes = ("--axis", f"batch={many}", "--axis", f"ubatch={many}")
    said = lab.run("sweep", *axes, "--detach", code=1).stderr
    assert said == "lab-tui: 10,201 cells are more than 10,000: give fewer values on the axes, or --yes\n"
    assert lab.json("sweep", *axes, "--yes", "--dry-run")["cells"] == 10_201
    assert lab.status() is NOTHING_RUNS


def test_an_argument_of_llama_server_varies(lab: Lab) -> None:
    ran = lab.run("sweep", *AXES, "--seconds", "1", "--json")
    assert "1×4 c=1 --verbosity=4" in ran.stderr
    done = json.loads(ran.stdout)
    assert (done["status"], done["cells_measured"]) == ("done", 2)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(paths.socket_path()))) as http:
        kept = http.get(f"http://lab/sweeps/{done['id']}").json()
        ahead = http.post("http://lab/sweeps/outline", json=kept["spec"]).json()
        models = http.post("http://lab/models", json={"model": "", "parallel": 4, "ctx_per_slot": 2048}).text
    assert [json.loads(line) for line in models.splitlines()] == lab.json("models", "list")
    (fit,) = lab.json("models", "--fit", lab.model, "--parallel", "16")
    assert fit["model"]["felt"]["sweep"] == done["id"] and fit["model"]["felt"]["stream_tps"] > 0
    assert [line["ctx_per_slot"] for line in fit["lines"]] == [2048, 8192]
    assert all(line["fits"][0]["instances"] > 0 for line in fit["lines"])
    dry = lab.json("sweep", *AXES, "--seconds", "1", "--dry-run")
    free = {"ram_free_bytes", "vram_free_bytes"}
    assert {k: v for k, v in ahead.items() if k not in free} == {
        k: v for k, v in dry.items() if k not in free
    }
    cells = kept["cells"]
    commands = [cell["context"]["commands"][0] for cell in cells]
    assert [command[-2:] for command in commands] == [["--verbosity", "2"], ["--verbosity", "4"]]
    for cell in cells:
        taken = cell["context"]["memory"]
        assert taken["ram_bytes"] > 0 and taken["vram_bytes"] is None and not taken["on_gpu"]
