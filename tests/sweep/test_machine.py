"""The machine's readings as means and peaks."""

from __future__ import annotations

from typing import Any

import pytest

from lab_tui.model import GpuReading, HostReading, InstanceState, InstanceView, MachineLoad
from lab_tui.sweep.machine import Around, machine_load


def instance(index: int, **fields: Any) -> InstanceView:
    return InstanceView(index=index, state=InstanceState.READY, port=9000 + index, slots=4, **fields)


def around(cpu: float | None, *gpus: GpuReading, instances: tuple[InstanceView, ...] = ()) -> Around:
    return Around(host=HostReading(name="here", cores=2, cpu_pct=cpu), gpus=gpus, instances=instances)


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
        around(70.0, card(0, 100.0, 300.0, 30), card(1, 0.0, 50.0, 1), instances=fleet(2, 1, 300)),
    ]
    found = machine_load(seen, tps=100.0)
    assert (found.cpu_pct, found.rss_bytes, found.slots_busy, found.queue_depth) == (60.0, 600, 6.0, 1.0)
    first, second = found.gpus
    assert (first.util_pct, first.util_peak_pct, first.memory_bytes) == (90.0, 100.0, 30)
    assert (first.power_w, first.power_pct) == (250.0, 62.5)
    assert (second.util_pct, second.power_w) == (0.0, 50.0)
    assert found.joules_per_token == pytest.approx((250.0 + 50.0) / 100.0)


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
