"""What held a cell back: a list of rules, read from top to bottom; the first that fires is the verdict.

The order is from "these figures are no good" over "it was not the model" to "this resource was
full". Each rule gives the readings that made it fire, so that a reader can disagree.
"""

from __future__ import annotations

from collections.abc import Callable

from lab_tui.model import Data, MachineLoad, Measurement, Others
from lab_tui.sweep import deaths
from lab_tui.text import plural

FAILING = "failing"
NO_MEMORY = "memory did not fit"
CLIENT = "client-bound"
FRONT = "front-bound"
UNSTABLE = "unstable"
GPU = "GPU saturated"
CPU = "CPU saturated"
SLOTS = "slots full"
UNDER_LOADED = "under-loaded"
BACKLOG = "backlog"
UNCLEAR = "no clear limit"

ERROR_SHARE = 0.01  # failed requests, as a share of all, from which a cell is failing
NEAR_CEILING = 0.70  # of what client and front can carry on this machine
LATE_LOOP_MS = 50.0  # p99 of how late a load worker came round
OTHERS = "requests of others"
MOVED = ("drift", "unsteady", "silence")  # flags of a rate that was not one
SHARED = 0.01  # of the tokens were others': from there on figures are not of the load alone
WIDE = 0.10  # half-width of the interval, as a share of tok/s
CLIENT_PART = 0.25  # of the processor time in use: with less, it is not the client that fills a processor
BUSY_PCT = 90.0  # utilisation that counts as full
OTHER_WORK_PCT = 10.0  # of all processors, taken by what is not ours, from which it is worth a word
CAPPED_PCT = 90.0  # of the power cap: a card that draws so much has nothing left
ALL_BUSY = 0.90  # of the slots, in the mean: more is as full as random arrivals make them
WAITING_SHARE = 0.25  # of a request's life spent before its first token, with more streams than slots
MEMORY_WORDS = ("out of memory", "failed to allocate", "unable to allocate", "cannot allocate memory")


class Conditions(Data, frozen=True, kw_only=True):
    """What was read around a measurement. ``None``: not known, and no rule fires on it."""

    slots_total: int | None = None
    cores: int | None = None
    cpu_pct: float | None = None  # mean of all cores inside the window
    gpu_util_pct: float | None = None  # mean of the cards inside the window
    gpu_power_pct: float | None = None  # mean power as a share of the cap
    throttled: tuple[str, ...] = ()  # what slowed the cards, for a reader
    ceiling_tps: float | None = None  # tok/s that client and front carry with nothing behind them
    client_tps: float | None = None  # tok/s that the client carries without the front
    memory_error: str = ""  # a log line of an instance that ran out of memory


Reason = tuple[str, ...]  # readings; empty when a rule does not fire
Rule = Callable[[Measurement, Conditions], Reason]


def judge(m: Measurement, c: Conditions) -> tuple[str, tuple[str, ...]]:
    """The verdict on a measurement, the readings that led to it, and what slowed the cards meanwhile."""
    for verdict, rule in RULES:
        readings = rule(m, c)
        if readings:
            return verdict, (*readings, *c.throttled)
    return UNCLEAR, (*_around(m, c), *c.throttled)


def memory(m: Measurement, c: Conditions) -> Reason:
    """An instance said so, or the server's own errors do."""
    if c.memory_error:
        return (c.memory_error,)
    said = (flag for flag in m.flags if not flag.startswith(deaths.BEGINS))  # a kill only may be for memory
    return tuple(flag for flag in said if any(word in flag.lower() for word in MEMORY_WORDS))


def failing(m: Measurement, c: Conditions) -> Reason:
    """An instance died or hung, or more than one request in a hundred failed."""
    assert m.requests is not None  # measured here
    out = tuple(flag for flag in m.flags if flag.startswith(deaths.BEGINS))
    total = m.requests + m.errors
    if m.errors <= ERROR_SHARE * total:
        return out
    kinds = ", ".join(f"{kind} {count}" for kind, count in m.errors_by_kind.items())
    return (*out, f"{m.errors} failed and {plural(m.requests, 'finished request')}", kinds)


