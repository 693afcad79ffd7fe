"""bench."""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import aclosing
from typing import Annotated
from urllib.parse import urlsplit

import typer

from lab_tui.cli import workload as options
from lab_tui.cli.fleet import Json
from lab_tui.cli.output import (
    INTERRUPTED,
    Progress,
    first_interrupt,
    gigabytes,
    number,
    put,
    put_json,
    run,
    say,
)
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import BenchSpec, LabError, LoadView, MachineLoad, Measurement, Slo, WindowSpec, Workload
from lab_tui.starting import engine_session
from lab_tui.text import energy, interval_share, plural

MOST_SECONDS = 86_400
OPENAI = "https://api.openai.com/v1"
PORTS = {"http": 80, "https": 443}
Ttft = Annotated[float | None, typer.Option(help="A good request's first token comes within so many ms.")]
Interval = Annotated[
    float | None,
    typer.Option(help="Measure until the 95 % interval is within ± so many %, 30 s at most.  [default: 2]"),
]
StreamTps = Annotated[float | None, typer.Option(help="A good request's stream has at least so many tok/s.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(bench)


def bench(
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", help="Streams at once.")] = 64,
    seconds: Annotated[float | None, typer.Option(help="Length of the window; without, until sure.")] = None,
    requests: Annotated[int | None, typer.Option(help="Instead: so many requests, and stop.")] = None,
    url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible server, not the fleet.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name to ask --url for.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="For --url.  [default: OPENAI_API_KEY, for the server of OPENAI_BASE_URL]"),
    ] = None,
    interval: Interval = None,
    prompt_tokens: options.PromptTokens = None,
    output_tokens: options.OutputTokens = None,
    output_distribution: options.OutputDistribution = None,
    prompt_file: options.PromptFile = None,
    unique_prefix: options.UniquePrefix = None,
    seed: options.Seed = None,
    endpoint: options.Endpoint = None,
    ignore_eos: options.IgnoreEos = None,
    rate: options.Rate = None,
    slo_ttft_ms: Ttft = None,
    slo_stream_tps: StreamTps = None,
    as_json: Json = False,
) -> None:
    """Measure the fleet, or any OpenAI-compatible server, at one concurrency."""
    _at_least_one(concurrency=concurrency, requests=requests)
    if url is not None and not url:
        raise LabError("--url is empty", "give the base URL of a server, such as http://127.0.0.1:8080")
    if model is not None and url is None:
        raise LabError("--model names a model of the server at --url", "give --url, or leave it out")
    asked = options.workload(
        Workload(),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_distribution=output_distribution,
        prompt_file=prompt_file,
        unique_prefix=unique_prefix,
        seed=seed,
        endpoint=endpoint,
        ignore_eos=ignore_eos,
        rate=rate,
    )
    spec = BenchSpec(
        concurrency=concurrency,
        url=url,
        model=model,
        api_key=key_for(url, api_key) if url else None,
        workload=asked,
        window=_window(seconds, requests, interval),
        slo=slo(slo_ttft_ms, slo_stream_tps),
    )
    result = run(_bench(spec))
    put_json(result) if as_json else put(measurement_text(result))
    if result.window_closed_by == "hand":
        raise SystemExit(INTERRUPTED)


