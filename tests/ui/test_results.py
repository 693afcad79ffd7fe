"""What was found: one sweep live, the browser, one cell, two sweeps, and what is done with them."""

from __future__ import annotations

import asyncio
import shlex
import threading
from pathlib import Path

import msgspec
import pytest
from textual.widgets import Button, Input, Select

from lab_tui import client, findings, paths
from lab_tui.model import (
    AxisValue,
    Best,
    CellStatus,
    CellView,
    FleetSpec,
    LabError,
    LoadView,
    Phase,
    SweepDetail,
    SweepStatus,
    SweepView,
)
from lab_tui.ui.panes import compare, course, heat, results
from lab_tui.ui.screens.cell import CellScreen
from lab_tui.ui.screens.compare import CompareScreen
from lab_tui.ui.screens.dialogs import ConfirmDialog
from lab_tui.ui.screens.export import ExportForm
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.screens.results import ResultsScreen
from lab_tui.ui.screens.sweep import SweepScreen
from lab_tui.ui.widgets.footer import FooterKeys
from lab_tui.ui.widgets.table import Row, SortTable
from tests.ui.fake import FLEET, FakeClient, empty, snapshot, sweep_detail, sweep_view
from tests.ui.helpers import Lab, lab, until

BEST = Best(cell=16, instances=2, parallel=16, concurrency=64, throughput_tps=776.0, throughput_ci95_tps=11.6)


def finished(id: int = 3, **more: object) -> SweepView:
    usual: dict[str, object] = {"name": "quick", "status": SweepStatus.DONE, "now": "", "phase": None}
    return sweep_view(id, **(usual | {"best": BEST} | more))


def browsing(*views: SweepView) -> FakeClient:
    """The usual fleet, and these finished sweeps; else two, one of which has no best cell."""
    client = FakeClient(snapshot(sweep=None, queue=()))
    client.finished = list(views) or [finished(4, name="threads", best=None), finished(3)]
    return client


async def opened(shown: Lab) -> SweepScreen:
    """The sweep under the cursor of the overview, with its cells."""
    await until(lambda: shown.overview.queue.selected)
    await shown.press("4", "enter")
    screen: SweepScreen = await shown.on(SweepScreen)
    await until(lambda: screen.table.row_count == 24)
    return screen


def told(screen: SweepScreen) -> str:
    return str(screen.told.render())


# --- one sweep --------------------------------------------------------------------------------


async def test_open_a_sweep_and_a_cell() -> None:
    async with lab(size=(120, 40)) as shown:
        screen = await opened(shown)
        await until(lambda: any("776.0" in line for line in screen.heat.plain))
        await shown.press("enter")
        await shown.on(CellScreen)
        await shown.press("escape")
        await shown.on(SweepScreen)
        await shown.press("slash", *"c=64", "enter")
        await until(lambda: screen.table.row_count == 6)
        await shown.press("escape")
        await until(lambda: screen.table.row_count == 24)
        await shown.press("2", "t")
        await until(lambda: str(screen.plot.render()).startswith(" tok/s of one stream"))
        await shown.press("t")
        await until(lambda: "Pareto front" in str(screen.plot.render()))
        await shown.press("enter")
        assert screen.zoomed
        await shown.press("z", "escape")


async def test_a_cursor_in_the_heat_map_says_figures_and_reasons() -> None:
    async with lab() as shown:
        screen = await opened(shown)
        await shown.press("1")
        await until(lambda: "2×4 c=16" in told(screen))
        await shown.press("up", "up", "left")
        await until(lambda: told(screen).startswith(" 1×4 c=4  ✔ measured  229.7 ±1.5% tok/s"))
        assert "best of 4 measured" in told(screen)
        await shown.press("right", "down", "down")
        await until(lambda: told(screen).startswith(" 4×16 c=1  · pending"))
        await shown.press("enter")
        await shown.on(CellScreen)
        await shown.press("escape", "3", "home", *["down"] * 13)
        await until(lambda: "✖ failed: instance 2 died: out of memory" in told(screen))
        await shown.press(*["down"] * 4)
        await until(lambda: "⊘ skipped: needs 151G of 141G" in told(screen))
        await shown.pilot.click("#heat", offset=(15, 2))
        await until(lambda: told(screen).startswith(" 1×4 c=4"))


