"""The store: what goes in comes out, and every way of failing is one line that loses nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lab_tui.model import CellStatus, CellView, FleetSpec, LabError, SweepStatus
from lab_tui.store.store import SCHEMA_VERSION, Store

from .helpers import cells_of, measurement, sweep_spec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lab.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    store = Store(file)
    await store.call(store.open)
    yield store
    await store.close()


def read(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def reopened(file: Path) -> Store:
    store = Store(file)
    await store.call(store.open)
    return store


async def test_names_are_data_not_sql(store: Store) -> None:
    for name in ("'; DROP TABLE sweep; --", '"', "%_\\", "\x1b[2J\n\u202e", "'' OR 1=1"):
        spec = sweep_spec(name=name, fleet=FleetSpec(model=f"/{name}.gguf", extra_args=(name,)))
        sweep_id = await store.call(store.add, spec, cells_of(spec))
        await store.call(store.set_status, sweep_id, SweepStatus.FAILED, 1.0, name)
        found = await store.call(store.sweep, sweep_id)
        assert (found.spec, found.reason) == (spec, name)
    assert len(await store.call(store.ids)) == 5


async def test_a_round_trip(store: Store, file: Path) -> None:
    spec = sweep_spec()
    cells = cells_of(spec)
    sweep_id = await store.call(store.add, spec, cells)
    measured = CellView(
        index=1,
        cell=cells[1],
        status=CellStatus.MEASURED,
        result=measurement(123.4),
        started=1.5,
        took_s=9.0,
        context={"commands": [["llama-server", "--port", "1"]], "model": {"size_bytes": 3}},
        repeats=(measurement(120.0), measurement(121.0)),
    )
    failed = CellView(index=0, cell=cells[0], status=CellStatus.FAILED, reason='nö: "quoted"\n\'', took_s=1.0)
    await store.call(store.put_cells, sweep_id, [failed], 1.0)
    await store.call(store.put_cells, sweep_id, [measured], 10.0)
    await store.call(store.set_status, sweep_id, SweepStatus.PAUSED, 10.0, "why")
    other = await reopened(file)  # while the first is open
    found = await other.call(other.sweep, sweep_id)
    assert found.spec == spec
    assert (found.status, found.reason, found.elapsed_s) == (SweepStatus.PAUSED, "why", 10.0)
    assert [cell.cell for cell in found.cells] == cells
    assert found.cells[0] == failed
    assert found.cells[1] == measured
    assert [cell.status for cell in found.cells[2:]] == [CellStatus.PENDING] * (len(cells) - 2)
    await other.close()


async def test_a_file_that_is_removed_while_it_is_used_is_written_anew(store: Store, file: Path) -> None:
    spec = sweep_spec()
    cells = cells_of(spec)
    sweep_id = await store.call(store.add, spec, cells)
    first, second = (
        CellView(index=at, cell=cells[at], status=CellStatus.MEASURED, result=measurement(tps), took_s=1.0)
        for at, tps in ((0, 100.0), (1, 200.0))
    )
    await store.call(store.put_cells, sweep_id, [first], 1.0)
    for part in file.parent.glob(f"{file.name}*"):
        part.unlink()
    await store.call(store.put_cells, sweep_id, [second], 2.0)
    assert store.notice.endswith("was removed while it was in use: it is written anew, whole")
    other = await reopened(file)
    found = await other.call(other.sweep, sweep_id)
    assert (found.cells[0], found.cells[1]) == (first, second)
    await other.close()


async def test_order_of_the_queue(store: Store) -> None:
    spec = sweep_spec()
    ids = [await store.call(store.add, spec, cells_of(spec)) for _ in range(4)]
    assert await store.call(store.waiting) == ids
    await store.call(store.set_status, ids[1], SweepStatus.DONE, 0.0)
    await store.call(store.set_status, ids[0], SweepStatus.RUNNING, 0.0)
    await store.call(store.set_position, ids[3], 0.5)
    assert await store.call(store.waiting) == [ids[3], ids[0], ids[2]]
    assert await store.call(store.ids) == ids[::-1]


async def test_no_such_sweep(store: Store) -> None:
    with pytest.raises(LabError, match="there is no sweep 7: `lab-tui results list` shows them"):
        await store.call(store.sweep, 7)


async def test_closed(file: Path) -> None:
    store = Store(file)
    with pytest.raises(LabError, match="the store is closed"):
        await store.call(store.waiting)
    await store.close()


# --- files that are not as they should be -------------------------------------------------------


async def test_another_version_is_refused_and_left_as_it_is(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.execute("CREATE TABLE future (x)")
    db.close()
    content = read(file)
    store = Store(file)
    with pytest.raises(LabError) as caught:
        await store.call(store.open)
    await store.close()
    assert str(caught.value) == (
        f"{file} is of version {SCHEMA_VERSION + 1}, this lab-tui writes {SCHEMA_VERSION}: "
        "use the lab-tui that wrote it, or move the file away"
    )
    assert read(file) == content


VERSION_1 = """
CREATE TABLE sweep (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, position REAL NOT NULL, status TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '', elapsed_s REAL NOT NULL DEFAULT 0, spec TEXT NOT NULL
);
CREATE TABLE cell (
  sweep INTEGER NOT NULL REFERENCES sweep(id) ON DELETE CASCADE, idx INTEGER NOT NULL, status TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '', started REAL, took_s REAL, cell TEXT NOT NULL, result TEXT,
  context TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (sweep, idx)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


async def test_a_file_of_version_1_is_brought_up_and_keeps_everything(file: Path) -> None:
    spec = sweep_spec()
    cells = cells_of(spec)
    old = json.loads(msgspec.json.encode(spec))
    del old["budget_s"], old["confirm"]  # as it was written then
    db = sqlite3.connect(file)
    db.executescript(VERSION_1)
    values = (1.5, 1.0, "paused", "why", 20.0, json.dumps(old))
    db.execute(
        "INSERT INTO sweep (created, position, status, reason, elapsed_s, spec) VALUES (?,?,?,?,?,?)", values
    )
    result = msgspec.json.encode(measurement(123.4)).decode()
    db.executemany(
        "INSERT INTO cell (sweep, idx, status, reason, started, took_s, cell, result, context)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (0, "measured", "", 3.0, 9.0, msgspec.json.encode(cells[0]).decode(), result, '{"a": 1}'),
            (1, "failed", "no", 4.0, 1.0, msgspec.json.encode(cells[1]).decode(), None, "{}"),
        ],
    )
    db.commit()
    db.close()
    beside = Store(file)  # without an engine: it is not to be moved away
    with pytest.raises(
        LabError, match="version 1, this lab-tui reads 2: `lab-tui results list` brings it up"
    ):
        await beside.call(beside.open_to_read)
    await beside.close()
    store = await reopened(file)
    found = await store.call(store.sweep, 1)
    assert (found.status, found.reason, found.elapsed_s, found.spec) == ("paused", "why", 20.0, spec)
    assert found.cells[0] == CellView(
        index=0,
        cell=cells[0],
        status=CellStatus.MEASURED,
        result=measurement(123.4),
        started=3.0,
        took_s=9.0,
        context={"a": 1},
    )
    assert (found.cells[1].status, found.cells[1].reason) == (CellStatus.FAILED, "no")
    again = msgspec.structs.replace(found.cells[0], repeats=(measurement(120.0),))
    await store.call(store.put_cells, 1, [again], 30.0)
    assert (await store.call(store.sweep, 1)).cells[0] == again
    assert await store.call(store.add, spec, cells) == 2
    await store.close()
    once_more = await reopened(file)  # it is of this version now
    assert (await once_more.call(once_more.sweep, 1)).cells[0] == again
    assert once_more.notice == ""
    await once_more.close()


