"""What screens do with what a sweep found: apply it, export it, measure it again, hold it against another."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from textual import work

from lab_tui import config, findings
from lab_tui.model import CellStatus, CellView, FleetSpec, LabError, Snapshot, SweepDetail
from lab_tui.text import typed
from lab_tui.ui import asked
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.screens.commands import QueueCommands
from lab_tui.ui.screens.dialogs import ASLEEP, streams_on


class Target(NamedTuple):
    """What an action is for."""

    sweep: int
    cell: int | None  # its number, from 1; None: the best

    def command(self, verb: str) -> str:
        """``lab-tui VERB`` as a user would type it."""
        return f"lab-tui {verb} {self.sweep}" + ("" if self.cell is None else f" --cell {self.cell}")


class WinnerCommands(QueueCommands):
    """Apply, export, measure again, compare."""

    def target(self) -> Target | None:
        """The cell or sweep that is selected; None: nothing is."""
        raise NotImplementedError

    def _target(self) -> Target | None:
        found = self.target()
        if found is None:
            self.status.say("select a sweep or a cell first", False)
        return found

    # -- apply

    def act_apply(self) -> None:
        """Make the fleet that of the selected cell, after a question."""
        if (target := self._target()) is not None:
            self._apply(target)

    @work(group="winner", exclusive=True)
    async def _apply(self, target: Target) -> None:
        command = target.command("apply")
        try:
            detail = await self.lab.client.sweep_detail(target.sweep)
            snapshot = await self.lab.client.snapshot()
            cell = findings.chosen(detail, target.cell)
            spec = self._fleet(detail, cell, snapshot)
        except LabError as error:
            self.status.failed(command, str(error))
            return
        if snapshot.sweep is not None:
            self.status.failed(
                command, f"sweep {snapshot.sweep.id} uses the fleet: {key('pause')} pauses the queue"
            )
            return
        longer = typed(f"`{command} --ctx-per-slot N` gives longer chats room.")
        self.ask(
            f"Apply cell {cell.index + 1} of sweep {target.sweep}?",
            lambda now: f"The fleet becomes {fleet_text(spec)}.\n{longer}\n{_stops(now)}",
            "Apply",
            command,
            lambda: self.lab.client.up(spec),
        )

    def _fleet(self, detail: SweepDetail, cell: CellView, snapshot: Snapshot) -> FleetSpec:
        """The fleet of a cell on the ports of the user: those of the fleet that runs, else the settings'."""
        model = findings.model_of(detail, cell)
        mine = snapshot.fleet or config.fleet_spec(self.lab.settings, model)
        return findings.fleet_of(cell, mine, model)

    # -- export

    def act_export(self) -> None:
        """Ask for a format and a file, and write it."""
        if (target := self._target()) is not None:
            self._export(target)

    @work(group="winner", exclusive=True)
    async def _export(self, target: Target) -> None:
        from lab_tui.ui.screens.export import ExportForm

        try:
            detail = await self.lab.client.sweep_detail(target.sweep)
            snapshot = await self.lab.client.snapshot()
        except LabError as error:
            self.status.failed(target.command("export"), str(error))
            return

        def fleet() -> tuple[CellView, FleetSpec]:
            cell = findings.chosen(detail, target.cell)
            return cell, self._fleet(detail, cell, snapshot)

        def answered(written: tuple[list[Path], str] | None) -> None:
            if written is not None:
                self.status.say(f"wrote {', '.join(map(str, written[0]))}  $ {written[1]}")

        self.app.push_screen(ExportForm(self.lab.client, target.sweep, target.cell, fleet), answered)

    # -- measure again

    def act_measure_again(self) -> None:
        """Queue a sweep of the selected cell alone, after a question."""
        if (target := self._target()) is not None:
            self._measure_again(target)

    @work(group="winner", exclusive=True)
    async def _measure_again(self, target: Target) -> None:
        try:
            detail = await self.lab.client.sweep_detail(target.sweep)
            cell = again(detail, target)
            spec = findings.again(detail, cell)
        except LabError as error:
            self.status.failed("lab-tui sweep", str(error))
            return

        def told(now: Snapshot) -> str:
            waits = f" It waits: the queue is paused, {key('pause')} goes on." if now.queue_paused else ""
            return (
                f"{fmt.axes(cell.cell)}, as a sweep of its own in the queue.{waits}\n"
                f"It takes the fleet over while it runs. {streams_on(now.instances)}"
            )

        self.ask(
            f"Measure cell {cell.index + 1} of sweep {target.sweep} again?",
            told,
            "Measure",
            asked.command(spec, {}, named=True),
            lambda: self.lab.client.sweep(spec),
        )

    # -- compare

    def act_compare(self) -> None:
        """Mark the selected sweep; with another one marked, show both side by side."""
        target = self._target()
        if target is None:
            return
        marked = self.lab.marked
        if marked is None:
            self.lab.marked = target.sweep
            self.status.say(f"sweep {target.sweep} is marked: {key('compare')} on another one compares them")
        elif marked == target.sweep:
            self.lab.marked = None
            self.status.say(f"sweep {target.sweep} is not marked any more")
        else:
            from lab_tui.ui.screens.compare import CompareScreen

            self.lab.marked = None
            self.app.push_screen(CompareScreen(marked, target.sweep))
        self.redraw()


def again(detail: SweepDetail, target: Target) -> CellView:
    """The cell to measure once more: measured, failed or skipped. Raises LabError for another."""
    if target.cell is None:
        return findings.chosen(detail, None)
    cell = detail.cells[target.cell - 1]
    if cell.status in (CellStatus.PENDING, CellStatus.RUNNING):
        raise LabError(f"cell {target.cell} of sweep {target.sweep} is {cell.status}", "its turn comes")
    return cell


def fleet_text(spec: FleetSpec) -> str:
    """A fleet in words."""
    return (
        f"{fmt.plural(spec.instances, 'instance')} × {fmt.plural(spec.parallel, 'slot')} of"
        f" {fmt.model_name(spec.model)}, {fmt.plural(spec.ctx_per_slot, 'token')} of context a slot,"
        f" at http://{spec.host}:{spec.front_port}"
    )


def _stops(snapshot: Snapshot) -> str:
    """What another fleet puts an end to."""
    awake = tuple(view for view in snapshot.instances if view.state not in ASLEEP)
    if not awake or snapshot.fleet is None:
        return "Nothing runs now."
    held = f"{fmt.plural(len(awake), 'instance')} × {fmt.plural(snapshot.fleet.parallel, 'slot')}"
    model = fmt.model_name(snapshot.fleet.model)
    return f"It stops what runs: {held} of {model}. {streams_on(snapshot.instances)}"