async def test_the_footer_keeps_what_a_running_sweep_needs() -> None:
    async with lab(size=(80, 24)) as shown:
        screen = await opened(shown)
        footer = str(screen.query_one(FooterKeys).render())
        for words in (" p pause ", " > skip ", " a abort ", " enter cell ", " ? help "):
            assert words in footer


async def test_sort_the_cells() -> None:
    async with lab(size=(120, 40)) as shown:
        screen = await opened(shown)

        def first() -> str:
            return screen.table.get_row_at(0)[1].plain

        await shown.press("o", "o", "o")
        await until(lambda: first() == "2×16 c=64")
        assert "by tok/s ↓" in str(screen.panes()[2].border_title)
        assert screen.table.get_row_at(23)[3].plain == "-"
        await shown.press("O")
        await until(lambda: first().endswith("c=1"))
        await shown.pilot.click("#cells", offset=(50, 0))
        await until(lambda: "by TTFT p95 ↑" in str(screen.panes()[2].border_title))
        await shown.pilot.click("#cells", offset=(50, 0))
        await until(lambda: "by TTFT p95 ↓" in str(screen.panes()[2].border_title))


def test_the_map_takes_the_axes_that_vary_most() -> None:
    def axes(**held: tuple[AxisValue, ...]) -> tuple[str, str]:
        detail = sweep_detail(sweep_view())
        spec = msgspec.structs.replace(detail.spec, axes=held)
        return heat.axes(msgspec.structs.replace(detail, spec=spec))

    assert axes(concurrency=(1, 2, 4), parallel=(1, 2), instances=(1, 2)) == ("instances", "parallel")
    assert axes(threads=(1, 2, 4), batch=(1, 2), concurrency=(1, 4)) == ("threads", "batch")
    assert axes(batch=(1, 2), concurrency=(1, 4, 8), instances=(2,)) == ("batch", "concurrency")
    assert axes(concurrency=(1, 4, 8), instances=(2,)) == ("concurrency", "")
    assert axes(instances=(2,)) == ("instances", "")


@pytest.mark.parametrize("width", [12, 31, 120])
def test_a_map_wider_than_its_pane_keeps_the_cursor_in_sight(width: int) -> None:
    detail = sweep_detail(sweep_view())
    wide = msgspec.structs.replace(detail.spec, axes={"instances": (1, 2, 4), "concurrency": (1, 4, 16, 64)})
    held = heat.grid(msgspec.structs.replace(detail, spec=wide))
    for column in range(4):
        place = heat.frame(held, width, column)
        lines = heat.lines(held, detail, place, (0, column), True, width)
        assert heat.CURSOR in lines[heat.HEAD].plain
        assert place.seen == 4 or "▸" in lines[0].plain


def test_the_head_says_the_phase_and_what_is_paused() -> None:
    load = LoadView(phase=Phase.WARMING, concurrency=64, in_flight=60, tps=1226.0)
    running = sweep_view(phase=Phase.WARMING)
    narrow, wide = (course.lines(running, load, False, width)[1].plain for width in (80, 160))
    assert "now 8×32 c=256  ▶ warming  1,226 tok/s  60/64 streams" in narrow
    assert "✔ starting ▶ warming · measuring · draining" in wide
    paused = course.lines(sweep_view(status=SweepStatus.PAUSED), None, True, 80)
    assert "held" in paused[0].plain
    assert "p goes on" in paused[1].plain
    for width in (20, 80, 200):
        assert all(line.cell_length <= max(width, 45) for line in course.lines(running, load, False, width))


def test_the_pareto_front_is_what_nothing_beats() -> None:
    assert results.front([(1, 9), (2, 5), (1, 3), (3, 5), (4, 1), (0.5, 9)]) == [(1, 9), (3, 5), (4, 1)]
    assert results.front([]) == []


