"""A token server with nothing behind it: llama-server's /completion at a set pace, or as fast as it can.

What a load generator and a front carry in front of this is the most they can carry in front of
anything; and it is a server whose true rate is known. ``python -m lab_tui.load.null_server`` prints
its port, and ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from time import monotonic
from typing import Any, cast

import httptools
import msgspec

from lab_tui.load.worker import raise_file_limit

PHASES = 25  # streams are spread over so many moments of one token's time
BURST = 64  # tokens written at once to a stream that is not paced
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


class Body(msgspec.Struct):
    """The fields of a request that matter here."""

    n_predict: int = 128
    prompt: str = ""


def framed(event: dict[str, Any]) -> bytes:
    """One event as one chunk of a chunked body."""
    data = b"data: " + msgspec.json.encode(event) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunk(count: int) -> bytes:
    """The chunk of token number ``count``, as llama-server writes it."""
    event = {
        "index": 0,
        "content": " the",
        "tokens": [260],
        "stop": False,
        "id_slot": -1,
        "tokens_predicted": count,
        "tokens_evaluated": 64,
    }
    return framed(event)


def last_chunk(count: int) -> bytes:
    """The chunk that ends an answer of ``count`` tokens."""
    event = {
        "index": 0,
        "content": "",
        "tokens": [],
        "stop": True,
        "tokens_predicted": count,
        "tokens_evaluated": 64,
        "stop_type": "limit",
        "timings": {"cache_n": 0, "prompt_n": 64, "predicted_n": count},
    }
    return framed(event)


class NullStream(asyncio.Protocol):
    """One connection and the answer on it."""

    def __init__(self, server: NullServer, phase: int) -> None:
        self._server = server
        self.phase = phase
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self.count = 0
        self.wanted = 0
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Fresh connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        self._server.leave(self)

    def pause_writing(self) -> None:
        """The client reads no more for now."""
        self.full = True

    def resume_writing(self) -> None:
        """It reads again."""
        self.full = False

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """A whole request: begin the answer."""
        body, self._body = self._body, b""
        if not body:  # /health, /metrics and the like
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        self.wanted = msgspec.json.decode(body, type=Body).n_predict
        self.count = 0
        self.transport.write(HEAD)
        self._server.join(self)

    def step(self, tokens: int) -> None:
        """Write so many tokens, and the end when it is reached."""
        if self.full:
            return
        end = min(self.count + tokens, self.wanted)
        pieces = [self._server.chunk(at) for at in range(self.count + 1, end + 1)]
        self.count = end
        if end == self.wanted:
            pieces += [last_chunk(end), LAST]
            self._server.leave(self)
        self.transport.write(b"".join(pieces))


class NullServer:
    """All streams, and the clock that moves them. ``rate``: tok/s of each stream, 0 for no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._phases: list[set[NullStream]] = [set() for _ in range(PHASES)]
        self._next = 0
        self._chunks: dict[int, bytes] = {}

    def stream(self) -> NullStream:
        """The protocol of a new connection."""
        self._next += 1
        return NullStream(self, self._next % PHASES)

    def join(self, stream: NullStream) -> None:
        """An answer begins."""
        self._phases[stream.phase].add(stream)

    def leave(self, stream: NullStream) -> None:
        """An answer ends."""
        self._phases[stream.phase].discard(stream)

    def chunk(self, count: int) -> bytes:
        """The bytes of a token, made once."""
        found = self._chunks.get(count)
        if found is None:
            found = chunk(count)
            if len(self._chunks) < 100_000:
                self._chunks[count] = found
        return found

    async def run(self) -> None:
        """Write tokens for ever."""
        due = monotonic()
        while True:
            for phase in self._phases:
                for stream in tuple(phase):
                    stream.step(1 if self._rate else BURST)
                due += 1 / (self._rate * PHASES) if self._rate else 0
                # Late ticks are made up for, so that the mean rate is the true one.
                await asyncio.sleep(max(0.0, due - monotonic()))


async def serve(port: int, rate: float) -> None:
    """Serve on loopback until standard input closes."""
    raise_file_limit()
    loop = asyncio.get_running_loop()
    null = NullServer(rate)
    server = await loop.create_server(null.stream, "127.0.0.1", port, backlog=8192)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    moving = asyncio.create_task(null.run())
    closed = asyncio.create_task(reader.read())
    try:
        await asyncio.wait([moving, closed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.close()
        for task in (moving, closed):
            task.cancel()
        await asyncio.wait([moving, closed])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--rate", type=float, default=0.0, help="tok/s of each stream, 0: no limit")
    options = parser.parse_args()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.rate))


if __name__ == "__main__":
    main()
