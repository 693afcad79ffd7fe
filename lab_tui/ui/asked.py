"""What the form of a new sweep asks for: its fields as a SweepSpec, and the command that asks the same."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

import msgspec

from lab_tui import config
from lab_tui.config import Settings
from lab_tui.model import Data, FleetSpec, Slo, Snapshot, SweepSpec, Workload
from lab_tui.ui import axes
from lab_tui.ui.axes import Wrong

CUSTOM = "custom"  # the sweep that begins with no axes
MOST_TOKENS = 1 << 20
MOST_SECONDS = 86400.0
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}  # by the letter after a length of time


class Typed(Data, frozen=True, kw_only=True):
    """The fields as they stand there; "" where one is empty."""

    model: str  # an absolute path
    preset: str
    axes: dict[str, str]  # by axis name
    arguments: str
    strategy: str
    prompt: str
    output: str
    seconds: str
    budget: str
    confirm: bool
    ttft: str
    stream: str


def base_fleet(settings: Settings, snapshot: Snapshot | None, model: str) -> tuple[FleetSpec, bool]:
    """What does not vary, as ``lab-tui sweep`` takes it, and whether ``-m`` must name the model for that.

    The fleet that runs when it is of this model, else that of the settings: while a sweep runs, the
    fleet is a cell of it. Raises LabError for an open quote in the settings.
    """
    running = snapshot.fleet if snapshot is not None and snapshot.sweep is None else None
    if running is not None and running.model == model:
        return msgspec.structs.replace(running, threads=None, threads_http=None), False
    return config.fleet_spec(settings, model), True


def spec(typed: Typed, presets: dict[str, SweepSpec], fleet: FleetSpec) -> SweepSpec:
    """The sweep over ``fleet`` that is asked for. Raises Wrong naming the field."""
    if not typed.model:
        raise Wrong("model", "model: nothing is given", "ctrl+o shows what there is")
    varied = {name: axes.parse_values(name, text) for name, text in typed.axes.items() if text}
    varied |= axes.parse_arguments(typed.arguments)
    if "concurrency" not in varied:
        raise Wrong("concurrency", "streams: nothing is given", "say how many at once, such as 1,4,16")
    base = _base(typed, presets, varied)
    changes: dict[str, Any] = {
        "fleet": fleet,
        "axes": {**base.axes, **varied},
        "strategy": typed.strategy,
        "workload": _workload(typed, base.workload),
        "confirm": typed.confirm,
        "slo": Slo(
            ttft_ms=_above_0("ttft", "TTFT at most", typed.ttft),
            stream_tps=_above_0("stream", "stream at least", typed.stream),
        ),
        "budget_s": _span("budget", "budget", typed.budget),
    }
    seconds = _above_0("seconds", "seconds a cell", typed.seconds)
    if seconds is not None and seconds != base.window.max_s:
        changes["window"] = msgspec.structs.replace(
            base.window, min_s=min(seconds, base.window.min_s), max_s=seconds
        )
    return msgspec.structs.replace(base, **changes)


def _base(typed: Typed, presets: dict[str, SweepSpec], varied: axes.Axes) -> SweepSpec:
    """The preset while it has all its axes; without one of them it is another sweep."""
    preset = presets.get(typed.preset)
    if preset is not None and preset.axes.keys() <= varied.keys():
        return preset
    return SweepSpec(name=CUSTOM, fleet=FleetSpec(model=typed.model), axes={})


def _workload(typed: Typed, base: Workload) -> Workload:
    low, dash, high = typed.output.partition("-")
    ends = [_tokens("output", "answer", low), _tokens("output", "answer", high)] if dash else []
    if ends and ends[0] > ends[1]:
        raise Wrong("output", f"answer: {typed.output} is no range", "write it as 64-256")
    return msgspec.structs.replace(
        base,
        prompt_tokens=_tokens("prompt", "prompt", typed.prompt),
        output_tokens=ends[0] if ends else _tokens("output", "answer", typed.output),
        output_tokens_max=ends[1] if ends and ends[0] < ends[1] else None,
    )


def _tokens(field: str, label: str, text: str) -> int:
    return whole(field, label, text, 1, MOST_TOKENS)


def whole(field: str, label: str, text: str, low: int, high: int) -> int:
    """A whole number. Raises Wrong."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and low <= int(text) <= high):
        raise Wrong(field, f"{label}: {text or 'nothing'} is not a whole number from {low} to {high:,}")
    return int(text)


def _above_0(field: str, label: str, text: str) -> float | None:
    """A number above 0, or None for nothing. Raises Wrong."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < MOST_SECONDS * 1000:
        raise Wrong(field, f"{label}: {text} is not a number above 0", "or leave it empty")
    return value


def _span(field: str, label: str, text: str) -> float | None:
    """Seconds of 90, 90s, 10m or 1h; None for nothing. Raises Wrong."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smh]?)", text.lower())
    if found is None or not float(found[1]) > 0:
        raise Wrong(field, f"{label}: {text} is no time", "give one such as 90s, 10m or 1h")
    return float(found[1]) * SECONDS[found[2]]


def command(asked: SweepSpec, presets: dict[str, SweepSpec], *, named: bool) -> str:
    """``lab-tui sweep`` as a user would type it, on one of ``presets`` or on none.

    ``named``: with the model.
    """
    base = presets.get(asked.name) or SweepSpec(name=CUSTOM, fleet=asked.fleet, axes={})
    words = ["lab-tui", "sweep", *(("-m", asked.fleet.model) if named else ())]
    if asked.name in presets:
        words += ["--preset", asked.name]
    for name, values in asked.axes.items():
        if base.axes.get(name) != values:
            words += ["--axis", f"{name}={axes.show_values(values)}"]
    if asked.strategy != base.strategy:
        words += ["--strategy", asked.strategy]
    load = asked.workload
    answer = show_answer(load)
    if load.prompt_file is not None:
        words += ["--prompt-file", load.prompt_file]
    for option, value, usual in (
        ("--prompt-tokens", f"{load.prompt_tokens}", f"{base.workload.prompt_tokens}"),
        ("--output-tokens", answer, show_answer(base.workload)),
        ("--seconds", f"{asked.window.max_s:.12g}", f"{base.window.max_s:.12g}"),
        ("--budget", f"{asked.budget_s or 0:.12g}", "0"),
        ("--slo-ttft-ms", f"{asked.slo.ttft_ms or 0:.12g}", "0"),
        ("--slo-stream-tps", f"{asked.slo.stream_tps or 0:.12g}", "0"),
    ):
        if value != usual:
            words += [option, value]
    if not asked.confirm:
        words.append("--no-confirm")
    return shlex.join([*words, "--detach"])


def show_answer(load: Workload) -> str:
    """The length of answers as it is typed: 128, or 64-256."""
    return f"{load.output_tokens}" + (f"-{load.output_tokens_max}" if load.output_tokens_max else "")
