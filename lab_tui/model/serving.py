"""What serves, as viewers see it: instances, their slots, the front, the parts and the models."""

from __future__ import annotations

import enum

from lab_tui.model.data import Data


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
    gpu: str | None = None  # the cards it was given or is seen on: "0", "0+1"
    uptime_s: float | None = None
    reading_age_s: float | None = None  # how old busy, queue and tps are
    restarts: int = 0
    command: tuple[str, ...] = ()
    vram_by_gpu: dict[int, int] = {}  # bytes by index of the card; empty where the driver does not tell
    cores: str | None = None  # processors it is pinned to, such as "0-7"; None: any


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
    url: str | None = None  # by which this machine reaches it
    listens: str = ""  # address and port, as it was asked: "0.0.0.0:8088"
    url_elsewhere: str | None = None  # by which other machines may; None: they cannot, or it cannot be told
    pid: int | None = None
    ready: int = 0  # instances it sends requests to

    @property
    def beside(self) -> str:
        """What to say beside ``url``: where it listens, and how others reach it; "" where that is all."""
        if self.url is None or not self.listens or self.url.endswith(f"/{self.listens}"):
            return ""
        elsewhere = f", from other machines {self.url_elsewhere}" if self.url_elsewhere else ""
        return f"listens on {self.listens}{elsewhere}"


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


class Part(Data, frozen=True, kw_only=True):
    """One serving part as `doctor` shows it."""

    name: str  # llama-server, nginx, …
    found: bool
    source: str = ""  # configured, PATH, embedded
    command: tuple[str, ...] = ()
    version: str = ""
    problem: str = ""
    remedy: str = ""  # the command that mends it


class Felt(Data, frozen=True, kw_only=True):
    """How a model read when it was measured here, in the best cell of all its sweeps."""

    sweep: int
    cell: int  # its number in the sweep, from 1
    instances: int
    parallel: int
    concurrency: int
    throughput_tps: float  # of all streams together
    stream_tps: float  # of one of them, median
    feels: str  # sluggish, smooth, fast, near instant


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
    felt: Felt | None = None  # None: it was not measured here
