"""The forms: what they ask for, what they say is wrong, and where."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Static
from typer.testing import CliRunner

from lab_tui.cli import sweep as sweep_command
from lab_tui.cli.app import app
from lab_tui.config import Settings
from lab_tui.model import FleetSpec, LabError, Outline, Snapshot, SweepSpec
from lab_tui.sweep import course, space
from lab_tui.ui import asked, axes
from lab_tui.ui.asked import CUSTOM, Typed
from lab_tui.ui.axes import Wrong
from lab_tui.ui.screens import new_sweep
from lab_tui.ui.screens.dialogs import ConfirmDialog, QuitDialog, cut_by_a_fleet
from lab_tui.ui.screens.form import Choice, Field, Form
from lab_tui.ui.screens.new_sweep import NewSweepForm
from lab_tui.ui.screens.overview import OverviewScreen
from lab_tui.ui.screens.picker import ModelPicker
from lab_tui.ui.screens.up import UpForm
from tests.ui.fake import FLEET, FakeClient, empty, gpu, instance, snapshot
from tests.ui.helpers import Lab, lab, until


def said(form: Form[Any], name: str = "") -> str:
    """What stands below a field, or with "" below the form."""
    if not name:
        return str(form.query_one("#problem", Static).render())
    field = next(field for field in form.query(Field) if field.entry.id == name)
    wrong = field.query_one(".wrong", Static)
    return str(wrong.render()) if wrong.display else ""


def complaints(form: Form[Any]) -> dict[str, str]:
    """Everything that is said to be wrong, by field."""
    fields = [str(field.entry.id) for field in form.query(Field)]
    return {name: text for name in ("", *fields) if (text := said(form, name))}


def fill(form: Form[Any], **texts: str) -> None:
    for name, text in texts.items():
        form.query_one(f"#{name.replace('_', '-')}", Input).value = text


# -- what is typed


def test_values_as_typed() -> None:
    assert axes.parse_values("instances", "4, 1,2-3 2") == (1, 2, 3, 4)
    assert axes.parse_values("flash-attn", "on,off,on") == ("on", "off")
    assert axes.parse_arguments("--poll=0,50 --split-mode=row") == {
        "arg:--poll": (0, 50),
        "arg:--split-mode": ("row",),
    }
    for text, says in (("1-100000", "more than 512"), (" , ", "has no value"), ("2,9-4", "write 4-9")):
        with pytest.raises(Wrong, match=f"streams: .*{says}") as refused:
            axes.parse_values("concurrency", text)
        assert refused.value.field == "concurrency"
    with pytest.raises(Wrong, match="'threads=1' is none that varies"):
        axes.parse_arguments("threads=1")


def test_the_form_has_every_axis() -> None:
    assert {axis.name for axis in axes.AXES} == set(space.AXES)


FIELDS = {
    "concurrency=0": "concurrency",
    "flash-attn=maybe": "flash-attn",
    "arg:--threads=1": "arguments",
    "arg:---=1": "arguments",
}


@pytest.mark.parametrize(("axis", "field"), FIELDS.items())
def test_what_the_engine_refuses_is_said_at_its_field(axis: str, field: str) -> None:
    with pytest.raises(LabError) as refused:
        space.parse_axes([axis])
    assert axes.field_of(refused.value.message) == field


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("axis concurrency: 0 is out of range: give 1 to 9", "streams: 0 is out of range: give 1 to 9"),
        (
            "axis arg:--poll: llama-server's --poll takes no value: only arguments",
            "--poll: llama-server's --poll takes no value: only arguments",
        ),
        (
            "front-port 9001 lies among the ports: choose another --front-port or --base-port",
            "front port 9001 lies among the ports: choose another front port or first port",
        ),
        ("10,201 cells are more: give fewer values, or --yes", "10,201 cells are more: give fewer values"),
        ("the axis output-tokens and --output-tokens are given", "the answer lengths and answer are given"),
        ("there is no axis 'x'", "there is no axis 'x'"),
    ],
)  # fmt: skip
def test_refusals_name_the_labels_of_the_form(refusal: str, said: str) -> None:
    assert axes.in_labels(refusal) == said


def test_a_refused_budget_is_said_at_its_field() -> None:
    spec = SweepSpec(name="quick", fleet=FLEET, axes={}, budget_s=1.0)
    with pytest.raises(LabError) as refused:
        course.check_budget(spec)
    assert axes.field_of(refused.value.message) == "budget"
    assert axes.field_of("10,201 cells are more than 10,000") == ""


PRESETS = {name: space.preset(name, FLEET) for name in space.PRESETS}


def typed(preset: str, **changes: Any) -> Typed:
    """The form as a preset fills it, with changes."""
    spec = PRESETS[preset]
    usual: dict[str, Any] = {
        "model": FLEET.model,
        "preset": preset,
        "axes": {axis.name: axes.show_values(spec.axes.get(axis.name, ())) for axis in axes.AXES},
        "arguments": "",
        "strategy": spec.strategy,
        "prompt": str(spec.workload.prompt_tokens),
        "output": str(spec.workload.output_tokens),
        "seconds": f"{spec.window.max_s:g}",
        "budget": "",
        "confirm": True,
        "ttft": "",
        "stream": "",
    }
    usual["axes"] |= changes.pop("axes", {})
    return Typed(**(usual | changes))


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("quick", {}),
        ("standard", {"strategy": "grid", "budget": "10m"}),
        ("full", {"axes": {"parallel": "", "batch": "512,2048"}}),  # no preset has that
        ("full", {"axes": {"instances": "1-3", "cache-type-k": "f16,q8_0"}, "confirm": False}),
        ("threads", {"arguments": "--poll=0,50", "seconds": "5", "prompt": "100", "output": "16-64"}),
        ("tokens", {"model": "/models/other.gguf", "ttft": "400", "stream": "12.5", "seconds": "1"}),
    ],
)
@pytest.mark.parametrize("state", [snapshot(sweep=None, queue=()), empty(), snapshot()])
def test_the_command_asks_for_what_the_form_asks(
    preset: str, changes: dict[str, Any], state: Snapshot, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So ``sweep --dry-run`` gives the figures of the form, and ``sweep`` does the same."""
    found: list[SweepSpec] = []

    async def outlined(spec: SweepSpec, _: Snapshot | None) -> None:
        found.append(spec)

    async def running() -> Snapshot:
        return state

    monkeypatch.setattr(sweep_command, "outlined", outlined)
    monkeypatch.setattr(sweep_command, "_snapshot", running)
    fields = typed(preset, **changes)
    fleet, named = asked.base_fleet(Settings(), state, fields.model)
    spec = asked.spec(fields, PRESETS, fleet)
    command = asked.command(spec, PRESETS, named=named)
    words = command.removesuffix(" --detach").split()[1:]
    outcome = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert outcome.exit_code == 0, f"{command}: {outcome.exception!r}"
    assert found == [spec]


