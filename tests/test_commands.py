"""What commands say and ask, over an engine made by hand."""

from __future__ import annotations

import io
import sys
from typing import Any

import msgspec
import pytest

from lab_tui.cli import fleet, sweep
from lab_tui.model import SweepDetail
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


def test_live_streams_are_cut_only_after_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instance has 16 streams at work and 3 waiting; the first one stays as it is."""
    assert "This cuts 57 live streams of the running fleet" in ask(monkeypatch, "y", parallel=4)
    assert "This cuts 76 live streams" in ask(monkeypatch, "y", front_port=8089)
    assert ask(monkeypatch, "", yes=True, parallel=4) == ""
    assert ask(monkeypatch, "", kept=4) == ""
    with pytest.raises(SystemExit) as end:
        ask(monkeypatch, "", parallel=4)
    assert end.value.code == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    fleet.ask_before_cutting(FLEET, yes=False)  # no terminal: nothing is asked


def test_each_cell_of_an_attached_sweep_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    told: set[int] = set()
    spec = sweep_spec()
    for rates in ((10.0,), (10.0,), (10.0, 20.0, 30.0), (10.0, 20.0, 30.0)):
        detail = SweepDetail(view=sweep_view(), spec=spec, cells=tuple(viewed(spec, *rates)))
        sweep._tell_new(detail, told)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said] == ["10.0", "20.0", "30.0"]
