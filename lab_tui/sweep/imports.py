"""Results measured elsewhere: a CSV of llama-throughput-lab, or one of our own, as a finished sweep.

llama-throughput-lab writes a cell that failed as 0.0 tok/s; here it is a failed cell with a reason.
What the file does not say stays ``None``.
"""

from __future__ import annotations

import asyncio
import csv
import io
import math
from collections.abc import Iterator
from pathlib import PurePath

import msgspec

from lab_tui.model import (
    AxisValue,
    Cell,
    CellStatus,
    CellView,
    ClientCost,
    Data,
    FleetSpec,
    LabError,
    MachineLoad,
    Measurement,
    Percentiles,
    ResultsFile,
    StreamRate,
    SweepSpec,
    SweepStatus,
    SweepView,
    TokenCounts,
    Workload,
)
from lab_tui.store.export import BETWEEN_FLAGS, NINE, PLAIN, RANKED, RANKS, rank_column
from lab_tui.store.store import Store
from lab_tui.sweep import summary
from lab_tui.sweep.space import ARG, AXES, MAX_CELLS, axis_of
from lab_tui.sweep.summary import RUNS
from lab_tui.text import plural

SETTINGS = NINE[:5]
PLACE = ("instances", "parallel", "concurrency")  # what makes a cell whatever else varies
LLAMA_DEFAULT = "default"  # of batch and ubatch: llama-server's own, which a FleetSpec has too
OURS = ("status", "reason", "took_s")  # columns by which a CSV of lab-tui is known
MEND = "mend that line, or leave it out"


async def keep(store: Store, file: ResultsFile) -> SweepView:
    """Keep the file as a sweep that is over. Raises LabError naming line and column of what is wrong."""
    spec, cells = await asyncio.to_thread(read, file)
    elapsed_s = sum(c.took_s or (c.result.elapsed_s if c.result else 0.0) for c in cells)
    if any(cell.result is not None for cell in cells):
        sweep = await store.call(store.add_finished, spec, cells, SweepStatus.DONE, elapsed_s)
    else:
        why = cells[0].reason
        sweep = await store.call(store.add_finished, spec, cells, SweepStatus.FAILED, elapsed_s, why)
    return summary.view(await store.call(store.sweep, sweep))


def read(file: ResultsFile) -> tuple[SweepSpec, tuple[CellView, ...]]:
    """The sweep a CSV tells of. Raises LabError naming line and column of what is wrong."""
    rows = _rows(file)
    most = max(_axis_value(row, "concurrency") for row in rows)
    assert isinstance(most, int)
    usual = FleetSpec(model="")  # the file does not say which model it was
    fleet = msgspec.structs.replace(usual, max_streams=max(most, usual.max_streams))
    settings = [_settings(row) for row in rows]
    names = (*AXES, *dict.fromkeys(name for found in settings for name in found if name.startswith(ARG)))
    columns = {name: {found[name] for found in settings if name in found} for name in names}
    axes = {name for name, values in columns.items() if name in PLACE or len(values) > 1}
    spec = SweepSpec(
        name=f"import:{PurePath(file.name).name}",
        fleet=fleet,
        axes={name: _in_order(columns[name]) for name in names if name in axes},
    )
    views = (
        _view(row, index, _cell(fleet, found, axes))
        for index, (row, found) in enumerate(zip(rows, settings, strict=True))
    )
    return spec, tuple(views)


def _in_order(values: set[AxisValue]) -> tuple[AxisValue, ...]:
    return tuple(sorted(values, key=lambda value: (value, "") if isinstance(value, int) else (0, value)))


# --- lines --------------------------------------------------------------------------------------