# -- the form of a new sweep


async def open_form(shown: Lab) -> NewSweepForm:
    await shown.press("n")
    form: NewSweepForm = await shown.on(NewSweepForm)
    await until(lambda: "12 cells" in count(form))
    return form


def count(form: NewSweepForm) -> str:
    return str(form.query_one("#count", Static).render())


def command(form: NewSweepForm) -> str:
    return str(form.query_one("#command", Static).render())


async def test_a_new_sweep_says_what_it_comes_to() -> None:
    async with lab(FakeClient(snapshot(sweep=None, queue=()))) as shown:
        form = await open_form(shown)
        assert form.query_one("#model", Input).value == FLEET.model
        assert "14 model loads at most and 16 to confirm" in count(form)
        assert "all of it fits" in count(form)
        assert command(form) == "$ lab-tui sweep --preset quick --detach"
        form.query_one("#preset", Choice).value = "full"
        await until(lambda: "308 cells" in count(form))
        assert "77 cells left out: the largest does not fit: 16 instances need" in count(form)
        fill(form, instances="1,2", batch="512,2048", arguments="--poll=0,50", budget="10m")
        form.query_one("#confirm", Checkbox).value = False
        await until(lambda: "616 cells" in count(form))
        assert "to confirm" not in count(form)
        for words in ("--preset full --axis instances=1,2", "--axis arg:--poll=0,50", "--no-confirm"):
            assert words in command(form)
        await shown.press("ctrl+s")
        await shown.on(OverviewScreen)
        spec = shown.client.calls[-1][1]
        assert spec == shown.client.outlines[-1]
        assert (spec.axes["batch"], spec.budget_s, spec.confirm) == ((512, 2048), 600.0, False)
        await shown.says("lab-tui sweep --preset full")


