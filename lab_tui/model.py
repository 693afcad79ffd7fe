"""The plain data every room shares: what is asked for, what is, what was measured.

All of it is frozen. A change is a new object, so a snapshot that a viewer holds never moves
under it. Field names that reach ``--json`` or CSV are a contract (see the README).
Units are in the names: ``_ms`` milliseconds, ``_s`` seconds, ``_tps`` tokens a second,
``_bytes`` bytes, ``_pct`` 0 to 100. ``None`` means "not known", never zero.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class Data(msgspec.Struct, frozen=True):
    """Base of all shared data."""


class InstanceState(enum.StrEnum):
    """Where one llama-server process is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"  # spawned, nothing answers yet
    LOADING = "loading"  # answers 503: the model is being read
    READY = "ready"  # /health is 200
    HUNG = "hung"  # was ready, runs, and neither answers nor works; out of the front until it does
    STOPPING = "stopping"
    BACKOFF = "backoff"  # died after it was ready; waits before the next try
    FAILED = "failed"  # given up; `reason` says why


class FrontState(enum.StrEnum):
    """Where nginx is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class SweepStatus(enum.StrEnum):
    """Where a sweep is in its life. DONE, FAILED and ABORTED are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


class CellStatus(enum.StrEnum):
    """What became of one cell. A failed or skipped cell has a reason and no figures."""

    PENDING = "pending"
    RUNNING = "running"
    MEASURED = "measured"
    FAILED = "failed"
    SKIPPED = "skipped"


class Phase(enum.StrEnum):
    """What a running load or cell is doing."""

    STARTING = "starting"  # instances are starting or growing
    CALIBRATING = "calibrating"  # what client and front carry is found out, once for a machine
    WARMING = "warming"
    MEASURING = "measuring"
    DRAINING = "draining"


# --- what is asked for -------------------------------------------------------------------


class FleetSpec(Data, frozen=True, kw_only=True):
    """A fleet as it was asked for: N llama-server instances behind one nginx front."""

    model: str  # path of a GGUF file
    instances: int = 1  # 1 to 64
    parallel: int = 4  # slots per instance, 1 to 256 (llama.cpp's own limit)
    ctx_per_slot: int = 2048  # tokens; llama-server's -c is this times `parallel`
    batch: int = 2048
    ubatch: int = 512
    threads: int | None = None  # per instance; None: cores shared out among the instances
    threads_http: int | None = None  # per instance; None: from `max_streams`
    kv_unified: bool = False
    flash_attn: str = "auto"  # on, off, auto
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    gpu_layers: int | None = None  # None: all of them where there is a GPU
    balancing: str = "round_robin"  # or least_conn
    base_port: int = 9000  # instance i listens on base_port + i
    front_port: int = 8088
    host: str = "127.0.0.1"  # where the front listens; instances stay on loopback
    api_key_file: str = ""  # path of a file of API keys, one a line; "": whoever reaches it may ask
    insecure: bool = False  # other machines may ask without a key
    max_streams: int = 1024  # streams at once the fleet is laid out for, over all instances
    max_body_mb: int = 64  # the longest request that the front takes, in MiB
    extra_args: tuple[str, ...] = ()  # llama-server's own, after everything else


class Workload(Data, frozen=True, kw_only=True):
    """What one request asks: lengths in tokens, and which of the server's habits are turned off."""

    prompt_tokens: int = 64
    output_tokens: int = 128
    ignore_eos: bool = True
    cache_prompt: bool = False
    seed: int = 1
    output_tokens_max: int | None = None  # lengths vary from output_tokens to this
    output_distribution: str = "uniform"  # of such lengths: uniform, normal, exponential
    prompt_file: str | None = None  # JSONL of prompts or chat messages, cycled, instead of made-up words
    unique_prefix: bool = True  # a few words before each prompt of the file, against prompt caches
    endpoint: str = "auto"  # completion, chat; auto: the one the server is best measured by
    rate: float | None = None  # open loop: requests a second, Poisson; None: closed loop


class WindowSpec(Data, frozen=True, kw_only=True):
    """When a measurement may end."""

    ci_half_width: float = 0.02  # asked half-width of the 95 % interval, as a share of tok/s
    min_s: float = 3.0  # the window is never shorter
    max_s: float = 30.0  # nor longer, warm-up and drain not counted
    requests: int | None = None  # instead: send exactly so many, and stop


