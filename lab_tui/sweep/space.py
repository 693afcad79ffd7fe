"""The space a sweep searches: axes, presets, and the cells of a grid in the order they are run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from lab_tui.model import AxisValue, Cell, Data, FleetSpec, LabError, SweepSpec, WindowSpec, Workload
from lab_tui.serving import mps, placement
from lab_tui.serving.cores import read_cores
from lab_tui.serving.llama_server import SPARE_HTTP_THREADS, check_extra_args, check_placement
from lab_tui.serving.parts import LlamaServer, promises, try_arguments

MAX_CELLS = 10_000  # more are run only when they are asked for
MOST_CELLS = 50_000  # more are never run: every snapshot counts the cells of the queue
ARG = "arg:"  # begins the name of an axis that is one of llama-server's own arguments
CONTEXT_STEP = 256  # llama.cpp rounds a slot's context up to this
MOST_STREAMS_PER_SLOT = 4  # the adaptive strategy never goes beyond: more streams only queue


class Axis(Data, frozen=True, kw_only=True):
    """A setting that can vary: its range or its words, and how a cell takes a value of it."""

    low: int = 0
    high: int = 0
    words: tuple[str, ...] = ()
    also: str = ""  # a pattern of what it takes beside the words
    otherwise: str = ""  # what that is, for a person
    free: bool = False  # any text: llama-server knows what it means
    apply: Callable[[Cell, AxisValue], Cell]

    def parse(self, name: str, text: str) -> AxisValue:
        """One value. Raises LabError naming axis and value."""
        if self.free:
            return int(text) if re.fullmatch(r"0|[1-9]\d{0,17}", text) else text
        if self.words:
            if text not in self.words and not (self.also and re.fullmatch(self.also, text)):
                raise LabError(f"axis {name}: {text!r} is not one of {', '.join(self.words)}", self.otherwise)
            return text
        if not re.fullmatch(r"-?\d{1,18}", text):
            raise LabError(f"axis {name}: {text!r} is not a number", f"give {name}=1,2,4")
        if not self.low <= int(text) <= self.high:
            raise LabError(f"axis {name}: {text} is out of range", f"give {self.low} to {self.high}")
        return int(text)


def _with(cell: Cell, field: str, value: object) -> Cell:
    """``cell`` with another value in one field of its fleet."""
    return msgspec.structs.replace(cell, fleet=msgspec.structs.replace(cell.fleet, **{field: value}))


def _fleet(field: str) -> Callable[[Cell, AxisValue], Cell]:
    return lambda cell, value: _with(cell, field, value)


def _concurrency(cell: Cell, value: AxisValue) -> Cell:
    return msgspec.structs.replace(cell, concurrency=value)


def _output_tokens(cell: Cell, value: AxisValue) -> Cell:
    return msgspec.structs.replace(cell, workload=msgspec.structs.replace(cell.workload, output_tokens=value))


def _kv_unified(cell: Cell, value: AxisValue) -> Cell:
    return _with(cell, "kv_unified", value == "on")


def _cpu_pin(cell: Cell, value: AxisValue) -> Cell:
    return _with(cell, "cpu_pin", value == "on")


def _placement(cell: Cell, value: AxisValue) -> Cell:
    return _with(cell, "placement", placed(value))


def placed(value: AxisValue) -> str:
    """A placement as FleetSpec has it; on an axis commas part values, so its cards are joined by ``+``."""
    return str(value).replace("+", ",")


def _argument(flag: str) -> Callable[[Cell, AxisValue], Cell]:
    return lambda cell, value: _with(cell, "extra_args", (*cell.fleet.extra_args, flag, str(value)))


def axis_of(name: str) -> Axis:
    """The axis of that name. Raises LabError when there is none."""
    if name in AXES:
        return AXES[name]
    flag = name.removeprefix(ARG)
    if not name.startswith(ARG):
        raise LabError(f"there is no axis {name!r}", f"choose of {', '.join(AXES)}, {ARG}--ANY-FLAG")
    if not re.fullmatch(r"--?[A-Za-z][\w.-]*", flag):
        raise LabError(f"axis {name}: {flag!r} is no argument of llama-server", f"write {ARG}--poll=0,50")
    if flag in FLAG_AXES:
        raise LabError(f"axis {name} has a name of its own", f"use {FLAG_AXES[flag]}")
    return Axis(apply=_argument(flag), free=True)


CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
# In the order of the loops, outermost first (llama-server's own arguments before all of them): within
# one setting of what restarts instances the fleet only grows, and what restarts none comes last.
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
    "placement": Axis(
        words=placement.WORDS,
        also=r"\d{1,4}(\+\d{1,4})*",
        otherwise="or the card of each instance: 0+1+1",
        apply=_placement,
    ),
    "cpu-pin": Axis(words=("on", "off"), apply=_cpu_pin),
    "mps": Axis(words=("off", "on"), apply=_fleet("mps")),
    "parallel": Axis(low=1, high=256, apply=_fleet("parallel")),
    "instances": Axis(low=1, high=64, apply=_fleet("instances")),
    "balancing": Axis(words=("round_robin", "least_conn"), apply=_fleet("balancing")),
    "output-tokens": Axis(low=1, high=1 << 20, apply=_output_tokens),
    "concurrency": Axis(low=1, high=65536, apply=_concurrency),
}

RESTARTS_NOTHING = ("instances", "balancing", "output-tokens", "concurrency")
LOADS = ("output-tokens", "concurrency")  # of whatever fleet is up; the innermost loops
FLAG_AXES = {
    "-t": "threads", "--threads": "threads", "--threads-http": "threads-http", "-b": "batch",
    "--batch-size": "batch", "-ub": "ubatch", "--ubatch-size": "ubatch", "-c": "ctx-per-slot",
    "--ctx-size": "ctx-per-slot", "-fa": "flash-attn", "--flash-attn": "flash-attn",
    "-ctk": "cache-type-k", "--cache-type-k": "cache-type-k", "-ctv": "cache-type-v",
    "--cache-type-v": "cache-type-v", "-kvu": "kv-unified", "--kv-unified": "kv-unified",
    "-no-kvu": "kv-unified", "--no-kv-unified": "kv-unified", "-ngl": "gpu-layers",
    "--gpu-layers": "gpu-layers", "--n-gpu-layers": "gpu-layers", "-np": "parallel", "--parallel": "parallel",
}  # fmt: skip

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
        name = name.strip()
        name = name if name.startswith(ARG) else name.replace("_", "-")
        axis = axis_of(name)
        if name in axes:
            raise LabError(f"axis {name} is given twice", f"give one {name}=A,B,C")
        words = [word.strip() for word in values.split(",")]
        if not equals or not all(words):
            raise LabError(f"axis {name} has an empty value", f"give {name}=A,B,C")
        parsed = tuple(axis.parse(name, word) for word in words)
        if len(set(parsed)) < len(parsed):
            raise LabError(f"axis {name} has a value twice", "give each once")
        axes[name] = parsed
    return axes


def check(spec: SweepSpec) -> None:
    """Raise LabError when the axes of a spec are unknown, out of range or too many cells."""
    checked = parse_axes(f"{name}={','.join(map(str, values))}" for name, values in spec.axes.items())
    for value in spec.axes.get("placement", (spec.fleet.placement,)):
        placement.check(placed(value), _most(spec, "instances", spec.fleet.instances))
    count = count_cells(spec)
    if count > MOST_CELLS:
        raise LabError(f"{count:,} cells are more than {MOST_CELLS:,}", "give fewer values on the axes")
    if count > MAX_CELLS and not spec.large:
        raise LabError(
            f"{count:,} cells are more than {MAX_CELLS:,}", "give fewer values on the axes, or --yes"
        )
    bounds = (spec.slo.ttft_ms, spec.slo.stream_tps, spec.window.ci_half_width, spec.window.max_s)
    if any(bound is not None and not 0 < bound < math.inf for bound in bounds):
        raise LabError("a bound of the SLO or of the window is not above 0", "give more than 0")
    if "output-tokens" in checked and spec.workload.output_tokens_max is not None:
        raise LabError("the axis output-tokens and a range of --output-tokens are given", "choose one")


async def check_arguments(build: LlamaServer, spec: SweepSpec) -> None:
    """Raise LabError when ``build`` does not take the arguments that vary, or takes them without a value.

    A value that its help text does not promise to take it has to read itself. So too when it cannot place
    instances as asked, or this system pins none to cores or has no MPS.
    """
    for value in spec.axes.get("placement", (spec.fleet.placement,)):
        check_placement(build, msgspec.structs.replace(spec.fleet, placement=placed(value)))
    if spec.fleet.cpu_pin or "on" in spec.axes.get("cpu-pin", ()):
        read_cores()
    if "on" in spec.axes.get("mps", (spec.fleet.mps,)) and (error := mps.obstacle()) is not None:
        raise error
    for name, values in spec.axes.items():
        if not name.startswith(ARG):
            continue
        flag = name.removeprefix(ARG)
        if build.flags.get(flag) == "":
            raise LabError(
                f"axis {name}: llama-server's {flag} takes no value", "only arguments with a value can vary"
            )
        check_extra_args(build, (flag, "value"))
        for value in map(str, values):
            if not promises(build.flags[flag], value):
                await _try(build, name, flag, value)


async def _try(build: LlamaServer, name: str, flag: str, value: str) -> None:
    """Have it read one value of an axis. Raises LabError naming the axis."""
    try:
        await try_arguments(build, (flag, value))
    except LabError as error:
        raise LabError(f"axis {name}: {error.message}", error.remedy) from error


def plain(fleet: FleetSpec) -> FleetSpec:
    """The fleet without what a sweep had laid out for it: the next one lays it out anew."""
    return msgspec.structs.replace(fleet, threads=None, threads_http=None)


def count_cells(spec: SweepSpec) -> int:
    """How many cells the grid has."""
    return math.prod(len(values) for values in spec.axes.values())


def cells(spec: SweepSpec) -> list[Cell]:
    """Every cell of the grid, in the order of the loops; numbers on an axis rise."""
    names = [name for name in spec.axes if name not in AXES] + [name for name in AXES if name in spec.axes]
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
            cell = axis_of(name).apply(cell, value)
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
    """How many instances a grid starts: for each setting of what restarts them, the largest fleet once."""
    per_fleet = math.prod(len(values) for name, values in spec.axes.items() if name not in RESTARTS_NOTHING)
    return per_fleet * _most(spec, "instances", spec.fleet.instances)


def fleets_each(spec: SweepSpec) -> float:
    """How many fleets a grid has for each of its cells: those that differ only in their load share one."""
    return 1 / math.prod(len(spec.axes.get(name, (None,))) for name in LOADS)


def changes_fleet(spec: SweepSpec) -> bool:
    """Whether any two cells want different fleets."""
    return any(len(values) > 1 for name, values in spec.axes.items() if name not in LOADS)


def label(cell: Cell) -> str:
    """A cell in a few characters: ``2×4 c=16``, and the other axes by name."""
    others = [
        f"{name.removeprefix(ARG)}={value}"
        for name, value in cell.axes.items()
        if name not in ("instances", "parallel", "concurrency")
    ]
    return " ".join([f"{cell.fleet.instances}×{cell.fleet.parallel} c={cell.concurrency}", *others])
