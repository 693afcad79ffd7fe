"""What commands say and ask, over an engine made by hand."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from lab_tui import paths
from lab_tui.cli import bench, cut, fleet, follow, parts, queue, results, status, what_fits
from lab_tui.cli.app import app
from lab_tui.cli.output import say, table
from lab_tui.cli.service import unit_text
from lab_tui.client import EngineGone, EngineSilent
from lab_tui.engine.logs import log_file
from lab_tui.model import (
    BenchEvent,
    BenchSpec,
    Best,
    EngineInfo,
    InstanceState,
    LabError,
    Snapshot,
    SweepDetail,
    SweepSpec,
    SweepStatus,
    SweepView,
)
from lab_tui.text import typed
from lab_tui.ui.screens import picker
from tests.store.helpers import sweep_spec, viewed
from tests.ui.fake import FLEET, LOAD, MODELS, FakeClient, instance, snapshot, sweep_view


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Asked:
    """What a command asks before it cuts the streams of the fake's fleet, each instance having 19."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        instances = tuple(map(instance, range(4)))
        self.client = FakeClient(snapshot(instances=instances, load=None, sweep=None, queue=()))
        self.kept = 1  # instances that stay as they are
        self._patch = monkeypatch
        monkeypatch.setattr(cut, "EngineClient", lambda: self.client)
        monkeypatch.setattr(cut, "_build", self._no_build)
        monkeypatch.setattr(cut, "_kept", lambda *_: self.kept)

    async def _no_build(self) -> None:
        """Nobody asks a real one."""

    def before(self, act: Callable[[], None], answer: str = "y") -> str:
        terminal = Terminal()
        self._patch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        self._patch.setattr(sys, "stderr", terminal)
        act()
        return terminal.getvalue()

    def up(self, answer: str = "y", *, yes: bool = False, **spec: Any) -> str:
        return self.before(lambda: cut.ask_before_cutting(replace(FLEET, **spec), yes), answer)

    def sweep(self, answer: str = "y", *, yes: bool = False, **axes: tuple[int, ...]) -> str:
        spec = SweepSpec(name="custom", fleet=FLEET, axes={"concurrency": (1,), **axes})
        return self.before(lambda: cut.ask_before_sweep(spec, yes), answer)


