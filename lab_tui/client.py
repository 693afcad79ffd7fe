"""The engine's API as typed calls.

Everything goes as JSON over HTTP on the engine's Unix socket; long answers are streams of one
JSON document a line. ``curl --unix-socket "$XDG_RUNTIME_DIR/lab-tui/engine.sock" http://lab/status``
does the same from a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from lab_tui import __version__, paths, tasks
from lab_tui.model import (
    VERSION_HEADER,
    BenchEvent,
    BenchSpec,
    CellView,
    Data,
    EngineInfo,
    ExportSpec,
    Failure,
    FleetSpec,
    History,
    LabError,
    LogLine,
    ModelFile,
    Outline,
    ResultsFile,
    SlotsView,
    Snapshot,
    SweepDetail,
    SweepSpec,
    SweepView,
)

PATIENCE_S = 3.0  # without a word from the engine, before it is asked whether it is there at all
PULSE_S = 5.0  # it says so at once, whatever else it does

T = TypeVar("T")


class EngineGone(LabError):
    """No engine answers on the socket."""

    def __init__(self) -> None:
        super().__init__("no engine is running", "start one with `lab-tui` or `lab-tui engine run`")


class EngineSilent(LabError):
    """An engine is there and does not answer: one that was suspended, or has no processor time to."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(*_silence(pid))


def _silence(pid: int | None) -> tuple[str, str]:
    """What is wrong with an engine that does not answer, by what the system says of it, and what to do."""
    import psutil  # of use here alone

    if pid is None:
        return "the engine does not answer, and which process it is cannot be told", "try again"
    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return f"the engine (pid {pid}) has ended", "try again: the next one takes its fleet over"
    if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
        who = f"the engine (pid {pid}) is suspended by a signal or a debugger"
        return who, f"`kill -CONT {pid}` lets it go on"
    return (
        f"the engine (pid {pid}) is busy, or this machine is, and has not answered for"
        f" {PATIENCE_S + PULSE_S:.0f} s",
        f"wait and try again; `kill -9 {pid}` only as a last resort: the next one takes its fleet over",
    )