class Row(Data, frozen=True, kw_only=True):
    """One line, its fields by column; what is not there or empty is left out."""

    place: str  # "x.csv line 7"
    fields: dict[str, str]

    def wrong(self, column: str, problem: str) -> LabError:
        """The refusal of a field."""
        return LabError(f"{self.place}, column {column}: {problem}", MEND)

    def needed(self, column: str) -> str:
        """A field that must be there."""
        if column not in self.fields:
            raise self.wrong(column, "is empty")
        return self.fields[column]

    def number(self, column: str) -> float | None:
        """A figure: 0 or more."""
        text = self.fields.get(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self.wrong(column, f"{text!r} is not a number") from None
        if not 0 <= value < math.inf:
            raise self.wrong(column, f"{text} is not a number from 0 on")
        return value

    def count(self, column: str) -> int | None:
        """A whole number: 0 or more."""
        value = self.number(column)
        if value is not None and not value.is_integer():
            raise self.wrong(column, f"{self.fields[column]} is not a whole number")
        return None if value is None else int(value)


def _rows(file: ResultsFile) -> list[Row]:
    """Every line with something in it. Raises LabError for a file of another shape."""
    records = _records(file)
    line, head = next(records, (1, []))
    columns = [name.strip() for name in head]
    place = f"{file.name} line {line}"
    for name in NINE:
        if columns.count(name) != 1:
            problem = "is there twice" if name in columns else "is missing"
            raise LabError(f"{place}: the column {name} {problem}", f"wanted are {','.join(NINE)}")
    known = {*NINE, *AXES} if not set(OURS) <= set(columns) else set(columns)
    rows = []
    for line, fields in records:
        place = f"{file.name} line {line}"
        if len(fields) != len(columns):
            missing = f"; {columns[len(fields)]} is missing" if len(fields) < len(columns) else ""
            raise LabError(f"{place}: {len(fields)} fields of {len(columns)} columns{missing}", MEND)
        pairs = zip(columns, map(str.strip, fields), strict=True)
        rows.append(Row(place=place, fields={name: text for name, text in pairs if text and name in known}))
        if len(rows) > MAX_CELLS:
            raise LabError(f"{place}: more than {MAX_CELLS:,} cells", "import it in parts")
    if not rows:
        raise LabError(f"{file.name} has no line below its head", "nothing was measured")
    return rows


def _records(file: ResultsFile) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, with its number; one in quotes may be many lines long."""
    reader = csv.reader(io.StringIO(file.text.removeprefix("\ufeff"), newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise LabError(f"{file.name} line {line}: {error}", "it is not CSV") from None
        if any(fields):
            yield line, fields


# --- cells --------------------------------------------------------------------------------------


def _settings(row: Row) -> dict[str, AxisValue]:
    """The settings of a cell by the names of their axes."""
    for name in SETTINGS:
        row.needed(name)
    return {name: _axis_value(row, name) for name in row.fields if name in AXES or name.startswith(ARG)}


def _axis_value(row: Row, name: str) -> AxisValue:
    text = row.needed(name)
    if text == LLAMA_DEFAULT and name in ("batch", "ubatch"):
        default: int = getattr(FleetSpec(model=""), name)
        return default
    try:
        return axis_of(name).parse(name, text)
    except LabError as error:
        raise row.wrong(name, error.message.partition(": ")[2] or error.message) from None


def _cell(fleet: FleetSpec, settings: dict[str, AxisValue], axes: set[str]) -> Cell:
    cell = Cell(
        fleet=fleet,
        concurrency=1,
        workload=Workload(),
        axes={name: value for name, value in settings.items() if name in axes},
    )
    for name, value in settings.items():
        cell = axis_of(name).apply(cell, value)
    return cell


def _view(row: Row, index: int, cell: Cell) -> CellView:
    """The cell and what became of it."""
    status, reason, result = CellStatus.MEASURED, row.fields.get("reason", ""), None
    said = row.fields.get("status", CellStatus.MEASURED)
    if said in (CellStatus.FAILED, CellStatus.SKIPPED):
        status = CellStatus(said)
        reason = reason or "the file does not say why"
    elif said != CellStatus.MEASURED:
        raise row.wrong("status", f"{said!r} is not measured, failed or skipped")
    else:
        row.needed("throughput_tps")
        if row.number("throughput_tps"):
            result = _measurement(row, cell.concurrency)
        else:
            status, reason = CellStatus.FAILED, _why_zero(row)
    return CellView(
        index=index,
        cell=cell,
        status=status,
        reason=reason,
        result=result,
        took_s=row.number("took_s"),
        context={"imported": row.place} | _runs(row),
    )


def _runs(row: Row) -> dict[str, list[float]]:
    """The tok/s of every run, of which our own exports have the figures together, for the context."""
    try:
        rates = [float(text) for text in row.fields.get("runs_tps", "").split()]
    except ValueError:
        rates = [math.nan]
    if not all(0 <= rate < math.inf for rate in rates):
        raise row.wrong("runs_tps", f"{row.fields['runs_tps']!r} is not numbers from 0 on")
    return {RUNS: rates} if rates else {}


def _why_zero(row: Row) -> str:
    errors = row.count("errors")
    counted = "" if errors is None else f" with {plural(errors, 'error')}"
    return f"0 tok/s{counted} in the file, which llama-throughput-lab writes for a cell that failed"


def _measurement(row: Row, concurrency: int) -> Measurement:
    """The figures of a cell that was measured; of llama-throughput-lab's file there are four."""
    for name in NINE[5:]:
        row.needed(name)
    tps, elapsed_s = row.number("throughput_tps"), row.number("elapsed_s")
    tokens, errors = row.count("total_tokens"), row.count("errors")
    assert tps is not None and tokens is not None and elapsed_s is not None and errors is not None
    figures = {name: row.number(name) for name in PLAIN if name != "requests"}
    ranks = {
        name: Percentiles(**{rank: row.number(rank_column(name, rank)) for rank in RANKS}) for name in RANKED
    }
    flags = row.fields.get("flags", "")
    return Measurement(
        throughput_tps=tps,
        total_tokens=tokens,
        elapsed_s=elapsed_s,
        errors=errors,
        concurrency=concurrency,
        requests=row.count("requests"),
        per_stream_tps=StreamRate(p5=row.number("per_stream_p5_tps"), p50=row.number("per_stream_p50_tps")),
        tokens=TokenCounts(),
        client=ClientCost(),
        machine=_machine(row),
        verdict=row.fields.get("verdict", ""),
        flags=tuple(flags.split(BETWEEN_FLAGS)) if flags else (),
        **figures,  # type: ignore[arg-type]
        **ranks,  # type: ignore[arg-type]
    )


def _machine(row: Row) -> MachineLoad | None:
    """The machine's readings but those of its cards, of which the file has only what they add up to."""
    load = MachineLoad(
        cpu_pct=row.number("cpu_pct"),
        rss_bytes=row.count("rss_bytes"),
        slots_busy=row.number("slots_busy"),
        queue_depth=row.number("queue_depth"),
        joules_per_token=row.number("joules_per_token"),
        tokens_per_joule=row.number("tokens_per_joule"),
        energy_from=row.fields.get("energy_from", ""),
        cards_every_s=row.number("gpu_every_s"),
    )
    return None if load == MachineLoad() else load
