"""The fleet that somebody started last, kept in a file: starting again means that one, also tomorrow."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from lab_tui.model import FleetSpec

log = logging.getLogger(__name__)


class LastFleet:
    """``spec`` is None before a fleet was ever started. What a sweep starts for its cells does not count."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.spec: FleetSpec | None = None
        try:
            self.spec = msgspec.json.decode(file.read_bytes(), type=FleetSpec)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read (%s): the fleet in it is not offered again", file, error)

    def keep(self, spec: FleetSpec) -> None:
        """Remember ``spec``; where it cannot be written, until this engine ends."""
        if spec == self.spec:
            return
        self.spec = spec
        try:
            self._file.write_bytes(msgspec.json.encode(spec))
        except OSError as error:
            log.warning("cannot write %s (%s): the next engine will not offer that fleet", self._file, error)