def test_live_streams_are_cut_only_after_a_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each instance has 16 streams at work and 3 waiting; the first one stays as it is."""
    asked = Asked(monkeypatch)
    assert "This cuts 57 live streams of the running fleet" in asked.up(parallel=4)
    assert asked.client.calls == [("check", replace(FLEET, parallel=4))]
    assert "This cuts 76 live streams" in asked.up(front_port=8089)
    assert asked.up("", yes=True, parallel=4) == ""
    with pytest.raises(SystemExit) as end:
        asked.up("", parallel=4)
    assert end.value.code == 1
    asked.kept = 4
    assert asked.up("") == ""
    keys = tmp_path / "keys"
    keys.touch()
    os.utime(keys, (0, 0))
    assert "This cuts 76 live streams" in asked.up(api_key_file=str(keys))  # every instance begins anew
    fleet = replace(FLEET, api_key_file=str(keys))
    asked.client.state = replace(asked.client.state, fleet=fleet)
    assert asked.up("", api_key_file=str(keys)) == ""
    keys.touch()  # there may be other keys in it
    assert "This cuts 76 live streams" in asked.up(api_key_file=str(keys))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    cut.ask_before_cutting(FLEET, yes=False)  # no terminal: nothing is asked
    cut.go_on("It does not fit.", yes=False)


def test_a_sweep_asks_before_it_takes_the_fleet_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    assert "takes the fleet over and cuts 57 live streams" in asked.sweep(parallel=(1, 4))
    assert asked.sweep("", yes=True, parallel=(1, 4)) == ""
    with pytest.raises(SystemExit):
        asked.sweep("n", parallel=(1, 4))
    asked.kept = 4
    assert asked.sweep("") == ""  # it measures what runs
    asked.kept = 0
    asked.client.state = replace(asked.client.state, queue=(sweep_view(),))
    assert asked.sweep("") == ""  # those before it decide on the fleet
    asked.client.state = replace(asked.client.state, queue=(), queue_paused=True)
    assert asked.sweep("") == ""  # it waits until the queue goes on


def test_a_queue_that_goes_on_asks_before_it_takes_the_fleet_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)

    def resume(answer: str = "", *, yes: bool = False) -> str:
        return asked.before(lambda: cut.ask_before_resume(yes), answer)

    assert resume() == ""  # nothing waits
    waits = replace(asked.client.state, queue=(sweep_view(),), queue_paused=True)
    asked.client.state = waits
    assert "takes the fleet over and cuts 57 live streams" in resume("y")
    assert resume(yes=True) == ""
    with pytest.raises(SystemExit):
        resume("n")
    asked.client.state = replace(waits, sweep=sweep_view())
    assert resume() == ""  # its last cell runs, on a fleet of its own
    asked.client.state = waits
    asked.kept = 4
    assert resume() == ""


def test_an_engine_that_serves_is_stopped_only_after_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)

    def stop(answer: str = "", *, yes: bool = False) -> str:
        return asked.before(lambda: cut.ask_before_stop(yes), answer)

    assert "This stops 4 instances and cuts 76 live streams; --keep-fleet lets" in stop("y")
    assert stop(yes=True) == ""
    with pytest.raises(SystemExit):
        stop("n")
    idle = tuple(instance(index, busy=0, queue=0) for index in range(1))
    asked.client.state = replace(asked.client.state, instances=idle)
    assert "This stops 1 instance; --keep-fleet" in stop("y")
    asked.client.state = replace(asked.client.state, instances=())
    assert stop() == ""


def test_what_would_be_refused_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    asked.client.refusal = LabError("a sweep is using the fleet")
    for ask in (asked.up, asked.sweep):
        with pytest.raises(LabError, match="is using the fleet"):
            ask("")


def test_the_status_of_no_engine_has_the_keys_of_any() -> None:
    assert list(msgspec.to_builtins(status.NOTHING)) == list(Snapshot.__struct_fields__)


def test_each_cell_of_an_attached_sweep_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    told: set[int] = set()
    spec = sweep_spec()
    for rates in ((10.0,), (10.0,), (10.0, 20.0, 30.0), (10.0, 20.0, 30.0)):
        detail = SweepDetail(view=sweep_view(), spec=spec, cells=tuple(viewed(spec, *rates)))
        follow.tell_new(detail, told)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said] == ["10.0", "20.0", "30.0"]


def test_tables_are_as_wide_as_the_terminal_at_most() -> None:
    rows = [("1", "10.0", "does not fit:\n16 instances need 12.3 GB"), ("22", "-", "")]
    whole = ["#   TOK/S  REASON", " 1   10.0  does not fit: 16 instances need 12.3 GB", "22      -"]
    assert [line.rstrip() for line in table(("#", "TOK/S", "REASON"), rows).splitlines()][1:] == whole[1:]
    cut = table(("#", "TOK/S", "REASON"), rows, width=24).splitlines()
    assert cut[1:] == [" 1   10.0  does not fit…", "22      -"]


def test_a_log_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="instance 9 has no log: nothing was started yet"):
        log_file(tmp_path, "9")
    for name in ("instance-10", "instance-2", "engine"):
        (tmp_path / f"{name}.log").touch()
    with pytest.raises(LabError, match="instance 9 has no log: there are: 2, 10, engine"):
        log_file(tmp_path, "9")
    assert log_file(tmp_path, "10").name == "instance-10.log"


def test_logs_are_read_from_the_file_when_no_engine_runs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = paths.ensure_writable(paths.logs_dir(), "XDG_STATE_HOME") / "engine.log"
    file.write_text("first\nits \x1b[2Jlast words\n")
    status.logs("engine", lines=1)
    said = capsys.readouterr()
    assert said.out == "its \\x1b[2Jlast words\n"
    assert said.err == f"no engine is running: this is {file}\n"
    with pytest.raises(LabError, match="instance 0 has no log: there are: engine"):
        status.logs("0", lines=1)


async def test_an_engine_that_hangs_is_one_of_the_parts_that_doctor_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hung(FakeClient):
        async def info(self) -> EngineInfo:
            raise EngineSilent(os.getpid())

    monkeypatch.setattr(parts, "EngineClient", Hung)
    part = await parts._engine()
    assert not part.found and f"(pid {os.getpid()}) is busy" in part.problem and "try again" in part.remedy


def test_doctor_goes_on_where_the_settings_are_broken(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    file = paths.config_file()
    file.parent.mkdir()
    file.write_text("[serve]\ninstances = -4\n")
    with pytest.raises(SystemExit) as end:
        parts.doctor(as_json=True)
    told = msgspec.json.decode(capsys.readouterr().out)["parts"]
    assert end.value.code == 1
    assert {"llama-server", "nginx", "model", "engine"} < {part["name"] for part in told}
    assert (told[0]["name"], told[0]["found"]) == ("settings", False)
    assert told[0]["problem"].startswith(f"{file}: serve.instances: expected `int` >= 1")
    assert "mend or remove that key" in told[0]["remedy"]


def test_queue_and_results_are_documents_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def session() -> AsyncIterator[FakeClient]:
        yield client

    client = FakeClient(snapshot(queue_paused=True))
    client.finished = [sweep_view(3)]
    monkeypatch.setattr(queue, "EngineClient", lambda: client)
    monkeypatch.setattr(results, "engine_session", session)
    for name in ("queue", "results"):
        app([name, "--json"], standalone_mode=False)
        said = capsys.readouterr()
        kept = client.state.queue if name == "queue" else asyncio.run(client.sweeps())
        assert msgspec.json.decode(said.out, type=list[SweepView]) == list(kept)
        assert ("queue is paused" in said.err) == (name == "queue")
    with pytest.raises(LabError, match="put it after `show`"):
        app(["results", "--json", "show", "3"], standalone_mode=False)
    with pytest.raises(LabError, match="leave it out"):
        app(["queue", "--json", "pause"], standalone_mode=False)


def test_a_front_for_others_says_where_it_listens() -> None:
    here = snapshot()
    assert "front http://127.0.0.1:8088 2/4 ready" in status.status_text(here)
    front = replace(here.front, listens="0.0.0.0:8088", url_elsewhere="http://10.1.2.3:8088")
    said = "(listens on 0.0.0.0:8088, from other machines http://10.1.2.3:8088)"
    assert f"front http://127.0.0.1:8088 {said} 2/4" in status.status_text(replace(here, front=front))
    assert replace(front, listens="").beside == ""  # an engine of before does not tell


def test_the_key_of_one_server_is_sent_to_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert bench.key_for("https://api.openai.com", None) == "secret"
    assert capsys.readouterr().err == ""
    for other in (
        "http://api.openai.com",
        "https://api.openai.com.gpu2",
        "http://127.0.0.1:8000/v1",
        "http://[x",
    ):
        assert bench.key_for(other, None) is None
        assert "OPENAI_API_KEY is for https://api.openai.com/v1, so it is not sent" in capsys.readouterr().err
        assert bench.key_for(other, "its own") == "its own"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu2:8000/v1")
    assert bench.key_for("http://gpu2:8000", None) == "secret"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert bench.key_for("http://gpu3:8000", None) is None
    assert capsys.readouterr().err == ""


async def test_who_waits_for_a_fleet_does_not_wait_for_one_that_hangs() -> None:
    state = snapshot(instances=(instance(0), instance(1, InstanceState.HUNG, reason="stopped by a signal")))
    settled = await asyncio.wait_for(fleet._settle(FakeClient(state), range(2)), 5)
    assert str(fleet._failure(settled.instances[1])).startswith("instance 1 hung: stopped by a signal: ")


def test_what_was_read_before_a_load_measures_is_of_no_stranger() -> None:
    """While it warms, every slot is busy: such a reading is up to a second old when it measures."""
    load = replace(LOAD, concurrency=1, in_flight=1, tps_by_instance={0: 5.0}, phase_s=0.3)
    state = snapshot(instances=(instance(0, busy=2, queue=0, reading_age_s=0.4),), load=load)
    assert state.foreign == 0
    assert replace(state, load=replace(load, phase_s=0.5)).foreign == 1


def test_a_failed_cell_is_one_that_was_tried() -> None:
    view = sweep_view(cells_total=12, cells_measured=11, cells_failed=1)
    assert "  12/12  1 failed" in status.sweep_line(view)
    assert results._line(view)[3] == "12/12 1 failed"


def test_one_stream_is_one() -> None:
    measured = MODELS[0].felt
    assert measured is not None
    felt = replace(measured, concurrency=1, instances=1, parallel=1)
    assert "with 1 stream on 1×1" in what_fits.felt_text(felt)
    assert "a stream, 1 stream on 1×1" in picker._felt(felt)


def test_hints_can_be_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    say("start one with `lab-tui up`, or `lab-tui`")
    assert capsys.readouterr().err == "start one with `lab-tui up`, or `lab-tui`\n"
    monkeypatch.setenv("LAB_TUI_PROGRAM", "./my box/lab")
    say("start one with `lab-tui up`")
    assert capsys.readouterr().err == "start one with `'./my box/lab' up`\n"
    assert typed("lab-tui down") == "'./my box/lab' down"
    assert typed("… $ lab-tui down") == "… $ './my box/lab' down"
    assert typed("/opt/lab-tui down: lab-tui is not there") == "/opt/lab-tui down: lab-tui is not there"
    assert "LAB_TUI_PROGRAM" not in unit_text()


async def test_an_attached_sweep_says_that_the_fleet_of_before_is_not_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = "the fleet from before the sweep is down: the model is gone: fetch it, then start it anew"
    over = snapshot(sweep=None, queue=(), notices=("known",), fleet_owed=True)
    client = FakeClient(over)
    waiting = asyncio.create_task(follow.given_back(client, ("known",)))
    await asyncio.sleep(0)
    client.set(replace(over, fleet_owed=False, notices=("known", why)))
    await asyncio.wait_for(waiting, 5)
    assert capsys.readouterr().err == f"! {why}\n"


async def test_a_sweep_under_which_the_queue_pauses_by_itself_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no sweep is called aborted whose end could not be kept."""
    waiting = sweep_view(7, status=SweepStatus.QUEUED)
    full = snapshot(sweep=None, queue=(waiting,), queue_paused=True, queue_paused_why="the disk is full")
    client = FakeClient(full)
    with pytest.raises(
        LabError, match=r"sweep 7 waits, the queue is paused: the disk is full: .*queue resume"
    ):
        await asyncio.wait_for(follow.follow(client, 7, None), 5)
    await asyncio.wait_for(follow.abort(client, 7), 5)
    assert "sweep 7 is not aborted: sweep 7 waits, the queue is paused: the disk is full" in (
        capsys.readouterr().err
    )
    client.refusal = LabError("the store cannot be written", "free disk space")
    await follow.abort(client, 7)
    assert capsys.readouterr().err == (
        "sweep 7 is not aborted: the store cannot be written: free disk space\n"
    )


