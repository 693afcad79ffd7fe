"""The form that starts a fleet."""

from __future__ import annotations

import shlex
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
from textual import work
from textual.widget import Widget
from textual.widgets import Checkbox, Input

from lab_tui import access, config
from lab_tui.client import EngineClient
from lab_tui.config import Settings
from lab_tui.model import FleetSpec, LabError, Snapshot
from lab_tui.ui import format as fmt
from lab_tui.ui.asked import whole
from lab_tui.ui.axes import Wrong
from lab_tui.ui.screens.commands import up_command
from lab_tui.ui.screens.dialogs import ConfirmDialog, cut_by_a_fleet
from lab_tui.ui.screens.form import Choice, Field, ModelForm, Tick, entry

NVIDIA = "NVIDIA"
MPS = {"as the machine has it": "", "on": "on", "off": "off"}


def usual_fleet(settings: Settings, snapshot: Snapshot | None) -> FleetSpec:
    """The fleet that runs, else the one that somebody started last, else the one of the settings."""
    if snapshot is not None:
        running = snapshot.fleet if snapshot.sweep is None else None  # else it is a cell of the sweep
        if (usual := running or snapshot.last_fleet) is not None:
            return usual
    return config.fleet_spec(settings, settings.serve.model)


class UpForm(ModelForm[FleetSpec]):
    """Model, instances, slots and ports."""

    TITLE = "Start a fleet"

    def __init__(self, client: EngineClient, settings: Settings, snapshot: Snapshot | None) -> None:
        super().__init__(client)
        self._usual = usual_fleet(settings, snapshot)
        gpus = snapshot.gpus if snapshot is not None else ()
        self._has_mps = any(gpu.maker == NVIDIA for gpu in gpus) or bool(self._usual.mps)

    def fields(self) -> Iterator[Widget]:
        """The options of ``lab-tui up`` but those of API keys."""
        usual = self._usual
        yield self.model_field(usual.model)
        yield Field("instances", entry(usual.instances, "instances"), "llama-server processes")
        yield Field("slots each", entry(usual.parallel, "parallel"), "streams at once in each")
        yield Field("context", entry(usual.ctx_per_slot, "context"), "tokens a slot")
        yield Field("first port", entry(usual.base_port, "base_port"), "each next instance one higher")
        yield Field("front port", entry(usual.front_port, "front_port"), "nginx: what clients use")
        yield Field("host", entry(usual.host, "host"), "0.0.0.0: for other machines too")
        yield Field("placement", entry(usual.placement, "placement"), "auto, spread, pack, split")
        yield Field("CPU pinning", Tick("pin each", usual.cpu_pin, "cpu_pin"), "to cores of its own")
        if self._has_mps:
            yield Field("NVIDIA's MPS", Choice(tuple(MPS), "mps"), "on: a daemon of the fleet's own")
        yield Field("streams", entry(usual.max_streams, "max_streams"), "at most, over all instances")
        words = shlex.join(usual.extra_args)
        yield Field("arguments", entry(words, "arguments", "--flash-attn on"), "llama-server's own")

    def on_mount(self) -> None:
        """Without a model in the settings, the engine knows one."""
        if self._has_mps:
            usual = next(word for word, value in MPS.items() if value == self._usual.mps)
            self.query_one("#mps", Choice).value = usual
        if not self._usual.model:
            self._load()

    @work(group="presets", exclusive=True)
    async def _load(self) -> None:
        try:
            presets = await self.client.presets()
        except LabError as error:
            self.refuse(error)
            return
        model = self.query_one("#model", Input)
        if presets and not model.value:
            model.value = next(iter(presets.values())).fleet.model

    def fleet_asked(self) -> FleetSpec:
        """With the slots and the context that are typed, where they are numbers."""
        try:
            slots = self._number("parallel", "slots each", 1, 256)
            context = self._number("context", "context", 64, 1 << 24)
        except Wrong:
            return self._usual
        return msgspec.structs.replace(self._usual, parallel=slots, ctx_per_slot=context)

    def submit(self) -> Coroutine[Any, Any, FleetSpec]:
        """Ask the engine for this fleet."""
        spec = msgspec.structs.replace(
            self._usual,
            model=self.path("model"),
            instances=self._number("instances", "instances", 1, 64),
            parallel=self._number("parallel", "slots each", 1, 256),
            ctx_per_slot=self._number("context", "context", 64, 1 << 24),
            base_port=self._number("base_port", "first port", 1, 65535),
            front_port=self._number("front_port", "front port", 1, 65535),
            host=self.text("host"),
            placement=self.text("placement") or FleetSpec(model="").placement,
            cpu_pin=self.query_one("#cpu_pin", Checkbox).value,
            mps=MPS[str(self.query_one("#mps", Choice).value)] if self._has_mps else "",
            max_streams=self._number("max_streams", "streams", 1, 65536),
            extra_args=self._arguments(),
        )
        if not spec.model:
            raise Wrong("model", "model: nothing is given", "ctrl+o shows what there is")
        if not spec.host:
            raise Wrong("host", "host: nothing is given", "127.0.0.1 is this machine alone")
        spec = access.keyed(spec)
        if access.open_to_others(spec):
            raise Wrong("host", f"host: {spec.host} wants an API key", access.MAKE_ONE.format(host=spec.host))
        return self._send_spec(spec)

    def _arguments(self) -> tuple[str, ...]:
        """Words as a shell parts them. Raises Wrong."""
        try:
            return tuple(shlex.split(self.text("arguments")))
        except ValueError as error:
            raise Wrong("arguments", f"arguments: {error}", "close the quotation") from error

    def _number(self, field: str, label: str, low: int, high: int) -> int:
        return whole(field, label, self.text(field), low, high)

    async def _send_spec(self, spec: FleetSpec) -> FleetSpec:
        misfit = await self.client.check(spec)  # what is refused is not asked about
        latest = self.lab.latest
        if misfit or (latest is not None and cut_by_a_fleet(latest, spec)):

            def told(now: Snapshot) -> str:
                said = [f"It {misfit}."] if misfit else []
                if streams := cut_by_a_fleet(now, spec):
                    said.append(f"This cuts {fmt.plural(streams, 'live stream')} of the fleet that runs.")
                return "\n".join(said)

            question = ConfirmDialog("Start another fleet?", told, "Start", up_command(spec))
            if not await self.app.push_screen_wait(question):
                raise LabError("nothing was started", "what runs goes on")
        await self.client.up(spec)
        return spec
