"""llama-server's command line and its ways of failing, as far as lab-tui relies on them.

Every flag whose default changed over the years or depends on the machine is passed explicitly.
"""

from __future__ import annotations

import functools
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import psutil

from lab_tui import access
from lab_tui.model import FleetSpec, LabError
from lab_tui.serving import placement
from lab_tui.serving.cards import usable
from lab_tui.serving.parts import LlamaServer
from lab_tui.serving.placement import Seat

PRINTS = ("-h", "--help", "--usage", "--version", "--license", "-cl", "--cache-list", "--completion-bash",
          "--list-devices")  # fmt: skip
# What would show a secret to whoever lists processes, and where it belongs.
SECRET = {
    "--api-key": "lab-tui's --api-key-file FILE", "--api-key-file": "lab-tui's --api-key-file FILE",
    "-hft": "the variable HF_TOKEN", "--hf-token": "the variable HF_TOKEN",
}  # fmt: skip
MAX_PARALLEL = 256  # llama.cpp: n_seq_max must be <= 256
MAX_INSTANCES = 64
SPARE_HTTP_THREADS = 16  # beyond the streams: polling, health checks, a browser
# What lab-tui itself decides, and the option that does.
OWNED = {
    "-m": "-m", "--model": "-m", "-np": "-p", "--parallel": "-p", "--port": "--base-port",
    "--host": "--host", "-c": "--ctx-per-slot", "--ctx-size": "--ctx-per-slot",
}  # fmt: skip


# What says where an instance runs, and so does a placement.
PLACING = frozenset({
    "-dev", "--device", "-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu",
})  # fmt: skip


def check_spec(spec: FleetSpec) -> None:
    """Raise LabError naming the first setting that is out of its range, or lets strangers in."""
    check_ranges(spec)
    access.check(spec)


