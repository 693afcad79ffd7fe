"""What was found, as files: a table of the cells, or a fleet that starts without lab-tui."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lab_tui.model import (
    FLEET_FORMATS,
    TABLE_FORMATS,
    ExportSpec,
    GpuReading,
    LabError,
    SweepDetail,
)
from lab_tui.serving import compose, llama_server, standalone, units
from lab_tui.serving.cards import CUDA, ROCM, main_kind
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.mps import NVIDIA
from lab_tui.serving.parts import LlamaServer
from lab_tui.store import export

TABLES: dict[str, Callable[[SweepDetail], str]] = dict(
    zip(TABLE_FORMATS, (export.to_csv, export.to_json_text, export.to_markdown), strict=True)
)
FLEETS: dict[str, Callable[[standalone.Recipe], dict[str, str]]] = dict(
    zip(
        FLEET_FORMATS,
        (standalone.script, units.systemd, compose.compose, standalone.nginx_conf),
        strict=True,
    )
)


def table(detail: SweepDetail, format_: str) -> dict[str, str]:
    """One file with every cell. Raises LabError for another format."""
    if format_ not in TABLES:
        raise LabError(f"there is no format {format_}", f"choose one of {', '.join(TABLES)}")
    return {f"sweep-{detail.view.id}.{format_}": TABLES[format_](detail)}


async def fleet_files(
    asked: ExportSpec, fleet: Fleet, gpus: tuple[GpuReading, ...], ready_timeout_s: float
) -> dict[str, str]:
    """The files that start a fleet from the parts of this machine.

    Raises LabError for another format, for settings out of range, and for a part that is missing.
    """
    spec = asked.fleet
    if asked.format not in FLEETS or spec is None:
        raise LabError(f"there is no format {asked.format}", f"choose one of {', '.join(FLEETS)}")
    llama_server.check_spec(spec)
    server, nginx = await fleet.find_parts()
    llama_server.check_extra_args(server, spec.extra_args)
    seats = await fleet.seats(spec)
    without = spec.gpu_layers == 0 and not any(seat.cards for seat in seats)
    recipe = standalone.Recipe(
        origin=asked.origin,
        spec=spec,
        seats=seats,
        server=server,
        nginx=nginx,
        ready_timeout_s=ready_timeout_s,
        backend="" if without else _backend(server, gpus),
    )
    return FLEETS[asked.format](recipe)


def _backend(server: LlamaServer, gpus: Sequence[GpuReading]) -> str:
    """By which containers may use the cards: as this build does, else as is usual for their maker."""
    makers = {gpu.maker for gpu in gpus}
    if server.devices:
        kind = main_kind(server.devices)
        # A container gets these cards by NVIDIA's own way, which brings no Vulkan into it.
        return f"{kind} on NVIDIA's cards" if kind == "Vulkan" and NVIDIA in makers else kind
    return CUDA if NVIDIA in makers else ROCM if "AMD" in makers else ""