class Slo(Data, frozen=True, kw_only=True):
    """What a good request is. ``None`` leaves that bound out.

    A cell keeps it when 95 % of its requests do, bound by bound: p95 TTFT is at most ``ttft_ms``, and the
    p5 of per-stream tok/s is at least ``stream_tps``. A cell whose figure is not known does not keep it.
    """

    ttft_ms: float | None = None  # time to first token at most
    stream_tps: float | None = None  # per-stream tok/s at least


class BenchSpec(Data, frozen=True, kw_only=True):
    """One measurement of what runs now (the fleet), or of any OpenAI-compatible server by URL."""

    concurrency: int = 64
    url: str | None = None  # None: the fleet behind the front
    model: str | None = None  # the model name to send to `url`; None: the first it lists
    api_key: str | None = None
    workload: Workload = Workload()
    window: WindowSpec = WindowSpec()
    slo: Slo = Slo()


AxisValue = int | str


class SweepSpec(Data, frozen=True, kw_only=True):
    """A set of cells to measure: a fleet, the settings of it that vary, and how to look."""

    name: str  # the preset's name, or "custom"
    fleet: FleetSpec  # what does not vary
    axes: dict[str, tuple[AxisValue, ...]]  # by axis name, see sweep/space.py
    strategy: str = "grid"  # grid, adaptive, ladder
    workload: Workload = Workload()
    window: WindowSpec = WindowSpec()
    slo: Slo = Slo()  # with a bound, only cells that keep it can be the best
    budget_s: float | None = None  # the sweep ends within so many seconds of measuring
    confirm: bool = True  # measure the top few again before one is called the best
    large: bool = False  # more than 10,000 cells are meant


class Outline(Data, frozen=True, kw_only=True):
    """What a sweep comes to before any of it runs. Field names are those of ``sweep --dry-run --json``."""

    name: str
    strategy: str
    cells: int
    cells_too_large: int  # of them, left out because they do not fit
    instance_starts: int  # of the search, at most
    confirm_starts: int  # to measure the best again, at most
    longest_s: float  # at most, confirmation included: every window runs to its limit, or the budget ends
    largest: FleetSpec  # the fleet that needs most
    weights_bytes: int  # of the model
    kv_bytes: int  # of each instance of the largest fleet, as are the next two
    ram_each_bytes: int
    vram_each_bytes: int
    ram_bytes: int  # of the largest fleet
    vram_bytes: int
    ram_free_bytes: int  # beyond the reserve, with what our own instances hold
    vram_free_bytes: int | None  # None: there are no cards with memory of their own
    reserve_bytes: int
    fits: bool  # the largest fleet does
    reason: str  # why it does not


# --- what is ------------------------------------------------------------------------------


class EngineInfo(Data, frozen=True, kw_only=True):
    """The engine process itself."""

    pid: int
    version: str
    uptime_s: float
    socket: str
    log: str


class InstanceView(Data, frozen=True, kw_only=True):
    """One instance as it is now."""

    index: int
    state: InstanceState
    reason: str = ""  # why it failed, hangs or waits
    log_tail: tuple[str, ...] = ()  # last lines of its log, only when failed or in backoff
    port: int
    pid: int | None = None
    slots: int
    busy: int | None = None  # slots at work
    queue: int | None = None  # requests waiting inside the instance
    tps: float | None = None  # tokens generated a second, all traffic
    rss_bytes: int | None = None
    vram_bytes: int | None = None
    gpu: str | None = None
    uptime_s: float | None = None
    reading_age_s: float | None = None  # how old busy, queue and tps are
    restarts: int = 0
    command: tuple[str, ...] = ()
    vram_by_gpu: dict[int, int] = {}  # bytes by index of the card; empty where the driver does not tell


class SlotView(Data, frozen=True, kw_only=True):
    """One slot of an instance at its last reading."""

    id: int
    busy: bool
    task: int = -1  # llama-server's number of the request in it
    tokens: int = 0  # generated of it so far; 0 while the prompt is read
    tps: float | None = None  # since the reading before, where that saw the same request


class SlotsView(Data, frozen=True, kw_only=True):
    """The slots of one instance, and how old that is."""

    age_s: float | None = None  # None: it has not been read yet
    slots: tuple[SlotView, ...] = ()


class FrontView(Data, frozen=True, kw_only=True):
    """nginx as it is now."""

    state: FrontState
    reason: str = ""
    url: str | None = None
    pid: int | None = None
    ready: int = 0  # instances it sends requests to


class InstanceTraffic(Data, frozen=True, kw_only=True):
    """What the front sent to one instance, and how it ended."""

    address: str  # "127.0.0.1:9000"; "": the front answered itself
    requests: int
    errors: int  # answered with 400 or more
    cut_off: int  # not answered to the end: the client left, or the instance died
    passed_on: int  # did not take the connection: the next instance got it


