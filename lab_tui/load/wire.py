"""What the driver and a load worker tell each other: one JSON document a line.

Orders go to the worker's standard input, reports come from its standard output. Times are seconds
of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import msgspec

from lab_tui.load.plan import Limits
from lab_tui.load.tally import Answer
from lab_tui.load.workload import Recipe
from lab_tui.model import Data, Workload

REPORT_S = 0.1  # time between reports


class Setup(Data, frozen=True, kw_only=True, tag=True):
    """First order: whom to load with what."""

    url: str
    api_key: str | None
    recipe: Recipe
    workload: Workload
    limits: Limits
    worker: int
    workers: int


class Warm(Data, frozen=True, kw_only=True, tag=True):
    """Ask each slot for a few tokens; answered by Warmed. An address "" is the front itself."""

    slots: tuple[tuple[str, int], ...]  # address of a backend, number of its slot
    output_tokens: int


class Run(Data, frozen=True, kw_only=True, tag=True):
    """Keep streams in flight until Stop, or until so many requests are done; answered by Reports."""

    streams: int
    first_stream: int  # number of the first of them among the streams of all workers
    all_streams: int
    requests: int | None
    rate: float | None  # of this worker
    spread: bool  # shorten first requests so that streams do not march in step


class Stop(Data, frozen=True, kw_only=True, tag=True):
    """Break off what is left; the last Report is marked as done."""


class Ready(Data, frozen=True, kw_only=True, tag=True):
    """The worker can take orders."""

    pid: int
    files: int  # open files it may have


class Warmed(Data, frozen=True, kw_only=True, tag=True):
    """Every slot has been asked."""

    answers: tuple[Answer, ...]


class Report(Data, frozen=True, kw_only=True, tag=True):
    """What has happened. Counts without "since" are totals."""

    time: float
    cpu_s: float
    tokens: dict[str, int]  # by upstream address
    in_flight: int
    begun: int  # requests sent
    waiting: int  # open loop: due, but all streams are busy
    itl: tuple[tuple[int, int], ...]  # since the last report: bin of stats.bin_of, count
    lags: tuple[float, ...]  # since the last report: how late the loop was, seconds
    firsts: tuple[float, ...]  # since the last report: times to first token, seconds
    answers: tuple[Answer, ...]  # since the last report
    done: bool = False


Order = Setup | Warm | Run | Stop
Message = Ready | Warmed | Report

order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
message_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
LINE_LIMIT = 64 * 1024 * 1024


def encode(message: Order | Message) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"
