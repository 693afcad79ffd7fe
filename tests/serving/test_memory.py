"""Estimates held against what real instances allocate and take."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from make_tiny_model import make_tiny_model

from lab_tui.model import FleetSpec
from lab_tui.serving import models
from lab_tui.serving.gguf_header import Header, Value, read_header
from lab_tui.serving.memory import MIB, compute_bytes, estimate
from lab_tui.serving.readings import plain_http
from lab_tui.serving.shape import Layer, Shape, read_shape, shape
from tests.ports import free_ports

from .helpers import completion, until

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with fewer KV heads than heads, large enough for its cache to be told from the rest."""
    return make_tiny_model(tmp_path_factory.mktemp("m") / "grouped.gguf", embd=256, layers=6, kv_heads=2)


@asynccontextmanager
async def server(spec: FleetSpec, log: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """One real instance of ``spec`` that logs its buffers, and its port."""
    port = free_ports(1)
    flags: dict[str, object] = {
        "--model": spec.model, "--port": port, "--parallel": spec.parallel,
        "--ctx-size": spec.parallel * spec.ctx_per_slot, "--ubatch-size": spec.ubatch,
        "--cache-type-k": spec.cache_type_k, "--cache-type-v": spec.cache_type_v,
        "--flash-attn": spec.flash_attn, "--threads": 1, "--threads-http": spec.threads_http,
        "--cache-ram": 0, "--fit": "off", "--gpu-layers": 0, "--verbosity": 4,
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    words.append("--kv-unified" if spec.kv_unified else "--no-kv-unified")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lab_tui.serving.embedded", *words, stdout=output, stderr=output
        )
    try:
        await until(lambda: "listening on" in log.read_text() or process.returncode is not None, "the model")
        assert process.returncode is None, log.read_text()[-2000:]
        yield process, port
    finally:
        process.kill()
        await process.wait()


def logged(log: Path, buffer: str) -> float:
    """The sizes of all buffers of that name, in MiB as they are logged."""
    return sum(map(float, re.findall(rf"{buffer} buffer size = +([\d.]+) MiB", log.read_text())))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"parallel": 1},
        {"parallel": 16, "ctx_per_slot": 300},
        {"kv_unified": True, "ctx_per_slot": 300},
        {"cache_type_k": "q8_0", "cache_type_v": "q4_0"},
        {"cache_type_k": "q5_1", "cache_type_v": "iq4_nl"},
        {"cache_type_k": "f32", "cache_type_v": "bf16"},
        {"ubatch": 128},
        {"flash_attn": "off", "ctx_per_slot": 2048},
    ],
)
async def test_the_cache_is_what_the_server_allocates(
    grouped: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    spec = replace(FleetSpec(model=str(grouped), parallel=3, ctx_per_slot=1024, threads_http=24), **fields)
    need = estimate(spec, read_shape(grouped), gpu=False)
    log = tmp_path / "log"
    async with server(spec, log):
        assert logged(log, "KV") == round(need.kv_bytes / MIB, 2) > 0
        assert logged(log, "compute") == pytest.approx(need.compute_bytes / MIB, rel=0.05)
        assert logged(log, "model") == pytest.approx(need.weights_bytes / MIB, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what of a process is shared")
@pytest.mark.parametrize("parallel", [2, 12])
async def test_a_loaded_instance_takes_what_was_estimated(
    grouped: Path, tmp_path: Path, parallel: int
) -> None:
    """Within a fifth, and never 2 % more than estimated: the estimate is there to keep from too much."""
    spec = FleetSpec(model=str(grouped), parallel=parallel, ctx_per_slot=8192, threads_http=64)
    need = estimate(spec, read_shape(grouped), gpu=False)
    async with server(spec, tmp_path / "log") as (process, port):
        async with plain_http(timeout=60) as http:
            url = f"http://127.0.0.1:{port}/completion"
            body = completion(16) | {"prompt": "a b c " * 40}
            answers = await asyncio.gather(*(http.post(url, json=body) for _ in range(parallel)))
        assert {answer.status_code for answer in answers} == {200}
        memory = psutil.Process(process.pid).memory_info()
    own = memory.rss - memory.shared
    assert 0.8 * need.ram_bytes <= own <= 1.02 * need.ram_bytes
    libraries = 25 * MIB  # mapped as the weights are
    assert memory.rss == pytest.approx(need.ram_bytes + need.shared_bytes + libraries, rel=0.2)


# --- what cannot be had small -------------------------------------------------------------------


def header(
    architecture: str, keys: dict[str, Value], weights: dict[str, dict[str, int]] | None = None
) -> Header:
    """A header that states ``keys``, "__" for a point."""
    fields: dict[str, Value] = {"general.architecture": architecture}
    fields |= {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return Header(
        fields=fields, lengths={"tokenizer.ggml.tokens": 128}, weights=weights or {},
        parameters=0, tensors=0, main_type="", end=0,
    )  # fmt: skip


COMMON: dict[str, Value] = {
    "block_count": 2, "embedding_length": 256, "feed_forward_length": 384,
    "attention__head_count": 2, "attention__head_count_kv": 2,
}  # fmt: skip
# Architecture, its keys, and the MiB of cache and states that llama-server b11434 logged for such a model
# with three slots of 1000 tokens and a ubatch of 256.
LOGGED: list[tuple[str, dict[str, Value], float]] = [
    ("llama", {}, 6.0),
    ("gemma3", {"attention__sliding_window": 32, "attention__sliding_window_pattern": (1, 0)}, 4.5),
    ("gpt-oss", {"attention__sliding_window": 32}, 4.5),
    ("phi3", {"attention__sliding_window": 32}, 6.0),
    (
        "deepseek2",
        {
            "attention__head_count": 1, "attention__head_count_kv": 1, "attention__key_length": 576,
            "attention__value_length": 512, "attention__key_length_mla": 192,
        },
        6.75,
    ),
    (
        "qwen35",
        {
            "full_attention_interval": 2, "ssm__inner_size": 256, "ssm__conv_kernel": 4,
            "ssm__state_size": 128, "ssm__group_count": 2,
        },
        3.4,
    ),
    (
        "lfm2",
        {"attention__head_count": (2, 0), "attention__head_count_kv": (2, 0), "shortconv__l_cache": 3,
         "attention__key_length": 128, "attention__value_length": 128,
         "attention__sliding_window": 32, "attention__sliding_window_pattern": (1, 0)},
        1.51,
    ),
    (
        "falcon-h1",
        {"ssm__inner_size": 512, "ssm__conv_kernel": 4, "ssm__state_size": 128, "ssm__group_count": 2},
        7.57,
    ),
    ("glm4moe", {"block_count": 3, "nextn_predict_layers": 1}, 6.0),
    ("gemma4", {"block_count": 3, "attention__shared_kv_layers": 1}, 6.0),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "keys", "mib"), LOGGED, ids=[case[0] for case in LOGGED])
def test_caches_of_other_architectures(architecture: str, keys: dict[str, Value], mib: float) -> None:
    found = shape([header(architecture, COMMON | keys)])
    need = estimate(FleetSpec(model="m", parallel=3, ctx_per_slot=1000, ubatch=256), found, gpu=False)
    assert round(need.kv_bytes / MIB, 2) == mib


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"cache_type_k": "q8_0"},
            "this model takes no K cache of type q8_0: its heads are 16 wide, no multiple of 32",
        ),
        (
            {"cache_type_v": "iq4_nl", "flash_attn": "on"},
            "this model takes no V cache of type iq4_nl: its heads",
        ),
        (
            {"cache_type_v": "q4_0", "flash_attn": "off"},
            "a V cache of type q4_0 wants flash attention, which is off",
        ),
        ({"cache_type_k": "q8_0", "flash_attn": "off"}, ""),
        ({"cache_type_k": "bf16", "cache_type_v": "f32"}, ""),
    ],
)
def test_a_cache_that_llama_cpp_refuses(tiny_model: Path, fields: dict[str, Any], why: str) -> None:
    """As xllamacpp 2026.10 does at its start, with heads of 16 numbers."""
    refused = estimate(FleetSpec(model="m", **fields), read_shape(tiny_model), gpu=False).refused
    assert refused.startswith(why) and bool(refused) == bool(why)


