"""Results as CSV, JSON and Markdown: names that others' scripts rely on, and no made-up figures."""

from __future__ import annotations

import csv
import io
import json

import msgspec

from lab_tui.model import CellStatus, GpuLoad, MachineLoad, SweepDetail, SweepStatus
from lab_tui.store import export
from lab_tui.store.store import StoredSweep
from lab_tui.sweep import summary

from .helpers import sweep_spec, viewed

NINE = "instances,parallel,batch,ubatch,concurrency,throughput_tps,total_tokens,elapsed_s,errors"
REASON = 'port 9001 | in use \\| "by" nginx,\nsays x*y_z'


def detail(status: SweepStatus = SweepStatus.DONE) -> SweepDetail:
    """Two measured cells that tie, one failed, one skipped, four pending."""
    spec = sweep_spec()
    cells = list(viewed(spec, 100.0, 101.5))
    cells[2] = msgspec.structs.replace(cells[2], status=CellStatus.FAILED, reason=REASON, took_s=3.0)
    cells[3] = msgspec.structs.replace(cells[3], status=CellStatus.SKIPPED, reason="past the knee")
    sweep = StoredSweep(
        id=7, created=1.0, status=status, reason="", elapsed_s=23.0, spec=spec, cells=tuple(cells)
    )
    return summary.detail(sweep, summary.view(sweep))


def test_csv_begins_with_the_nine_columns_of_others() -> None:
    head, *lines = export.to_csv(detail()).splitlines()
    assert head.startswith(NINE + ",")
    assert head.split(",")[:9] == NINE.split(",")
    assert len(set(head.split(","))) == len(head.split(","))
    assert lines[0].startswith("1,1,2048,512,1,100.0,1000,8.0,0,")


def test_csv_has_the_cells_that_are_over_and_no_made_up_figures() -> None:
    rows = list(csv.DictReader(io.StringIO(export.to_csv(detail()))))
    assert [row["status"] for row in rows] == ["measured", "measured", "failed", "skipped"]
    failed = rows[2]
    assert failed["reason"] == REASON
    assert (failed["instances"], failed["parallel"], failed["concurrency"]) == ("2", "1", "1")
    figures = [*NINE.split(",")[5:], "throughput_ci95_tps", "ttft_p95_ms", "per_stream_p50_tps", "verdict"]
    for name in figures:
        assert failed[name] == "", name
        assert rows[3][name] == "", name
        assert rows[0][name] != "", name
    assert (rows[0]["ttft_p50_ms"], rows[0]["ttft_p99_ms"], rows[0]["tpot_p50_ms"]) == ("10.0", "30.0", "")


def test_csv_of_other_axes_has_them_as_columns() -> None:
    spec = sweep_spec(axes={"threads": (1, 2), "flash-attn": ("on",), "concurrency": (1,)})
    sweep = StoredSweep(
        id=1,
        created=1.0,
        status=SweepStatus.DONE,
        reason="",
        elapsed_s=1.0,
        spec=spec,
        cells=viewed(spec, 1.0, 2.0),
    )
    text = export.to_csv(summary.detail(sweep, summary.view(sweep)))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["threads"], row["flash-attn"]) for row in rows] == [("1", "on"), ("2", "on")]


def test_what_is_known_of_cards_comes_after_all_other_columns() -> None:
    hot = GpuLoad(
        index=0, util_peak_pct=90.0, memory_mean_bytes=3, power_peak_w=300.0, throttled={"heat": 0.5}
    )
    cool = GpuLoad(index=1, util_peak_pct=99.0, memory_mean_bytes=4, power_peak_w=100.0, throttled={})
    machine = MachineLoad(
        gpus=(hot, cool),
        tokens_per_joule=2.5,
        joules_per_token=0.4,
        energy_from="counter",
        cards_every_s=2.0,
        other_work_pct=1.5,
    )
    found = detail()
    assert found.cells[0].result is not None
    result = msgspec.structs.replace(found.cells[0].result, machine=machine)
    cells = (msgspec.structs.replace(found.cells[0], result=result), *found.cells[1:])
    head, first, second, *_ = csv.reader(
        io.StringIO(export.to_csv(msgspec.structs.replace(found, cells=cells)))
    )
    cards = ["gpu_util_peak_pct", "gpu_memory_mean_bytes", "gpu_power_peak_w", "tokens_per_joule",
             "energy_from", "gpu_slowed_by", "gpu_every_s", "other_work_pct"]  # fmt: skip
    assert head[-8:] == cards
    assert first[-8:] == ["99.0", "7", "400.0", "2.5", "counter", "heat", "2.0", "1.5"]
    assert second[-8:] == [""] * 8


def test_csv_of_nothing_is_its_head() -> None:
    spec = sweep_spec()
    sweep = StoredSweep(
        id=1, created=1.0, status=SweepStatus.QUEUED, reason="", elapsed_s=0.0, spec=spec, cells=viewed(spec)
    )
    text = export.to_csv(summary.detail(sweep, summary.view(sweep)))
    assert text.startswith(NINE)
    assert text.count("\n") == 1


def test_json_is_the_document_of_sweep_json() -> None:
    document = json.loads(msgspec.json.encode(export.to_json(detail())))
    assert (document["id"], document["status"]) == (7, "done")
    assert (document["cells_total"], document["cells_measured"], document["cells_skipped"]) == (8, 2, 1)
    assert document["cells_failed"] == 1
    assert document["elapsed_s"] == 23.0
    best = {
        "instances": 1,
        "parallel": 1,
        "concurrency": 8,
        "throughput_tps": 101.5,
        "throughput_ci95_tps": 1.0,
    }
    assert best.items() <= document["best"].items()
    assert [tie["concurrency"] for tie in document["tied"]] == [1, 8]
    assert len(document["cells"]) == 8
    assert set(NINE.split(",")) <= document["cells"][0].keys()
    failed = document["cells"][2]
    assert (failed["status"], failed["reason"], failed["throughput_tps"]) == ("failed", REASON, None)


def test_json_before_anything_was_measured() -> None:
    spec = sweep_spec()
    sweep = StoredSweep(
        id=1, created=1.0, status=SweepStatus.RUNNING, reason="", elapsed_s=0.0, spec=spec, cells=viewed(spec)
    )
    document = json.loads(msgspec.json.encode(export.to_json(summary.detail(sweep, summary.view(sweep)))))
    assert document["best"] is None
    assert document["tied"] == []


def test_markdown_keeps_every_cell_in_its_row() -> None:
    text = export.to_markdown(detail())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 8
    assert len({len(line.replace("\\\\", "").replace("\\|", "").split("|")) for line in table}) == 1
    assert r'port 9001 \| in use \\\| "by" nginx, says' in text
    assert "| 101.5 |" in text
    assert "Best: 1×1 c=8, 101.5 tok/s" in text
    assert "None" not in text
