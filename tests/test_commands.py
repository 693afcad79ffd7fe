"""What commands say and ask, over an engine made by hand."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab_tui.cli import fleet, status, sweep
from lab_tui.cli.output import table
from lab_tui.engine.logs import log_file
from lab_tui.model import LabError, Snapshot, SweepDetail
from tests.store.helpers import sweep_spec, viewed
from tests.ui.fake import FLEET, FakeClient, instance, snapshot, sweep_view


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def ask(
    monkeypatch: pytest.MonkeyPatch, answer: str, *, yes: bool = False, kept: int = 1, **spec: Any
) -> str:
    """What is asked before the fleet of the fake becomes another; the end of the command when it is no."""
    terminal = Terminal()

    async def keep(*_: object) -> int:
        return kept

    state = snapshot(instances=tuple(map(instance, range(4))))
    monkeypatch.setattr(fleet, "EngineClient", lambda: FakeClient(state))
    monkeypatch.setattr(fleet, "_kept", keep)
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    monkeypatch.setattr(sys, "stderr", terminal)
    fleet.ask_before_cutting(msgspec.structs.replace(FLEET, **spec), yes)
    return terminal.getvalue()


def test_live_streams_are_cut_only_after_a_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each instance has 16 streams at work and 3 waiting; the first one stays as it is."""
    assert "This cuts 57 live streams of the running fleet" in ask(monkeypatch, "y", parallel=4)
    assert "This cuts 76 live streams" in ask(monkeypatch, "y", front_port=8089)
    assert ask(monkeypatch, "", yes=True, parallel=4) == ""
    assert ask(monkeypatch, "", kept=4) == ""
    keys = tmp_path / "keys"
    keys.touch()  # with other keys in it every instance begins anew
    assert "This cuts 76 live streams" in ask(monkeypatch, "y", kept=4, api_key_file=str(keys))
    os.utime(keys, (0, 0))
    assert ask(monkeypatch, "", kept=4, api_key_file=str(keys)) == ""
    with pytest.raises(SystemExit) as end:
        ask(monkeypatch, "", parallel=4)
    assert end.value.code == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    fleet.ask_before_cutting(FLEET, yes=False)  # no terminal: nothing is asked


def test_the_status_of_no_engine_has_the_keys_of_any() -> None:
    assert list(msgspec.to_builtins(status.NOTHING)) == list(Snapshot.__struct_fields__)


def test_each_cell_of_an_attached_sweep_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    told: set[int] = set()
    spec = sweep_spec()
    for rates in ((10.0,), (10.0,), (10.0, 20.0, 30.0), (10.0, 20.0, 30.0)):
        detail = SweepDetail(view=sweep_view(), spec=spec, cells=tuple(viewed(spec, *rates)))
        sweep._tell_new(detail, told)
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