def test_commands_can_be_pasted() -> None:
    view = sweep_detail(sweep_view()).cells[0]
    words = ["llama-server", "-m", "/a b/m.gguf", "--port", "9000", "--chat-template", "it's {x}"]
    view = msgspec.structs.replace(view, context={"commands": [words], "nginx_conf": "events {}\n"})
    lines = results.ran_on(view, 40)
    assert lines[0] == "# instance 0"
    assert "events {}" in lines
    pasted = "\n".join(lines[1 : lines.index("")])
    assert shlex.split(pasted.replace("\\\n", "")) == words
    assert all(len(line) <= 40 for line in lines)
    seat = {"gpu": "1", "environment": {"CUDA_VISIBLE_DEVICES": "GPU-1"}, "cores": "0-3"}
    placed = msgspec.structs.replace(view, context={"commands": [words], "seats": [seat]})
    kept = shlex.split(results.commands(placed)[0])
    assert kept == ["CUDA_VISIBLE_DEVICES=GPU-1", "taskset", "-c", "0-3", *words]


# --- the browser ------------------------------------------------------------------------------


async def test_browse_sort_filter_open() -> None:
    async with lab(browsing(), (120, 40)) as shown:
        await shown.press("b")
        screen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 2)
        assert screen.table.selected == "4"
        await shown.press(*["o"] * 4)
        await until(lambda: screen.table.get_row_at(0)[0].plain == "3")
        assert screen.table.selected == "4"  # the cursor stays on its row
        await shown.press("slash", *"quick", "enter")
        await until(lambda: screen.table.row_count == 1)
        await shown.press("enter")
        opened = await shown.on(SweepScreen)
        assert opened.sweep_id == 3
        await shown.press("escape")
        await shown.on(ResultsScreen)


async def test_what_was_measured_under_another_screen_is_there_on_return() -> None:
    """It came and went in the queue, which is as empty as before."""
    client = browsing()
    client.state = snapshot(sweep=None, queue=())
    async with lab(client, (120, 40)) as shown:
        await shown.press("b")
        screen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 2)
        await shown.press("enter")
        await shown.on(SweepScreen)
        client.finished = [msgspec.structs.replace(client.finished[0], id=9), *client.finished]
        client.set(snapshot(seq=2, sweep=None, queue=()))
        await shown.press("escape")
        await until(lambda: screen.table.row_count == 3)
        await shown.press("escape")
        await until(lambda: 9 in {view.id for view in shown.overview.past})


async def test_a_table_goes_sideways_by_columns_and_says_that_nothing_matches() -> None:
    async with lab(browsing(), (60, 16)) as shown:
        screen = await opened(shown)
        table = screen.table
        assert table.size.height >= 3
        await shown.press("3", "right")
        first = table.ordered_columns[0].get_render_width(table)
        assert table.scroll_offset.x == first
        await shown.press("right", "left", "left")
        assert table.scroll_offset.x == 0
        await shown.press("slash", *"zzz", "enter")
        await until(lambda: "nothing matches /zzz/, esc clears" in table.render_line(1).text)


async def test_many_rows_come_in_pieces_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    put_in = SortTable._put_in

    def noted(self: SortTable, keys: list[str]) -> None:
        pieces.append(len(keys))
        put_in(self, keys)

    async with lab(browsing()) as shown:
        await shown.press("b")
        table = (await shown.on(ResultsScreen)).table
        await until(lambda: table.row_count == 2)
        monkeypatch.setattr(SortTable, "_put_in", noted)
        rows = [Row((f"{number}", *["x"] * 10), (-number, *["x"] * 10)) for number in range(700)]
        table.fill(rows)
        table.select("400")
        await until(lambda: table.row_count == 500)
        await until(lambda: table.selected == "400")
        assert [table.get_row_at(place)[0].plain for place in (0, 499)] == ["0", "499"]
        assert max(pieces) <= 50
        table.turn()
        table.turn()
        table.fill(rows[:300], "9")
        await until(lambda: table.row_count == 57)


