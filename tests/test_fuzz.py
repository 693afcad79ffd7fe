"""Whatever comes from outside, there is an answer, a LabError or a named kind of error, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from aiohttp import ClientSession, UnixConnector, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab_tui import config
from lab_tui.config import Settings
from lab_tui.engine.api import application
from lab_tui.engine.engine import Engine
from lab_tui.load import backends
from lab_tui.load.http import Wire, parse_url
from lab_tui.load.reading import TokenStream
from lab_tui.load.tally import Tally
from lab_tui.model import BenchSpec, Data, Failure, FleetSpec, LabError, ResultsFile, SweepSpec
from lab_tui.serving import gguf_header, models, shape
from lab_tui.serving.readings import SLOTS, decoded, parse_metrics

quick = settings(
    max_examples=40,
    deadline=30_000,  # ms for one example: a hang is a failure, a machine that stands still for a moment none
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e308])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(st.text(max_size=10), inner, max_size=4), max_leaves=8)  # fmt: skip


# --- the engine's API ---------------------------------------------------------------------------

BODIES: dict[str, Data] = {
    "/fleet/up": FleetSpec(model="/none.gguf"),
    "/bench": BenchSpec(),
    "/sweeps": SweepSpec(name="x", fleet=FleetSpec(model="/none.gguf"), axes={"concurrency": (1, 2)}),
    "/sweeps/import": ResultsFile(name="a.csv", text="instances,parallel\n1,2\n"),
}
Post = Callable[[str, bytes], tuple[int, bytes]]


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """An engine whose store is open and nothing else."""
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:  # the path of a socket has to be short
        yield from answers(Path(folder))


def answers(folder: Path) -> Iterator[Post]:
    for name in ("run", "state", "logs"):
        (folder / name).mkdir()

    async def opened() -> tuple[Engine, web.AppRunner, ClientSession]:
        engine = Engine(Settings(), runtime=folder / "run", state=folder / "state", logs=folder / "logs")
        await engine._store.call(engine._store.open)
        server = web.AppRunner(application(engine))
        await server.setup()
        socket = str(folder / "run" / "socket")
        await web.UnixSite(server, socket).start()
        return engine, server, ClientSession("http://lab", connector=UnixConnector(socket))

    with asyncio.Runner() as runner:
        engine, server, client = runner.run(opened())

        async def asked(path: str, body: bytes) -> tuple[int, bytes]:
            answer = await client.post(path, data=body)
            return answer.status, await answer.read()

        yield lambda path, body: runner.run(asked(path, body))
        runner.run(client.close())
        runner.run(server.cleanup())
        runner.run(engine._store.close())


def refused(answer: tuple[int, bytes]) -> None:
    status, body = answer
    assert status in (400, 404, 409, 413), body
    assert msgspec.json.decode(body, type=Failure).message


@quick
@given(path=st.sampled_from(sorted(BODIES)), body=st.binary(max_size=200) | values.map(msgspec.json.encode))
def test_bodies_that_are_anything(post: Post, path: str, body: bytes) -> None:
    refused(post(path, body))


@st.composite
def bent(draw: st.DrawFn) -> tuple[str, bytes]:
    """A body that is right but for one field, at any depth."""
    path = draw(st.sampled_from(sorted(BODIES)))
    tree: Any = msgspec.to_builtins(BODIES[path])
    place = tree
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or draw(st.booleans()):
            place[key] = draw(values)
            return path, msgspec.json.encode(tree)
        place = place[key]


@quick
@given(bent())
def test_bodies_with_one_field_bent(post: Post, body: tuple[str, bytes]) -> None:
    refused(post(*body))


@quick
@given(
    st.sampled_from(["/instances/{}/start", "/instances/0/{}", "/sweeps/{}/remove", "/sweeps/{}/move",
                     "/sweeps/1/move?position={}", "/queue/{}"]),
    st.text(string.printable, min_size=1, max_size=30),
)  # fmt: skip
def test_paths(post: Post, path: str, word: str) -> None:
    if word not in ("pause", "resume"):
        refused(post(path.format(quote(word, safe="")), b""))


# --- settings -----------------------------------------------------------------------------------

toml_values = st.sampled_from(
    [
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        '"x"',
        "[1]",
        "{a=1}",
        "true",
        "1979-05-27",
        "0x10",
        "99999999999999999999",
    ]
)
toml_lines = st.builds(
    "{} = {}".format,
    st.sampled_from(["instances", "poll_s", "tick_s", "host", "args", "model", "x"]),
    toml_values,
)
toml_texts = st.lists(st.sampled_from(["[serve]", "[engine]", "[ui]", "[x]"]) | toml_lines, max_size=6)


@quick
@given(content=st.binary(max_size=100) | toml_texts.map(lambda lines: "\n".join(lines).encode()))
def test_settings_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with contextlib.suppress(LabError):
        config.load({}, file)


@quick
@given(section=st.sampled_from(["SERVE_INSTANCES", "ENGINE_POLL_S", "UI_TICK_S", "SERVE_ARGS", "SERVE_NONE"]),
       value=st.text(max_size=20))  # fmt: skip
def test_variables(tmp_path: Path, section: str, value: str) -> None:
    with contextlib.suppress(LabError):
        config.extra_args(config.load({f"LAB_TUI_{section}": value}, tmp_path / "none"))


# --- what servers say ---------------------------------------------------------------------------

FIELDS = ("tokens_predicted", "stop", "tokens_evaluated", "timings", "predicted_n", "choices", "usage",
          "completion_tokens", "prompt_tokens", "delta", "content", "error", "finish_reason")  # fmt: skip
events = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
lines = events.map(lambda event: b"data: " + msgspec.json.encode(event) + b"\n\n")
pieces = st.lists(st.binary(max_size=40) | lines | st.just(b"data: [DONE]\n\n"), max_size=6)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Nowhere(asyncio.Transport):
    """A connection that takes everything."""

    def abort(self) -> None:
        """Nothing is open."""

    def write(self, data: Any) -> None:
        """Nobody reads."""


async def _read(parts: list[bytes], cut: int) -> str:
    """What becomes of a request that is answered so, the bytes cut into two."""
    stream = TokenStream(parse_url("http://127.0.0.1:1"), Tally())
    wire = stream.wire = stream.make_wire(stream)
    wire.connection_made(Nowhere())
    asking = asyncio.ensure_future(stream.ask(b"", 0.0, 16))
    await asyncio.sleep(0)
    for part in parts:
        for piece in (part[:cut], part[cut:]):
            if piece and isinstance(stream.wire, Wire):
                stream.wire.data_received(piece)
    wire.connection_lost(None)
    return (await asyncio.wait_for(asking, 20)).kind


@quick
@given(pieces, st.integers(0, 60))
def test_events_of_a_stream(parts: list[bytes], cut: int) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part]
    asyncio.run(_read([HEAD, *chunks, b"0\r\n\r\n"], cut))


@quick
@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_bytes_that_are_no_answer(parts: list[bytes], head: bool) -> None:
    kind = asyncio.run(_read([HEAD, *parts] if head else parts, 7))
    assert kind


@pytest.mark.parametrize("count", [b"1000000000", b"9" * 400, b"9" * 5000, b"1e300", b"-5"])
@pytest.mark.parametrize("key", [b"tokens_predicted", b"predicted_n", b"completion_tokens"])
def test_a_count_of_tokens_that_cannot_be(key: bytes, count: bytes) -> None:
    event = b'data: {"index":0,"content":"a","%b":%b,"stop":false}\n\n' % (key, count)
    if key != b"tokens_predicted":
        event = b'data: {"choices":[{"delta":{"content":"a"}}],"timings":{"%b":%b}}\n\n' % (key, count)
    assert asyncio.run(_read([HEAD, b"%x\r\n%b\r\n" % (len(event), event)], 10_000))


metric_lines = st.builds(
    "llamacpp:{} {}".format,
    st.sampled_from(["tokens_predicted_total", "requests_processing", "requests_deferred", 'x{a="b"}']),
    st.sampled_from(["1", "-1", "nan", "inf", "-inf", "1e400", "1e308", "x", "", "1 2"]),
)


@quick
@given(st.text(max_size=80) | st.lists(metric_lines, max_size=6).map("\n".join))
def test_metrics(text: str) -> None:
    assert all(abs(value) < float("inf") for value in parse_metrics(text).values())
    found = backends.parse_metrics(text)
    assert isinstance(found.idle, bool)
    if found.predicted is not None:
        assert backends.quantum(found.predicted) >= 1


@quick
@given(st.binary(max_size=80) | values.map(msgspec.json.encode))
def test_slots(content: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        sum(map(decoded, SLOTS.decode(content)))


# --- models -------------------------------------------------------------------------------------


@settings(quick, max_examples=80)
@given(data=st.data())
def test_headers_of_models(data: st.DataObject, tiny_model: Path, tmp_path: Path) -> None:
    """A real header with some bytes changed or cut."""
    head = bytearray(tiny_model.read_bytes()[:40_000])
    for at in data.draw(st.lists(st.integers(0, 2000), max_size=4)):
        head[at] = data.draw(st.integers(0, 255))
    file = tmp_path / f"bent-{os.getpid()}.gguf"
    file.write_bytes(head[: data.draw(st.integers(0, len(head)))])
    with contextlib.suppress(gguf_header.Damaged):
        gguf_header.read_header(file)
    for read in (models.check, shape.read_shape, models.inspect):
        with contextlib.suppress(LabError):
            read(file)
