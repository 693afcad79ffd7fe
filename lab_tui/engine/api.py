"""The engine's API: HTTP on a Unix socket, JSON in and out, one document a line where it streams."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from lab_tui import __version__
from lab_tui.engine.engine import Engine
from lab_tui.engine.peer import may_ask
from lab_tui.model import (
    VERSION_HEADER,
    BenchEvent,
    BenchSpec,
    ExportSpec,
    Failure,
    FleetSpec,
    LabError,
    LogLine,
    ResultsFile,
    SweepSpec,
)
from lab_tui.serving.llama_server import check_ranges

log = logging.getLogger(__name__)

JSON = "application/json"
LINES = "application/x-ndjson"
MAX_BODY_BYTES = 8 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")


def application(engine: Engine) -> web.Application:
    """The routes over ``engine``."""
    app = web.Application(middlewares=[_refusals], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(_sign)

    def get(path: str, handler: Callable[[Engine, web.Request], Awaitable[web.StreamResponse]]) -> None:
        app.router.add_get(path, functools.partial(handler, engine))

    def post(path: str, handler: Callable[[Engine, web.Request], Awaitable[web.StreamResponse]]) -> None:
        app.router.add_post(path, functools.partial(handler, engine))

    get("/engine", _info)
    get("/status", _status)
    get("/watch", _watch)
    get("/history", _history)
    get("/presets", _presets)
    get("/logs/{source}", _logs)
    get("/instances/{index}/slots", _slots)
    get("/sweeps", _sweeps)
    get("/sweeps/{id}", _sweep)
    post("/models", _models)
    post("/fleet/check", _check)
    post("/fleet/up", _up)
    post("/fleet/down", _down)
    post("/instances/{index}/{action}", _instance)
    post("/bench", _bench)
    post("/bench/stop", _stop_bench)
    post("/sweeps", _add_sweep)
    post("/sweeps/outline", _outline)
    post("/sweeps/import", _import)
    post("/export", _export)
    post("/sweeps/{id}/remove", _remove)
    post("/sweeps/{id}/move", _move)
    post("/queue/{action}", _queue)
    post("/engine/stop", _stop)
    return app


# --- around every handler -----------------------------------------------------------------


async def _sign(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[VERSION_HEADER] = __version__


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """LabError and broken bodies as one Failure, so that a viewer can show the line as it is."""
    try:
        _check_peer(request)
        return await handler(request)
    except LabError as error:
        return _answer(Failure(message=error.message, remedy=error.remedy), status=409)
    except (msgspec.DecodeError, RecursionError) as error:  # the latter for what is nested too deeply
        return _answer(Failure(message=f"{request.path}: {error}"), status=400)
    except web.HTTPException as error:
        failure = Failure(message=f"{request.method} {request.path}: {error.reason}")
        return _answer(failure, status=error.status)


def _check_peer(request: web.Request) -> None:
    line = request.transport
    if line is None or not may_ask(line.get_extra_info("socket")):
        raise web.HTTPForbidden(reason="this engine answers its owner alone")


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON)


async def _body(request: web.Request, kind: type[T]) -> T:
    return msgspec.json.decode(await request.read(), type=kind)


def _number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise LabError(f"{what} is {text!r}", "give a number") from None


async def _stream(request: web.Request, items: AsyncIterator[Any]) -> web.StreamResponse:
    """Send ``items`` a line each until they end or the viewer leaves; then the source is closed."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    await response.prepare(request)
    try:
        async for item in items:
            await response.write(msgspec.json.encode(item) + b"\n")
    except ConnectionResetError:
        log.debug("a viewer of %s left", request.path)
    finally:
        await items.aclose()  # type: ignore[attr-defined]  # every source here is a generator
    return response


# --- handlers -----------------------------------------------------------------------------


async def _info(engine: Engine, _: web.Request) -> web.StreamResponse:
    return _answer(engine.snapshots.info())


async def _status(engine: Engine, _: web.Request) -> web.StreamResponse:
    return _answer(engine.snapshots.now())


async def _watch(engine: Engine, request: web.Request) -> web.StreamResponse:
    try:
        interval_s = min(60.0, max(0.1, float(request.query.get("interval", "1"))))
    except ValueError:
        raise LabError("interval is not a number", "give seconds") from None
    return await _stream(request, engine.snapshots.watch(interval_s))


