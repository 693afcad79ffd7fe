"""llama-server's command line for builds of two eras, what is refused, and why an instance ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from lab_tui.model import FleetSpec, LabError
from lab_tui.serving import llama_server
from lab_tui.serving.cards import Device
from lab_tui.serving.parts import LlamaServer, parse_flags
from lab_tui.serving.placement import Seat
from lab_tui.serving.process import Process
from tests.ports import free_ports

from .helpers import taken, tiny_spec
from .helptexts import HELP_2024, HELP_2026


def build(text: str) -> LlamaServer:
    return LlamaServer(command=("llama-server",), source="PATH", version="", flags=parse_flags(text))


NEW, OLD = build(HELP_2026), build(HELP_2024)


def pairs(command: tuple[str, ...]) -> dict[str, str]:
    """Flags of a command line → their values, "" for switches."""
    words = command[1:]
    return {
        word: words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else ""
        for at, word in enumerate(words)
        if word.startswith("-")
    }


# --- the command line ---------------------------------------------------------------------------


def test_everything_whose_default_changed_is_explicit() -> None:
    spec = FleetSpec(model="/m.gguf", instances=4, parallel=8, ctx_per_slot=1024, threads=3, max_streams=100)
    assert pairs(llama_server.command(NEW, spec, 2)) == {
        "--model": "/m.gguf",
        "--host": "127.0.0.1",
        "--port": "9002",
        "--parallel": "8",
        "--ctx-size": "8192",
        "--no-kv-unified": "",
        "--batch-size": "2048",
        "--ubatch-size": "512",
        "--threads": "3",
        "--threads-http": "41",  # its share of the streams and 16
        "--cache-ram": "0",
        "--fit": "off",
        "--gpu-layers": "999",
        "--cache-type-k": "f16",
        "--cache-type-v": "f16",
        "--metrics": "",
        "--slots": "",
        "--no-webui": "",
        "--flash-attn": "auto",
    }


def test_clients_see_the_model_by_its_name() -> None:
    build = msgspec.structs.replace(NEW, flags=NEW.flags | {"--alias": "STRING"})
    words = llama_server.command(build, FleetSpec(model="/home/me/a.Q4.gguf"), 0)
    assert words[words.index("--alias") + 1] == "a.Q4"


def test_a_build_of_2024_gets_only_what_it_knows() -> None:
    for attention, words in (("auto", False), ("off", False), ("on", True)):
        spec = FleetSpec(model="/m.gguf", flash_attn=attention)
        command = llama_server.command(OLD, spec, 0)
        flags = pairs(command)
        assert ("--flash-attn" in flags) is words
        assert not flags.keys() - OLD.flags.keys()
        assert not {"--no-kv-unified", "--cache-ram", "--fit", "--no-webui"} & flags.keys()
        assert "auto" not in command


def test_what_the_spec_asks_reaches_the_command() -> None:
    spec = FleetSpec(
        model="/m.gguf", kv_unified=True, flash_attn="off", cache_type_k="q8_0", cache_type_v="q4_0",
        gpu_layers=0, batch=64, ubatch=32, threads_http=7, extra_args=("--jinja", "-lv", "4"),
    )  # fmt: skip
    command = llama_server.command(NEW, spec, 0)
    flags = pairs(command)
    assert "--kv-unified" in flags and "--no-kv-unified" not in flags
    assert (flags["--flash-attn"], flags["--gpu-layers"], flags["--threads-http"]) == ("off", "0", "7")
    assert (flags["--cache-type-k"], flags["--cache-type-v"]) == ("q8_0", "q4_0")
    assert (flags["--batch-size"], flags["--ubatch-size"]) == ("64", "32")
    assert command[-3:] == ("--jinja", "-lv", "4")


def test_threads_are_the_cores_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "usable_cores", lambda: 8)
    assert [llama_server.default_threads(n) for n in (1, 3, 8, 64)] == [8, 2, 1, 1]
    assert pairs(llama_server.command(NEW, FleetSpec(model="m", instances=2), 0))["--threads"] == "4"


def test_cores_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 256 of them that takes milliseconds, and a plan of 64 instances would hold the loop for one."""
    asked: list[bool] = []

    def cpu_count(logical: bool) -> int:
        asked.append(logical)
        return 4

    monkeypatch.setattr(psutil, "cpu_count", cpu_count)
    llama_server.physical_cores.cache_clear()
    for index in range(64):
        llama_server.command(NEW, FleetSpec(model="m", instances=64), index)
    assert asked == [False]
    llama_server.physical_cores.cache_clear()


def test_http_threads_cover_the_slots_whatever_the_streams() -> None:
    spec = FleetSpec(model="m", instances=4, parallel=64, max_streams=8)
    assert pairs(llama_server.command(NEW, spec, 0))["--threads-http"] == "80"


def test_usable_cores_is_no_more_than_affinity_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert llama_server.usable_cores() == 1


