"""The overview in its states and sizes."""

from __future__ import annotations

import msgspec
import pytest
from textual.geometry import Region
from textual.widget import Widget

from lab_tui.model import FleetSpec, InstanceState, LabError, SweepStatus
from lab_tui.ui.panes import instances
from lab_tui.ui.panes.instances import gist
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.widgets import logtail
from lab_tui.ui.widgets.header import HeaderLine
from lab_tui.ui.widgets.lines import LineList
from lab_tui.ui.widgets.pane import Pane
from tests.ui.fake import LOAD, NOW, QUEUED, FakeClient, G, cards, empty, gpu, instance, snapshot, sweep_view
from tests.ui.helpers import Lab, lab, until

SIZES = [(80, 24), (120, 40), (200, 50), (60, 16), (40, 10), (20, 5)]


def header(shown: Lab) -> str:
    return shown.app.screen.query_one(HeaderLine).plain


def drawn(shown: Lab) -> str:
    screen = shown.overview
    lists = (screen.instances, screen.throughput, screen.gpus, screen.queue)
    return "\n".join(line for held in lists for line in held.plain)


@pytest.mark.parametrize("size", SIZES)
async def test_draws_at_every_size(size: tuple[int, int]) -> None:
    async with lab(FakeClient(snapshot(gpus=cards(14))), size) as shown:
        await until(lambda: shown.overview.instances.plain)
        for number in "12345":
            await shown.press(number)
            assert shown.overview.focused_pane().number == int(number)
        shown.client.set(empty(seq=2))
        await until(lambda: "no fleet" in header(shown) or size[0] < 40)


async def test_shows_what_the_snapshot_says() -> None:
    async with lab(size=(120, 40)) as shown:
        for words in (
            "● ready",
            "◐ loading",
            "✖ failed",
            "port 9003 is in use by pid 811 (python3)",
            "310 ms",
            "1,021/1,024 streams",
            "2 errors",
            "86G/141G",
            "▶ running",
            "41/308",
            "ETA 14m00s",
            "best 8×32 c=256 1,198 ±1.4%",
        ):
            await until(lambda words=words: words in drawn(shown), words)  # type: ignore[misc]
        assert "gpu1" in header(shown)
        assert "front :8088 ● ready 2/4" in header(shown)
        assert "sweep 41/308" in header(shown)


@pytest.mark.parametrize(
    ("reason", "cells", "shown"),
    [
        ("port 9000 is in use", 30, "port 9000 is in use"),
        ("ended with code 1: srv load: unknown type", 30, "srv load: unknown type"),
        ("model /very/long/way/to/the/file.gguf does not exist", 34, "model …/file.gguf does not exist"),
        (
            "ended with code 1: 0.00.123.456 E llama_load: error loading model '/a/b/c.gguf': bad magic",
            44,
            "error loading model '…/c.gguf': bad magic",
        ),
        ("the whole of this tells", 12, "the whole o…"),
    ],
)
def test_a_reason_says_what_tells_most_first(reason: str, cells: int, shown: str) -> None:
    assert gist(reason, cells) == shown


async def test_an_instance_tells_its_reason_whole() -> None:
    reason = "ended with code 1: error loading model: tensor blk.17.attn_q.weight is not within the file"
    failed = instance(0, InstanceState.FAILED, reason=reason)
    async with lab(FakeClient(snapshot(instances=(failed,)))) as shown:
        await shown.press("enter")
        await until(lambda: reason in " ".join(shown_on(shown).split()))


async def test_unknown_is_never_zero() -> None:
    unknown = instance(0, busy=None, queue=None, tps=None, rss_bytes=None, uptime_s=None)
    state = snapshot(instances=(unknown,), load=None, gpus=(), gpu_reason="no driver")
    async with lab(FakeClient(state), (120, 40)) as shown:
        await until(lambda: "p95 TTFT N/A (only our own load is timed)" in drawn(shown))
        row = shown.overview.instances.plain[1]
        assert " -/16 " in row
        assert " 0 " not in row.replace(" 0 ●", "")
        assert "N/A: no driver" in drawn(shown)


