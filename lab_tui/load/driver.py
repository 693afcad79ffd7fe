"""Makes one measurement: probe, warm, run, watch for the window, stop, drain, reconcile.

Everything that costs time happens in worker processes; here are only decisions, ten times a second.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from lab_tui import tasks
from lab_tui.load.backends import Backends, Counters, quantum
from lab_tui.load.checks import check
from lab_tui.load.plan import Backend, Limits, LoadPlan, Target
from lab_tui.load.pool import Pool, workers_for
from lab_tui.load.probe import Found, probe
from lab_tui.load.record import Record
from lab_tui.load.sample import Counted, Outcome
from lab_tui.load.stats import interval, percentile
from lab_tui.load.summary import summarise
from lab_tui.load.window import HAND, REQUESTS, Closing, may_open, patience_s
from lab_tui.load.wire import REPORT_S, Message, Report, Run, Setup, Stop, Warm, Warmed
from lab_tui.model import LabError, LoadView, Measurement, Phase
from lab_tui.text import plural

__all__ = ["Backend", "Limits", "LoadPlan", "Target", "measure"]

VIEW_S = 0.15
TICK_S = 0.05
WARM_TOKENS = 4
WARM_FRONT = 16  # warm-up requests where no instance can be told apart
STOP_S = 10.0
FAILED_EACH = 2  # failures per stream, and nothing else, after which a run is given up

OnView = Callable[[LoadView], None]
T = TypeVar("T")


async def measure(plan: LoadPlan, on_view: OnView, stop: asyncio.Event | None = None) -> Measurement:
    """Load the target as planned and return what was found.

    ``on_view`` is called at least five times a second, in this task's loop. ``stop`` closes the window
    by hand: what was measured until then is the result. Raises LabError when the
    plan cannot be carried out or nothing at all could be measured. On cancellation every worker is
    dead before the CancelledError goes on.
    """
    await asyncio.to_thread(check, plan)
    try:
        async with asyncio.TaskGroup() as group:
            run = _Measuring(plan, on_view, group, stop or asyncio.Event())
            ticker = group.create_task(run.tick())
            try:
                return await run.go()
            finally:
                ticker.cancel()
    except BaseExceptionGroup as several:
        # One failure is enough to say; the tasks of a measurement fail together.
        raise _first(several) from several


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    found: list[BaseException] = list(_leaves(several))
    return next((error for error in found if isinstance(error, LabError)), found[0])


def _leaves(several: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in several.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _Measuring:
    """One measurement under way."""

    def __init__(
        self, plan: LoadPlan, on_view: OnView, group: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        self.plan = plan
        self.on_view = on_view
        self.group = group
        self.stop = stop
        self.workers = workers_for(plan.concurrency, os.cpu_count() or 1)
        self.record = Record(self.workers, monotonic())
        self.phase = Phase.WARMING
        self.begun = self.entered = monotonic()
        self.opened: float | None = None
        self.warmed: list[Warmed] = []
        self.flags: list[str] = []
        self.index = {backend.address: backend.index for backend in plan.target.backends}

    # -- what a viewer sees

    async def tick(self) -> None:
        """Call ``on_view`` for ever."""
        while True:
            self.on_view(self.view())
            await asyncio.sleep(VIEW_S)

    def _enter(self, phase: Phase) -> None:
        self.phase, self.entered = phase, monotonic()
        self.on_view(self.view())  # a phase may be shorter than the time between two views

    def view(self) -> LoadView:
        """The load as it is now."""
        record = self.record
        found = None
        if self.opened is not None and self.phase is Phase.MEASURING:
            found = interval(record.rates_between(self.opened, record.seen_until))
        return LoadView(
            phase=self.phase,
            concurrency=self.plan.concurrency,
            in_flight=record.in_flight,
            tps=record.rate_now(),
            tps_by_instance={
                index: record.rate_now(upstream=address)
                for address, index in self.index.items()
                if address in record.upstreams()
            },
            ttft_p95_ms=record.ttft_p95_now(),
            requests=record.finished,
            errors=record.error_count,
            elapsed_s=monotonic() - self.begun,
            phase_s=monotonic() - self.entered,
            ci_half_width=found.relative if found and found.mean > 0 else None,
        )

    # -- the measurement, step by step

    async def go(self) -> Measurement:
        """All of it."""
        plan = self.plan
        backends = Backends(plan.target)
        try:
            async with Pool(self.workers, self.group, self._hear, plan.limits.worker_start_s) as pool:
                found = await self._unless_stopped(probe(plan, backends))
                self._set_up(pool, found)
                await self._unless_stopped(self._warm(pool, found))
                await self._unless_stopped(self._wait_for_others(backends))
                before = await backends.counters()
                self._run(pool)
                standing, closed, closed_by = await self._watch()
                self._enter(Phase.DRAINING)
                await self._stop(pool)
                await self._drain(backends)
                after = await backends.counters()
        finally:
            backends.close()
        assert self.opened is not None
        inside = self.record.tokens_at(closed) - self.record.tokens_at(self.opened)
        if (self.record.tokens if closed_by == REQUESTS else inside) < 0.5:
            raise self._nothing()
        gone_up = partial(_delta, before, after, len(plan.target.backends))
        outcome = Outcome(
            standing=standing,
            opened=self.opened,
            closed=closed,
            closed_by=closed_by,
            metrics=gone_up(lambda counters: counters.predicted),
            prompts=gone_up(lambda counters: counters.prompts),
            flags=tuple(self.flags),
        )
        # In a thread: a hundred thousand answers take longer to sort than the loop may wait.
        return await asyncio.to_thread(summarise, plan, found, self.record, outcome)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives. Raises LabError once the measurement is to stop: nothing was measured yet."""
        task = asyncio.create_task(work, name="getting ready")
        stopped = asyncio.create_task(self.stop.wait(), name="told to stop")
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise LabError("stopped before the load began", "nothing was measured")
            return task.result()
        finally:
            await tasks.end(task)
            await tasks.end(stopped)

    def _hear(self, worker: int, message: Message) -> None:
        match message:
            case Report():
                self.record.add(worker, message)
            case Warmed():
                self.warmed.append(message)

    def _set_up(self, pool: Pool, found: Found) -> None:
        for worker in range(self.workers):
            setup = Setup(
                url=self.plan.target.url,
                api_key=self.plan.target.api_key,
                recipe=found.recipe,
                workload=self.plan.workload,
                limits=self.plan.limits,
                worker=worker,
                workers=self.workers,
            )
            pool.order(worker, setup)

    async def _warm(self, pool: Pool, found: Found) -> None:
        """Have every slot that was never used generate a little; the same through the front."""
        slots = found.slots
        if not self.plan.target.backends:
            slots = tuple(("", at) for at in range(min(self.plan.concurrency, WARM_FRONT)))
        for worker in range(self.workers):
            share = slots[worker :: self.workers]
            pool.order(worker, Warm(slots=share, output_tokens=WARM_TOKENS))
        while len(self.warmed) < self.workers:
            await asyncio.sleep(TICK_S)
        failed = [answer for warmed in self.warmed for answer in warmed.answers if answer.kind]
        if failed:
            words = f"{failed[0].kind} {failed[0].detail}".strip()
            self.flags.append(f"warm-up: {len(failed)} of {len(slots)} slots failed: {words}")

    async def _wait_for_others(self, backends: Backends) -> None:
        """Begin with idle instances, as far as there are any within the limit."""
        since = monotonic()
        await backends.drain(self.plan.limits.drain_s)
        if (waited := monotonic() - since) >= 1:
            self.flags.append(f"waited {waited:.0f} s before it began: instances were at work for others")

    def _run(self, pool: Pool) -> None:
        plan = self.plan
        self.record = Record(self.workers, monotonic() // REPORT_S * REPORT_S)
        streams = _shares(plan.concurrency, self.workers)
        requests = _shares(plan.window.requests or 0, self.workers)
        for worker in range(self.workers):
            order = Run(
                streams=streams[worker],
                first_stream=sum(streams[:worker]),
                all_streams=plan.concurrency,
                requests=requests[worker] if plan.window.requests else None,
                rate=plan.workload.rate / self.workers if plan.workload.rate else None,
                spread=not plan.window.requests and not plan.workload.rate,
            )
            pool.order(worker, order)

    async def _watch(self) -> tuple[float, float, str]:
        """Wait for the window to open and to close; when the load stood, the end, and why."""
        if self.plan.window.requests:
            return await self._watch_requests()
        standing = await self._open()
        self._enter(Phase.MEASURING)
        assert self.opened is not None
        closing = Closing(self.plan.window)
        while True:
            await asyncio.sleep(TICK_S)
            rates = self.record.rates_between(self.opened, self.record.seen_until)
            why = closing.look(rates, self._request_s())
            if not why and self._silent():
                self.flags.append(f"silence: nothing came for {self.plan.limits.silence_s:.0f} s")
                why = "silence"
            if self.stop.is_set():
                why = why or HAND
            if why:
                self._note_backlog()
                length_s = min(len(rates) * REPORT_S, self.plan.window.max_s)
                return standing, self.opened + length_s, why

    async def _watch_requests(self) -> tuple[float, float, str]:
        self._enter(Phase.MEASURING)
        record = self.record
        self.opened = record.start
        cut = ""
        while not record.done:
            await asyncio.sleep(TICK_S)
            if self._silent():
                self.flags.append(f"silence: nothing came for {self.plan.limits.silence_s:.0f} s")
                cut = "silence"
                break
            if self.stop.is_set():
                self.flags.append(f"stopped by hand after {record.finished} of {self.plan.window.requests}")
                cut = HAND
                break
        if not record.answers and self.stop.is_set():
            raise LabError("stopped before an answer was whole", "nothing was measured")
        if not record.answers:
            raise self._nothing()
        self.opened = min(answer.begun for answer in record.answers)
        per_stream = (self.plan.window.requests or 0) / self.plan.concurrency
        if self.plan.concurrency > 1 and per_stream < 4:
            self.flags.append(f"{per_stream:.1f} requests a stream: ramp and tail count too")
        if cut:
            return record.start, record.seen_until, cut
        return record.start, max(answer.ended for answer in record.answers), REQUESTS

    async def _open(self) -> float:
        """Wait until the load is steady, and open the window; the moment all streams were out."""
        record, plan = self.record, self.plan
        standing: int | None = None  # number of the rate bin in which all streams were out
        while True:
            await asyncio.sleep(TICK_S)
            if record.begun >= plan.concurrency or plan.workload.rate:
                standing = len(record.rates) if standing is None else standing
            self._give_up_if_all_fails()
            if self.stop.is_set():
                raise LabError("stopped before the load was steady", "nothing was measured")
            open_loop = plan.workload.rate is not None
            first = record.first_token
            patient = first is None or monotonic() - first < patience_s(plan.window)
            since = record.rates[standing:] if standing is not None else []
            if may_open(since, record.in_flight, plan.concurrency, open_loop):
                break
            if not patient:
                self.flags.append("unsteady: the rate had not settled when the window opened")
                break
        self.opened = record.start + len(record.rates) * REPORT_S
        return record.start + (standing or 0) * REPORT_S

    def _note_backlog(self) -> None:
        """Open loop: say when requests come due faster than they are answered."""
        waiting = self.record.waiting
        if self.plan.workload.rate and waiting > max(2, 0.1 * self.record.begun):
            self.flags.append(
                f"backlog: {plural(waiting, 'request')} due had no free stream when the window closed"
            )

    def _request_s(self) -> float | None:
        """Median length in seconds of the whole requests so far."""
        lengths = sorted(
            answer.ended - answer.begun
            for answer in self.record.answers[-1000:]
            if not answer.kind and not answer.ramp
        )
        return percentile(lengths, 0.5)

    def _silent(self) -> bool:
        return monotonic() - self.record.moved > self.plan.limits.silence_s

    def _give_up_if_all_fails(self) -> None:
        record = self.record
        enough = max(8, FAILED_EACH * self.plan.concurrency)
        if not record.tokens and (self._silent() or record.error_count >= enough):
            raise self._nothing()

    def _nothing(self) -> LabError:
        """Why there is nothing to report."""
        record = self.record
        if record.errors:
            kind, count = record.errors.most_common(1)[0]
            words = f": {record.details[kind]}" if kind in record.details else ""
            return LabError(f"every request failed: {kind} ({count}){words}", "see the log of the server")
        return LabError(
            f"no token came from {record.begun} requests in {monotonic() - record.start:.0f} s",
            "is the server stuck, or its queue longer than that?",
        )

    async def _stop(self, pool: Pool) -> None:
        for worker in range(self.workers):
            pool.order(worker, Stop())
        deadline = monotonic() + STOP_S
        while not self.record.done and monotonic() < deadline:
            await asyncio.sleep(TICK_S)

    async def _drain(self, backends: Backends) -> None:
        if not await backends.drain(self.plan.limits.drain_s):
            self.flags.append(f"drain: instances were still at work after {self.plan.limits.drain_s:.0f} s")


def _shares(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _delta(
    before: dict[int, Counters],
    after: dict[int, Counters],
    expected: int,
    count: Callable[[Counters], float | None],
) -> Counted | None:
    """By how much a count of all instances together went up between two readings; None if one is missing."""
    if not expected or len(before.keys() & after.keys()) != expected:
        return None
    total, error = 0.0, 0.0
    for index, reading in before.items():
        early, late = count(reading), count(after[index])
        if early is None or late is None or late < early:
            return None
        total += late - early
        error += quantum(late)
    return Counted(total, error)