async def test_new_rows_leave_the_reader_where_he_is() -> None:
    """Cells of a running sweep come every few seconds."""
    rows = [Row((f"{number}", *["x"] * 10), (-number, *["x"] * 10)) for number in range(700)]
    async with lab(browsing()) as shown:
        await shown.press("b")
        table = (await shown.on(ResultsScreen)).table
        await until(lambda: table.row_count == 2)
        table.fill(rows)
        table.select("400")  # which is not in yet
        await shown.press("down", "down")
        chosen = table.selected
        await until(lambda: table.row_count == 500)
        table.fill(rows)
        await until(lambda: table.row_count == 500)
        assert chosen != "400" and table.selected == chosen
        table.scroll_to(y=100, animate=False)  # as a wheel does
        await until(lambda: table.scroll_offset.y == 100)
        table.fill([Row(("0", *["y"] * 10), rows[0].order), *rows[1:]])
        await shown.pilot.pause()
        assert table.scroll_offset.y == 100


def test_a_sweep_is_decoded_cell_by_cell() -> None:
    detail = sweep_detail(finished())
    assert client._detail(msgspec.json.encode(detail)) == detail


async def test_an_empty_browser_says_what_to_do() -> None:
    async with lab(FakeClient(empty())) as shown:
        await shown.press("b")
        screen = await shown.on(ResultsScreen)
        await until(lambda: "n starts a sweep" in str(screen.panes()[0].border_title))
        await shown.press("enter", "A", "E", "M", "c", "y")
        assert not shown.client.calls


# --- two sweeps -------------------------------------------------------------------------------


async def test_mark_one_and_compare() -> None:
    async with lab(browsing(), (120, 40)) as shown:
        await shown.press("b")
        screen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 2)
        await shown.press("c")
        await until(lambda: "◆ threads" in screen.table.get_row_at(0)[1].plain)
        await shown.press("down", "c")
        both = await shown.on(CompareScreen)
        await until(lambda: both.table is not None and both.table.row_count == 16)
        assert "no best cell" in str(both.head.render())
        await shown.press("o", "o", "O", "slash", *"c=64", "enter")
        await until(lambda: both.table.row_count == 4)
        await shown.press("y")
        assert shown.app.clipboard == "lab-tui results compare 4 3"
        await shown.press("escape", "escape")
        await shown.on(ResultsScreen)


async def test_a_comparison_that_was_opened_without_an_engine_comes_with_the_next() -> None:
    async with lab(browsing(), (120, 40)) as shown:
        shown.client.gone = True
        shown.app.push_screen(CompareScreen(4, 3))
        both = await shown.on(CompareScreen)
        await until(lambda: "no engine is running" in both.status.plain)
        shown.client.gone = False
        await until(lambda: both.table is not None and both.table.row_count == 16)
        await until(lambda: both.status.plain.strip() in ("", "the engine answers again"))


def other(detail: SweepDetail, factor: float) -> SweepDetail:
    """The same sweep on a machine that is so much faster."""
    cells = [
        msgspec.structs.replace(
            view,
            result=msgspec.structs.replace(view.result, throughput_tps=view.result.throughput_tps * factor),
        )
        if view.result is not None
        else view
        for view in detail.cells
    ]
    return msgspec.structs.replace(detail, cells=tuple(cells))


@pytest.mark.parametrize(("factor", "word"), [(1.02, "≈ within ±"), (1.2, "≠ beyond ±")])
def test_what_differs_is_held_against_the_intervals(factor: float, word: str) -> None:
    a = sweep_detail(finished())
    names, pairs = findings.compare(a, other(a, factor))
    assert len(pairs) == 16
    row = compare.row(0, pairs[0], names)
    assert row.words[0] == "1×4 c=1"
    assert row.words[-1] == word
    assert row.words[5] == f"{100 * (factor - 1):+.1f}%"
    said = "\n".join(line.plain for line in compare.summary(a, a, pairs))
    assert "best 2×16 c=64 776.0 ±1.5%" in said
    assert "best against best  +0.0%  ≈ within ±" in said


