"""Whether fleets fit: by estimate, corrected by what instances took, against what is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from lab_tui.model import (
    Cell,
    CellStatus,
    CellView,
    FleetSpec,
    GpuReading,
    HostReading,
    ModelFile,
    SweepSpec,
    Workload,
)
from lab_tui.serving.cards import Card
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.memory import estimate
from lab_tui.serving.shape import Shape, read_shape
from lab_tui.sweep import fit
from lab_tui.sweep.fit import GB, Fit, Room, Taken
from lab_tui.sweep.outline import outline
from lab_tui.telemetry.cgroup import Limits
from lab_tui.telemetry.poller import Reading
from tests.serving.helpers import tiny_spec

replace = msgspec.structs.replace
NO_LIMITS = Limits(Path("/nowhere"), Path("/nowhere"))


def need(instances: int, ram: float, vram: float = 0.0, shared: float = 0.0) -> Any:
    """An estimate, in GB."""
    return msgspec.structs.replace(
        estimate(FleetSpec(model="m", instances=instances), EMPTY, gpu=False),
        shared_bytes=int(shared * GB),
        ram_bytes=int(ram * GB),
        vram_bytes=int(vram * GB),
    )


EMPTY = Shape(
    weights={}, layers=(), window=0, vocabulary=0, embedding=0, feed_forward=0, heads=0
)  # fmt: skip


def room(ram: float, vram: float | None = None) -> Room:
    return cards_of(ram, *(() if vram is None else (vram,)))


def cards_of(ram: float, *vram: float, by_card: bool = True) -> Room:
    return Room(
        ram_bytes=int(ram * GB),
        reserve_bytes=int(1.5 * GB),
        cards=tuple(Card(index=n, free_bytes=int(size * GB)) for n, size in enumerate(vram)),
        by_card=by_card,
    )


def test_of_a_model_so_many_instances_fit_as_the_estimate_has_room_for(tiny_model: Path) -> None:
    spec = FleetSpec(model="", parallel=64, ctx_per_slot=4096)
    file = ModelFile(path=str(tiny_model), size_bytes=1)
    shape = read_shape(tiny_model)
    for much in (room(2.0), room(2.0, 4.0)):
        found = fit.fitted(file, spec, much)
        assert found.fits is not None and 0 < found.fits < 64 and found.misfit == ""
        most, more = (replace(spec, model=file.path, instances=found.fits + n) for n in (0, 1))
        assert fit.problem(fit.corrected(most, shape, much, None), much) == ""
        assert fit.problem(fit.corrected(more, shape, much, None), much) != ""
    assert fit.fitted(file, spec, room(1000.0)).fits == 64
    refused = fit.fitted(file, replace(spec, cache_type_k="q8_0"), room(1000.0))
    assert refused.fits == 0 and refused.misfit.startswith(
        "does not fit: this model takes no K cache of type q8_0"
    )
    none = fit.fitted(file, spec, room(0.01))
    assert none.fits == 0 and none.misfit.startswith("does not fit: 1 instance needs ")


def test_a_dry_run_says_which_cells_llama_cpp_refuses(tiny_model: Path) -> None:
    """They may well be smaller than others."""
    fleet = FleetSpec(model=str(tiny_model))
    axes: Any = {"cache-type-k": ("f16", "q8_0"), "flash-attn": ("off", "auto"), "concurrency": (1,)}
    found = outline(SweepSpec(name="custom", fleet=fleet, axes=axes), room(1000.0))
    assert (found.cells, found.cells_too_large, found.fits) == (4, 1, False)
    assert found.reason.startswith("does not fit: this model takes no K cache of type q8_0")


def test_what_does_not_fit_is_said_with_its_figures() -> None:
    assert fit.problem(need(16, 0.7, shared=1.1), room(12.4)) == ""
    assert fit.problem(need(16, 0.7, shared=1.1), room(9.1)) == (
        "does not fit: 16 instances need 12.3 GB, 9.1 GB are free beyond the 1.5 GB left to the system"
    )
    assert fit.problem(need(1, 0.05), room(-1.0)) == (
        "does not fit: 1 instance needs 50 MB, 0 MB are free beyond the 1.5 GB left to the system"
    )
    assert fit.problem(need(4, 0.5, vram=6.0), room(8.0, 24.0)) == ""
    assert fit.problem(need(4, 0.5, vram=6.0), room(8.0, 23.0)) == (
        "does not fit: 4 instances need 24.0 GB on the GPU, 23.0 GB are free "
        "beyond the 1.5 GB left to the system"
    )
    assert "need 2.0 GB, 1.0 GB" in fit.problem(need(4, 0.5, vram=6.0), room(1.0, 64.0))


def test_instances_fit_by_card_and_by_placement() -> None:
    """Fourteen cards of 24 GB are no room for sixteen instances of 20 GB, though their sum is."""
    fourteen = cards_of(99.0, *[22.5] * 14)
    assert fit.problem(need(14, 0.1, vram=20.0), fourteen) == ""
    said = fit.problem(need(15, 0.1, vram=20.0), fourteen)
    assert said.startswith("does not fit: instance 14 needs 20.0 GB on one card, free beyond the 1.5 GB")
    assert said.endswith("GPU 12 2.5 GB, GPU 13 2.5 GB")
    assert fit.problem(need(1, 0.1, vram=40.0), fourteen) == ""  # over all of them
    assert "needs 40.0 GB on one card" in fit.problem(need(1, 0.1, vram=40.0), fourteen, "spread")
    assert "needs 20.0 GB on one card" in fit.problem(need(2, 0.1, vram=20.0), fourteen, "0,0")
    assert "placement 0,1 has no card for instance 2" in fit.problem(need(3, 0.1, vram=1.0), fourteen, "0,1")
    # A build that can be given no card lays each instance over all of them itself.
    itself = cards_of(99.0, *[22.5] * 14, by_card=False)
    assert "over all cards" in fit.problem(need(16, 0.1, vram=20.0), itself, "auto")
    assert fit.problem(need(2, 0.1, vram=40.0), itself, "auto") == ""


def test_cards_leave_nothing_out_where_arguments_keep_weights_off_them(tiny_model: Path) -> None:
    """As with `up`: nobody knows what is left for the cards, and llama-server will say."""
    spec, file = FleetSpec(model=str(tiny_model)), ModelFile(path=str(tiny_model), size_bytes=1)
    for cards in ((0.1,), (0.1, 0.1)):
        much = cards_of(1000.0, *cards)
        assert fit.fitted(file, spec, much).fits == 0
        assert fit.fitted(file, replace(spec, extra_args=("--n-cpu-moe", "9")), much).fits == 64
    found = fit.fitted(file, replace(spec, extra_args=("--cpu-moe",)), cards_of(0.001, 64.0))
    assert found.misfit.startswith("does not fit: 1 instance needs ")  # RAM it needs all the same


def measured(index: int, started: float, taken: Taken | None) -> CellView:
    context = {"memory": msgspec.to_builtins(taken)} if taken else {}
    cell = Cell(fleet=FleetSpec(model="m"), concurrency=1, workload=Workload(), axes={})
    return CellView(
        index=index, cell=cell, status=CellStatus.MEASURED, started=started, context=context
    )  # fmt: skip


TAKEN = Taken(on_gpu=False, ram_bytes=5, ram_offset_bytes=-3, vram_bytes=None, vram_offset_bytes=0)


def test_the_cell_measured_last_corrects() -> None:
    newer = replace(TAKEN, ram_offset_bytes=7)
    assert fit.correction([]) is None
    assert fit.correction([measured(0, 1.0, None)]) is None
    assert fit.correction([measured(0, 9.0, newer), measured(1, 2.0, TAKEN)]) == newer


def test_a_correction_is_added_to_every_instance(tiny_model: Path) -> None:
    spec, found = FleetSpec(model=str(tiny_model), instances=4), read_shape(tiny_model)
    plain = fit.corrected(spec, found, room(1.0), None)
    assert plain == estimate(spec, found, gpu=False)
    less = fit.corrected(spec, found, room(1.0), replace(TAKEN, ram_offset_bytes=-1_000_000))
    assert plain.ram_total_bytes - less.ram_total_bytes == 4_000_000
    on_cards = fit.corrected(spec, found, room(1.0, 1.0), None)
    assert on_cards == estimate(spec, found, gpu=True) and on_cards.vram_bytes > 0
    seen = replace(TAKEN, on_gpu=True, vram_offset_bytes=2_000_000)
    more = fit.corrected(spec, found, room(1.0, 1.0), seen)
    assert more.vram_total_bytes - on_cards.vram_total_bytes == 8_000_000
    # A build for CPUs on a machine with cards: known once its first instance has run.
    assert fit.corrected(spec, found, room(1.0, 1.0), TAKEN).vram_bytes == 0


def card(index: int, total: float | None, used: float | None, **missing: str) -> GpuReading:
    return GpuReading(
        index=index,
        name="card",
        memory_total_bytes=None if total is None else int(total * GB),
        memory_used_bytes=None if used is None else int(used * GB),
        missing=missing,
    )


def test_room_on_the_cards_is_what_is_free_and_what_our_own_hold() -> None:
    cards = (card(0, 24.0, 20.0), card(1, 24.0, 2.0), card(2, None, None, memory_used_bytes="lost"))
    free = fit.measure_room(cards, {}, 1.5, NO_LIMITS)
    assert [c.free_bytes / GB for c in free.cards] == [2.5, 20.5] and free.vram_bytes == 23 * GB
    gone = 2**22 + 1  # no pid: it holds no RAM, and on the cards what the driver says
    assert fit.measure_room(cards, {gone: {0: 3 * GB}}, 1.5, NO_LIMITS).vram_bytes == 26 * GB
    assert fit.measure_room(cards, {gone: {}}, 1.5, NO_LIMITS).vram_bytes == 23 * GB
    assert fit.measure_room(cards, {}, 1.5, NO_LIMITS, ()).vram_bytes is None  # a build for processors
    assert fit.measure_room(cards, {}, 1.5, NO_LIMITS, free.cards[:1]).vram_bytes == 2.5 * GB
    unified = card(0, 128.0, 20.0, memory="unified: this is the system's memory")
    assert fit.measure_room((unified,), {}, 1.5, NO_LIMITS).vram_bytes is None
    assert fit.measure_room((), {}, 1.5, NO_LIMITS).vram_bytes is None


def test_room_in_ram_is_the_tightest_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = psutil.virtual_memory()._replace(available=30 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert fit.measure_room((), {}, 1.5, NO_LIMITS).ram_bytes == 28.5 * GB
    monkeypatch.setattr(fit, "private_bytes", lambda pid: pid * GB)
    assert fit.measure_room((), {1: {}, 2: {}}, 0.0, NO_LIMITS).ram_bytes == 33 * GB
    (tmp_path / "own").write_text("0::/box\n")
    group = tmp_path / "cgroup" / "box"
    group.mkdir(parents=True)
    for file, text in (
        ("memory.max", f"{8 * GB}"),
        ("memory.current", f"{7 * GB}"),
        ("memory.stat", f"anon {2 * GB}\nactive_file {1 * GB}\ninactive_file {3 * GB}"),
    ):
        (group / file).write_text(text)
    limits = Limits(tmp_path / "cgroup", tmp_path / "own")
    assert fit.measure_room((), {}, 1.5, limits).ram_bytes == 3.5 * GB  # files could be given up
    (group / "memory.max").write_text("max")
    assert fit.measure_room((), {}, 1.5, Limits(tmp_path / "cgroup", tmp_path / "own")).ram_bytes == 28.5 * GB


async def test_what_instances_hold_is_free_for_the_next_fleet(fleet: Fleet, model: Path) -> None:
    """A fleet that takes half of all memory could otherwise never be replaced by another."""
    spec = tiny_spec(model, instances=2, parallel=64, ctx_per_slot=4096)
    asked = Fit(fleet, lambda: Reading(host=HostReading(name="here", cores=2)), 0.0)
    before = asked.room().ram_bytes
    await fleet.up(spec)
    await fleet.wait_ready()
    held = sum(fit.private_bytes(view.pid) for view in fleet.views() if view.pid)
    assert held > 2 * 128 * 2**20  # the cache alone
    assert abs(asked.room().ram_bytes - before) < max(held / 2, GB)
    kept = (await asked.taken(spec))["memory"]
    plain = estimate(spec, read_shape(model), gpu=False)
    assert not kept["on_gpu"] and kept["vram_bytes"] is None
    assert kept["ram_offset_bytes"] == kept["ram_bytes"] - plain.ram_bytes
    assert abs(kept["ram_offset_bytes"]) < 0.2 * plain.ram_bytes
    await fleet.down()
    assert await asked.taken(spec) == {}


async def test_cards_tell_what_an_instance_holds(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model, instances=1)
    await fleet.up(spec)
    await fleet.wait_ready()
    (view,) = fleet.views()
    assert view.pid is not None
    reading = Reading(
        host=HostReading(name="here", cores=2),
        gpus=(card(0, 24.0, 3.0),),
        vram_by_pid={view.pid: 2 * GB},
        vram_by_card={view.pid: {0: 2 * GB}},
    )
    asked = Fit(fleet, lambda: reading, 1.5)
    assert asked.room().vram_bytes == 21.5 * GB
    kept = (await asked.taken(spec))["memory"]
    assert kept["on_gpu"] and kept["vram_bytes"] == 2 * GB
    assert kept["vram_offset_bytes"] == 2 * GB - estimate(spec, read_shape(model), gpu=True).vram_bytes
    # Over two cards it has the driver's context and its buffer twice: that is no fault of the estimate.
    both = replace(reading, vram_by_card={view.pid: {0: 2 * GB, 1: GB}})
    plain = estimate(spec, read_shape(model), gpu=True)
    kept = (await Fit(fleet, lambda: both, 1.5).taken(spec))["memory"]
    assert kept["vram_offset_bytes"] == 3 * GB - plain.vram_bytes - plain.each_card_bytes
    off_cards = replace(spec, extra_args=("--cpu-moe",))
    assert (await asked.taken(off_cards))["memory"]["vram_offset_bytes"] == 0  # what of it is not known
    nobody = replace(reading, vram_by_pid={}, vram_by_card={})
    kept = (await Fit(fleet, lambda: nobody, 1.5).taken(spec))["memory"]
    assert not kept["on_gpu"]  # it has not loaded the driver: a build for CPUs


async def test_a_model_that_is_gone_is_left_to_the_start_to_tell(fleet: Fleet, tmp_path: Path) -> None:
    asked = Fit(fleet, lambda: Reading(host=HostReading(name="here", cores=2)), 1e6)
    assert await asked.refusal(FleetSpec(model=str(tmp_path / "none.gguf")), ()) == ""
