"""Instances that die while they are measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from lab_tui.model import InstanceState, InstanceView, LabError
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep.deaths import Deaths


def instance(index: int, state: InstanceState, reason: str = "") -> Any:
    view = InstanceView(index=index, state=state, reason=reason, port=9000 + index, slots=1)
    return SimpleNamespace(index=index, state=state, view=lambda: view)


def test_those_that_die_are_named_once_and_those_that_were_dead_are_not() -> None:
    ready, failed, backoff = InstanceState.READY, InstanceState.FAILED, InstanceState.BACKOFF
    fleet = SimpleNamespace(instances=[instance(0, ready), instance(1, failed, "old"), instance(2, ready)])
    deaths = Deaths(cast("Fleet", fleet))
    nothing = LabError("no token came", "is it stuck?")
    deaths.look()
    assert deaths.flags() == () and deaths.named_in(nothing) is nothing
    fleet.instances[2] = instance(2, backoff, "ended by signal 11; restart 1 of 5 after 1 s")
    deaths.look()
    fleet.instances[2] = instance(2, ready)  # it came back
    deaths.look()
    assert deaths.flags() == ("died: instance 2: ended by signal 11; restart 1 of 5 after 1 s",)
    fleet.instances[0] = instance(0, InstanceState.HUNG, "stopped by a signal")
    deaths.look()
    assert deaths.flags()[1:] == ("hung: instance 0: stopped by a signal",)
    told = deaths.named_in(nothing)
    assert told.message.startswith("no token came; instance 2 died: ended by signal 11")
    assert told.remedy == "`lab-tui logs 2` shows its log"