def client_bound(m: Measurement, c: Conditions) -> Reason:
    """The load generator could not keep up: its loop ran late, or it was near its own ceiling."""
    lag = m.client.loop_lag_ms_p99
    if lag is not None and lag > LATE_LOOP_MS and not _crowded_out(m, c):
        return (f"load workers ran {lag:.0f} ms late (p99), {LATE_LOOP_MS:.0f} ms is the most",)
    if is_near(m, c.ceiling_tps) and (c.client_tps is None or is_near(m, c.client_tps)):
        return (_ceiling(m, c.ceiling_tps, "client and front"),)
    return ()


def front_bound(m: Measurement, c: Conditions) -> Reason:
    """Near what goes through the front, while the client alone carries far more."""
    if is_near(m, c.ceiling_tps) and c.client_tps is not None:
        return (
            _ceiling(m, c.ceiling_tps, "client and front"),
            f"without the front {c.client_tps:,.0f} tok/s",
        )
    return ()


def is_shared(m: Measurement) -> bool:
    """Whether others had so much of the instances that the figures are not of the load alone.

    Only when they were seen: that servers count more than we got can have other reasons.
    """
    return m.others is not None and bool(m.others.requests) and m.others.share > SHARED


def others_flags(others: Others | None) -> tuple[str, ...]:
    """What a reader must know of the requests of others, a line or none."""
    if others is None:
        return ()
    parts = ((others.tokens, "token"), (others.prompt_tokens, "prompt token"))
    tokens = " and ".join(plural(count, what) for count, what in parts if count)
    if not others.requests and others.tokens:
        return ()  # said already: it is where the counts of tokens are compared
    if not others.requests:
        return (f"tokens do not reconcile: /metrics counts {tokens} more, and nobody asked beside us",)
    what = f"about {others.requests}"
    if not tokens and others.share <= SHARED:
        return (f"{OTHERS}: {what} in the window, with too few tokens to matter",)
    if not tokens:
        return (f"{OTHERS}: {what} at work throughout, {others.share:.0%} of all",)
    part = f"{others.share:.0%} of all" if others.share > SHARED else "too few to matter"
    return (f"{OTHERS}: {what} in the window ({tokens}, {part})",)


def other_work_flags(machine: MachineLoad) -> tuple[str, ...]:
    """That other work had a share of processors that were full, or nothing."""
    other = machine.other_work_pct
    if other is None or other < OTHER_WORK_PCT or machine.cpu_pct is None or machine.cpu_pct < BUSY_PCT:
        return ()
    return (f"other work took {other:.0f} % of the processors, which were full: without it there is more",)


def unstable(m: Measurement, c: Conditions) -> Reason:
    """The figures moved too much to be one number, or others had a part of what there was."""
    moved = (*MOVED, OTHERS) if is_shared(m) else MOVED
    readings = [flag for flag in m.flags if flag.startswith(moved)]
    if m.throughput_ci95_tps is not None and m.throughput_tps > 0:
        relative = m.throughput_ci95_tps / m.throughput_tps
        if relative > WIDE:
            readings.append(f"the 95 % interval is ±{relative:.0%}")
    return tuple(readings)


def gpu_capped(m: Measurement, c: Conditions) -> Reason:
    """The cards draw all the power they may."""
    if c.gpu_power_pct is None or c.gpu_power_pct < CAPPED_PCT:
        return ()
    return (f"GPU at {c.gpu_power_pct:.0f} % of its power cap", *_full("GPU", c.gpu_util_pct))


def gpu_saturated(m: Measurement, c: Conditions) -> Reason:
    """The cards had no time left.

    Asked after the slots: a card counts as busy while any kernel runs, so one stream can make it 100 %
    busy although sixteen would be served as fast.
    """
    return _full("GPU", c.gpu_util_pct)


