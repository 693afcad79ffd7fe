"""What is said of NVIDIA cards, with a driver that is a small C library loaded by the real nvidia-ml-py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lab_tui.telemetry.gpu.reader import FIGURES
from lab_tui.telemetry.pids import as_we_number
from tests.telemetry.helpers import Driver

NOT_SUPPORTED = "not supported by this card"


def test_one_card(driver: Driver) -> None:
    row = driver.read()
    assert row["reason"] == ""
    assert row["gpus"] == [
        {
            "index": 0,
            "name": "Fake 0",
            "uuid": "GPU-0",
            "util_pct": 90.0,
            "memory_used_bytes": 8_000_000_000,  # without the driver's reserve
            "memory_total_bytes": 24_000_000_000,
            "power_w": 250.5,
            "power_cap_w": 350.0,
            "temperature_c": 61.0,
            "missing": {"processes": "the driver does not tell the memory of some"},
            "maker": "NVIDIA",
            "clock_mhz": 1755.0,
            "clock_max_mhz": 1980.0,
            "memory_clock_mhz": 3201.0,
            "fan_pct": 40.0,
            "throttle": [],  # idleness holds nothing back
            "energy_j": 7000.0,
        }
    ]
    assert row["vram"] == {"4711": {"0": 1_000_000_000}}  # what is not available is not 0


def test_fourteen_cards(driver: Driver) -> None:
    driver.be(count=14)
    row = driver.read()
    assert [(gpu["index"], gpu["name"], gpu["util_pct"]) for gpu in row["gpus"]] == [
        (n, f"Fake {n}", 90.0 + n % 10) for n in range(14)
    ]
    assert row["vram"] == {"4711": {str(n): 1_000_000_000 for n in range(14)}}


def test_an_unsupported_field_is_none_with_its_reason(driver: Driver) -> None:
    asked = {"util": 3, "temperature": 3, "power": 3, "cap": 4, "fan": 3, "energy": 3, "clock_max": 13}
    driver.be(processes_v3=13, reasons=13, old_reasons=3, **asked)
    (gpu,) = (row := driver.read())["gpus"]
    assert gpu["missing"].pop("processes")
    assert gpu["missing"] == {
        "util_pct": NOT_SUPPORTED,
        "temperature_c": NOT_SUPPORTED,
        "power_w": NOT_SUPPORTED,
        "power_cap_w": "no permission to read it",
        "fan_pct": NOT_SUPPORTED,
        "energy_j": NOT_SUPPORTED,
        "clock_max_mhz": "this driver is too old to tell",
        "throttle": NOT_SUPPORTED,
    }
    assert all(gpu[field] is None for field in gpu["missing"])
    assert gpu["memory_used_bytes"] == 8_000_000_000
    assert row["vram"] == {"4711": {"0": 1_000_000_000}}  # from the older question


def test_what_holds_the_clocks_back(driver: Driver) -> None:
    driver.be(throttle_bits=0x1 + 0x4 + 0x20)
    assert driver.read()["gpus"][0]["throttle"] == ["power cap", "heat"]
    driver.be(throttle_bits=0x80, reasons=13, processes_v3=13, processes_v2=13)  # an older driver
    (gpu,) = (row := driver.read(5))["gpus"]
    assert gpu["throttle"] == ["power brake"]
    assert (gpu["missing"], row["vram"]) == ({"processes": "this driver is too old to tell"}, {})


def test_mig(driver: Driver) -> None:
    driver.be(mig_on=1, util=3)
    (gpu,) = driver.read()["gpus"]
    assert gpu["util_pct"] is None
    assert gpu["missing"].pop("processes")
    assert gpu["missing"] == {"util_pct": "MIG is on"}


def test_memory_of_an_older_driver(driver: Driver) -> None:
    driver.be(memory_v2=13)
    (gpu,) = driver.read()["gpus"]
    assert (gpu["memory_used_bytes"], [*gpu["missing"]]) == (8_500_000_000, ["processes"])


@pytest.mark.parametrize("knobs", [{"total_mb": 0, "used_mb": 0}, {"memory": 3, "memory_v2": 3}])
def test_unified_memory_is_the_systems_and_said_so(driver: Driver, knobs: dict[str, int]) -> None:
    driver.be(**knobs)
    (gpu,) = driver.read()["gpus"]
    assert gpu["memory_total_bytes"] == psutil.virtual_memory().total
    assert 0 < gpu["memory_used_bytes"] < gpu["memory_total_bytes"]
    assert gpu["missing"]["memory"] == "unified: this is the system's memory"
    assert gpu["missing"].keys() == {"memory", "processes"}


def test_memory_that_may_not_be_read_is_not_made_up(driver: Driver) -> None:
    driver.be(memory=4, memory_v2=4)
    (gpu,) = driver.read()["gpus"]
    assert gpu["memory_total_bytes"] is None
    assert gpu["missing"]["memory_total_bytes"] == "no permission to read it"


def test_slow_fields_are_asked_every_five_seconds(driver: Driver) -> None:
    assert driver.read(100)["gpus"][0]["temperature_c"] == 61.0
    driver.be(celsius=70, power_mw=100_000, used_mb=9_500)
    gpu = driver.read(101)["gpus"][0]
    assert (gpu["temperature_c"], gpu["power_w"], gpu["memory_used_bytes"]) == (61.0, 100.0, 9_000_000_000)
    assert driver.read(105)["gpus"][0]["temperature_c"] == 70.0


def test_a_lost_card_keeps_its_row_and_may_come_back(driver: Driver) -> None:
    driver.be(count=3)
    driver.read(0)
    driver.be(count=3, lost=1)
    for at in (1, 2, 33, 34):  # at 33 it is looked for, and not there
        first, lost, last = driver.read(at)["gpus"]
        assert (lost["index"], lost["name"], lost["uuid"]) == (1, "Fake 1", "GPU-1")
        assert lost["missing"] == dict.fromkeys(FIGURES, "the card is lost")
        assert all(lost[field] is None for field in FIGURES)
        assert (first["util_pct"], last["util_pct"]) == (90.0, 92.0)
    assert driver.read(35)["vram"] == {"4711": {"0": 1_000_000_000, "2": 1_000_000_000}}
    driver.be(count=3)
    assert driver.read(40)["gpus"][1]["util_pct"] is None
    assert [gpu["util_pct"] for gpu in driver.read(64)["gpus"]] == [90.0, 91.0, 92.0]


def test_a_card_lost_from_the_start_has_a_row(driver: Driver) -> None:
    driver.be(count=2, lost=0)
    lost, whole = driver.read()["gpus"]
    assert (lost["index"], lost["missing"]["util_pct"]) == (0, "the card is lost")
    assert (whole["index"], whole["util_pct"]) == (1, 91.0)
    driver.be(count=2)
    assert [gpu["name"] for gpu in driver.read(31)["gpus"]] == ["Fake 0", "Fake 1"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (9, "the NVIDIA kernel driver is not loaded"),
        (18, "the NVIDIA driver and its library differ in version (after an update: reboot)"),
        (4, "no permission to use the NVIDIA driver"),
        (999, "NVML: Unknown Error"),
        (998, "NVML: fake error"),
    ],
)
def test_a_driver_that_does_not_start_says_why_and_is_tried_again(
    driver: Driver, error: int, reason: str
) -> None:
    driver.be(init=error)
    row = driver.read(0)
    assert (row["gpus"], row["vram"]) == ([], {})
    assert row["reason"] == reason
    driver.be()
    assert driver.read(29)["gpus"] == []
    row = driver.read(31)
    assert (len(row["gpus"]), row["reason"]) == (1, "")


def test_no_card(driver: Driver) -> None:
    driver.be(count=0)
    assert driver.read() == {"gpus": [], "reason": "the NVIDIA driver sees no card", "vram": {}}


def test_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # found before a real one
    driver = Driver(tmp_path, tmp_path / "knobs")
    row = driver.read()
    assert row == {"gpus": [], "reason": "no NVIDIA driver (libnvidia-ml.so.1 not found)", "vram": {}}
    assert driver.gone() == 0


def test_another_pynvml_in_its_place(tmp_path: Path, driver: Driver) -> None:
    (tmp_path / "pynvml.py").touch()
    driver.environment["PYTHONPATH"] = str(tmp_path)
    assert "shadowed by another pynvml" in driver.read()["reason"]


POLLER = """
import asyncio
from lab_tui.telemetry.poller import Poller
async def main():
    poller = Poller(0.2)
    poller.start()
    assert poller.latest.host.cpu_pct is None
    while poller.latest.host.cpu_pct is None:
        await asyncio.sleep(0.02)
    await poller.stop()
    now = poller.latest
    assert now.gpu_reason.startswith("the driver has not answered yet"), now
asyncio.run(main())
"""


def test_a_driver_that_takes_long_to_start_holds_up_nothing(driver: Driver) -> None:
    driver.be(sleep=600)
    subprocess.run([sys.executable, "-c", POLLER], env=driver.environment, check=True, timeout=120)


def test_process_numbers(tmp_path: Path) -> None:
    def process(proc: Path, pid: str, numbers: str) -> None:
        (proc / pid).mkdir(parents=True)
        (proc / pid / "status").write_text(f"Name:\tx\nNSpid:\t{numbers}\nThreads:\t1\n")

    plain, nested = tmp_path / "plain", tmp_path / "nested"
    process(plain, "self", "77")
    process(plain, "500", "500\t3")  # in a container of its own: we know it as 500
    assert [as_we_number(pid, plain) for pid in (500, 600)] == [500, 600]
    process(nested, "self", "5077\t77")
    process(nested, "5100", "5100\t100")
    process(nested, "5200", "5200")  # outside of our container
    assert [as_we_number(pid, nested) for pid in (5100, 5200, 5300)] == [100, 5200, 5300]
