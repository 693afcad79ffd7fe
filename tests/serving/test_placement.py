"""Which cards and cores instances get: plain functions over hand-made cards and sysfs trees."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from lab_tui.config import ServeSettings, Settings
from lab_tui.model import FleetSpec, GpuReading, LabError
from lab_tui.serving import cards, llama_server, placement
from lab_tui.serving.cards import Card, Device, Own, Usable, parse_devices, usable
from lab_tui.serving.cores import Core, read_cores, share_out, span
from lab_tui.serving.memory import GPU_CONTEXT, Estimate
from lab_tui.serving.parts import LlamaServer, Nginx
from lab_tui.serving.placement import NoRoom, Seat, on_cards
from lab_tui.serving.planner import NoCards, Planner

GB = 10**9


def need(vram: float, compute: float = 0.0) -> Estimate:
    """An instance that takes so many GB on a card."""
    return Estimate(instances=1, shared_bytes=0, ram_bytes=0, vram_bytes=int(vram * GB), weights_bytes=0,
                    kv_bytes=0, compute_bytes=int(compute * GB))  # fmt: skip


def free(*gigabytes: float) -> list[Card]:
    """NVIDIA cards with so much free for instances."""
    return [
        Card(index=n, free_bytes=int(size * GB), variable="CUDA_VISIBLE_DEVICES", value=f"GPU-{n}")
        for n, size in enumerate(gigabytes)
    ]


# --- seats on cards -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "size", "on", "instances", "expected"),
    [
        ("spread", 5, (24, 20), 4, [(0,), (1,), (0,), (1,)]),
        ("spread", 20, (22,) * 14, 14, [(n,) for n in range(14)]),
        ("pack", 8, (24, 20), 5, [(1,), (1,), (0,), (0,), (0,)]),
        ("split", 8, (24, 20), 2, [(0, 1), (0, 1)]),
        ("split", 8, (24,), 2, [(0,), (0,)]),
        ("auto", 8, (24,), 9, [()] * 9),  # one card, as it is: llama-server says whether it fits
        ("auto", 8, (24, 20), 3, [(0,), (1,), (0,)]),
        ("auto", 30, (24, 20), 1, [(0, 1)]),
        ("auto", 0, (24, 20), 2, [(), ()]),  # all of it on processors
        ("1,0,1", 8, (24, 20), 2, [(1,), (0,)]),
        ("1+0+1", 8, (24, 20), 3, [(1,), (0,), (1,)]),
    ],
)
def test_instances_are_placed_by_free_memory(
    way: str, size: float, on: tuple[float, ...], instances: int, expected: list[tuple[int, ...]]
) -> None:
    assert [seat.cards for seat in on_cards(way, need(size), free(*on), instances)] == expected


def test_a_seat_shows_a_process_its_cards_alone() -> None:
    one, other = on_cards("1,0", need(8), free(24, 20), 2)
    assert one == Seat(cards=(1,), vram_bytes=(8 * GB,), visible={"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert other.visible == {"CUDA_VISIBLE_DEVICES": "GPU-0"}
    (both,) = on_cards("split", need(8), free(24, 20), 1)
    assert both.visible == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"} and both.devices == ()
    named = [Card(index=n, free_bytes=9 * GB, device=f"Vulkan{n}") for n in (0, 1)]
    assert on_cards("1", need(8), named, 1)[0].devices == ("Vulkan1",)
    assert on_cards("split", need(8), named, 1)[0].devices == ("Vulkan0", "Vulkan1")
    beside = [Card(index=n, free_bytes=9 * GB, variable="V", value=str(n), device="CUDA") for n in (0, 1)]
    assert on_cards("1", need(8), beside, 1)[0].devices == ("CUDA0",)  # the only one that it sees


def test_a_split_is_in_proportion_to_what_is_left_of_each_card() -> None:
    """The context of the driver and the compute buffer are on every card, weights and cache are shared."""
    fixed = GPU_CONTEXT + GB
    (seat,) = on_cards("split-tensor", need(40, compute=1), free(32, 12, 1), 1)
    assert (seat.cards, seat.split_mode) == ((0, 1), "tensor")  # on the third there is no room for any
    first, second = seat.shares
    assert first / second == pytest.approx((32 * GB - fixed) / (12 * GB - fixed), rel=1e-3)
    assert sum(seat.vram_bytes) == pytest.approx(40 * GB + fixed, abs=2)
    assert [n < card.free_bytes for n, card in zip(seat.vram_bytes, free(32, 12), strict=True)] == [True] * 2
    with pytest.raises(NoRoom, match=r"instance 1 needs 40.0 GB over all cards"):
        on_cards("split", need(40, compute=1), free(32, 12, 1), 2)


def test_what_fits_nowhere_is_named_with_what_is_free_on_each_card() -> None:
    with pytest.raises(NoRoom) as caught:
        on_cards("spread", need(20), free(22.5, 24, 3), 3, reserve_bytes=1_500_000_000)
    assert caught.value.message == (
        "instance 2 needs 20.0 GB on one card, free beyond the 1.5 GB left on each: "
        "GPU 0 2.5 GB, GPU 1 4.0 GB, GPU 2 3.0 GB"
    )
    for way in ("spread", "pack", "auto", "split"):
        with pytest.raises(NoRoom):
            on_cards(way, need(20), free(*[22.5] * 14), 16)
    with pytest.raises(NoRoom, match="instance 0"):
        on_cards("1", need(20), free(24, 3), 1)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("0,2", "there is no card 2 for an instance: llama-server can use 0, 1 here"),
        ("0", "placement 0 has no card for instance 1: name a card for each of the 2 instances"),
        ("0,", "placement is '0,': give auto, spread, pack, split, split-row, split-tensor, or the card"),
        ("diagonal", "placement is 'diagonal'"),
        ("-1,0", "placement is '-1,0'"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(way: str, says: str) -> None:
    with pytest.raises(LabError) as caught:
        on_cards(way, need(1), free(24, 24), 2)
    assert str(caught.value).startswith(says)


def test_instances_that_stay_keep_their_seats_and_their_memory() -> None:
    kept = on_cards("spread", need(10), free(24, 20), 1)
    assert [seat.cards for seat in on_cards("spread", need(10), free(24, 20), 4, kept)] == [(1,), (0,), (1,)]
    split = on_cards("auto", need(30), free(24, 20), 1)
    with pytest.raises(NoRoom, match="over all cards"):
        on_cards("auto", need(30), free(24, 20), 2, split)
    (more,) = on_cards("auto", need(30), free(48, 40), 2, split)
    assert more.cards == (0, 1)  # as those that run, though one card would do now
    lost = [Seat(cards=(7,), vram_bytes=(GB,))]
    assert [seat.cards for seat in on_cards("spread", need(10), free(24, 20), 2, lost)] == [(0,)]


async def test_what_stays_takes_what_it_really_holds(tiny_model: Path, tmp_path: Path) -> None:
    """It was reckoned to take half a GB and holds 1.2: of 1.8 GB there is room for one more, not for two."""
    spec = FleetSpec(model=str(tiny_model), placement="spread", instances=1)
    card = reading(0, memory_total_bytes=1_800_000_000, memory_used_bytes=1_200_000_000)

    async def look(*_: object) -> NoCards:
        return NoCards(gpus=(card,), vram_by_card={7: {0: 1_200_000_000}})

    planner = Planner(Settings(serve=ServeSettings(reserve_gb=0)), look, tmp_path, tmp_path / "mps")
    planner._parts = BUILD, NGINX
    (seat,) = await planner.seats(spec, None, ())
    assert 0.4 * GB < seat.vram_bytes[0] < 0.6 * GB
    running: Any = SimpleNamespace(
        record=SimpleNamespace(pid=7), seat=seat, command=llama_server.command(BUILD, spec, 0, seat)
    )
    two = msgspec.structs.replace(spec, instances=2)
    assert (await planner.seats(two, spec, [running]))[0] == seat
    with pytest.raises(NoRoom, match=r"instance 2 needs 0\.4 GB on one card, .*: GPU 0 0\.2 GB"):
        await planner.seats(msgspec.structs.replace(spec, instances=3), spec, [running])


async def test_cards_are_read_after_the_last_instance_has_ended(tiny_model: Path, tmp_path: Path) -> None:
    """A reading from before shows what it held as taken: the next fleet would be refused, or split."""
    asked: list[float] = []

    async def look(since: float) -> NoCards:
        asked.append(since)
        return NoCards(gpus=(reading(0),))

    planner = Planner(Settings(), look, tmp_path, tmp_path / "mps")
    planner._parts = BUILD, NGINX
    spec = FleetSpec(model=str(tiny_model), placement="spread")
    instance: Any = SimpleNamespace(record=SimpleNamespace(pid=7))
    planner.saw([instance])
    await planner.seats(spec, None, ())
    before = time.monotonic()
    instance.record = None
    planner.saw([instance])
    planner.saw([instance])
    await planner.seats(spec, None, ())
    first, second = asked
    assert first == 0.0 and before <= second <= time.monotonic()


def test_a_model_that_cannot_be_read_is_spread_in_proportion_to_memory() -> None:
    cards_of = [seat.cards for seat in on_cards("spread", None, free(40, 10), 5)]
    assert cards_of == [(0,), (0,), (0,), (0,), (1,)]
    assert on_cards("auto", None, free(40, 10), 1) == [Seat()]  # its start will say what is wrong
    assert on_cards("split", None, free(30, 10), 1)[0].shares == (28610, 9536)


def test_a_placement_in_words() -> None:
    seats = on_cards("spread", need(5), free(24, 20), 3)
    assert placement.words(seats) == "GPU 0 ×2, GPU 1 ×1"
    assert placement.words([Seat(cards=(0, 1), threads=4)]) == "GPU 0+1 ×1; 4 cores each"
    assert placement.words([Seat(), Seat(threads=1)]) == "1 core each"
    assert placement.words([Seat()]) == ""


# --- the cards that a build can use ---------------------------------------------------------------


def reading(
    index: int, name: str = "RTX", *, maker: str = "NVIDIA", uuid: str = "", **fields: object
) -> GpuReading:
    uuid = uuid or f"GPU-{index}a{index}b"
    given = {"memory_total_bytes": 24 * GB, "memory_used_bytes": GB, **fields}
    return GpuReading(index=index, name=name, maker=maker, uuid=uuid, **given)  # type: ignore[arg-type]


def device(name: str, total: int = 24, left: int = 23) -> Device:
    return Device(name=name, description="a card", total_bytes=total * GB, free_bytes=left * GB)


CUDA = (device("CUDA0"), device("CUDA1"))
BUILD = LlamaServer(command=("llama-server",), source="PATH", version="1", flags={}, devices=CUDA)
NGINX = Nginx(command=("nginx",), source="PATH", version=(1, 28))


def test_devices_are_read_from_what_llama_server_lists() -> None:
    text = (
        "ggml_cuda_init: found 2 CUDA devices:\n  Device 0: NVIDIA H200, compute capability 9.0, VMM: yes\n"
        "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24124 MiB, 23801 MiB free)\n"
        "  Vulkan1: AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 24000 MiB free)\n"
        "  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n"
    )
    one, other = parse_devices(text)
    assert (one.name, one.kind, one.description) == ("CUDA0", "CUDA", "NVIDIA GeForce RTX 3090")
    assert (one.total_bytes, one.free_bytes) == (24124 << 20, 23801 << 20)
    assert (other.kind, other.description) == ("Vulkan", "AMD Radeon RX 7900 XTX (RADV NAVI31)")
    assert parse_devices("Available devices:\n") == ()


def test_nvidia_cards_are_named_by_uuid_and_leave_the_reserve() -> None:
    gpus = (reading(0), reading(1, memory_used_bytes=20 * GB), reading(2, maker="AMD"))
    own = [Own(told={1: 2 * GB}, reckoned={1: 15 * GB}), Own(told={1: GB})]
    found = usable(CUDA, gpus, own, GB, {})
    assert found == Usable(
        cards=(
            Card(index=0, free_bytes=22 * GB, variable="CUDA_VISIBLE_DEVICES", value="GPU-0a0b"),
            # It is loading: the driver tells 2 of the 15 GB; all there is no more than the card has.
            Card(index=1, free_bytes=19 * GB, variable="CUDA_VISIBLE_DEVICES", value="GPU-1a1b"),
        )
    )
    both = usable((*CUDA, device("Vulkan0")), gpus, (), GB, {})
    assert {card.device for card in both.cards} == {"CUDA"}  # else Vulkan would use what CUDA does not see
    without_nvml = usable(CUDA, (), (), GB, {})
    assert [card.device for card in without_nvml.cards] == ["CUDA0", "CUDA1"]


@pytest.mark.parametrize(
    ("environ", "indices"),
    [
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a1b"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "gpu-2a, GPU-0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "1,7,0"}, [1]),  # CUDA heeds nothing after what names no card
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({}, [0, 1, 2]),
    ],
)
def test_what_the_user_hid_is_not_used(environ: dict[str, str], indices: list[int]) -> None:
    found = usable(CUDA, [reading(n) for n in range(3)], (), 0, environ)
    assert [card.index for card in found.cards] == indices
    assert bool(found.why) == (not indices)


def test_numbers_of_unlike_cards_are_in_an_order_that_nobody_tells() -> None:
    gpus = (reading(0, "small"), reading(1, "large"))
    found = usable(CUDA, gpus, (), 0, {"CUDA_VISIBLE_DEVICES": "0"})
    assert found.cards == () and found.why == "CUDA_VISIBLE_DEVICES=0 does not say which cards it means"
    ordered = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert [card.index for card in usable(CUDA, gpus, (), 0, ordered).cards] == [0]


def test_a_parted_card_is_given_to_nobody() -> None:
    parted = reading(1, missing={"util_pct": cards.MIG})
    assert [card.index for card in usable(CUDA, (reading(0), parted), (), 0, {}).cards] == [0]
    assert usable(CUDA, (parted,), (), 0, {}).why == "every card is parted (MIG is on)"
    lost = reading(0, memory_used_bytes=None, missing={"memory_used_bytes": "the card is lost"})
    assert usable(CUDA, (lost,), (), 0, {}).why == "no card tells its memory"


def test_a_build_without_cards_or_without_a_list_of_them() -> None:
    assert usable((), (), (), 0, {}).no_card
    old = usable(None, (reading(0),), (), 0, {})
    assert not old.no_card and old.cards == () and "no --list-devices" in old.why


def kfd(folder: Path, *nodes: dict[str, int]) -> Path:
    """The kernel's list of what ROCm drives."""
    for number, properties in enumerate(nodes):
        node = folder / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text("".join(f"{key} {value}\n" for key, value in properties.items()))
    return folder


