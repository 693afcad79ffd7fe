"""The fake driver, compiled once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.telemetry.helpers import Driver


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake libnvidia-ml.so.1."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the fake NVML cannot be compiled")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-Wall", "-shared", "-fPIC", "-o", target, source], check=True)
    return folder


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(library, tmp_path / "knobs")
    yield driver
    assert driver.gone() in (None, 0)