async def test_letters_typed_in_a_row_are_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as shown:
        form = await open_form(shown)
        monkeypatch.setattr(new_sweep, "TYPING_S", 3600.0)  # a slow machine needs longer between two letters
        form.query_one("#concurrency", Input).focus()
        asked_before = len(shown.client.outlines)
        await shown.press("end", *",32,6")
        monkeypatch.setattr(new_sweep, "TYPING_S", 0.01)
        await shown.press("4")
        await until(lambda: "20 cells" in count(form))
        assert len(shown.client.outlines) == asked_before + 1


async def test_what_is_wrong_is_said_once_at_its_field() -> None:
    async with lab() as shown:
        form = await open_form(shown)
        fill(form, seconds="-1")
        await until(lambda: complaints(form))
        assert complaints(form) == {
            "seconds": "✖ seconds a cell: -1 is not a number above 0: or leave it empty"
        }
        assert "no figures" in count(form)
        fill(form, seconds="5", concurrency="")
        await until(lambda: "streams: nothing is given" in said(form, "concurrency"))
        assert list(complaints(form)) == ["concurrency"]
        await shown.press("ctrl+s")
        assert form.focused is form.query_one("#concurrency")
        fill(form, concurrency="1,2")
        shown.client.refusal = LabError("axis batch: 'x' is not a number", "give batch=1,2,4")
        fill(form, batch="x")
        await until(lambda: said(form, "batch") == "✖ batch: 'x' is not a number: give 1,2,4")
        assert command(form) == ""
        assert list(complaints(form)) == ["batch"]
        shown.client.refusal = LabError("10,201 cells are more than 10,000", "give fewer values")
        fill(form, batch="1-200")
        await until(lambda: "10,201 cells" in said(form))
        assert list(complaints(form)) == [""]
        shown.client.refusal = None
        fill(form, batch="512")
        await until(lambda: not complaints(form) and "8 cells" in count(form))


async def test_a_sweep_over_live_streams_says_what_it_cuts_and_asks() -> None:
    async with lab(FakeClient(snapshot(sweep=None, queue=(), load=None))) as shown:
        form = await open_form(shown)
        cuts = form.query_one("#cuts", Static)
        assert "takes the fleet over: cuts 38 live streams" in str(cuts.render())
        await shown.press("ctrl+s")
        dialog = await shown.on(ConfirmDialog)
        assert "38 live streams" in str(dialog.query_one(".text", Static).render())
        shown.client.set(snapshot(seq=2, sweep=None, queue=(), load=None, instances=(instance(0, queue=0),)))
        await until(lambda: "cuts 16 live streams" in str(dialog.query_one(".text", Static).render()))
        await shown.press("enter")
        await shown.on(NewSweepForm)
        await until(lambda: "nothing was started" in said(form))
        assert not shown.client.calls
        await shown.press("ctrl+s")
        await shown.on(ConfirmDialog)
        await shown.press("y")
        await shown.on(OverviewScreen)
        assert shown.client.calls[-1][0] == "sweep"


