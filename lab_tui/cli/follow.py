"""A sweep that is followed to its end at the command line, and a fleet that comes back after it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from lab_tui.cli.output import Progress, number, say
from lab_tui.cli.status import sweep_line
from lab_tui.client import EngineClient, EngineGone
from lab_tui.model import LabError, Snapshot, SweepDetail, SweepView


async def follow(client: EngineClient, sweep_id: int, csv: Path | None) -> None:
    """Show a sweep until it is over. Ctrl-C aborts it; what it measured is kept.

    Raises LabError when the queue has paused by itself: nothing would ever come.
    """
    progress = Progress(every_s=10.0)
    finished: int | None = -1
    told: set[int] = set()
    try:
        async with aclosing(client.watch(1.0)) as snapshots:
            async for snapshot in snapshots:
                view = next((s for s in snapshot.queue if s.id == sweep_id), None)
                over = _finished(view) if view is not None else None
                if over != finished:
                    finished = over
                    detail = await client.sweep_detail(sweep_id)
                    if csv is not None:
                        await _write(csv, detail)
                    progress.done()
                    tell_new(detail, told)
                if view is None:
                    return
                if snapshot.queue_paused_why and snapshot.sweep is None:
                    progress.done()
                    raise _held(sweep_id, snapshot)
                progress.show(
                    sweep_line(view) + (f"  {number(snapshot.load.tps)} tok/s" if snapshot.load else "")
                )
        raise EngineGone
    except asyncio.CancelledError:
        progress.done()
        await abort(client, sweep_id)
        raise


async def abort(client: EngineClient, sweep_id: int) -> None:
    """Abort a sweep and say what came of it, once that is kept: a store that fails keeps no end either."""
    measured = f"`lab-tui results show {sweep_id}` has what was measured"
    try:
        await client.remove(sweep_id)
        async with aclosing(client.watch(1.0)) as snapshots:
            async for snapshot in snapshots:
                if all(view.id != sweep_id for view in snapshot.queue):
                    status = (await client.sweep_detail(sweep_id)).view.status
                    say(f"sweep {sweep_id} {status}; {measured}")
                    return
                if snapshot.queue_paused_why and snapshot.sweep is None:
                    raise _held(sweep_id, snapshot)
    except LabError as error:
        say(f"sweep {sweep_id} is not aborted: {error}")


def _held(sweep_id: int, snapshot: Snapshot) -> LabError:
    """That the queue has paused by itself before the sweep was over, and why."""
    return LabError(
        f"sweep {sweep_id} waits, the queue is paused: {snapshot.queue_paused_why}",
        "once that is mended, `lab-tui queue resume` goes on",
    )


async def given_back(client: EngineClient, known: tuple[str, ...]) -> None:
    """Wait until the fleet of before is, unless other sweeps come first; say notices beyond ``known``."""
    async with aclosing(client.watch(1.0)) as snapshots:
        async for snapshot in snapshots:
            if snapshot.queue:
                return
            if not snapshot.fleet_owed:
                for notice in snapshot.notices:
                    if notice not in known:
                        say(f"! {notice}")
                return
    raise EngineGone


def _finished(view: SweepView) -> int:
    return view.cells_measured + view.cells_failed + view.cells_skipped


def tell_new(detail: SweepDetail, told: set[int]) -> None:
    """Say what each cell gave that is not yet in ``told``."""
    from lab_tui.sweep.space import label

    new = [cell for cell in detail.cells if cell.took_s is not None and cell.index not in told]
    for cell in sorted(new, key=lambda c: (c.started or 0.0, c.index)):
        told.add(cell.index)
        if cell.result is not None:
            say(f"{label(cell.cell):<16} {cell.result.throughput_tps:10,.1f} tok/s  {cell.result.verdict}")
        else:
            say(f"{label(cell.cell):<16} {cell.status}: {cell.reason}")


async def _write(csv: Path, detail: SweepDetail) -> None:
    from lab_tui.store.export import to_csv

    try:
        await asyncio.to_thread(csv.write_text, to_csv(detail), "utf-8")
    except OSError as error:
        raise LabError(
            f"cannot write {csv} ({error.strerror}), sweep {detail.view.id} goes on",
            f"later: `lab-tui results export {detail.view.id} --format csv -o FILE`",
        ) from error
