"""What is kept: sweeps and their cells, in SQLite.

Every finished cell is committed before the next begins, so whatever dies, nothing measured is
lost. The calls block and belong on the store's one thread: ``await store.call(store.add, …)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from lab_tui.model import (
    Cell,
    CellStatus,
    CellView,
    Data,
    LabError,
    Measurement,
    SweepSpec,
    SweepStatus,
)

log = logging.getLogger(__name__)

FILE_NAME = "lab.db"  # in the folder of what is kept
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SCHEMA_VERSION = 2
LARGEST_ID = 2**63 - 1  # of SQLite
SCHEMA = """
CREATE TABLE sweep (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  created REAL NOT NULL,      -- unix time
  position REAL NOT NULL,     -- place in the queue, smallest first
  status TEXT NOT NULL,       -- model.SweepStatus
  reason TEXT NOT NULL DEFAULT '',
  elapsed_s REAL NOT NULL DEFAULT 0,
  spec TEXT NOT NULL          -- model.SweepSpec as JSON
);
CREATE TABLE cell (
  sweep INTEGER NOT NULL REFERENCES sweep(id) ON DELETE CASCADE,
  idx INTEGER NOT NULL,       -- place in the order of the sweep
  status TEXT NOT NULL,       -- model.CellStatus
  reason TEXT NOT NULL DEFAULT '',
  started REAL, took_s REAL,
  cell TEXT NOT NULL,         -- model.Cell as JSON
  result TEXT,                -- model.Measurement as JSON, the first run
  context TEXT NOT NULL DEFAULT '{}',
  repeats TEXT NOT NULL DEFAULT '[]',  -- model.Measurement of the runs after the first, as JSON
  PRIMARY KEY (sweep, idx)
) WITHOUT ROWID;
"""
# What makes a file of one version one of the next; whatever is in it stays.
MIGRATIONS = {1: "ALTER TABLE cell ADD COLUMN repeats TEXT NOT NULL DEFAULT '[]';"}

P = ParamSpec("P")
T = TypeVar("T")


class StoredSweep(Data, frozen=True, kw_only=True):
    """One sweep as it is kept."""

    id: int
    created: float
    status: SweepStatus
    reason: str
    elapsed_s: float
    spec: SweepSpec
    cells: tuple[CellView, ...]


class MeasuredModel(NamedTuple):
    """Which model a sweep measured."""

    sweep: int
    path: str  # "": an imported one does not say
    identity: dict[str, Any]  # of the file, as it is kept with a cell; empty where it is not


class Store:
    """One open database. Raises LabError when it cannot be used."""

    def __init__(self, file: Path) -> None:
        self.notice = ""  # what a user should know about the file, one line
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._ours = False  # opened to be written

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of the calls below on the store's thread."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: self._at_work(work, *args, **kwargs))
        except sqlite3.Error as error:
            locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            raise LabError(
                f"the store {self._file} cannot be used ({error})",
                "another program has it open" if locked else "free disk space or mend its permissions",
            ) from error
        except msgspec.DecodeError as error:
            raise LabError(
                f"a sweep in {self._file} cannot be read ({error})",
                "use the lab-tui that wrote it, or move the file away",
            ) from error

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        await self.call(self._close)
        self._thread.shutdown()

    # -- on the thread

    def _at_work(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._ours and not self._file.exists():
            self._write_anew()
        return work(*args, **kwargs)

    def _write_anew(self) -> None:
        """Bring back a file that somebody removed: all that was in it can still be read here."""
        assert self._db is not None
        for part in ("-wal", "-shm"):  # without its file what is left of them is of no use to the next one
            self._file.with_name(self._file.name + part).unlink(missing_ok=True)
        self._db.execute("VACUUM INTO ?", (str(self._file),))
        self._close()
        self._open()
        self._ours = True
        self.notice = f"the store {self._file} was removed while it was in use: it is written anew, whole"
        log.warning("%s", self.notice)

    def open(self) -> None:
        """Open the file, made when it is missing; a damaged one is kept under another name (``notice``)."""
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGED:
                raise
            self._close()
            kept = self._set_aside()
            self.notice = f"the store was damaged ({error}): it is kept as {kept}, a new one was begun"
            log.warning("%s", self.notice)
            self._open()
        self._ours = True

    def open_to_read(self) -> None:
        """Open the file as it is, beside an engine that may be writing it. Raises LabError."""
        if not self._file.is_file():
            raise LabError(f"there is no store {self._file}", "`lab-tui sweep` begins it")
        self._db = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True, isolation_level=None)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version in MIGRATIONS:
            raise LabError(
                f"{self._file} is of version {version}, this lab-tui reads {SCHEMA_VERSION}",
                "`lab-tui results list` brings it up to that",
            )
        if version != SCHEMA_VERSION:
            raise self._other_version(version)

    def _other_version(self, version: int) -> LabError:
        return LabError(
            f"{self._file} is of version {version}, this lab-tui writes {SCHEMA_VERSION}",
            "use the lab-tui that wrote it, or move the file away",
        )

    def _open(self) -> None:
        db = sqlite3.connect(self._file, isolation_level=None)
        self._db = db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, *MIGRATIONS, SCHEMA_VERSION):
            raise self._other_version(version)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        if version == 0:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        for step in range(version, SCHEMA_VERSION) if version else ():
            db.executescript(f"BEGIN; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            damage = sqlite3.DatabaseError(str(verdict).splitlines()[0])
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage

    def _set_aside(self) -> Path:
        """Give the file, and what SQLite keeps beside it, a name that no other file has."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (
            f"{self._file.name}.damaged-{stamp}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100)))
        )
        kept = next(path for path in map(self._file.with_name, names) if not path.exists())
        for part in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self._file.with_name(self._file.name + part).replace(kept.with_name(kept.name + part))
        return kept

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db, self._ours = None, False

    def add(self, spec: SweepSpec, cells: Sequence[Cell]) -> int:
        """Keep a new sweep at the end of the queue; its id."""
        now = time.time()
        with self._transaction() as db:
            last = db.execute("SELECT coalesce(max(position), 0) FROM sweep").fetchone()[0]
            cursor = db.execute(
                "INSERT INTO sweep (created, position, status, spec) VALUES (?, ?, ?, ?)",
                (now, last + 1, SweepStatus.QUEUED, _text(spec)),
            )
            sweep = cursor.lastrowid
            assert sweep is not None
            db.executemany(
                "INSERT INTO cell (sweep, idx, status, cell) VALUES (?, ?, ?, ?)",
                [(sweep, i, CellStatus.PENDING, _text(cell)) for i, cell in enumerate(cells)],
            )
        return sweep

    def add_finished(
        self,
        spec: SweepSpec,
        cells: Sequence[CellView],
        status: SweepStatus,
        elapsed_s: float,
        reason: str = "",
    ) -> int:
        """Keep a sweep that is over, whole or not at all; its id."""
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO sweep (created, position, status, reason, elapsed_s, spec)"
                " VALUES (?, 0, ?, ?, ?, ?)",
                (time.time(), status, reason, elapsed_s, _text(spec)),
            )
            sweep = cursor.lastrowid
            assert sweep is not None
            db.executemany(
                "INSERT INTO cell"
                " (sweep, idx, cell, status, reason, started, took_s, result, context, repeats)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(sweep, view.index, _text(view.cell), *_outcome(view)) for view in cells],
            )
        return sweep

    def set_status(self, sweep: int, status: SweepStatus, elapsed_s: float, reason: str = "") -> None:
        """Keep where a sweep is."""
        self._execute(
            "UPDATE sweep SET status = ?, reason = ?, elapsed_s = ? WHERE id = ?",
            (status, reason, elapsed_s, sweep),
        )

    def set_elapsed(self, sweep: int, elapsed_s: float) -> None:
        """Keep the time a sweep has taken, while a cell is under way."""
        self._execute("UPDATE sweep SET elapsed_s = ? WHERE id = ?", (elapsed_s, sweep))

    def set_position(self, sweep: int, position: float) -> None:
        """Keep the place of a sweep in the queue."""
        self._execute("UPDATE sweep SET position = ? WHERE id = ?", (position, sweep))

    def put_cells(self, sweep: int, views: Sequence[CellView], elapsed_s: float) -> None:
        """Keep what became of cells, and the time the sweep has taken so far."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE cell SET status = ?, reason = ?, started = ?, took_s = ?, result = ?, context = ?,"
                " repeats = ?"
                " WHERE sweep = ? AND idx = ?",
                [(*_outcome(view), sweep, view.index) for view in views],
            )
            db.execute("UPDATE sweep SET elapsed_s = ? WHERE id = ?", (elapsed_s, sweep))

    def ids(self) -> list[int]:
        """Of every sweep, newest first."""
        return [row[0] for row in self._rows("SELECT id FROM sweep ORDER BY id DESC")]

    def measured_models(self) -> list[MeasuredModel]:
        """The model of every sweep that has results, newest first."""
        rows = self._rows(
            "SELECT id, spec,"
            " (SELECT context FROM cell WHERE sweep = sweep.id AND result IS NOT NULL LIMIT 1) AS kept"
            " FROM sweep WHERE kept IS NOT NULL ORDER BY id DESC"
        )
        specs = [msgspec.json.decode(spec, type=SweepSpec) for _, spec, _ in rows]
        contexts = [msgspec.json.decode(context) for *_, context in rows]
        return [
            MeasuredModel(row[0], spec.fleet.model, context.get("model", {}))
            for row, spec, context in zip(rows, specs, contexts, strict=True)
        ]

    def waiting(self) -> list[int]:
        """Ids of the sweeps that are not over, in the order of the queue."""
        rows = self._rows(
            "SELECT id FROM sweep WHERE status IN (?, ?, ?) ORDER BY position",
            (SweepStatus.QUEUED, SweepStatus.RUNNING, SweepStatus.PAUSED),
        )
        return [row[0] for row in rows]

    def sweep(self, sweep: int) -> StoredSweep:
        """One sweep with its cells. Raises LabError when there is none."""
        found = "SELECT id, created, status, reason, elapsed_s, spec FROM sweep WHERE id = ?"
        rows = self._rows(found, (sweep,)) if sweep <= LARGEST_ID else []
        if not rows:
            raise LabError(f"there is no sweep {sweep}", "`lab-tui results list` shows them")
        cells = self._rows(
            "SELECT idx, status, reason, started, took_s, cell, result, context, repeats FROM cell"
            " WHERE sweep = ? ORDER BY idx",
            (sweep,),
        )
        sweep_id, created, status, reason, elapsed_s, spec = rows[0]
        return StoredSweep(
            id=sweep_id,
            created=created,
            status=SweepStatus(status),
            reason=reason,
            elapsed_s=elapsed_s,
            spec=msgspec.json.decode(spec, type=SweepSpec),
            cells=tuple(_cell_view(row) for row in cells),
        )

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise LabError("the store is closed")
        return self._db

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._open_db().execute(sql, values).fetchall()

    def _execute(self, sql: str, values: tuple[Any, ...]) -> None:
        self._open_db().execute(sql, values)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._open_db())


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, rolled back on an exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
            self._db.execute("ROLLBACK")


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _outcome(view: CellView) -> tuple[Any, ...]:
    """What became of a cell: status, reason, started, took_s, result, context, repeats."""
    result = _text(view.result) if view.result else None
    kept = (_text(view.context), _text(view.repeats))
    return (view.status, view.reason, view.started, view.took_s, result, *kept)


def _cell_view(row: tuple[Any, ...]) -> CellView:
    index, status, reason, started, took_s, cell, result, context, repeats = row
    return CellView(
        index=index,
        cell=msgspec.json.decode(cell, type=Cell),
        status=CellStatus(status),
        reason=reason,
        result=msgspec.json.decode(result, type=Measurement) if result else None,
        started=started,
        took_s=took_s,
        context=msgspec.json.decode(context),
        repeats=msgspec.json.decode(repeats, type=tuple[Measurement, ...]),
    )
