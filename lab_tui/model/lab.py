"""All of a lab at one moment, and what else goes over the engine's socket."""

from __future__ import annotations

from lab_tui.model.asked import FleetSpec
from lab_tui.model.data import Data
from lab_tui.model.machine import GpuReading, HostReading, MpsView
from lab_tui.model.measured import LoadView, Measurement, Phase
from lab_tui.model.serving import FrontTraffic, FrontView, InstanceView, Part
from lab_tui.model.sweeps import SweepView


class EngineInfo(Data, frozen=True, kw_only=True):
    """The engine process itself."""

    pid: int
    version: str
    uptime_s: float
    socket: str
    log: str


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
    queue_paused_why: str = ""  # why it paused by itself; "" where a person did
    fleet_owed: bool = False  # the sweeps have taken the machine: what was up before is to be given back
    gpus: tuple[GpuReading, ...]
    gpu_reason: str  # why `gpus` is empty; "" when it is not
    host: HostReading
    notices: tuple[str, ...] = ()  # what a user should know now, one line each
    parts: tuple[Part, ...] = ()  # what a fleet needs, while none is up; empty before it was looked for
    mps: MpsView | None = None  # None: no NVIDIA card, or not looked yet
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

        While a load warms up or drains its own may be more than that, so nothing is said then, nor by what
        was read before it measured.
        """
        if self.load is None or self.load.phase is not Phase.MEASURING or not self.load.tps_by_instance:
            return 0
        since_s = self.load.phase_s
        if since_s is not None and any((view.reading_age_s or 0.0) >= since_s for view in self.instances):
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


VERSION_HEADER = "X-Lab-Tui-Version"  # of every answer
USER_AGENT = "lab-tui"  # of every request of a load: the front tells them from those of others by it


class Failure(Data, frozen=True, kw_only=True):
    """The body of every answer that is not 2xx."""

    message: str
    remedy: str = ""


class BenchEvent(Data, frozen=True, kw_only=True):
    """One line of a running bench: ``view`` while it runs, then ``result`` or ``failure``."""

    view: LoadView | None = None
    result: Measurement | None = None
    failure: Failure | None = None