def test_nothing_of_the_environment_changes_a_flag() -> None:
    ours = {"PATH": "/bin", "LLAMA_ARG_PORT": "1", "LLAMA_API_KEY": "x", "CUDA_VISIBLE_DEVICES": "0"}
    assert llama_server.environment(ours, Seat()) == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"}
    seat = Seat(visible={"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert llama_server.environment(ours, seat) == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "GPU-1"}


def test_a_seat_is_part_of_the_command() -> None:
    spec = FleetSpec(model="m", instances=2, extra_args=("--jinja",))
    over_two = Seat(split_mode="tensor", shares=(3, 1), devices=("Vulkan0", "Vulkan1"), threads=3)
    plain, seated = (llama_server.command(NEW, spec, 0, seat) for seat in (None, over_two))
    added = ("--device", "Vulkan0,Vulkan1", "--split-mode", "tensor", "--tensor-split", "3,1", "--jinja")
    assert seated[-7:] == added and pairs(seated)["--threads"] == "3"
    assert pairs(plain).keys() == pairs(seated).keys() - {"--device", "--split-mode", "--tensor-split"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"placement": "split", "extra_args": ("-ts", "1,1")}, "-ts and placement split both say where"),
        ({"placement": "split-tensor"}, "this llama-server does not take --split-mode tensor: take"),
    ],
)
def test_a_placement_that_this_build_cannot_have_is_refused(fields: Any, says: str) -> None:
    card = Device(name="CUDA0", description="", total_bytes=1, free_bytes=1)
    build = msgspec.structs.replace(OLD, devices=(card,))
    with pytest.raises(LabError, match=says):
        llama_server.check_placement(build, FleetSpec(model="m", **fields))
    llama_server.check_placement(build, FleetSpec(model="m", placement="split-row"))
    llama_server.check_placement(build, FleetSpec(model="m", extra_args=("-ts", "1,1")))
    for devices, why in ((None, "it has no --list-devices"), ((), "can use no card")):
        with pytest.raises(LabError, match=why):
            other = msgspec.structs.replace(OLD, devices=devices)
            llama_server.check_placement(other, FleetSpec(model="m", placement="spread"))


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "-m",
        "--model",
        "-np",
        "--parallel",
        "--port",
        "--port=1",
        "--host",
        "--host=0.0.0.0",
        "-c",
        "--ctx-size",
    ],
)
def test_what_lab_tui_decides_is_refused_by_name(word: str) -> None:
    with pytest.raises(LabError, match=rf"^{word.split('=')[0]} is set by lab-tui itself: use -"):
        llama_server.check_extra_args(NEW, ["-cb", word, "1"])


@pytest.mark.parametrize("word", ["--no-such", "-zz", "--no-such=3", "--Metrics"])
def test_an_unknown_argument_is_refused_by_name(word: str) -> None:
    with pytest.raises(LabError, match=rf"takes no argument {word.split('=')[0]}: `llama-server --help`"):
        llama_server.check_extra_args(NEW, [word])


@pytest.mark.parametrize("word", ["--help", "-h", "--version"])
def test_what_ends_at_once_is_refused(word: str) -> None:
    with pytest.raises(LabError, match=rf"^with {word} llama-server only prints something and ends"):
        llama_server.check_extra_args(NEW, ["-cb", word])


def test_what_a_build_knows_passes() -> None:
    llama_server.check_extra_args(NEW, ["-cb", "-n", "-1", "-lv", "4", "-fa", "on"])
    with pytest.raises(LabError, match="takes no argument value-x"):
        llama_server.check_extra_args(NEW, ["-fa", "on", "value-x"])
    with pytest.raises(LabError, match="-fa needs a value"):
        llama_server.check_extra_args(NEW, ["-fa"])
    llama_server.check_extra_args(OLD, ["--mlock"])
    with pytest.raises(LabError, match="takes no argument --mlock"):
        llama_server.check_extra_args(NEW, ["--mlock"])


