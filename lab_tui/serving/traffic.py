"""What goes through the front: requests counted from nginx's access log, and its connections now.

The log is the one place where nginx says which instance had a request and how it ended. It writes a line
when a request is over, and those of a moment in one go (``buffer``, ``flush``), so that a request costs it
about a microsecond. We read what is new once a second and keep only counts, and of the requests of others,
which do not name lab-tui as what sent them, when they ran.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections import Counter, deque
from pathlib import Path

import httpx

from lab_tui.model import USER_AGENT, Data, FrontTraffic, InstanceTraffic
from lab_tui.serving.parts import Nginx

CONNECTIONS_PATH = "/lab-tui/connections"
FILE = "access.log"  # in nginx's own folder
FIELDS = (
    "$status",
    "$request_completion",
    "$upstream_addr",
    "$upstream_header_time",
    "$sent_http_content_type",
    "$msec",
    "$request_time",
    "$request_method",
    "$lab_ours",
)
FORMAT = "|".join(FIELDS)
FLUSH_MS = 200  # so late at most is a request in the log
LIMIT_BYTES = 4 * 1024 * 1024  # a longer log is emptied once it has been read
BLOCK_BYTES = 128 * 1024  # read at once: some two thousand requests, a few milliseconds
RATE_S = 10.0  # requests a second are a mean over so long
OTHERS_KEPT = 10_000  # requests of others whose times are remembered
FIRST_BYTE_S = 60.0  # the wait for the first byte is that of the streams which ended within so long
SECONDS = re.compile(r"[0-9]+\.[0-9]+")
CLIENT_LEFT = 499  # nginx's own status


class Request(Data, frozen=True, kw_only=True):
    """One line of the log."""

    status: int
    whole: bool  # answered to its end
    addresses: tuple[str, ...]  # of the instances that were tried, the last one answered
    first_byte_ms: float | None  # of a stream; for a chat that is its role, not yet a token
    begun: float  # unix time
    ended: float
    others: bool  # it asked an instance for something, and no load of ours sent it

    @property
    def cut(self) -> bool:
        """Whether its client left, or it broke off."""
        return self.status == CLIENT_LEFT or (self.status < 400 and not self.whole)


def parse(line: str) -> Request | None:
    """A line of the log; None for one that is not ours."""
    fields = line.split("|")
    if len(fields) != len(FIELDS) or not fields[0].isdecimal():
        return None
    status, completion, addresses, header_time, kind, ended, took, method, ours = fields
    if SECONDS.fullmatch(ended) is None or SECONDS.fullmatch(took) is None:
        return None
    seconds = re.split(r"[,:] ?", header_time.replace(" ", ""))[-1]
    streamed = kind.startswith("text/event-stream") and SECONDS.fullmatch(seconds) is not None
    return Request(
        status=int(status),
        whole=completion == "OK",
        addresses=tuple(word for word in re.split(r", | : ", addresses) if ":" in word),
        first_byte_ms=float(seconds) * 1000 if streamed else None,
        begun=float(ended) - float(took),
        ended=float(ended),
        others=method == "POST" and not ours,
    )


def log_lines() -> str:
    """What the configuration says of the log."""
    return (
        f'  map $http_user_agent $lab_ours {{ default ""; "{USER_AGENT}" ours; }}\n'
        f"  log_format lab '{FORMAT}';\n  access_log {FILE} lab buffer=32k flush={FLUSH_MS}ms;"
    )


def connections_place(host: str, nginx: Nginx) -> str:
    """The place where a build that can say so says how many connections it has, to this machine alone."""
    if not nginx.stub_status:
        return ""
    allowed = "allow 127.0.0.0/8; allow ::1;"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name: resolves to loopback, or nobody is told
        pass
    else:
        allowed += "" if address.is_loopback or address.is_unspecified else f" allow {host};"
    return f"    location = {CONNECTIONS_PATH} {{ access_log off; {allowed} deny all; stub_status; }}\n"


def parse_connections(text: str) -> int | None:
    """Open connections of clients as stub_status gives them, ours for asking left out."""
    found = re.search(r"Active connections: (\d+)", text)
    return max(int(found.group(1)) - 1, 0) if found else None


class Traffic:
    """Counts since ``begin``. ``read`` until there is no more, and ``ask``, once a second."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._connections: int | None = None
        self._reason = "not asked yet"
        self.begin()

    def begin(self) -> None:
        """Count anew; what stands in the log already is of before."""
        self._since = time.time()
        self._offset = self._size()
        self._rest = b""
        self._requests: Counter[str] = Counter()  # by the address that answered, "" for nginx itself
        self._errors: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()
        self._passed_on: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._lately: deque[tuple[float, int]] = deque()  # when read, how many
        self._first_byte_ms: deque[tuple[float, float]] = deque()
        self._others: deque[tuple[float, float]] = deque(maxlen=OTHERS_KEPT)  # when begun and ended

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except OSError:  # nginx has not opened it yet
            return 0

    def read(self) -> bool:
        """Count what was logged since the last time, a block of it; whether there is more.

        Raises OSError when the log cannot be read.
        """
        size = self._size()
        if size < self._offset:  # somebody emptied it
            self._offset, self._rest = 0, b""
        count = 0
        if size > self._offset:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                block = file.read(BLOCK_BYTES)
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                request = parse(line.decode("utf-8", "replace"))
                if request is not None:
                    self._count(request)
                    count += 1
        now = time.monotonic()
        self._lately.append((now, count))
        _forget(self._lately, now - RATE_S)
        _forget(self._first_byte_ms, now - FIRST_BYTE_S)
        if self._offset > LIMIT_BYTES and self._offset == self._size():
            os.truncate(self._file, 0)  # nginx appends on; it writes once a second at most times
            self._offset = 0
        return self._offset < size

    def _count(self, request: Request) -> None:
        where = request.addresses[-1] if request.addresses else ""
        self._requests[where] += 1
        self._passed_on.update(request.addresses[:-1])
        if request.others and where and (request.status < 400 or request.cut):
            self._others.append((request.begun, request.ended))
        if request.cut:
            self._cut[where] += 1
        elif request.status >= 400:
            self._errors[where] += 1
            self._statuses[request.status] += 1
        if request.first_byte_ms is not None and request.status < 400:
            self._first_byte_ms.append((time.monotonic(), request.first_byte_ms))

    def of_others(self, begun: float, ended: float) -> tuple[int, float]:
        """How many requests that were not ours instances worked on between two moments (unix time).

        And what part of their time lies between them, 0 to 1.
        """
        met = [(began, end) for began, end in self._others if began <= ended and end >= begun]
        inside = sum(min(end, ended) - max(began, begun) for began, end in met)
        whole = sum(end - began for began, end in met)
        return len(met), inside / whole if whole else 1.0

    async def ask(self, http: httpx.AsyncClient, nginx: Nginx) -> None:
        """Ask nginx for its connections; what it does not say is unknown, with the reason."""
        connections, reason = None, "this nginx is built without stub_status"
        if nginx.stub_status:
            try:
                answer = await http.get(CONNECTIONS_PATH)
            except httpx.HTTPError:
                reason = "nginx does not answer"
            else:
                connections = parse_connections(answer.text)
                reason = f"nginx answers {answer.status_code}" if connections is None else ""
        self._connections, self._reason = connections, reason

    def view(self) -> FrontTraffic:
        """What is known now."""
        span = self._lately[-1][0] - self._lately[0][0] if len(self._lately) > 1 else 0.0
        since_first = sum(count for _, count in self._lately) - (self._lately[0][1] if self._lately else 0)
        waits = sorted(value for _, value in self._first_byte_ms)
        return FrontTraffic(
            since=self._since,
            requests=self._requests.total(),
            errors=dict(self._statuses),
            cut_off=self._cut.total(),
            requests_per_s=since_first / span if span else None,
            first_byte_p95_ms=waits[int(0.95 * (len(waits) - 1))] if waits else None,
            streams_timed=len(waits),
            instances=tuple(
                InstanceTraffic(
                    address=where,
                    requests=self._requests[where],
                    errors=self._errors[where],
                    cut_off=self._cut[where],
                    passed_on=self._passed_on[where],
                )
                for where in sorted(self._requests.keys() | self._passed_on.keys())
            ),
            connections=self._connections,
            connections_reason=self._reason,
        )


def _forget(readings: deque[tuple[float, int]] | deque[tuple[float, float]], before: float) -> None:
    while readings and readings[0][0] < before:
        readings.popleft()
