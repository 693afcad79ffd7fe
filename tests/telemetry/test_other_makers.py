"""AMD cards from a recorded /sys, and a Mac's graphics from what ioreg and macmon said."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lab_tui.model import GpuReading
from lab_tui.telemetry.gpu import AmdReader, AppleReader
from lab_tui.telemetry.gpu.reader import FIGURES

PCI = "devices/pci0000:00/0000:{}"
RADEON, RYZEN = PCI.format("03:00.0"), PCI.format("e5:00.0")

# Files of a Radeon RX 7900 XTX, and of a processor with graphics whose load cannot be read.
TREE = {
    RADEON: {
        "vendor": "0x1002",
        "device": "0x744c",
        "revision": "0xc8",
        "unique_id": "1a2b3c4d5e6f7788",
        "power/runtime_status": "active",
        "gpu_busy_percent": "98",
        "mem_info_vram_used": "9000000000",
        "mem_info_vram_total": "25753026560",
        "mem_info_gtt_used": "50000000",
        "mem_info_gtt_total": "33000000000",
        "hwmon/hwmon4/power1_average": "305000000",
        "hwmon/hwmon4/power1_cap": "339000000",
        "hwmon/hwmon4/temp1_input": "64000",
        "hwmon/hwmon4/freq1_input": "2371000000",
        "hwmon/hwmon4/freq2_input": "1249000000",
        "hwmon/hwmon4/pwm1": "102",
        "pp_dpm_sclk": "0: 500Mhz\n1: 2371Mhz *\n2: 2526Mhz",
        "gpu_metrics": "\x78\x00\x01\x03",
        "drm/renderD128/dev": "226:128",
    },
    RYZEN: {
        "vendor": "0x1002",
        "device": "0x1586",
        "revision": "0xc1",
        "gpu_busy_percent": "",
        "mem_info_vram_used": "400000000",
        "mem_info_vram_total": "536870912",
        "mem_info_gtt_used": "7000000000",
        "mem_info_gtt_total": "64000000000",
        "hwmon/hwmon2/power1_input": "28000000",
        "gpu_metrics": "\x08\x01\x03\x00",
    },
    PCI.format("00:02.0"): {"vendor": "0x8086"},
    "class/kfd/kfd/topology/nodes/0": {"gpu_id": "0", "properties": "cpu_cores_count 16\ndrm_render_minor 0"},
    "class/kfd/kfd/topology/nodes/1": {
        "gpu_id": "30381",
        "properties": "simd_count 192\ndrm_render_minor 128",
    },
    "class/kfd/kfd/proc/4711": {"vram_30381": "8000000000", "pasid": "32770"},
}
NAMES = "# List of AMDGPU IDs\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    for folder, files in TREE.items():
        for name, text in files.items():
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
    for card, device in enumerate((PCI.format("00:02.0"), RYZEN, RADEON)):
        (tmp_path / f"class/drm/card{card}").mkdir(parents=True)
        (tmp_path / f"class/drm/card{card}/device").symlink_to(tmp_path / device)
    (tmp_path / "names").write_text(NAMES)
    return tmp_path


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_amd_card_and_a_processor_with_graphics(sys: Path) -> None:
    reader = AmdReader(sys, sys / "names")
    (radeon, ryzen), reason = reader.read()
    assert (reason, reader.processes) == ("", {4711: {0: 8_000_000_000}})
    not_told = "amdgpu does not tell it in sysfs"
    assert radeon == GpuReading(
        index=0,
        name="AMD Radeon RX 7900 XTX",
        uuid="1a2b3c4d5e6f7788",
        maker="AMD",
        util_pct=98.0,
        memory_used_bytes=9_000_000_000,
        memory_total_bytes=25_753_026_560,
        power_w=305.0,
        power_cap_w=339.0,
        temperature_c=64.0,
        clock_mhz=2371.0,
        clock_max_mhz=2526.0,
        memory_clock_mhz=1249.0,
        fan_pct=40.0,
        missing={"energy_j": not_told, "throttle": not_told},
    )
    assert (ryzen.name, ryzen.uuid, ryzen.power_w) == ("AMD card 1586", "0000:e5:00.0", 28.0)
    assert (ryzen.memory_used_bytes, ryzen.memory_total_bytes) == (7_400_000_000, 64_536_870_912)
    assert ryzen.missing["memory"].startswith("unified")
    assert (ryzen.util_pct, ryzen.missing["util_pct"]) == (None, "the driver cannot read it")
    assert ryzen.missing["temperature_c"] == not_told
    assert all((getattr(ryzen, field) is None) == (field in ryzen.missing) for field in FIGURES)


def test_an_amd_card_asleep_is_not_woken_and_one_that_is_gone_keeps_its_row(sys: Path) -> None:
    clock = Clock()
    reader = AmdReader(sys, sys / "names", clock)
    reader.read()
    (sys / RADEON / "power/runtime_status").write_text("suspended\n")
    shutil.move(sys / RYZEN, sys / "away")
    (radeon, ryzen), _ = reader.read()
    assert (radeon.util_pct, radeon.missing["util_pct"]) == (None, "asleep: reading it would wake it")
    assert (ryzen.index, ryzen.name, ryzen.missing["power_w"]) == (1, "AMD card 1586", "the card is lost")
    shutil.move(sys / "away", sys / RYZEN)
    (sys / RADEON / "power/runtime_status").write_text("active\n")
    assert [card.power_w for card in reader.read()[0]] == [305.0, 28.0]


def test_an_amd_driver_that_comes_later_is_seen(tmp_path: Path, sys: Path) -> None:
    clock, drm = Clock(), sys / "class/drm"
    drm.rename(sys / "class/not yet")
    reader = AmdReader(sys, sys / "names", clock)
    assert reader.read() == ((), "no AMD card")
    (sys / "class/not yet").rename(drm)
    clock.now = 29.0
    assert reader.read()[0] == ()
    clock.now = 31.0
    assert len(reader.read()[0]) == 2


IOREG = """<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><array><dict>
<key>model</key><string>Apple M2 Ultra</string><key>gpu-core-count</key><integer>76</integer>
<key>PerformanceStatistics</key><dict>
<key>In use system memory (driver)</key><integer>0</integer>
<key>Alloc system memory</key><integer>42728325120</integer>
<key>Device Utilization %</key><integer>57</integer>
<key>Renderer Utilization %</key><integer>55</integer>
<key>In use system memory</key><integer>12003573760</integer>
</dict></dict></array></plist>"""
MACMON = (
    '{"timestamp":"2025-02-24T20:38:15.427569+00:00","temp":{"cpu_temp_avg":43.73,"gpu_temp_avg":36.95},'
    '"ecpu_usage":[1181,0.08],"pcpu_usage":[1974,0.015],"gpu_usage":[461,0.021],"cpu_power":0.2,'
    '"gpu_power":17.5,"ane_power":0,"all_power":17.7,"sys_power":25.8}'
)


class Mac:
    """A PATH with the programs of a Mac."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, program: str, script: str) -> None:
        (self._folder / program).write_text(f"#!/bin/sh\n{script}\n")
        (self._folder / program).chmod(0o755)


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    made = Mac(tmp_path)
    made.has("ioreg", f'[ "$*" = "-r -d 1 -w 0 -c IOAccelerator -a" ] && cat <<END\n{IOREG}\nEND')
    return made


