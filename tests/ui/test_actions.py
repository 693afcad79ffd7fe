"""Every action by key, some by palette and mouse, and what --read-only says to them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from textual.command import CommandPalette
from textual.widgets import Button, OptionList

from lab_tui.model import FleetSpec, LabError, SweepStatus
from lab_tui.ui.screens.dialogs import ConfirmDialog, QuitDialog
from lab_tui.ui.screens.front import FrontScreen
from lab_tui.ui.screens.help import Card, HelpScreen
from lab_tui.ui.screens.instance import InstanceScreen
from lab_tui.ui.screens.new_sweep import NewSweepForm
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.screens.sweep import SweepScreen
from lab_tui.ui.screens.up import UpForm
from lab_tui.ui.widgets import footer
from lab_tui.ui.widgets.header import HeaderLine
from lab_tui.ui.widgets.pane import Pane
from tests.ui.fake import FLEET, TRAFFIC, FakeClient, empty, instance, snapshot, sweep_view
from tests.ui.helpers import Lab, lab, until


async def question(shown: Lab) -> ConfirmDialog:
    dialog: ConfirmDialog = await shown.on(ConfirmDialog)
    assert dialog.focused is dialog.query_one("#cancel", Button)
    return dialog


def words(dialog: ConfirmDialog) -> str:
    return " ".join(str(node.render()) for node in dialog.query("Static"))


async def test_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TUI_PROGRAM", "./scripts/lab")
    async with lab() as shown:
        await shown.press("s")
        await shown.says("instance 0 is ready already")
        await shown.press("down", "down", "down", "s")
        await shown.called("start", 3)
        await shown.says("$ ./scripts/lab start 3")


@pytest.mark.parametrize(("key", "verb"), [("x", "stop"), ("r", "restart")])
async def test_stop_and_restart_ask_and_name_the_streams(key: str, verb: str) -> None:
    async with lab() as shown:
        await shown.press(key)
        dialog = await question(shown)
        assert "16 streams on it will be cut off" in words(dialog)
        assert f"lab-tui {verb} 0" in words(dialog)
        await shown.press("enter")
        await shown.on(OverviewScreen)
        assert not shown.client.calls
        await shown.press(key)
        await question(shown)
        await shown.press("y")
        await shown.called(verb, 0)
        await shown.says(f"$ lab-tui {verb} 0")


async def test_a_question_counts_as_long_as_it_is_open() -> None:
    async with lab() as shown:
        await shown.press("space", "x")  # frozen or not
        dialog = await question(shown)
        assert "16 streams on it will be cut off, and 3 that wait." in words(dialog)
        shown.client.set(snapshot(seq=2, instances=(instance(0, busy=1, queue=0),)))
        await until(lambda: "1 stream on it will be cut off." in words(dialog))
        shown.client.set(snapshot(seq=3, instances=()))
        await until(lambda: "Instance 0 is no longer part of the fleet" in words(dialog))


async def test_what_was_said_of_an_action_goes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as shown:
        shown.client.set(snapshot(seq=2, notices=("the disk is full",)))
        await shown.says("the disk is full")
        await shown.press("s")
        await shown.says("instance 0 is ready already")
        await shown.press("2")
        assert "the disk is full" in shown.overview.status.plain
        shown.client.set(snapshot(seq=3))
        await until(lambda: shown.overview.status.plain == "")
        monkeypatch.setattr(footer, "SAID_S", 0.01)
        await shown.press("S")
        await shown.called("up", FLEET)
        await until(lambda: shown.overview.status.plain == "")


async def test_without_an_engine_nothing_is_asked_and_the_way_out_is_named() -> None:
    async with lab() as shown:
        shown.client.gone = True
        await shown.says("no engine is running: e starts one")
        for key, label in (
            ("x", "stop"),
            ("s", "start"),
            ("r", "restart"),
            ("n", "new sweep"),
            ("p", "pause"),
        ):
            await shown.press(key)
            assert shown.app.screen is shown.overview
            assert f"no {label} now: no engine is running: e starts one" in shown.overview.status.plain
        await shown.press("2")
        assert shown.overview.status.plain.strip() == "✖ no engine is running: e starts one"
        assert not shown.client.calls
        row = shown.overview.instances.render_line(2)
        assert {segment.style.dim for segment in row if segment.text.strip() and segment.style} == {True}


async def test_a_failure_that_is_covered_is_told_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as shown:
        go_on = asyncio.Event()

        async def slow(index: int, action: str) -> None:
            await go_on.wait()
            raise LabError("no room")

        monkeypatch.setattr(shown.client, "instance", slow)
        await shown.press("down", "down", "down", "s", "enter")
        await shown.on(InstanceScreen)
        go_on.set()
        await shown.says("✖ $ lab-tui start 3  no room")
        await until(lambda: shown.app.screen.query("Toast"))


async def test_figures_are_no_younger_for_being_let_go_on() -> None:
    async with lab() as shown:
        await shown.press("space")
        shown.client.gone = True
        await shown.says("no engine is running")
        arrived = shown.app.latest_arrived
        await shown.press("space")
        assert not shown.app.frozen and shown.app.arrived == arrived


async def test_stop_all() -> None:
    async with lab() as shown:
        await shown.press("X")
        dialog = await question(shown)
        assert "4 instances" in words(dialog)
        assert "32 streams" in words(dialog)
        await shown.press("tab", "enter")
        await shown.called("down")


async def test_start_all() -> None:
    async with lab() as shown:
        await shown.press("S")
        await shown.called("up", FLEET)
        await shown.says("lab-tui up -m")


async def test_start_all_after_stop_all_starts_the_same_fleet() -> None:
    last = FleetSpec(model="/m/a.gguf", instances=3, parallel=2, ctx_per_slot=512, extra_args=("--jinja",))
    async with lab(FakeClient(empty(last_fleet=last))) as shown:
        await shown.press("S")
        await shown.called("up", last)
        await shown.says("$ lab-tui up -m /m/a.gguf -i 3 -p 2 --ctx-per-slot 512 -- --jinja")
        await shown.press("u")
        form = await shown.on(UpForm)
        shown_values = [form.text(name) for name in ("model", "instances", "parallel", "context")]
        assert shown_values == ["/m/a.gguf", "3", "2", "512"]


async def test_refusals_are_shown() -> None:
    async with lab() as shown:
        shown.client.refusal = LabError("port 9000 is in use", "stop pid 7")
        await shown.press("S")
        await shown.says("port 9000 is in use: stop pid 7")


async def test_pause_and_resume() -> None:
    async with lab() as shown:
        await shown.press("p")
        await shown.called("queue", "pause")
        shown.client.set(snapshot(seq=2, queue_paused=True))
        await until(lambda: shown.app.snapshot and shown.app.snapshot.queue_paused)
        await shown.press("p")
        await shown.called("queue", "resume")
        await shown.says("$ lab-tui queue resume")


async def test_a_queue_that_goes_on_over_live_streams_asks() -> None:
    async with lab(FakeClient(snapshot(queue_paused=True, sweep=None, load=None))) as shown:
        await shown.press("p")
        asked = await question(shown)
        assert "takes the fleet over and cuts 38 live streams" in words(asked)
        one = snapshot(seq=2, queue_paused=True, sweep=None, load=None, instances=(instance(0, queue=0),))
        shown.client.set(one)
        await until(lambda: "cuts 16 live streams" in words(asked))
        assert ("queue", "resume") not in shown.client.calls
        await shown.press("y")
        await shown.called("queue", "resume")


async def test_skip_abort_and_sooner() -> None:
    async with lab() as shown:
        await shown.press("greater_than_sign")
        assert "8×32 c=256" in words(await question(shown))
        await shown.press("y")
        await shown.called("queue", "skip")
        await shown.press("4", "a")
        dialog = await question(shown)
        assert "1,021 streams" in words(dialog)
        assert "41 measured cells will be kept" in words(dialog)
        await shown.press("y")
        await shown.called("remove", 7)
        await shown.press("down", "less_than_sign")
        await shown.called("move", 8, 1)


async def test_panes_by_key_tab_and_mouse() -> None:
    async with lab() as shown:
        for number in ("3", "5", "1"):
            await shown.press(number)
            await until(lambda number=number: shown.overview.focused_pane().number == int(number))  # type: ignore[misc]
        await shown.press("tab")
        await until(lambda: shown.overview.focused_pane().number == 2)
        await shown.press("shift+tab", "shift+tab")
        await until(lambda: shown.overview.focused_pane().number == 5)
        await shown.pilot.click("#queue", offset=(5, 1))
        await until(lambda: shown.overview.focused_pane().number == 4)
        assert shown.overview.queue.selected == "8"


async def test_zoom() -> None:
    async with lab() as shown:
        await shown.press("5", "z")
        visible = [pane.number for pane in shown.overview.panes() if pane.display]
        assert visible == [5]
        await shown.press("2")
        assert [pane.number for pane in shown.overview.panes() if pane.display] == [2]
        await until(lambda: len(shown.overview.throughput.plain) > 10)
        await shown.press("escape")
        assert all(pane.display for pane in shown.overview.panes())


async def test_logs_takes_the_whole_screen() -> None:
    async with lab() as shown:
        await shown.press("l")
        assert [pane.number for pane in shown.overview.panes() if pane.display] == [5]


async def test_filter() -> None:
    async with lab() as shown:
        await shown.press("slash")
        await shown.press(*"fail")
        await until(lambda: len(shown.overview.instances.plain) == 2)
        await shown.press("enter")
        assert "✖ failed" in shown.overview.instances.plain[1]
        await shown.press("escape")
        await until(lambda: len(shown.overview.instances.plain) == 5)
        log = shown.overview.log_tail
        await until(lambda: log.lines)
        await shown.press("5", "slash")
        await shown.press(*"line 39")
        await until(lambda: len(log.lines) == 1)
        await shown.press("enter", "right_square_bracket")
        await until(lambda: log.lines == ["[nginx] line 39: slot 0 released, n_tokens = 128"])
        await shown.press("escape")
        await until(lambda: len(log.lines) == 40)


async def test_open_an_instance_and_come_back() -> None:
    async with lab() as shown:
        await shown.press("enter")
        screen = await shown.on(InstanceScreen)
        await until(lambda: any("9000" in line for line in screen.facts.plain))
        await until(lambda: any("--port 9000" in line for line in screen.command.plain))
        await until(lambda: screen.log_tail.lines)
        await until(lambda: any("● busy   25.5 tok/s    100 tok" in line for line in screen.slots.plain))
        assert any("◐ prompt" in line for line in screen.slots.plain)
        assert "13/16 busy, read 0s ago" in str(screen.query_one("#pane-2", Pane).border_title)
        await shown.press("x")
        await question(shown)
        await shown.press("y")
        await shown.called("stop", 0)
        await shown.press("4", "z", "z", "slash", "x", "escape", "y", "escape")
        await shown.on(OverviewScreen)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 10)])
async def test_the_front_in_full(size: tuple[int, int]) -> None:
    async with lab(size=size) as shown:
        await shown.press("F")
        screen = await shown.on(FrontScreen)
        await until(lambda: any("37 open connections" in line for line in screen.facts.plain))
        assert any("3 × 503" in line for line in screen.facts.plain)
        assert any("5,100" in line for line in screen.requests.plain)
        await shown.press("y")
        assert shown.app.clipboard == "http://127.0.0.1:8088"
        await shown.press("3")
        await until(lambda: screen.log_tail.lines and screen.log_tail.lines[0].startswith("[nginx]"))
        await shown.press("1")
        gone = msgspec.structs.replace(TRAFFIC, connections=None, connections_reason="no stub_status")
        shown.client.set(snapshot(seq=2, traffic=gone))
        await until(lambda: any("N/A: no stub_status" in line for line in screen.facts.plain))
        shown.client.set(empty(seq=3))
        await until(lambda: any("No nginx runs" in line for line in screen.facts.plain))
        shown.client.set(snapshot(seq=4))
        await until(lambda: screen.requests.selected == "0")
        await shown.press("2", "down", "enter")
        assert (await shown.on(InstanceScreen)).index == 1
        await shown.press("escape", "escape")
        await shown.on(OverviewScreen)


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10)])
async def test_a_sweep_is_live_at_every_size(size: tuple[int, int]) -> None:
    async with lab(size=size) as shown:
        await shown.press("4", "enter")
        screen = await shown.on(SweepScreen)
        await until(lambda: screen.detail is not None)
        more = sweep_view(cells_measured=42)
        shown.client.set(snapshot(seq=2, sweep=more, queue=(more,)))
        await until(lambda: screen.detail.view.cells_measured == 42)
        done = sweep_view(cells_measured=308, status=SweepStatus.DONE)
        shown.client.set(snapshot(seq=3, sweep=None, queue=()))
        assert done
        await shown.press("1", "2", "3", "escape")


async def test_a_finished_sweep_can_be_opened() -> None:
    client = FakeClient(snapshot(sweep=None, queue=()))
    client.finished = [sweep_view(3, name="quick", status=SweepStatus.DONE)]
    async with lab(client) as shown:
        await until(lambda: shown.overview.queue.selected == "3")
        await shown.press("4", "enter")
        screen = await shown.on(SweepScreen)
        await until(lambda: screen.table.row_count == 24)
        await shown.press("a")
        assert isinstance(shown.app.screen, SweepScreen)


async def test_two_clicks_open() -> None:
    async with lab() as shown:
        await shown.pilot.click("#instances", offset=(10, 2), times=2)
        screen = await shown.on(InstanceScreen)
        assert screen.index == 1


async def test_the_footer_can_be_clicked() -> None:
    async with lab(size=(120, 24)) as shown:
        footer = str(shown.overview.query_one("#footer").render())
        await shown.pilot.click("#footer", offset=(footer.index("new sweep"), 0))
        await shown.on(NewSweepForm)


async def test_header_and_frames_can_be_clicked() -> None:
    async with lab(size=(120, 40)) as shown:
        words = shown.overview.query_one(HeaderLine).plain
        await shown.pilot.click("#header", offset=(words.index("tick"), 0))
        await until(lambda: shown.app.tick_s == 0.5)
        await shown.pilot.click("#header", offset=(words.index("sweep 41"), 0))
        await until(lambda: shown.overview.focused_pane().number == 4)
        await shown.pilot.click("#pane-3", offset=(5, 0))
        await until(lambda: shown.overview.focused_pane().number == 3)
        await shown.pilot.click("#pane-3", offset=(5, 0), times=2)
        await until(lambda: shown.overview.zoomed)
        await shown.pilot.click("#header", offset=(words.index("? help"), 0))
        await shown.on(HelpScreen)


async def test_help_scrolls_on_a_small_screen_and_any_usual_key_closes_it() -> None:
    async with lab() as shown:
        for key in ("escape", "q", "question_mark", "enter"):
            await shown.press("question_mark")
            card = (await shown.on(HelpScreen)).query_one(Card)
            assert card.max_scroll_y > 0
            await shown.press("G")
            await until(lambda card=card: card.scroll_offset.y == card.max_scroll_y)  # type: ignore[misc]
            await shown.press(key)
            await shown.on(OverviewScreen)


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
async def test_palette(key: str) -> None:
    async with lab() as shown:
        await shown.press(key)
        palette = await shown.on(CommandPalette)
        await shown.press(*"or resume")
        options = palette.query_one(OptionList)
        await until(lambda: options.option_count == 1 and "Pause" in str(options.options[0].prompt))
        await shown.press("enter")
        await until(lambda: ("queue", "pause") in shown.client.calls)


async def test_tick() -> None:
    async with lab() as shown:
        await shown.press("plus")
        await until(lambda: shown.app.tick_s == 0.5)
        await shown.press("minus", "minus")
        await until(lambda: shown.app.tick_s == 2.0)


async def test_freeze_goes_on_collecting() -> None:
    async with lab() as shown:
        await shown.press("space")
        assert shown.app.frozen
        shown.client.set(empty(seq=9))
        await until(lambda: shown.app.latest and shown.app.latest.seq == 9)
        assert shown.app.snapshot and shown.app.snapshot.seq == 1
        await shown.press("space")
        await until(lambda: shown.app.snapshot and shown.app.snapshot.seq == 9)


async def test_copy() -> None:
    async with lab() as shown:
        await shown.press("y")
        assert shown.app.clipboard.startswith("llama-server -m")
        await shown.press("2", "y")
        assert shown.app.clipboard == "http://127.0.0.1:8088"
        await shown.press("4", "y")
        assert shown.app.clipboard == "lab-tui results show 7"


async def test_span() -> None:
    async with lab() as shown:
        await shown.press("t")
        assert shown.overview.step == 5


async def test_quit_asks_only_when_something_runs() -> None:
    async with lab(FakeClient(empty())) as shown:
        await shown.press("q")
        await until(lambda: shown.app.return_code == 0 and not shown.app.is_running)
    async with lab() as shown:
        await shown.press("q")
        dialog = await shown.on(QuitDialog)
        assert dialog.focused is dialog.query_one("#detach", Button)
        await shown.press("escape")
        await shown.on(OverviewScreen)
        await shown.press("q")
        await shown.on(QuitDialog)
        await shown.press("enter")
        await until(lambda: not shown.app.is_running)
        assert not shown.client.calls


@pytest.mark.parametrize("size", [(200, 50), (80, 24), (60, 12), (40, 10), (30, 8)])
@pytest.mark.parametrize("key", ["q", "X"])
async def test_a_question_is_seen_at_every_size(size: tuple[int, int], key: str) -> None:
    async with lab(FakeClient(snapshot(sweep=None, queue_paused=True)), size) as shown:
        await shown.press(key)
        dialog = await shown.on(QuitDialog if key == "q" else ConfirmDialog)
        for button in dialog.query(Button):
            region = button.region
            assert button.size.width >= len(str(button.label)) and dialog.region.contains_region(region)
            assert dialog.get_widget_at(region.x + 1, region.y)[0] is button
        text = dialog.query_one(".text").region
        assert dialog.region.contains_region(text.intersection(dialog.query_one(".words").region))
        assert dialog.query_one(".words").size.height >= 2
        await shown.press("escape")
        await shown.on(OverviewScreen)


async def test_quit_and_stop_everything() -> None:
    async with lab() as shown:
        await shown.press("q")
        await shown.on(QuitDialog)
        await shown.press("tab", "enter")
        await shown.called("stop_engine", False)
        await until(lambda: not shown.app.is_running)
