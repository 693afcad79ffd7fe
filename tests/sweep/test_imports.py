"""A CSV of results as a sweep: every figure that is there, none that is not, and no failed cell as 0."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest

from lab_tui.model import (
    CellStatus,
    CellView,
    LabError,
    MachineLoad,
    Percentiles,
    ResultsFile,
    StreamRate,
    SweepSpec,
    SweepStatus,
    TokenCounts,
)
from lab_tui.store.export import to_csv
from lab_tui.store.store import Store, StoredSweep
from lab_tui.sweep import imports, space, summary
from tests.store.helpers import measurement, sweep_spec, viewed

HEAD = "instances,parallel,batch,ubatch,concurrency,throughput_tps,total_tokens,elapsed_s,errors"
# As llama-throughput-lab writes it: \r\n, one decimal, "default", and 0.0 for what failed.
THEIRS = "\r\n".join(
    (
        HEAD,
        "2,1,default,default,1,101.5,128,1.26,0",
        "2,1,default,default,1024,312.4,120000,384.12,9",
        "2,1,1024,default,1,0.0,0,0.00,1",
        "16,64,default,default,1024,0.0,0,120.03,1024",
        "",
    )
)


def file(text: str, name: str = "full_sweep.csv") -> ResultsFile:
    return ResultsFile(name=name, text=text)


def refusal(text: str) -> str:
    with pytest.raises(LabError) as caught:
        imports.read(file(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_llama_throughput_lab() -> None:
    spec, views = imports.read(file(THEIRS))
    assert spec.name == "import:full_sweep.csv"
    assert spec.axes == {
        "batch": (1024, 2048),
        "parallel": (1, 64),
        "instances": (2, 16),
        "concurrency": (1, 1024),
    }
    assert [view.status for view in views] == [CellStatus.MEASURED] * 2 + [CellStatus.FAILED] * 2
    first, second = views[0].result, views[1].result
    assert first is not None and second is not None
    assert (first.throughput_tps, first.total_tokens, first.elapsed_s, first.errors) == (101.5, 128, 1.26, 0)
    assert (second.concurrency, second.errors, second.errors_by_kind) == (1024, 9, {})
    unknown = (
        first.throughput_ci95_tps, first.prompt_tps, first.requests, first.requests_per_s, first.goodput_rps,
        first.output_tokens_mean, first.client.cpu_us_per_token,
    )  # fmt: skip
    assert set(unknown) == {None}
    assert (first.ttft_ms, first.per_stream_tps, first.tokens) == (Percentiles(), StreamRate(), TokenCounts())
    assert first.machine is None
    cell = views[2].cell
    assert (cell.fleet.instances, cell.fleet.batch, cell.fleet.ubatch, cell.concurrency) == (2, 1024, 512, 1)
    assert cell.fleet.model == ""
    assert cell.axes == {"batch": 1024, "parallel": 1, "instances": 2, "concurrency": 1}


def test_what_failed_is_no_zero() -> None:
    _, views = imports.read(file(THEIRS))
    assert [view.result for view in views[2:]] == [None, None]
    assert views[2].reason == (
        "0 tok/s with 1 error in the file, which llama-throughput-lab writes for a cell that failed"
    )
    assert views[3].reason.startswith("0 tok/s with 1,024 errors in the file")
    assert [view.index for view in views] == [0, 1, 2, 3]
    assert views[3].context == {"imported": "full_sweep.csv line 5"}


def test_the_fleet_is_laid_out_for_the_most_streams() -> None:
    _, views = imports.read(file(f"{HEAD}\n1,1,512,512,4096,5,10,2,0\n"))
    assert views[0].cell.fleet.max_streams == 4096


def test_our_own_file_comes_back_whole() -> None:
    spec = sweep_spec(axes={"threads": (1, 2), "flash-attn": ("on", "off"), "concurrency": (1, 8)})
    cells = list(viewed(spec, 100.0, 101.5, 3.25))
    assert cells[0].result is not None
    load = MachineLoad(
        cpu_pct=97.5,
        rss_bytes=3 << 30,
        slots_busy=7.5,
        queue_depth=0.5,
        joules_per_token=0.25,
        tokens_per_joule=4.0,
        energy_from="counter",
        cards_every_s=2.0,
    )
    flagged = msgspec.structs.replace(
        cells[0].result, flags=("drift: tok/s fell", "unsteady"), goodput_rps=1.5, machine=load
    )
    cells[0] = msgspec.structs.replace(cells[0], result=flagged)
    cells[3] = msgspec.structs.replace(
        cells[3], status=CellStatus.FAILED, reason='port "9001", in\nuse', took_s=3.0
    )
    cells[4] = msgspec.structs.replace(cells[4], status=CellStatus.SKIPPED, reason="past the knee")
    before = exported(spec, cells)
    again, views = imports.read(file(f"\ufeff{before}", "out.csv"))
    place = {"parallel": (4,), "instances": (1,), "concurrency": (1, 8)}
    assert again.axes == {"threads": (1, 2), "flash-attn": ("off", "on"), **place}
    assert views[1].cell.fleet.threads == 1
    assert views[4].context == {"imported": "out.csv line 7"}  # a reason of two lines is before it
    rows, rows_again = (
        list(csv.DictReader(io.StringIO(text))) for text in (before, exported(again, list(views)))
    )
    assert len(rows) == 5
    assert [row.items() <= back.items() for row, back in zip(rows, rows_again, strict=True)] == [True] * 5


def test_arguments_of_llama_server_come_back_in_our_own_file() -> None:
    spec = sweep_spec(axes={"arg:--temp": (0, "0.7"), "concurrency": (1,)})
    again, views = imports.read(file(exported(spec, list(viewed(spec, 100.0, 90.0))), "out.csv"))
    assert again.axes["arg:--temp"] == (0, "0.7")
    assert [view.cell.fleet.extra_args for view in views] == [("--temp", "0"), ("--temp", "0.7")]


def test_the_runs_of_a_cell_come_back_in_our_own_file() -> None:
    spec = sweep_spec(axes={"concurrency": (1, 2)})
    first, second = viewed(spec, 100.0, 90.0)
    first = msgspec.structs.replace(first, repeats=(measurement(104.0), measurement(96.0)))
    text = exported(spec, [first, second])
    again, views = imports.read(file(text, "out.csv"))
    assert exported(again, list(views)) == text
    with pytest.raises(LabError, match=r"column runs_tps: .* is not numbers from 0 on"):
        imports.read(file(text.replace("104.0", "fast"), "out.csv"))


def exported(spec: SweepSpec, cells: list[CellView]) -> str:
    """The CSV of a sweep."""
    sweep = StoredSweep(
        id=1,
        created=1.0,
        status=SweepStatus.DONE,
        reason="",
        elapsed_s=1.0,
        spec=spec,
        cells=tuple(cells),
    )
    return to_csv(summary.detail(sweep, summary.view(sweep)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "full_sweep.csv line 1: the column instances is missing"),
        ("batch,ubatch,max_tokens,concurrency,throughput_tps,total_tokens,elapsed_s,errors\n",
         "line 1: the column instances is missing: wanted are instances,parallel"),
        (HEAD.replace(",", ";"), "line 1: the column instances is missing"),
        (f"{HEAD},errors\n", "line 1: the column errors is there twice"),
        (f"{HEAD}\n", "has no line below its head"),
        (f"{HEAD}\n\n2,1,default,default,1,1.5,12\n", "line 3: 7 fields of 9 columns; elapsed_s is missing"),
        (f"{HEAD}\n2,1,default,default,1,1.5,12,1,0,7\n", "line 2: 10 fields of 9 columns"),
        (f"{HEAD}\n2,1,default,default,1,fast,12,1,0\n", "line 2, column throughput_tps: 'fast' is not"),
        (f"{HEAD}\n2,1,default,default,1,nan,12,1,0\n", "column throughput_tps: nan is not"),
        (f"{HEAD}\n2,1,default,default,1,-3,12,1,0\n", "column throughput_tps: -3 is not a number from 0 on"),
        (f"{HEAD}\n2,1,default,default,1,,12,1,0\n", "line 2, column throughput_tps: is empty"),
        (f"{HEAD}\n2,1,default,default,1,1.5,12.5,1,0\n", "column total_tokens: 12.5 is not a whole number"),
        (f"{HEAD}\n2,1,default,default,1,1.5,,1,0\n", "line 2, column total_tokens: is empty"),
        (f"{HEAD}\ndefault,1,1,1,1,1.5,12,1,0\n", "line 2, column instances: 'default' is not a number"),
        (f"{HEAD}\n2,0,1,1,1,1.5,12,1,0\n", "line 2, column parallel: 0 is out of range"),
        (f"{HEAD}\n2,1,1,1,,1.5,12,1,0\n", "line 2, column concurrency: is empty"),
        (f"{HEAD},status,reason,took_s\n2,1,1,1,1,1.5,12,1,0,fine,,\n", "line 2, column status: 'fine'"),
        (f'{HEAD}\n"2,1\n', "line 2: unexpected end of data"),
    ],
)  # fmt: skip
def test_another_shape_is_refused_naming_line_and_column(text: str, says: str) -> None:
    assert says in refusal(text)


def test_other_columns_of_others_are_left_alone() -> None:
    _, views = imports.read(file(f"note,{HEAD},status,prompt_tps\nx,2,1,1,1,1,1.5,12,8,0,ok,n/a\n"))
    assert views[0].result is not None
    assert (views[0].result.throughput_tps, views[0].result.prompt_tps) == (1.5, None)


def test_more_cells_than_a_sweep_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_CELLS", 2)
    assert "line 4: more than 2 cells" in refusal(HEAD + "\n2,1,1,1,1,1.5,12,1,0" * 3)
    assert space.MAX_CELLS == 10_000


async def test_it_is_kept_as_a_sweep_that_is_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "lab.db")
    await store.call(store.open)
    view = await imports.keep(store, file(THEIRS, "a.csv"))
    assert (view.name, view.status, view.cells_total, view.cells_measured, view.cells_failed) == (
        "import:a.csv", SweepStatus.DONE, 4, 2, 2,
    )  # fmt: skip
    assert view.elapsed_s == pytest.approx(1.26 + 384.12)
    assert view.best is not None and view.best.throughput_tps == 312.4
    kept = await store.call(store.sweep, view.id)
    assert kept.cells == imports.read(file(THEIRS, "a.csv"))[1]
    assert await store.call(store.waiting) == []
    nothing = await imports.keep(store, file("\r\n".join([HEAD, *THEIRS.splitlines()[3:]]), "b.csv"))
    assert (nothing.status, nothing.best, nothing.id) == (SweepStatus.FAILED, None, view.id + 1)
    assert nothing.reason.startswith("0 tok/s with 1 error")
    await store.close()
