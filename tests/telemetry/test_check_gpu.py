"""scripts/check_gpu.py against the fake driver and a nvidia-smi that says what a test wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.telemetry.helpers import Driver

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_gpu.py"
# What the fake driver says of its only card, in nvidia-smi's names and units.
SAYS = {
    "uuid": "GPU-0", "name": "Fake 0", "utilization.gpu": "85", "memory.used": "7629",
    "memory.total": "22888", "power.draw": "248.10", "enforced.power.limit": "350.00",
    "temperature.gpu": "62", "clocks.sm": "1755", "clocks.max.sm": "1980", "clocks.mem": "3201",
    "fan.speed": "40", "clocks_throttle_reasons.active": "0x0000000000000001",
    "gpu_uuid": "GPU-0", "pid": "4711", "used_memory": "953",
}  # fmt: skip
SMI = """#!/bin/sh
printf '%s' "$1" | grep -q clocks_event_reasons && echo 'Field "clocks_event_reasons" is not valid' && exit 2
comma=
for field in $(printf '%s' "${{1#*=}}" | tr , ' '); do
    case $field in
{cases}
    esac
    comma=', '
done
echo
"""


def checked(driver: Driver, folder: Path, **says: str) -> subprocess.CompletedProcess[str]:
    """The script where nvidia-smi says what the driver says, but for ``says`` (dots as underscores)."""
    told = SAYS | {name: says[key] for name in SAYS if (key := name.replace(".", "_")) in says}
    smi = folder / "nvidia-smi"
    smi.write_text(
        SMI.format(cases="\n".join(f"{n}) printf '%s' \"${{comma}}{text}\" ;;" for n, text in told.items()))
    )
    smi.chmod(0o755)
    environment = driver.environment | {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=30
    )


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What is said of each field."""
    return {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}


def test_what_agrees(driver: Driver, tmp_path: Path) -> None:
    driver.be(fan=3)
    done = checked(driver, tmp_path, fan_speed="[N/A]")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all of it agrees\n")
    table = lines(done)
    assert table["memory_used_bytes"].split() == ["memory_used_bytes", "7629", "7629", "agree"]
    assert table["fan_pct"].endswith("agree") and "N/A: not supported by this card" in table["fan_pct"]
    assert table["throttle"].split() == ["throttle", "nothing", "0x0000000000000001", "agree"]
    assert table["energy_j"].endswith("agree: it only grows")
    assert table["processes"].endswith("not compared: the driver does not tell the memory of some")


def test_what_does_not_agree(driver: Driver, tmp_path: Path) -> None:
    driver.be(util=3)
    done = checked(driver, tmp_path, power_draw="180.00", memory_used="9000", name="Other")
    assert done.returncode == 1
    table = lines(done)
    wrong = {field for field, line in table.items() if line.endswith("DISAGREE")}
    assert wrong == {"name", "util_pct", "power_w", "memory_used_bytes"}
    assert done.stdout.endswith("not all of it agrees\n")
    other = checked(driver, tmp_path, uuid="GPU-9")
    assert other.returncode == 1 and "nvidia-smi does not list it: DISAGREE" in other.stdout


def test_nothing_to_check_or_to_compare_with(driver: Driver, tmp_path: Path) -> None:
    driver.environment["PATH"] = str(tmp_path)
    alone = subprocess.run([sys.executable, SCRIPT], env=driver.environment, capture_output=True, text=True)
    assert (alone.returncode, alone.stderr.startswith("nothing to compare with: ")) == (1, True)
    driver.be(count=0)
    none = checked(driver, tmp_path)
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr == "no NVIDIA card to check: the NVIDIA driver sees no card\n"
