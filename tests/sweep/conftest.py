"""The fleets of the serving tests, and queues, for sweeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serving.conftest import fleet, make_fleet, model, only_embedded
from tests.sweep.queues import Bench, Cells

__all__ = ["fleet", "make_fleet", "model", "only_embedded"]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "lab.db")
    yield bench
    await bench.close()


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    return Cells(monkeypatch)
