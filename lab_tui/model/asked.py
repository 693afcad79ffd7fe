"""What is asked for: a fleet, a load, a sweep, files."""

from __future__ import annotations

from lab_tui.model.data import Data

AxisValue = int | str


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
    placement: str = "auto"  # or spread, pack, split, split-row, split-tensor; or each one's card: 0,1,1
    cpu_pin: bool = False  # each instance gets processor cores of its own
    mps: str = ""  # NVIDIA's MPS: "on" with a daemon of the fleet's own, "off" without any; "": as it comes
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
    longest_s: float  # about, confirmation included: starts and ramps guessed, every window to its limit
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
    cards_free_bytes: dict[int, int] = {}  # by card, beyond the reserve
    placement: str = ""  # of the largest fleet: "GPU 0 ×2, GPU 1 ×2"; "" where nothing is pinned


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
