"""How fast a model was when it was measured here, and how that reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab_tui.model import Felt, LabError, ModelFile
from lab_tui.store.store import MeasuredModel, Store, StoredSweep
from lab_tui.sweep import summary
from lab_tui.sweep.cell import model_identity
from lab_tui.sweep.runs import runs
from lab_tui.sweep.verdict import FAILING

log = logging.getLogger(__name__)


class Feels:
    """What an open store knows of models, looked at once. ``problem``: why it could not be asked."""

    def __init__(self, store: Store) -> None:
        self.problem = ""
        self._store = store
        self._measured: list[MeasuredModel] | None = None

    async def of(self, model: ModelFile) -> Felt | None:
        """How ``model`` felt, in the best cell of the sweeps of this file; None when none measured it."""
        if self.problem:
            return None
        try:
            if self._measured is None:
                self._measured = await self._store.call(self._store.measured_models)
            ids = await asyncio.to_thread(_sweeps_of, Path(model.path), self._measured)
            kept = [await self._store.call(self._store.sweep, sweep) for sweep in ids]
        except LabError as error:
            self.problem = str(error)
            log.warning("what was measured of models is not known: %s", error)
            return None
        return await asyncio.to_thread(_best, kept)


def _sweeps_of(file: Path, measured: Sequence[MeasuredModel]) -> list[int]:
    """The sweeps that measured ``file``: by its hash, by its path only where no hash was kept."""
    by_path = [one.sweep for one in measured if not one.identity and one.path == str(file)]
    try:
        alike = [one for one in measured if one.identity.get("size_bytes") == file.stat().st_size]
        identity = model_identity(file) if alike else {}
    except OSError:
        return []  # it went away since it was found
    ends = "sha256_of_ends"
    return [*by_path, *(one.sweep for one in alike if one.identity[ends] == identity[ends])]


def _best(sweeps: Iterable[StoredSweep]) -> Felt | None:
    """The cell with the most tok/s of the best cells of all of them; None where none is known."""
    found = [felt for sweep in sweeps if (felt := felt_in(sweep)) is not None]
    return max(found, key=lambda felt: felt.throughput_tps, default=None)


def felt_in(sweep: StoredSweep) -> Felt | None:
    """How the best cell of a sweep felt; None where none was measured that says it.

    Where none is the best, for none keeps the SLO: the one that made the most. Of one with several runs it
    is as it is shown: a stream as in a run that counts.
    """
    known = {
        cell.index: cell.result
        for cell, kept in zip(summary.shown(sweep.cells), sweep.cells, strict=True)
        if cell.result
        and cell.result.per_stream_tps.p50 is not None
        and FAILING not in (run.verdict for run in runs(kept))
    }
    best = summary.amount(sweep.cells, sweep.spec.slo).best
    index = best.cell - 1 if best else max(known, key=lambda i: known[i].throughput_tps, default=None)
    if index is None or index not in known:
        return None
    cell, result = sweep.cells[index].cell, known[index]
    assert result.per_stream_tps.p50 is not None
    return Felt(
        sweep=sweep.id,
        cell=index + 1,
        instances=cell.fleet.instances,
        parallel=cell.fleet.parallel,
        concurrency=cell.concurrency,
        throughput_tps=result.throughput_tps,
        stream_tps=result.per_stream_tps.p50,
        feels=result.feels,
    )
