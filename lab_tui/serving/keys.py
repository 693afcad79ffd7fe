"""The API keys of a fleet: those it was started with, and the copy of them that its parts read."""

from __future__ import annotations

import logging
from pathlib import Path

from lab_tui import access
from lab_tui.model import FleetSpec, LabError

log = logging.getLogger(__name__)


class Keys:
    """``given`` are those that instances and front take; () when they ask for none, or none are known."""

    def __init__(self, runtime: Path) -> None:
        self.given: tuple[str, ...] = ()
        self.problem = ""  # why those of a fleet that was taken over are not known
        self._runtime = runtime

    def give(self, keys: tuple[str, ...]) -> None:
        """Have whatever begins from now on know these. Raises LabError when they cannot be kept."""
        access.keep_copy(keys, self._runtime)
        self.given, self.problem = keys, ""

    def adopt(self, spec: FleetSpec) -> None:
        """Those of a fleet that is taken over. Without them it goes on serving, and is not asked."""
        try:
            self.given = access.read_keys(access.served(spec, self._runtime))
        except LabError as error:
            self.problem = f"{error.message}: it serves on with those, unread; `lab-tui up` begins anew"
            log.warning("%s", self.problem)
