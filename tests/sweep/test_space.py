"""Axes, presets and the order of cells."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lab_tui.model import AxisValue, FleetSpec, LabError, SweepSpec, Workload
from lab_tui.serving import llama_server
from lab_tui.serving.parts import LlamaServer
from lab_tui.sweep import space

FLEET = FleetSpec(model="/m.gguf")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["instancez=1"], "there is no axis 'instancez'"),
        (["=1"], "there is no axis ''"),
        (["instances"], "axis instances has an empty value"),
        (["instances="], "axis instances has an empty value"),
        (["instances=1,,2"], "axis instances has an empty value"),
        (["instances=two"], "axis instances: 'two' is not a number"),
        (["instances=1.5"], "axis instances: '1.5' is not a number"),
        (["instances=0"], "axis instances: 0 is out of range: give 1 to 64"),
        (["instances=65"], "axis instances: 65 is out of range"),
        (["parallel=257"], "axis parallel: 257 is out of range: give 1 to 256"),
        (["parallel=-1"], "axis parallel: -1 is out of range"),
        (["concurrency=0"], "axis concurrency: 0 is out of range"),
        (["concurrency=1,1"], "axis concurrency has a value twice"),
        (["concurrency=1", "concurrency=2"], "axis concurrency is given twice"),
        (["threads-http=1", "threads_http=2"], "axis threads-http is given twice"),
        (["flash-attn=maybe"], "axis flash-attn: 'maybe' is not one of on, off, auto"),
        (["cache-type-k=q9"], "axis cache-type-k: 'q9' is not one of f32"),
        (["balancing=fastest"], "axis balancing: 'fastest' is not one of round_robin, least_conn"),
        (["parallel=" + "9" * 5000], "axis parallel: '999"),
        (["parallel=08,8"], "axis parallel has a value twice"),
        ([""], "there is no axis ''"),
        (["placement=near"], "axis placement: 'near' is not one of auto, spread, pack, split, split-row"),
        (["placement=0;1"], "axis placement: '0;1' is not one of"),
        (["cpu-pin=yes"], "axis cpu-pin: 'yes' is not one of on, off"),
        (["arg:poll=1"], "axis arg:poll: 'poll' is no argument of llama-server: write arg:--poll=0,50"),
        (["arg:=1"], "axis arg:: '' is no argument of llama-server"),
        (["arg:--poll="], "axis arg:--poll has an empty value"),
        (["arg:--poll=1,1"], "axis arg:--poll has a value twice"),
        (["arg:--poll=1", "arg:--poll=2"], "axis arg:--poll is given twice"),
        (["arg:-ub=64"], "axis arg:-ub has a name of its own: use ubatch"),
    ],
)
def test_what_is_wrong_with_which_axis(texts: list[str], says: str) -> None:
    with pytest.raises(LabError) as caught:
        space.parse_axes(texts)
    assert str(caught.value).startswith(says)


def test_places_vary() -> None:
    axes = space.parse_axes(["placement=pack,0+1+1,0", "cpu_pin=off,on", "instances=1"])
    cells = space.cells(SweepSpec(name="x", fleet=FLEET, axes=axes))
    found = [(cell.fleet.placement, cell.fleet.cpu_pin) for cell in cells]
    assert found == [(way, pin) for way in ("pack", "0,1,1", "0") for pin in (False, True)]
    assert space.label(cells[2]) == "1×4 c=1 placement=0+1+1 cpu-pin=off"
    three = SweepSpec(name="x", fleet=FLEET, axes={**axes, "instances": (1, 3)})
    with pytest.raises(LabError, match="placement 0 has no card for instance 1"):
        space.check(three)
    assert space.model_loads(three) == 6 * 3  # each place has a fleet of its own


def test_axes() -> None:
    assert space.parse_axes(["instances = 1, 2", "threads_http=64", "flash-attn=on,off"]) == {
        "instances": (1, 2),
        "threads-http": (64,),
        "flash-attn": ("on", "off"),
    }
    assert space.parse_axes([]) == {}
    assert space.parse_axes(["arg:--numa=distribute,isolate", "arg:--poll=0,50", "arg:--x=007,0.5"]) == {
        "arg:--numa": ("distribute", "isolate"),
        "arg:--poll": (0, 50),
        "arg:--x": ("007", "0.5"),
    }


def test_a_spec_is_checked_as_its_text_would_be() -> None:
    good = space.preset("quick", FLEET)
    space.check(good)
    with pytest.raises(LabError, match="axis parallel: 999 is out of range"):
        space.check(msgspec.structs.replace(good, axes={"parallel": (999,)}))
    with pytest.raises(LabError, match=r"16,384 cells are more than 10,000"):
        axes = {"concurrency": tuple(range(1, 129)), "batch": tuple(range(1, 129))}
        space.check(msgspec.structs.replace(good, axes=axes))
    meant = msgspec.structs.replace(good, axes=axes, large=True)
    space.check(meant)
    with pytest.raises(LabError, match=r"163,840 cells are more than 50,000"):
        space.check(msgspec.structs.replace(meant, axes=axes | {"threads": tuple(range(1, 11))}))
    with pytest.raises(LabError, match="there is no preset slow: choose one of quick"):
        space.preset("slow", FLEET)


@pytest.mark.parametrize(("name", "count"), [("quick", 12), ("full", 308)])
def test_presets_have_their_cells(name: str, count: int) -> None:
    cells = space.cells(space.preset(name, FLEET))
    assert len(cells) == count
    assert len({msgspec.json.encode(cell) for cell in cells}) == count


def test_full_is_the_space_of_llama_throughput_lab() -> None:
    cells = space.cells(space.preset("full", FLEET))
    assert {cell.fleet.instances for cell in cells} == {2, 4, 8, 16}
    assert {cell.fleet.parallel for cell in cells} == {1, 2, 4, 8, 16, 32, 64}
    assert {cell.concurrency for cell in cells} == {2**n for n in range(11)}


def test_standard_is_adaptive_up_to_four_streams_a_slot() -> None:
    spec = space.preset("standard", FLEET)
    assert spec.strategy == "adaptive"
    cells = space.cells(spec)
    assert {cell.fleet.instances for cell in cells} == {1, 2, 4, 8, 16}
    assert {cell.fleet.parallel for cell in cells} == {1, 2, 4, 8, 16, 32, 64}
    assert {cell.concurrency for cell in cells} == {2**n for n in range(13)}
    assert max(cell.concurrency for cell in cells) == space.MOST_STREAMS_PER_SLOT * 16 * 64


WITH_VALUE = (
    "--model", "--port", "--parallel", "--ctx-size", "--batch-size", "--ubatch-size", "--threads",
    "--threads-http", "--gpu-layers", "--cache-type-k", "--cache-type-v", "--flash-attn", "--poll",
)  # fmt: skip
SWITCHES = ("--kv-unified", "--no-kv-unified", "--mlock")
BUILD = LlamaServer(
    command=("llama-server",),
    source="PATH",
    version="1",
    flags=dict.fromkeys(WITH_VALUE, "N") | dict.fromkeys(SWITCHES, ""),
)


def starts(spec: SweepSpec) -> int:
    """Instances started when the cells run in order: kept as long as their command line is the same."""
    running: list[tuple[str, ...]] = []
    count = 0
    for cell in space.cells(spec):
        wanted = [llama_server.command(BUILD, cell.fleet, i) for i in range(cell.fleet.instances)]
        kept = 0
        while kept < min(len(running), len(wanted)) and running[kept] == wanted[kept]:
            kept += 1
        count += len(wanted) - kept
        running = wanted
    return count


@pytest.mark.parametrize("name", list(space.PRESETS))
def test_a_preset_starts_as_few_instances_as_can_be(name: str) -> None:
    spec = space.laid_out(space.preset(name, FLEET), cores=8)
    space.check(spec)
    assert starts(spec) == space.model_loads(spec)


def test_four_counts_by_seven_slots_start_seven_times_sixteen_instances() -> None:
    spec = space.laid_out(space.preset("full", FLEET), cores=8)
    assert starts(spec) == 7 * 16
    load: dict[str, tuple[AxisValue, ...]] = {
        "balancing": ("round_robin", "least_conn"), "output-tokens": (16, 64)
    }  # fmt: skip
    more = space.laid_out(msgspec.structs.replace(spec, axes=spec.axes | load), cores=8)
    assert len(space.cells(more)) == 4 * 308
    assert starts(more) == 7 * 16


@pytest.mark.parametrize("name", [*space.AXES, "arg:--poll"])
def test_within_one_setting_of_an_axis_the_fleet_only_grows(name: str) -> None:
    words = space.axis_of(name).words
    values: tuple[AxisValue, ...] = words[:2] if words else (64, 32)
    axes = {"concurrency": (1, 4), "instances": (1, 2, 4), "parallel": (1, 2), name: values}
    spec = space.laid_out(SweepSpec(name="x", fleet=FLEET, axes=axes), cores=8)
    assert starts(spec) == space.model_loads(spec)
    if name in ("concurrency", "output-tokens", "balancing"):
        assert starts(spec) == 2 * 4


async def test_arguments_are_held_against_what_the_build_takes() -> None:
    async def check(**axes: tuple[AxisValue, ...]) -> None:
        named = {name.replace("_", "-"): values for name, values in axes.items()}
        await space.check_arguments(BUILD, SweepSpec(name="x", fleet=FLEET, axes=named))

    await check(**{"arg:--poll": (0, 50), "parallel": (1,)})
    with pytest.raises(LabError, match="takes no argument --pole"):
        await check(**{"arg:--pole": (0,)})
    with pytest.raises(LabError, match="axis arg:--mlock: llama-server's --mlock takes no value"):
        await check(**{"arg:--mlock": ("on",)})
    with pytest.raises(LabError, match="--port is set by lab-tui itself"):
        await check(**{"arg:--port": (1,)})


async def test_a_value_that_the_help_does_not_promise_is_tried(tmp_path: Path) -> None:
    """As llama-server does: it reads what stands before --version, and may take more than it lists."""
    server = tmp_path / "llama-server"
    server.write_text('#!/bin/sh\n[ "$2" = 1 ] && exit 0\necho "error: unknown value \'$2\'"; exit 1\n')
    server.chmod(0o755)
    flags = {
        "--log-colors": "[on|off|auto]",
        "--poll": "N",
        "--split-mode": "{none,layer}",
        "--ot": "<a>=<b>,...",
    }
    build = msgspec.structs.replace(BUILD, command=(str(server),), flags=flags)

    async def check(name: str, *values: AxisValue) -> None:
        spec = SweepSpec(name="x", fleet=FLEET, axes={f"arg:{name}": values})
        await space.check_arguments(build, spec)

    await check("--log-colors", "on", 1)
    await check("--poll", 0, "0.5", "-1")
    await check("--ot", "exps=CPU")
    for name, *values in (("--log-colors", "on", "of"), ("--poll", 50, "much"), ("--split-mode", "row")):
        said = f"axis arg:{name}: llama-server refuses {name} {values[-1]} .unknown value '{values[-1]}'"
        with pytest.raises(LabError, match=said):
            await check(name, *values)


def test_arguments_come_after_those_of_every_cell() -> None:
    fleet = msgspec.structs.replace(FLEET, extra_args=("--poll", "1"))
    spec = SweepSpec(name="x", fleet=fleet, axes={"concurrency": (1,), "arg:--poll": (50, 0)})
    cells = space.cells(spec)
    assert [cell.fleet.extra_args for cell in cells] == [
        ("--poll", "1", "--poll", "0"), ("--poll", "1", "--poll", "50")
    ]  # fmt: skip
    assert space.label(cells[0]) == "1×4 c=1 --poll=0"


def test_values_apply_in_the_order_of_numbers_whatever_is_given() -> None:
    spec = SweepSpec(name="x", fleet=FLEET, axes={"concurrency": (16, 1, 4), "instances": (2, 1)})
    pairs = [(cell.fleet.instances, cell.concurrency) for cell in space.cells(spec)]
    assert pairs == [(1, 1), (1, 4), (1, 16), (2, 1), (2, 4), (2, 16)]


def test_each_axis_reaches_its_setting() -> None:
    axes: dict[str, tuple[AxisValue, ...]] = {
        name: (axis.words[0] if axis.words else max(axis.low, 7),) for name, axis in space.AXES.items()
    }
    (cell,) = space.cells(SweepSpec(name="x", fleet=FLEET, axes=axes))
    assert cell.axes == {name: values[0] for name, values in axes.items()}
    fleet = cell.fleet
    assert (fleet.instances, fleet.parallel, fleet.threads, fleet.threads_http) == (7, 7, 7, 7)
    assert (fleet.batch, fleet.ubatch, fleet.gpu_layers, fleet.ctx_per_slot) == (7, 7, 7, 64)
    assert (fleet.flash_attn, fleet.cache_type_k, fleet.cache_type_v) == ("on", "f32", "f32")
    assert (fleet.kv_unified, fleet.balancing) == (True, "round_robin")
    assert (cell.concurrency, cell.workload.output_tokens) == (7, 7)


def test_no_axes_is_one_cell() -> None:
    assert len(space.cells(SweepSpec(name="x", fleet=FLEET, axes={}))) == 1


def test_laid_out_so_that_the_fleet_can_grow() -> None:
    spec = SweepSpec(
        name="x",
        fleet=msgspec.structs.replace(FLEET, max_streams=8),
        axes={"instances": (1, 4), "concurrency": (1, 100), "output-tokens": (10, 1000)},
        workload=Workload(prompt_tokens=100),
    )
    fleet = space.laid_out(spec, cores=8).fleet
    assert fleet.threads == 2
    assert fleet.threads_http == 116
    assert fleet.max_streams == 100
    assert fleet.ctx_per_slot == 1536  # 1100 tokens with room to spare, in steps of 256
    given = msgspec.structs.replace(spec, fleet=msgspec.structs.replace(FLEET, threads=3, threads_http=9))
    assert (space.laid_out(given, 8).fleet.threads, space.laid_out(given, 8).fleet.threads_http) == (3, 9)


def test_context_has_room_for_the_longest_answer_and_for_prompts_of_a_file() -> None:
    spec = SweepSpec(
        name="x", fleet=FLEET, axes={}, workload=Workload(prompt_tokens=64, output_tokens_max=1000)
    )
    assert space.laid_out(spec, 8).fleet.ctx_per_slot == 1536
    short = msgspec.structs.replace(spec, workload=Workload(prompt_file="p.jsonl"))
    assert space.laid_out(short, 8).fleet.ctx_per_slot == FLEET.ctx_per_slot


def test_a_range_of_lengths_does_not_go_with_an_axis_of_them() -> None:
    workload = Workload(output_tokens=8, output_tokens_max=16)
    spec = SweepSpec(name="x", fleet=FLEET, axes={"output-tokens": (8, 16)}, workload=workload)
    with pytest.raises(LabError, match="choose one"):
        space.check(spec)


def test_labels() -> None:
    spec = SweepSpec(
        name="x", fleet=FLEET, axes={"parallel": (8,), "concurrency": (16,), "flash-attn": ("on",)}
    )
    assert space.label(space.cells(spec)[0]) == "1×8 c=16 flash-attn=on"
