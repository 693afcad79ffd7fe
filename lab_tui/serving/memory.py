"""How much memory a fleet will take: estimated from the model's header before anything starts.

Weights and KV cache are exact: they are what llama.cpp allocates and logs. The compute buffer follows
the graph of a llama (its largest moment: the feed-forward step, or the logits), and was checked against
the sizes that llama-server logs; other architectures differ. What a process takes for itself was
measured. ``sweep/fit.py`` corrects the sum by what instances really took. All sizes are bytes.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Sequence

from lab_tui.model import Data, FleetSpec
from lab_tui.serving.gguf_header import TYPES
from lab_tui.serving.shape import Layer, Shape

CACHE_STEP = 256  # tokens: llama.cpp rounds the cache of a slot up to this
MIB = 1 << 20
# Measured with llama-server b11434 and xllamacpp 2026.9 under load, on Linux:
PROCESS = 12 * MIB  # code, heap, Python where it is the embedded one
PER_TOKEN_OF_VOCABULARY = 380  # the tokenizer's tables
PER_TOKEN_AND_SLOT = 32  # the sampler's candidates
PER_HTTP_THREAD = 40 << 10
# Usual for CUDA, which takes them before anything is loaded:
GPU_CONTEXT = 400 * MIB
GPU_CONTEXT_IN_RAM = 200 * MIB

BLOCKS = {name.lower(): (count, size) for _, (name, count, size) in TYPES.items()}
# Weights of these types are rearranged when they are loaded for a CPU (ggml-cpu's repack), so each
# instance has a copy of its own; all others are mapped from the file and shared.
REPACKED_BY_ANY = frozenset({"Q4_0", "IQ4_NL", "Q4_K", "Q2_K", "MXFP4"})
REPACKED_BY_ARM = REPACKED_BY_ANY | {"Q8_0", "Q5_K", "Q6_K"}
LOOKED_UP = ("token_embd", "per_layer_token_embd")  # read by row: stay in RAM, as they are in the file
# Arguments that keep some of the weights in RAM: which, the estimate does not know.
OFF_CARDS = ("-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe")


class Estimate(Data, frozen=True, kw_only=True):
    """The memory of a fleet. A machine whose cards have none of their own has it all in RAM."""

    instances: int
    shared_bytes: int  # RAM that all instances have in common: the mapped weights
    ram_bytes: int  # RAM of each instance beside that
    vram_bytes: int  # card memory of each instance; 0 without cards
    weights_bytes: int  # of the model
    kv_bytes: int  # of each instance, wherever it lies
    compute_bytes: int  # of each instance, wherever it lies
    refused: str = ""  # why llama.cpp makes no such cache of this model, however much is free

    @property
    def each_card_bytes(self) -> int:
        """What an instance takes of every card it is laid over: the context of the driver, its buffer."""
        return GPU_CONTEXT + self.compute_bytes

    @property
    def ram_total_bytes(self) -> int:
        """RAM of the whole fleet."""
        return self.shared_bytes + self.instances * self.ram_bytes

    @property
    def vram_total_bytes(self) -> int:
        """Card memory of the whole fleet."""
        return self.instances * self.vram_bytes


def estimate(spec: FleetSpec, shape: Shape, *, gpu: bool) -> Estimate:
    """What ``spec`` takes. ``gpu``: whether there are cards with memory of their own for it."""
    first = _first_on_gpu(spec, shape) if gpu else len(shape.layers) + 1  # layers from here on are there
    on_gpu = first <= len(shape.layers)
    weights = sum(sum(types.values()) for types in shape.weights.values())
    shared, private, weights_gpu = _weights(spec, shape, first)
    caches = [_layer_cache(spec, shape.window, layer) for layer in shape.layers]
    kv_gpu = 0 if _has(spec, "-nkvo", "--no-kv-offload") else sum(caches[first:])
    compute, outputs = compute_bytes(spec, shape), spec.parallel * shape.vocabulary * 4
    own = PROCESS + spec.parallel * shape.vocabulary * PER_TOKEN_AND_SLOT
    own += shape.vocabulary * PER_TOKEN_OF_VOCABULARY + (spec.threads_http or 0) * PER_HTTP_THREAD
    ram = own + private + outputs + sum(caches) - kv_gpu
    return Estimate(
        instances=spec.instances,
        shared_bytes=shared,
        ram_bytes=ram + (GPU_CONTEXT_IN_RAM if on_gpu else compute),
        vram_bytes=weights_gpu + kv_gpu + compute + GPU_CONTEXT if on_gpu else 0,
        weights_bytes=weights,
        kv_bytes=sum(caches),
        compute_bytes=compute,
        refused=_refused(spec, shape),
    )


def knows_cards(spec: FleetSpec) -> bool:
    """Whether the estimate can say what ``spec`` takes on cards."""
    return not _has(spec, *OFF_CARDS)


def compute_bytes(spec: FleetSpec, shape: Shape) -> int:
    """The compute buffer of one instance, as llama.cpp reserves it for its largest batch.

    A batch of ``ubatch`` tokens keeps five rows of the embedding's width for each token (F32), and
    beside them whatever is largest: three rows of the feed-forward's width; the logits, one row of
    the vocabulary's width for each slot (until mid-2026 for each token: those builds take more); or,
    without flash attention, the scores of every head against the whole cache. The mask has one
    number for each token and place in the cache (F16; F32 without flash attention).
    """
    unified = 1 if spec.kv_unified else spec.parallel
    places = _cells(spec) // unified
    tokens = min(spec.ubatch, spec.batch, spec.ctx_per_slot * spec.parallel)
    largest = max(3 * shape.feed_forward * tokens, spec.parallel * shape.vocabulary)
    if spec.flash_attn == "off":
        largest = max(largest, (shape.heads * places + 2 * shape.embedding) * tokens)
    mask = (4 if spec.flash_attn == "off" else 2) * places * tokens
    return 4 * 5 * shape.embedding * tokens + 4 * largest + mask


def _cells(spec: FleetSpec) -> int:
    """Tokens that the cache of one instance holds."""
    if spec.kv_unified:
        return _stepped(spec.ctx_per_slot * spec.parallel)
    return _stepped(spec.ctx_per_slot) * spec.parallel


def _layer_cache(spec: FleetSpec, window: int, layer: Layer) -> int:
    """What one layer keeps in one instance."""
    cells = _cells(spec)
    if layer.windowed and not _has(spec, "--swa-full"):
        streams = 1 if spec.kv_unified else spec.parallel
        kept = window * (spec.parallel // streams) + min(spec.ubatch, spec.batch)
        cells = _stepped(min(cells // streams, kept)) * streams
    row = _row(layer.k, spec.cache_type_k) + _row(layer.v, spec.cache_type_v)
    return row * cells + layer.state_bytes * spec.parallel


def _refused(spec: FleetSpec, shape: Shape) -> str:
    """Why llama.cpp makes no such cache, as at its start (llama_init_from_model); "" when it does.

    Flash attention reads the cache head by head, each in whole blocks. ``auto`` counts as on there.
    """
    flash = spec.flash_attn != "off"
    if not flash and _block(spec.cache_type_v) > 1:
        return f"a V cache of type {spec.cache_type_v} wants flash attention, which is off"
    for layer in shape.layers if flash else ():
        for name, kind, head in (
            ("K", spec.cache_type_k, layer.head_k),
            ("V", spec.cache_type_v, layer.head_v),
        ):
            if head % _block(kind):
                return (
                    f"this model takes no {name} cache of type {kind}:"
                    f" its heads are {head} wide, no multiple of {_block(kind)}"
                )
    return ""


def _block(cache_type: str) -> int:
    """Numbers that are stored together; 1: it is not quantized."""
    return BLOCKS[cache_type][0]


def _row(numbers: int, cache_type: str) -> int:
    """Bytes of so many numbers, stored in whole blocks."""
    count, size = BLOCKS[cache_type]
    return math.ceil(numbers / count) * size


def _stepped(tokens: int) -> int:
    return CACHE_STEP * math.ceil(tokens / CACHE_STEP)


def _first_on_gpu(spec: FleetSpec, shape: Shape) -> int:
    """The first layer on the cards: the last ``gpu_layers`` go there, the output counting as one."""
    wanted = len(shape.layers) + 1 if spec.gpu_layers is None else spec.gpu_layers
    return max(0, len(shape.layers) + 1 - wanted)


def _weights(spec: FleetSpec, shape: Shape, first: int) -> tuple[int, int, int]:
    """Weights in RAM once for all, in RAM of each instance, on the cards for each instance."""
    shared = private = cards = 0
    repacked = _repacked(spec)
    mapped = not _has(spec, "--no-mmap") and _value(spec, "-lm", "--load-mode") in (
        "",
        "auto",
        "mmap",
        "mmap+mlock",
    )
    for place, types in shape.weights.items():
        size = sum(types.values())
        block = int(place[4:]) if place.startswith("blk.") else len(shape.layers)
        if place in LOOKED_UP:
            if place == "token_embd" and "output" not in shape.weights and first <= len(shape.layers):
                cards += size  # it is the output as well
            shared += size
        elif block >= first:
            cards += size
        else:
            own = sum(types[name] for name in types.keys() & repacked)
            private += own
            shared += size - own
    return (shared, private, cards) if mapped else (0, shared + private, cards)


def _repacked(spec: FleetSpec) -> frozenset[str]:
    if sys.platform == "darwin" or _has(spec, "-nr", "--no-repack"):
        return frozenset()  # Apple's builds compute on Metal, from the mapped file
    return REPACKED_BY_ARM if platform.machine() in ("arm64", "aarch64") else REPACKED_BY_ANY


def _has(spec: FleetSpec, *names: str) -> bool:
    return any(word in names for word in spec.extra_args)


def _value(spec: FleetSpec, *names: str) -> str:
    """The last value given to an argument, "" when it is not given."""
    pairs: Sequence[tuple[str, str]] = list(zip(spec.extra_args, spec.extra_args[1:], strict=False))
    return next((value for name, value in reversed(pairs) if name in names), "")
