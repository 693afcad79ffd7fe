"""The form that queues a sweep."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
from textual import work
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from lab_tui.client import EngineClient
from lab_tui.config import Settings
from lab_tui.model import LabError, Slo, Snapshot, SweepSpec, SweepView
from lab_tui.ui import axes
from lab_tui.ui import format as fmt
from lab_tui.ui.screens.form import Field, Form, entry
from lab_tui.ui.screens.up import usual_fleet
from lab_tui.ui.theme import ACCENT, MUTED, STRONG

STRATEGIES = ("grid", "adaptive", "ladder")


class NewSweepForm(Form[tuple[SweepView, str]]):
    """Model, preset and axes, with what they come to. Ends with the sweep and the command for it."""

    TITLE = "New sweep"

    def __init__(self, client: EngineClient, settings: Settings, snapshot: Snapshot | None) -> None:
        super().__init__()
        self._client = client
        self._fleet = usual_fleet(settings, snapshot)
        self._presets: dict[str, SweepSpec] = {}

    def fields(self) -> Iterator[Widget]:
        """Presets fill in the axes, which can then be changed."""
        yield Field("model", entry(self._fleet.model, "model", "path of a GGUF file"))
        yield Field("preset", Select[str]([], prompt="asking the engine", id="preset", compact=True))
        yield Field("instances", entry("", "instances", str(self._fleet.instances)))
        yield Field("slots each", entry("", "parallel", str(self._fleet.parallel)))
        yield Field("streams", entry("", "concurrency", "1,4,16"))
        yield Field("other axes", entry("", "others", "threads=1,2,4 batch=512,2048"))
        yield Field(
            "strategy", Select.from_values(STRATEGIES, allow_blank=False, id="strategy", compact=True)
        )
        yield Field("TTFT at most", entry("", "ttft", "no bound"), "ms, p95")
        yield Field("stream at least", entry("", "stream", "no bound"), "tok/s of one stream")
        yield Static("", id="count")

    def on_mount(self) -> None:
        """The engine knows the presets."""
        self._load()

    @work(group="presets", exclusive=True)
    async def _load(self) -> None:
        try:
            self._presets = await self._client.presets()
        except LabError as error:
            self.problem(str(error))
            return
        select: Select[str] = self.query_one("#preset", Select)
        select.set_options((name, name) for name in self._presets)
        if self._presets:
            select.value = next(iter(self._presets))
        select.focus()

    # -- a preset fills the fields, the fields make the spec

    def on_select_changed(self, event: Select.Changed) -> None:
        """Fill in what the preset says."""
        preset = self._presets.get(str(event.value))
        if event.select.id == "preset" and preset is not None:
            if not self.text("model"):
                self.query_one("#model", Input).value = preset.fleet.model
            for name in axes.MAIN:
                values = preset.axes.get(name, ())
                self.query_one(f"#{name}", Input).value = axes.show_values(values)
            self.query_one("#others", Input).value = axes.show_others(preset.axes)
            self.query_one("#strategy", Select).value = preset.strategy
        self._count()

    def on_input_changed(self) -> None:
        """What it comes to changes with every letter."""
        self._count()

    def _preset(self) -> SweepSpec | None:
        return self._presets.get(str(self.query_one("#preset", Select).value))

    def spec(self) -> SweepSpec:
        """The fields as a sweep. Raises LabError."""
        preset = self._preset()
        if preset is None:
            raise LabError("the presets are not here yet", "wait for the engine, or escape and try again")
        typed = {name: axes.parse_values(name, self.text(name)) for name in axes.MAIN if self.text(name)}
        typed |= axes.parse_others(self.text("others"))
        if not self.text("model"):
            raise LabError("model: nothing is given", "`lab-tui models list` shows what there is")
        if "concurrency" not in typed:
            raise LabError("streams: nothing is given", "say how many at once, such as 1,4,16")
        chosen = axes.merge(preset.axes, typed)
        same = chosen == preset.axes
        return msgspec.structs.replace(
            preset,
            name=preset.name if same else "custom",
            fleet=msgspec.structs.replace(preset.fleet, model=self.path("model")),
            axes=preset.axes if same else chosen,
            strategy=str(self.query_one("#strategy", Select).value),
            slo=Slo(
                ttft_ms=self.bound("ttft", "TTFT at most"), stream_tps=self.bound("stream", "stream at least")
            ),
        )

    def _count(self) -> None:
        """Say what the axes come to, or why they do not."""
        line = self.query_one("#count", Static)
        try:
            spec = self.spec()
        except LabError as error:
            line.update(Content.styled(f" {error}" if self._presets else "", MUTED))
            return
        self.problem("")
        loads = axes.model_loads(spec)
        line.update(
            Content.assemble(
                (f"{fmt.plural(axes.cells(spec.axes), 'cell')}", f"{STRONG} {ACCENT}"),
                f"  {fmt.plural(loads, 'model load')}  ",
                (f"at most {fmt.duration(_longest(spec))} of measuring", MUTED),
            )
        )

    def submit(self) -> Coroutine[Any, Any, tuple[SweepView, str]]:
        """Queue it."""
        spec = self.spec()
        return self._queue(spec, axes.command(spec, self._preset()))

    async def _queue(self, spec: SweepSpec, command: str) -> tuple[SweepView, str]:
        return await self._client.sweep(spec), command


def _longest(spec: SweepSpec) -> float:
    """Seconds of measuring when every window runs to its limit; starts and warm-up come on top."""
    return axes.cells(spec.axes) * spec.window.max_s
