"""One supervised child: what is started is stopped, whole; what is adopted is the same one."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from lab_tui.model import LabError
from lab_tui.serving import process as module
from lab_tui.serving.process import (
    Process,
    ProcessRecord,
    StopLadder,
    nice_session,
    session_members,
    tail,
    trim,
)

from .helpers import script, until, zombies

QUICK = StopLadder(first_wait_s=0.2, second_wait_s=0.2)
PATIENT = StopLadder(first_wait_s=30.0, second_wait_s=30.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def run(log: Path, shell: str) -> Process:
    return Process.start(("/bin/sh", "-c", shell), log, os.environ)


async def said(child: Process, word: str) -> None:
    await until(lambda: word in child.log_lines(50), f"the child to say {word}")


async def test_output_and_exit_code(log: Path) -> None:
    child = run(log, "echo out; echo err >&2; exit 3")
    assert await child.wait() == 3
    assert not child.alive()
    assert sorted(child.log_lines(10)) == ["err", "out"]
    assert child.rss_bytes() is None
    assert not zombies()


async def test_a_signal_is_a_negative_code(log: Path) -> None:
    child = run(log, "kill -9 $$")
    assert await child.wait() == -9
    child.signal(signal.SIGTERM)  # to one that is gone: nothing


async def test_one_that_stands_back(log: Path) -> None:
    child = Process.start(("/bin/sleep", "60"), log, os.environ, nice=5)
    assert psutil.Process(child.pid).nice() == psutil.Process().nice() + 5
    group = Path(f"/proc/{child.pid}/autogroup")
    if group.exists():
        while not nice_session(child.pid, 5):
            await asyncio.sleep(0.1)
        assert group.read_text().split()[-1] == "5"
    await child.stop(QUICK)


async def test_one_that_goes_when_asked_is_not_killed(log: Path) -> None:
    child = run(log, "trap 'echo bye; exit 7' TERM; echo here; while :; do sleep 0.05; done")
    await said(child, "here")
    await child.stop(PATIENT)
    assert child.returncode == 7
    assert "bye" in child.log_lines(10)


async def test_one_that_does_not_listen_is_killed(log: Path) -> None:
    child = run(log, "trap 'echo asked' TERM; echo here; while :; do sleep 0.05; done")
    await said(child, "here")
    await child.stop(QUICK)
    assert child.returncode == -9
    assert child.log_lines(10).count("asked") == 2
    assert not zombies()


async def test_the_second_rung_may_be_another_signal(log: Path) -> None:
    child = run(log, "trap '' QUIT; trap 'exit 5' USR1; echo here; while :; do sleep 0.05; done")
    await said(child, "here")
    await child.stop(
        StopLadder(first=signal.SIGQUIT, first_wait_s=0.2, second=signal.SIGUSR1, second_wait_s=30)
    )
    assert child.returncode == 5


async def test_grandchildren_are_gone_when_stop_returns(log: Path) -> None:
    child = run(log, "trap '' TERM; (trap '' TERM; sleep 300) & sleep 300 & echo here; wait; sleep 300")
    await said(child, "here")
    await until(lambda: len(session_members(child.pid)) >= 2)
    grandchildren = session_members(child.pid)
    await child.stop(QUICK)
    assert not session_members(child.pid)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in grandchildren)


async def test_what_a_dead_leader_left_is_stopped_too(log: Path) -> None:
    child = run(log, "sleep 300 & echo here")
    await child.wait()
    assert len(session_members(child.pid)) == 1
    await child.stop(QUICK)
    assert not session_members(child.pid)


async def test_wait_can_be_given_up_and_taken_up_again(log: Path) -> None:
    child = run(log, "sleep 300")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.wait(), 0.01)
    await child.stop(PATIENT)
    assert child.returncode == -15


async def test_without_pidfd(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pidfd", lambda pid: None)
    assert await run(log, "exit 4").wait() == 4


async def test_in_a_session_of_its_own_and_without_our_input(log: Path) -> None:
    child = run(log, "cat; echo end; sleep 300")
    await said(child, "end")
    assert os.getsid(child.pid) == child.pid
    assert (child.rss_bytes() or 0) > 0
    await child.stop(PATIENT)


def test_what_cannot_be_run_is_said(log: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"cannot run /none: No such file"):
        Process.start(("/none",), log, {})
    (tmp_path / "plain").write_text("")
    with pytest.raises(LabError, match="Permission denied"):
        Process.start((str(tmp_path / "plain"),), log, {})
    with pytest.raises(LabError, match=r"cannot write the log .*: No such file"):
        Process.start(("/bin/true",), tmp_path / "none" / "log", {})
    with pytest.raises(LabError, match=r"cannot write the log .*: Is a directory"):
        Process.start(("/bin/true",), tmp_path, {})


# --- adopting -----------------------------------------------------------------------------------


async def test_adopts_only_the_same_process(log: Path) -> None:
    sleeper = "import time; print('here', flush=True); time.sleep(300)"
    child = Process.start((sys.executable, "-c", sleeper), log, os.environ)
    record = child.record
    await said(child, "here")
    try:
        adopted = Process.adopt(msgspec.json.decode(msgspec.json.encode(record), type=ProcessRecord))
        assert adopted is not None
        assert adopted.pid == child.pid
        assert adopted.alive()
        wrong = msgspec.structs.replace
        assert Process.adopt(wrong(record, create_time=record.create_time - 5)) is None
        assert Process.adopt(wrong(record, command=("/opt/llama-server", "--port", "1"))) is None
        assert Process.adopt(wrong(record, pid=os.getpid())) is None
    finally:
        await child.stop(PATIENT)
    assert Process.adopt(record) is None


async def test_a_zombie_is_not_adopted(log: Path) -> None:
    child = run(log, "exit 0")
    await until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert Process.adopt(child.record) is None
    await child.wait()


async def test_an_adopted_one_is_waited_for_and_stopped(log: Path) -> None:
    child = run(log, "trap '' TERM; sleep 300 & echo here; while :; do sleep 0.05; done")
    await said(child, "here")
    adopted = Process.adopt(child.record)
    assert adopted is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(adopted.wait(), 0.01)
    await adopted.stop(QUICK)
    assert adopted.returncode is None  # nobody told us
    assert not adopted.alive()
    assert not session_members(child.pid)
    assert await child.wait() == -9


async def test_a_wrapper_that_became_another_program_is_adopted(log: Path, tmp_path: Path) -> None:
    wrapper = script(tmp_path / "wrapper", f'exec {sys.executable} -c "import time; time.sleep(300)" "$@"')
    child = Process.start((str(wrapper), "--port", "9001", "--slots"), log, os.environ)
    try:
        await until(lambda: sys.executable in psutil.Process(child.pid).cmdline())
        assert Process.adopt(child.record) is not None
        other = msgspec.structs.replace(child.record, command=(str(wrapper), "--port", "9002", "--slots"))
        assert Process.adopt(other) is None
    finally:
        await child.stop(PATIENT)


# --- logs ---------------------------------------------------------------------------------------


async def test_the_log_is_that_of_this_run_only(log: Path) -> None:
    await run(log, "echo first").wait()
    second = run(log, "echo second; sleep 300")
    await said(second, "second")
    assert second.log_lines(10) == ["second"]
    assert tail(log, 10) == ["first", "second"]
    assert tail(log, 1) == ["second"]
    adopted = Process.adopt(second.record)
    assert adopted is not None
    assert adopted.log_lines(10) == ["second"]
    await second.stop(PATIENT)


def test_tail_of_a_long_file_and_of_none(tmp_path: Path) -> None:
    path = tmp_path / "long"
    assert tail(path, 5) == []
    path.write_text("".join(f"line {n} {'x' * 90}\n" for n in range(10_000)))
    lines = tail(path, 100_000)
    assert lines[-1].startswith("line 9999 ")
    assert all(line.startswith("line ") for line in lines)
    assert len(lines) > 1000
    path.write_text("short\n")
    assert tail(path, 5, start=500_000) == ["short"]  # the file began anew
    path.write_bytes(b"\xff\xfe broken\nlast, no newline")
    assert tail(path, 5) == ["\ufffd\ufffd broken", "last, no newline"]


async def test_a_long_log_is_set_aside(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 9)
    await run(log, "echo first one").wait()
    older = log.with_name("child.log.1")
    assert not older.exists()
    second = run(log, "echo second one")
    await second.wait()
    assert tail(older, 9) == ["first one"]
    assert tail(log, 9) == ["second one"]
    assert second.log_lines(5) == ["second one"]
    await run(log, "echo third one").wait()
    assert tail(older, 9) == ["second one"]


async def test_the_log_of_a_running_child_is_trimmed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 1000)
    child = run(log, "seq 1000; echo full; sleep 1000")
    try:
        await said(child, "full")
        older, old = log.with_name("child.log.1"), tail(log, 2000)
        trim(log)
        assert tail(log, 1) == []
        assert tail(older, 2000) == old
        trim(log)  # short now: left alone
        assert tail(older, 2000) == old
    finally:
        await child.stop(QUICK)


def test_a_full_disk_does_not_keep_a_log_from_being_trimmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 10)
    monkeypatch.setattr(shutil, "copyfile", full)
    file = tmp_path / "child.log"
    file.write_text("a line or two\n")
    trim(file)
    assert file.stat().st_size == 0
