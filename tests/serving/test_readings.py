"""What an instance says of itself, held against what its clients counted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from lab_tui.serving import readings
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.readings import InstanceReading, parse_metrics, plain_http, read_instance

from .helpers import PATIENCE_S, streamed, tiny_spec, until

METRICS = """\
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed.
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 1.23457e+06
llamacpp:n_busy_slots_per_decode 3.5
llamacpp:requests_deferred 12
llamacpp:prompt_seconds_total 0.001
other:requests_deferred 99
"""


def test_metrics() -> None:
    assert parse_metrics(METRICS) == {
        "tokens_predicted_total": 1234570.0,
        "n_busy_slots_per_decode": 3.5,
        "requests_deferred": 12.0,
        "prompt_seconds_total": 0.001,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>404</html>",
        "llamacpp:x",
        "llamacpp:x y",
        "llamacpp:x nan\nllamacpp:y inf\nllamacpp:z -inf",
        "llamacpp:x 1 2",
        "llamacpp:x{a=\"b\"} 1",
        "\x00\xff" * 100,
    ],
)  # fmt: skip
def test_garbage_is_passed_over(text: str) -> None:
    assert parse_metrics(text) == {}
    assert parse_metrics(f"{text}\nllamacpp:good 1\n") == {"good": 1.0}


def answering(metrics: str, slots: str, status: int = 200) -> httpx.AsyncClient:
    """A client of an instance that answers just so."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, text=metrics if request.url.path == "/metrics" else slots)

    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://instance")


async def test_live_tokens_are_added_to_finished_ones() -> None:
    slots = """[{"id":0,"is_processing":true,"id_task":7,"next_token":[{"n_decoded":30}]},
                {"id":1,"is_processing":false,"id_task":3,"next_token":[{"n_decoded":500}]},
                {"id":2,"is_processing":true,"next_token":{"n_decoded":4}},
                {"id":3,"is_processing":true},
                {"id":4}]"""
    metrics = "llamacpp:tokens_predicted_total 100\nllamacpp:requests_deferred 2\n"
    async with answering(metrics, slots) as http:
        first = await read_instance(http, 10.0, None)
        assert (first.busy, first.queue, first.tokens, first.tps) == (3, 2, 134.0, None)
        async with answering(f"{metrics}llamacpp:requests_processing 2\n", slots) as moved:
            assert (await read_instance(moved, 10.0, None)).busy == 2  # the third was in the queue then
        before = InstanceReading(time=8.0, busy=0, queue=0, tokens=34.0)
        assert (await read_instance(http, 10.0, before)).tps == 50.0
        same_moment = InstanceReading(time=10.0, busy=0, queue=0, tokens=34.0)
        assert (await read_instance(http, 10.0, same_moment)).tps is None


async def test_each_slot_has_the_rate_of_the_request_that_is_in_it() -> None:
    def slots(*busy: tuple[int, int]) -> str:
        rows = [
            {"id": id, "is_processing": True, "id_task": task, "next_token": [{"n_decoded": tokens}]}
            for id, (task, tokens) in enumerate(busy)
        ]
        return json.dumps([*rows, {"id": len(rows), "is_processing": False}])

    async with answering("", slots((7, 10), (8, 90))) as http:
        first = await read_instance(http, 10.0, None)
    assert [slot.tps for slot in first.slots] == [None, None, None]
    async with answering("", slots((7, 60), (9, 5))) as http:
        second = await read_instance(http, 12.0, first)
    assert [(slot.busy, slot.tokens, slot.tps) for slot in second.slots] == [
        (True, 60, 25.0),
        (True, 5, None),  # another request: when it began is not known
        (False, 0, None),
    ]


async def test_a_counter_that_seems_to_fall_is_no_negative_rate() -> None:
    """A slot that is released between the two questions is missed once; the next reading makes it good."""
    before = InstanceReading(time=9.0, busy=1, queue=0, tokens=134.0)
    async with answering("llamacpp:tokens_predicted_total 100\n", "[]") as http:
        dip = await read_instance(http, 10.0, before)
    assert (dip.tps, dip.tokens) == (0.0, 134.0)
    async with answering("llamacpp:tokens_predicted_total 144\n", "[]") as http:
        assert (await read_instance(http, 11.0, dip)).tps == 10.0


async def test_what_is_no_reading_is_said() -> None:
    for http, error in (
        (answering("", "not json"), msgspec.DecodeError),
        (answering("", '{"error": 1}'), msgspec.DecodeError),
        (answering("", "[]", 503), httpx.HTTPStatusError),
    ):
        async with http:
            with pytest.raises(error):
                await read_instance(http, 1.0, None)


async def test_rates_are_those_that_clients_see(fleet: Fleet, model: Path) -> None:
    """Tokens between two readings are the tokens of the streams, half-finished ones included."""
    spec = tiny_spec(model, instances=1, parallel=4, ctx_per_slot=4096)
    await fleet.up(spec)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    async with plain_http(base_url=f"http://127.0.0.1:{spec.base_port}", timeout=PATIENCE_S) as http:
        first = await read_instance(http, time.monotonic(), None)
        assert (first.busy, first.queue) == (0, 0)
        counted = dict.fromkeys(range(6), 0)

        async def client(number: int) -> None:
            async for event in streamed(f"http://127.0.0.1:{spec.base_port}", 600):
                counted[number] = int(str(event["tokens_predicted"]))

        tasks = [asyncio.create_task(client(number)) for number in counted]
        await until(lambda: sum(counted.values()) > 100, "tokens")
        busy = 0
        while busy != 4:  # a slot released between the two questions of a reading is missed in it
            assert not all(task.done() for task in tasks)
            low = sum(counted.values())
            during = await read_instance(http, time.monotonic(), first)
            high = sum(counted.values())
            busy = during.busy
        assert during.queue <= 2
        # The server is ahead of its clients by what is under way, a few tokens a stream.
        assert low * 0.9 <= during.tokens - first.tokens <= high * 1.1 + 400
        assert during.tps is not None and during.tps > 0
        await asyncio.gather(*tasks)
        await until(lambda: fleet.views()[0].busy == 0, "the instance to be idle")
        last = await read_instance(http, time.monotonic(), during)
    assert sum(counted.values()) == 3600
    assert last.tokens - first.tokens == pytest.approx(3600, abs=1)
    assert last.busy == 0
    await until(lambda: fleet.views()[0].tps == 0.0, "the view to say that nothing runs")
    assert (fleet.views()[0].reading_age_s or 0) < 5


async def test_an_instance_that_does_not_answer_keeps_its_old_reading_which_ages(
    fleet: Fleet, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.up(tiny_spec(model, instances=1))
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    await until(lambda: fleet.views()[0].busy == 0)
    instance = fleet.instances[0]

    async def silent(*_: object) -> InstanceReading:
        raise httpx.ReadTimeout("silent")

    monkeypatch.setattr("lab_tui.serving.instance.read_instance", silent)
    await until(lambda: (instance.view().reading_age_s or 0) > 0.5, "the reading to age")
    assert instance.view().busy == 0
    assert readings.decoded(readings.Slot(id=0)) == 0
