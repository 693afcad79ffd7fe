"""bench and sweep as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE_S, Lab, until

NINE = "instances,parallel,batch,ubatch,concurrency,throughput_tps,total_tokens,elapsed_s,errors"
SHORT = ("--axis", "instances=1,2", "--axis", "parallel=2", "--axis", "concurrency=1,4", "--seconds", "2",
         "--no-confirm")  # fmt: skip


def measured_cells(lab: Lab) -> int:
    """Of the first sweep in the queue; 0 while there is none."""
    status = lab.status()
    return int(status["queue"][0]["cells_measured"]) if status and status["queue"] else 0


def load(lab: Lab) -> dict[str, Any]:
    """What runs; empty when nothing does."""
    return lab.status()["load"] or {}


def is_measured(load: dict[str, Any]) -> bool:
    """Whether tokens came in its last second, all of which is inside the window."""
    return load.get("phase") == "measuring" and load["phase_s"] > 1.5 and load["tps"] > 0


def load_workers(lab: Lab) -> int:
    return sum("lab_tui.load.worker" in command for command in lab.commands())


def test_bench_of_the_fleet_and_of_a_url(lab: Lab) -> None:
    lab.run("up", "-i", "2", "-p", "2")
    result = lab.json("bench", "-c", "4", "--seconds", "2", "--output-tokens", "16")
    for key in ("throughput_tps", "throughput_ci95_tps", "prompt_tps", "total_tokens", "elapsed_s",
                "requests", "concurrency", "errors", "errors_by_kind", "ttft_ms", "itl_ms", "tpot_ms",
                "e2e_ms", "per_stream_tps", "tokens", "client", "verdict"):  # fmt: skip
        assert key in result
    assert set(result["ttft_ms"]) >= {"p50", "p95", "p99"}
    assert set(result["tokens"]) >= {"stream", "timings", "metrics"}
    assert set(result["client"]) >= {"cpu_us_per_token", "loop_lag_ms_p99"}
    assert result["errors"] == 0
    assert result["concurrency"] == 4
    assert result["total_tokens"] > 0
    assert abs(result["throughput_tps"] - result["total_tokens"] / result["elapsed_s"]) < 1.0
    assert (
        abs(result["tokens"]["stream"] - result["tokens"]["metrics"]) <= 0.02 * result["tokens"]["stream"] + 8
    )
    other = lab.json("bench", "-c", "2", "--requests", "4", "--url", f"{lab.url}/v1", "--output-tokens", "8")
    assert other["requests"] == 4
    assert other["errors"] == 0


def test_a_thousand_streams_each_more_than_one_request(lab: Lab) -> None:
    """With too few spare connections nginx closes kept-alive ones under a request that is on its way."""
    lab.run("up", "-i", "2", "-p", "8")
    result = lab.json("bench", "-c", "1024", "--requests", "2048", "--output-tokens", "8")
    assert result["errors"] == 0, result["errors_by_kind"]
    assert result["requests"] == 2048
    assert result["tokens"]["stream"] == result["tokens"]["timings"] == result["tokens"]["metrics"] == 16384
    assert set(result["tokens_by_instance"]) == {"0", "1"}


def test_bench_bad_input(lab: Lab) -> None:
    for args, says in (
        (("-c", "0"), "concurrency is 0"),
        (("--seconds", "0"), "seconds is 0"),
        (("--requests", "0"), "requests is 0"),
        ((), "no fleet is up"),
        (("--url", "http://127.0.0.1:9"), "refused"),
        (("--url", ""), "--url is empty"),
        (("--output-tokens", "many"), "--output-tokens is many"),
        (("--output-tokens", "9-3"), "--output-tokens is 9-3"),
        (("--output-distribution", "odd"), "--output-distribution is odd"),
        (("--output-distribution", "normal"), "give --output-tokens 64-256"),
        (("--endpoint", "odd"), "--endpoint is odd"),
        (("--rate", "0"), "--rate is 0"),
        (("--interval", "0"), "--interval is 0"),
        (("--interval", "2", "--seconds", "3"), "choose one"),
        (("--no-unique-prefix",), "give --prompt-file"),
        (("--prompt-file", "none.jsonl", "--url", "http://127.0.0.1:9"), "none.jsonl: no such file"),
    ):
        done = lab.run("bench", *args, code=1)
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    until(lambda: lab.processes() == [], "everything has ended")


def test_a_workload_of_ones_own(lab: Lab) -> None:
    """A file of prompts, answers of many lengths, an open loop: all from the command line."""
    prompts = lab.home / "prompts.jsonl"
    prompts.write_text('{"prompt": "one two three"}\n{"messages": [{"role": "user", "content": "four"}]}\n')
    lab.run("up", "-i", "1", "-p", "4")
    result = lab.json("bench", "-c", "4", "--requests", "24", "--output-tokens", "4-40",
                      "--output-distribution", "exponential", "--prompt-file", prompts.name,
                      "--no-unique-prefix", "--slo-ttft-ms", "60000")  # fmt: skip
    assert result["requests"] == 24
    assert 4 < result["output_tokens_mean"] < 40
    assert result["goodput_rps"] > 0
    machine = result["machine"]
    assert set(machine) >= {"slots_busy", "queue_depth", "gpus", "joules_per_token"}
    paced = lab.json("bench", "-c", "4", "--seconds", "4", "--rate", "5", "--output-tokens", "4")
    behind = [flag for flag in paced["flags"] if flag.startswith("backlog: ")]  # as a busy machine may be
    assert paced["requests_per_s"] == pytest.approx(5, abs=3) or (paced["requests_per_s"] < 5 and behind)
    assert paced["machine"]["cpu_pct"] > 0 and paced["machine"]["rss_bytes"] > 0
    chat = lab.json("bench", "-c", "1", "--requests", "1", "--endpoint", "chat", "--output-tokens", "8")
    assert chat["errors"] == 0 and chat["requests"] == 1
    prompts.write_text('{"prompt": "one"}\n{"prompt": \n')
    broken = lab.run("bench", "-c", "1", "--requests", "1", "--prompt-file", str(prompts), code=1)
    assert f"{prompts} line 2: not JSON" in broken.stderr
    long = lab.run("bench", "-c", "1", "--requests", "1", "--prompt-tokens", "9000", code=1)
    assert "a prompt of 9000 and an answer of 128 tokens do not fit" in long.stderr.splitlines()[-1]


def test_interrupting_a_bench_gives_what_was_measured_and_ends_its_load(lab: Lab) -> None:
    lab.run("up", "-i", "1", "-p", "2")
    bench = lab.start("bench", "-c", "2", "--seconds", "60", "--json")
    until(lambda: is_measured(load(lab)), "there is something to give")
    bench.send_signal(signal.SIGINT)
    out, err = bench.communicate(timeout=PATIENCE_S)
    assert bench.returncode == 130, err
    result = json.loads(out)
    assert result["window_closed_by"] == "hand"
    assert result["throughput_tps"] > 0
    assert 0.5 < result["elapsed_s"] < 50

    again = lab.start("bench", "-c", "2", "--seconds", "60")
    until(lambda: load(lab).get("phase") == "measuring", "the window is open")
    again.send_signal(signal.SIGINT)
    until(lambda: load(lab).get("phase") != "measuring", "the first one is taken")
    again.send_signal(signal.SIGINT)  # the second one does not wait for anything
    assert again.wait(PATIENCE_S) == 130
    again.communicate()
    until(lambda: not load_workers(lab) and lab.status()["load"] is None, "the load has ended")


def test_a_sweep_to_its_end(lab: Lab) -> None:
    file = lab.home / "out.csv"
    result = lab.json("sweep", "--preset", "quick", *SHORT, "--csv", str(file))
    assert result["status"] == "done"
    assert result["cells_total"] == result["cells_measured"] == 4
    assert result["cells_skipped"] == 0
    assert set(result) >= {"id", "status", "cells_total", "cells_measured", "cells_skipped", "elapsed_s",
                           "best", "tied", "cells"}  # fmt: skip
    best = result["best"]
    sound = [cell for cell in result["cells"] if cell["verdict"] != "unstable"] or result["cells"]
    assert best["throughput_tps"] == max(cell["throughput_tps"] for cell in sound)
    assert set(best) >= {"instances", "parallel", "concurrency", "throughput_tps", "throughput_ci95_tps"}
    assert file.read_text().startswith(NINE + ",")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(r["instances"], r["concurrency"]) for r in rows] == [
        ("1", "1"),
        ("1", "4"),
        ("2", "1"),
        ("2", "4"),
    ]
    assert all(float(row["throughput_tps"]) > 0 for row in rows)
    until(lambda: lab.status()["instances"] == [], "its fleet is gone")
    exported = lab.run("results", "export", str(result["id"]), "--format", "csv").stdout
    assert exported.strip() == file.read_text().strip()
    assert "best" in lab.run("results", "show", str(result["id"])).stdout
    lab.run("engine", "stop")
    assert lab.processes() == []


def test_a_sweep_outlives_a_killed_engine(lab: Lab) -> None:
    sweep = lab.start("sweep", "--preset", "quick", *SHORT)
    until(lambda: measured_cells(lab) >= 1, "one cell is measured")
    os.kill(lab.engine_pid(), signal.SIGKILL)
    assert "`lab-tui queue resume` goes on" in sweep.communicate(timeout=PATIENCE_S)[1].splitlines()[-1]
    assert sweep.returncode == 1
    until(lambda: lab.status() is None, "the engine is dead")
    lab.run("results")
    waiting = lab.status()
    assert waiting["queue_paused"]
    kept = waiting["queue"][0]["cells_measured"]
    assert kept >= 1
    lab.run("queue", "resume")
    until(lambda: not lab.status()["queue"], "the sweep is over")
    detail = lab.json("results", "show", "1")
    assert detail["status"] == "done"
    assert detail["cells_measured"] == 4


def test_a_sweep_gives_the_fleet_back(lab: Lab) -> None:
    lab.run("up", "-i", "1", "-p", "1")
    before = lab.status()["fleet"]
    lab.json("sweep", "--axis", "concurrency=1", "--axis", "parallel=2", "--seconds", "1")
    assert lab.status()["fleet"] == before  # whoever waits for a sweep waits for that, too
    until(lambda: lab.status()["front"]["ready"] == 1, "the fleet is back")


def test_aborting_a_sweep_keeps_what_was_measured(lab: Lab) -> None:
    sweep = lab.start("sweep", "--preset", "quick", *SHORT)
    until(lambda: measured_cells(lab) >= 1, "one cell is measured")
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(PATIENCE_S) == 130
    sweep.communicate()
    until(lambda: not (lab.status() or {"queue": ()})["queue"], "the queue is empty, or the engine gone")
    detail = lab.json("results", "show", "1")
    assert detail["status"] == "aborted"
    assert 1 <= detail["cells_measured"] < 4
    kept = [cell for cell in detail["cells"] if cell["status"] == "measured"]
    assert len(kept) == detail["cells_measured"] and all(cell["throughput_tps"] > 0 for cell in kept), kept


def test_sweep_bad_input(lab: Lab) -> None:
    for args, says in (
        (("--axis", "instances=0"), "axis instances: 0 is out of range"),
        (("--axis", "colour=1"), "no axis 'colour'"),
        (("--axis", "instances="), "axis instances has an empty value"),
        (("--preset", "nope"), "no preset nope"),
        (("--strategy", "nope"), "no strategy nope"),
        (("--slo-ttft-ms", "-1"), "--slo-ttft-ms is -1"),
        (("--budget", "soon"), "--budget is 'soon': give a time such as 90s, 10m, 1h30m or 1.5h"),
        (("--budget", "0"), "--budget is '0'"),
        (("--budget", "5s"), "a budget of 5s is shorter than one cell"),
        (("--csv", "x.csv", "--detach"), "--csv does not go with --detach"),
        (("-m", "/nowhere.gguf"), "does not exist"),
        (("--csv", "/nowhere/x.csv"), "cannot write /nowhere/x.csv"),
    ):
        done = lab.run("sweep", *args, code=1)
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    until(lambda: lab.processes() == [], "everything has ended")
    assert not Path("/nowhere").exists()


def test_a_sweep_outlives_a_hang_up(lab: Lab) -> None:
    sweep = lab.start("sweep", "--preset", "quick", *SHORT)
    until(lambda: lab.status() and lab.status()["queue"], "the sweep is queued")
    sweep.send_signal(signal.SIGHUP)
    sweep.wait(PATIENCE_S)
    sweep.communicate()
    until(lambda: measured_cells(lab) >= 1, "it goes on")
    lab.run("queue", "remove", "1")
