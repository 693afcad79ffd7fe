"""Simulated machines: what a fleet of so many instances and slots makes of so many streams.

A server fills its slots one by one; each stream runs at its own speed until the instance, and then the
machine, has no more to give. Instances cost something to have, crowded instances something more, and a
fleet that does not fit into memory does not start.
"""

from __future__ import annotations

import math
import random

from lab_tui.model import (
    Cell,
    ClientCost,
    Data,
    LabError,
    Measurement,
    Percentiles,
    StreamRate,
    TokenCounts,
)

TOKENS = 128  # of an answer
NOISE = 0.03  # standard deviation of a run's tok/s, as a share of it
CI = 0.02  # half-width of the interval inside a run, as it is asked for


class Machine(Data, frozen=True, kw_only=True):
    """One simulated machine. Rates in tok/s."""

    stream: float  # of one stream that is alone
    instance: float  # the most of one instance
    limit: float  # the most of all of them
    overhead: float = 0.0  # what each further instance costs, as a share
    crowd: float = 1e6  # streams in one instance at which crowding has cost an eighth
    slots_fit: float = math.inf  # memory, in slots
    instance_slots: float = 8.0  # what an instance takes besides, in slots
    drift: float = 0.0  # share that is lost as the machine warms up
    drift_s: float = 240.0  # time constant of that

    def fits(self, instances: int, parallel: int) -> bool:
        """Whether such a fleet has memory."""
        return instances * (parallel + self.instance_slots) <= self.slots_fit

    def tps(self, instances: int, parallel: int, concurrency: int) -> float:
        """The true tok/s of a fleet, cold."""
        busy = min(concurrency, instances * parallel)
        active = min(instances, busy)
        each = busy / active
        linear = each * self.stream
        one = linear * self.instance / (linear + self.instance) / (1 + (each / self.crowd) ** 2 / 8)
        total: float = ((active * one) ** -3 + self.limit**-3) ** (-1 / 3)
        return total / (1 + self.overhead * (instances - 1))

    def warmth(self, elapsed_s: float) -> float:
        """What is left of the tok/s after so long under load."""
        return 1 - self.drift * (1 - math.exp(-elapsed_s / self.drift_s))

    def life_s(self, instances: int, parallel: int, concurrency: int) -> float:
        """How long a request takes, its time in the queue included."""
        return concurrency * TOKENS / self.tps(instances, parallel, concurrency)


MACHINES: dict[str, Machine] = {
    # A Mac Studio: one server does not fill it, sixteen do.
    "many instances": Machine(stream=110, instance=260, limit=1500, overhead=0.005, crowd=64),
    # A large GPU: one server batches best, more of them only share the card.
    "few instances, many slots": Machine(stream=120, instance=9000, limit=9000, overhead=0.08, crowd=400),
    # A few cores: full after a handful of streams, worse with more.
    "early knee": Machine(stream=25, instance=90, limit=160, overhead=0.03, crowd=5),
    "plateau with ties": Machine(stream=400, instance=2000, limit=1000),
    "cliff by memory": Machine(stream=60, instance=700, limit=9000, overhead=0.01, slots_fit=300),
    # The large GPU, which clocks down as it gets warm.
    "drifting machine": Machine(stream=120, instance=9000, limit=9000, overhead=0.08, crowd=400, drift=0.12),
}


def measured(machine: Machine, cell: Cell, elapsed_s: float, noise: random.Random) -> Measurement:
    """One run of a cell, as the load generator would give it. Raises LabError when it does not fit."""
    instances, parallel, concurrency = cell.fleet.instances, cell.fleet.parallel, cell.concurrency
    if not machine.fits(instances, parallel):
        raise LabError("instance 0 failed: out of memory")
    tps = machine.tps(instances, parallel, concurrency) * machine.warmth(elapsed_s) * noise.gauss(1, NOISE)
    busy = min(concurrency, instances * parallel)
    speed = tps / busy
    waiting_s = TOKENS / speed * (concurrency / busy - 1)
    ttft_ms = 1000 * (waiting_s + 2 / speed)
    return Measurement(
        throughput_tps=tps,
        throughput_ci95_tps=tps * CI,
        prompt_tps=None,
        requests_per_s=tps / TOKENS,
        total_tokens=round(tps * 5),
        elapsed_s=5.0,
        requests=round(tps * 5 / TOKENS),
        concurrency=concurrency,
        errors=0,
        ttft_ms=Percentiles(p50=ttft_ms, p95=1.2 * ttft_ms, p99=1.3 * ttft_ms),
        itl_ms=Percentiles(),
        tpot_ms=Percentiles(),
        e2e_ms=Percentiles(),
        per_stream_tps=StreamRate(p5=0.9 * speed, p50=speed),
        tokens=TokenCounts(stream=round(tps * 5)),
        client=ClientCost(),
    )
