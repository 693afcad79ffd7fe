"""What fits of a model by slots and context, and how it felt where it was measured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from make_tiny_model import make_tiny_model

from lab_tui.cli.what_fits import text
from lab_tui.model import CellView, Felt, FleetSpec, ModelFile, Slo, StreamRate, SweepStatus
from lab_tui.serving.cards import Card
from lab_tui.serving.models import inspect
from lab_tui.store.store import Store
from lab_tui.sweep import summary
from lab_tui.sweep.cell import model_identity
from lab_tui.sweep.feel import Feels
from lab_tui.sweep.fit import GB, Room, fitted
from lab_tui.sweep.what_fits import WhatFits, what_fits
from tests.store.helpers import measurement, sweep_spec, viewed

replace = msgspec.structs.replace
SPEC = FleetSpec(model="")
FEEL = Felt(
    sweep=3, cell=2, instances=2, parallel=4, concurrency=8,
    throughput_tps=1226.4, stream_tps=41.2, feels="smooth",
)  # fmt: skip


def room(ram: float, *cards: float) -> Room:
    free = tuple(Card(index=n, free_bytes=int(size * GB)) for n, size in enumerate(cards))
    return Room(ram_bytes=int(ram * GB), reserve_bytes=int(1.5 * GB), cards=free)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """Trained for more tokens than a small card holds."""
    folder = tmp_path_factory.mktemp("models")
    return inspect(make_tiny_model(folder / "long.gguf", heads=2, ctx=131072))


def count(model: ModelFile, where: Room, parallel: int, ctx_per_slot: int, spec: FleetSpec = SPEC) -> int:
    asked = replace(spec, parallel=parallel, ctx_per_slot=ctx_per_slot)
    return fitted(model, asked, where).fits or 0


WHERE = [room(2.0), room(16.0, 2.0), room(64.0, 1.0, 2.0, 0.5)]


@pytest.mark.parametrize("where", WHERE, ids=["RAM", "a card", "cards"])
def test_every_line_says_what_fits_and_one_more_would_not(model: ModelFile, where: Room) -> None:
    found = what_fits(model, SPEC, where)
    assert [line.ctx_per_slot for line in found.lines] == [2048, 8192, 32768, 131072]
    assert [one.parallel for one in found.longest] == [1, 4, 16, 64]
    for line in found.lines:
        most = line.most
        for fits in line.fits:
            assert fits.instances == count(model, where, fits.parallel, line.ctx_per_slot)
            assert fits.slots <= most.slots  # which no other number of slots beats either:
        for parallel in range(1, 257, 9):
            assert parallel * count(model, where, parallel, line.ctx_per_slot) <= most.slots
        assert count(model, where, most.parallel, line.ctx_per_slot) == most.instances > 0
        if most.parallel < 256:
            assert count(model, where, most.parallel + 1, line.ctx_per_slot) < most.instances
    for one in found.longest:
        assert count(model, where, one.parallel, one.ctx_per_slot) > 0
        if one.ctx_per_slot < 131072:
            assert count(model, where, one.parallel, one.ctx_per_slot + 256) == 0
    assert found.longest[0].ctx_per_slot > found.longest[-1].ctx_per_slot


def test_what_is_asked_narrows_it_and_cache_types_count(model: ModelFile) -> None:
    where = room(16.0, 1.0)
    found = what_fits(model, SPEC, where, contexts=(8192,), slots=(16,))
    assert [(line.ctx_per_slot, len(line.fits)) for line in found.lines] == [(8192, 1)]
    assert [one.parallel for one in found.longest] == [16]
    halved = what_fits(model, replace(SPEC, cache_type_k="q8_0", cache_type_v="q8_0"), where)
    whole = what_fits(model, SPEC, where)
    assert halved.longest[-1].ctx_per_slot > whole.longest[-1].ctx_per_slot
    assert halved.lines[1].most.slots > whole.lines[1].most.slots


def test_a_model_is_never_asked_about_more_than_it_was_trained_for(model: ModelFile) -> None:
    short = what_fits(replace(model, context_length=512), SPEC, room(1000.0))
    assert [line.ctx_per_slot for line in short.lines] == [512]
    assert {one.ctx_per_slot for one in short.longest} == {512}
    assert [fits.instances for fits in short.lines[0].fits] == [64, 64, 64, 64]
    assert (short.lines[0].most.instances, short.lines[0].most.parallel) == (64, 256)
    unknown = what_fits(replace(model, context_length=None), SPEC, room(1000.0))
    assert [line.ctx_per_slot for line in unknown.lines] == [2048, 8192, 32768]
    assert unknown.longest == ()


def test_it_is_a_table_for_a_person(model: ModelFile) -> None:
    found = what_fits(replace(model, felt=FEEL), SPEC, room(16.0, 1.5))
    title, path, head, *lines, longest, felt = text(found).splitlines()
    assert title.startswith("long  F32  ") and title.endswith("trained for 131,072 tokens")
    assert path.strip() == model.path
    assert head.endswith(" 64 SLOTS          MOST SLOTS")
    assert [line.split()[0] for line in lines] == ["2,048", "8,192", "32,768", "131,072"]
    assert {len(line) for line in (head, *lines)} == {len(head)} and len(head) <= 79
    most = found.lines[0].most
    assert lines[0].endswith(f"{most.instances}×{most.parallel} = {most.slots:,}")
    assert longest.split()[0] == "longest"
    assert felt == (
        "  feels smooth: 41.2 tok/s a stream of 1,226 in all, with 8 streams on 2×4 (sweep 3, cell 2)"
    )
    nothing: WhatFits = what_fits(model, SPEC, room(16.0, 0.1))
    assert text(nothing).splitlines()[2].startswith("  does not fit: 1 instance needs ")
    assert len(text(nothing).splitlines()) == 3


# --- how it felt ------------------------------------------------------------------------------


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "lab.db")
    await store.call(store.open)
    yield store
    await store.close()


def measured(path: str, rate: float, context: dict[str, Any]) -> tuple[CellView, ...]:
    """The cells of a sweep of ``path`` whose second one is the best, with a stream of 20 tok/s."""
    cells = viewed(sweep_spec(fleet=FleetSpec(model=path)), rate / 2, rate)
    out = []
    for cell in cells:
        if cell.result is not None:
            result = replace(
                cell.result, per_stream_tps=StreamRate(p50=cell.result.throughput_tps / 5), feels="fast"
            )
            cell = replace(cell, result=result, context=context)
        out.append(cell)
    return tuple(out)


async def keep(store: Store, path: str, rate: float, context: dict[str, Any]) -> int:
    spec, cells = sweep_spec(fleet=FleetSpec(model=path)), measured(path, rate, context)
    return await store.call(store.add_finished, spec, cells, SweepStatus.DONE, 9.0)


async def test_a_model_felt_as_its_best_measured_cell(store: Store, tiny_model: Path, tmp_path: Path) -> None:
    model = inspect(tiny_model)
    assert await Feels(store).of(model) is None
    kept = {"model": model_identity(tiny_model)}
    await keep(store, model.path, 100.0, kept)
    best = await keep(store, "/moved/since.gguf", 300.0, kept)  # the same file under another name
    await keep(store, model.path, 900.0, {"model": {**kept["model"], "sha256_of_ends": "another"}})
    await keep(store, model.path, 800.0, {"model": {**kept["model"], "size_bytes": 1}})
    await keep(store, "/another.gguf", 700.0, {"unknown": "no identity was kept"})
    felt = await Feels(store).of(model)
    assert felt is not None
    assert (felt.sweep, felt.cell, felt.throughput_tps) == (best, 2, 300.0)
    assert (felt.instances, felt.parallel, felt.concurrency) == (1, 1, 8)
    assert (felt.stream_tps, felt.feels) == (60.0, "fast")
    by_path = await keep(store, model.path, 500.0, {"unknown": "no identity was kept"})
    felt = await Feels(store).of(model)
    assert felt is not None and felt.sweep == by_path
    assert await Feels(store).of(replace(model, path=str(tmp_path / "gone.gguf"))) is None


async def test_one_measured_again_felt_as_it_is_shown(store: Store, tiny_model: Path) -> None:
    """The machine has slowed down since the first run: only the later ones count, for its streams as well."""
    model, kept = inspect(tiny_model), {"model": model_identity(tiny_model)}
    cells = measured(model.path, 100.0, kept)
    slower = tuple(
        measurement(rate, per_stream_tps=StreamRate(p50=rate / 5), feels="slow") for rate in (50, 51)
    )
    cells = tuple(replace(c, repeats=slower) if c.index == 1 else c for c in cells)
    spec = sweep_spec(fleet=FleetSpec(model=model.path))
    await store.call(store.add_finished, spec, cells, SweepStatus.DONE, 9.0)
    felt = await Feels(store).of(model)
    assert felt is not None and (felt.cell, felt.throughput_tps) == (2, 50.5)
    assert (felt.stream_tps, felt.feels) == (10.0, "slow")


async def test_where_no_cell_is_the_best_the_one_that_made_the_most_counts(
    store: Store, tiny_model: Path
) -> None:
    model, kept = inspect(tiny_model), {"model": model_identity(tiny_model)}
    cells = measured(model.path, 100.0, kept)
    spec = sweep_spec(fleet=FleetSpec(model=model.path), slo=Slo(ttft_ms=0.001))
    assert summary.amount(cells, spec.slo).best is None
    await store.call(store.add_finished, spec, cells, SweepStatus.DONE, 9.0)
    felt = await Feels(store).of(model)
    assert felt is not None and (felt.cell, felt.throughput_tps, felt.stream_tps) == (2, 100.0, 20.0)
    failing = tuple(replace(c, result=replace(c.result, verdict="failing")) if c.result else c for c in cells)
    await store.call(store.add_finished, spec, failing, SweepStatus.FAILED, 9.0)
    assert await Feels(store).of(model) == felt


async def test_the_store_is_read_beside_an_engine_that_writes_it(
    store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    model = inspect(tiny_model)
    await keep(store, model.path, 100.0, {"model": model_identity(tiny_model)})
    beside = Store(tmp_path / "lab.db")
    await beside.call(beside.open_to_read)
    felt = await Feels(beside).of(model)
    assert felt is not None and felt.sweep == 1
    spec = sweep_spec()
    with pytest.raises(Exception, match="readonly"):
        await beside.call(beside.add, spec, ())
    await beside.close()


async def test_a_store_that_cannot_be_read_costs_no_model(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "lab.db").write_bytes(b"no database" * 1000)
    store = Store(tmp_path / "lab.db")
    with pytest.raises(Exception, match="cannot be used"):
        await store.call(store.open_to_read)
    feels = Feels(store)
    assert await feels.of(inspect(tiny_model)) is None
    assert "cannot be used" in feels.problem
    await store.close()