async def test_empty_panes_tell_what_to_do() -> None:
    async with lab(FakeClient(empty())) as shown:
        text = drawn(shown)
        assert "Press u" in text
        assert "Press n" in text
        assert "N/A: no NVIDIA driver" in text
        assert "CPU" in text


async def test_cards() -> None:
    async with lab(FakeClient(snapshot(gpus=cards(14))), (200, 50)) as shown:
        await until(lambda: len(shown.overview.gpus.plain) == 15)
        text = drawn(shown)
        assert "13 H200 N/A: MIG is on" in text
        rows = shown.overview.gpus.plain
        assert "power: not supported" not in "".join(rows)  # no room: zoom tells it
        assert [row.index("86G/141G") for row in rows[:13]] == [rows[0].index("86G/141G")] * 13
        assert "540/700W▼ 88°C" in rows[2] and "▼" not in rows[3]
        assert rows[0].count("·") > 10 and "█" in rows[0]  # nothing known of before, then 97 %


async def test_fourteen_cards_on_a_small_screen() -> None:
    async with lab(FakeClient(snapshot(gpus=cards(14)))) as shown:
        pane = shown.overview.query_one("#pane-3", Pane)
        assert str(pane.border_title) == "3 GPU (14) 91% ≥1.1T/1.8T ≥6.5kW"
        rows = shown.overview.gpus
        assert [row.split()[0] for row in rows.plain[:14]] == [str(n) for n in range(14)]
        await shown.press("3", "end")
        await until(lambda: rows.scroll_offset.y == 15 - rows.size.height)


async def test_zoom_tells_all_of_a_card() -> None:
    split = instance(0, vram_bytes=5 * G, vram_by_gpu={1: 3 * G, 2: 2 * G}, gpu="1+2", cores="0-7")
    async with lab(FakeClient(snapshot(gpus=cards(14), instances=(split,)))) as shown:
        await shown.press("3", "z")
        await until(lambda: any("clock 1755/1980 MHz" in row for row in shown.overview.gpus.plain))
        text = "\n".join(shown.overview.gpus.plain)
        first, second, third, fourth = text.split("MEM")[1:5]
        for words in ("memory 3201 MHz", "power cap 700 W", "61°C", "not slowed"):
            assert words in first
        assert "instance" not in first
        assert "instance 0: 3.0G" in second and "N/A: power (not supported)" in second
        assert "instance 0: 2.0G" in third and "▼ slowed by power cap, heat" in third
        assert "instance" not in fourth
        assert text.count("fan") == 1  # for all of them once
        assert "no card tells fan (not supported by this card)" in text
        await shown.press("1", "z")
        assert " 5.0G " in shown.overview.instances.plain[1] and " 1+2" in shown.overview.instances.plain[1]
        await shown.press("enter")
        await until(lambda: "VRAM 5.0G (GPU 1 3.0G, GPU 2 2.0G)" in shown_on(shown))
        assert "GPU 1+2" in shown_on(shown) and "cores    0-7" in shown_on(shown)


def test_cards_and_cores_have_a_column_where_there_is_room() -> None:
    def titles(width: int, *, pinned: bool) -> list[str]:
        return [column.title for column in instances.chosen(width, pinned=pinned)[0]]

    assert "CORES" in titles(140, pinned=True) and "CORES" not in titles(140, pinned=False)
    assert "GPU" in titles(78, pinned=True) and "CORES" not in titles(78, pinned=True)
    shown = {text: instance(0, gpu=text) for text in ("0", "0+1", "0+1+2+3", "0+2+4")}
    column = next(column for column in instances.COLUMNS if column.title == "GPU")
    assert [column.text(view) for view in shown.values()] == ["0", "0+1", "0-3", "0+2…"]


def shown_on(shown: Lab) -> str:
    """All lists of the screen on top."""
    return "\n".join(line for held in shown.app.screen.query(LineList) for line in held.plain)