async def test_a_form_leaves_focus_and_words_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets come late, as from an engine under load."""
    client, come = FakeClient(snapshot(sweep=None, queue=())), asyncio.Event()
    ask = client.presets

    async def late() -> dict[str, SweepSpec]:
        await come.wait()
        return await ask()

    monkeypatch.setattr(client, "presets", late)
    long = f"/models/{'deep/' * 20}end.gguf"
    async with lab(client) as shown:
        await shown.press("n")
        form: NewSweepForm = await shown.on(NewSweepForm)
        streams, model = form.query_one("#concurrency", Input), form.query_one("#model", Input)
        fill(form, model=long)
        streams.focus()
        await shown.press("7")
        come.set()
        await until(lambda: form.query_one("#instances", Input).value == "1,2")
        assert form.focused is streams and streams.value == "7"
        await until(lambda: model.render_line(0).text.rstrip().endswith("end.gguf"))
        await shown.press("escape", "n")
        form = await shown.on(NewSweepForm)
        assert form.query_one("#instances", Input).value == "1,2"


async def test_what_was_chosen_by_hand_outlives_other_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the last time are there at once, those of the fleet that runs now come later."""
    client, come = FakeClient(snapshot(sweep=None, queue=())), asyncio.Event()
    async with lab(client) as shown:
        await until(lambda: shown.app.presets)
        before = shown.app.presets

        async def late() -> dict[str, SweepSpec]:
            await come.wait()
            return {name: msgspec.structs.replace(one, confirm=False) for name, one in before.items()}

        monkeypatch.setattr(client, "presets", late)
        await shown.press("n")
        form: NewSweepForm = await shown.on(NewSweepForm)
        form.query_one("#preset", Choice).value = CUSTOM
        fill(form, instances="", parallel="", concurrency="3")
        come.set()
        await until(lambda: shown.app.presets["quick"].confirm is False)
        await shown.pilot.pause()
        assert form.query_one("#preset", Choice).value == CUSTOM
        assert (form.text("instances"), form.text("concurrency")) == ("", "3")


async def test_a_fleet_over_live_streams_asks() -> None:
    running = snapshot(sweep=None, queue=(), load=None)
    async with lab(FakeClient(running)) as shown:
        await shown.press("u")
        form = await shown.on(UpForm)
        fill(form, instances="1")
        shown.client.refusal = LabError("no room for it")
        await shown.press("ctrl+s")
        await until(lambda: "no room for it" in said(form))
        shown.client.refusal = None
        await shown.press("ctrl+s")
        dialog = await shown.on(ConfirmDialog)
        assert "This cuts 19 live streams" in str(dialog.query_one(".text", Static).render())
        await shown.press("enter")
        await until(lambda: "nothing was started" in said(form))
        fill(form, instances="2")  # those that have streams stay
        await shown.press("ctrl+s")
        await shown.on(OverviewScreen)
        assert [call[0] for call in shown.client.calls] == ["check", "check", "check", "up"]
        other = msgspec.structs.replace(FLEET, parallel=2)
        assert (cut_by_a_fleet(running, FLEET), cut_by_a_fleet(running, other)) == (0, 38)


async def test_a_fleet_that_may_not_fit_asks() -> None:
    async with lab(FakeClient(snapshot(instances=(), fleet=None, sweep=None, queue=(), load=None))) as shown:
        shown.client.misfit = "does not fit: 64 instances need 204.0 GB, 22.2 GB are free"
        await shown.press("u")
        await shown.on(UpForm)
        await shown.press("ctrl+s")
        dialog = await shown.on(ConfirmDialog)
        assert f"It {shown.client.misfit}." in str(dialog.query_one(".text", Static).render())


async def test_a_sweep_that_is_refused_leaves_the_form_open() -> None:
    async with lab() as shown:
        form = await open_form(shown)
        shown.client.refusal = LabError("port 9001 is in use by pid 8", "stop it")
        await shown.press("ctrl+s")
        await until(lambda: said(form) == "port 9001 is in use by pid 8: stop it")
        shown.client.refusal = None
        await shown.press("tab", "enter")
        await shown.on(OverviewScreen)
        assert shown.client.calls[-1][1].name == "quick"