@pytest.fixture
def apple() -> Iterator[AppleReader]:
    reader = AppleReader(Clock())
    yield reader
    reader.close()


def test_a_mac_without_macmon(mac: Mac, apple: AppleReader) -> None:
    (card,), reason = apple.read()
    assert (reason, card.name, card.maker, card.util_pct) == ("", "Apple M2 Ultra", "Apple", 57.0)
    assert (card.memory_used_bytes, card.memory_total_bytes) == (
        12_003_573_760,
        psutil.virtual_memory().total,
    )
    assert card.missing["memory"].startswith("unified")
    assert card.missing["power_w"] == "macmon is not installed (`brew install macmon`)"
    assert all((getattr(card, field) is None) == (field in card.missing) for field in FIGURES)
    mac.has("ioreg", "exit 1")
    assert apple.read()[0][0].missing["util_pct"] == "the card is lost"
    mac.has("ioreg", "echo no plist")
    assert apple.read()[0][0].missing["util_pct"].startswith("ioreg: ")


def test_a_mac_with_macmon(mac: Mac, tmp_path: Path) -> None:
    (tmp_path / "line").write_text(MACMON + "\n")
    mac.has("macmon", f'[ "$1" = pipe ] && cat {tmp_path}/line && exec sleep 60')
    clock = Clock()
    reader = AppleReader(clock)
    card = reader.read(0)[0][0]
    while card.power_w is None:
        assert card.missing["power_w"] == "macmon has not answered yet"
        card = reader.read(0)[0][0]
    assert (card.power_w, card.temperature_c, card.clock_mhz) == (17.5, 36.95, 461.0)
    clock.now = 11.0  # what it said long ago is not said again
    assert reader.read(0)[0][0].missing["power_w"] == "macmon has not answered for 11 s"
    reader.close()


def test_a_macmon_that_ends_is_said(mac: Mac, apple: AppleReader) -> None:
    mac.has("macmon", "echo nonsense; exit 3")
    reasons = set[str]()
    while "macmon ended" not in reasons:
        reasons.add(apple.read()[0][0].missing["power_w"])
    assert reasons <= {
        "macmon has not answered yet",
        "macmon says what is not understood here",
        "macmon ended",
    }


def test_no_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apple: AppleReader) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cards, reason = apple.read()
    assert (cards, apple.processes) == ((), {})
    assert reason.startswith("ioreg: ")