async def test_memory_that_fills_up_warns() -> None:
    nearly = gpu(0, memory_used_bytes=139 * 2**30)
    async with lab(FakeClient(snapshot(gpus=(nearly,)))) as shown:
        assert "139G/141G" in drawn(shown)


async def test_stale_readings_show_their_age() -> None:
    async with lab(FakeClient(snapshot(instances=(instance(0, reading_age_s=7.0),)))) as shown:
        assert "(7s old)" in shown.overview.instances.plain[1]


async def test_says_when_nothing_arrives() -> None:
    async with lab() as shown:
        shown.client.silent = True
        shown.app.arrived -= 10
        await until(lambda: "stale" in header(shown))


async def test_disconnected_and_back() -> None:
    async with lab() as shown:
        shown.client.gone = True
        await until(lambda: "engine gone, figures 0s old" in header(shown))
        assert shown.overview.has_class("-gone")
        assert "412.7" in drawn(shown)
        shown.client.gone = False
        await until(lambda: "engine gone" not in header(shown))
        assert not shown.overview.has_class("-gone")


async def test_no_engine_at_the_start() -> None:
    client = FakeClient()
    client.gone = True
    async with lab(client, connected=False) as shown:
        await until(lambda: "no engine" in header(shown))
        await until(lambda: "lab-tui engine run" in drawn(shown))
        client.gone = False
        await until(lambda: "412.7" in drawn(shown))


async def test_another_version_is_said_with_its_remedy() -> None:
    client = FakeClient()

    async def refuse() -> None:
        raise LabError("the running engine is version 9", "`lab-tui engine stop`")

    client.history = refuse  # type: ignore[method-assign,assignment]
    async with lab(client, connected=False) as shown:
        await until(lambda: "version 9" in drawn(shown))
        assert "lab-tui engine stop" in drawn(shown)


async def test_markup_in_data_is_plain_text() -> None:
    bad = instance(0, InstanceState.FAILED, reason="[/red] [bold]no[/bold] \\[x")
    client = FakeClient(
        snapshot(instances=(bad,), sweep=None, queue=(sweep_view(name="[b]x", reason="[/]"),))
    )
    client.log_lines = ["[/tmp/x] [link=foo] \\[", "plain"]
    async with lab(client) as shown:
        assert "[/red] [bold]no[/bold]" in drawn(shown)
        await until(lambda: shown.overview.log_tail.lines)
        await shown.press("enter")
        await shown.press("escape", "x")


async def test_what_others_wrote_cannot_drive_the_terminal() -> None:
    evil = "m\x1b]0;owned\x07\x9b2J\u202e"
    client = FakeClient(
        snapshot(
            fleet=FleetSpec(model=f"/models/{evil}.gguf"),
            instances=(instance(0, InstanceState.FAILED, reason=evil),),
            queue=(sweep_view(name=evil),),
            notices=(evil,),
        )
    )
    async with lab(client, (120, 40)) as shown:
        shown.app.notify(evil, markup=False)
        await shown.pilot.pause()
        rendered = [
            strip.text
            for widget in shown.app.screen.walk_children(Widget)
            for strip in widget.render_lines(Region(0, 0, *widget.size))
        ]
        assert all(text.isprintable() for text in rendered)
        assert sum("␛]0;owned" in text for text in rendered) >= 3  # instance, sweep, toast
        assert "m\\x1b]0;ow" in header(shown)


async def test_log_follows_the_selected_instance() -> None:
    async with lab() as shown:
        log = shown.overview.log_tail
        await until(lambda: log.lines and log.lines[0].startswith("[0]"))
        await shown.press("down")
        await until(lambda: log.lines and log.lines[0].startswith("[1]"))
        assert log.following
        await shown.press("left_square_bracket")
        await until(lambda: log.source == "0")
        await shown.press("left_square_bracket")
        await until(lambda: log.lines and log.lines[0].startswith("[engine]"))
        assert "engine" in str(shown.overview.query_one("#pane-5", Pane).border_title)


