#!/usr/bin/env python3
"""What a streamed token costs the load generator, next to bare sockets that only count bytes.

Both read the same number of streams from the same paced server at the same time, each in a process
of its own, so that whatever else the machine does hits both. CPU is user and system time of that
process over the tokens that arrived meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import monotonic, process_time
from typing import cast

import msgspec

from lab_tui.load.driver import LoadPlan, Target, measure
from lab_tui.load.http import parse_url, request_bytes
from lab_tui.load.null_server import chunk
from lab_tui.load.worker import raise_file_limit
from lab_tui.model import LoadView, WindowSpec, Workload

SETTLE_S = 2.5  # about what the load workers take until their window opens
LONG = 1_000_000  # tokens an answer: it does not end while we look


class Counting(asyncio.Protocol):
    """Counts bytes."""

    total = 0

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        Counting.total += len(data)


async def read_bare(port: int, streams: int, seconds: float) -> float:
    """µs of CPU a token for bare sockets."""
    raise_file_limit()
    body = msgspec.json.encode({"prompt": "x", "n_predict": LONG, "stream": True})
    request = request_bytes(parse_url(f"http://127.0.0.1:{port}"), "/completion", None, body)
    loop = asyncio.get_running_loop()
    for _ in range(streams):
        await loop.create_connection(lambda: Counting(request), "127.0.0.1", port)
    await asyncio.sleep(SETTLE_S)
    bytes_before, cpu_before = Counting.total, process_time()
    await asyncio.sleep(seconds)
    # All chunks of the first ten thousand tokens are equally long but for the digits of the count.
    tokens = (Counting.total - bytes_before) / (len(chunk(100)) + 1 / 3)
    return (process_time() - cpu_before) / tokens * 1e6


def _bare(answer: Connection, port: int, streams: int, seconds: float) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer.send(runner.run(read_bare(port, streams, seconds)))


@contextlib.contextmanager
def bare(port: int, streams: int, seconds: float) -> Iterator[Connection]:
    """Bare sockets in a fresh process; what it sends in the end is µs a token."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=_bare, args=(theirs, port, streams, seconds))
    process.start()
    try:
        yield mine
    finally:
        process.kill()
        process.join()


def ours(port: int, streams: int, seconds: float, output_tokens: int) -> tuple[float, float, int]:
    """µs a token for the load workers, tok/s, and errors."""
    plan = LoadPlan(
        target=Target(url=f"http://127.0.0.1:{port}", dialect="llama"),
        concurrency=streams,
        workload=Workload(output_tokens=output_tokens),
        window=WindowSpec(min_s=seconds, max_s=seconds, ci_half_width=0.0),
    )

    def ignore(_: LoadView) -> None:
        pass

    found = asyncio.run(measure(plan, ignore))
    cost = found.client.cpu_us_per_token
    if cost is None:
        raise SystemExit("no tokens came")
    return cost, found.throughput_tps, found.errors


@contextlib.contextmanager
def null_server(rate: float) -> Iterator[int]:
    """A paced server in a process of its own; its port."""
    command = [sys.executable, "-m", "lab_tui.load.null_server", "--rate", str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=20.0, help="tok/s of each stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output-tokens", type=int, default=128, help="of the turn with whole requests")
    options = parser.parse_args()
    streams, seconds = options.streams, options.seconds
    bares: list[float] = []
    costs: list[float] = []
    asked = streams * options.rate
    with null_server(options.rate) as port:
        started = monotonic()
        for _ in range(options.turns):
            with bare(port, streams, seconds) as counting:
                cost, tps, errors = ours(port, streams, seconds, LONG)
                bares.append(counting.recv())
            costs.append(cost)
            print(
                f"bare {bares[-1]:6.2f} µs/token   ours {cost:6.2f} µs/token   ratio {cost / bares[-1]:.2f}"
                f"   ({tps:,.0f} of {asked:,.0f} tok/s, {errors} errors)",
                flush=True,
            )
        whole, tps, errors = ours(port, streams, seconds, options.output_tokens)
    low, high = statistics.median(bares), statistics.median(costs)
    print(f"median of {options.turns}, {streams} streams, {monotonic() - started:.0f} s:")
    print(f"bare {low:6.2f} µs/token   ours {high:6.2f} µs/token   ratio {high / low:.2f}")
    print(
        f"requests of {options.output_tokens} tokens, refilled: {whole:.2f} µs/token"
        f" ({tps:,.0f} tok/s, {errors} errors)"
    )


if __name__ == "__main__":
    main()