def key_for(url: str, given: str | None) -> str | None:
    """The key for the server at ``url``: the one that was given, else OPENAI_API_KEY where it is its own.

    It is that of the server which OPENAI_BASE_URL names, else of OpenAI's; any other would come to know it.
    """
    mine = os.environ.get("OPENAI_API_KEY")
    if given is not None or not mine:
        return given
    server = os.environ.get("OPENAI_BASE_URL") or OPENAI
    if (origin := _origin(url)) is not None and origin == _origin(server):
        return mine
    say(f"OPENAI_API_KEY is for {server}, so it is not sent: --api-key or OPENAI_BASE_URL for another server")
    return None


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port; None for what is no URL."""
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme))
    except ValueError:
        return None


def _window(seconds: float | None, requests: int | None, interval_pct: float | None) -> WindowSpec:
    """When the measurement may end. Raises LabError for bounds that exclude each other."""
    check_seconds(seconds)
    given = [
        name
        for name, value in (("--seconds", seconds), ("--requests", requests), ("--interval", interval_pct))
        if value is not None
    ]
    if len(given) > 1:
        raise LabError(f"{' and '.join(given)} are given", "choose one")
    if seconds is not None:
        return WindowSpec(min_s=seconds, max_s=seconds)
    if interval_pct is not None:
        return WindowSpec(ci_half_width=half_width(interval_pct))
    return WindowSpec(requests=requests)


def half_width(interval_pct: float) -> float:
    """``--interval`` as a share. Raises LabError when it is none."""
    if not 0 < interval_pct <= 50:
        raise LabError(f"--interval is {interval_pct:g}", "give a percentage above 0, at most 50")
    return interval_pct / 100


def slo(ttft_ms: float | None, stream_tps: float | None) -> Slo:
    """The bounds of a good request. Raises LabError for one that is not a positive number."""
    for name, value in (("--slo-ttft-ms", ttft_ms), ("--slo-stream-tps", stream_tps)):
        if value is not None and not 0 < value < math.inf:
            raise LabError(f"{name} is {value:g}", "give more than 0")
    return Slo(ttft_ms=ttft_ms, stream_tps=stream_tps)


def check_seconds(seconds: float | None) -> None:
    """Raise LabError when the length of a window is not one."""
    if seconds is not None and not 0 < seconds < MOST_SECONDS:
        raise LabError(f"--seconds is {seconds:g}", f"give more than 0 and less than {MOST_SECONDS}")


def _at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise LabError(f"--{name.replace('_', '-')} is {value}", "give 1 or more")


async def _bench(spec: BenchSpec) -> Measurement:
    """Measure, showing how it goes. The first ctrl-C closes the window, a second one gives up."""
    progress = Progress()
    async with engine_session() as client:
        try:
            return await _measured(client, spec, progress)
        except EngineGone as error:
            progress.done()
            raise LabError(
                "the engine ended under the bench, what was measured is lost",
                "`lab-tui logs engine` may say why; run it again",
            ) from error


async def _measured(client: EngineClient, spec: BenchSpec, progress: Progress) -> Measurement:
    """The result, once it is there. Raises EngineGone when none comes, LabError when it cannot be had."""
    async with (
        aclosing(client.bench(spec)) as events,
        first_interrupt(client.stop_bench) as told,
    ):
        async for event in events:
            if event.view is not None:
                progress.show(load_line(event.view))
            if event.failure is not None:
                progress.done()
                if told.is_set():
                    say(f"{event.failure.message}: {event.failure.remedy}")
                    raise asyncio.CancelledError
                raise LabError(event.failure.message, event.failure.remedy)
            if event.result is not None:
                progress.done()
                return event.result
    raise EngineGone


def _machine_lines(machine: MachineLoad) -> list[str]:
    """Slots, processor and cards inside the window, as far as they were read."""
    host = [
        f"slots busy {number(machine.slots_busy)}",
        f"queue {number(machine.queue_depth)}",
        f"CPU {number(machine.cpu_pct, 0, ' %')} (other work {number(machine.other_work_pct, 0, ' %')})",
    ]
    lines = [f"machine     {'  '.join(host)}"]
    for gpu in machine.gpus:
        lines.append(
            f"GPU {gpu.index:<8}{number(gpu.util_pct, 0, ' %')} (peak {number(gpu.util_peak_pct, 0, ' %')})"
            f"  {gigabytes(gpu.memory_bytes)}  {number(gpu.power_w, 0, ' W')}"
            f" (peak {number(gpu.power_peak_w, 0, ' W')})"
        )
    if machine.joules_per_token is not None:
        said = energy(machine.joules_per_token, machine.tokens_per_joule, machine.energy_from)
        lines.append(f"energy      {said}")
    return lines


def load_line(view: LoadView) -> str:
    """A running load for a person."""
    interval = f" {interval_share(view.ci_half_width, 1.0)}".rstrip()
    return (
        f"{view.phase}  {view.elapsed_s:4.0f}s  {number(view.tps)} tok/s{interval}  "
        f"{view.in_flight}/{view.concurrency} streams  {view.requests} done  "
        f"{plural(view.errors, 'error')}"
    )


def measurement_text(m: Measurement) -> str:
    """A measurement for a person."""
    interval = ""
    if m.throughput_ci95_tps is not None:
        share = interval_share(m.throughput_ci95_tps, m.throughput_tps)
        interval = f" {share} (±{m.throughput_ci95_tps:,.1f})"
    stream = m.per_stream_tps
    at = f"concurrency {m.concurrency}"
    if m.rate is not None:
        reached = number(m.requests_per_s, 2)
        at = f"{m.rate:g} requests a second asked, {reached} reached, {m.concurrency} at once at most"
    lines = [
        f"{m.throughput_tps:,.1f}{interval} tok/s at {at}"
        f"  ({m.total_tokens:,} tokens in {m.elapsed_s:.1f} s, closed by {m.window_closed_by or 'hand'})",
        f"per stream  p50 {number(stream.p50)}  p5 {number(stream.p5)} tok/s  {m.feels}".rstrip(),
    ]
    for name, ranks in (("TTFT", m.ttft_ms), ("ITL", m.itl_ms), ("TPOT", m.tpot_ms), ("E2E", m.e2e_ms)):
        lines.append(
            f"{name:<11} p50 {number(ranks.p50)}  p95 {number(ranks.p95)}  p99 {number(ranks.p99)} ms"
        )
    kinds = "  ".join(f"{kind} {count}" for kind, count in m.errors_by_kind.items())
    lines.append(
        f"requests    {m.requests} done, {number(m.requests_per_s, 2)} a second, "
        f"{plural(m.errors, 'error')}  {kinds}"
    )
    if m.goodput_rps is not None:
        lines.append(f"goodput     {number(m.goodput_rps, 2)} requests a second within the SLO")
    lines += _machine_lines(m.machine) if m.machine is not None else []
    lines.append(
        f"verdict     {m.verdict}" + (f"  ({'; '.join(m.verdict_readings)})" if m.verdict_readings else "")
    )
    return "\n".join([*(line.rstrip() for line in lines), *(f"! {flag}" for flag in m.flags)])
