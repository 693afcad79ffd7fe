"""The machine around a measurement: what was read while the window was open, as means and peaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lab_tui.model import Data, GpuLoad, GpuReading, HostReading, InstanceView, MachineLoad


class Around(Data, frozen=True, kw_only=True):
    """One look at everything beside the load itself."""

    host: HostReading
    gpus: tuple[GpuReading, ...] = ()
    instances: tuple[InstanceView, ...] = ()


def machine_load(seen: Sequence[Around], tps: float) -> MachineLoad:
    """What was read during a measurement of ``tps`` tok/s."""
    indices = sorted({gpu.index for around in seen for gpu in around.gpus})
    gpus = tuple(_gpu_load([g for around in seen for g in around.gpus if g.index == at]) for at in indices)
    watts = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    rss = [total for around in seen if (total := _sum(i.rss_bytes for i in around.instances)) is not None]
    return MachineLoad(
        cpu_pct=mean(around.host.cpu_pct for around in seen),
        rss_bytes=max(rss, default=None),
        slots_busy=mean(_sum(i.busy for i in around.instances) for around in seen),
        queue_depth=mean(_sum(i.queue for i in around.instances) for around in seen),
        gpus=gpus,
        joules_per_token=sum(watts) / tps if watts and len(watts) == len(gpus) and tps > 0 else None,
    )


def _gpu_load(readings: Sequence[GpuReading]) -> GpuLoad:
    used = [gpu.memory_used_bytes for gpu in readings if gpu.memory_used_bytes is not None]
    return GpuLoad(
        index=readings[0].index,
        util_pct=mean(gpu.util_pct for gpu in readings),
        util_peak_pct=max((gpu.util_pct for gpu in readings if gpu.util_pct is not None), default=None),
        memory_bytes=max(used, default=None),
        power_w=mean(gpu.power_w for gpu in readings),
        power_pct=mean(
            100 * gpu.power_w / gpu.power_cap_w for gpu in readings if gpu.power_w and gpu.power_cap_w
        ),
    )


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None when any part of it is not known, or there is none."""
    whole = list(values)
    known = [value for value in whole if value is not None]
    return sum(known) if known and len(known) == len(whole) else None
