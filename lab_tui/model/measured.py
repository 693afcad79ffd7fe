"""What a load measures, while it runs and when it is over."""

from __future__ import annotations

import enum

from lab_tui.model.data import Data


class Phase(enum.StrEnum):
    """What a running load or cell is doing."""

    STARTING = "starting"  # instances are starting or growing
    CALIBRATING = "calibrating"  # what client and front carry is found out, once for a machine
    WARMING = "warming"
    MEASURING = "measuring"
    DRAINING = "draining"


class LoadView(Data, frozen=True, kw_only=True):
    """The load that runs now, several times a second."""

    phase: Phase
    concurrency: int
    in_flight: int
    tps: float  # over the last second
    tps_by_instance: dict[int, float] = {}  # empty for a target that is not the fleet
    ttft_p95_ms: float | None = None  # over the last seconds
    requests: int = 0  # finished
    errors: int = 0
    elapsed_s: float = 0.0
    phase_s: float | None = None  # since the phase began; None: not told
    ci_half_width: float | None = None  # of the window so far, as a share of tok/s


class Percentiles(Data, frozen=True, kw_only=True):
    """p50, p95, p99; ``None`` when there was nothing to rank."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class StreamRate(Data, frozen=True, kw_only=True):
    """Tokens a second as one client sees them: slow end (p5) and median."""

    p5: float | None = None
    p50: float | None = None


class TokenCounts(Data, frozen=True, kw_only=True):
    """Output tokens counted in three independent ways over the whole run. ``None``: not offered."""

    stream: int | None = None  # always there for what lab-tui measured itself
    timings: int | None = None
    metrics: int | None = None


class Others(Data, frozen=True, kw_only=True):
    """What other clients had of the instances while they were measured."""

    requests: int | None = None  # through the front; None: not told
    tokens: int = 0  # output tokens by /metrics that are not ours; 0: too few to be told
    prompt_tokens: int = 0  # likewise, of their prompts
    share: float = 0.0  # of all tokens, of prompts or of answers, whichever is more


class ClientCost(Data, frozen=True, kw_only=True):
    """What the load generator itself took."""

    cpu_us_per_token: float | None = None
    loop_lag_ms_p99: float | None = None


class GpuLoad(Data, frozen=True, kw_only=True):
    """One card inside the window."""

    index: int
    util_pct: float | None = None  # mean
    util_peak_pct: float | None = None
    memory_bytes: int | None = None  # peak, of all that ran there
    power_w: float | None = None  # mean, as `power_from` says
    power_pct: float | None = None  # mean of the readings, of the card's cap
    memory_mean_bytes: int | None = None
    power_peak_w: float | None = None  # of the readings
    power_from: str = ""  # "counter" of the card's energy, or "readings" of its power, integrated over time
    throttled: dict[str, float] | None = None  # what held its clocks back: in what share of the readings


class MachineLoad(Data, frozen=True, kw_only=True):
    """The machine that served, inside the window: host and instances from readings once a second."""

    cpu_pct: float | None = None  # mean of all cores together
    other_work_pct: float | None = None  # likewise, what neither lab-tui nor anything it started took of them
    rss_bytes: int | None = None  # of all instances, peak
    slots_busy: float | None = None  # of all instances, mean
    queue_depth: float | None = None  # requests waiting inside the instances, mean
    gpus: tuple[GpuLoad, ...] = ()
    joules_per_token: float | None = None  # mean power of all cards over tok/s
    tokens_per_joule: float | None = None
    energy_from: str = ""  # `power_from` of all cards: "counter", "readings", "counter and readings"
    cards_every_s: float | None = None  # seconds between readings of utilisation, memory, power, throttling
    slow_every_s: float | None = None  # and of the rest


class Measurement(Data, frozen=True, kw_only=True):
    """What one cell or one ``bench`` found. Field names are those of ``bench --json``."""

    throughput_tps: float  # output tokens a second inside the window
    throughput_ci95_tps: float | None  # half-width of the 95 % interval; None: window too short
    prompt_tps: float | None
    requests_per_s: float | None  # None: imported from a file that does not say
    total_tokens: int  # output tokens inside the window
    elapsed_s: float  # length of the window
    requests: int | None  # finished inside the window; None as above
    concurrency: int
    rate: float | None = None  # open loop: requests a second that came due; None: closed loop
    errors: int  # failed inside the window
    errors_by_kind: dict[str, int] = {}
    ttft_ms: Percentiles
    itl_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    per_stream_tps: StreamRate
    feels: str = ""  # sluggish, smooth, fast, near instant
    goodput_rps: float | None = None  # requests a second within the SLO; None: no SLO asked
    tokens: TokenCounts
    tokens_by_instance: dict[int, int] = {}
    output_tokens_mean: float | None = None  # achieved length, to be held against the asked one
    client: ClientCost
    machine: MachineLoad | None = None  # None: another machine served
    others: Others | None = None  # None: nobody else was seen
    window_closed_by: str = ""  # "interval", "time limit", "requests" or "hand"
    flags: tuple[str, ...] = ()  # what a reader must know: drift, tokens do not reconcile, …
    verdict: str = ""
    verdict_readings: tuple[str, ...] = ()