async def test_log_follow_never_fights_scrolling() -> None:
    async with lab() as shown:
        log = shown.overview.log_tail
        await until(lambda: len(log.lines) == 40)
        assert log.top == 40 - log.size.height
        await shown.press("5", "up", "up")
        assert not log.following
        top = log.top
        log.extend(["more"] * 50)
        assert log.top == top
        await shown.press("f")
        assert log.following
        assert log.top == 90 - log.size.height
        await shown.press("g", "pagedown", "pageup")
        assert log.top == 0
        await shown.press("right", "left", "end")
        assert log.following


async def test_a_log_that_breaks_off_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logtail, "RETRY_S", 0.02)
    client = FakeClient()
    async with lab(client) as shown:
        log = shown.overview.log_tail
        await until(lambda: len(log.lines) == 40)
        client.log_lines = [*client.log_lines, "after the break"]
        client.log_ends = True
        log.empty()
        log._follow("0")
        await until(lambda: log.lines and log.lines[-1].endswith("after the break"))
        log.action_scroll_lines(-3)
        client.log_lines = ["another"]
        await shown.pilot.pause(0.3)
        assert len(log.lines) >= 40
        log.action_follow()
        await until(lambda: log.lines == ["[0] another"])


async def test_a_long_log_stays_bounded() -> None:
    async with lab() as shown:
        log = shown.overview.log_tail
        await until(lambda: len(log.lines) == 40)
        log.extend(f"line {number}" for number in range(99_960))
        await shown.press("5", "up")
        seen = log.lines[log.top]
        log.extend(["last"])
        assert log.total == 95_000
        assert log.lines[log.top] == seen
        log.filter("line 9995")
        assert len(log.lines) == 11


async def test_finished_sweeps_stay_in_reach() -> None:
    client = FakeClient(snapshot(sweep=None, queue=()))
    client.finished = [sweep_view(3, name="quick", status=SweepStatus.DONE)]
    async with lab(client) as shown:
        await until(lambda: any("✔ done" in line for line in shown.overview.queue.plain))


async def test_a_large_fleet_scrolls_with_its_cursor() -> None:
    views = tuple(instance(index) for index in range(64))
    async with lab(FakeClient(snapshot(instances=views))) as shown:
        held = shown.overview.instances
        await until(lambda: len(held.plain) == 65)
        await shown.press("end")
        assert held.selected == "63"
        await until(lambda: held.scroll_offset.y == 65 - held.size.height)
        await shown.press("up", "home")
        assert held.selected == "0"
        await until(lambda: held.scroll_offset.y == 0)
        shown.client.set(snapshot(seq=2, instances=views[:3]))
        await until(lambda: len(held.plain) == 4)


async def test_sort_goes_through_the_columns_and_keeps_the_selected() -> None:
    busy = (instance(0, tps=5.0, queue=0), instance(1, tps=9.0, queue=None), instance(2, tps=7.0, queue=4))
    views = (*busy, instance(3, InstanceState.FAILED, pid=None, reason="no"))
    async with lab(FakeClient(snapshot(instances=views))) as shown:
        held, pane = shown.overview.instances, shown.overview.query_one("#pane-1", Pane)
        await shown.press("down")
        for sort, order in (("state", "3012"), ("tok/s", "1203"), ("queue", "2013"), ("memory", "0123")):
            await shown.press("o")
            await until(lambda sort=sort: f"by {sort}" in str(pane.border_title))  # type: ignore[misc]
            assert "".join(line[2:3] for line in held.plain[1:]) == order
            assert held.selected == "1"
        await shown.press("o")
        assert "by" not in str(pane.border_title)


async def test_the_selected_sweep_is_in_sight_with_its_number() -> None:
    queue = tuple(sweep_view(id, name="threads", status=SweepStatus.QUEUED) for id in range(11, 31))
    async with lab(FakeClient(snapshot(queue=queue)), (200, 50)) as shown:
        held = shown.overview.queue
        await shown.press("4", *["down"] * 12)
        for size in ((120, 40), (80, 24)):
            await shown.pilot.resize_terminal(*size)
            await until(lambda width=size[0]: held.size.width < width)  # type: ignore[misc]
            await until(
                lambda: held.scroll_offset.y <= 12 < held.scroll_offset.y + held.size.height, "in sight"
            )
            rows = "".join(strip.text for strip in held.render_lines(held.size.region))
            assert "> · queued  #23 threads" in rows


