"""What a kept sweep is good for: a cell of it as a fleet or measured again, two sweeps side by side.

Commands and screens both use it; it knows nothing but the shared data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from lab_tui.model import CellStatus, CellView, FleetSpec, LabError, SweepDetail, SweepSpec

# --- one cell ---------------------------------------------------------------------------------


def chosen(detail: SweepDetail, number: int | None) -> CellView:
    """A measured cell by its number, from 1; None: the best. Raises LabError when there is none."""
    view = detail.view
    if number is None:
        if view.best is None:
            raise LabError(f"sweep {view.id} has no best cell", view.reason or f"it is {view.status}")
        number = view.best.cell
    if not 1 <= number <= len(detail.cells):
        raise LabError(
            f"sweep {view.id} has no cell {number}",
            f"it has 1 to {len(detail.cells)}, `lab-tui results show {view.id}` shows them",
        )
    cell = detail.cells[number - 1]
    if cell.status != CellStatus.MEASURED:
        why = f": {cell.reason}" if cell.reason else ""
        raise LabError(f"cell {number} of sweep {view.id} is {cell.status}{why}", "choose a measured one")
    return cell


def model_of(detail: SweepDetail, cell: CellView) -> str:
    """The model a cell was measured with. Raises LabError when nobody knows."""
    if not cell.cell.fleet.model:
        raise LabError(
            f"sweep {detail.view.id} was imported and does not say which model it was",
            "name it with -m MODEL",
        )
    return cell.cell.fleet.model


def fleet_of(cell: CellView, mine: FleetSpec, model: str, ctx_per_slot: int | None = None) -> FleetSpec:
    """The fleet of a cell, where ``mine`` listens, for whom it does. ``ctx_per_slot`` None: as measured."""
    fleet = cell.cell.fleet
    return msgspec.structs.replace(
        fleet,
        model=model,
        ctx_per_slot=fleet.ctx_per_slot if ctx_per_slot is None else ctx_per_slot,
        base_port=mine.base_port,
        front_port=mine.front_port,
        host=mine.host,
        api_key_file=mine.api_key_file,
        insecure=mine.insecure,
        max_body_mb=mine.max_body_mb,
    )


def again(detail: SweepDetail, cell: CellView) -> SweepSpec:
    """The sweep that measures one cell once more, alone, as it was measured.

    Raises LabError when its model is not known.
    """
    model = model_of(detail, cell)
    axes = {name: (value,) for name, value in cell.cell.axes.items()}
    if "output-tokens" in axes:  # whose longest value the context was laid out for
        axes.setdefault("ctx-per-slot", (cell.cell.fleet.ctx_per_slot,))
    return msgspec.structs.replace(
        detail.spec,
        name=f"#{detail.view.id} cell {cell.index + 1}",
        fleet=msgspec.structs.replace(detail.spec.fleet, model=model),
        axes=axes,
        strategy="grid",
        budget_s=None,
        confirm=False,
        large=False,
    )


# --- two sweeps -------------------------------------------------------------------------------

PLACE = ("instances", "parallel", "concurrency")  # axes that every cell has a value on


class Rate(NamedTuple):
    """Tokens a second and half its 95 % interval; None: the window was too short for one."""

    tps: float
    half_width: float | None


class Pair(NamedTuple):
    """The same thing in two sweeps."""

    key: tuple[object, ...]
    a: Rate
    b: Rate

    @property
    def ratio(self) -> float | None:
        """The second over the first."""
        return self.b.tps / self.a.tps if self.a.tps else None

    @property
    def within(self) -> bool | None:
        """Whether the two 95 % intervals meet, as for a tie; None without an interval."""
        if self.a.half_width is None or self.b.half_width is None:
            return None
        return abs(self.b.tps - self.a.tps) <= self.a.half_width + self.b.half_width


class Comparison(NamedTuple):
    """The cells that two sweeps have in common, and the axes that say which they are."""

    names: list[str]
    pairs: list[Pair]


def compare(a: SweepDetail, b: SweepDetail) -> Comparison:
    """What was measured in both, in the order of ``a``."""
    names = [*PLACE, *(n for n in a.spec.axes | b.spec.axes if n not in PLACE and _varies(n, a, b))]
    others = dict(_rates(b, names))
    return Comparison(
        names, [Pair(key, rate, others[key]) for key, rate in _rates(a, names) if key in others]
    )


def _rates(detail: SweepDetail, names: Sequence[str]) -> list[tuple[tuple[object, ...], Rate]]:
    return [
        (_key(cell, names), Rate(cell.result.throughput_tps, cell.result.throughput_ci95_tps))
        for cell in detail.cells
        if cell.result is not None
    ]


def _varies(name: str, a: SweepDetail, b: SweepDetail) -> bool:
    """Whether an axis has more than one value in either sweep."""
    return any(len(detail.spec.axes.get(name, ())) > 1 for detail in (a, b))


def _key(cell: CellView, names: Sequence[str]) -> tuple[object, ...]:
    """What makes it the same cell in another sweep: its value on each of these axes."""
    settings = {
        **msgspec.structs.asdict(cell.cell.fleet),
        "concurrency": cell.cell.concurrency,
        "output_tokens": cell.cell.workload.output_tokens,
    }
    return tuple(settings.get(name.replace("-", "_"), cell.cell.axes.get(name)) for name in names)
