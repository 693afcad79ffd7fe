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


REST = "|1000.000|0.500|POST|"  # of every line: it ended at 1,000 s and took a half


def test_lines() -> None:
    whole = parse(f"200|OK|{ONE}|0.250|text/event-stream{REST}")
    assert whole is not None
    assert (whole.status, whole.whole, whole.addresses, whole.first_byte_ms) == (200, True, (ONE,), 250.0)
    again = parse(f"200|OK|{ONE}, {TWO}|-, 0.020|text/event-stream{REST}")
    assert again is not None
    assert (again.addresses, again.first_byte_ms) == ((ONE, TWO), 20.0)
    plain = parse(f"200|OK|{ONE}|0.250|application/json{REST}")
    assert plain is not None and plain.first_byte_ms is None
    nobody = parse(f"503|OK|-|-|application/json{REST}")
    assert nobody is not None and nobody.addresses == ()
    assert parse("2026/11/21 [warn] something else") is None
    odd = parse(f"200|OK|{ONE}|x|text/event-stream{REST}")
    assert odd is not None and odd.first_byte_ms is None


def test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / traffic.FILE
    log.write_text(f"200|OK|{TWO}|0.1|text/event-stream{REST}\n")  # of before
    counted = Traffic(tmp_path)
    with log.open("a") as file:
        for line in (f"200|OK|{ONE}|0.3|text/event-stream", f"500|OK|{ONE}|0.1|application/json"):
            file.write(f"{line}{REST}\n")
        for line in (f"499||{ONE}|-|-", f"200||{TWO}|0.1|text/event-stream"):
            file.write(f"{line}{REST}\n")
        file.write(f"200|OK|{ONE}, {TWO}|-, 0.1|a/b{REST}\n503|O")
    counted.read()
    with log.open("a") as file:
        file.write(f"K|-|-|application/json{REST}\n")
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
        file.write(f"200|OK|{ONE}|0.3|a/b{REST}\n")
    counted.read()
    assert counted.view().requests == 7
    with log.open("a") as file:
        file.write(f"200|OK|{ONE}|0.3|a/b{REST}\n" * 6000)
    assert counted.read()  # a block of it: the loop is not held for more
    while counted.read():
        pass
    assert counted.view().requests == 6007
    counted.begin()
    assert counted.view().requests == 0
    assert counted.view().requests_per_s is None
    assert counted.view().since == pytest.approx(time.time(), abs=60)


def test_requests_of_others(tmp_path: Path) -> None:
    """Only what asks an instance to work, and not our own load: it says who it is."""
    log = tmp_path / traffic.FILE
    log.touch()
    counted = Traffic(tmp_path)
    rests = (
        "|1000.000|0.500|POST|",
        "|1000.900|0.500|POST|",
        "|1000.000|0.500|POST|ours",
        "|1000.000|0.500|GET|",
    )
    log.write_text("".join(f"200|OK|{ONE}|0.3|a/b{rest}\n" for rest in rests))
    with log.open("a") as file:
        file.write(f"499||{ONE}|-|-{REST}\n400|OK|{ONE}|0.1|a/b{REST}\n503|OK|-|-|a/b{REST}\n")
    counted.read()
    assert counted.of_others(999.0, 1001.0) == (3, 1.0)
    count, inside = counted.of_others(1000.65, 1001.0)
    assert count == 1 and inside == pytest.approx(0.5)
    assert counted.of_others(1001.0, 1002.0) == (0, 1.0)


def test_connections() -> None:
    assert parse_connections("Active connections: 38 \nserver accepts handled requests\n 1 1 1 \n") == 37
    assert parse_connections("<html>403</html>") is None
    assert "stub_status" in connections_place("0.0.0.0", WITH)
    assert "allow 192.168.1.7; deny all" in connections_place("192.168.1.7", WITH)
    assert "allow gpu1" not in connections_place("gpu1", WITH)
    assert connections_place("127.0.0.1", WITHOUT) == ""