async def test_a_sweep_that_comes_to_run_or_is_queued_here_is_in_sight() -> None:
    past = [sweep_view(id, status=SweepStatus.DONE) for id in range(12, 2, -1)]
    client = FakeClient(snapshot(sweep=None, queue=()))
    client.finished = past
    async with lab(client) as shown:
        held = shown.overview.queue
        await until(lambda: held.selected == "12")
        await shown.press("4", "down", "down", "1")
        running, waiting = sweep_view(13), sweep_view(9 + 5, **QUEUED)
        shown.client.set(snapshot(seq=2, sweep=running, queue=(running,)))
        await until(lambda: held.selected == "13" and held.scroll_offset.y == 0)
        assert "▶ sweep 41/308" in header(shown)
        await shown.press("4", "down")
        shown.client.set(snapshot(seq=3, sweep=running, queue=(running, waiting)))
        await until(lambda: len(held.plain) == 12)
        assert held.selected == "12"
        shown.overview.queued(waiting)
        shown.overview.redraw()
        assert held.selected == "14"


async def test_traffic_of_others_is_shown() -> None:
    async with lab(FakeClient(snapshot(load=None, sweep=None, queue=())), (120, 40)) as shown:
        for words in ("32 streams", "6 waiting", "traffic of others", "N/A (only our own load is timed)"):
            await until(lambda words=words: words in drawn(shown), words)  # type: ignore[misc]
        views = (instance(0, busy=16, queue=900), instance(1, busy=16, queue=100))
        load = msgspec.structs.replace(LOAD, tps_by_instance={0: 600.0, 1: 626.4})
        shown.client.set(snapshot(seq=2, instances=views, load=load))
        await until(lambda: any("+8 not ours" in line for line in shown.overview.throughput.plain))
        assert any("tok/s ours" in line for line in shown.overview.throughput.plain)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_curves_go_back_through_the_hour_and_freeze(size: tuple[int, int]) -> None:
    async with lab(size=size) as shown:
        held = shown.overview.throughput
        await shown.press("2", "z")
        await until(lambda: any("waiting in instances" in line for line in held.plain))
        live = held.plain
        assert "".join(live).count("scale 0 to ") >= 4
        await shown.press("left", "left", "right")
        past = held.plain
        back = shown.overview.until
        assert back is not None and back < NOW
        assert " ago" in past[1]
        shown.client.set(snapshot(seq=2, time=NOW + 5))
        await until(lambda: shown.app.series.newest == int(NOW) + 5)
        assert shown.overview.until == back
        assert held.plain[3:8] == past[3:8]
        await shown.press("escape")
        await until(lambda: "to now" in held.plain[1])
        await shown.press("space")
        still = held.plain
        shown.client.set(snapshot(seq=3, time=NOW + 9, load=None))
        await until(lambda: shown.app.series.newest == int(NOW) + 9)
        shown.overview.redraw()
        assert held.plain == still
        await shown.press("t")
        for _ in range(60):
            shown.overview.act_earlier()
        assert shown.overview.until is not None
        assert NOW - 3600 <= shown.overview.until <= NOW - 3000
        for _ in range(60):
            shown.overview.act_later()
        assert shown.overview.until is None


async def test_notices_are_said() -> None:
    async with lab() as shown:
        shown.client.set(snapshot(seq=2, notices=("the disk of the store is full",)))
        await shown.says("the disk of the store is full")


async def test_resize_while_running() -> None:
    async with lab(size=(120, 40)) as shown:
        for size in ((40, 10), (200, 50), (80, 24)):
            await shown.pilot.resize_terminal(*size)
            await shown.pilot.pause()
        assert isinstance(shown.app.screen, OverviewScreen)
        await until(lambda: all(pane.display for pane in shown.overview.panes()))
