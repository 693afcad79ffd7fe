"""What a dead engine left is found by its mark, and nobody else's is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lab_tui.serving import orphans

from .helpers import until


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[psutil.Popen]]:
    """Of this lab, with a child that lost the mark; of another lab; of nobody."""
    here, there = dict(os.environ), dict(os.environ)
    orphans.mark(here, tmp_path / "run")
    orphans.mark(there, tmp_path / "run2")
    grandchild = f"env -u {orphans.MARK} sleep 300 & exec sleep 301"
    made = [
        psutil.Popen(["sh", "-c", grandchild], env=here, start_new_session=True),
        psutil.Popen(["sleep", "302"], env=there, start_new_session=True),
        psutil.Popen(["sleep", "303"], start_new_session=True),
    ]
    yield made
    for child in made:
        for one in (*child.children(recursive=True), child) if child.is_running() else ():
            one.kill()
        child.wait()


async def test_ours_are_found_and_ended_and_no_others(children: list[psutil.Popen], tmp_path: Path) -> None:
    mine, *others = children
    runtime, logs = tmp_path / "run", tmp_path / "logs"

    def found() -> set[int]:
        return {process.pid for process in orphans.started_here(runtime, logs)}

    await until(lambda: len(found()) == 2 and mine.cmdline() == ["sleep", "301"], "both of ours")
    assert mine.pid in found()
    left = orphans.orphans(runtime, logs, None, ())
    assert {process.pid for process in left} == found()
    assert orphans.describe(left) == f"2 llama-server (pid {', '.join(map(str, sorted(found())))})"
    # a running engine's own are none: its children, and what it shows
    assert orphans.orphans(runtime, logs, os.getpid(), ()) == []
    assert orphans.orphans(runtime, logs, 1, (mine.pid,)) == []
    orphans.end(left)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)
    assert found() == set()
    assert all(other.poll() is None for other in others)


def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "ASK_S", 0.2)
    environment = dict(os.environ)
    orphans.mark(environment, tmp_path)
    child = psutil.Popen(["sh", "-c", 'trap "" TERM; echo on; while :; do sleep 1; done'],
                         env=environment, start_new_session=True, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout.readline() == b"on\n"
    orphans.end(orphans.started_here(tmp_path, tmp_path / "logs"))
    assert not child.is_running()