def test_rocm_counts_cards_as_the_kernel_does_and_not_by_bus_address(tmp_path: Path) -> None:
    nodes = kfd(
        tmp_path,
        {"simd_count": 0, "cpu_cores_count": 32},
        {"simd_count": 384, "unique_id": 0, "domain": 0, "location_id": 0xC700},
        {"simd_count": 384, "unique_id": 0xABC, "domain": 0, "location_id": 0x0300},
    )
    amd = [
        reading(0, maker="AMD", uuid=f"{0xABC:016x}", memory_used_bytes=4 * GB),
        reading(1, maker="AMD", uuid="0000:c7:00.0", memory_used_bytes=8 * GB),
    ]
    devices = (device("ROCm0"), device("ROCm1"))
    found = usable(devices, amd, (), 0, {}, nodes)
    assert [(c.index, c.value, c.free_bytes // GB) for c in found.cards] == [(1, "0", 16), (0, "1", 20)]
    assert {card.variable for card in found.cards} == {"HIP_VISIBLE_DEVICES"}
    masked = usable(devices[:1], amd, (), 0, {"HIP_VISIBLE_DEVICES": "1"}, nodes)
    assert [(c.index, c.value) for c in masked.cards] == [(0, "1")]
    # What it counts is not known any more: llama-server's own figures.
    fewer = usable(devices[:1], amd, (), 0, {"ROCR_VISIBLE_DEVICES": "1"}, nodes)
    assert [(c.index, c.value, c.free_bytes // GB) for c in fewer.cards] == [(0, "0", 23)]


def test_other_makers_cards_are_chosen_by_name() -> None:
    devices = (device("Vulkan0"), device("Vulkan1", 24, 3))
    found = usable(devices, (), [Own(reckoned={1: 30 * GB})], GB, {})
    assert found.cards == (
        Card(index=0, free_bytes=22 * GB, device="Vulkan0"),
        Card(index=1, free_bytes=23 * GB, device="Vulkan1"),
    )


# --- cores ----------------------------------------------------------------------------------------


def sysfs(folder: Path, nodes: dict[int, str], cores: list[tuple[int, ...]]) -> Path:
    """A machine: processors by node, and those that are hyperthreads of one core."""
    for node, cpus in nodes.items():
        place = folder / f"devices/system/node/node{node}"
        place.mkdir(parents=True)
        (place / "cpulist").write_text(f"{cpus}\n")
    for siblings in cores:
        for cpu in siblings:
            place = folder / f"devices/system/cpu/cpu{cpu}/topology"
            place.mkdir(parents=True)
            (place / "core_cpus_list").write_text(",".join(map(str, siblings)) + "\n")
    return folder


def test_cores_are_whole_and_within_the_affinity(tmp_path: Path) -> None:
    machine = sysfs(tmp_path, {0: "0-1,4-5", 1: "2-3,6-7"}, [(0, 4), (1, 5), (2, 6), (3, 7)])
    every = read_cores(machine, range(8))
    assert [(core.node, core.cpus) for core in every] == [(0, (0, 4)), (0, (1, 5)), (1, (2, 6)), (1, (3, 7))]
    assert [core.cpus for core in read_cores(machine, (0, 3, 7))] == [(0,), (3, 7)]
    assert [core.cpus for core in read_cores(tmp_path / "nothing", (2, 5))] == [(2,), (5,)]


def machine(nodes: int, each: int) -> list[Core]:
    """Cores of one thread each, numbered through."""
    return [Core(node=n, cpus=(n * each + k,)) for n in range(nodes) for k in range(each)]


def test_each_instance_gets_cores_of_its_own_on_one_node() -> None:
    def shares(cores: list[Core], each: int, instances: int, *kept: tuple[int, ...]) -> list[str]:
        return [span(cpus) for cpus in share_out(cores, each, instances, kept)]

    assert shares(machine(2, 4), 2, 4) == ["0-1", "4-5", "2-3", "6-7"]
    assert shares(machine(2, 4), 4, 2) == ["0-3", "4-7"]
    assert shares(machine(2, 5), 3, 3) == ["0-2", "5-7", "3-4,8"]  # nobody's before whole nodes
    assert shares(machine(2, 4), 8, 1) == ["0-7"]
    assert shares(machine(1, 2), 1, 5) == ["0", "1", "0", "1", "0"]  # evenly shared
    assert shares(machine(2, 4), 2, 4, (0, 1), (4, 5)) == ["2-3", "6-7"]
    threads = [Core(node=0, cpus=(n, n + 4)) for n in range(4)]
    assert shares(threads, 2, 2) == ["0-1,4-5", "2-3,6-7"]
