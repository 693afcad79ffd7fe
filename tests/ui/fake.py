"""An engine made by hand: the client's methods, served from a snapshot that a test sets."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import (
    Best,
    Cell,
    CellStatus,
    CellView,
    ClientCost,
    EngineInfo,
    ExportSpec,
    Felt,
    FleetSpec,
    FrontState,
    FrontTraffic,
    FrontView,
    GpuReading,
    History,
    HostReading,
    InstanceState,
    InstanceTraffic,
    InstanceView,
    LabError,
    LoadView,
    LogLine,
    Measurement,
    ModelFile,
    Outline,
    Percentiles,
    Phase,
    SlotsView,
    SlotView,
    Snapshot,
    StreamRate,
    SweepDetail,
    SweepSpec,
    SweepStatus,
    SweepView,
    TokenCounts,
)

G = 1024**3
NOW = 1_790_000_000.0
FLEET = FleetSpec(model="/models/qwen3-4b-instruct-q4_k_m.gguf", instances=4, parallel=16)
ENGINE = EngineInfo(pid=10, version="0", uptime_s=60, socket="/run/engine.sock", log="/state/engine.log")
HOST = HostReading(
    name="gpu1", cores=16, cpu_pct=37.0, load1=5.2, memory_used_bytes=31 * G, memory_total_bytes=128 * G
)


def instance(index: int, state: InstanceState = InstanceState.READY, **more: Any) -> InstanceView:
    usual: dict[str, Any] = {"port": 9000 + index, "slots": 16, "pid": 4000 + index}
    if state is InstanceState.READY:
        usual |= {"busy": 16, "queue": 3, "tps": 412.7 - 9 * index, "rss_bytes": 5 * G, "uptime_s": 7860}
        usual |= {"reading_age_s": 0.4, "gpu": str(index)}
    usual["command"] = ("llama-server", "-m", FLEET.model, "--port", str(9000 + index))
    return InstanceView(index=index, state=state, **(usual | more))


def gpu(index: int, **more: Any) -> GpuReading:
    usual: dict[str, Any] = {"util_pct": 97.0 - index, "memory_used_bytes": 86 * G, "power_w": 540.0}
    usual |= {"memory_total_bytes": 141 * G, "power_cap_w": 700.0, "temperature_c": 61.0}
    usual |= {"clock_mhz": 1755.0, "clock_max_mhz": 1980.0, "memory_clock_mhz": 3201.0, "throttle": ()}
    usual |= {"maker": "NVIDIA", "missing": {"fan_pct": "not supported by this card"}}
    return GpuReading(index=index, name="NVIDIA H200", **(usual | more))


def sweep_view(id: int = 7, **more: Any) -> SweepView:
    usual: dict[str, Any] = {"name": "full", "strategy": "adaptive", "status": SweepStatus.RUNNING}
    usual |= {
        "created": NOW - 600,
        "cells_total": 308,
        "cells_measured": 41,
        "cells_skipped": 20,
        "eta_s": 840,
    }
    usual |= {"now": "8×32 c=256", "phase": Phase.MEASURING}
    usual |= {
        "best": Best(
            cell=9, instances=8, parallel=32, concurrency=256, throughput_tps=1198, throughput_ci95_tps=17
        )
    }
    return SweepView(id=id, **(usual | more))


QUEUED = {"status": SweepStatus.QUEUED, "cells_measured": 0, "cells_skipped": 0, "best": None, "eta_s": None}
LOAD = LoadView(
    phase=Phase.MEASURING,
    concurrency=1024,
    in_flight=1021,
    tps=1226.4,
    ttft_p95_ms=310.0,
    requests=5120,
    errors=2,
    elapsed_s=48,
    ci_half_width=0.021,
)


TRAFFIC = FrontTraffic(
    since=NOW - 900,
    requests=10_203,
    errors={503: 3, 400: 1},
    cut_off=12,
    requests_per_s=9.6,
    first_byte_p95_ms=412.0,
    streams_timed=560,
    instances=(
        InstanceTraffic(address="", requests=3, errors=3, cut_off=0, passed_on=0),
        InstanceTraffic(address="127.0.0.1:9000", requests=5100, errors=1, cut_off=12, passed_on=0),
        InstanceTraffic(address="127.0.0.1:9001", requests=5100, errors=0, cut_off=0, passed_on=2),
    ),
    connections=37,
)


def snapshot(**more: Any) -> Snapshot:
    """Four instances in different states, a load, a sweep, a queue, one card."""
    running = sweep_view()
    waiting = sweep_view(8, name="threads", strategy="grid", cells_total=12, now="", phase=None, **QUEUED)
    usual: dict[str, Any] = {
        "seq": 1,
        "time": NOW,
        "engine": ENGINE,
        "fleet": FLEET,
        "front": FrontView(
            state=FrontState.READY, url="http://127.0.0.1:8088", listens="127.0.0.1:8088", pid=9, ready=2
        ),
        "traffic": TRAFFIC,
        "instances": (
            instance(0),
            instance(1),
            instance(2, InstanceState.LOADING, uptime_s=12, rss_bytes=3 * G),
            instance(3, InstanceState.FAILED, pid=None, reason="port 9003 is in use by pid 811 (python3)"),
        ),
        "load": LOAD,
        "sweep": running,
        "queue": (running, waiting),
        "queue_paused": False,
        "gpus": (gpu(0),),
        "gpu_reason": "",
        "host": HOST,
    }
    return Snapshot(**(usual | more))


def empty(**more: Any) -> Snapshot:
    """Nothing runs: what a newcomer sees."""
    usual: dict[str, Any] = {
        "fleet": None,
        "front": FrontView(state=FrontState.STOPPED),
        "traffic": None,
        "instances": (),
        "load": None,
        "sweep": None,
        "queue": (),
        "gpus": (),
        "gpu_reason": "no NVIDIA driver (libnvidia-ml.so.1 not found)",
    }
    return snapshot(**(usual | more))


def cards(number: int) -> tuple[GpuReading, ...]:
    """A box of cards, of which one tells nothing and one tells less."""
    rows = [gpu(index) for index in range(number)]
    rows[-1] = GpuReading(index=number - 1, name="NVIDIA H200", missing={"util_pct": "MIG is on"})
    if number > 2:
        rows[1] = gpu(1, power_w=None, missing={"power_w": "not supported"} | rows[0].missing)
    if number > 3:
        rows[2] = gpu(2, throttle=("power cap", "heat"), temperature_c=88.0)
    return tuple(rows)


def history(seconds: int = 300) -> History:
    """A rise to 1,200 tok/s with some waves."""
    times = tuple(NOW - seconds + second for second in range(seconds))
    tps = tuple(1200 * min(1, s / 90) * (0.9 + 0.1 * math.sin(s / 7)) for s in range(seconds))
    series: dict[str, tuple[float | None, ...]] = {"tps": tps}
    for index in range(4):
        series[f"tps.{index}"] = tuple(value / 3 if index < 2 else None for value in tps)
    return History(time=times, series=series)


def measurement(tps: float, concurrency: int) -> Measurement:
    return Measurement(
        throughput_tps=tps,
        throughput_ci95_tps=tps * 0.015,
        prompt_tps=tps * 2,
        requests_per_s=tps / 128,
        total_tokens=int(tps * 20),
        elapsed_s=20.0,
        requests=int(tps * 20 / 128),
        concurrency=concurrency,
        errors=0,
        ttft_ms=Percentiles(p50=40.0 + concurrency, p95=60.0 + 2 * concurrency, p99=90.0 + 3 * concurrency),
        itl_ms=Percentiles(p50=9.0, p95=14.0, p99=20.0),
        tpot_ms=Percentiles(p50=9.0, p95=14.0, p99=20.0),
        e2e_ms=Percentiles(p50=1400.0, p95=2100.0, p99=2500.0),
        per_stream_tps=StreamRate(p5=tps / concurrency * 0.8, p50=tps / concurrency),
        feels="smooth",
        tokens=TokenCounts(stream=int(tps * 20), timings=int(tps * 20), metrics=int(tps * 20)),
        client=ClientCost(cpu_us_per_token=4.0, loop_lag_ms_p99=2.0),
        window_closed_by="interval",
        verdict="GPU saturated",
        verdict_readings=("GPU 0 utilisation 98 %", "slots 256/256 busy"),
    )


def sweep_detail(view: SweepView) -> SweepDetail:
    """A sweep with a cell of every kind."""
    axes: dict[str, tuple[int | str, ...]] = {
        "instances": (1, 2, 4),
        "parallel": (4, 16),
        "concurrency": (1, 4, 16, 64),
    }
    cells: list[CellView] = []
    for instances in (1, 2, 4):
        for parallel in (4, 16):
            for concurrency in (1, 4, 16, 64):
                index = len(cells)
                slots = instances * parallel
                tps = 100 * min(concurrency, slots) ** 0.6 * (0.97 if concurrency > slots else 1)
                status, reason, result = CellStatus.MEASURED, "", measurement(tps, concurrency)
                if index == 13:
                    status, reason = CellStatus.FAILED, "instance 2 died: out of memory"
                elif index == 17:
                    status, reason = CellStatus.SKIPPED, "needs 151G of 141G"
                elif index == 18:
                    status = CellStatus.RUNNING
                elif index > 18:
                    status = CellStatus.PENDING
                cells.append(
                    CellView(
                        index=index,
                        cell=Cell(
                            fleet=FleetSpec(model=FLEET.model, instances=instances, parallel=parallel),
                            concurrency=concurrency,
                            workload=PRESETS["quick"].workload,
                            axes={"instances": instances, "parallel": parallel, "concurrency": concurrency},
                        ),
                        status=status,
                        reason=reason,
                        result=result if status is CellStatus.MEASURED else None,
                    )
                )
    spec = SweepSpec(name=view.name, fleet=FLEET, axes=axes)
    return SweepDetail(view=view, spec=spec, cells=tuple(cells))


PRESETS = {
    "quick": SweepSpec(
        name="quick",
        fleet=FLEET,
        axes={"instances": (1, 2), "parallel": (1, 4), "concurrency": (1, 4, 16)},
    ),
    "full": SweepSpec(
        name="full",
        fleet=FLEET,
        axes={
            "instances": (2, 4, 8, 16),
            "parallel": (1, 2, 4, 8, 16, 32, 64),
            "concurrency": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        },
    ),
    "threads": SweepSpec(
        name="threads",
        fleet=FLEET,
        axes={"threads": (1, 2, 4), "threads-http": (2, 8), "concurrency": (16,)},
    ),
}


MODELS = (
    ModelFile(
        path=FLEET.model,
        size_bytes=5 * G // 2,
        name="qwen3-4b-instruct-q4_k_m",
        quantisation="Q4_K_M",
        parameters=4_020_000_000,
        context_length=262144,
        fits=11,
        felt=Felt(
            sweep=3,
            cell=17,
            instances=4,
            parallel=16,
            concurrency=64,
            throughput_tps=1226.4,
            stream_tps=19.3,
            feels="sluggish",
        ),
    ),
    ModelFile(
        path="/models/hub/models--org--Llama-3.3-70B-Instruct-GGUF/snapshots/1f/Llama-3.3-70B-Q4_K_M.gguf",
        size_bytes=42 * G,
        quantisation="Q4_K_M",
        parameters=70_600_000_000,
        context_length=131072,
        fits=0,
        misfit="does not fit: 1 instance needs 47.9 GB on the GPU, 15.0 GB are free",
    ),
    ModelFile(path="/models/odd.gguf", size_bytes=98 * 2**20, parameters=134_515_008, fits=64),
)


class FakeClient(EngineClient):
    """Serves ``state``; notes what it was asked to do in ``calls``."""

    def __init__(self, state: Snapshot | None = None) -> None:
        self.state = state or snapshot()
        self.calls: list[tuple[Any, ...]] = []
        self.misfit = ""  # why a fleet may not fit
        self.gone = False
        self.silent = False  # the engine hangs: the line stays open, nothing comes
        self.refusal: LabError | None = None
        self.finished: list[SweepView] = []
        self.outlines: list[SweepSpec] = []  # that were asked for
        self.found: tuple[ModelFile, ...] = MODELS
        self.log_lines = [f"line {number}: slot 0 released, n_tokens = 128" for number in range(40)]
        self.log_ends = False  # a followed log ends, as when the engine closes the line
        self.changed = asyncio.Event()

    async def __aexit__(self, *error: object) -> None:
        """There is no connection to close."""

    def set(self, state: Snapshot) -> None:
        self.state = state
        self.changed.set()

    def _answer(self, *call: Any) -> None:
        self.calls.append(call)
        if self.gone:
            raise EngineGone()
        if self.refusal:
            raise self.refusal

    async def snapshot(self) -> Snapshot:
        return self.state

    async def watch(self, interval_s: float = 1.0) -> AsyncGenerator[Snapshot, None]:
        while True:
            if self.gone:
                raise EngineGone()
            if not self.silent:
                yield self.state
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), min(interval_s, 0.05))
            except TimeoutError:
                continue

    async def history(self) -> History:
        if self.gone:
            raise EngineGone()
        return history()

    async def logs(self, source: str, tail: int = 200, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        for text in self.log_lines[-tail:]:
            yield LogLine(source=source, text=f"[{source}] {text}")
        while follow and not self.log_ends:
            await asyncio.sleep(0.05)

    async def check(self, spec: FleetSpec) -> str:
        self._answer("check", spec)
        return self.misfit

    async def up(self, spec: FleetSpec) -> None:
        self._answer("up", spec)

    async def down(self) -> None:
        self._answer("down")

    async def instance(self, index: int, action: str) -> None:
        self._answer(action, index)

    async def models(self, spec: FleetSpec) -> AsyncGenerator[ModelFile, None]:
        self.calls.append(("models", spec))
        for model in self.found:
            yield model
        if self.refusal:
            raise self.refusal

    async def slots(self, index: int) -> SlotsView:
        if self.gone:
            raise EngineGone()
        busy = [SlotView(id=i, busy=True, task=i, tokens=100 + i, tps=25.5 - i) for i in range(12)]
        reading = SlotView(id=12, busy=True, task=12)
        return SlotsView(
            age_s=0.4, slots=(*busy, reading, *(SlotView(id=i, busy=False) for i in range(13, 16)))
        )

    async def presets(self) -> dict[str, SweepSpec]:
        return PRESETS

    async def sweep(self, spec: SweepSpec) -> SweepView:
        self._answer("sweep", spec)
        return sweep_view(9, name=spec.name)

    async def outline(self, spec: SweepSpec) -> Outline:
        """As if four instances fitted."""
        if self.refusal:
            raise self.refusal
        most = max(int(value) for value in spec.axes.get("instances", (spec.fleet.instances,)))
        cells = math.prod(map(len, spec.axes.values()))
        self.outlines.append(spec)
        return Outline(
            name=spec.name,
            strategy=spec.strategy,
            cells=cells,
            cells_too_large=cells // 4 if most > 4 else 0,
            instance_starts=7 * most,
            confirm_starts=8 * most if spec.confirm else 0,
            longest_s=cells * (spec.window.max_s + 3),
            largest=msgspec.structs.replace(spec.fleet, instances=most),
            weights_bytes=2 * G,
            kv_bytes=G,
            ram_each_bytes=G // 2,
            vram_each_bytes=3 * G,
            ram_bytes=2 * G + most * G // 2,
            vram_bytes=3 * most * G,
            ram_free_bytes=90 * G,
            vram_free_bytes=14 * G,
            reserve_bytes=3 * G // 2,
            fits=most <= 4,
            reason=""
            if most <= 4
            else f"does not fit: {most} instances need 50 GB on the GPU, 15 GB are free",
        )

    async def sweeps(self) -> list[SweepView]:
        return self.finished

    async def sweep_detail(self, sweep_id: int) -> SweepDetail:
        if self.gone:
            raise EngineGone()
        known = (*self.state.queue, *self.finished)
        return sweep_detail(next((v for v in known if v.id == sweep_id), sweep_view(sweep_id)))

    async def export(self, spec: ExportSpec) -> dict[str, str]:
        self._answer("export", spec)
        return {f"it.{spec.format}": "#!/bin/sh\n" if spec.format == "sh" else f"{spec.format}\n"}

    async def queue(self, action: str) -> None:
        self._answer("queue", action)

    async def remove(self, sweep_id: int) -> None:
        self._answer("remove", sweep_id)

    async def move(self, sweep_id: int, position: int) -> None:
        self._answer("move", sweep_id, position)

    async def stop_engine(self, keep_fleet: bool = False) -> None:
        self._answer("stop_engine", keep_fleet)


def live(client: FakeClient) -> None:
    """Let time pass: the next snapshot, a second later."""
    state = client.state
    client.set(
        Snapshot(
            **{f: getattr(state, f) for f in state.__struct_fields__}
            | {"seq": state.seq + 1, "time": time.time()}
        )
    )
