"""Axes of a sweep as a user types them: ``1,2,4`` or ``1-4``; llama-server's own as ``--poll=0,50``."""

from __future__ import annotations

import re
from typing import NamedTuple

from lab_tui.model import AxisValue, FleetSpec, LabError

MOST = 512  # values of one axis
ARG = "arg:"  # begins the name of an axis that is one of llama-server's own arguments

Axes = dict[str, tuple[AxisValue, ...]]


class Shown(NamedTuple):
    """One axis as the form shows it."""

    name: str  # as ``--axis`` takes it
    label: str
    hint: str


AXES = (
    Shown("instances", "instances", "llama-server processes"),
    Shown("parallel", "slots each", "streams at once in each"),
    Shown("concurrency", "streams", "requests in flight, over all"),
    Shown("threads", "threads", "of each instance"),
    Shown("threads-http", "HTTP threads", "of each instance"),
    Shown("batch", "batch", "tokens"),
    Shown("ubatch", "ubatch", "tokens"),
    Shown("ctx-per-slot", "context", "tokens a slot"),
    Shown("flash-attn", "flash attention", "on,off,auto"),
    Shown("cache-type-k", "K cache", "f16,q8_0,q4_0"),
    Shown("cache-type-v", "V cache", "f16,q8_0,q4_0"),
    Shown("kv-unified", "unified KV", "on,off"),
    Shown("gpu-layers", "GPU layers", "0,16,99"),
    Shown("placement", "placement", "spread,pack,split,0+1+1"),
    Shown("cpu-pin", "CPU pinning", "on,off: cores of its own"),
    Shown("mps", "NVIDIA's MPS", "off,on"),
    Shown("balancing", "balancing", "round_robin,least_conn"),
    Shown("output-tokens", "answer lengths", "tokens, as an axis"),
)
# Not as the fleet has it: a sweep lays these out for all its cells.
LAID_OUT = {
    "ctx-per-slot": "as requests need",
    "threads": "cores shared out",
    "threads-http": "as streams need",
}
LABELS = {axis.name: axis.label for axis in AXES}


class Wrong(LabError):
    """What is typed into a field is wrong; ``field`` is the field's id."""

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.field = field


def usual(name: str, fleet: FleetSpec) -> str:
    """What an axis is while it does not vary; "" where the fleet does not say."""
    if name in LAID_OUT:
        return LAID_OUT[name]
    value = getattr(fleet, name.replace("-", "_"), None)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value).replace(",", "+")


def parse_values(name: str, text: str) -> tuple[AxisValue, ...]:
    """``1,2,4-6``: numbers in rising order, words as they come, each once. Raises Wrong.

    Whether they are in range the engine knows.
    """
    label = LABELS.get(name, name)
    values: list[AxisValue] = []
    for part in text.replace(" ", ",").split(","):
        low, dash, high = part.partition("-")
        if dash and low.isdecimal() and high.isdecimal():
            if int(low) > int(high):
                raise Wrong(name, f"{label}: {part} goes down", f"write {high}-{low}")
            if int(high) - int(low) >= MOST:
                raise Wrong(
                    name, f"{label}: {part} is more than {MOST} values", "give fewer, such as 1,2,4,8"
                )
            values.extend(range(int(low), int(high) + 1))
        elif part:
            values.append(_value(part))
    if not values:
        raise Wrong(name, f"{label}: {text!r} has no value", "give values such as 1,2,4, or leave it empty")
    each = tuple(dict.fromkeys(values))
    return tuple(sorted(each, key=int)) if all(isinstance(value, int) for value in each) else each


def parse_arguments(text: str) -> Axes:
    """``--poll=0,50 --prio=0,1`` as axes. Raises Wrong."""
    axes: Axes = {}
    for word in text.split():
        flag, equals, values = word.removeprefix(ARG).partition("=")
        if not flag.startswith("-") or not equals or not values:
            raise Wrong(
                "arguments", f"arguments: {word!r} is none that varies", "write --poll=0,50 with its values"
            )
        axes[f"{ARG}{flag}"] = tuple(dict.fromkeys(map(_value, filter(None, values.split(",")))))
    return axes


def _value(text: str) -> AxisValue:
    return int(text) if re.fullmatch(r"0|[1-9]\d{0,17}", text) else text


def show_values(values: tuple[AxisValue, ...]) -> str:
    """Values as they are typed."""
    return ",".join(map(str, values))


def show_arguments(axes: Axes) -> str:
    """The axes that are llama-server's own arguments, as they are typed."""
    own = ((name.removeprefix(ARG), values) for name, values in axes.items() if name.startswith(ARG))
    return " ".join(f"{flag}={show_values(values)}" for flag, values in own)


# What commands and the engine call what has a field of its own in a form.
_NAMES = {
    "--base-port": "first port",
    "base-port": "first port",
    "--front-port": "front port",
    "front-port": "front port",
    "--output-tokens": "answer",
}
_CALLED = re.compile(
    rf"axis {ARG}(?P<argument>\S+?)(?=:? )"
    rf"|axis (?P<axis>{'|'.join(LABELS)})(?=:? )"
    rf"|(?P<given>(?<=give )(?:{'|'.join(LABELS)})=)"
    rf"|(?P<name>(?<![\w-])(?:{'|'.join(_NAMES)})(?![\w-]))"
    r"|(?P<flag>, or --yes)"
)


def in_labels(message: str) -> str:
    """A refusal in the words of the form: fields by their labels, not by the options of commands."""

    def called(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "argument":
                return found["argument"]
            case "axis":
                return LABELS[found["axis"]]
            case "name":
                return _NAMES[found["name"]]
        return ""

    return _CALLED.sub(called, message)


def field_of(message: str) -> str:
    """The field of the form that a refusal of the engine is about; "" when it is about none alone."""
    axis = re.match(r"axis (\S+?):? ", message)
    if axis is not None:
        return "arguments" if axis[1].startswith(ARG) else axis[1] if axis[1] in LABELS else ""
    if message.startswith("the axis output-tokens"):
        return "output"
    starts = {
        "model ": "model",
        "a budget of ": "budget",
        "llama-server": "arguments",
        "base-port ": "base_port",
        "front-port ": "front_port",
        "placement ": "placement",
    }
    return next((field for start, field in starts.items() if message.startswith(start)), "")
