"""The space a sweep searches: axes, presets, and the cells of a grid in the order they are run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from lab_tui.model import AxisValue, Cell, Data, FleetSpec, LabError, SweepSpec, WindowSpec, Workload
from lab_tui.serving.llama_server import SPARE_HTTP_THREADS

MAX_CELLS = 10_000
CONTEXT_STEP = 256  # llama.cpp rounds a slot's context up to this
MOST_STREAMS_PER_SLOT = 4  # the adaptive strategy never goes beyond: more streams only queue


class Axis(Data, frozen=True, kw_only=True):
    """A setting that can vary: its range or its words, and how a cell takes a value of it."""

    low: int = 0
    high: int = 0
    words: tuple[str, ...] = ()
    apply: Callable[[Cell, AxisValue], Cell]

    def parse(self, name: str, text: str) -> AxisValue:
        """One value. Raises LabError naming axis and value."""
        if self.words:
            if text not in self.words:
                raise LabError(f"axis {name}: {text!r} is not one of {', '.join(self.words)}")
            return text
        if not re.fullmatch(r"-?\d+", text):
            raise LabError(f"axis {name}: {text!r} is not a number", f"give {name}=1,2,4")
        if not self.low <= int(text) <= self.high:
            raise LabError(f"axis {name}: {text} is out of range", f"give {self.low} to {self.high}")
        return int(text)


def _fleet(field: str) -> Callable[[Cell, AxisValue], Cell]:
    def apply(cell: Cell, value: AxisValue) -> Cell:
        return msgspec.structs.replace(cell, fleet=msgspec.structs.replace(cell.fleet, **{field: value}))

    return apply


def _concurrency(cell: Cell, value: AxisValue) -> Cell:
    return msgspec.structs.replace(cell, concurrency=value)


def _output_tokens(cell: Cell, value: AxisValue) -> Cell:
    return msgspec.structs.replace(cell, workload=msgspec.structs.replace(cell.workload, output_tokens=value))


def _kv_unified(cell: Cell, value: AxisValue) -> Cell:
    return _fleet("kv_unified")(cell, value == "on")


CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
# In the order of the loops, outermost first: instances and concurrency last, so that within one
# setting of the others the fleet only grows and concurrency restarts nothing.
AXES: dict[str, Axis] = {
    "threads": Axis(low=1, high=4096, apply=_fleet("threads")),
    "threads-http": Axis(low=1, high=65536, apply=_fleet("threads_http")),
    "batch": Axis(low=1, high=1 << 20, apply=_fleet("batch")),
    "ubatch": Axis(low=1, high=1 << 20, apply=_fleet("ubatch")),
    "ctx-per-slot": Axis(low=64, high=1 << 24, apply=_fleet("ctx_per_slot")),
    "flash-attn": Axis(words=("on", "off", "auto"), apply=_fleet("flash_attn")),
    "cache-type-k": Axis(words=CACHE_TYPES, apply=_fleet("cache_type_k")),
    "cache-type-v": Axis(words=CACHE_TYPES, apply=_fleet("cache_type_v")),
    "kv-unified": Axis(words=("on", "off"), apply=_kv_unified),
    "gpu-layers": Axis(low=0, high=9999, apply=_fleet("gpu_layers")),
    "balancing": Axis(words=("round_robin", "least_conn"), apply=_fleet("balancing")),
    "parallel": Axis(low=1, high=256, apply=_fleet("parallel")),
    "instances": Axis(low=1, high=64, apply=_fleet("instances")),
    "output-tokens": Axis(low=1, high=1 << 20, apply=_output_tokens),
    "concurrency": Axis(low=1, high=65536, apply=_concurrency),
}

DOUBLING_TO_1024 = tuple(2**n for n in range(11))


class Preset(Data, frozen=True, kw_only=True):
    """A sweep by name: its axes, and how long each cell may take."""

    axes: dict[str, tuple[AxisValue, ...]]
    strategy: str = "grid"
    workload: Workload = Workload()
    window: WindowSpec = WindowSpec()


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        axes={"parallel": (1, 4), "instances": (1, 2), "concurrency": (1, 4, 16)},
        workload=Workload(prompt_tokens=32, output_tokens=32),
        window=WindowSpec(ci_half_width=0.05, min_s=3.0, max_s=8.0),
    ),
    "standard": Preset(
        axes={
            "parallel": (1, 2, 4, 8, 16, 32, 64),
            "instances": (1, 2, 4, 8, 16),
            "concurrency": tuple(2**n for n in range(13)),
        },
        strategy="adaptive",
    ),
    "full": Preset(
        axes={
            "parallel": (1, 2, 4, 8, 16, 32, 64),
            "instances": (2, 4, 8, 16),
            "concurrency": DOUBLING_TO_1024,
        },
    ),
    "threads": Preset(
        axes={"threads": (1, 2, 4, 8, 16), "threads-http": (64, 256), "concurrency": (32,)},
    ),
    "tokens": Preset(
        axes={"output-tokens": (16, 64, 256, 1024), "concurrency": (1, 4, 16, 64)},
    ),
}  # fmt: skip


def preset(name: str, fleet: FleetSpec) -> SweepSpec:
    """The sweep of that name over ``fleet``. Raises LabError when there is none."""
    if name not in PRESETS:
        raise LabError(f"there is no preset {name}", f"choose one of {', '.join(PRESETS)}")
    found = PRESETS[name]
    return SweepSpec(
        name=name,
        fleet=fleet,
        axes=found.axes,
        strategy=found.strategy,
        workload=found.workload,
        window=found.window,
    )


def parse_axes(texts: Iterable[str]) -> dict[str, tuple[AxisValue, ...]]:
    """``["instances=1,2", …]`` as axes. Raises LabError naming what is wrong with which axis."""
    axes: dict[str, tuple[AxisValue, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("_", "-")
        if name not in AXES:
            raise LabError(f"there is no axis {name!r}", f"choose of {', '.join(AXES)}")
        if name in axes:
            raise LabError(f"axis {name} is given twice", f"give one {name}=A,B,C")
        words = [word.strip() for word in values.split(",")]
        if not equals or not all(words):
            raise LabError(f"axis {name} has an empty value", f"give {name}=A,B,C")
        parsed = tuple(AXES[name].parse(name, word) for word in words)
        if len(set(parsed)) < len(parsed):
            raise LabError(f"axis {name} has a value twice", "give each once")
        axes[name] = parsed
    return axes


def check(spec: SweepSpec) -> None:
    """Raise LabError when the axes of a spec are unknown, out of range or too many cells."""
    checked = parse_axes(f"{name}={','.join(map(str, values))}" for name, values in spec.axes.items())
    count = math.prod(len(values) for values in checked.values())
    if count > MAX_CELLS:
        raise LabError(f"{count:,} cells are more than {MAX_CELLS:,}", "give fewer values on the axes")
    if "output-tokens" in checked and spec.workload.output_tokens_max is not None:
        raise LabError("the axis output-tokens and a range of --output-tokens are given", "choose one")


def cells(spec: SweepSpec) -> list[Cell]:
    """Every cell of the grid, in the order of AXES; numbers on an axis rise."""
    names = [name for name in AXES if name in spec.axes]
    columns = [_in_order(spec.axes[name]) for name in names]
    out = []
    for values in itertools.product(*columns):
        cell = Cell(
            fleet=spec.fleet,
            concurrency=1,
            workload=spec.workload,
            axes=dict(zip(names, values, strict=True)),
        )
        for name, value in zip(names, values, strict=True):
            cell = AXES[name].apply(cell, value)
        out.append(cell)
    return out


def _in_order(values: Sequence[AxisValue]) -> list[AxisValue]:
    numbers = [v for v in values if isinstance(v, int)]
    return sorted(numbers) if len(numbers) == len(values) else list(values)


def laid_out(spec: SweepSpec, cores: int) -> SweepSpec:
    """``spec`` with the settings fixed that every cell shares, so that a fleet can grow.

    Context per slot is what a request needs, with room to spare; threads are ``cores`` (this
    machine's) over the largest number of instances; HTTP threads cover the most streams that one
    instance can get.
    """
    largest = _most(spec, "instances", spec.fleet.instances)
    smallest = min(map(int, spec.axes.get("instances", (spec.fleet.instances,))))
    streams = _most(spec, "concurrency", 1)
    streams_each = math.ceil(streams / smallest)
    if spec.strategy == "adaptive":
        streams_each = min(streams_each, MOST_STREAMS_PER_SLOT * _most(spec, "parallel", spec.fleet.parallel))
    tokens = spec.workload.prompt_tokens + _most(
        spec, "output-tokens", spec.workload.output_tokens_max or spec.workload.output_tokens
    )
    context = CONTEXT_STEP * math.ceil((tokens * 1.25 + 32) / CONTEXT_STEP)
    fleet = spec.fleet
    if spec.workload.prompt_file is not None:  # whose lengths nobody knows before the server has seen them
        context = max(context, fleet.ctx_per_slot)
    return msgspec.structs.replace(
        spec,
        fleet=msgspec.structs.replace(
            fleet,
            ctx_per_slot=context,
            threads=fleet.threads or max(1, cores // largest),
            threads_http=fleet.threads_http or streams_each + SPARE_HTTP_THREADS,
            max_streams=max(streams, fleet.max_streams),
        ),
    )


def _most(spec: SweepSpec, axis: str, otherwise: int) -> int:
    return max(map(int, spec.axes.get(axis, (otherwise,))))


def model_loads(spec: SweepSpec) -> int:
    """How many times a model is loaded: for each setting of the other axes, the most instances once."""
    per_fleet = math.prod(
        len(values)
        for name, values in spec.axes.items()
        if name not in ("instances", "concurrency", "output-tokens")
    )
    return per_fleet * _most(spec, "instances", spec.fleet.instances)


def label(cell: Cell) -> str:
    """A cell in a few characters: ``2×4 c=16``, and the other axes by name."""
    others = [
        f"{name}={value}"
        for name, value in cell.axes.items()
        if name not in ("instances", "parallel", "concurrency")
    ]
    return " ".join([f"{cell.fleet.instances}×{cell.fleet.parallel} c={cell.concurrency}", *others])
