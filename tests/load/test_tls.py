"""A server behind TLS: measured when it is trusted, refused in one line when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab_tui.load import http
from lab_tui.load.driver import LoadPlan, Target, measure
from lab_tui.model import LabError, WindowSpec, Workload

from .conftest import start, stop

CERTIFICATE = Path(__file__).parent / "tls" / "certificate.pem"  # of 127.0.0.1, until 2126, for tests only


@pytest.fixture(scope="module")
def secure() -> Iterator[str]:
    process, port = start("tests.load.paced_server", "--tls")
    yield f"https://127.0.0.1:{port}/constant"
    stop(process)


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    http.trusted.cache_clear()
    yield
    http.trusted.cache_clear()


def plan(url: str) -> LoadPlan:
    return LoadPlan(
        target=Target(url=url, dialect="llama"),
        concurrency=4,
        workload=Workload(prompt_tokens=20, output_tokens=10),
        window=WindowSpec(requests=12),
    )


async def test_a_trusted_one_is_measured(secure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    m = await measure(plan(secure), lambda _: None)
    assert (m.requests, m.errors, m.total_tokens) == (12, 0, 120)


async def test_one_that_is_not_trusted_is_refused(secure: str) -> None:
    with pytest.raises(LabError, match=r"TLS failed: .*certificate.*SSL_CERT_FILE"):
        await measure(plan(secure), lambda _: None)