class FrontTraffic(Data, frozen=True, kw_only=True):
    """What went through the front since the engine began to count; a request counts when it is over."""

    since: float  # unix time
    requests: int
    errors: dict[int, int] = {}  # by HTTP status
    cut_off: int = 0
    requests_per_s: float | None = None  # over the last ten seconds
    first_byte_p95_ms: float | None = None  # of the streams that ended within the last minute
    streams_timed: int = 0  # of how many
    instances: tuple[InstanceTraffic, ...] = ()
    connections: int | None = None  # of clients, open now
    connections_reason: str = ""  # why that is not known


class HostReading(Data, frozen=True, kw_only=True):
    """The machine itself, read at 1 Hz."""

    name: str
    cores: int
    cpu_pct: float | None = None  # of all cores together
    load1: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


class GpuReading(Data, frozen=True, kw_only=True):
    """One card. A field that is ``None`` has its reason in ``missing`` under the field's name."""

    index: int
    name: str
    uuid: str = ""
    util_pct: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    temperature_c: float | None = None
    missing: dict[str, str] = {}  # also "memory": it is the system's; "processes": whose memory is not told
    maker: str = ""  # NVIDIA, AMD, Apple
    clock_mhz: float | None = None  # of the processors
    clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    fan_pct: float | None = None  # of its full speed
    throttle: tuple[str, ...] | None = None  # what holds the clocks back; empty: nothing
    energy_j: float | None = None  # used since the driver started to count


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
    ci_half_width: float | None = None  # of the window so far, as a share of tok/s


class Best(Data, frozen=True, kw_only=True):
    """The best cell so far."""

    cell: int  # its number in the sweep, from 1
    instances: int
    parallel: int
    concurrency: int
    throughput_tps: float  # the mean of its runs
    throughput_ci95_tps: float | None
    runs: int = 1  # how often it was measured
    confirmed: bool = False  # measured again, and steady


class SweepView(Data, frozen=True, kw_only=True):
    """One sweep in the queue, as a line on the screen."""

    id: int
    name: str
    strategy: str
    status: SweepStatus
    reason: str = ""
    created: float  # unix time
    cells_total: int
    cells_measured: int = 0
    cells_failed: int = 0
    cells_skipped: int = 0
    elapsed_s: float = 0.0
    eta_s: float | None = None
    best: Best | None = None
    now: str = ""  # the cell being worked on, such as "2×4 c=16"
    phase: Phase | None = None


class Part(Data, frozen=True, kw_only=True):
    """One serving part as `doctor` shows it."""

    name: str  # llama-server, nginx, …
    found: bool
    source: str = ""  # configured, PATH, embedded
    command: tuple[str, ...] = ()
    version: str = ""
    problem: str = ""
    remedy: str = ""  # the command that mends it


class Snapshot(Data, frozen=True, kw_only=True):
    """Everything a viewer shows, whole. Also what ``status --json`` prints."""

    seq: int
    time: float  # unix time
    engine: EngineInfo
    fleet: FleetSpec | None
    front: FrontView
    traffic: FrontTraffic | None = None  # None: no front runs
    instances: tuple[InstanceView, ...]
    load: LoadView | None
    sweep: SweepView | None  # the running one
    queue: tuple[SweepView, ...]  # running, paused and waiting, in order
    queue_paused: bool
    gpus: tuple[GpuReading, ...]
    gpu_reason: str  # why `gpus` is empty; "" when it is not
    host: HostReading
    notices: tuple[str, ...] = ()  # what a user should know now, one line each
    parts: tuple[Part, ...] = ()  # what a fleet needs, while none is up; empty before it was looked for
    last_fleet: FleetSpec | None = None  # that somebody started last, whether or not it is up

    @property
    def tps(self) -> float | None:
        """Output tokens a second: the load's own count, else what the instances report of all traffic."""
        if self.load is not None:
            return self.load.tps
        known = [instance.tps for instance in self.instances if instance.tps is not None]
        return sum(known) if known else None

    @property
    def streams(self) -> int | None:
        """Requests in flight: the load's own count, else the busy slots."""
        if self.load is not None:
            return self.load.in_flight
        return self.busy

    @property
    def busy(self) -> int | None:
        """Busy slots of all instances."""
        known = [instance.busy for instance in self.instances if instance.busy is not None]
        return sum(known) if known else None

    @property
    def waiting(self) -> int | None:
        """Requests that wait inside the instances."""
        known = [instance.queue for instance in self.instances if instance.queue is not None]
        return sum(known) if known else None

    @property
    def ttft_p95_ms(self) -> float | None:
        """Of the load's requests over the last seconds; nobody else's are timed."""
        return self.load.ttft_p95_ms if self.load else None

    @property
    def foreign(self) -> int:
        """Requests in the instances that cannot be the load's: more than it ever has in flight.

        While a load warms up or drains its own may be more than that, so nothing is said then.
        """
        if self.load is None or self.load.phase is not Phase.MEASURING or not self.load.tps_by_instance:
            return 0
        return max((self.busy or 0) + (self.waiting or 0) - self.load.concurrency, 0)


