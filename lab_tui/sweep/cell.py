"""One cell, or one bench: make the fleet be what it asks, load it, judge what was measured."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab_tui import __version__
from lab_tui.load.driver import measure
from lab_tui.load.plan import Backend, LoadPlan, Target
from lab_tui.model import (
    BenchSpec,
    Cell,
    FleetSpec,
    GpuReading,
    HostReading,
    InstanceState,
    LabError,
    LoadView,
    Measurement,
    Phase,
    SweepSpec,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep.verdict import Conditions, judge

MIB = 1 << 20
Readings = Callable[[], tuple[HostReading, tuple[GpuReading, ...]]]
OnView = Callable[[LoadView], None]


async def measure_cell(
    fleet: Fleet, cell: Cell, sweep: SweepSpec, readings: Readings, on_view: OnView
) -> Measurement:
    """Make the fleet be the cell's, measure it. Raises LabError when it could not be measured."""
    on_view(LoadView(phase=Phase.STARTING, concurrency=cell.concurrency, in_flight=0, tps=0.0))
    await fleet.up(cell.fleet)
    await fleet.wait_ready()
    plan = LoadPlan(
        target=fleet_target(fleet),
        concurrency=cell.concurrency,
        workload=cell.workload,
        window=sweep.window,
        slo=sweep.slo,
    )
    return await measure_and_judge(plan, cell.fleet, readings, on_view)


def bench_plan(fleet: Fleet, spec: BenchSpec) -> LoadPlan:
    """What ``bench`` loads: the fleet, or a URL. Raises LabError when there is nothing to load."""
    if spec.concurrency < 1:
        raise LabError(f"concurrency is {spec.concurrency}", "give 1 or more")
    if spec.url is None:
        target = fleet_target(fleet)
        assert fleet.spec is not None
        if spec.concurrency > fleet.spec.max_streams:
            raise LabError(
                f"concurrency {spec.concurrency} is more than the fleet was laid out for",
                f"at most -c {fleet.spec.max_streams}, or `lab-tui up --max-streams {spec.concurrency}`",
            )
    else:
        target = Target(url=spec.url, dialect="openai", model=spec.model, api_key=spec.api_key)
    return LoadPlan(
        target=target,
        concurrency=spec.concurrency,
        workload=spec.workload,
        window=spec.window,
        slo=spec.slo,
    )


def fleet_target(fleet: Fleet) -> Target:
    """The front and the ready instances behind it. Raises LabError when there is none."""
    backends = tuple(
        Backend(index=i.index, address=i.address) for i in fleet.instances if i.state == InstanceState.READY
    )
    url = fleet.front.view.url
    if url is None or not backends:
        raise LabError(
            "no instance is ready" if fleet.instances else "no fleet is up",
            "`lab-tui up -m MODEL` starts one, or bench another server with --url",
        )
    return Target(url=url, dialect="llama", backends=backends)


async def measure_and_judge(
    plan: LoadPlan, fleet: FleetSpec | None, readings: Readings, on_view: OnView
) -> Measurement:
    """Measure, watch the machine meanwhile, and say what held the cell back."""
    seen: list[tuple[HostReading, tuple[GpuReading, ...]]] = []

    def watch(view: LoadView) -> None:
        if view.phase == Phase.MEASURING:
            seen.append(readings())
        on_view(view)

    measured = await measure(plan, watch)
    local = fleet is not None
    conditions = Conditions(
        slots_total=fleet.instances * fleet.parallel if fleet else None,
        cpu_pct=_mean([host.cpu_pct for host, _ in seen]) if local else None,
        gpu_util_pct=_mean([gpu.util_pct for _, gpus in seen for gpu in gpus]) if local else None,
    )
    verdict, because = judge(measured, conditions)
    return msgspec.structs.replace(measured, verdict=verdict, verdict_readings=because)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


async def context(fleet: Fleet) -> dict[str, Any]:
    """What a cell ran on, to be kept with it: command lines, nginx.conf, versions, the model."""
    server, nginx = await fleet.find_parts()
    return {
        "commands": [list(instance.command) for instance in fleet.instances],
        "nginx_conf": fleet.front.config(),
        "versions": {
            "lab-tui": __version__,
            "llama-server": server.version,
            "nginx": nginx.version_text,
            "python": sys.version.split()[0],
        },
    }


def model_identity(path: Path) -> dict[str, Any]:
    """Size and a hash that names the model file without reading all of it.

    The hash is SHA-256 over the first and the last MiB: header, names and the end of the weights.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        digest = hashlib.sha256(file.read(MIB))
        file.seek(max(0, size - MIB))
        digest.update(file.read(MIB))
    return {"path": str(path), "size_bytes": size, "sha256_of_ends": digest.hexdigest()}
