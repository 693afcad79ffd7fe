"""What one instance says of itself: ``/metrics`` and ``/slots`` turned into slots, queue and tok/s."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import httpx
import msgspec

from lab_tui.model import Data, SlotView


class NextToken(Data, frozen=True, kw_only=True):
    """The part of a slot that counts."""

    n_decoded: int = 0


class Slot(Data, frozen=True, kw_only=True):
    """One entry of ``/slots``; fields from ``id_task`` on are absent before the slot's first use."""

    id: int
    is_processing: bool = False
    id_task: int = -1
    next_token: tuple[NextToken, ...] | NextToken = ()  # an object in builds before late 2025


class InstanceReading(Data, frozen=True, kw_only=True):
    """One reading of one instance."""

    time: float  # monotonic seconds
    busy: int
    queue: int
    tokens: float  # generated since the instance started, live ones included
    tps: float | None = None  # against the reading before
    slots: tuple[SlotView, ...] = ()


METRIC = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)
SLOTS = msgspec.json.Decoder(list[Slot])


def parse_metrics(text: str) -> dict[str, float]:
    """Metric name without its prefix → value. Lines that are not ``llamacpp:name number`` are passed over."""
    values: dict[str, float] = {}
    for name, number in METRIC.findall(text):
        with contextlib.suppress(ValueError):
            value = float(number)
            if math.isfinite(value):
                values[name] = value
    return values


def plain_http(**options: Any) -> httpx.AsyncClient:
    """A client for instances and front: no proxy, and no TLS, whose setup would block for 0.2 s."""
    return httpx.AsyncClient(verify=False, trust_env=False, **options)


async def read_instance(
    http: httpx.AsyncClient, now: float, before: InstanceReading | None
) -> InstanceReading:
    """Ask an instance once. Raises httpx.HTTPError or msgspec.DecodeError when it does not answer well.

    ``tokens_predicted_total`` moves only when a slot is released, so what the busy slots have
    decoded so far is added; the difference of two readings is then the true rate of all traffic.
    Metrics come first: a slot released in between is missed once rather than counted twice. Both counts of
    requests are theirs, of one moment: one that leaves the queue for a slot in between is not counted twice.
    """
    metrics_answer = await http.get("/metrics")
    slots_answer = await http.get("/slots")
    metrics_answer.raise_for_status()
    slots_answer.raise_for_status()
    metrics = parse_metrics(metrics_answer.text)
    slots = SLOTS.decode(slots_answer.content)
    tokens = metrics.get("tokens_predicted_total", 0.0) + sum(map(decoded, slots))
    tps = None
    if before is not None and now > before.time:
        tps = max(0.0, tokens - before.tokens) / (now - before.time)
    return InstanceReading(
        time=now,
        busy=int(metrics.get("requests_processing", sum(slot.is_processing for slot in slots))),
        queue=int(metrics.get("requests_deferred", 0)),
        tokens=max(tokens, before.tokens if before else 0.0),
        tps=tps,
        slots=_views(slots, now, before),
    )


def _views(slots: list[Slot], now: float, before: InstanceReading | None) -> tuple[SlotView, ...]:
    """The slots, each with its own rate where the reading before saw the same request in it."""
    known = {slot.id: slot for slot in before.slots} if before is not None and now > before.time else {}
    views = []
    for slot in slots:
        tokens, old = decoded(slot), known.get(slot.id)
        same = old is not None and old.busy and slot.is_processing and old.task == slot.id_task
        views.append(
            SlotView(
                id=slot.id,
                busy=slot.is_processing,
                task=slot.id_task,
                tokens=tokens,
                tps=(tokens - old.tokens) / (now - before.time) if same and old and before else None,
            )
        )
    return tuple(views)


def decoded(slot: Slot) -> int:
    """Tokens a busy slot has generated in its current task."""
    if not slot.is_processing or not slot.next_token:
        return 0
    token = slot.next_token if isinstance(slot.next_token, NextToken) else slot.next_token[0]
    return token.n_decoded