def test_a_window_can_be_kept_in_full() -> None:
    found = shape([header("gpt-oss", COMMON | {"attention__sliding_window": 32})])
    assert found.layers[0].windowed and not found.layers[1].windowed
    spec = FleetSpec(model="m", parallel=3, ctx_per_slot=1000, extra_args=("--swa-full",))
    assert estimate(spec, found, gpu=False).kv_bytes == 6 * MIB


WEIGHTS = {
    "token_embd": {"Q8_0": 100},
    "blk.0": {"F32": 1, "Q4_K": 10},
    "blk.1": {"F32": 2, "Q6_K": 20},
    "output_norm": {"F32": 4},
}


def weighed(weights: dict[str, dict[str, int]] = WEIGHTS) -> Shape:
    """Nothing but weights."""
    return Shape(
        weights=weights, layers=(Layer(k=0, v=0),) * 2, window=0, vocabulary=0, embedding=0,
        feed_forward=0, heads=0,
    )  # fmt: skip


def ram(spec: FleetSpec, found: Shape) -> tuple[int, int]:
    """Shared weights, and those of each instance."""
    nothing = estimate(spec, weighed({}), gpu=False)
    need = estimate(spec, found, gpu=False)
    assert need.weights_bytes == 137
    return need.shared_bytes, need.ram_bytes - nothing.ram_bytes