def seen(form: Form[Any], entry: Widget) -> bool:
    """Whether a field can be read and clicked."""
    region = entry.region
    if region.width <= 10 or not form.region.contains_region(region):
        return False
    hit, _ = form.get_widget_at(region.x + 1, region.y)
    return entry in (hit, *hit.ancestors)


@pytest.mark.parametrize("size", [(40, 10), (60, 16), (80, 24), (200, 50)])
async def test_every_field_can_be_reached_at_every_size(size: tuple[int, int]) -> None:
    async with lab(size=size) as shown:
        form = await open_form(shown)
        for field in form.query(Field):
            field.entry.focus()
            await until(lambda field=field: seen(form, field.entry), str(field.entry.id))  # type: ignore[misc]
        start = form.query_one("#start").region
        assert start.height == 1 and form.region.contains_region(start)
        await shown.pilot.click("#cancel")
        await shown.on(OverviewScreen)


async def test_escape_leaves_a_form() -> None:
    async with lab() as shown:
        await open_form(shown)
        await shown.press("escape")
        await shown.on(OverviewScreen)
        assert not shown.client.calls


# -- the form of a fleet


async def test_up_form() -> None:
    async with lab(FakeClient(empty())) as shown:
        await shown.press("S")
        form = await shown.on(UpForm)
        fill(form, model="/m/a.gguf", instances="0")
        await shown.press("ctrl+s")
        await until(lambda: "whole number from 1 to 64" in said(form, "instances"))
        fill(form, instances="3")
        fill(form, placement="0,1,2")
        pin = form.query_one("#cpu_pin", Checkbox)
        assert "X" not in pin.render_line(0).text  # which is told without colour, too
        pin.value = True
        await until(lambda: "X" in pin.render_line(0).text)
        assert not form.query("#mps")  # there is no card that could have it
        form.query_one("#max_streams", Input).value = "64"
        fill(form, arguments="--override-kv 'a b")
        await shown.press("ctrl+s")
        await until(lambda: "No closing quotation" in said(form, "arguments"))
        fill(form, arguments="--override-kv 'a b'")
        shown.client.refusal = LabError("placement 0,1,2: this llama-server can use no card", "auto")
        await shown.press("ctrl+s")
        await until(lambda: "can use no card" in said(form, "placement"))
        shown.client.refusal = LabError("model /m/a.gguf does not exist", "give another")
        await shown.press("ctrl+s")
        await until(lambda: "does not exist: give another" in said(form, "model"))
        assert list(complaints(form)) == ["model"]
        shown.client.refusal = None
        await shown.press("ctrl+s")
        await shown.on(OverviewScreen)
        spec = shown.client.calls[-1][1]
        assert isinstance(spec, FleetSpec)
        assert (spec.model, spec.instances, spec.parallel) == ("/m/a.gguf", 3, 4)
        assert (spec.placement, spec.cpu_pin) == ("0,1,2", True)
        await shown.says(
            "lab-tui up -m /m/a.gguf -i 3 -p 4 --max-streams 64 --placement 0,1,2 --cpu-pin "
            "-- --override-kv 'a b'"
        )


async def test_mps_is_chosen_where_a_card_of_nvidia_is() -> None:
    own = msgspec.structs.replace(FLEET, mps="on", extra_args=("--mlock",))
    async with lab(FakeClient(empty(gpus=(gpu(0),), last_fleet=own))) as shown:
        await shown.press("u")
        form = await shown.on(UpForm)
        choice = form.query_one("#mps", Choice)
        assert (choice.value, form.text("arguments")) == ("on", "--mlock")
        choice.value = "as the machine has it"
        fill(form, arguments="")
        await shown.press("ctrl+s")
        await shown.on(OverviewScreen)
        spec = shown.client.calls[-1][1]
        assert isinstance(spec, FleetSpec) and spec == msgspec.structs.replace(FLEET, mps="")


