"""What a kept sweep is good for: a cell of it as a fleet or measured again, two sweeps side by side.

Commands and screens both use it; it knows nothing but the shared data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

import msgspec

from lab_tui.model import CellStatus, CellView, Data, FleetSpec, LabError, SweepDetail, SweepSpec, Workload

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


# Of a fleet, what says where and for whom it serves, or how large the sweep around it was: no difference.
ASIDE = ("model", "threads_http", "base_port", "front_port", "host", "api_key_file", "insecure",
         "max_streams", "max_body_mb")  # fmt: skip
IMPORTED = "imported"  # in the context of a cell whose file says nothing but figures
MOST_VALUES = 3  # of a setting, that are named


def differences(a: SweepDetail, b: SweepDetail) -> tuple[str, ...]:
    """What else was not the same in the cells that two sweeps have in common, each in a few words.

    The model, the machine, llama-server, and every setting of fleet and requests: ``prompt tokens 64, then
    128``. What one of them does not say is no difference; of an import hardly anything is known.
    """
    names = compare(a, b).names
    mine, theirs = ({_key(c, names): c for c in one.cells if c.result is not None} for one in (a, b))
    common = mine.keys() & theirs.keys()
    if not common:
        return ()
    ours = [mine[key] for key in common], [theirs[key] for key in common]
    imported = [
        f"#{one.view.id} was imported: its model, machine and requests are not known"
        for one, cells in zip((a, b), ours, strict=True)
        if any(IMPORTED in cell.context for cell in cells)
    ]
    return tuple(imported) or tuple(_differences(*ours))


def _differences(mine: Sequence[CellView], theirs: Sequence[CellView]) -> Iterator[str]:
    for what, value in (*_ORIGINS, *_SETTINGS):
        one, other = {value(cell) for cell in mine}, {value(cell) for cell in theirs}
        if one != other and "" not in one | other:
            yield f"{what} {_values(one)}, then {_values(other)}"


def _values(values: set[object]) -> str:
    """``64``, ``none``, ``on, off``."""
    texts = sorted(" ".join(v) if isinstance(v, tuple) else str(v) for v in values if v not in (None, ()))
    texts += ["none"] * (len(texts) < len(values))
    return ", ".join(texts) if len(texts) <= MOST_VALUES else f"{len(texts)} values"


def _model(cell: CellView) -> str:
    """The name of its file, and where that was read the beginning of its hash."""
    digest = (cell.context.get("model") or {}).get("sha256_of_ends", "")
    name = PurePath(cell.cell.fleet.model).name
    return f"{name} ({digest[:8]})" if digest else name


def _server(cell: CellView) -> str:
    return str((cell.context.get("versions") or {}).get("llama-server", ""))


def _setting(part: Callable[[CellView], object], field: str) -> Callable[[CellView], object]:
    return lambda cell: getattr(part(cell), field)


def _settings_of(
    kind: type[Data], part: Callable[[CellView], object]
) -> Iterator[tuple[str, Callable[[CellView], object]]]:
    for field in kind.__struct_fields__:
        if field not in ASIDE:
            yield field.replace("_", " "), _setting(part, field)


# What is compared, and how a cell says it; "": it does not.
_ORIGINS: tuple[tuple[str, Callable[[CellView], object]], ...] = (
    ("model", _model),
    ("machine", lambda cell: cell.context.get("machine", "")),
    ("llama-server", _server),
)
_SETTINGS = (
    *_settings_of(Workload, lambda cell: cell.cell.workload),
    *_settings_of(FleetSpec, lambda cell: cell.cell.fleet),
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
