"""The machine around a measurement: what was read while the window was open, as means and peaks."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from itertools import pairwise

from lab_tui.model import Data, GpuLoad, GpuReading, HostReading, InstanceView, MachineLoad, Others

BESIDE_FROM = 0.5  # requests, from which a mean of readings is more than how late they are


class Around(Data, frozen=True, kw_only=True):
    """One look at everything beside the load itself. Times are monotonic seconds."""

    host: HostReading
    gpus: tuple[GpuReading, ...] = ()
    instances: tuple[InstanceView, ...] = ()
    at: float = 0.0
    cards_at: float = 0.0  # when the cards said it
    cards_every_s: float | None = None  # how often they are asked meanwhile
    slow_every_s: float | None = None


Timed = tuple[float, GpuReading]


def machine_name() -> str:
    """This machine in a few words, by which figures of another one are told from its own."""
    return f"{platform.node()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def machine_load(seen: Sequence[Around], tps: float) -> MachineLoad:
    """What was read during a measurement of ``tps`` tok/s."""
    gpus = tuple(_gpu_load(timed) for timed in _by_card(seen))
    watts = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    whole = sum(watts) if watts and len(watts) == len(gpus) and tps > 0 else None
    rss = [total for around in seen if (total := _sum(i.rss_bytes for i in around.instances)) is not None]
    last = seen[-1] if gpus else None
    return MachineLoad(
        cpu_pct=mean(around.host.cpu_pct for around in seen),
        rss_bytes=max(rss, default=None),
        slots_busy=mean(_sum(i.busy for i in around.instances) for around in seen),
        queue_depth=mean(_sum(i.queue for i in around.instances) for around in seen),
        gpus=gpus,
        joules_per_token=whole / tps if whole is not None else None,
        tokens_per_joule=tps / whole if whole else None,
        energy_from=" and ".join(sorted({gpu.power_from for gpu in gpus})) if whole is not None else "",
        cards_every_s=last.cards_every_s if last else None,
        slow_every_s=last.slow_every_s if last else None,
    )


def beside(machine: MachineLoad, concurrency: int) -> float:
    """How many requests of others were at work all the while, in the mean; 0 when too few to be told.

    Instances never have more of ours than are in flight.
    """
    if machine.slots_busy is None or machine.queue_depth is None:
        return 0.0
    more = machine.slots_busy + machine.queue_depth - concurrency
    return more if more >= BESIDE_FROM else 0.0


def within(others: Others, requests: int, inside: float) -> Others:
    """What others had in the window, of all that was counted: ``inside`` is the part of their time in it."""
    tokens, prompts = others.tokens * inside, others.prompt_tokens * inside
    had = others.share * inside
    return Others(
        requests=requests,
        tokens=round(tokens),
        prompt_tokens=round(prompts),
        share=had / (had + 1 - others.share) if had else 0.0,
    )


def throttling(machine: MachineLoad) -> tuple[str, ...]:
    """What held the clocks of which cards back, in what part of the readings, for a reader."""
    by_reason: dict[str, dict[int, float]] = {}
    for gpu in machine.gpus:
        for reason, share in (gpu.throttled or {}).items():
            by_reason.setdefault(reason, {})[gpu.index] = share
    said = []
    for reason, cards in by_reason.items():
        least, most = min(cards.values()), max(cards.values())
        part = f"{most:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
        said.append(f"GPU {', '.join(map(str, cards))} slowed by {reason} in {part} of the readings")
    return tuple(said)


def _by_card(seen: Sequence[Around]) -> list[list[Timed]]:
    """The readings of each card that were taken since the first look, each once, in order of time."""
    inside = {around.cards_at: around.gpus for around in seen if around.cards_at >= seen[0].at}
    indices = sorted({gpu.index for gpus in inside.values() for gpu in gpus})
    return [
        [(at, gpu) for at, gpus in sorted(inside.items()) for gpu in gpus if gpu.index == index]
        for index in indices
    ]


def _gpu_load(timed: Sequence[Timed]) -> GpuLoad:
    readings = [gpu for _, gpu in timed]
    used = [gpu.memory_used_bytes for gpu in readings if gpu.memory_used_bytes is not None]
    power_w, power_from = _power(timed)
    return GpuLoad(
        index=readings[0].index,
        util_pct=mean(gpu.util_pct for gpu in readings),
        util_peak_pct=max((gpu.util_pct for gpu in readings if gpu.util_pct is not None), default=None),
        memory_bytes=max(used, default=None),
        memory_mean_bytes=round(sum(used) / len(used)) if used else None,
        power_w=power_w,
        power_peak_w=max((gpu.power_w for gpu in readings if gpu.power_w is not None), default=None),
        power_pct=mean(
            100 * gpu.power_w / gpu.power_cap_w for gpu in readings if gpu.power_w and gpu.power_cap_w
        ),
        power_from=power_from,
        throttled=_throttled(readings),
    )


def _power(timed: Sequence[Timed]) -> tuple[float | None, str]:
    """Mean watts and their source: the energy counter, else power readings by the trapezoid rule."""
    counted = [(at, gpu.energy_j) for at, gpu in timed if gpu.energy_j is not None]
    if len(counted) > 1:
        (began, first), (ended, last) = counted[0], counted[-1]
        if last > first:  # a driver that came back begins at 0
            return (last - first) / (ended - began), "counter"
    watts = [(at, gpu.power_w) for at, gpu in timed if gpu.power_w is not None]
    if len(watts) > 1:
        joules = sum((end - begin) * (one + other) / 2 for (begin, one), (end, other) in pairwise(watts))
        return joules / (watts[-1][0] - watts[0][0]), "readings"
    return (watts[0][1], "readings") if watts else (None, "")


def _throttled(readings: Sequence[GpuReading]) -> dict[str, float] | None:
    """In what share of the readings each reason held the clocks back; None when no reading tells."""
    told = [gpu.throttle for gpu in readings if gpu.throttle is not None]
    reasons = dict.fromkeys(reason for reading in told for reason in reading)
    return {r: sum(r in reading for reading in told) / len(told) for r in reasons} if told else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None when any part of it is not known, or there is none."""
    whole = list(values)
    known = [value for value in whole if value is not None]
    return sum(known) if known and len(known) == len(whole) else None
