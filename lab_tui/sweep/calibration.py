"""The ceilings of this machine: what our client carries, alone and through nginx, found once and kept.

The same load goes through the same nginx against a null server of ours (load/ceiling.py). It is found
when a cell is first fast enough for it to matter, with the instances idle, and kept with the name of
what it was found on; another processor, nginx or lab-tui has it found anew.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from lab_tui import __version__
from lab_tui.load.ceiling import ceiling_tps
from lab_tui.model import Data, LoadView
from lab_tui.serving.front import Front
from lab_tui.serving.nginx_conf import FrontSpec
from lab_tui.serving.parts import Nginx
from lab_tui.serving.ports import free_port
from lab_tui.serving.process import ProcessRecord
from lab_tui.sweep.machine import machine_name

STREAMS = 256  # enough that each token comes in a packet of its own
# Client and front take under 60 µs of a core for a token on the slowest machines seen: below this rate
# they are busy for less than an eighth of one core, whatever their ceiling is.
MATTERS_FROM_TPS = 2_000.0

log = logging.getLogger(__name__)
OnView = Callable[[LoadView], None]


class Ceilings(Data, frozen=True, kw_only=True):
    """What was found, and on what."""

    found_on: str = ""
    through_front_tps: float | None = None
    client_tps: float | None = None


class Calibration:
    """Finds the ceilings when they are first asked for, and keeps them in ``file``."""

    def __init__(self, folder: Path, file: Path, log_file: Path, *, wanted: bool = True) -> None:
        self._folder = folder  # of the nginx that is used for it
        self._record = folder / "running.json"  # of that nginx, while it runs
        self._file = file
        self._log = log_file
        self._wanted = wanted

    async def through_front(self, nginx: Nginx, on_view: OnView) -> float | None:
        """The most tok/s through this nginx; None when it is not to be found out.

        Takes half a minute the first time. Raises LabError when nothing comes through.
        """
        kept = self._kept(nginx)
        if kept.through_front_tps is None and self._wanted:
            found = await ceiling_tps(STREAMS, lambda address: self._front(address, nginx), on_view=on_view)
            kept = self._keep(msgspec.structs.replace(kept, through_front_tps=found))
        return kept.through_front_tps

    async def client(self, nginx: Nginx, on_view: OnView) -> float | None:
        """The most tok/s of the client alone; as :meth:`through_front`."""
        kept = self._kept(nginx)
        if kept.client_tps is None and self._wanted:
            found = await ceiling_tps(STREAMS, on_view=on_view)
            kept = self._keep(msgspec.structs.replace(kept, client_tps=found))
        return kept.client_tps

    async def clear(self) -> None:
        """End the nginx of a calibration in which an engine was killed, by its record."""
        try:
            record = msgspec.json.decode(self._record.read_bytes(), type=ProcessRecord)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            log.warning("%s cannot be read (%s): `lab-tui doctor` finds what was left", self._record, error)
        else:
            front = Front(self._folder, self._log, _ignore)
            await front.adopt(record)
            await front.stop()
        self._record.unlink()

    # -- inside

    def _kept(self, nginx: Nginx) -> Ceilings:
        here = found_on(nginx)
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=Ceilings)
        except FileNotFoundError:
            return Ceilings(found_on=here)
        except msgspec.DecodeError as error:
            log.warning("%s cannot be read (%s): the ceilings are found anew", self._file, error)
            return Ceilings(found_on=here)
        return kept if kept.found_on == here else Ceilings(found_on=here)

    def _keep(self, ceilings: Ceilings) -> Ceilings:
        candidate = self._file.with_suffix(".new")
        candidate.write_bytes(msgspec.json.encode(ceilings))
        candidate.replace(self._file)
        log.info("ceilings: %s", ceilings)
        return ceilings

    @asynccontextmanager
    async def _front(self, address: str, nginx: Nginx) -> AsyncIterator[str]:
        """A front of its own before one null server; its URL."""
        self._folder.mkdir(parents=True, exist_ok=True)

        def keep_record() -> None:
            if front.record is not None:
                self._record.write_bytes(msgspec.json.encode(front.record))

        front = Front(self._folder, self._log, keep_record)
        spec = FrontSpec(host="127.0.0.1", port=free_port(), backends=(address,), max_streams=STREAMS)
        try:
            await front.apply(spec, nginx)
            yield spec.url
        finally:
            await front.stop()
            self._record.unlink(missing_ok=True)


def found_on(nginx: Nginx) -> str:
    """What the ceilings depend on, as one line."""
    return f"{machine_name()}, nginx {nginx.version_text}, {__version__}"


def _ignore() -> None:
    """Nobody looks at the front of a calibration."""