async def damaged(file: Path) -> str:
    """What a store says that opens over a damaged file; the file is kept, and a new one works."""
    content = read(file)
    store = await reopened(file)
    kept = [path for path in file.parent.iterdir() if ".damaged-" in path.name]
    assert content in [path.read_bytes() for path in kept]
    spec = sweep_spec()
    sweep_id = await store.call(store.add, spec, cells_of(spec))
    await store.close()
    again = await reopened(file)
    assert await again.call(again.waiting) == [sweep_id]
    assert again.notice == ""
    await again.close()
    assert any(str(path) in store.notice for path in kept)
    return store.notice


async def test_a_file_that_is_no_database_is_set_aside_and_said(file: Path) -> None:
    write(file, b"this is not a database at all\n" * 200)
    notice = await damaged(file)
    assert "was damaged" in notice
    write(file, b"nor is this one" * 500)
    assert await damaged(file) != notice  # the first is not written over
    assert sum(".damaged-" in path.name for path in file.parent.iterdir()) == 2


async def test_a_damaged_page_is_found_when_it_is_opened(file: Path) -> None:
    store = await reopened(file)
    spec = sweep_spec()
    for _ in range(20):
        await store.call(store.add, spec, cells_of(spec))
    await store.close()
    content = bytearray(read(file))
    content[4096:-4096] = b"\x55" * (len(content) - 8192)
    write(file, bytes(content))
    await damaged(file)