def test_weights_are_shared_unless_they_are_rearranged_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    spec = FleetSpec(model="m", instances=3)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert ram(spec, weighed()) == (127, 10)
    assert ram(replace(spec, extra_args=("--no-repack",)), weighed()) == (137, 0)
    assert ram(replace(spec, extra_args=("--no-mmap",)), weighed()) == (0, 137)
    assert ram(replace(spec, extra_args=("--load-mode", "none")), weighed()) == (0, 137)
    assert ram(replace(spec, extra_args=("-lm", "mmap")), weighed()) == (127, 10)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert ram(spec, weighed()) == (107, 30)
    monkeypatch.setattr("sys.platform", "darwin")
    assert ram(spec, weighed()) == (137, 0)


@pytest.mark.parametrize(
    ("gpu_layers", "on_cards"),
    # The output is the embedding here: on the cards it is a copy. Then the last layers.
    [(None, 137), (999, 137), (3, 137), (2, 126), (1, 104), (0, None)],
)
def test_layers_on_the_cards(gpu_layers: int | None, on_cards: int | None) -> None:
    spec = FleetSpec(model="m", instances=3, gpu_layers=gpu_layers)
    need, nothing = estimate(spec, weighed(), gpu=True), estimate(spec, weighed({}), gpu=True)
    if on_cards is None:
        assert need.vram_bytes == 0
        return
    assert need.vram_bytes - nothing.vram_bytes == on_cards
    assert need.vram_total_bytes == 3 * need.vram_bytes
    assert need.shared_bytes >= 100  # rows of the embedding are looked up in RAM


def test_the_cache_goes_where_its_layers_are() -> None:
    found = replace(weighed({}), layers=(Layer(k=64, v=64),) * 4)
    spec = FleetSpec(model="m", parallel=1, ctx_per_slot=1024)
    each = 2 * 64 * 2 * 1024
    for layers, there in ((None, 4), (3, 2), (1, 0)):
        need = estimate(replace(spec, gpu_layers=layers), found, gpu=True)
        without = estimate(replace(spec, gpu_layers=layers), weighed({}), gpu=True)
        assert need.kv_bytes == 4 * each
        assert need.vram_bytes - without.vram_bytes == there * each
        assert need.ram_bytes - without.ram_bytes == (4 - there) * each
    kept = estimate(replace(spec, extra_args=("--no-kv-offload",)), found, gpu=True)
    assert kept.vram_bytes == estimate(spec, weighed({}), gpu=True).vram_bytes


def test_the_compute_buffer_is_the_largest_of_its_moments() -> None:
    """Figures that llama-server b11434 logged for SmolLM2-135M, in MiB."""
    small = Shape(
        weights={}, layers=(Layer(k=192, v=192),) * 30, window=0, vocabulary=49152, embedding=576,
        feed_forward=1536, heads=9,
    )  # fmt: skip
    spec = FleetSpec(model="m", parallel=4, ctx_per_slot=1024)
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, 15.64),
        ({"ubatch": 128}, 3.91),
        ({"ubatch": 2048}, 62.57),
        ({"batch": 64}, 1.96),
        ({"parallel": 64, "ctx_per_slot": 256}, 17.89),
        ({"parallel": 256, "ctx_per_slot": 256}, 53.89),
        ({"kv_unified": True, "ctx_per_slot": 8192}, 46.64),
        ({"flash_attn": "off"}, 27.51),
        ({"flash_attn": "off", "ctx_per_slot": 8192}, 167.51),
    ]
    for fields, mib in cases:
        assert compute_bytes(replace(spec, **fields), small) / MIB == pytest.approx(mib, rel=0.015), fields


def test_the_shape_of_a_real_file(grouped: Path) -> None:
    found = read_shape(grouped)
    assert (found.vocabulary, found.embedding, found.feed_forward, found.heads) == (259, 256, 1024, 4)
    assert found.layers == (Layer(k=128, v=128, head_k=64, head_v=64),) * 6
    places = {"token_embd", "output", "output_norm", *(f"blk.{i}" for i in range(6))}
    assert found.weights.keys() == places
    total = sum(sum(types.values()) for types in found.weights.values())
    assert total == 4 * read_header(grouped).parameters
    assert models.headers(grouped) == (read_header(grouped),)


def test_short_arrays_of_numbers_are_read_and_the_length_of_others(grouped: Path) -> None:
    header = read_header(grouped)
    kinds = header.fields["tokenizer.ggml.token_type"]
    assert isinstance(kinds, tuple) and len(kinds) == 259
    assert kinds[:4] == (2, 3, 3, 6)  # unknown, control, control, byte
    assert header.lengths == {"tokenizer.ggml.tokens": 259}


def test_experts_that_one_token_goes_through_count_together() -> None:
    keys = COMMON | {"expert_used_count": 4, "expert_feed_forward_length": 200}
    assert shape([header("qwen3moe", keys)]).feed_forward == 800
    assert shape([header("llama", COMMON | {"expert_used_count": 2})]).feed_forward == 768


def test_parts_of_a_model_add_up() -> None:
    parts = [header("llama", COMMON, WEIGHTS), header("llama", COMMON, {"blk.1": {"Q6_K": 5}})]
    assert shape(parts).weights["blk.1"] == {"F32": 2, "Q6_K": 25}