def test_a_value_after_an_equals_sign_is_not_llama_servers_way() -> None:
    with pytest.raises(LabError, match="does not take --verbosity=4 in one word: write --verbosity 4"):
        llama_server.check_extra_args(NEW, ["--verbosity=4"])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("instances", 0, "instances is 0: give a number from 1 to 64"),
        ("instances", -1, "instances is -1"),
        ("instances", 65, "instances is 65"),
        ("parallel", 0, "parallel is 0: give a number from 1 to 256"),
        ("parallel", -4, "parallel is -4"),
        ("parallel", 257, "parallel is 257: give a number from 1 to 256"),
        ("ctx_per_slot", 0, "ctx-per-slot is 0"),
        ("batch", 0, "batch is 0"),
        ("ubatch", -1, "ubatch is -1"),
        ("threads", 0, "threads is 0"),
        ("threads", -1, "threads is -1"),
        ("threads_http", 0, "threads-http is 0"),
        ("max_streams", 0, "max-streams is 0"),
        ("base_port", 0, "base-port is 0"),
        ("base_port", 70000, "base-port is 70000"),
        ("front_port", 0, "front-port is 0"),
        ("front_port", 65536, "front-port is 65536"),
        ("front_port", 9001, "front-port 9001 lies among the instances' ports 9000–9001"),
        ("base_port", 65535, "base-port 65535 leaves no room for 2 instances"),
        ("balancing", "fastest", "balancing is fastest: give round_robin or least_conn"),
        ("flash_attn", "yes", "flash-attn is yes: give on, off or auto"),
    ],
)
def test_each_setting_out_of_range_is_named(field: str, value: object, says: str) -> None:
    spec = FleetSpec(model="m", instances=2)
    llama_server.check_spec(spec)
    with pytest.raises(LabError) as caught:
        llama_server.check_spec(msgspec.structs.replace(spec, **{field: value}))
    assert str(caught.value).startswith(says)


def test_the_ends_of_the_ranges_pass() -> None:
    llama_server.check_spec(FleetSpec(model="m", instances=64, parallel=256, base_port=65472, front_port=1))
    llama_server.check_spec(FleetSpec(model="m", instances=1, parallel=1, base_port=1, front_port=65535))


# --- why it ended, from real logs ---------------------------------------------------------------


async def ends(model: Path, tmp_path: Path, **fields: object) -> str:
    """Why an instance of the embedded server that cannot start says it ended."""
    spec = tiny_spec(model, **fields)
    words = llama_server.command(NEW, spec, 0)[1:]
    words = tuple(words[: words.index("--no-webui")])
    child = Process.start(
        (sys.executable, "-m", "lab_tui.serving.embedded", *words), tmp_path / "log", os.environ
    )
    code = await asyncio.wait_for(child.wait(), 60)
    assert code == 1
    return llama_server.why_it_ended(child.log_lines(200), code)


async def test_not_a_gguf(tmp_path: Path) -> None:
    model = tmp_path / "text.gguf"
    model.write_text("hello, this is no model\n" * 100)
    assert await ends(model, tmp_path) == "the model is not a GGUF file"


async def test_truncated(tmp_path: Path, tiny_model: Path) -> None:
    cut = tmp_path / "short.gguf"
    shutil.copy(tiny_model, cut)
    os.truncate(cut, cut.stat().st_size - 100_000)
    assert await ends(cut, tmp_path) == "the model file is truncated"


async def test_missing(tmp_path: Path) -> None:
    assert await ends(tmp_path / "none.gguf", tmp_path) == "the model cannot be loaded"


async def test_port_in_use(tmp_path: Path, tiny_model: Path) -> None:
    port = free_ports(1)
    with taken(port):
        assert await ends(tiny_model, tmp_path, base_port=port) == f"port {port} is in use"


async def test_too_many_slots(tmp_path: Path, tiny_model: Path) -> None:
    assert await ends(tiny_model, tmp_path, parallel=257) == "more than 256 slots in one instance"


@pytest.mark.parametrize(
    ("lines", "code", "reason"),
    [
        (["error: invalid argument: --x"], 1, "llama-server takes no argument --x"),
        (["CUDA error: out of memory", "failed to load model"], 1, "the GPU is out of memory"),
        (
            ["ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1 MiB on device 0: cudaMalloc failed: "
             "out of memory", "alloc_tensor_range: failed to allocate CUDA0 buffer of size 1"],
            1,
            "the GPU is out of memory",
        ),
        (["llama_init_from_model: failed to allocate buffer for kv cache"], 1, "out of memory"),
        (["couldn't bind HTTP server socket, hostname: ::1, port: 987"], 1, "port 987 is in use"),
        (["common_init: failed to create_context with model 'm'"], 1, "the context does not fit"),
        (
            ["E llama_init_from_model: K cache type q8_0 with block size 32 does not divide n_embd_head_k=16",
             "E srv load_model: failed to create_context with model 'm'"],
            1,
            "this model takes no K cache of type q8_0: its heads are 16 wide, no multiple of 32",
        ),
        (
            ["E llama_init_from_model: quantized V cache requires flash_attn to be enabled",
             "E srv load_model: failed to create_context with model 'm'"],
            1,
            "a quantized V cache wants flash attention",
        ),
        ([], -9, "killed (SIGKILL; out of memory if nobody did it)"),
        (["some line"], -11, "ended by signal 11"),
        (["a", "last words", "  "], 3, "ended with code 3: last words"),
        ([], 0, "ended with code 0"),
        ([], None, "ended"),
        (["last words"], None, "ended: last words"),
    ],
)  # fmt: skip
def test_reasons(lines: list[str], code: int | None, reason: str) -> None:
    assert llama_server.why_it_ended(lines, code).startswith(reason)
