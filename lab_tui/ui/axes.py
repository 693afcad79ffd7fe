"""Axes of a sweep as a user types them: ``1,2,4`` or ``1-4``; several as ``threads=1,2 batch=512``."""

from __future__ import annotations

import math
import shlex

from lab_tui.model import AxisValue, LabError, SweepSpec

MAIN = ("instances", "parallel", "concurrency")
LOAD = ("concurrency", "output-tokens", "balancing")  # these restart no instance
MOST = 512  # values of one axis

Axes = dict[str, tuple[AxisValue, ...]]


def parse_values(name: str, text: str) -> tuple[AxisValue, ...]:
    """``1,2,4-6`` as values in rising order, each once. Raises LabError."""
    values: set[AxisValue] = set()
    for part in text.replace(" ", ",").split(","):
        low, dash, high = part.partition("-")
        if not part:
            continue
        if dash and low.isdecimal() and high.isdecimal():
            if int(high) - int(low) >= MOST:
                raise LabError(f"{name}: {part} is more than {MOST} values", "give fewer, such as 1,2,4,8")
            values.update(range(int(low), int(high) + 1))
        else:
            values.add(int(part) if part.isdecimal() else part)
    if name in MAIN:
        for value in values:
            if not isinstance(value, int) or value < 1:
                raise LabError(f"{name}: {value!r} is not a number from 1 up", "give numbers such as 1,2,4")
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))


def parse_others(text: str) -> Axes:
    """``threads=1,2 batch=512`` as axes. Raises LabError."""
    axes: Axes = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise LabError(f"{word!r} is no axis", "write name=1,2,4 with a space between axes")
        axes[name] = parse_values(name, values)
    return axes


def show_values(values: tuple[AxisValue, ...]) -> str:
    """Values as they are typed."""
    return ",".join(map(str, values))


def show_others(axes: Axes) -> str:
    """The axes that have no field of their own, as they are typed."""
    return " ".join(f"{name}={show_values(values)}" for name, values in axes.items() if name not in MAIN)


def merge(preset: Axes, typed: Axes) -> Axes:
    """The typed axes in the preset's order, which says what changes slowest; new ones go first."""
    fresh = {name: values for name, values in typed.items() if name not in preset and name not in MAIN}
    kept = {name: typed[name] for name in preset if name in typed}
    main: Axes = {name: typed[name] for name in ("parallel", "instances", "concurrency") if name in typed}
    return {**fresh, **kept, **main}


def cells(axes: Axes) -> int:
    """How many cells a grid over the axes has."""
    return math.prod(len(values) for values in axes.values()) if axes else 0


def model_loads(spec: SweepSpec) -> int:
    """How often an instance loads the model when the fleet only grows within one setting of the rest."""
    instances = [value for value in spec.axes.get("instances", ()) if isinstance(value, int)]
    rest = [values for name, values in spec.axes.items() if name not in LOAD and name != "instances"]
    return math.prod(len(values) for values in rest) * max(instances, default=spec.fleet.instances)


def command(spec: SweepSpec, preset: SweepSpec | None) -> str:
    """``lab-tui sweep`` as a user would type it."""
    words = ["lab-tui", "sweep", "-m", spec.fleet.model]
    if preset is not None and preset.axes == spec.axes:
        words += ["--preset", preset.name]
    else:
        for name, values in spec.axes.items():
            words += ["--axis", f"{name}={show_values(values)}"]
    if spec.strategy != (preset.strategy if preset else "grid"):
        words += ["--strategy", spec.strategy]
    for option, value in (("--slo-ttft-ms", spec.slo.ttft_ms), ("--slo-stream-tps", spec.slo.stream_tps)):
        if value is not None:
            words += [option, f"{value:g}"]
    return shlex.join([*words, "--detach"])
