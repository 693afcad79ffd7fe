"""The processor cores of this machine, and which of them each instance gets.

A core is a physical one with its hyperthreads; two instances on one core's hyperthreads would share it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab_tui.model import Data, LabError


class Core(Data, frozen=True, kw_only=True):
    """One physical core, as far as this process may use it."""

    node: int  # of NUMA
    cpus: tuple[int, ...]  # logical processors


def read_cores(sys: Path = Path("/sys"), allowed: Iterable[int] | None = None) -> tuple[Core, ...]:
    """The cores this process may use, by their first processor. ``allowed``: else its affinity.

    What sysfs does not say counts as one thread a core and one node. Raises LabError on a system that
    pins no process.
    """
    if allowed is None:
        if not hasattr(os, "sched_getaffinity"):
            raise LabError("this system cannot pin a process to cores", "leave out --cpu-pin (serve.cpu_pin)")
        allowed = os.sched_getaffinity(0)
    mine = set(allowed)
    nodes = {
        cpu: int(folder.name.removeprefix("node"))
        for folder in (sys / "devices/system/node").glob("node[0-9]*")
        for cpu in _listed(folder / "cpulist")
    }
    siblings = {_siblings(sys, cpu) & mine for cpu in mine}
    whole = sorted(tuple(sorted(group)) for group in siblings)
    return tuple(Core(node=nodes.get(cpus[0], 0), cpus=cpus) for cpus in whole)


def _siblings(sys: Path, cpu: int) -> frozenset[int]:
    """The processors of the core that ``cpu`` is of."""
    folder = sys / f"devices/system/cpu/cpu{cpu}/topology"
    named = _listed(folder / "core_cpus_list") or _listed(folder / "thread_siblings_list")  # before Linux 5.3
    return frozenset({cpu, *named})


def _listed(file: Path) -> list[int]:
    """The numbers of a list such as ``0-3,8``; empty when the file is not there."""
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    ends = [part.partition("-")[::2] for part in text.split(",") if part]
    return [cpu for low, high in ends for cpu in range(int(low), int(high or low) + 1)]


def share_out(
    cores: Sequence[Core], each: int, instances: int, kept: Sequence[Sequence[int]] = ()
) -> list[tuple[int, ...]]:
    """The processors of each further instance: ``each`` cores, those that fewest instances have.

    ``kept`` are the processors of the instances that stay. Cores of one node are preferred as long as
    that makes no two instances share one; nodes fill evenly, for each has its own way to memory.
    """
    shared = Counter(core for core in cores for cpus in kept if set(core.cpus) & set(cpus))
    out = []
    for _ in range(len(kept), instances):
        chosen = _next(cores, each, shared)
        shared.update(chosen)
        out.append(tuple(sorted(cpu for core in chosen for cpu in core.cpus)))
    return out


def _next(cores: Sequence[Core], each: int, shared: Counter[Core]) -> list[Core]:
    """The cores of one more instance."""
    nodes: dict[int, list[Core]] = {}
    for core in cores:
        nodes.setdefault(core.node, []).append(core)
    taken = {node: sum(shared[core] for core in own) / len(own) for node, own in nodes.items()}
    least = sorted(cores, key=lambda core: (shared[core], taken[core.node], core.node, core.cpus))
    choices = [least[:each]]
    choices += [[core for core in least if core.node == node][:each] for node in nodes]
    enough = [choice for choice in choices if len(choice) == min(each, len(cores))]

    def worth(choice: list[Core]) -> tuple[float, ...]:
        of = {core.node for core in choice}
        return sum(shared[c] for c in choice), len(of), sum(taken[node] for node in of), min(of)

    return min(enough, key=worth)


def span(cpus: Iterable[int]) -> str:
    """Processors as Linux, taskset and docker write them: ``0-3,8``."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
