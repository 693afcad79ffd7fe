"""The form that writes what a sweep found to a file."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from textual.widget import Widget
from textual.widgets import Input, Select, Static

from lab_tui import files
from lab_tui.client import EngineClient
from lab_tui.model import FLEET_FORMATS, TABLE_FORMATS, CellView, ExportSpec, FleetSpec, LabError
from lab_tui.ui.screens.dialogs import ConfirmDialog
from lab_tui.ui.screens.form import Field, Form, entry

Written = tuple[list[Path], str]  # the files, and the command that does the same

WORDS = {
    "sh": "sh: a script that starts the fleet",
    "systemd": "systemd: user units",
    "compose": "compose: containers",
    "nginx": "nginx: the configuration alone",
    "csv": "csv: every cell, llama-throughput-lab's columns first",
    "json": "json: every cell",
    "md": "md: a table for a report",
}


class ExportForm(Form[Written]):
    """Format and place. Nothing that is there is overwritten without a question."""

    TITLE = "Export"
    START = "Write"

    def __init__(
        self,
        client: EngineClient,
        sweep: int,
        cell: int | None,
        fleet: Callable[[], tuple[CellView, FleetSpec]],
    ) -> None:
        """``fleet`` gives the chosen cell and its fleet, or raises LabError with why there is none."""
        super().__init__()
        self._client, self._sweep, self._cell, self._fleet = client, sweep, cell, fleet
        self._usual = ""  # the path that was filled in last, by the form itself

    def fields(self) -> Iterator[Widget]:
        """What and where."""
        chosen = "its best cell" if self._cell is None else f"its cell {self._cell}"
        yield Static(f"Sweep {self._sweep}, or the fleet of {chosen}", classes="name")
        options = [(WORDS[name], name) for name in (*FLEET_FORMATS, *TABLE_FORMATS)]
        yield Field("format", Select[str](options, allow_blank=False, id="format", compact=True))
        yield Field("file or folder", entry("", "path"))

    def on_mount(self) -> None:
        """The format is what differs most."""
        self.query_one("#format", Select).focus()

    def on_select_changed(self, event: Select.Changed) -> None:
        """A path that nobody typed goes with the format."""
        path = self.query_one("#path", Input)
        if path.value == self._usual:
            path.value = self._usual = str(usual_place(self._sweep, self._cell, str(event.value)))

    def submit(self) -> Coroutine[Any, Any, Written]:
        """Ask the engine for the files, and write them here."""
        format_ = str(self.query_one("#format", Select).value)
        output = self.path("path")
        if not output:
            raise LabError("no file is named", "give a path")
        spec = ExportSpec(format=format_, sweep=self._sweep)
        if format_ in FLEET_FORMATS:
            cell, fleet = self._fleet()
            origin = f"lab-tui sweep {self._sweep}, cell {cell.index + 1}"
            spec = ExportSpec(format=format_, sweep=self._sweep, fleet=fleet, origin=origin)
        return self._write(spec, Path(output))

    async def _write(self, spec: ExportSpec, output: Path) -> Written:
        targets = files.places(await self._client.export(spec), output)
        there, older = files.taken(targets), await asyncio.to_thread(files.left_over, targets)
        if there or older:
            lines = [f"{path} exists." for path in there]
            lines += [f"{path} is of an older export and goes." for path in older]
            question = ConfirmDialog("Overwrite?", "\n".join(lines), "Overwrite")
            if not await self.app.push_screen_wait(question):
                raise LabError(f"{[*there, *older][0]} is as it was", "choose another place")
        await asyncio.to_thread(files.remove, older)
        await asyncio.to_thread(files.write, targets)
        return list(targets), self._command(spec.format, output, bool(there or older))

    def _command(self, format_: str, output: Path, forced: bool) -> str:
        if format_ in TABLE_FORMATS:
            words = ["lab-tui", "results", "export", str(self._sweep)]
        else:
            words = ["lab-tui", "export", str(self._sweep)]
            words += [] if self._cell is None else ["--cell", str(self._cell)]
            words += ["--force"] if forced else []
        return shlex.join([*words, "--format", format_, "-o", str(output)])


def usual_place(sweep: int, cell: int | None, format_: str) -> Path:
    """Where such a file goes: units where systemd looks for them, the rest into the working folder."""
    if format_ == "systemd":
        return Path.home() / ".config" / "systemd" / "user"
    if format_ in TABLE_FORMATS:
        return Path.cwd() / f"sweep-{sweep}.{format_}"
    name = f"fleet-{sweep}-{'best' if cell is None else cell}"
    endings = {"sh": ".sh", "compose": ".compose.yaml", "nginx": ".nginx.conf"}
    return Path.cwd() / f"{name}{endings[format_]}"
