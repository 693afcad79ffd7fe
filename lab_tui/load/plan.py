"""What is loaded and how: the plan a measurement starts from."""

from __future__ import annotations

from lab_tui.model import Data, Slo, WindowSpec, Workload


class Backend(Data, frozen=True, kw_only=True):
    """One instance behind the front."""

    index: int
    address: str  # "127.0.0.1:9000": what X-Upstream says, and where its /metrics and /slots are


class Target(Data, frozen=True, kw_only=True):
    """What is loaded: a front with its backends, or any URL."""

    url: str  # base, such as http://127.0.0.1:8088; a trailing /v1 is allowed
    dialect: str = "openai"  # "llama": llama-server's own /completion; "openai": /v1/...
    backends: tuple[Backend, ...] = ()
    model: str | None = None  # None: the first that /v1/models lists
    api_key: str | None = None


class Limits(Data, frozen=True, kw_only=True):
    """How long anything is waited for, in seconds."""

    connect_s: float = 10.0
    silence_s: float = 90.0  # nothing from any stream for so long ends the run
    stall_s: float = 60.0  # a stream that had begun and then says nothing for so long
    drain_s: float = 30.0  # for the backends to finish what was cancelled
    worker_start_s: float = 30.0


class LoadPlan(Data, frozen=True, kw_only=True):
    """One measurement to be made."""

    target: Target
    concurrency: int  # streams in flight; with `workload.rate` the most there may be
    workload: Workload = Workload()
    window: WindowSpec = WindowSpec()
    slo: Slo = Slo()
    limits: Limits = Limits()