async def test_a_bench_says_that_its_engine_ended_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(FakeClient):
        async def bench(self, spec: BenchSpec) -> AsyncGenerator[BenchEvent, None]:
            yield BenchEvent(view=LOAD)
            raise EngineGone

    @asynccontextmanager
    async def session() -> AsyncIterator[FakeClient]:
        yield Killed()

    monkeypatch.setattr(bench, "engine_session", session)
    with pytest.raises(LabError, match="the engine ended under the bench, what was measured is lost"):
        await bench._bench(BenchSpec(concurrency=1))


def test_status_is_watched_as_json_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One document a line, so that a script reads as it goes; then the engine ends."""

    class Twice(FakeClient):
        async def watch(self, interval_s: float = 1.0) -> AsyncGenerator[Snapshot, None]:
            for seq in (1, 2):
                yield snapshot(seq=seq)

    monkeypatch.setattr(status, "EngineClient", lambda: Twice(snapshot()))
    with pytest.raises(EngineGone):
        status.status(as_json=True, watch=True)
    lines = capsys.readouterr().out.splitlines()
    assert [msgspec.json.decode(line)["seq"] for line in lines] == [1, 2]


def test_intervals_are_said_as_on_the_screen() -> None:
    cells = viewed(sweep_spec(), 200.0, 50.0, 80.0, ci=3.0)
    wide, unknown = cells[1].result, cells[2].result
    assert wide is not None and unknown is not None
    wide, unknown = replace(wide, throughput_ci95_tps=60.0), replace(unknown, throughput_ci95_tps=None)
    rows = [results._cell_line(replace(cells[0], result=one), []) for one in (cells[0].result, wide, unknown)]
    assert [row[5] for row in rows] == ["±1.5%", "±>100%", "-"]
    assert table(("±",), [row[5:6] for row in rows]).splitlines()[1:] == [" ±1.5%", "±>100%", "     -"]
    said = [bench.measurement_text(one).splitlines()[0] for one in (wide, unknown)]
    assert said[0].startswith("50.0 ±>100% (±60.0) tok/s at") and said[1].startswith("80.0 tok/s at")
    best = Best(cell=1, instances=2, parallel=4, concurrency=16, throughput_tps=200, throughput_ci95_tps=3)
    assert status.best_text(best) == "2×4 c=16 200.0 ±1.5% tok/s"


def test_a_home_of_nobody_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.expanded("~nobody-of-that-name/a.gguf") == tmp_path / "~nobody-of-that-name" / "a.gguf"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(LabError, match=r"a\.gguf: the folder that this is run in was removed"):
        paths.expanded("a.gguf")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_obstacle(home: Path, closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m lab_tui engine status --json {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ('"stopped"' in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