def test_what_was_not_measured_alike_is_said() -> None:
    a = sweep_detail(finished())
    assert findings.differences(a, a) == ()

    def but(view: CellView, **context: str) -> CellView:
        lengths = msgspec.structs.replace(view.cell.workload, prompt_tokens=512, prompt_file="a.jsonl")
        fleet = msgspec.structs.replace(view.cell.fleet, model="/m/other.gguf", front_port=1)
        cell = msgspec.structs.replace(view.cell, workload=lengths, fleet=fleet)
        return msgspec.structs.replace(view, cell=cell, context=context)

    b = msgspec.structs.replace(a, cells=tuple(but(view, machine="gpu2") for view in a.cells))
    model = "model qwen3-4b-instruct-q4_k_m.gguf, then other.gguf"
    said = (model, "prompt tokens 64, then 512", "prompt file none, then a.jsonl")
    assert findings.differences(a, b) == said  # of the machine of one of them nothing is known
    assert f"! not measured alike: {'; '.join(said)}" in compare.summary(a, b, [])[-1].plain
    imported = msgspec.structs.replace(a, cells=tuple(but(view, imported="x.csv") for view in a.cells))
    number = a.view.id
    assert findings.differences(imported, a) == (
        f"#{number} was imported: its model, machine and requests are not known",
    )


# --- put to use -------------------------------------------------------------------------------


async def question(shown: Lab) -> str:
    dialog: ConfirmDialog = await shown.on(ConfirmDialog)
    assert dialog.focused is dialog.query_one("#cancel", Button)
    return " ".join(str(node.render()) for node in dialog.query("Static"))


async def test_apply_says_what_it_stops() -> None:
    async with lab(browsing(finished())) as shown:
        await opened(shown)
        await shown.press("end", "home", *["down"] * 3, "A")
        said = await question(shown)
        assert "1 instance × 4 slots of qwen3-4b-instruct-q4_k_m" in said
        assert "It stops what runs: 3 instances × 16 slots" in said
        assert "32 streams on it will be cut off" in said
        assert "lab-tui apply 3 --cell 4" in said
        await shown.press("enter")
        await shown.on(SweepScreen)
        assert not shown.client.calls
        await shown.press("A")
        await question(shown)
        await shown.press("y")
        await until(lambda: shown.client.calls)
        verb, spec = shown.client.calls[0]
        assert (verb, spec.instances, spec.parallel, spec.base_port) == ("up", 1, 4, FLEET.base_port)


async def test_a_call_goes_on_when_its_screen_is_left() -> None:
    client = browsing(finished())
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def up(spec: FleetSpec) -> None:
        begun.set()
        await go_on.wait()
        client.calls.append(("up", spec.parallel))

    client.up = up  # type: ignore[method-assign]
    async with lab(client) as shown:
        await opened(shown)
        await shown.press("A")
        await question(shown)
        await shown.press("y")
        await until(begun.is_set)
        await shown.press("escape")
        await shown.on(OverviewScreen)
        go_on.set()
        await shown.called("up", 16)
        await shown.says("$ lab-tui apply 3 --cell 16")


async def test_apply_from_the_browser_takes_the_best() -> None:
    async with lab(browsing()) as shown:
        await shown.press("b")
        screen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 2)
        await shown.press("A")
        await until(lambda: "has no best cell" in screen.status.plain)
        await shown.press("down", "A")
        assert "2 instances × 16 slots" in await question(shown)
        await shown.press("y")
        await until(lambda: shown.client.calls and shown.client.calls[0][1].parallel == 16)


async def test_words_that_do_not_fit_are_scrolled_to_by_key() -> None:
    async with lab(browsing(finished()), (40, 10)) as shown:
        await opened(shown)
        await shown.press("A")
        asked = await shown.on(ConfirmDialog)
        words = asked.query_one(".words")
        assert words.max_scroll_y > 0
        await shown.press(*["down"] * 9)
        assert words.scroll_y == words.max_scroll_y
        assert asked.query_one("#cancel").has_focus