def slots_full(m: Measurement, c: Conditions) -> Reason:
    """More streams than slots, and requests wait for one a good part of their life."""
    if c.slots_total is None or m.concurrency <= c.slots_total:
        return ()
    wait, life = m.ttft_ms.p50, m.e2e_ms.p50
    more = f"{plural(m.concurrency, 'stream')} for {plural(c.slots_total, 'slot')}"
    if wait is None or life is None:
        return (more, *_around(m, c))
    if wait < WAITING_SHARE * life:
        return ()
    return (more, f"median TTFT {wait:,.0f} ms of {life:,.0f} ms E2E", *_around(m, c))


def cpu_saturated(m: Measurement, c: Conditions) -> Reason:
    """The processor had no time left."""
    return _full("CPU", c.cpu_pct)


def under_loaded(m: Measurement, c: Conditions) -> Reason:
    """Slots were left empty: fewer streams than slots, or an open loop that asks for less than there is."""
    if c.slots_total is None or backlog(m, c):
        return ()
    if m.rate is not None:
        busy = m.machine.slots_busy if m.machine else None
        if busy is None or busy >= ALL_BUSY * c.slots_total:
            return ()
        said = f"{m.rate:g} requests a second keep {busy:.1f} of {c.slots_total} slots busy"
        return (said, *_around(m, c))
    if m.concurrency >= c.slots_total:
        return ()
    return (f"{plural(m.concurrency, 'stream')} for {plural(c.slots_total, 'slot')}", *_around(m, c))


def backlog(m: Measurement, c: Conditions) -> Reason:
    """Open loop: requests came due faster than the streams, that -c bounds, could take them up."""
    waiting = tuple(flag for flag in m.flags if flag.startswith("backlog"))
    return (*waiting, f"{plural(m.concurrency, 'stream')} at most") if waiting else ()


RULES: tuple[tuple[str, Rule], ...] = (
    (NO_MEMORY, memory),
    (FAILING, failing),
    (CLIENT, client_bound),
    (FRONT, front_bound),
    (UNSTABLE, unstable),
    (GPU, gpu_capped),
    (CPU, cpu_saturated),
    (UNDER_LOADED, under_loaded),
    (SLOTS, slots_full),
    (BACKLOG, backlog),
    (GPU, gpu_saturated),
)


def _full(name: str, pct: float | None) -> Reason:
    if pct is None or pct < BUSY_PCT:
        return ()
    return (f"{name} {pct:.0f} % busy",)


def _crowded_out(m: Measurement, c: Conditions) -> bool:
    """Whether the load workers ran late because others filled the processor."""
    cost = m.client.cpu_us_per_token
    if cost is None or c.cores is None or c.cpu_pct is None or c.cpu_pct < BUSY_PCT:
        return False
    return cost * m.throughput_tps / 1e6 < CLIENT_PART * c.cores * c.cpu_pct / 100


def lateness(m: Measurement, c: Conditions) -> str:
    """What it means for the figures that others crowded the load workers out; "" where none did."""
    lag = m.client.loop_lag_ms_p99
    if lag is None or lag <= LATE_LOOP_MS or not _crowded_out(m, c):
        return ""
    return (
        f"late: the processors are full, so the load ran {lag:.0f} ms late (p99), and latencies are too long"
    )


def is_near(m: Measurement, ceiling_tps: float | None) -> bool:
    """Whether the figures say more about what carries the load than about the model."""
    return ceiling_tps is not None and m.throughput_tps > NEAR_CEILING * ceiling_tps


def _ceiling(m: Measurement, ceiling_tps: float | None, what: str) -> str:
    share = m.throughput_tps / (ceiling_tps or 1.0)
    return f"{m.throughput_tps:,.0f} tok/s is {share:.0%} of what {what} carry ({ceiling_tps:,.0f})"


def _around(m: Measurement, c: Conditions) -> tuple[str, ...]:
    """The readings that say how busy things were, as far as they are known."""
    known = (("GPU", c.gpu_util_pct), ("CPU", c.cpu_pct))
    return tuple(f"{name} {pct:.0f} % busy" for name, pct in known if pct is not None)
