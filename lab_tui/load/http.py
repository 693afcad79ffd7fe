"""A small HTTP/1.1 client on asyncio and httptools that does little else than hand on bodies.

One :class:`HttpStream` is one connection and the one request on it. General clients spend more
CPU on a streamed token than the socket itself does; at a thousand streams that would be measured
instead of the server. Subclasses say what to do with the body.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
from typing import cast
from urllib.parse import quote, urlsplit

import httptools
import msgspec

from lab_tui.model import USER_AGENT, Data, LabError

HEAD_LIMIT = 256 * 1024  # bytes of response headers
ERROR_BODY_LIMIT = 64 * 1024  # bytes kept of an answer that is not a stream


class Origin(Data, frozen=True):
    """Where a URL leads: what to connect to and what to put before each path."""

    scheme: str
    host: str
    port: int
    prefix: str = ""  # path before /v1 or /completion, without a slash at its end

    @property
    def authority(self) -> str:
        """``host:port`` as the Host header has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Origin:
    """The origin of a base URL; a scheme may be left out, a path is kept and a trailing ``/v1`` is dropped.

    Raises LabError when it is no http or https URL.
    """
    text = url.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError as error:
        raise LabError(f"{url} is not a URL ({error})", "write it as http://host:port") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.hostname.isprintable():
        raise LabError(f"{url}: not an http URL", "write it as http://host:port")
    try:
        parts.hostname.encode("idna")
    except UnicodeError as error:
        raise LabError(f"{url}: no such host name is possible", "write it as http://host:port") from error
    prefix = quote(parts.path, safe="/%:@~+,;=&!$'()*").rstrip("/").removesuffix("/v1").rstrip("/")
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), prefix)


def request_bytes(origin: Origin, path: str, api_key: str | None, body: bytes | None = None) -> bytes:
    """A whole request: POST of JSON when there is a body, else GET. ``path`` begins with a slash."""
    method = "GET" if body is None else "POST"
    lines = [
        f"{method} {origin.prefix}{path} HTTP/1.1",
        f"Host: {origin.authority}",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
    ]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


class Broken(Exception):
    """A request that failed; the text is the kind it is counted under."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


def kind_of(error: BaseException) -> str:
    """The name under which an error of the operating system is counted, such as "connection refused"."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, TimeoutError):
        return "connect timed out"
    if isinstance(error, OSError):
        if error.errno == errno.EMFILE:
            return "out of file descriptors"
        if error.errno == errno.EADDRNOTAVAIL:
            return "out of local ports"
        if isinstance(error, socket.gaierror):
            return "host not found"
        if isinstance(error, ssl.SSLError):
            return "TLS failed"
        return (os.strerror(error.errno) if error.errno else str(error)).lower() or "connection failed"
    return type(error).__name__


@functools.cache
def trusted() -> ssl.SSLContext:
    """What this machine trusts. Reading it takes 20 ms, too long for each of a thousand streams."""
    return ssl.create_default_context()