async def _history(engine: Engine, _: web.Request) -> web.StreamResponse:
    return _answer(engine.snapshots.history.view())


async def _slots(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(engine.fleet.slots(_number(request.match_info["index"], "instance")))


async def _presets(engine: Engine, _: web.Request) -> web.StreamResponse:
    return _answer(await engine.presets())


async def _logs(engine: Engine, request: web.Request) -> web.StreamResponse:
    source = request.match_info["source"]
    tail = _number(request.query.get("tail", "200"), "tail")
    lines = engine.log_lines(source, tail, follow=request.query.get("follow") == "1")

    async def labelled() -> AsyncIterator[LogLine]:
        async for text in lines:
            yield LogLine(source=source, text=text)

    return await _stream(request, labelled())


async def _sweeps(engine: Engine, _: web.Request) -> web.StreamResponse:
    return _answer(await engine.queue.all())


async def _sweep(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.queue.detail(_number(request.match_info["id"], "sweep id")))


async def _models(engine: Engine, request: web.Request) -> web.StreamResponse:
    spec = await _body(request, FleetSpec)
    check_ranges(spec)  # who may ask does not matter for what fits
    return await _stream(request, engine.models(spec))


async def _check(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.check(await _body(request, FleetSpec)))


async def _up(engine: Engine, request: web.Request) -> web.StreamResponse:
    await engine.up(await _body(request, FleetSpec))
    return _answer(None)


async def _down(engine: Engine, _: web.Request) -> web.StreamResponse:
    await engine.down()
    return _answer(None)


async def _instance(engine: Engine, request: web.Request) -> web.StreamResponse:
    index = _number(request.match_info["index"], "instance")
    await engine.instance(index, request.match_info["action"])
    return _answer(None)


async def _bench(engine: Engine, request: web.Request) -> web.StreamResponse:
    spec = await _body(request, BenchSpec)
    plan = engine.bench_plan(spec)  # refused before the stream begins, where it can be

    async def events() -> AsyncIterator[BenchEvent]:
        source = engine.bench(plan, local=spec.url is None)
        try:
            async for item in source:
                yield item
        except LabError as error:
            yield BenchEvent(failure=Failure(message=error.message, remedy=error.remedy))
        finally:
            await source.aclose()

    return await _stream(request, events())


async def _stop_bench(engine: Engine, _: web.Request) -> web.StreamResponse:
    engine.stop_bench()
    return _answer(None)


async def _add_sweep(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.queue.add(await _body(request, SweepSpec)))


async def _outline(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.outline(await _body(request, SweepSpec)))


async def _import(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.import_results(await _body(request, ResultsFile)))


async def _export(engine: Engine, request: web.Request) -> web.StreamResponse:
    return _answer(await engine.export(await _body(request, ExportSpec)))


async def _remove(engine: Engine, request: web.Request) -> web.StreamResponse:
    await engine.queue.remove(_number(request.match_info["id"], "sweep id"))
    return _answer(None)


async def _move(engine: Engine, request: web.Request) -> web.StreamResponse:
    position = _number(request.query.get("position", "1"), "position")
    await engine.queue.move(_number(request.match_info["id"], "sweep id"), position)
    return _answer(None)


async def _queue(engine: Engine, request: web.Request) -> web.StreamResponse:
    actions = {"pause": engine.queue.pause, "resume": engine.queue.resume, "skip": engine.queue.skip}
    action = actions.get(request.match_info["action"])
    if action is None:
        raise LabError(f"the queue cannot {request.match_info['action']}", f"use {', '.join(actions)}")
    await action()
    return _answer(None)


async def _stop(engine: Engine, request: web.Request) -> web.StreamResponse:
    engine.request_stop(keep_fleet=request.query.get("keep_fleet") == "1")
    return _answer(None)


async def run_server(engine: Engine, socket_path: str) -> web.AppRunner:
    """Listen on the socket. The caller cleans the runner up."""
    runner = web.AppRunner(
        application(engine), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    await web.UnixSite(runner, socket_path).start()
    return runner
