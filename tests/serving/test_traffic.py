"""What goes through the front, counted from its log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab_tui.serving import traffic
from lab_tui.serving.parts import Nginx
from lab_tui.serving.traffic import Traffic, connections_place, parse, parse_connections

WITH = Nginx(command=("nginx",), source="PATH", version=(1, 22, 1), stub_status=True)
WITHOUT = Nginx(command=("nginx",), source="embedded", version=(1, 31, 3))
ONE, TWO = "127.0.0.1:9000", "127.0.0.1:9001"


def test_lines() -> None:
    whole = parse(f"200|OK|{ONE}|0.250|text/event-stream")
    assert whole is not None
    assert (whole.status, whole.whole, whole.addresses, whole.first_byte_ms) == (200, True, (ONE,), 250.0)
    again = parse(f"200|OK|{ONE}, {TWO}|-, 0.020|text/event-stream")
    assert again is not None
    assert (again.addresses, again.first_byte_ms) == ((ONE, TWO), 20.0)
    plain = parse(f"200|OK|{ONE}|0.250|application/json")
    assert plain is not None and plain.first_byte_ms is None
    nobody = parse("503|OK|-|-|application/json")
    assert nobody is not None and nobody.addresses == ()
    assert parse("2026/11/21 [warn] something else") is None
    odd = parse(f"200|OK|{ONE}|x|text/event-stream")
    assert odd is not None and odd.first_byte_ms is None


def test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / traffic.FILE
    log.write_text(f"200|OK|{TWO}|0.1|text/event-stream\n")  # of before
    counted = Traffic(tmp_path)
    with log.open("a") as file:
        file.write(f"200|OK|{ONE}|0.3|text/event-stream\n500|OK|{ONE}|0.1|application/json\n")
        file.write(f"499||{ONE}|-|-\n200||{TWO}|0.1|text/event-stream\n200|OK|{ONE}, {TWO}|-, 0.1|a/b\n503|O")
    counted.read()
    with log.open("a") as file:
        file.write("K|-|-|application/json\n")
    monkeypatch.setattr(traffic, "LIMIT_BYTES", 10)
    counted.read()
    view = counted.view()
    assert (view.requests, view.errors, view.cut_off) == (6, {500: 1, 503: 1}, 2)
    assert (view.first_byte_p95_ms, view.streams_timed) == (100.0, 2)
    assert view.requests_per_s is not None and view.requests_per_s > 0
    by = {one.address: (one.requests, one.errors, one.cut_off, one.passed_on) for one in view.instances}
    assert by == {"": (1, 1, 0, 0), ONE: (3, 1, 1, 1), TWO: (2, 0, 1, 0)}
    assert log.stat().st_size == 0  # it is kept short
    with log.open("a") as file:
        file.write(f"200|OK|{ONE}|0.3|a/b\n")
    counted.read()
    assert counted.view().requests == 7
    with log.open("a") as file:
        file.write(f"200|OK|{ONE}|0.3|a/b\n" * 6000)
    assert counted.read()  # a block of it: the loop is not held for more
    while counted.read():
        pass
    assert counted.view().requests == 6007
    counted.begin()
    assert counted.view().requests == 0
    assert counted.view().requests_per_s is None
    assert counted.view().since == pytest.approx(time.time(), abs=60)


def test_connections() -> None:
    assert parse_connections("Active connections: 38 \nserver accepts handled requests\n 1 1 1 \n") == 37
    assert parse_connections("<html>403</html>") is None
    assert "stub_status" in connections_place("0.0.0.0", WITH)
    assert "allow 192.168.1.7; deny all" in connections_place("192.168.1.7", WITH)
    assert "allow gpu1" not in connections_place("gpu1", WITH)
    assert connections_place("127.0.0.1", WITHOUT) == ""
