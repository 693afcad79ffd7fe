"""The adaptive strategy on simulated machines: how near it comes, and how few cells it takes."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from lab_tui.model import (
    CellStatus,
    CellView,
    ClientCost,
    FleetSpec,
    Measurement,
    Percentiles,
    StreamRate,
    SweepSpec,
    TokenCounts,
)
from lab_tui.sweep import space
from lab_tui.sweep.adaptive import adaptive

Surface = Callable[[int, int, int], float | None]  # instances, slots each, concurrency → tok/s


def queueing(limit: float, stream: float, overhead: float, best_parallel: int) -> Surface:
    """Servers that share a compute limit: each instance costs, and too many slots each cost too."""

    def surface(instances: int, parallel: int, concurrency: int) -> float:
        busy = min(concurrency, instances * parallel)
        crowding = 1 / (1 + (busy / instances / best_parallel) ** 2 / 8)
        linear = busy * stream
        return linear / (1 + linear / limit) * crowding / (1 + overhead * (instances - 1))

    return surface


def with_memory(surface: Surface, most_slots: int) -> Surface:
    return lambda i, p, c: None if i * p > most_slots else surface(i, p, c)


SURFACES: dict[str, Surface] = {
    "many instances": queueing(4000, 100, 0.01, 8),
    "one instance, many slots": queueing(9000, 60, 0.2, 128),
    "early knee": queueing(500, 180, 0.05, 4),
    "plateau": queueing(1000, 400, 0.0, 64),
    "cliff by memory": with_memory(queueing(9000, 60, 0.02, 64), 128),
}


def result(tps: float, concurrency: int) -> Measurement:
    nothing = Percentiles()
    return Measurement(
        throughput_tps=tps, throughput_ci95_tps=tps * 0.03, prompt_tps=None, requests_per_s=1.0,
        total_tokens=int(tps), elapsed_s=1.0, requests=1, concurrency=concurrency, errors=0, ttft_ms=nothing,
        itl_ms=nothing, tpot_ms=nothing, e2e_ms=nothing, per_stream_tps=StreamRate(),
        tokens=TokenCounts(stream=int(tps)), client=ClientCost(),
    )  # fmt: skip


def search(surface: Surface, seed: int) -> tuple[list[CellView], float]:
    """Run the strategy to its end; the cells, and the true best of the whole grid."""
    noise = random.Random(seed)
    spec = space.preset("full", FleetSpec(model="m"))
    spec = msgspec.structs.replace(spec, strategy="adaptive")
    cells = [
        CellView(index=i, cell=cell, status=CellStatus.PENDING) for i, cell in enumerate(space.cells(spec))
    ]
    truth = {
        c.index: surface(c.cell.fleet.instances, c.cell.fleet.parallel, c.cell.concurrency) for c in cells
    }
    while (decision := adaptive(cells)).next_index is not None:
        index = decision.next_index
        assert cells[index].status == CellStatus.PENDING
        tps = truth[index]
        if tps is None:
            cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.FAILED, reason="memory")
        else:
            measured = result(tps * noise.gauss(1, 0.03), cells[index].cell.concurrency)
            cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.MEASURED, result=measured)
    for index, why in decision.skips.items():
        assert why
        cells[index] = msgspec.structs.replace(cells[index], status=CellStatus.SKIPPED, reason=why)
    found = max(
        (c for c in cells if c.result is not None), key=lambda c: c.result.throughput_tps if c.result else 0
    )
    best = max(tps for tps in truth.values() if tps is not None)
    return cells, (truth[found.index] or 0.0) / best


@pytest.mark.parametrize("name", SURFACES)
def test_it_comes_near_the_best_with_few_cells(name: str) -> None:
    shares, counts = [], []
    for seed in range(20):
        cells, share = search(SURFACES[name], seed)
        assert all(c.status not in (CellStatus.PENDING, CellStatus.RUNNING) for c in cells)
        shares.append(share)
        counts.append(sum(c.status in (CellStatus.MEASURED, CellStatus.FAILED) for c in cells))
    assert sorted(shares)[10] > 0.95
    assert min(shares) > 0.85
    assert max(counts) <= 40  # of 308


def test_words_are_tried_one_by_one() -> None:
    spec = SweepSpec(
        name="custom",
        fleet=FleetSpec(model="m"),
        axes={"flash-attn": ("on", "off", "auto"), "concurrency": (4,)},
        strategy="adaptive",
    )
    cells = [CellView(index=i, cell=c, status=CellStatus.PENDING) for i, c in enumerate(space.cells(spec))]
    seen = []
    while (decision := adaptive(cells)).next_index is not None:
        seen.append(cells[decision.next_index].cell.fleet.flash_attn)
        measured = result({"on": 10.0, "off": 30.0, "auto": 20.0}[seen[-1]], 4)
        cells[decision.next_index] = msgspec.structs.replace(
            cells[decision.next_index], status=CellStatus.MEASURED, result=measured
        )
    assert sorted(seen) == ["auto", "off", "on"]


def test_where_nothing_works_it_ends() -> None:
    spec = space.preset("quick", FleetSpec(model="m"))
    cells = [CellView(index=i, cell=c, status=CellStatus.PENDING) for i, c in enumerate(space.cells(spec))]
    while (decision := adaptive(cells)).next_index is not None:
        cells[decision.next_index] = msgspec.structs.replace(
            cells[decision.next_index], status=CellStatus.FAILED, reason="no"
        )
    tried = sum(c.status == CellStatus.FAILED for c in cells)
    assert 1 <= tried < len(cells)
    assert set(decision.skips) == {c.index for c in cells if c.status == CellStatus.PENDING}
