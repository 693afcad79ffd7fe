"""The form that queues a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
from textual import work
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Label, Select, Static

from lab_tui.client import EngineClient
from lab_tui.config import Settings
from lab_tui.model import FleetSpec, LabError, Outline, Snapshot, SweepSpec, SweepView
from lab_tui.text import typed
from lab_tui.ui import asked, axes
from lab_tui.ui import format as fmt
from lab_tui.ui.asked import CUSTOM, Typed
from lab_tui.ui.screens.dialogs import ConfirmDialog, cut_by_a_sweep
from lab_tui.ui.screens.form import Choice, Field, ModelForm, Tick, entry
from lab_tui.ui.screens.up import usual_fleet
from lab_tui.ui.theme import ACCENT, GOOD, MUTED, STRONG, WARN

STRATEGIES = ("grid", "adaptive", "ladder")
TYPING_S = 0.25  # without another letter, before the engine is asked what it comes to


class NewSweepForm(ModelForm[tuple[SweepView, str]]):
    """Everything a sweep can be asked for, and what it comes to. Ends with the sweep and its command."""

    TITLE = "New sweep"

    def __init__(self, client: EngineClient, settings: Settings, snapshot: Snapshot | None) -> None:
        super().__init__(client)
        self._settings, self._snapshot = settings, snapshot
        self._fleet, _ = asked.base_fleet(settings, snapshot, usual_fleet(settings, snapshot).model)
        self._presets: dict[str, SweepSpec] = {}
        self._chosen = CUSTOM  # the preset that the fields were filled from last

    def fields(self) -> Iterator[Widget]:
        """Presets fill in the rest, which can then be changed."""
        yield self.model_field(self._fleet.model)
        yield Field("preset", Choice((CUSTOM,), "preset"), "fills in the rest")
        yield Label("what varies: 1,2,4 or 1-8; empty: as the fleet", classes="section")
        for axis in axes.AXES:
            yield Field(axis.label, entry("", axis.name, axes.usual(axis.name, self._fleet)), axis.hint)
        yield Field("arguments", entry("", "arguments", "--poll=0,50"), "llama-server's own that vary")
        yield Label("what one request asks, in tokens", classes="section")
        yield Field("prompt", entry("", "prompt"))
        yield Field("answer", entry("", "output"), "128, or a range as 64-256")
        yield Label("how", classes="section")
        yield Field("strategy", Choice(STRATEGIES, "strategy"), "adaptive: a fraction of the cells")
        yield Field("seconds a cell", entry("", "seconds"), "at most, of measuring")
        yield Field("budget", entry("", "budget", "none"), "10m, 1h: ends in time")
        yield Field("confirm", Tick("measure the top few again", True, "confirm"))
        yield Label("objective: most tok/s, of the cells that keep these", classes="section")
        yield Field("TTFT at most", entry("", "ttft", "no bound"), "ms, p95")
        yield Field("stream at least", entry("", "stream", "no bound"), "tok/s of one stream, p5")

    def figures(self) -> Iterator[Widget]:
        """What it comes to, and the command that asks the same."""
        yield Static("", id="count")
        yield Static("", markup=False, id="command")
        yield Static("", markup=False, id="cuts")

    def on_mount(self) -> None:
        """The engine knows the presets; those of the last time are there at once."""
        self.query_one("#preset", Choice).focus()
        if self.lab.presets:
            self._take(self.lab.presets)
        self.watch(self.lab, "latest", self._say_cuts)
        self._load()

    @work(group="presets", exclusive=True)
    async def _load(self) -> None:
        try:
            presets = await self.client.presets()
        except LabError as error:
            self.refuse(error)
            return
        self.lab.presets = presets
        if presets != self._presets:
            self._take(presets)

    def _take(self, presets: dict[str, SweepSpec]) -> None:
        """Offer these; what was changed by hand meanwhile stays, and so does the focus."""
        select = self.query_one("#preset", Choice)
        if self._presets and select.value == CUSTOM:  # nothing of it is a preset's
            self._presets = presets
            select.set_options((name, name) for name in (*presets, CUSTOM))
            select.value = CUSTOM
            return
        before = self._presets.get(str(select.value))
        chosen = str(select.value) if select.value in presets and before is not None else next(iter(presets))
        untouched = before is None or self._is_filled(before)
        self._presets, self._chosen = presets, chosen
        select.set_options((name, name) for name in (*presets, CUSTOM))
        select.value = chosen
        if untouched:
            self._fill(presets[chosen], empty_ones=before is None)

    def _say_cuts(self) -> None:
        """What starting this cuts, as it is now."""
        latest, line = self.lab.latest, self.query_one("#cuts", Static)
        text = takes_over(latest) if latest is not None else ""
        line.update(f"! {text}" if text else "")
        line.display = bool(text)

    # -- a preset fills the fields, the fields make the spec

    def on_select_changed(self, event: Select.Changed) -> None:
        """Fill in what the preset says."""
        now = str(event.select.value)  # other presets may have come since
        if event.select.id == "preset" and now != self._chosen:
            self._chosen = now
            if (preset := self._presets.get(now)) is not None:
                self._fill(preset)
        self._reckon()

    def _fill(self, preset: SweepSpec, *, empty_ones: bool = False) -> None:
        """Write a preset into the fields, or into the empty ones alone."""
        for name, text in self._texts(preset).items():
            if not (empty_ones and self.text(name)):
                self.query_one(f"#{name}", Input).value = text
        self.query_one("#strategy", Choice).value = preset.strategy

    def _is_filled(self, preset: SweepSpec) -> bool:
        """Whether the fields still hold what a preset wrote into them."""
        return all(self.text(name) == text for name, text in self._texts(preset).items())

    def _texts(self, preset: SweepSpec) -> dict[str, str]:
        """What a preset writes into the fields, by their ids."""
        texts = {axis.name: axes.show_values(preset.axes.get(axis.name, ())) for axis in axes.AXES}
        texts["arguments"] = axes.show_arguments(preset.axes)
        texts["prompt"] = str(preset.workload.prompt_tokens)
        texts["output"] = asked.show_answer(preset.workload)
        texts["seconds"] = f"{preset.window.max_s:g}"
        if not self.text("model"):
            texts["model"] = preset.fleet.model
        return texts

    def on_input_changed(self) -> None:
        """What it comes to changes with every letter."""
        self._reckon()

    def on_checkbox_changed(self) -> None:
        """Confirming takes time of its own."""
        self._reckon()

    def asked(self) -> tuple[SweepSpec, str]:
        """The fields as a sweep, and the command for it. Raises LabError."""
        if not self._presets:
            raise LabError("the presets are not here yet", "wait for the engine, or escape and try again")
        typed = Typed(
            model=self.path("model"),
            preset=str(self.query_one("#preset", Choice).value),
            axes={axis.name: self.text(axis.name) for axis in axes.AXES},
            strategy=str(self.query_one("#strategy", Choice).value),
            confirm=self.query_one("#confirm", Checkbox).value,
            **{
                name: self.text(name)
                for name in ("arguments", "prompt", "output", "seconds", "budget", "ttft", "stream")
            },
        )
        fleet, named = asked.base_fleet(self._settings, self._snapshot, typed.model)
        spec = asked.spec(typed, self._presets, fleet)
        return spec, asked.command(spec, self._presets, named=named)

    def fleet_asked(self) -> FleetSpec:
        """With the most slots that the sweep is to try."""
        try:
            slots = axes.parse_values("parallel", self.text("parallel") or str(self._fleet.parallel))
            tokens = axes.parse_values(
                "ctx-per-slot", self.text("ctx-per-slot") or str(self._fleet.ctx_per_slot)
            )
        except LabError:
            return self._fleet
        most = (max((v for v in values if isinstance(v, int)), default=1) for values in (slots, tokens))
        parallel, context = most
        return msgspec.structs.replace(self._fleet, parallel=parallel, ctx_per_slot=context)

    # -- what it comes to

    @work(group="reckon", exclusive=True)
    async def _reckon(self) -> None:
        """Ask the engine what the fields come to, once no letter has followed for a while."""
        await asyncio.sleep(TYPING_S)
        if not self._presets:
            return
        try:
            spec, command = self.asked()
            self._take_over(spec.fleet)
            found = await self.client.outline(spec)
        except LabError as error:
            command, count = "", Content.styled("no figures, and no command, while something is wrong", MUTED)
            self.refuse(error)
        else:
            command, count = typed(f"$ {command}"), outline_text(found)
            self.refuse(None)
        self.query_one("#count", Static).update(count)
        self.query_one("#command", Static).update(command)

    def _take_over(self, fleet: FleetSpec) -> None:
        """Another model may have another fleet around it: empty fields show what they stand for."""
        if fleet != self._fleet:
            self._fleet = fleet
            for axis in axes.AXES:
                self.query_one(f"#{axis.name}", Input).placeholder = axes.usual(axis.name, fleet)

    def submit(self) -> Coroutine[Any, Any, tuple[SweepView, str]]:
        """Queue it."""
        spec, command = self.asked()
        return self._queue(spec, command)

    async def _queue(self, spec: SweepSpec, command: str) -> tuple[SweepView, str]:
        latest = self.lab.latest
        if latest is not None and takes_over(latest):
            question = ConfirmDialog("Start the sweep?", _told, "Start", command)
            if not await self.app.push_screen_wait(question):
                raise LabError("nothing was started", "the streams go on")
        return await self.client.sweep(spec), command


def takes_over(snapshot: Snapshot) -> str:
    """What a sweep that is queued now cuts; "": nothing."""
    streams = cut_by_a_sweep(snapshot)
    return f"takes the fleet over: cuts {fmt.plural(streams, 'live stream')}" if streams else ""


def _told(snapshot: Snapshot) -> str:
    return f"It {takes_over(snapshot) or 'takes the fleet over: no stream is on it now'}."


def outline_text(found: Outline) -> Content:
    """What a sweep comes to, in two lines and the reason of what is left out."""
    fleet = fmt.settings(found.largest.instances, found.largest.parallel)
    confirming = f" and {found.confirm_starts:,} to confirm" if found.confirm_starts else ""
    lines = [
        Content.assemble(
            (fmt.plural(found.cells, "cell"), f"{STRONG} {ACCENT}"),
            f"  {fmt.plural(found.instance_starts, 'model load')} at most{confirming}",
            (f"  up to about {fmt.duration(found.longest_s)}", STRONG),
        ),
        Content.assemble(
            f"largest fleet {fleet}: ",
            (_memory(found.ram_bytes, found.vram_bytes), STRONG),
            (f", free {_memory(found.ram_free_bytes, found.vram_free_bytes or 0)}", MUTED),
            *((("  ● all of it fits", GOOD),) if found.fits else ()),
        ),
    ]
    if found.placement:
        lines.append(Content.styled(f"placed: {found.placement}", MUTED))
    if not found.fits:
        out = f"{fmt.plural(found.cells_too_large, 'cell')} left out: the largest {found.reason}"
        lines.append(Content.styled(f"! {out}", WARN))
    return Content("\n").join(lines)


def _memory(ram: int, vram: int) -> str:
    return f"{fmt.decimal(ram)} and {fmt.decimal(vram)} on the GPU" if vram else fmt.decimal(ram)