def check_ranges(spec: FleetSpec) -> None:
    """Raise LabError naming the first setting that is out of its range."""
    ranges = (
        ("instances", spec.instances, 1, MAX_INSTANCES),
        ("parallel", spec.parallel, 1, MAX_PARALLEL),
        ("ctx-per-slot", spec.ctx_per_slot, 64, 1 << 24),
        ("batch", spec.batch, 1, 1 << 20),
        ("ubatch", spec.ubatch, 1, 1 << 20),
        ("threads", 1 if spec.threads is None else spec.threads, 1, 4096),
        ("threads-http", 1 if spec.threads_http is None else spec.threads_http, 1, 65536),
        ("max-streams", spec.max_streams, 1, 65536),
        ("max-body-mb", spec.max_body_mb, 1, 4096),
        ("base-port", spec.base_port, 1, 65535),
        ("front-port", spec.front_port, 1, 65535),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise LabError(f"{name} is {value}", f"give a number from {low} to {high}")
    for name, text in (("model", spec.model), ("an argument", " ".join(spec.extra_args))):
        if any(unicodedata.category(c) == "Cs" for c in text):  # bytes that are no UTF-8
            raise LabError(f"{name} is not UTF-8: {text}", "rename it, or write it in UTF-8")
    if not spec.host:
        raise LabError("host is empty", "give 127.0.0.1, or 0.0.0.0 to be reached from other machines")
    words = (
        ("flash-attn", spec.flash_attn, ("on", "off", "auto")),
        ("balancing", spec.balancing, ("round_robin", "least_conn")),
        ("mps", spec.mps or "off", ("on", "off")),
    )
    for name, word, known in words:
        if word not in known:
            raise LabError(f"{name} is {word}", f"give {', '.join(known[:-1])} or {known[-1]}")
    placement.check(spec.placement, spec.instances)
    last = spec.base_port + spec.instances - 1
    if last > 65535:
        raise LabError(f"base-port {spec.base_port} leaves no room for {spec.instances} instances")
    if spec.base_port <= spec.front_port <= last:
        raise LabError(
            f"front-port {spec.front_port} lies among the instances' ports {spec.base_port}–{last}",
            "choose another --front-port or --base-port",
        )


def check_extra_args(build: LlamaServer, args: Sequence[str]) -> None:
    """Raise LabError naming the first argument this build does not take, or that is lab-tui's own."""
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name in OWNED:
            raise LabError(f"{name} is set by lab-tui itself", f"use {OWNED[name]}")
        if name in SECRET:
            raise LabError(
                f"{name} is not for the command line, which others can read", f"use {SECRET[name]}"
            )
        if name in PRINTS:
            raise LabError(f"with {name} llama-server only prints something and ends", "leave it out")
        if not build.knows(name):
            raise LabError(
                f"llama-server takes no argument {name}", f"`{' '.join(build.command)} --help` lists them"
            )
        if equals:
            raise LabError(f"llama-server does not take {word} in one word", f"write {name} {value}")
        if build.flags[name] and next(words, None) is None:
            raise LabError(f"llama-server's {name} needs a value", f"write {name} {build.flags[name]}")


def streams_per_instance(spec: FleetSpec) -> int:
    """Streams one instance must expect: its share of ``max_streams``, and never less than its slots."""
    return max(math.ceil(spec.max_streams / spec.instances), spec.parallel)


def default_threads(instances: int) -> int:
    """Threads for each of ``instances``: the cores this process may use, shared out."""
    return max(1, usable_cores() // instances)


def usable_cores() -> int:
    """Physical cores, or fewer where affinity allows fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(physical_cores() or allowed, allowed)


@functools.cache
def physical_cores() -> int | None:
    """Of the machine; None where it does not tell.

    Asked once: psutil reads a file for each processor, and a plan of 64 instances wants it 128 times.
    """
    return psutil.cpu_count(logical=False)


def command(build: LlamaServer, spec: FleetSpec, index: int, seat: Seat | None = None) -> tuple[str, ...]:
    """The command line of instance ``index`` in its seat. Flags that this build does not know are left out.

    Raises LabError when that would leave it open to whoever reaches it.
    """
    seat = seat or Seat()
    wanted: list[tuple[str, str | None]] = [
        ("--model", spec.model),
        ("--alias", PurePath(spec.model).stem),  # what clients see: not where the file lies
        ("--host", "127.0.0.1"),
        ("--port", str(spec.base_port + index)),
        ("--parallel", str(spec.parallel)),
        ("--ctx-size", str(spec.ctx_per_slot * spec.parallel)),
        ("--kv-unified" if spec.kv_unified else "--no-kv-unified", None),
        ("--batch-size", str(spec.batch)),
        ("--ubatch-size", str(spec.ubatch)),
        ("--threads", str(spec.threads or seat.threads or default_threads(spec.instances))),
        ("--threads-http", str(spec.threads_http or streams_per_instance(spec) + SPARE_HTTP_THREADS)),
        ("--cache-ram", "0"),
        ("--fit", "off"),
        ("--gpu-layers", "999" if spec.gpu_layers is None else str(spec.gpu_layers)),
        ("--cache-type-k", spec.cache_type_k),
        ("--cache-type-v", spec.cache_type_v),
        ("--metrics", None),
        ("--slots", None),
        ("--no-webui", None),
    ]
    words: list[str] = [*build.command]
    for flag, value in wanted:
        if build.knows(flag):
            words += [flag] if value is None else [flag, value]
    if spec.api_key_file:
        if not build.knows("--api-key-file"):
            raise LabError(
                "this llama-server takes no --api-key-file", "take a newer llama-server, or host 127.0.0.1"
            )
        words += ["--api-key-file", spec.api_key_file]
    return (*words, *_flash_attention(build, spec), *_placed(seat), *spec.extra_args)


def _placed(seat: Seat) -> Iterator[str]:
    """What a seat adds; it was only given where this build takes it."""
    if seat.devices:
        yield from ("--device", ",".join(seat.devices))
    if seat.split_mode:
        yield from ("--split-mode", seat.split_mode, "--tensor-split", ",".join(map(str, seat.shares)))


def check_placement(build: LlamaServer, spec: FleetSpec) -> None:
    """Raise LabError when this build cannot place as asked, or arguments of its own say where it runs."""
    if spec.placement == placement.AUTO:
        return
    if not build.devices:
        found = usable(build.devices, (), (), 0, {})
        raise LabError(f"placement {spec.placement}: {found.why}", found.remedy)
    if given := [word for word in spec.extra_args if word in PLACING]:
        raise LabError(
            f"{given[0]} and placement {spec.placement} both say where an instance runs", "leave one out"
        )
    mode = placement.SPLIT_MODES.get(spec.placement, "")
    if mode and mode not in re.findall(r"\w+", build.flags.get("--split-mode", "")):
        raise LabError(f"this llama-server does not take --split-mode {mode}", "take --placement split")


def _flash_attention(build: LlamaServer, spec: FleetSpec) -> tuple[str, ...]:
    """``--flash-attn`` gained its value in 2025; before, it was a switch that was off by default."""
    if build.flags.get("--flash-attn"):
        return ("--flash-attn", spec.flash_attn)
    return ("--flash-attn",) if build.knows("--flash-attn") and spec.flash_attn == "on" else ()


def environment(base: Mapping[str, str], seat: Seat) -> dict[str, str]:
    """The environment of an instance: ours, without the LLAMA_ARG_* twins that could change its flags, and
    with what shows it the cards of its seat alone and says which MPS daemon is its.
    """
    ours = {k: v for k, v in base.items() if not k.startswith("LLAMA_ARG_") and k != "LLAMA_API_KEY"}
    return {**ours, **seat.visible, **seat.mps}


REASONS = (
    (r"couldn't bind HTTP server socket.*port: (\d+)", "port {0} is in use"),
    (r"invalid magic characters", "the model is not a GGUF file"),
    (r"error: invalid argument: (\S+)", "llama-server takes no argument {0}"),
    (r"(error: argument \S+: .+)", "{0}"),
    (r"(?i)(cuda error: out of memory|cudaMalloc failed: out of memory)", "the GPU is out of memory"),
    (r"(?i)(failed to allocate|unable to allocate|cannot allocate memory)", "out of memory"),
    (r"tensor '.*' data is not within the file bounds", "the model file is truncated"),
    (r"n_seq_max must be <= (\d+)", "more than {0} slots in one instance"),
    (
        r"([KV]) cache type (\S+) with block size (\d+) does not divide n_embd_head_[kv]=(\d+)",
        "this model takes no {0} cache of type {1}: its heads are {3} wide, no multiple of {2} (f16 fits)",
    ),
    (r"V cache.* requires flash_attn", "a quantized V cache wants flash attention (--flash-attn on)"),
    (r"failed to create_context", "the context does not fit (fewer slots, a smaller context or cache type)"),
    (r"failed to load model|error loading model", "the model cannot be loaded"),
)


def why_it_ended(lines: Sequence[str], code: int | None) -> str:
    """One line on why an instance ended, from its log and exit code (negative: the signal)."""
    for pattern, text in REASONS:
        for line in lines:
            match = re.search(pattern, line)
            if match:
                return text.format(*match.groups())
    if code == -9:
        return "killed (SIGKILL; out of memory if nobody did it)"
    if code is not None and code < 0:
        return f"ended by signal {-code}"
    last = next((line for line in reversed(lines) if line.strip()), "")
    ended = "ended" if code is None else f"ended with code {code}"
    return f"{ended}: {last}" if last else ended
