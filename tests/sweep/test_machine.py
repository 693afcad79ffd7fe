"""The machine's readings as means and peaks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import pytest

from lab_tui.model import GpuReading, HostReading, InstanceState, InstanceView, MachineLoad, Others
from lab_tui.sweep.machine import Around, beside, machine_load, throttling, within
from lab_tui.sweep.processors import Spent, other_work_pct, spent
from lab_tui.sweep.verdict import other_work_flags


def instance(index: int, **fields: Any) -> InstanceView:
    return InstanceView(index=index, state=InstanceState.READY, port=9000 + index, slots=4, **fields)


def around(
    cpu: float | None, *gpus: GpuReading, instances: tuple[InstanceView, ...] = (), at: float = 0.0
) -> Around:
    host = HostReading(name="here", cores=2, cpu_pct=cpu)
    return Around(host=host, gpus=gpus, instances=instances, cards_at=at)


def test_means_and_peaks_of_what_was_read() -> None:
    def card(index: int, util: float, watts: float, memory: int) -> GpuReading:
        return GpuReading(
            index=index,
            name="card",
            util_pct=util,
            power_w=watts,
            power_cap_w=400.0,
            memory_used_bytes=memory,
        )

    def fleet(busy: int, queue: int, rss: int) -> tuple[InstanceView, ...]:
        return tuple(instance(i, busy=busy, queue=queue, rss_bytes=rss) for i in range(2))

    seen = [
        around(50.0, card(0, 80.0, 200.0, 10), card(1, 0.0, 50.0, 1), instances=fleet(4, 0, 100)),
        around(70.0, card(0, 100.0, 300.0, 30), card(1, 0.0, 50.0, 1), instances=fleet(2, 1, 300), at=2.0),
    ]
    found = machine_load(seen, tps=100.0)
    assert (found.cpu_pct, found.rss_bytes, found.slots_busy, found.queue_depth) == (60.0, 600, 6.0, 1.0)
    first, second = found.gpus
    assert (first.util_pct, first.util_peak_pct, first.memory_bytes) == (90.0, 100.0, 30)
    assert (first.memory_mean_bytes, first.power_peak_w) == (20, 300.0)
    assert (first.power_w, first.power_pct) == (250.0, 62.5)
    assert (second.util_pct, second.power_w) == (0.0, 50.0)
    assert found.joules_per_token == pytest.approx((250.0 + 50.0) / 100.0)
    assert found.tokens_per_joule == pytest.approx(100.0 / (250.0 + 50.0))
    assert found.energy_from == "readings"


def test_what_was_not_read_is_not_known() -> None:
    dark = GpuReading(index=0, name="card", missing={"power_w": "not supported"})
    found = machine_load([around(None, dark, instances=(instance(0), instance(1, busy=2)))], tps=10.0)
    assert (found.cpu_pct, found.slots_busy, found.queue_depth, found.joules_per_token) == (None,) * 4
    assert found.gpus[0].util_pct is None and found.gpus[0].power_pct is None
    assert machine_load([], tps=10.0) == MachineLoad()


def test_energy_of_half_the_cards_is_not_given() -> None:
    lit = GpuReading(index=0, name="card", power_w=200.0)
    dark = GpuReading(index=1, name="card")
    assert machine_load([around(1.0, lit, dark)], tps=10.0).joules_per_token is None


def card(index: int = 0, **figures: Any) -> GpuReading:
    return GpuReading(index=index, name="card", **figures)


def test_each_reading_inside_the_window_counts_once() -> None:
    def look(at: float, cards_at: float, util: float) -> Around:
        host = HostReading(name="here", cores=2)
        return Around(
            host=host,
            gpus=(card(util_pct=util),),
            at=at,
            cards_at=cards_at,
            cards_every_s=2.0,
            slow_every_s=10.0,
        )

    before, first, second = (9.0, 5.0), (11.0, 90.0), (13.0, 100.0)
    seen = [look(10.0 + k / 2, *told) for k, told in enumerate((before, before, first, first, first, second))]
    found = machine_load(seen, tps=1.0)
    assert found.gpus[0].util_pct == 95.0  # what was read before the window opened is not of it
    assert (found.cards_every_s, found.slow_every_s) == (2.0, 10.0)


def test_energy_is_the_counters_where_there_is_one() -> None:
    def look(at: float, joules: float, watts: float) -> Around:
        return around(1.0, card(0, energy_j=joules, power_w=1.0), card(1, power_w=watts), at=at)

    # The counter says 1,200 J in 4 s; the other card 100 W for 1 s, then up to 200 W within 3 s.
    found = machine_load([look(0, 5000.0, 100.0), look(1, 5300.0, 100.0), look(4, 6200.0, 200.0)], tps=10.0)
    first, second = found.gpus
    assert (first.power_w, first.power_from) == (300.0, "counter")
    assert (second.power_w, second.power_from) == ((100.0 + 3 * 150.0) / 4, "readings")
    assert found.energy_from == "counter and readings"
    assert found.joules_per_token == pytest.approx((300.0 + 137.5) / 10)
    again = machine_load([look(0, 5000.0, 9.0), look(2, 10.0, 9.0)], tps=10.0)
    assert (again.gpus[0].power_w, again.gpus[0].power_from) == (1.0, "readings")  # the driver came back


def test_what_slowed_the_cards_is_said() -> None:
    hot, capped, free = ("heat", "power cap"), ("power cap",), ()
    seen = [
        around(1.0, card(0, throttle=hot), card(1, throttle=free), card(2), at=0.0),
        around(1.0, card(0, throttle=capped), card(1, throttle=capped), card(2), at=2.0),
    ]
    found = machine_load(seen, tps=1.0)
    assert [gpu.throttled for gpu in found.gpus] == [
        {"heat": 0.5, "power cap": 1.0},
        {"power cap": 0.5},
        None,
    ]
    assert throttling(found) == (
        "GPU 0 slowed by heat in 50% of the readings",
        "GPU 0, 1 slowed by power cap in 50% to 100% of the readings",
    )


def test_what_others_had_is_of_their_time_in_the_window() -> None:
    """A stream of 70 s had 1,000 tokens beside 250 of ours in 7 s: a hundred in that time."""
    long = Others(tokens=1000, prompt_tokens=20, share=0.8)
    found = within(long, 1, 0.1)
    assert (found.requests, found.tokens, found.prompt_tokens) == (1, 100, 2)
    assert found.share == pytest.approx(100 / 350)
    assert within(long, 1, 1.0).share == pytest.approx(0.8)
    assert within(Others(), 2, 0.5) == Others(requests=2)


def test_requests_that_never_end_are_seen_in_the_slots() -> None:
    assert beside(MachineLoad(slots_busy=2.9, queue_depth=0.1), 2) == pytest.approx(1.0)
    assert beside(MachineLoad(slots_busy=2.0, queue_depth=6.2), 8) == 0.0
    assert beside(MachineLoad(slots_busy=3.0), 2) == 0.0


BURNS = "import subprocess, sys; sys.exit(subprocess.Popen([sys.executable, '-c', 'while 1: pass']).wait())"


def test_processor_time_is_counted_down_the_tree() -> None:
    """The work is done by a grandchild; whoever is not below a root does not count."""
    idle = subprocess.Popen(["sleep", "600"])
    parent = subprocess.Popen([sys.executable, "-c", BURNS])
    try:
        began = spent([parent.pid])
        while (now := spent([parent.pid])).cpu_s < began.cpu_s + 0.3:
            pass
        assert now.at > began.at
        assert spent([idle.pid]).cpu_s < 0.3
        assert spent([idle.pid, parent.pid, parent.pid]).cpu_s < spent([parent.pid]).cpu_s + 0.3
    finally:
        for burning in psutil.Process(parent.pid).children():
            burning.kill()
        parent.kill()
        idle.kill()
        parent.wait()
        idle.wait()


def test_other_work_is_what_is_left_of_all() -> None:
    began = Spent(at=100.0, cpu_s=7.0)
    assert other_work_pct(began, Spent(at=110.0, cpu_s=17.0), 98.0, 2) == pytest.approx(48.0)
    assert other_work_pct(began, Spent(at=110.0, cpu_s=27.0), 98.0, 2) == 0.0
    assert other_work_pct(began, Spent(at=110.0, cpu_s=6.0), 98.0, 2) is None  # a process of ours ended
    assert other_work_pct(began, Spent(at=100.5, cpu_s=7.1), 98.0, 2) is None
    assert other_work_pct(began, Spent(at=110.0, cpu_s=17.0), None, 2) is None
    (said,) = other_work_flags(MachineLoad(cpu_pct=98.0, other_work_pct=48.0))
    assert said == "other work took 48 % of the processors, which were full: without it there is more"
    for cpu, other in ((98.0, 5.0), (60.0, 48.0), (98.0, None), (None, None)):
        assert other_work_flags(MachineLoad(cpu_pct=cpu, other_work_pct=other)) == ()