class Wire(asyncio.Protocol):
    """One TCP connection. The owner may have gone on to another one before this one is quite gone."""

    __slots__ = ("_feed", "head_bytes", "owner", "parser", "transport")

    def __init__(self, owner: HttpStream) -> None:
        self.owner = owner
        self.parser = httptools.HttpResponseParser(owner)
        self.head_bytes = 0
        self._feed = self.parser.feed_data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        owner = self.owner
        if owner.in_head:
            owner.answered = True
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_LIMIT:
                owner.fail("not HTTP")
                return
        try:
            self._feed(data)
        except httptools.HttpParserError:
            owner.fail("not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.owner.wire is self:
            self.owner.lost(exc)


class HttpStream:
    """One connection, kept alive from request to request, with at most one request on it.

    A subclass defines ``on_body``, ``on_begin``, ``on_head`` and ``finish``. It is itself what
    httptools calls.
    """

    __slots__ = (
        "_done",
        "_door",
        "_until_closed",
        "answered",
        "connect_s",
        "content_type",
        "in_head",
        "origin",
        "status",
        "upstream",
        "wire",
    )
    make_wire: type[Wire] = Wire

    def __init__(
        self, origin: Origin, connect_s: float = 10.0, door: asyncio.Semaphore | None = None
    ) -> None:
        self.origin = origin
        self.connect_s = connect_s
        self._door = door  # how many connections are opened at once
        self.wire: Wire | None = None
        self.in_head = True
        self.answered = False  # some byte of this answer has come
        self.status = 0
        self.content_type = ""
        self.upstream = ""
        self._until_closed = False  # the body ends where the connection does
        self._done: asyncio.Future[str] | None = None

    # -- one request

    async def exchange(self, request: bytes) -> str:
        """Send a whole request and wait for the end of its answer.

        Returns "" or the kind of error. A kept connection that the server had closed in the
        meantime is opened anew once: that request was never taken up.
        """
        while True:
            reused = self.wire is not None
            self._reset()
            done = self._done = asyncio.get_running_loop().create_future()
            try:
                wire = self.wire = self.wire or await self._open()
                wire.transport.write(request)
                kind: str = await done
            except OSError as error:
                return kind_of(error)
            finally:
                self._done = None
                if not done.done() or done.cancelled():
                    self.abort()
            if reused and not self.answered and kind in ("connection closed", "connection reset"):
                continue
            return kind

    def abort(self) -> None:
        """Drop the connection at once; a request on it ends as "cancelled"."""
        self._end("cancelled")
        if self.wire is not None:
            self.wire.transport.abort()
            self.wire = None

    def fail(self, kind: str) -> None:
        """End the request as an error of this kind and drop the connection."""
        self._end(kind)
        self.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is on it."""
        return self._done is not None

    async def _open(self) -> Wire:
        if self._door is None:
            return await self._connect()
        async with self._door:
            return await self._connect()

    async def _connect(self) -> Wire:
        context = trusted() if self.origin.scheme == "https" else None
        async with asyncio.timeout(self.connect_s):
            _, wire = await asyncio.get_running_loop().create_connection(
                lambda: self.make_wire(self), self.origin.host, self.origin.port, ssl=context
            )
        return wire

    def _reset(self) -> None:
        self.status = 0
        self.content_type = ""
        self.upstream = ""
        self.in_head = True
        self.answered = False
        if self.wire is not None:
            self.wire.head_bytes = 0
        self.on_begin()

    def _end(self, kind: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(kind)

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone: the request on it is finished, cut or never answered."""
        self.wire = None
        if self._done is None or self._done.done():
            return
        if self.in_head:
            self._end(kind_of(exc) if exc else "connection closed")
        elif self._until_closed and exc is None:
            self._end(self.finish())
        else:
            self._end("cut mid-stream")

    # -- what a subclass says

    def on_begin(self) -> None:
        """A request is about to be sent."""

    def on_head(self) -> None:
        """Status and headers are there."""

    def on_body(self, body: bytes) -> None:
        """A piece of the body, as the server framed it."""

    def finish(self) -> str:
        """The answer is whole: "" or the kind of error it amounts to."""
        return ""

    # -- what httptools calls, besides on_body

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._until_closed = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One response header; only what a measurement needs is kept."""
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
            case b"x-upstream":
                self.upstream = value.decode("latin-1").rpartition(",")[2].strip()
            case b"content-length" | b"transfer-encoding":
                self._until_closed = False

    def on_headers_complete(self) -> None:
        """Status and headers are there."""
        if self.wire is not None:
            self.status = self.wire.parser.get_status_code()
        self.in_head = False
        self.on_head()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.status < 200:  # 100 Continue and the like: the real answer follows
            self.in_head = True
            return
        keep = self.wire is not None and self.wire.parser.should_keep_alive()
        self._end(self.finish())
        if not keep:
            self.abort()


class Fetch(HttpStream):
    """A plain request whose whole body is kept: for /metrics, /slots, /props and the like."""

    __slots__ = ("body",)

    def on_begin(self) -> None:
        """Forget the last answer."""
        self.body = bytearray()

    def on_body(self, body: bytes) -> None:
        """Keep a piece, up to 64 MiB."""
        self.body += body
        if len(self.body) > 64 * 1024 * 1024:
            self.fail("answer too long")

    async def get(self, path: str, api_key: str | None = None, timeout_s: float = 10.0) -> bytes:
        """The body of a GET. Raises Broken with the kind of error, or "HTTP 404" and the like."""
        return await self.send(request_bytes(self.origin, path, api_key), timeout_s)

    async def send(self, request: bytes, timeout_s: float) -> bytes:
        """The body that answers a request of :func:`request_bytes`. Raises Broken."""
        try:
            async with asyncio.timeout(timeout_s):
                kind = await self.exchange(request)
        except TimeoutError as error:
            self.abort()
            raise Broken("no answer in time") from error
        if kind:
            raise Broken(kind)
        if self.status != 200:
            raise Broken(f"HTTP {self.status}", error_text(bytes(self.body)))
        return bytes(self.body)


def error_text(body: bytes) -> str:
    """The message in an error body, one printable line of at most 200 characters; "" without one."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    found = decoded.get("error", decoded) if isinstance(decoded, dict) else None
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail")
    text = found if isinstance(found, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200]
