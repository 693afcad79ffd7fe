"""The fleet that was up before the queue took the machine, kept in a file: it is given back even after
the engine that began has died.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from lab_tui.model import Data, FleetSpec, LabError
from lab_tui.serving.fleet import Fleet

log = logging.getLogger(__name__)


class Taken(Data, frozen=True, kw_only=True):
    """What was there. ``None``: no fleet was up."""

    fleet: FleetSpec | None


class Before:
    """Remembers the fleet from :meth:`take` until :meth:`give_back` or :meth:`forget`."""

    def __init__(self, fleet: Fleet, file: Path) -> None:
        self._fleet = fleet
        self._file = file
        self._taken: Taken | None = None
        self.notice = ""  # why the fleet of before is not up, one line; until somebody decides on the fleet
        try:
            self._taken = msgspec.json.decode(file.read_bytes(), type=Taken)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read (%s): the fleet in it is not given back", file, error)

    @property
    def owed(self) -> bool:
        """Whether there is something to be given back."""
        return self._taken is not None

    def take(self) -> None:
        """Note the fleet that is up now, unless one is noted. Raises LabError when it cannot be kept."""
        if self._taken is None:
            taken = Taken(fleet=self._fleet.spec)
            try:
                self._file.write_bytes(msgspec.json.encode(taken))
            except OSError as error:
                raise LabError(
                    f"cannot write {self._file} ({error.strerror})", "free disk space or mend its permissions"
                ) from error
            self._taken = taken

    def forget(self) -> None:
        """Somebody else decided on the fleet: nothing is to be given back."""
        self.notice = ""
        self._let_go()

    def _let_go(self) -> None:
        self._taken = None
        self._file.unlink(missing_ok=True)

    async def give_back(self) -> None:
        """Make the fleet what it was; nothing happens when none is noted.

        One that cannot be had again is said in ``notice``, and that of the last cell, which has no keys, is
        stopped: it serves nobody who knows of it.
        """
        taken = self._taken
        if taken is None:
            return
        try:
            if taken.fleet is None:
                await self._fleet.down()
            else:
                await self._fleet.up(taken.fleet)
        except LabError as error:
            log.error("the fleet from before the sweep could not be restored: %s", error)
            way = f"{error.remedy}, then start it anew" if error.remedy else "mend that and start it anew"
            self.notice = f"the fleet from before the sweep is down: {error.message}: {way}"
            await self._fleet.down()
        self._let_go()
