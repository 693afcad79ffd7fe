"""What screens let the engine do to the fleet and the queue, each with the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Coroutine
from typing import Any

from textual import work

from lab_tui.model import FleetSpec, InstanceState, InstanceView, LabError, Snapshot, SweepStatus, SweepView
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.screens.base import LabScreen
from lab_tui.ui.screens.dialogs import ASLEEP, ConfirmDialog, Words, cut_by_going_on, streams_on

Work = Coroutine[Any, Any, Any]


def up_command(spec: FleetSpec) -> str:
    """``lab-tui up`` as a user would type it."""
    default = FleetSpec(model="")
    words = ["lab-tui", "up", "-m", spec.model, "-i", str(spec.instances), "-p", str(spec.parallel)]
    for option, value, usual in (
        ("--base-port", spec.base_port, default.base_port),
        ("--front-port", spec.front_port, default.front_port),
        ("--host", spec.host, default.host),
        ("--api-key-file", spec.api_key_file, default.api_key_file),
        ("--ctx-per-slot", spec.ctx_per_slot, default.ctx_per_slot),
        ("--max-streams", spec.max_streams, default.max_streams),
        ("--placement", spec.placement, default.placement),
        ("--mps", spec.mps, default.mps),
    ):
        if value != usual:
            words += [option, str(value)]
    if spec.cpu_pin:
        words.append("--cpu-pin")
    if spec.insecure:
        words.append("--insecure")
    if spec.extra_args:
        words += ["--", *spec.extra_args]
    return shlex.join(words)


def _fleet_told(snapshot: Snapshot) -> str:
    """What ends with the whole fleet."""
    front = f" and the front {snapshot.front.url}" if snapshot.front.url else ""
    text = f"{fmt.plural(len(snapshot.instances), 'instance')}{front}. {streams_on(snapshot.instances)}"
    sweep = f"\nThe running sweep {snapshot.sweep.name} uses them." if snapshot.sweep is not None else ""
    return text + sweep


class FleetCommands(LabScreen):
    """Start, stop and restart."""

    def selected_instance(self) -> InstanceView | None:
        """The instance that single commands are for."""
        raise NotImplementedError

    def act_start(self) -> None:
        """Start the selected instance."""
        view = self._instance()
        if view is None:
            return
        if view.state not in (*ASLEEP, InstanceState.BACKOFF):
            self.status.say(f"instance {view.index} is {view.state} already")
            return
        self.send(f"lab-tui start {view.index}", self.lab.client.instance(view.index, "start"))

    def act_stop(self) -> None:
        """Stop the selected instance, after a question."""
        view = self._instance()
        if view is None:
            return
        if view.state is InstanceState.STOPPED:
            self.status.say(f"instance {view.index} is stopped already")
            return
        self._ask_instance(view, "stop", "Stop")

    def act_restart(self) -> None:
        """Restart the selected instance, after a question."""
        view = self._instance()
        if view is not None:
            self._ask_instance(view, "restart", "Restart")

    def _instance(self) -> InstanceView | None:
        view = self.selected_instance()
        if view is None:
            self.status.say(f"no instance is selected: {key('up')} starts a fleet", False)
        return view

    def _ask_instance(self, view: InstanceView, verb: str, title: str) -> None:
        command = f"lab-tui {verb} {view.index}"

        def told(snapshot: Snapshot) -> str:
            now = [one for one in snapshot.instances if one.index == view.index]
            if not now:
                return f"Instance {view.index} is no longer part of the fleet."
            text = f"llama-server on port {now[0].port}, {now[0].state}. {streams_on((now[0],))}"
            if snapshot.sweep is None:
                return text
            return f"{text} Sweep {snapshot.sweep.name} uses the fleet: this is refused meanwhile."

        self.ask(
            f"{title} instance {view.index}?",
            told,
            title,
            command,
            lambda: self.lab.client.instance(view.index, verb),
        )

    def ask(self, title: str, text: str | Words, yes: str, command: str, work: Any) -> None:
        """Ask, then send what ``work()`` makes."""

        def answered(sure: bool | None) -> None:
            if sure:
                self.send(command, work())

        self.app.push_screen(ConfirmDialog(title, text, yes, command), answered)

    def act_start_all(self) -> None:
        """Start every instance that is not running; without a fleet the last one, else ask for one."""
        snapshot = self.lab.snapshot
        if snapshot is None or snapshot.fleet is None or not snapshot.instances:
            last = snapshot.last_fleet if snapshot is not None else None
            if last is None:
                self.act_up()
            else:
                self.send(up_command(last), self.lab.client.up(last))
            return
        asleep = [view.index for view in snapshot.instances if view.state in ASLEEP]
        if asleep:
            self.send(up_command(snapshot.fleet), self.lab.client.up(snapshot.fleet))
        else:
            self.status.say("every instance runs already")

    def act_stop_all(self) -> None:
        """Stop the fleet, after a question."""
        snapshot = self.lab.snapshot
        if snapshot is None or not snapshot.instances:
            self.status.say("nothing to stop: no fleet runs")
            return
        self.ask("Stop the whole fleet?", _fleet_told, "Stop all", "lab-tui down", self.lab.client.down)

    def act_up(self) -> None:
        """Ask for a model and start a fleet."""
        from lab_tui.ui.screens.up import UpForm

        def answered(spec: FleetSpec | None) -> None:
            if spec is not None:
                self.status.done(up_command(spec), 0)

        self.app.push_screen(UpForm(self.lab.client, self.lab.settings, self.lab.snapshot), answered)

    def open_instance(self, view: InstanceView) -> None:
        """One instance in full."""
        from lab_tui.ui.screens.instance import InstanceScreen

        self.app.push_screen(InstanceScreen(view.index))

    def act_front(self) -> None:
        """The front in full."""
        from lab_tui.ui.screens.front import FrontScreen

        self.app.push_screen(FrontScreen())


class QueueCommands(FleetCommands):
    """New, pause, skip, abort, sooner."""

    past: tuple[SweepView, ...] = ()  # finished sweeps, newest first

    def selected_sweep(self) -> SweepView | None:
        """The sweep that single commands are for."""
        raise NotImplementedError

    def open_sweep(self, view: SweepView) -> None:
        """One sweep in full."""
        from lab_tui.ui.screens.sweep import SweepScreen

        self.app.push_screen(SweepScreen(view.id))

    def act_results(self) -> None:
        """Every sweep that was ever kept."""
        from lab_tui.ui.screens.results import ResultsScreen

        self.app.push_screen(ResultsScreen())

    def act_new_sweep(self) -> None:
        """Ask what to sweep and queue it."""
        from lab_tui.ui.screens.new_sweep import NewSweepForm

        def answered(result: tuple[SweepView, str] | None) -> None:
            if result is not None:
                self.status.done(result[1], 0)
                self.queued(result[0])

        self.app.push_screen(NewSweepForm(self.lab.client, self.lab.settings, self.lab.snapshot), answered)

    def queued(self, view: SweepView) -> None:
        """A sweep of the user's waits, or runs, from now on."""

    def act_pause(self) -> None:
        """Pause the queue, or let it go on; after a question where that cuts live streams."""
        now = self.lab.snapshot
        if now is None or not now.queue_paused:
            self.send("lab-tui queue pause", self.lab.client.queue("pause"))
        elif not cut_by_going_on(now):
            self.send("lab-tui queue resume", self.lab.client.queue("resume"))
        else:
            self._ask_to_resume()

    def _ask_to_resume(self) -> None:
        def told(snapshot: Snapshot) -> str:
            streams = cut_by_going_on(snapshot)
            cuts = f" and cuts {fmt.plural(streams, 'live stream')}" if streams else ""
            return f"The sweep that is next takes the fleet over{cuts}."

        self.ask(
            "Let the queue go on?",
            told,
            "Go on",
            "lab-tui queue resume",
            lambda: self.lab.client.queue("resume"),
        )

    def act_skip(self) -> None:
        """Skip the cell that is measured now, after a question: what it measured is lost."""
        sweep = self.lab.snapshot.sweep if self.lab.snapshot else None
        if sweep is None:
            self.status.say("no cell is being measured")
            return

        def told(snapshot: Snapshot) -> str:
            if (now := snapshot.sweep) is None:
                return "No cell is being measured any more."
            return f"{now.now or 'The cell'} stays without a result; sweep {now.name} goes on with the next."

        self.ask(
            "Skip this cell?",
            told,
            "Skip",
            "lab-tui queue skip",
            lambda: self.lab.client.queue("skip"),
        )

    def act_abort(self) -> None:
        """Take the selected sweep out of the queue, after a question."""
        sweep = self.selected_sweep()
        waiting = self.lab.snapshot.queue if self.lab.snapshot else ()
        if sweep is None or sweep.id not in {view.id for view in waiting}:
            self.status.say("select a sweep that runs or waits (pane 4) to abort it", False)
            return
        running = sweep.status is SweepStatus.RUNNING

        def told(snapshot: Snapshot) -> str:
            now = next((view for view in snapshot.queue if view.id == sweep.id), None)
            if now is None:
                return "It is over: nothing is left to be taken out of the queue."
            load = snapshot.load if now.status is SweepStatus.RUNNING else None
            streams = f" {fmt.plural(load.in_flight, 'stream')} of it will be cut off." if load else ""
            kept = f"{fmt.plural(now.cells_measured, 'measured cell')} will be kept."
            return f"{now.cells_total} cells, {now.status}.{streams} {kept}"

        self.ask(
            f"{'Abort' if running else 'Remove'} sweep {sweep.name} (#{sweep.id})?",
            told,
            "Abort" if running else "Remove",
            f"lab-tui queue remove {sweep.id}",
            lambda: self.lab.client.remove(sweep.id),
        )

    def act_sooner(self) -> None:
        """Put the selected waiting sweep next."""
        sweep = self.selected_sweep()
        if sweep is None or sweep.status is not SweepStatus.QUEUED:
            self.status.say("select a waiting sweep (pane 4) to put it next", False)
            return
        self.send(f"lab-tui queue move {sweep.id} 1", self.lab.client.move(sweep.id, 1))

    @work(group="past", exclusive=True)
    async def load_past(self) -> None:
        """Bring in the finished sweeps; without an engine the ones that are known stay."""
        try:
            views = await self.lab.client.sweeps()
        except LabError:
            return
        final = (SweepStatus.DONE, SweepStatus.FAILED, SweepStatus.ABORTED)
        self.past = tuple(view for view in views if view.status in final)
        self.redraw()
