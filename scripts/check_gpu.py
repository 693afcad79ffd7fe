"""Are the readings of NVIDIA cards true? Each field next to what nvidia-smi prints at the same moment.

Prints a table: field, ours, nvidia-smi, and whether they agree. Exits 1 when something disagrees or there is
no nvidia-smi to ask, 2 where there is no card. Run it while a model generates: idle cards prove little.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from lab_tui.model import Data, GpuReading
from lab_tui.telemetry.gpu import NvidiaReader
from lab_tui.telemetry.gpu.nvml import THROTTLE

MIB = float(1 << 20)
EVERY_S = 0.1  # between our readings while nvidia-smi is at it
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # the name now, and before 535
AGREE, DISAGREE, NOT_COMPARED = "agree", "DISAGREE", "not compared"


class Field(NamedTuple):
    """A figure, how nvidia-smi calls it, what its unit is in ours, and how far apart they may be."""

    name: str
    query: str
    unit: float = 1.0
    off: float = 0.0  # in our unit
    share: float = 0.0


FIELDS = (
    Field("util_pct", "utilization.gpu", off=10),  # a mean over up to a second, that of another one
    Field("memory_used_bytes", "memory.used", MIB, 64 * MIB, 0.01),
    Field("memory_total_bytes", "memory.total", MIB, 2 * MIB),
    Field("power_w", "power.draw", off=5, share=0.1),
    Field("power_cap_w", "enforced.power.limit", off=0.5),
    Field("temperature_c", "temperature.gpu", off=3),
    Field("clock_mhz", "clocks.sm", off=50, share=0.1),
    Field("clock_max_mhz", "clocks.max.sm"),
    Field("memory_clock_mhz", "clocks.mem", off=50, share=0.1),
    Field("fan_pct", "fan.speed", off=5),
)


class Line(Data, frozen=True, kw_only=True):
    """One line of the table."""

    field: str
    ours: str
    theirs: str
    verdict: str


class Seen(NamedTuple):
    """One reading of all cards, and the memory of their processes together by the card's index."""

    cards: tuple[GpuReading, ...]
    held: dict[int, int]


def read(reader: NvidiaReader) -> Seen:
    """Every field, asked now."""
    cards, _ = reader.read(slow_s=0.0)
    held: dict[int, int] = {}
    for sizes in reader.processes.values():
        for index, size in sizes.items():
            held[index] = held.get(index, 0) + size
    return Seen(cards, held)


def asked(reader: NvidiaReader, *question: str) -> tuple[list[dict[str, str]], list[Seen]]:
    """What nvidia-smi prints, and our readings before, while and after it looks.

    ``question``: the flag, then the fields. Raises OSError without nvidia-smi, RuntimeError when it refuses.
    """
    flag, *fields = question
    seen = [read(reader)]
    command = ["nvidia-smi", f"{flag}={','.join(fields)}", "--format=csv,noheader,nounits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as smi:
        while smi.poll() is None:
            time.sleep(EVERY_S)
            seen.append(read(reader))
        assert smi.stdout is not None
        text = smi.stdout.read()
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if row]
    if smi.returncode or any(len(row) != len(fields) for row in rows):
        raise RuntimeError(f"nvidia-smi: {text.strip()}")
    return [dict(zip(fields, row, strict=True)) for row in rows], seen


def number(text: str) -> float | None:
    """A figure of nvidia-smi; None for ``[N/A]``, ``[Not Supported]`` and the like."""
    try:
        return float(text)
    except ValueError:
        return None


def shown(value: float | None, unit: float) -> str:
    """A figure as it stands in the table, in nvidia-smi's unit."""
    return "N/A" if value is None else f"{value / unit:.4g}" if value / unit < 1e4 else f"{value / unit:.0f}"


def compared(field: Field, ours: Sequence[GpuReading], theirs: str) -> Line:
    """One figure: theirs must lie among ours, give or take what the moment between them explains."""
    values: list[float] = [v for card in ours if (v := getattr(card, field.name)) is not None]
    reason, said = ours[-1].missing.get(field.name, ""), number(theirs)
    told = shown(values[-1], field.unit) if values else f"N/A: {reason}"
    if field.name.startswith("memory_") and "memory" in ours[-1].missing and said is None:
        verdict = f"{NOT_COMPARED}: {ours[-1].missing['memory']}"
    elif said is None or not values:
        verdict = AGREE if said is None and not values else DISAGREE
    else:
        said *= field.unit
        room = field.off + field.share * said
        verdict = AGREE if min(values) - room <= said <= max(values) + room else DISAGREE
    return Line(field=field.name, ours=told, theirs=theirs, verdict=verdict)


