"""What counts as hung, and what is merely busy."""

from __future__ import annotations

from lab_tui.serving.pulse import GIVEN_UP_S, SILENT, SILENT_S, STOPPED, Look, Pulse


def looks(pulse: Pulse, begin: float, end: float, cpu_share: float, *, halted: bool = False) -> list[str]:
    """What is said at each second from ``begin`` to ``end`` of one that does not answer."""
    return [
        pulse.judge(float(at), Look(halted=halted, cpu_s=100 + cpu_share * at))
        for at in range(int(begin), int(end) + 1)
    ]


def test_one_that_was_stopped_hangs_at_once_and_is_never_given_up() -> None:
    pulse = Pulse(0.0)
    assert set(looks(pulse, 1, 1000, 0.0, halted=True)) == {STOPPED}
    assert not pulse.given_up(1000.0)
    assert pulse.judge(1001.0, None) == ""


def test_one_that_works_is_busy_however_long_it_is_silent() -> None:
    pulse = Pulse(0.0)
    assert set(looks(pulse, 1, 1000, 0.05)) == {""}


def test_one_that_neither_answers_nor_works_hangs_and_is_given_up_in_the_end() -> None:
    pulse = Pulse(0.0)
    said = looks(pulse, 1, 9, 0.002)  # a thread that looks at its clock is no work
    assert said.index(SILENT) + 1 == SILENT_S
    assert not pulse.given_up(9.0)
    looks(pulse, 10, int(SILENT_S + GIVEN_UP_S), 0.002)
    assert pulse.given_up(SILENT_S + GIVEN_UP_S)
    assert pulse.judge(100.0, None) == ""  # it came back by itself
    assert not pulse.given_up(200.0)


def test_work_in_between_begins_anew() -> None:
    pulse = Pulse(0.0)
    looks(pulse, 1, 5, 0.0)
    assert pulse.judge(6.0, Look(halted=False, cpu_s=101)) == ""
    assert pulse.judge(7.0, Look(halted=False, cpu_s=101)) == ""