async def test_apply_waits_for_a_sweep() -> None:
    async with lab() as shown:
        screen = await opened(shown)
        await shown.press("A")
        await until(lambda: "sweep 7 uses the fleet" in screen.status.plain)


async def test_measure_again() -> None:
    async with lab(browsing(finished())) as shown:
        await opened(shown)
        await shown.press("home", *["down"] * 13, "M")
        said = await question(shown)
        assert "2×16 c=4, as a sweep of its own" in said
        assert "--axis instances=2 --axis parallel=16 --axis concurrency=4" in said
        await shown.press("y")
        await until(lambda: shown.client.calls)
        verb, spec = shown.client.calls[0]
        assert (verb, spec.name, spec.confirm) == ("sweep", "#3 cell 14", False)
        assert spec.axes == {"instances": (2,), "parallel": (16,), "concurrency": (4,)}


async def test_read_only_refuses_to_apply_and_to_measure() -> None:
    async with lab(browsing(finished()), read_only=True) as shown:
        screen = await opened(shown)
        for key in ("A", "M"):
            screen.status.say("")
            await shown.press(key)
            await until(lambda: "read-only" in screen.status.plain)
        assert not shown.client.calls
        footer = str(screen.query_one(FooterKeys).render())
        assert " E export " in footer
        assert " A apply " not in footer


async def test_export_writes_and_asks_before_it_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with lab(browsing(finished())) as shown:
        screen = await opened(shown)
        await shown.press("E")
        form = await shown.on(ExportForm)
        path = form.query_one("#path", Input)
        await until(lambda: path.value == str(tmp_path / "fleet-3-16.sh"))
        await shown.press("ctrl+s")
        await shown.on(SweepScreen)
        script = tmp_path / "fleet-3-16.sh"
        assert script.read_text() == "#!/bin/sh\n"
        assert script.stat().st_mode & 0o100
        asked = shown.client.calls[-1][1]
        assert (asked.format, asked.origin) == ("sh", "lab-tui sweep 3, cell 16")
        assert (asked.fleet.instances, asked.fleet.parallel) == (2, 16)
        assert f"lab-tui export 3 --cell 16 --format sh -o {script}" in screen.status.plain
        script.write_text("mine")
        await shown.press("E")
        form = await shown.on(ExportForm)
        await shown.press("ctrl+s")
        assert f"{script} exists" in await question(shown)
        await shown.press("enter")
        await shown.on(ExportForm)
        await until(lambda: "is as it was" in str(form.query_one("#problem").render()))
        assert script.read_text() == "mine"
        form.query_one("#format", Select).value = "csv"
        await until(lambda: form.query_one("#path", Input).value == str(tmp_path / "sweep-3.csv"))
        await shown.press("ctrl+s")
        await shown.on(SweepScreen)
        assert (tmp_path / "sweep-3.csv").read_text() == "csv\n"
        assert shown.client.calls[-1][1].fleet is None


async def test_what_is_copied_is_in_a_file_too() -> None:
    async with lab(browsing(finished())) as shown:
        screen = await opened(shown)
        await shown.press("y")
        await until(lambda: "copied: cell 16" in screen.status.plain)
        assert "copied.txt" in screen.status.plain
        held = paths.copied_file().read_text()
        assert held == f"{shown.app.clipboard}\n"
        assert held.startswith("cell 16: 2×16 c=64, measured")
        assert paths.copied_file().stat().st_mode & 0o077 == 0


# --- findings ---------------------------------------------------------------------------------


def test_a_cell_that_cannot_be_had_is_named() -> None:
    detail = sweep_detail(finished())
    assert findings.chosen(detail, None).index == 15
    for number, why in ((14, "is failed: instance 2 died"), (25, "has no cell 25"), (0, "has no cell 0")):
        with pytest.raises(LabError, match=why):
            findings.chosen(detail, number)
    with pytest.raises(LabError, match="has no best cell"):
        findings.chosen(sweep_detail(finished(best=None)), None)