def slowed(ours: Sequence[GpuReading], theirs: str) -> Line:
    """What holds the clocks back, as nvidia-smi's bits and our words."""
    told = ours[-1].throttle
    words = "N/A: " + ours[-1].missing.get("throttle", "") if told is None else ", ".join(told) or "nothing"
    try:
        bits = int(theirs, 16)
    except ValueError:
        verdict = AGREE if told is None else DISAGREE
    else:
        meant = tuple(word for bit, word in THROTTLE.items() if bits & bit)
        verdict = AGREE if any(card.throttle == meant for card in ours) else DISAGREE
    return Line(field="throttle", ours=words, theirs=theirs, verdict=verdict)


def processes(card: GpuReading, seen: Sequence[Seen], rows: Sequence[dict[str, str]]) -> Line:
    """Memory of all processes on a card."""
    theirs = [row["used_memory"] for row in rows if row["gpu_uuid"] == card.uuid]
    known = [value for text in theirs if (value := number(text)) is not None]
    ours = [one.held.get(card.index, 0) / MIB for one in seen]
    said = f"{sum(known):.0f}" if len(known) == len(theirs) else "N/A"
    if "processes" in card.missing or said == "N/A":
        verdict = f"{NOT_COMPARED}: {card.missing.get('processes', 'nvidia-smi does not tell it')}"
    else:
        verdict = AGREE if min(ours) - 64 <= sum(known) <= max(ours) + 64 else DISAGREE
    return Line(field="processes", ours=f"{ours[-1]:.0f}", theirs=said, verdict=verdict)


def check(card: GpuReading, seen: Sequence[Seen], theirs: dict[str, str], reasons: str) -> list[Line]:
    """Every field of one card."""
    ours = [found for one in seen for found in one.cards if found.uuid == card.uuid]
    same = AGREE if theirs["name"] == card.name else DISAGREE
    lines = [Line(field="name", ours=card.name, theirs=theirs["name"], verdict=same)]
    lines += [compared(field, ours, theirs[field.query]) for field in FIELDS]
    lines.append(slowed(ours, theirs[reasons]))
    energy = [found.energy_j for found in ours if found.energy_j is not None]
    told = f"{energy[-1]:.0f}" if energy else f"N/A: {card.missing.get('energy_j', '')}"
    verdict = AGREE if energy == sorted(energy) else DISAGREE
    grows = f"{verdict}: it only grows" if energy else NOT_COMPARED
    return [*lines, Line(field="energy_j", ours=told, theirs="-", verdict=grows)]


def table(lines: Sequence[Line]) -> str:
    """The lines below their heads, in columns."""
    rows = [("FIELD", "OURS", "NVIDIA-SMI", ""), *((r.field, r.ours, r.theirs, r.verdict) for r in lines)]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )


def compare(reader: NvidiaReader, cards: Sequence[GpuReading], put: Callable[[str], None]) -> bool:
    """Print a table for each card; whether all agrees. Raises OSError or RuntimeError of nvidia-smi."""
    queries = ("uuid", "name", *(field.query for field in FIELDS))
    reasons = REASONS[0]
    try:
        rows, seen = asked(reader, "--query-gpu", *queries, reasons)
    except RuntimeError:
        reasons = REASONS[1]
        rows, seen = asked(reader, "--query-gpu", *queries, reasons)
    apps, seen_apps = asked(reader, "--query-compute-apps", "gpu_uuid", "pid", "used_memory")
    by_uuid = {row["uuid"]: row for row in rows}
    agreed = len(rows) == len(cards)
    put(f"{len(cards)} by NVML, {len(rows)} by nvidia-smi: {AGREE if agreed else DISAGREE}")
    for card in seen[-1].cards:
        put(f"\nGPU {card.index} {card.name} {card.uuid}")
        if card.uuid not in by_uuid:
            put(f"nvidia-smi does not list it: {DISAGREE}")
            agreed = False
            continue
        lines = [*check(card, seen, by_uuid[card.uuid], reasons), processes(card, seen_apps, apps)]
        put(table(lines))
        agreed = agreed and not any(line.verdict.startswith(DISAGREE) for line in lines)
    return agreed


def main() -> int:
    """The exit code."""
    with closing(NvidiaReader()) as reader:
        cards, reason = reader.read()
        if not cards:
            print(f"no NVIDIA card to check: {reason}", file=sys.stderr)
            return 2
        try:
            agreed = compare(reader, cards, print)
        except (OSError, RuntimeError) as error:
            print(f"nothing to compare with: {error}", file=sys.stderr)
            return 1
    print(f"\n{'all of it agrees' if agreed else 'not all of it agrees'}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