class EngineClient:
    """One connection to the engine. Use as an async context manager.

    Every call raises EngineGone when no engine is there, EngineSilent when it hangs, and LabError with the
    engine's own words when it refuses. What takes long is waited for as long as the engine is there.
    """

    def __init__(self, socket: Path | None = None) -> None:
        self.socket = socket or paths.socket_path()
        paths.check_ours(self.socket.parent)  # else we might tell another user what to keep secret
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), verify=False)
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://lab", timeout=httpx.Timeout(30.0, read=None)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # -- reading

    async def info(self) -> EngineInfo:
        """Who answers. The one call that works with an engine of another version."""
        return await self._call("GET", "/engine", EngineInfo, any_version=True)

    async def snapshot(self) -> Snapshot:
        """Everything, once."""
        return await self._call("GET", "/status", Snapshot)

    def watch(self, interval_s: float = 1.0) -> AsyncGenerator[Snapshot, None]:
        """Snapshots for ever: at once when a state changes, else every ``interval_s``."""
        return self._lines("GET", "/watch", Snapshot, params={"interval": interval_s})

    async def history(self) -> History:
        """The last hour of readings."""
        return await self._call("GET", "/history", History)

    def logs(self, source: str, tail: int = 200, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """The last ``tail`` lines of a log ("0", "1", …, "nginx", "engine"), then new ones."""
        params = {"tail": tail, "follow": int(follow)}
        return self._lines("GET", f"/logs/{source}", LogLine, params=params)

    # -- the fleet

    async def check(self, spec: FleetSpec) -> str:
        """Why ``spec`` may not fit, else ""; nothing is touched. Raises LabError where ``up`` would."""
        return await self._call("POST", "/fleet/check", str, body=spec)

    async def up(self, spec: FleetSpec) -> None:
        """Make the fleet be ``spec``. Returns once it is checked and starting, not when it is ready."""
        await self._call("POST", "/fleet/up", None, body=spec)

    async def down(self) -> None:
        """Stop every instance and the front. Returns when they are gone."""
        await self._call("POST", "/fleet/down", None)

    async def instance(self, index: int, action: str) -> None:
        """``start``, ``stop`` or ``restart`` one instance. Stop returns when it is gone."""
        await self._call("POST", f"/instances/{index}/{action}", None)

    def models(self, spec: FleetSpec) -> AsyncGenerator[ModelFile, None]:
        """The models of this machine as they are found, and how many instances of ``spec`` fit of each."""
        return self._lines("POST", "/models", ModelFile, body=spec)

    async def slots(self, index: int) -> SlotsView:
        """What each slot of one instance does."""
        return await self._call("GET", f"/instances/{index}/slots", SlotsView)

    async def presets(self) -> dict[str, SweepSpec]:
        """The sweeps that have a name, over the running fleet's settings or the default ones."""
        return await self._call("GET", "/presets", dict[str, SweepSpec])

    # -- measuring

    def bench(self, spec: BenchSpec) -> AsyncGenerator[BenchEvent, None]:
        """Measure once; the last event carries the result. Closing the iterator cancels the bench."""
        return self._lines("POST", "/bench", BenchEvent, body=spec)

    async def stop_bench(self) -> None:
        """Close the window of the running bench: its result is what was measured until now."""
        await self._call("POST", "/bench/stop", None)

    async def sweep(self, spec: SweepSpec) -> SweepView:
        """Queue a sweep."""
        return await self._call("POST", "/sweeps", SweepView, body=spec)

    async def outline(self, spec: SweepSpec) -> Outline:
        """What a sweep would come to; nothing is queued."""
        return await self._call("POST", "/sweeps/outline", Outline, body=spec)

    async def import_results(self, file: ResultsFile) -> SweepView:
        """Keep a CSV of results as a finished sweep."""
        return await self._call("POST", "/sweeps/import", SweepView, body=file)

    async def sweeps(self) -> list[SweepView]:
        """Every sweep in the store, newest first."""
        return await self._call("GET", "/sweeps", list[SweepView])

    async def sweep_detail(self, sweep_id: int) -> SweepDetail:
        """One sweep with its cells."""
        async with self._open("GET", f"/sweeps/{sweep_id}", None, None, False) as response:
            content = await self._patiently(response.aread())
        return await asyncio.to_thread(_detail, content)

    async def export(self, spec: ExportSpec) -> dict[str, str]:
        """A sweep, or a fleet, as files by name; nothing is written."""
        return await self._call("POST", "/export", dict[str, str], body=spec)

    async def queue(self, action: str) -> None:
        """``pause``, ``resume``, or ``skip`` the running cell."""
        await self._call("POST", f"/queue/{action}", None)

    async def remove(self, sweep_id: int) -> None:
        """Take a sweep out of the queue; a running one is aborted, what it measured stays."""
        await self._call("POST", f"/sweeps/{sweep_id}/remove", None)

    async def move(self, sweep_id: int, position: int) -> None:
        """Put a waiting sweep at ``position`` of the queue, 1 being next."""
        await self._call("POST", f"/sweeps/{sweep_id}/move", None, params={"position": position})

    # -- the engine

    async def stop_engine(self, keep_fleet: bool = False) -> None:
        """Stop the engine, and the fleet with it unless it is to go on serving."""
        await self._call(
            "POST", "/engine/stop", None, params={"keep_fleet": int(keep_fleet)}, any_version=True
        )

    # -- the wire

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T] | None,
        *,
        body: Data | None = None,
        params: dict[str, Any] | None = None,
        any_version: bool = False,
    ) -> T:
        async with self._open(method, path, body, params, any_version) as response:
            content = await self._patiently(response.aread())
        return msgspec.json.decode(content, type=kind) if kind else msgspec.json.decode(content)

    async def _lines(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Data | None = None,
        params: dict[str, Any] | None = None,
    ) -> AsyncGenerator[T, None]:
        decoder = msgspec.json.Decoder(kind)
        async with self._open(method, path, body, params, False) as response:
            chunks, rest = response.aiter_bytes(), b""
            while chunk := await self._patiently(_next(chunks)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield decoder.decode(line)

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Data | None, params: dict[str, Any] | None, any_version: bool
    ) -> AsyncIterator[httpx.Response]:
        """The response of one request, errors turned into LabError."""
        content = msgspec.json.encode(body) if body is not None else None
        request = self._http.build_request(method, path, content=content, params=params)
        try:
            response = await self._patiently(self._http.send(request, stream=True))
            try:
                if not any_version:
                    _check_version(response.headers.get(VERSION_HEADER, "unknown"))
                if response.is_error:
                    raise _refusal(await self._patiently(response.aread()), response.status_code)
                yield response
            finally:
                await response.aclose()
        except (httpx.TransportError, FileNotFoundError) as error:
            raise EngineGone() from error

    async def _patiently(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, waited for as long as the engine is there. Raises EngineSilent."""
        task = asyncio.create_task(work, name="waiting for the engine")
        try:
            while not (await asyncio.wait({task}, timeout=PATIENCE_S))[0]:
                try:
                    await self._check_pulse()
                except EngineSilent:
                    if not task.done():  # else it was slow, and has answered meanwhile
                        raise
            return task.result()
        finally:
            await tasks.end(task)

    async def _check_pulse(self) -> None:
        """Raise EngineSilent when nobody says anything on a line of its own. One that ends takes no new line,
        but finishes what it was asked: who waits hears of its death by his own.
        """
        try:
            await self._http.get("/engine", timeout=PULSE_S)
        except httpx.TimeoutException:
            raise EngineSilent(_pid(self.socket.parent)) from None
        except (httpx.TransportError, FileNotFoundError):
            return


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next one; empty at the end."""
    return await anext(chunks, b"")


def _pid(runtime: Path) -> int | None:
    """The engine's, from its lock; None when that cannot be told."""
    try:
        return int((runtime / paths.LOCK).read_text())
    except (OSError, ValueError):
        return None


def _check_version(version: str) -> None:
    if version != __version__:
        raise LabError(
            f"the running engine is version {version}, this is {__version__}",
            "`lab-tui engine stop --keep-fleet`, then run this again: the new engine takes the fleet over",
        )


class _Rough(SweepDetail, frozen=True, kw_only=True):
    """A sweep of which no cell is decoded yet."""

    cells: tuple[msgspec.Raw, ...]  # type: ignore[assignment]


def _detail(content: bytes) -> SweepDetail:
    """One sweep with its cells, decoded cell by cell: at once, 10,000 would hold every thread for 0.4 s."""
    rough = msgspec.json.decode(content, type=_Rough)
    cell = msgspec.json.Decoder(CellView)
    return SweepDetail(**msgspec.structs.asdict(rough) | {"cells": tuple(map(cell.decode, rough.cells))})


def _refusal(content: bytes, status: int) -> LabError:
    try:
        failure = msgspec.json.decode(content, type=Failure)
    except msgspec.DecodeError:
        return LabError(f"the engine answered {status}", "see `lab-tui logs engine`")
    return LabError(failure.message, failure.remedy)
