"""A token server of known rate, honest or with one fault: ``python -m tests.load.paced_server``.

The first part of the path names the behaviour (``/jitter/completion``). Tokens are due at fixed
times from the start of an answer, and late ones are made up for, so the mean pace is the true one
on a busy machine too. ``GET /<behaviour>/truth`` says what was really sent. Prints its port, ends
when standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

PACE = 50.0  # tok/s of a stream
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STEP_AFTER_S = 4.0  # of load, then half the pace
HONEST_FIRST = 40  # answers before a fault begins, so that probe and warm-up pass
TLS = Path(__file__).parent / "tls"


@dataclass
class Truth:
    """What one behaviour has sent so far."""

    tokens: int = 0
    requests: int = 0
    failed: int = 0
    cut: int = 0
    begun: float = 0.0


def event(data: dict[str, Any]) -> bytes:
    body = b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(body), body)


def llama_chunk(count: int, text: str, prompt: int) -> bytes:
    return event(
        {
            "index": 0,
            "content": text,
            "tokens": [260],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": count,
            "tokens_evaluated": prompt,
        }
    )


def llama_end(count: int, prompt: int, why: str) -> bytes:
    timings = {"cache_n": 0, "prompt_n": prompt, "predicted_n": count}
    return event(
        {
            "index": 0,
            "content": "",
            "tokens": [],
            "stop": True,
            "tokens_predicted": count,
            "tokens_evaluated": prompt,
            "stop_type": why,
            "timings": timings,
        }
    )


def chat_chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": text} if text is not None else {"role": "assistant"}
    choice = {"finish_reason": finish, "index": 0, "delta": {} if finish else delta}
    return event({"choices": [choice], "object": "chat.completion.chunk", **more})


@dataclass(frozen=True)
class Behaviour:
    """How answers are sent. ``lump(k)``: tokens in the k-th chunk."""

    lump: Callable[[int], int] = lambda _: 1
    jitter: float = 0.0  # of each token's time, as a share of the time of a token
    text: str = " the"
    step: bool = False
    fail_every: int = 0
    cut_every: int = 0
    eos: bool = False
    usage: str = "each"  # chat: each chunk, last, none


BEHAVIOURS = {
    "constant": Behaviour(),
    "jitter": Behaviour(jitter=0.9),
    "step": Behaviour(step=True),
    "errors": Behaviour(fail_every=100),
    "cut": Behaviour(cut_every=20),
    "utf8": Behaviour(lump=lambda k: 2 if k % 8 == 7 else 1, text="é日"),
    "several": Behaviour(lump=lambda _: 4),
    "eos": Behaviour(eos=True),
    "usage": Behaviour(lump=lambda _: 3, usage="last"),
    "chunks": Behaviour(usage="none"),
}


class PacedServer:
    """All behaviours on one port."""

    def __init__(self) -> None:
        self.truth = {name: Truth() for name in BEHAVIOURS}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split("\r\n", 1)[0].split(" ")
        sizes = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        body = await reader.readexactly(int(sizes[0].partition(":")[2])) if sizes else b""
        _, name, *rest = path.split("/")
        if method == "GET" or name not in BEHAVIOURS:
            found = json.dumps(asdict(self.truth[name])) if rest == ["truth"] else '{"data":[{"id":"m"}]}'
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(found)}\r\n\r\n{found}"
            writer.write(answer.encode())
            return True
        return await self.answer(name, rest[-2:], json.loads(body), writer)

    async def answer(
        self, name: str, path: list[str], asked: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        behaviour, truth = BEHAVIOURS[name], self.truth[name]
        truth.requests += 1
        at_fault = truth.requests > HONEST_FIRST
        if at_fault and behaviour.fail_every and truth.requests % behaviour.fail_every == 0:
            truth.failed += 1
            writer.write(b'HTTP/1.1 500 Oops\r\nContent-Length: 28\r\n\r\n{"error":{"message":"oops"}}')
            return True
        cut = at_fault and bool(behaviour.cut_every) and truth.requests % behaviour.cut_every == 0
        chat = path == ["chat", "completions"]
        length = int(asked["max_tokens"] if chat else asked["n_predict"])
        said = asked["messages"][0]["content"] if chat else asked["prompt"]
        prompt = len(said.split()) + 1
        writer.write(HEAD)
        if chat:
            writer.write(chat_chunk(None))
        await self.stream(behaviour, truth, 1 if behaviour.eos else length, length // 2 if cut else 0, writer,
                          prompt, chat)  # fmt: skip
        if cut:
            truth.cut += 1
            writer.transport.abort()
            return False
        sent = 1 if behaviour.eos else length
        if chat:
            writer.write(chat_chunk("", "stop"))
            if behaviour.usage != "none":
                usage = {"prompt_tokens": prompt, "completion_tokens": sent}
                writer.write(event({"choices": [], "usage": usage}))
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
        else:
            writer.write(llama_end(sent, prompt, "eos" if behaviour.eos else "limit"))
        writer.write(b"0\r\n\r\n")
        return True

    async def stream(
        self,
        behaviour: Behaviour,
        truth: Truth,
        length: int,
        cut: int,
        writer: asyncio.StreamWriter,
        prompt: int,
        chat: bool,
    ) -> None:
        luck = random.Random(truth.requests)
        due = monotonic()
        truth.begun = truth.begun if truth.requests > HONEST_FIRST else due
        sent = index = 0
        while sent < length and not (cut and sent >= cut):
            lump = min(behaviour.lump(index), length - sent)
            slow = behaviour.step and due - truth.begun > STEP_AFTER_S
            due += lump / (PACE / 2 if slow else PACE)
            late = luck.uniform(0, behaviour.jitter) / PACE
            await asyncio.sleep(max(0.0, due + late - monotonic()))
            if writer.transport.is_closing():
                raise ConnectionResetError
            sent += lump
            index += 1
            truth.tokens += lump
            if not chat:
                writer.write(llama_chunk(sent, behaviour.text, prompt))
            elif behaviour.usage == "each":
                writer.write(chat_chunk(" a", usage={"prompt_tokens": prompt, "completion_tokens": sent}))
            else:
                writer.write(chat_chunk(" a"))


async def run() -> None:
    context = None
    if "--tls" in sys.argv:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "server.pem")
    server = await asyncio.start_server(PacedServer().serve, "127.0.0.1", 0, backlog=1024, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    server.close()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