class History(Data, frozen=True, kw_only=True):
    """The last hour at 1 Hz, for a viewer that has just attached. Columns are equally long."""

    time: tuple[float, ...]
    # "tps", "tps.0", …, "ttft_p95_ms", "streams", "queue", "cpu_pct", "gpu.0", …
    series: dict[str, tuple[float | None, ...]]


class LogLine(Data, frozen=True, kw_only=True):
    """One line of a log, control characters already shown as ``\\x1b`` and the like."""

    source: str  # "0", "1", …, "nginx", "engine"
    text: str


# --- what was measured --------------------------------------------------------------------


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
    window_closed_by: str = ""  # "interval", "time limit", "requests" or "hand"
    flags: tuple[str, ...] = ()  # what a reader must know: drift, tokens do not reconcile, …
    verdict: str = ""
    verdict_readings: tuple[str, ...] = ()


class Cell(Data, frozen=True, kw_only=True):
    """One point of settings."""

    fleet: FleetSpec
    concurrency: int
    workload: Workload
    axes: dict[str, AxisValue]  # the values that make it this cell


class CellView(Data, frozen=True, kw_only=True):
    """One cell of a sweep and what became of it."""

    index: int  # place in the order of the sweep
    cell: Cell
    status: CellStatus
    reason: str = ""
    result: Measurement | None = None  # of the first run
    repeats: tuple[Measurement, ...] = ()  # of those that confirm it, in order; as they are kept
    runs_tps: tuple[float, ...] = ()  # as it is shown: of every run, where `result` has the tok/s of all
    started: float | None = None  # unix time
    took_s: float | None = None  # the first run, with start-up, warm-up and drain
    context: dict[str, Any] = {}  # commands, nginx.conf, versions, model hash, last log lines


class SweepDetail(Data, frozen=True, kw_only=True):
    """One sweep with all its cells."""

    view: SweepView
    spec: SweepSpec
    cells: tuple[CellView, ...]
    tied: tuple[Best, ...] = ()  # what cannot be told apart from the best, least resources first


class ModelFile(Data, frozen=True, kw_only=True):
    """A GGUF file found on this machine."""

    path: str
    size_bytes: int
    name: str = ""
    quantisation: str = ""
    parameters: int | None = None
    context_length: int | None = None  # tokens it was trained for
    fits: int | None = None  # instances there is room for now, of the slots and context asked about; to 64
    misfit: str = ""  # why there is no room for one


# --- what goes over the engine's socket ------------------------------------------------------

VERSION_HEADER = "X-Lab-Tui-Version"  # of every answer


class Failure(Data, frozen=True, kw_only=True):
    """The body of every answer that is not 2xx."""

    message: str
    remedy: str = ""


class ResultsFile(Data, frozen=True, kw_only=True):
    """A CSV of results to keep as a finished sweep."""

    name: str  # of the file, without its folder
    text: str


TABLE_FORMATS = ("csv", "json", "md")  # of a sweep with every cell
FLEET_FORMATS = ("sh", "systemd", "compose", "nginx")  # of one fleet, to be started without lab-tui


class ExportSpec(Data, frozen=True, kw_only=True):
    """Files to make of a sweep: the table of its cells, or one fleet."""

    format: str  # one of TABLE_FORMATS or FLEET_FORMATS
    sweep: int
    fleet: FleetSpec | None = None  # for FLEET_FORMATS
    origin: str = ""  # where `fleet` comes from, a few words for the head of a file


class BenchEvent(Data, frozen=True, kw_only=True):
    """One line of a running bench: ``view`` while it runs, then ``result`` or ``failure``."""

    view: LoadView | None = None
    result: Measurement | None = None
    failure: Failure | None = None


class LabError(Exception):
    """Something a user can act on: one line that says what, and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