def test_a_cell_measured_again_is_laid_out_as_it_was() -> None:
    detail = sweep_detail(finished())
    cell = detail.cells[0]
    lengths = msgspec.structs.replace(cell.cell, axes={**cell.cell.axes, "output-tokens": 16})
    spec = findings.again(detail, msgspec.structs.replace(cell, cell=lengths))
    assert spec.axes["ctx-per-slot"] == (cell.cell.fleet.ctx_per_slot,)
    nameless = msgspec.structs.replace(cell.cell, fleet=msgspec.structs.replace(cell.cell.fleet, model=""))
    with pytest.raises(LabError, match="does not say which model"):
        findings.again(detail, msgspec.structs.replace(cell, cell=nameless))


def test_cells_of_every_kind_have_a_sign_of_their_own() -> None:
    detail = sweep_detail(sweep_view())
    each = {view.status: results.table_row(view).words[2][0] for view in detail.cells}
    assert len(set(each.values())) == len(CellStatus) == len(each)
    held = heat.grid(detail)
    lines = heat.lines(held, detail, heat.frame(held, 60, 0), (0, 0), True, 60)
    legend = "\n".join(line.plain for line in lines)
    for status in (CellStatus.RUNNING, CellStatus.FAILED, CellStatus.SKIPPED, CellStatus.PENDING):
        assert f"{each[status]} {status}" in legend


@pytest.mark.parametrize(
    ("before", "after"), [(SweepStatus.QUEUED, SweepStatus.ABORTED), (SweepStatus.RUNNING, SweepStatus.DONE)]
)
async def test_a_sweep_that_leaves_the_queue_is_asked_for_once_more(
    before: SweepStatus, after: SweepStatus
) -> None:
    view = sweep_view(8, status=before)
    async with lab(FakeClient(snapshot(sweep=None, queue=(view,)))) as shown:
        screen = await opened(shown)
        shown.client.finished = [msgspec.structs.replace(view, status=after, reason="that was it")]
        shown.client.set(snapshot(seq=2, sweep=None, queue=()))
        await until(lambda: "that was it" in str(screen.head.render()))
        assert screen.selected_sweep() == shown.client.finished[0]


async def test_a_click_selects_a_row_and_two_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab(browsing(), (120, 40)) as shown:
        await shown.press("b")
        screen: ResultsScreen = await shown.on(ResultsScreen)
        await until(lambda: screen.table.row_count == 2)
        monkeypatch.setattr(shown.app, "CLICK_CHAIN_TIME_THRESHOLD", -1.0)  # however fast, they are two
        for column in (1, 1, 30):
            await shown.pilot.click("#sweeps", offset=(column, 2))
            assert screen.table.selected == "3"
            assert shown.app.screen is screen
        monkeypatch.undo()
        await shown.pilot.click("#sweeps", offset=(1, 2), times=2)
        assert (await shown.on(SweepScreen)).sweep_id == 3


async def test_rows_are_made_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made, threads = results.table_row, set[int]()

    def noted(view: CellView) -> Row:
        threads.add(threading.get_ident())
        return made(view)

    monkeypatch.setattr(results, "table_row", noted)
    async with lab(browsing()) as shown:
        await opened(shown)
        assert threads
        assert threading.get_ident() not in threads


async def test_a_filter_is_for_what_can_be_filtered() -> None:
    async with lab() as shown:
        await shown.press("3", "slash")
        await shown.says("nothing to filter here")
        screen = await opened(shown)
        await shown.press("slash", *"failed", "enter", "1", "slash")
        assert screen.query_one("#filter", Input).value == "failed"
        await shown.press("enter", "1", "escape")
        assert shown.app.screen is screen
        assert screen.table.row_count == 24
        await shown.press("enter", "slash")
        assert "nothing to filter here" in shown.screen.status.plain
