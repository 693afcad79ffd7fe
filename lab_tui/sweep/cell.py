"""One cell, or one bench: make the fleet be what it asks, load it, judge what was measured."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from lab_tui import __version__, tasks
from lab_tui.load.driver import measure
from lab_tui.load.plan import Backend, LoadPlan, Target
from lab_tui.model import (
    BenchSpec,
    Cell,
    InstanceState,
    LabError,
    LoadView,
    MachineLoad,
    Measurement,
    Others,
    Phase,
    SweepSpec,
)
from lab_tui.serving.fleet import Fleet
from lab_tui.sweep.calibration import MATTERS_FROM_TPS, Calibration
from lab_tui.sweep.deaths import Deaths
from lab_tui.sweep.machine import Around, beside, machine_load, machine_name, throttling, within
from lab_tui.sweep.processors import Processors
from lab_tui.sweep.verdict import (
    MEMORY_WORDS,
    Conditions,
    is_near,
    judge,
    lateness,
    other_work_flags,
    others_flags,
)

MIB = 1 << 20
READINGS_EVERY_S = 1.0  # of instances, host and cards
Look = Callable[[], Around]
Calm = Callable[[], AbstractContextManager[None]]
OnView = Callable[[LoadView], None]
Ceilings = tuple[dict[str, float | None], tuple[str, ...]]  # fields of Conditions, flags


class Meter:
    """Measures, watches the machine meanwhile, and says what held the figures back."""

    def __init__(
        self, fleet: Fleet, look: Look, calibration: Calibration, calm: Calm = contextlib.nullcontext
    ) -> None:
        """``calm``: while it is entered, the readings beside the load disturb it less."""
        self._fleet = fleet
        self._calm = calm
        self._look = look
        self._calibration = calibration

    async def cell(self, cell: Cell, sweep: SweepSpec, on_view: OnView) -> Measurement:
        """Make the fleet be the cell's, measure it. Raises LabError when it could not be measured."""
        on_view(LoadView(phase=Phase.STARTING, concurrency=cell.concurrency, in_flight=0, tps=0.0))
        await self._fleet.up(cell.fleet)
        await self._fleet.wait_ready()
        plan = LoadPlan(
            target=fleet_target(self._fleet),
            concurrency=cell.concurrency,
            workload=cell.workload,
            window=sweep.window,
            slo=sweep.slo,
        )
        return await self.fleet(plan, on_view)

    async def fleet(self, plan: LoadPlan, on_view: OnView, stop: asyncio.Event | None = None) -> Measurement:
        """Measure the fleet as it is, as :func:`measure` does, and judge it with the machine's readings."""
        seen: list[Around] = []
        began: float | None = None  # unix time: when requests of the load were first in flight
        ended: float | None = None  # and when its window was closed
        phase: Phase | None = None
        deaths, processors = Deaths(self._fleet), Processors(self._fleet)

        def watch(view: LoadView) -> None:
            nonlocal began, ended, phase
            if began is None and view.in_flight:
                began = time.time()
            if view.phase != Phase.DRAINING:  # who dies afterwards has taken nothing from the figures
                deaths.look()
            if view.phase == Phase.MEASURING:
                seen.append(self._look())
            if view.phase != phase and view.phase in (Phase.MEASURING, Phase.DRAINING):
                processors.look()
                ended = time.time()
            phase = view.phase
            on_view(view)

        try:
            with self._calm():
                measured = await measure(plan, watch, stop)
            read = seen if measured.elapsed_s >= READINGS_EVERY_S else []  # else none was taken inside it
            machine = machine_load(read, measured.throughput_tps)
            other = await processors.other_work_pct(machine.cpu_pct, self._look().host.cores)
        except LabError as error:
            deaths.look()
            raise deaths.named_in(error) from error
        finally:
            await processors.end()
        machine = msgspec.structs.replace(machine, other_work_pct=other)
        measured = await self._with_others(measured, machine, began or time.time(), ended or time.time())
        measured = msgspec.structs.replace(
            measured, machine=machine, flags=(*measured.flags, *deaths.flags(), *other_work_flags(machine))
        )
        conditions = self._conditions(measured, deaths)
        late = self._late(measured, conditions)
        if measured.throughput_tps >= MATTERS_FROM_TPS:
            try:
                ceilings, unknown = await self._unless(stop, self._ceilings(measured, on_view))
            except asyncio.CancelledError:  # what is measured is not given up for what was to be added
                ceilings, unknown = {}, ("the ceiling of client and front is not known: stopped meanwhile",)
            conditions = msgspec.structs.replace(conditions, **ceilings)
            measured = msgspec.structs.replace(measured, flags=(*measured.flags, *unknown))
        return judged(msgspec.structs.replace(measured, flags=(*measured.flags, *late)), conditions)

    async def _with_others(
        self, measured: Measurement, machine: MachineLoad, began: float, ended: float
    ) -> Measurement:
        """The measurement with the requests of others in that time (unix), and a word on them."""
        others = measured.others
        try:
            requests, inside = await self._fleet.front.of_others(began, ended)
        except OSError as error:
            flag = f"requests of others are not known: the log of the front cannot be read ({error})"
            return msgspec.structs.replace(measured, flags=(*measured.flags, flag))
        if requests:
            others = within(others or Others(), requests, inside)
        elif live := beside(machine, measured.concurrency):
            others = Others(requests=round(live) or 1, share=live / (live + measured.concurrency))
        return msgspec.structs.replace(
            measured, others=others, flags=(*measured.flags, *others_flags(others))
        )

    def _late(self, measured: Measurement, conditions: Conditions) -> tuple[str, ...]:
        """The flag of a load that ran late, with the way out where there is one."""
        said, spec = lateness(measured, conditions), self._fleet.spec
        if not said or spec is None or spec.cpu_pin or spec.instances < 2:
            return (said,) if said else ()
        return (f"{said}: `lab-tui up --cpu-pin` gives each instance processors of its own",)

    def _conditions(self, measured: Measurement, deaths: Deaths) -> Conditions:
        """What the rules need to know beside the figures."""
        machine = measured.machine or MachineLoad()
        return Conditions(
            slots_total=self._slots(),
            cores=self._look().host.cores,
            cpu_pct=machine.cpu_pct,
            # Of the busiest card: one that is full holds the others' share of a request back.
            gpu_util_pct=max((g.util_pct for g in machine.gpus if g.util_pct is not None), default=None),
            gpu_power_pct=max((g.power_pct for g in machine.gpus if g.power_pct is not None), default=None),
            throttled=throttling(machine),
            memory_error=_memory_error(deaths.log_lines()),
        )

    def _slots(self) -> int | None:
        """Slots of the instances that serve; None when none does."""
        serving = [view.slots for view in self._fleet.views() if view.state == InstanceState.READY]
        return sum(serving) if serving else None

    async def _ceilings(self, measured: Measurement, on_view: OnView) -> Ceilings:
        """The ceilings that matter for this measurement, and a flag when one cannot be found."""
        try:
            _, nginx = await self._fleet.find_parts()
            found = {"ceiling_tps": await self._calibration.through_front(nginx, on_view)}
            if is_near(measured, found["ceiling_tps"]):
                found["client_tps"] = await self._calibration.client(nginx, on_view)
        except (LabError, OSError) as error:
            return {}, (f"the ceiling of client and front is not known: {error}",)
        return found, ()

    async def _unless(self, stop: asyncio.Event | None, work: Coroutine[Any, Any, Ceilings]) -> Ceilings:
        """What ``work`` finds; nothing once it is told to stop, for the result has to come now."""
        stopped = asyncio.create_task((stop or asyncio.Event()).wait(), name="stop")
        finding = asyncio.create_task(work, name="ceilings")
        try:
            await asyncio.wait({stopped, finding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.end(stopped)
            await tasks.end(finding)
        return ({}, ()) if finding.cancelled() else finding.result()


def _memory_error(lines: list[str]) -> str:
    """What an instance that died said of memory; "" when none did."""
    return next((line for line in lines if any(word in line.lower() for word in MEMORY_WORDS)), "")


async def remote(plan: LoadPlan, on_view: OnView, stop: asyncio.Event | None = None) -> Measurement:
    """Measure a server that is not ours: of its machine nothing is known."""
    return judged(await measure(plan, on_view, stop), Conditions())


def judged(measured: Measurement, conditions: Conditions) -> Measurement:
    """The measurement with its verdict."""
    verdict, because = judge(measured, conditions)
    return msgspec.structs.replace(measured, verdict=verdict, verdict_readings=because)


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
    return Target(url=url, dialect="llama", backends=backends, api_key=fleet.api_key)


async def context(fleet: Fleet) -> dict[str, Any]:
    """What a cell ran on, to be kept with it: command lines, nginx.conf, the machine, versions."""
    server, nginx = await fleet.find_parts()
    return {
        "commands": [list(instance.command) for instance in fleet.instances],
        **_seats(fleet),
        "nginx_conf": fleet.front.config(),
        "machine": machine_name(),
        "versions": {
            "lab-tui": __version__,
            "llama-server": server.version,
            "nginx": nginx.version_text,
            "python": sys.version.split()[0],
        },
    }


def _seats(fleet: Fleet) -> dict[str, Any]:
    """Where each instance ran: its cards, the variables that show it those alone, its processors.

    Nothing for a fleet that was given no place.
    """
    said = [
        {"gpu": view.gpu, "environment": instance.seat.visible, "cores": view.cores}
        for instance, view in zip(fleet.instances, fleet.views(), strict=True)
    ]
    given = any(seat["gpu"] or seat["cores"] for seat in said)
    return {"seats": said} if given else {}


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
