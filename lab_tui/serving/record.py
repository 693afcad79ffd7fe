"""What one engine leaves the next of a fleet: a file beside its socket."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lab_tui.model import Data, FleetSpec
from lab_tui.serving.placement import Seat
from lab_tui.serving.process import ProcessRecord


class FleetRecord(Data, frozen=True, kw_only=True):
    """What the next engine needs to take the fleet over."""

    spec: FleetSpec
    commands: tuple[tuple[str, ...], ...]
    wanted: tuple[int, ...]
    processes: dict[int, ProcessRecord]
    front: ProcessRecord | None
    seats: tuple[Seat, ...] = ()  # of each instance; an engine before there were any left none
    mps: ProcessRecord | None = None  # the daemon of its own


class RecordFile:
    """The record on disk, written whenever it differs."""

    def __init__(self, file: Path) -> None:
        self.problem = ""  # why it could not be written
        self._file = file
        self._saved = b""

    def read(self) -> FleetRecord | None:
        """The record of an engine before; None when there is none. What cannot be read is removed."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=FleetRecord)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError):
            self._file.unlink(missing_ok=True)
            return None

    def write(self, record: FleetRecord) -> None:
        """Keep it; what goes wrong is in ``problem``, for what serves goes on."""
        content = msgspec.json.encode(record)
        if content == self._saved:
            return
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(content)
            draft.replace(self._file)
        except OSError as error:
            self.problem = (
                f"cannot write {self._file} ({error.strerror}): another engine would not find the fleet"
            )
        else:
            self._saved, self.problem = content, ""

    def remove(self) -> None:
        """Nothing is left to take over."""
        self._file.unlink(missing_ok=True)
        self._saved, self.problem = b"", ""
