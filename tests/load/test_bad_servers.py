"""Servers that misbehave: every way has its kind, and nothing hangs or shows a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from lab_tui.load import reading, tally
from lab_tui.load.driver import Limits, LoadPlan, Target, measure
from lab_tui.load.http import parse_url, request_bytes
from lab_tui.load.null_server import HEAD, LAST, chunk, framed, last_chunk
from lab_tui.load.reading import TokenStream
from lab_tui.load.tally import Answer, Tally
from lab_tui.load.workload import MOST_BYTES
from lab_tui.model import LabError, LoadView, WindowSpec, Workload

Handler = Callable[[asyncio.StreamWriter, int], Awaitable[None]]  # writer, number of the request
LIMITS = Limits(connect_s=0.5, silence_s=1.0, stall_s=1.0, drain_s=1.0)


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A server that answers each POST with ``handler``, then closes."""
    count = 0
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            count += 1
            await handler(writer, count)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*pieces: bytes) -> Handler:
    async def handler(writer: asyncio.StreamWriter, number: int) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return handler


def plain(status: str, content_type: str, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def raw(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def hang(writer: asyncio.StreamWriter, number: int) -> None:
    await asyncio.sleep(60)


async def endless(writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(HEAD)
    for count in range(1, 1_000_000):
        writer.write(chunk(count))
        await writer.drain()


async def giant_line(writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(HEAD + raw(b"data: {"))
    while True:
        writer.write(raw(b"x" * 65536))
        await writer.drain()


async def good(writer: asyncio.StreamWriter, number: int) -> None:
    tokens = 20
    writer.write(HEAD + b"".join(chunk(count) for count in range(1, tokens + 1)))
    writer.write(last_chunk(tokens) + LAST)


async def ask(url: str, field: str = reading.PREDICTED) -> Answer:
    stream = TokenStream(parse_url(url), Tally(), field, connect_s=0.5)
    request = request_bytes(parse_url(url), "/completion", None, b"{}")
    try:
        async with asyncio.timeout(5):
            return await stream.ask(request, monotonic(), 20)
    finally:
        stream.abort()


BAD: dict[str, tuple[Handler, str]] = {
    "401": (says(plain("401 No", "application/json", b'{"error":{"message":"bad key"}}')), "HTTP 401"),
    "404": (says(plain("404 No", "text/plain", b"nothing here")), "HTTP 404"),
    "429": (says(plain("429 No", "application/json", b"{}")), "HTTP 429"),
    "500": (says(plain("500 No", "text/html", b"<h1>oops</h1>")), "HTTP 500"),
    "html": (says(plain("200 OK", "text/html", b"<html>")), "not a stream: text/html"),
    "no stream": (says(plain("200 OK", "application/json", b"{}")), "not a stream: application/json"),
    "silent": (says(), "connection closed"),
    "no http": (says(b"SSH-2.0-OpenSSH_9\r\n"), "not HTTP"),
    "endless head": (says(*[b"HTTP/1.1 200 OK\r\n"], *[b"X-A: " + b"y" * 60000 + b"\r\n"] * 8), "not HTTP"),
    "endless": (endless, "endless stream"),
    "giant line": (giant_line, "line too long"),
    "invalid utf-8": (says(HEAD, raw(b'data: {"content":"\xff","tokens_predicted":1}\n\n')), "invalid UTF-8"),
    "invalid json": (says(HEAD, raw(b"data: {oops}\n\n")), "invalid JSON"),
    "json of no kind": (says(HEAD, raw(b"data: [1]\n\n")), "invalid JSON"),
    "odd json": (says(HEAD, raw(b'data: {"tokens_predicted":{}}\n\n')), "unexpected JSON"),
    "error event": (says(HEAD, chunk(1), framed({"error": {"type": "server_error", "message": "full"}})),
                    "server error: server_error"),
    "cut": (says(HEAD, chunk(1), chunk(2)), "cut mid-stream"),
    "cut in a chunk": (says(HEAD, chunk(1)[:30]), "cut mid-stream"),
    "ends early": (says(HEAD, chunk(1), LAST), "cut mid-stream"),
    "nothing": (says(HEAD, LAST), "no tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_each_has_its_kind(name: str) -> None:
    handler, kind = BAD[name]
    async with server(handler) as url:
        assert (await ask(url)).kind == kind


async def test_refused_and_unknown_hosts() -> None:
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        answer = await ask(f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert answer.kind == "connection refused"
    assert (await ask("http://no-such-host.invalid")).kind == "host not found"


async def test_the_servers_own_words_are_kept() -> None:
    async with server(BAD["401"][0]) as url:
        assert (await ask(url)).detail == "bad key"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
async def test_bytes_may_come_in_any_pieces(size: int) -> None:
    """However a stream is cut up on its way, the count is the same."""
    answer = HEAD + b"".join(chunk(count) for count in range(1, 31)) + last_chunk(30) + LAST
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    async with server(says(*pieces)) as url:
        found = await ask(url)
    assert (found.kind, found.tokens, found.said, found.prompt_tokens) == ("", 30, 30, 64)


def chat_answer() -> bytes:
    """Thirty tokens as llama-server's chat endpoint sends them: running timings, then usage, then [DONE]."""

    def event(choice: dict[str, Any] | None, **more: Any) -> bytes:
        return framed({"choices": [choice] if choice else [], "object": "chat.completion.chunk", **more})

    def timings(count: int) -> dict[str, int]:
        return {"cache_n": 0, "prompt_n": 9, "predicted_n": count, "predicted_ms": 3}

    pieces = [event({"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}})]
    for count in range(1, 31):
        choice = {"finish_reason": None, "index": 0, "delta": {"content": "é"}}
        pieces.append(event(choice, timings=timings(count)))
    pieces.append(event({"finish_reason": "length", "index": 0, "delta": {}}))
    pieces.append(event(None, usage={"prompt_tokens": 9, "completion_tokens": 30}, timings=timings(30)))
    return HEAD + b"".join(pieces) + raw(b"data: [DONE]\n\n") + LAST


@pytest.mark.parametrize("field", ["predicted_n", "completion_tokens"])
@pytest.mark.parametrize("size", [1, 7, 64, 300, 1000, 100_000])
async def test_chat_answers_may_come_in_any_pieces(size: int, field: str) -> None:
    answer = chat_answer()
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    async with server(says(*pieces)) as url:
        found = await ask(url, field)
    assert (found.kind, found.tokens, found.said, found.prompt_tokens) == ("", 30, 30, 9)


async def test_events_merged_into_one_chunk_are_all_seen() -> None:
    """A proxy may put the end of an answer into one chunk with its last token."""
    answer = chat_answer()
    events = [line for line in answer.split(b"\r\n") if line.startswith(b"data:")]
    for cut in range(len(events)):
        merged = [raw(event) for event in events[:cut]] + [raw(b"".join(events[cut:]))]
        async with server(says(HEAD, *merged, LAST)) as url:
            found = await ask(url, "predicted_n")
        assert (found.kind, found.tokens, found.said) == ("", 30, 30)


async def test_text_that_looks_like_a_count_is_text() -> None:
    text = '"tokens_predicted":999,"stop":true'
    event = {"index": 0, "content": text, "stop": False, "tokens_predicted": 1, "tokens_evaluated": 64}
    async with server(says(HEAD, framed(event), last_chunk(1), LAST)) as url:
        found = await ask(url)
    assert (found.kind, found.tokens) == ("", 1)


async def test_pings_and_events_without_a_name_are_passed_over() -> None:
    pieces = [HEAD, raw(b": ping\n\n"), chunk(1), raw(b"event: x\nid: 3\n\n"), last_chunk(1), LAST]
    async with server(says(*pieces)) as url:
        assert (await ask(url)).tokens == 1


# --- the same through a whole measurement ---------------------------------------------------


def ignore(_: LoadView) -> None:
    pass


async def run(url: str, dialect: str = "llama", prompt_file: str | None = None) -> str:
    plan = LoadPlan(
        target=Target(url=url, dialect=dialect),
        concurrency=4,
        workload=Workload(prompt_tokens=20, output_tokens=20, prompt_file=prompt_file),
        window=WindowSpec(min_s=0.5, max_s=1.0),
        limits=LIMITS,
    )
    async with asyncio.timeout(20):
        with pytest.raises(LabError) as failure:
            await measure(plan, ignore)
    return str(failure.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("401", "HTTP 401: bad key"), ("html", "not a stream: text/html"), ("500", "HTTP 500")],
)
async def test_a_measurement_says_why_there_is_none(name: str, words: str) -> None:
    async with server(BAD[name][0]) as url:
        assert words in await run(url)


async def test_openai_dialect_says_why_too() -> None:
    async with server(BAD["404"][0]) as url:
        said = await run(f"{url}/nope/v1", "openai")
    assert "HTTP 404: give the base URL that its OpenAI clients have" in said


@pytest.mark.parametrize("base", ["http://a:1", "a:1/", "http://a:1/v1", "http://a:1/v1/"])
def test_a_base_url_may_end_in_v1_and_have_a_path(base: str) -> None:
    assert parse_url(base) == parse_url("http://a:1")
    assert parse_url(base.replace(":1", ":1/proxy")).prefix == "/proxy"


async def test_a_server_that_never_answers() -> None:
    async with server(hang) as url:
        assert "no answer to a short request in 1 s" in await run(url)


async def test_a_server_that_dies_after_the_probe() -> None:
    async def handler(writer: asyncio.StreamWriter, number: int) -> None:
        await (good(writer, number) if number <= 8 else BAD["500"][0](writer, number))

    async with server(handler) as url:
        assert "every request failed: HTTP 500" in await run(url)


async def test_a_server_that_hangs_after_the_probe() -> None:
    async def handler(writer: asyncio.StreamWriter, number: int) -> None:
        await (good if number <= 8 else hang)(writer, number)

    async with server(handler) as url:
        assert "no token came from 4 requests" in await run(url)


async def test_broken_prompt_files_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "fine"}\n\n{"prompt": \n')
    assert f"{file} line 3: not JSON" in await run("http://127.0.0.1:1", prompt_file=str(file))
    file.write_text('{"messages": [{"content": 3}]}\n')
    assert "line 1: neither a prompt nor messages" in await run("http://127.0.0.1:1", prompt_file=str(file))
    file.write_text("")
    assert "no prompts in it" in await run("http://127.0.0.1:1", prompt_file=str(file))
    assert "no such file" in await run("http://127.0.0.1:1", prompt_file=str(tmp_path / "none"))
    file.write_text('"fine"\n{"messages": "x"}\n')
    assert f"{file} line 2: messages is no list" in await run("http://127.0.0.1:1", prompt_file=str(file))


async def test_what_is_no_file_of_prompts_is_not_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as opened:
        opened.truncate(MOST_BYTES + 1)
    for path in (pipe, Path("/dev/zero")):
        words = f"{path} is not a plain file: give a JSONL file"
        assert words in await run("http://127.0.0.1:1", prompt_file=str(path))
    assert f"{large} is larger than 64 MB" in await run("http://127.0.0.1:1", prompt_file=str(large))
    assert "is a directory" in await run("http://127.0.0.1:1", prompt_file=str(tmp_path))


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://a:99999", "http://[::1", f"http://{'a' * 300}"]
)
async def test_urls_that_are_none(url: str) -> None:
    assert "write it as http://host:port" in await run(url)


def test_known_chunk_shapes_are_bounded() -> None:
    known = Tally()
    for at in range(tally._MOST_SHAPES + 10):
        known.endings(b"%d" % at, b"x", 1)
    assert known.endings(b"another", b"x", 1) == []


async def test_a_measurement_that_waits_for_its_server_stops_when_told() -> None:
    """As a front does whose workers are suspended: it takes connections and never answers."""
    asked, stop = asyncio.Event(), asyncio.Event()

    async def never(writer: asyncio.StreamWriter, number: int) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with server(never) as url:
        plan = LoadPlan(target=Target(url=url), concurrency=1, limits=Limits(silence_s=3600.0))
        measuring = asyncio.create_task(measure(plan, lambda _: None, stop))
        await asked.wait()
        stop.set()
        with pytest.raises(LabError, match="stopped before the load began: nothing was measured"):
            await asyncio.wait_for(measuring, 60)