async def test_a_cut_file_is_set_aside(file: Path) -> None:
    store = await reopened(file)
    spec = sweep_spec()
    for _ in range(20):
        await store.call(store.add, spec, cells_of(spec))
    await store.close()
    write(file, read(file)[:6000])
    await damaged(file)


async def test_an_empty_file_is_a_new_one(file: Path) -> None:
    write(file, b"")
    store = await reopened(file)
    assert await store.call(store.ids) == []
    assert store.notice == ""
    await store.close()


async def test_a_row_of_another_kind_is_said(store: Store, file: Path) -> None:
    spec = sweep_spec()
    sweep_id = await store.call(store.add, spec, cells_of(spec))
    db = sqlite3.connect(file)
    db.execute("UPDATE sweep SET spec = '{}'")
    db.commit()
    db.close()
    with pytest.raises(LabError, match="cannot be read"):
        await store.call(store.sweep, sweep_id)


async def test_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "none" / "lab.db")
    with pytest.raises(LabError, match=r"the store .*/none/lab\.db cannot be used \(unable to open"):
        await store.call(store.open)
    await store.close()


async def test_locked_by_somebody_else(store: Store, file: Path) -> None:
    spec = sweep_spec()
    sweep_id = await store.call(store.add, spec, cells_of(spec))
    await store.call(lambda: store._open_db().execute("PRAGMA busy_timeout = 50").fetchall())
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LabError, match=r"database is locked.*another program"):
        await store.call(store.add, spec, cells_of(spec))
    with pytest.raises(LabError, match="database is locked"):
        await store.call(store.set_status, sweep_id, SweepStatus.DONE, 1.0)
    assert len(await store.call(store.ids)) == 1  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    await store.call(store.set_status, sweep_id, SweepStatus.DONE, 1.0)
    assert await store.call(store.waiting) == []


async def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(store: Store) -> None:
    spec = sweep_spec()
    cells = cells_of(spec)
    sweep_id = await store.call(store.add, spec, cells)
    pages = await store.call(lambda: int(store._open_db().execute("PRAGMA page_count").fetchone()[0]))
    await store.call(lambda: store._open_db().execute(f"PRAGMA max_page_count = {pages}").fetchall())
    large = CellView(
        index=0,
        cell=cells[0],
        status=CellStatus.MEASURED,
        result=measurement(1.0),
        context={"log": "x" * 99_000},
    )
    for _ in range(2):  # a failed change does not stand in the way of the next
        with pytest.raises(LabError, match=r"database or disk is full.*free disk space"):
            await store.call(store.put_cells, sweep_id, [large], 1.0)
    found = await store.call(store.sweep, sweep_id)
    assert found.cells[0].status == CellStatus.PENDING
    assert found.elapsed_s == 0.0
    await store.call(lambda: store._open_db().execute("PRAGMA max_page_count = 1000000").fetchall())
    await store.call(store.put_cells, sweep_id, [large], 1.0)
    assert (await store.call(store.sweep, sweep_id)).cells[0].status == CellStatus.MEASURED
