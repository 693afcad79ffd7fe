"""What a sweep found, put to use: apply, export, import and compare as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import urllib.request

from tests.e2e.conftest import PATIENCE_S, Lab, until

NINE = "instances,parallel,batch,ubatch,concurrency,throughput_tps,total_tokens,elapsed_s,errors"
THEIRS = f"""{NINE}
2,2,default,default,1,90.5,128,1.41,0
2,2,default,default,4,210.0,512,2.43,0
1,2,default,default,4,0.0,0,0.00,4
"""
SWEEP = ("--axis", "instances=1,2", "--axis", "parallel=2", "--axis", "concurrency=4", "--seconds", "1",
         "--no-confirm")  # fmt: skip


def ask(url: str) -> object:
    body = json.dumps({"prompt": "a b", "n_predict": 4, "ignore_eos": True}).encode()
    with urllib.request.urlopen(f"{url}/completion", body, timeout=PATIENCE_S) as answer:
        return json.load(answer)["tokens_predicted"]


def test_the_winner_is_applied_exported_and_compared(lab: Lab) -> None:
    found = lab.json("sweep", *SWEEP)
    best = found["best"]
    assert found["cells"][best["cell"] - 1]["throughput_tps"] == best["throughput_tps"]
    until(lambda: lab.status()["instances"] == [], "its fleet is gone")
    mine = f"http://127.0.0.1:{lab.front_port - 1}"
    done = lab.run("apply", "1", LAB_TUI_SERVE_FRONT_PORT=str(lab.front_port - 1))
    assert done.stdout == f"{mine}\n"
    assert "tokens of context a slot" in done.stderr
    fleet = lab.status()["fleet"]
    assert (fleet["instances"], fleet["parallel"]) == (best["instances"], best["parallel"])
    assert ask(mine) == 4
    other = 1 if best["instances"] == 2 else 2
    rows = lab.run("results", "show", "1").stdout.splitlines()
    place = next(row.split()[0] for row in rows[1:] if row.split()[1] == str(other))
    done = lab.run("apply", "1", "--cell", place, "--ctx-per-slot", "1024")
    assert done.stdout == f"{mine}\n"  # where the fleet was
    fleet = lab.status()["fleet"]
    assert (fleet["instances"], fleet["ctx_per_slot"]) == (other, 1024)
    commands = [i["command"] for i in lab.status()["instances"]]

    script = lab.home / "start it"
    lab.run("export", "1", "--format", "sh", "-o", str(script), "--cell", place, "--ctx-per-slot", "1024")
    assert os.access(script, os.X_OK)
    lab.run("down")
    env = lab.env | {"TMPDIR": str(lab.home)}
    run = subprocess.Popen([script], env=env, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == f"{mine}\n"
    assert ask(mine) == 4
    assert all(command in lab.commands() for command in commands)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 128 + signal.SIGTERM

    table = lab.home / "out.csv"
    lab.run("results", "export", "1", "-o", str(table))
    assert lab.run("results", "export", "1", "-o", "-").stdout == table.read_text()
    assert "import:out.csv  done  2/2" in lab.run("import", str(table)).stdout
    lab.run("results", "export", "2", "-o", str(lab.home / "again.csv"))
    before, after = (
        list(csv.DictReader(file.read_text().splitlines())) for file in (table, lab.home / "again.csv")
    )
    for a, b in zip(before, after, strict=True):
        assert all(
            a[column] == b[column] for column in (*NINE.split(","), "ttft_p95_ms", "took_s", "verdict")
        )
    pairs = lab.json("results", "compare", "1", "2")
    assert [(pair["instances"], pair["ratio"]) for pair in pairs] == [(1, 1.0), (2, 1.0)]
    done = lab.run("apply", "2", code=1)
    assert "was imported and does not say which model it was: name it with -m MODEL" in done.stderr
    assert lab.status()["instances"] == []
    assert lab.run("apply", "2", "-m", lab.model).stdout == f"{lab.url}\n"
    lab.run("engine", "stop")
    assert lab.processes() == []


def test_files_of_others_and_what_is_refused(lab: Lab) -> None:
    for args, says in (
        (("apply", "9"), "there is no sweep 9"),
        (("export", "9", "--format", "sh"), "there is no sweep 9"),
        (("export", "9", "--format", "deb"), "there is no format deb: choose one of sh, systemd, compose"),
        (("import", "nowhere.csv"), "cannot read nowhere.csv (No such file or directory)"),
        (("import", "."), "(Is a directory)"),
        (("import", lab.model), "is not UTF-8 text"),
    ):
        done = lab.run(*args, code=1)
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    until(lambda: lab.processes() == [], "everything has ended")

    theirs, lost = lab.home / "theirs.csv", lab.home / "lost.csv"
    theirs.write_text(THEIRS)
    lost.write_text("\n".join([NINE, THEIRS.splitlines()[3]]))
    assert "import:theirs.csv  done  3/3  1 failed  best 2×2 c=4 210.0 tok/s" in (
        lab.run("import", "theirs.csv").stdout
    )
    assert lab.json("results", "best", "1")["best"]["throughput_tps"] == 210.0
    failed = lab.json("results", "show", "1")["cells"][2]
    assert (failed["status"], failed["throughput_tps"]) == ("failed", None)
    lab.run("import", "lost.csv")
    theirs.write_text(THEIRS.replace("210.0", "fast"))
    done = lab.run("import", "theirs.csv", code=1)
    assert "theirs.csv line 3, column throughput_tps: 'fast' is not a number" in done.stderr
    assert [s["id"] for s in lab.json("results", "list")] == [2, 1]

    ids = {}
    for tps in ("205.5", "208.0", "100.0"):
        file = lab.home / f"{tps}.csv"
        file.write_text(
            f"{NINE},status,reason,took_s,throughput_ci95_tps\n2,2,2048,512,4,{tps},1,1,0,measured,,1,2.5\n"
        )
        ids[tps] = lab.run("import", str(file)).stdout.split()[1]
    for b, line in (
        (ids["208.0"], "2 2 4 205.5 ±1.2% 208.0 ±1.2% 1.01 within ±"),
        (ids["100.0"], "2 2 4 205.5 ±1.2% 100.0 ±2.5% 0.49 beyond ±"),
        ("1", "2 2 4 205.5 ±1.2% 210.0 - 1.02 no interval"),
    ):
        head, only = lab.run("results", "compare", ids["205.5"], b).stdout.splitlines()
        assert (
            head.split() == f"INST PAR CONC TOK/S of {ids['205.5']} ± TOK/S of {b} ± RATIO DIFFERENCE".split()
        )
        assert only.split() == line.split()

    kept = lab.home / "kept.sh"
    kept.write_text("mine")
    export = ("export", "1", "-m", lab.model, "--format")
    refused: tuple[tuple[tuple[str, ...], str], ...] = (
        (("export", "2", "--format", "sh"), "sweep 2 has no best cell: 0 tok/s with 4 errors"),
        (("apply", "1", "--cell", "4", "-m", lab.model), "sweep 1 has no cell 4: it has 1 to 3"),
        (("apply", "1", "--cell", "0", "-m", lab.model), "sweep 1 has no cell 0: it has 1 to 3"),
        (("export", "1", "--format", "nginx"), "name it with -m MODEL"),
        ((*export, "sh", "-o", "kept.sh"), "kept.sh exists: --force overwrites it"),
        ((*export, "systemd", "-o", "kept.sh"), "kept.sh is a file: name a folder"),
        ((*export, "sh", "-o", "/nowhere/x"), "cannot write /nowhere/x (No such file or directory)"),
    )
    for command, line in refused:
        done = lab.run(*command, code=1)
        assert line in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert kept.read_text() == "mine"
    (lab.home / "made").mkdir()
    for format_, output, files in (
        ("sh", "kept.sh", ["kept.sh"]),
        ("nginx", "made", ["made/nginx.conf"]),
        ("compose", "made", ["made/compose.yaml"]),
        ("systemd", "units", ["units/llama-fleet.target", "units/llama-fleet@.service"]),
    ):
        done = lab.run(*export, format_, "-o", output, "--force")
        assert all(f"wrote {file}\n" in done.stderr for file in files)
        printed = lab.run(*export, format_).stdout
        assert all((lab.home / file).read_text() in printed for file in files)
        assert f"127.0.0.1:{lab.front_port}" in printed