# -- the model picker


@pytest.mark.parametrize("key", ["u", "n"])
async def test_a_model_is_picked_from_those_that_there_are(key: str) -> None:
    async with lab(FakeClient(empty())) as shown:
        await shown.press(key, "ctrl+o")
        picker = await shown.on(ModelPicker)
        await until(lambda: len(picker.list.plain) == 4)
        head, qwen, llama, odd = picker.list.plain
        assert head.split() == ["MODEL", "QUANT", "PARAMS", "SIZE", "CONTEXT", "FEELS", "FITS"]
        assert qwen.split()[1:] == ["Q4_K_M", "4.02B", "2.5G", "262,144", "sluggish", "11"]
        assert odd.split()[-6:] == ["-", "135M", "98M", "-", "-", "64"]
        assert llama.endswith(" no")
        await shown.press("down")
        await until(lambda: "1 instance needs 47.9 GB" in str(picker.query_one("#chosen").render()))
        await shown.press(*"qwen")
        await until(lambda: len(picker.list.plain) == 2)
        said = "feels sluggish: 19.3 tok/s a stream, 64 streams on 4×16 (sweep 3)"
        await until(lambda: said in str(picker.query_one("#chosen").render()))
        await shown.press("enter")
        form = await shown.on(UpForm if key == "u" else NewSweepForm)
        assert form.query_one("#model", Input).value == FLEET.model


async def test_what_fits_is_asked_for_the_slots_that_are_typed() -> None:
    async with lab(FakeClient(empty())) as shown:
        await shown.press("u")
        form = await shown.on(UpForm)
        fill(form, parallel="32", context="8192")
        await shown.pilot.click("#choose")
        picker = await shown.on(ModelPicker)
        await until(lambda: len(picker.list.plain) == 4)
        asked_for = shown.client.calls[-1][1]
        assert (asked_for.parallel, asked_for.ctx_per_slot) == (32, 8192)
        await shown.pilot.click("#models", offset=(5, 3), times=2)
        await shown.on(UpForm)
        assert form.query_one("#model", Input).value == "/models/odd.gguf"


async def test_a_path_may_be_typed_and_nothing_found_is_said() -> None:
    client = FakeClient(empty())
    client.found = ()
    async with lab(client, (40, 10)) as shown:
        await shown.press("u", "ctrl+o")
        picker = await shown.on(ModelPicker)
        await until(lambda: "No GGUF file" in picker.list.plain[0])
        assert any("lab-tui models fetch" in line for line in picker.list.plain)
        await shown.press("enter")
        assert shown.app.screen is picker
        await shown.press(*"~/a.gguf", "enter")
        form = await shown.on(UpForm)
        assert form.query_one("#model", Input).value == str(Path.home() / "a.gguf")
        client.refusal = LabError("no engine is running", "start one")
        await shown.press("ctrl+o")
        picker = await shown.on(ModelPicker)
        await until(lambda: "no engine is running: start one" in picker.list.plain[0])
        await shown.press("escape")
        await shown.on(UpForm)


async def test_a_form_that_is_left_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine answers while its widgets are taken away, one after the other."""
    come = asyncio.Event()
    async with lab() as shown:
        form = await open_form(shown)
        ask = shown.client.outline

        async def late(spec: SweepSpec) -> Outline:
            await come.wait()
            return await ask(spec)

        monkeypatch.setattr(shown.client, "outline", late)
        monkeypatch.setattr(new_sweep, "TYPING_S", 0.0)
        fill(form, batch="512")
        await until(lambda: [work for work in shown.app.workers if work.group == "reckon"])
        monkeypatch.setattr(Static, "on_unmount", lambda _: come.set(), raising=False)
        await shown.press("escape")
        await until(lambda: not form.is_running)
        assert come.is_set()
        await shown.press("q")
        assert isinstance(shown.app.screen, QuitDialog)
