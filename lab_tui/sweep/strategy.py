"""The strategies by name."""

from __future__ import annotations

from lab_tui.model import LabError
from lab_tui.sweep.adaptive import adaptive
from lab_tui.sweep.plan import Plan, grid, ladder

STRATEGIES: dict[str, Plan] = {"grid": grid, "ladder": ladder, "adaptive": adaptive}


def strategy(name: str) -> Plan:
    """The plan of that name. Raises LabError when there is none."""
    if name not in STRATEGIES:
        raise LabError(f"there is no strategy {name}", f"choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
