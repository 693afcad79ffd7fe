"""The fleet: up, grown, shrunk, stopped and taken over, with real instances and a real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from lab_tui.model import FrontState, GpuReading, InstanceState, LabError
from lab_tui.serving import fleet as fleet_module
from lab_tui.serving import front as front_module
from lab_tui.serving import instance as instance_module
from lab_tui.serving.cores import read_cores, share_out, span
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.placement import NoRoom, Seat
from lab_tui.serving.planner import NoCards
from lab_tui.serving.process import StopLadder
from lab_tui.serving.readings import plain_http

from .conftest import MakeFleet
from .helpers import (
    EMBEDDED,
    PATIENCE_S,
    Hammer,
    completion,
    cuda_script,
    listening,
    pids,
    processes_with,
    server_script,
    states,
    streamed,
    taken,
    tiny_spec,
    until,
    zombies,
)

READY, STOPPED, FAILED = InstanceState.READY, InstanceState.STOPPED, InstanceState.FAILED


def url_of(fleet: Fleet) -> str:
    url = fleet.front.view.url
    assert url is not None
    return url


def ports_of(spec: Any) -> list[int]:
    return [*range(spec.base_port, spec.base_port + 8), spec.front_port]


async def up(fleet: Fleet, spec: Any) -> None:
    await fleet.up(spec)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)


async def served_by(fleet: Fleet, count: int) -> set[str]:
    """The instances that ``count`` requests through the front were answered by."""
    seen = set()
    async with plain_http(base_url=url_of(fleet), timeout=PATIENCE_S) as http:
        for _ in range(count):
            answer = await http.post("/completion", json=completion(2))
            assert answer.status_code == 200, answer.text
            seen.add(answer.headers["X-Upstream"])
    return seen


async def failed(fleet: Fleet, index: int) -> tuple[str, tuple[str, ...]]:
    """Reason and log lines of an instance, once it has failed."""
    await until(lambda: fleet.views()[index].state == FAILED, "the instance to fail")
    view = fleet.views()[index]
    assert view.pid is None
    return view.reason, view.log_tail


# --- where they run -----------------------------------------------------------------------------


async def two_cards(*_: object) -> Any:
    """Two NVIDIA cards; of the second less is free."""
    given = {"name": "NVIDIA L4", "maker": "NVIDIA", "memory_total_bytes": 24 * 10**9}
    cards = tuple(
        GpuReading(index=n, uuid=f"GPU-{n}", memory_used_bytes=(n + 1) * 10**8, **given)  # type: ignore[arg-type]
        for n in (0, 1)
    )
    return NoCards(gpus=cards)


def places(fleet: Fleet) -> list[tuple[str, set[str]]]:
    """What each process really has: the cards that its environment shows, the processors of its threads."""
    found = []
    for pid in pids(fleet):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        cards = [text for text in variables if text.startswith("CUDA_VISIBLE_DEVICES=")]
        tasks = []
        for file in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                tasks.append(file.read_text())
        assert len(tasks) > 1
        masks = {line.split()[1] for text in tasks for line in text.splitlines() if "allowed_list" in line
                 and line.startswith("Cpus")}  # fmt: skip
        found.append((cards[0].partition("=")[2] if cards else "", masks))
    return found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
async def test_each_instance_has_its_card_and_its_cores_and_keeps_them(
    make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    server = str(cuda_script(tmp_path / "llama-server"))
    fleet = make_fleet(llama_server=server, look=two_cards)
    mask = os.sched_getaffinity(0)
    first, second = (span(cpus) for cpus in share_out(read_cores(), 1, 2))
    spec = tiny_spec(model, instances=1, placement="spread", cpu_pin=True)
    await up(fleet, spec)
    assert places(fleet) == [("GPU-0", {first})]
    began = pids(fleet)
    grown = msgspec.structs.replace(spec, instances=2)
    await up(fleet, grown)
    assert pids(fleet)[:1] == began
    assert places(fleet) == [("GPU-0", {first}), ("GPU-1", {second})]
    assert [(view.gpu, view.cores) for view in fleet.views()] == [("0", first), ("1", second)]
    await fleet.restart(1)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert places(fleet) == [("GPU-0", {first}), ("GPU-1", {second})]
    running = pids(fleet)
    await fleet.detach()
    heir = make_fleet(llama_server=server, look=two_cards)
    assert await heir.adopt()
    await up(heir, grown)
    assert pids(heir) == running and [view.gpu for view in heir.views()] == ["0", "1"]
    assert [seat.cards for seat in await heir.seats(grown)] == [(0,), (1,)]
    large = msgspec.structs.replace(grown, parallel=256, ctx_per_slot=1 << 20)
    with pytest.raises(NoRoom, match=r"instance 0 needs .* GPU 0 22\.5 GB, GPU 1 22\.5 GB"):
        await heir.up(large)
    elsewhere = msgspec.structs.replace(large, extra_args=("--override-tensor", "exps=CPU"))
    assert [seat.cards for seat in await heir.seats(elsewhere)] == [(0,), (1,)]  # its need is not known
    await up(heir, msgspec.structs.replace(grown, placement="1,0", cpu_pin=False))
    assert [cards for cards, _ in places(heir)] == ["GPU-1", "GPU-0"]
    assert {mask for _, masks in places(heir) for mask in masks} == {span(mask)}
    assert os.sched_getaffinity(0) == mask
    with pytest.raises(LabError, match="there is no card 2 for an instance: llama-server can use 0, 1"):
        await heir.up(msgspec.structs.replace(grown, placement="2,0"))
    assert len(pids(heir)) == 2


async def test_a_build_that_lists_no_cards_places_nothing(fleet: Fleet, model: Path) -> None:
    with pytest.raises(LabError, match="placement spread: this llama-server does not say which cards"):
        await fleet.up(tiny_spec(model, placement="spread"))
    assert await fleet.seats(tiny_spec(model)) == (Seat(), Seat())


# --- up and down --------------------------------------------------------------------------------


async def test_up_is_ready_and_in_the_front_and_down_leaves_nothing(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    assert states(fleet) == [READY, READY]
    assert fleet.spec == spec
    front = fleet.front.view
    assert (front.state, front.url, front.ready) == (
        FrontState.READY,
        f"http://127.0.0.1:{spec.front_port}",
        2,
    )
    assert await served_by(fleet, 4) == {f"127.0.0.1:{spec.base_port + i}" for i in (0, 1)}
    await until(lambda: all(view.busy is not None for view in fleet.views()), "readings")
    for index, view in enumerate(fleet.views()):
        assert (view.index, view.port, view.slots, view.restarts) == (index, spec.base_port + index, 2, 0)
        assert view.command[-1] != "" and "--threads-http" in view.command
        assert (view.rss_bytes or 0) > 1_000_000
        assert (view.uptime_s or 0) > 0
        assert view.queue == 0
    await fleet.down()
    assert fleet.spec is None
    assert fleet.views() == ()
    assert fleet.front.view.state == FrontState.STOPPED
    assert not listening(ports_of(spec))
    assert not processes_with(str(model))
    assert not zombies()
    await fleet.down()  # again: nothing


async def test_an_openai_client_chats_with_streaming(fleet: Fleet, model: Path) -> None:
    openai = pytest.importorskip("openai")
    await up(fleet, tiny_spec(model))
    async with openai.AsyncOpenAI(base_url=f"{url_of(fleet)}/v1", api_key="none") as client:
        messages = [{"role": "user", "content": "hello"}]
        stream = await client.chat.completions.create(
            model="any", messages=messages, max_tokens=20, stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)) > 5


async def test_growing_keeps_what_runs_and_shrinking_too(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    first = pids(fleet)
    async with plain_http() as http:  # a stream lives through both
        stream = streamed(url_of(fleet), 200)
        await anext(stream)
        await up(fleet, msgspec.structs.replace(spec, instances=3))
        assert pids(fleet)[:2] == first
        assert len(await served_by(fleet, 6)) == 3
        assert [event async for event in stream][-1]["stop"] is True
        await up(fleet, msgspec.structs.replace(spec, instances=1))
        assert pids(fleet) == first[:1]
        assert await served_by(fleet, 4) == {f"127.0.0.1:{spec.base_port}"}
        assert not listening([spec.base_port + 1, spec.base_port + 2])
        assert (await http.get(f"{url_of(fleet)}/health")).status_code == 200
    await up(fleet, spec)
    assert pids(fleet)[0] == first[0]


async def test_other_slots_are_another_instance(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    first = pids(fleet)
    await up(fleet, msgspec.structs.replace(spec, parallel=3))
    assert not set(first) & set(pids(fleet))
    assert [view.slots for view in fleet.views()] == [3, 3]
    assert not any(pid and psutil.pid_exists(pid) for pid in first)


async def test_the_same_again_changes_nothing(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    before = pids(fleet), fleet.front.config()
    await up(fleet, spec)
    assert (pids(fleet), fleet.front.config()) == before


async def test_another_front_port(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    before = pids(fleet)
    moved = msgspec.structs.replace(spec, front_port=spec.front_port - 1)
    await up(fleet, moved)
    assert pids(fleet) == before
    assert not listening([spec.front_port])
    assert len(await served_by(fleet, 4)) == 2


# --- one instance -------------------------------------------------------------------------------


async def test_a_client_notices_nothing_of_stop_start_and_restart(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    hammer = Hammer(url_of(fleet))
    await hammer.more(10)
    await fleet.stop(0)
    assert states(fleet) == [STOPPED, READY]
    assert fleet.views()[0].pid is None
    assert not listening([spec.base_port])
    assert fleet.front.view.ready == 1
    await hammer.more(10)
    await fleet.start(0)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert fleet.front.view.ready == 2
    before = pids(fleet)
    await fleet.restart(1)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert pids(fleet)[0] == before[0] != pids(fleet)[1]
    await hammer.more(10)
    await hammer.stop()
    assert hammer.troubles == []
    assert set(hammer.answers) == {200}


async def test_a_stream_that_has_just_begun_is_finished_before_the_stop(
    make_fleet: MakeFleet, model: Path
) -> None:
    fleet = make_fleet(drain_s=60.0, poll_s=60.0)
    await up(fleet, tiny_spec(model, instances=1, ctx_per_slot=8192))
    for _ in range(2):
        stream = streamed(url_of(fleet), 600)
        await anext(stream)
        stopping = asyncio.create_task(fleet.stop(0))  # no reading has seen the stream yet
        events = [event async for event in stream]
        assert events[-1]["tokens_predicted"] == 600
        await stopping
        assert states(fleet) == [STOPPED]
        await fleet.start(0)
        await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)


async def test_a_stream_that_does_not_end_is_cut_after_a_while(
    make_fleet: MakeFleet, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "LADDER", StopLadder(first_wait_s=0.2, second_wait_s=5))
    fleet = make_fleet(drain_s=0.1)
    await up(fleet, tiny_spec(model, instances=1, ctx_per_slot=8192))
    stream = streamed(url_of(fleet), 8000)
    await anext(stream)
    await asyncio.wait_for(fleet.stop(0), PATIENCE_S)
    assert states(fleet) == [STOPPED]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_there_is_no_such_instance(fleet: Fleet, model: Path) -> None:
    with pytest.raises(LabError, match="there is no instance 0: no fleet is up"):
        await fleet.start(0)
    await up(fleet, tiny_spec(model))
    for index in (2, -1):
        for command in (fleet.start, fleet.stop, fleet.restart):
            with pytest.raises(LabError, match=f"there is no instance {index}: the fleet has 0 to 1"):
                await command(index)
    await fleet.stop(1)
    await fleet.stop(1)  # stopped already: nothing
    await fleet.start(0)  # runs already: nothing
    assert states(fleet) == [READY, STOPPED]


async def test_killed_it_waits_says_why_and_comes_back(fleet: Fleet, model: Path) -> None:
    await up(fleet, tiny_spec(model))
    victim = pids(fleet)[1]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await until(lambda: states(fleet)[1] == InstanceState.BACKOFF)
    view = fleet.views()[1]
    assert view.reason.startswith(
        "killed (SIGKILL; out of memory if nobody did it); restart 1 of 5 after 1 s"
    )
    assert view.log_tail
    assert view.pid is None
    await until(lambda: fleet.front.view.ready == 1, "the front to leave it out")
    assert await served_by(fleet, 4) == {f"127.0.0.1:{fleet.views()[0].port}"}
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert fleet.views()[1].restarts == 1
    assert fleet.views()[1].reason == ""
    assert len(await served_by(fleet, 4)) == 2


async def test_killed_again_and_again_it_is_given_up(
    fleet: Fleet, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "MAX_RESTARTS", 2)
    monkeypatch.setattr(instance_module, "MAX_BACKOFF_S", 0.05)
    await up(fleet, tiny_spec(model, instances=1))
    for _ in range(3):
        await until(lambda: states(fleet) == [READY])
        pid = pids(fleet)[0]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: states(fleet) != [READY])
    reason, lines = await failed(fleet, 0)
    assert "given up after 2 restarts" in reason
    assert fleet.views()[0].restarts == 2
    assert lines
    with pytest.raises(LabError, match="instance 0 failed: killed"):
        await fleet.wait_ready()
    await fleet.start(0)  # a word brings it back
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)


async def test_one_that_hangs_is_left_out_until_it_goes_on(fleet: Fleet, model: Path) -> None:
    await up(fleet, tiny_spec(model))
    victim, other = (psutil.Process(pid) for pid in pids(fleet))
    victim.suspend()
    await until(lambda: states(fleet)[0] == InstanceState.HUNG and fleet.front.view.ready == 1, "it to hang")
    assert fleet.views()[0].reason.startswith("stopped by a signal")
    assert await served_by(fleet, 4) == {f"127.0.0.1:{fleet.views()[1].port}"}
    with pytest.raises(LabError, match="instance 0 hangs: stopped by a signal"):
        await fleet.wait_ready()
    victim.resume()
    await until(lambda: fleet.front.view.ready == 2, "it to come back")
    assert (states(fleet), fleet.views()[0].reason) == ([READY, READY], "")
    assert pids(fleet) == [victim.pid, other.pid]


async def test_one_that_takes_too_much_memory_restarts_with_the_figures(fleet: Fleet, model: Path) -> None:
    await up(fleet, tiny_spec(model))
    victim = fleet.instances[1]
    before = pids(fleet)
    stream = streamed(url_of(fleet), 100)
    await anext(stream)
    victim._memory_limit_bytes = 1e6
    await until(lambda: victim.state == InstanceState.STOPPING, "the limit to be seen")
    assert victim.wanted  # an heir would begin it anew
    await until(lambda: victim.state == InstanceState.BACKOFF, "it to be ended")
    assert "more than 0.001 GB (serve.memory_limit_gb); restart 1 of 5" in victim.reason
    assert [event async for event in stream][-1]["stop"] is True
    victim._memory_limit_bytes = math.inf
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert pids(fleet)[0] == before[0]
    assert pids(fleet)[1] not in (None, before[1])


async def test_killed_while_it_comes_back_is_one_more_try(
    make_fleet: MakeFleet, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "MAX_BACKOFF_S", 0.05)
    again = tmp_path / "again"
    program = server_script(tmp_path / "server", f"[ -e {again} ] && {{ rm {again}; kill -KILL $$; }}")
    fleet = make_fleet(llama_server=str(program))
    await up(fleet, tiny_spec(model, instances=1))
    again.touch()
    pid = pids(fleet)[0]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not again.exists(), "the second death")
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert fleet.views()[0].restarts == 2


async def test_kill_ends_a_stop_that_waits(
    fleet: Fleet, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "LADDER", StopLadder(first_wait_s=1000, second_wait_s=1000))
    await up(fleet, tiny_spec(model, instances=1))
    psutil.Process(pids(fleet)[0]).suspend()
    stopping = asyncio.create_task(fleet.down())
    await until(lambda: states(fleet) == [InstanceState.STOPPING])
    fleet.kill()
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert fleet.views() == ()


async def test_stopped_in_backoff(fleet: Fleet, model: Path) -> None:
    await up(fleet, tiny_spec(model, instances=1))
    pid = pids(fleet)[0]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: states(fleet) == [InstanceState.BACKOFF])
    await fleet.stop(0)
    assert states(fleet) == [STOPPED]
    with pytest.raises(LabError, match="instance 0 was stopped"):
        await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)


async def test_a_start_after_a_stop_given_up_half_way(
    make_fleet: MakeFleet, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "LADDER", StopLadder(first_wait_s=0.5, second_wait_s=0.5))
    deaf = server_script(tmp_path / "deaf", f'trap "" TERM; {EMBEDDED} "$@"; exit')
    fleet = make_fleet(llama_server=str(deaf))
    await up(fleet, tiny_spec(model, instances=1))
    first = pids(fleet)[0]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.instances[0].stop(), 0.2)
    await fleet.start(0)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert first is not None and not psutil.pid_exists(first)
    assert fleet.views()[0].restarts == 0


# --- what cannot be had -------------------------------------------------------------------------


async def refused(fleet: Fleet, spec: Any) -> str:
    """What ``up`` says; nothing was started."""
    with pytest.raises(LabError) as caught:
        await fleet.up(spec)
    assert "\n" not in str(caught.value)
    assert fleet.spec is None
    assert fleet.views() == ()
    assert not processes_with(spec.model)
    assert fleet.front.record is None
    return str(caught.value)


async def test_a_port_in_the_middle_of_the_range(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model, instances=4)
    with taken(spec.base_port + 2):
        words = await refused(fleet, spec)
    assert words.startswith(f"port {spec.base_port + 2} for instance 2 is in use by ")
    assert f"(pid {os.getpid()})" in words
    with taken(spec.front_port):
        assert f"port {spec.front_port} for the front is in use by" in await refused(fleet, spec)
    assert not listening(ports_of(spec))


async def test_a_host_that_is_not_ours(fleet: Fleet, model: Path) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        spec = tiny_spec(model, host=host, insecure=True)
        assert (await refused(fleet, spec)).startswith(
            f"cannot listen on {host}:{spec.front_port} for the front"
        )


async def test_another_key_reaches_every_part_and_the_next_engine(
    make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key-0123456789\n")
    file.chmod(0o600)
    spec = tiny_spec(model, instances=1, api_key_file=str(file))
    fleet = make_fleet()
    await fleet.up(spec)
    await fleet.wait_ready()
    (before,) = pids(fleet)
    await fleet.up(spec)
    assert pids(fleet) == [before]
    file.write_text("second-key-0123456789\n")
    await fleet.up(spec)
    await fleet.wait_ready()
    assert pids(fleet) != [before]
    await fleet.detach()

    # A change of the file that no `up` has followed reaches nobody: neither who restarts, nor who comes next.
    file.write_text("third-key-0123456789\n")
    heir = make_fleet()
    assert await heir.adopt()
    await heir.restart(0)
    await heir.wait_ready()
    await until(lambda: heir.views()[0].busy == 0, "it is read with the key")
    assert heir.api_key == "second-key-0123456789"
    copy = tmp_path / "run" / "api-keys"
    assert copy.stat().st_mode & 0o777 == 0o600

    async def check_keys() -> None:
        async with plain_http(base_url=f"http://127.0.0.1:{spec.front_port}", timeout=PATIENCE_S) as http:
            for key, status in (("third-key-0123456789", 401), ("second-key-0123456789", 200)):
                answer = await http.post("/completion", json=completion(2), headers={"X-Api-Key": key})
                assert answer.status_code == status

    await check_keys()
    await heir.detach()

    # Without the keys it was started with it serves on, and lets nobody in unasked.
    copy.unlink()
    blind = make_fleet()
    assert await blind.adopt()
    assert f"cannot read the API key in {copy}" in blind.notice
    assert await blind.instances[0].at_work()  # for all that is known
    await check_keys()
    await up(blind, spec)
    assert (blind.notice, blind.api_key) == ("", "third-key-0123456789")
    await blind.down()
    assert not copy.exists()


async def test_models_that_are_none(fleet: Fleet, model: Path, tmp_path: Path) -> None:
    text, cut = tmp_path / "text.gguf", tmp_path / "cut.gguf"
    text.write_text("no model")
    cut.write_bytes(model.read_bytes()[:-1000])
    assert "does not exist" in await refused(fleet, tiny_spec(tmp_path / "none.gguf"))
    assert "not a GGUF" in await refused(fleet, tiny_spec(text))
    assert "cut short" in await refused(fleet, tiny_spec(cut))


async def test_arguments_and_ranges(fleet: Fleet, model: Path) -> None:
    assert "takes no argument --no-such" in await refused(fleet, tiny_spec(model, extra_args=("--no-such",)))
    bad = ("--cache-type-k", "nonsense")
    assert "llama-server refuses --cache-type-k nonsense (argument --cache-type-k: invalid value" in (
        await refused(fleet, tiny_spec(model, extra_args=bad))
    )
    assert "--port is set by lab-tui" in await refused(fleet, tiny_spec(model, extra_args=("--port=1",)))
    assert "parallel is 257" in await refused(fleet, tiny_spec(model, parallel=257))
    assert "instances is 0" in await refused(fleet, tiny_spec(model, instances=0))


async def test_parts_that_are_missing(make_fleet: MakeFleet, model: Path) -> None:
    assert "serve.llama_server: /none does not exist" in await refused(
        make_fleet(llama_server="/none"), tiny_spec(model)
    )
    assert "serve.nginx: /none does not exist" in await refused(make_fleet(nginx="/none"), tiny_spec(model))


async def test_a_refusal_leaves_a_running_fleet_as_it_was(fleet: Fleet, model: Path) -> None:
    spec = tiny_spec(model)
    await up(fleet, spec)
    before = pids(fleet)
    with taken(spec.base_port + 3), pytest.raises(LabError, match="is in use"):
        await fleet.up(msgspec.structs.replace(spec, instances=5))
    with pytest.raises(LabError, match="takes no argument"):
        await fleet.up(msgspec.structs.replace(spec, extra_args=("--no-such",)))
    assert (pids(fleet), fleet.spec) == (before, spec)
    assert len(await served_by(fleet, 4)) == 2


# --- instances that fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("echo boom >&2; exit 3", "ended with code 3: boom"),
        ("kill -SEGV $$", "ended by signal 11"),
        ("echo 'cudaMalloc failed: out of memory'; exit 1", "the GPU is out of memory"),
        ("echo 'E main: failed to create_context with model'; exit 1", "the context does not fit"),
    ],
)
async def test_one_that_crashes_at_start(
    make_fleet: MakeFleet, model: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    spec = tiny_spec(model)
    broken = server_script(tmp_path / "broken", f'[ "$port" = {spec.base_port + 1} ] && {{ {fault}; }}')
    fleet = make_fleet(llama_server=str(broken))
    await fleet.up(spec)
    said, lines = await failed(fleet, 1)
    assert said.startswith(reason)
    assert lines or "signal" in reason
    with pytest.raises(LabError, match=f"instance 1 failed: {reason}"):
        await fleet.wait_ready()
    await until(lambda: states(fleet)[0] == READY)
    await until(lambda: fleet.front.view.ready == 1, "the other one to be in the front")
    assert len(await served_by(fleet, 2)) == 1


async def test_one_that_never_gets_ready_is_stopped(
    make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    slow = server_script(tmp_path / "slow", "exec sleep 300")
    fleet = make_fleet(llama_server=str(slow), ready_timeout_s=0.5)
    await fleet.up(tiny_spec(model, instances=1))
    assert states(fleet) == [InstanceState.STARTING]
    pid = pids(fleet)[0]
    reason, _ = await failed(fleet, 0)
    assert "not ready within" in reason
    assert pid is not None and not psutil.pid_exists(pid)


async def test_down_while_starting(make_fleet: MakeFleet, model: Path, tmp_path: Path) -> None:
    slow = server_script(tmp_path / "slow", "exec sleep 300")
    fleet = make_fleet(llama_server=str(slow))
    await fleet.up(tiny_spec(model, instances=3))
    waiting = asyncio.create_task(fleet.wait_ready())
    await until(lambda: all(pids(fleet)))
    children = pids(fleet)
    await fleet.down()
    assert not any(pid and psutil.pid_exists(pid) for pid in children)
    with pytest.raises(LabError, match="the fleet was stopped"):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_what_a_dead_wrapper_leaves_does_not_keep_the_port(
    make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    wrapper = server_script(tmp_path / "wrapper", f'{EMBEDDED} "$@"; exit')
    fleet = make_fleet(llama_server=str(wrapper))
    await up(fleet, tiny_spec(model, instances=1))
    pid = pids(fleet)[0]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # the shell dies, the server in it lives on
    await until(lambda: states(fleet) == [InstanceState.BACKOFF])
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert pids(fleet) != [pid]


async def test_a_folder_that_cannot_be_written_does_not_stop_what_serves(
    fleet: Fleet, model: Path, tmp_path: Path
) -> None:
    await up(fleet, tiny_spec(model))
    (tmp_path / "run" / "fleet.new").mkdir()  # where the next record would be written
    await fleet.stop(1)
    await fleet.start(1)
    await asyncio.wait_for(fleet.wait_ready(), PATIENCE_S)
    assert "fleet.json" in fleet.notice
    assert len(await served_by(fleet, 4)) == 2
    (tmp_path / "run" / "fleet.new").rmdir()
    await fleet.stop(1)
    assert fleet.notice == ""


# --- one engine after the other -----------------------------------------------------------------


async def test_an_heir_takes_all_over_and_a_client_notices_nothing(
    make_fleet: MakeFleet, model: Path
) -> None:
    old = make_fleet()
    spec = tiny_spec(model, instances=3)
    await up(old, spec)
    await old.stop(2)
    before = pids(old)
    master = old.front.view.pid
    hammer = Hammer(url_of(old))
    await hammer.more(5)
    await old.detach()
    await hammer.more(5)
    heir = make_fleet()
    assert await heir.adopt() is True
    await until(lambda: states(heir) == [READY, READY, STOPPED])
    await until(lambda: heir.front.view.ready == 2)
    assert (pids(heir), heir.front.view.pid, heir.spec) == (before, master, spec)
    await hammer.more(5)
    await hammer.stop()
    assert hammer.troubles == []
    assert set(hammer.answers) == {200}
    await heir.start(2)
    await asyncio.wait_for(heir.wait_ready(), PATIENCE_S)
    await heir.down()
    assert not listening(ports_of(spec))
    assert not processes_with(str(model))


async def test_slow_instances_stay_in_the_front_while_an_heir_takes_over(
    make_fleet: MakeFleet, model: Path
) -> None:
    old = make_fleet()
    await up(old, tiny_spec(model))
    url, servers = url_of(old), [psutil.Process(pid) for pid in pids(old)]
    await old.detach()
    heir = make_fleet()
    await heir.find_parts()
    for server in servers:
        server.suspend()
    taking = asyncio.create_task(heir.adopt())
    hammer = Hammer(url, clients=4)
    await asyncio.sleep(1.0)  # they are too busy to answer for so long
    assert not taking.done()
    for server in servers:
        server.resume()
    assert await taking is True
    await hammer.more(10)
    await hammer.stop()
    assert (hammer.troubles, set(hammer.answers)) == ([], {200})


async def test_a_front_that_hangs_does_not_hold_an_heir_up(
    make_fleet: MakeFleet, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "HEAR_S", 0.5)
    monkeypatch.setattr(front_module, "READY_TIMEOUT_S", 1000.0)
    old = make_fleet()
    await up(old, tiny_spec(model))
    nginx = psutil.Process(old.front.view.pid)
    await old.detach()
    nginx.suspend()
    heir = make_fleet()
    assert await asyncio.wait_for(heir.adopt(), PATIENCE_S) is True
    nginx.resume()
    await until(lambda: heir.front.view.ready == 2, "the front to be taken over")
    assert heir.front.view.pid == nginx.pid


async def test_an_heir_starts_again_what_died_meanwhile(make_fleet: MakeFleet, model: Path) -> None:
    old = make_fleet()
    await up(old, tiny_spec(model))
    before, port = pids(old), old.views()[0].port
    await old.detach()
    assert before[0] is not None
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: not listening([port]), "it to be gone")
    heir = make_fleet()
    assert await heir.adopt() is True
    await asyncio.wait_for(heir.wait_ready(), PATIENCE_S)
    assert pids(heir)[1] == before[1]
    assert pids(heir)[0] != before[0]
    assert len(await served_by(heir, 4)) == 2


async def test_an_heir_of_nothing(make_fleet: MakeFleet, model: Path, tmp_path: Path) -> None:
    assert await make_fleet().adopt() is False
    old = make_fleet()
    spec = tiny_spec(model)
    await up(old, spec)
    before = pids(old)
    await old.detach()
    for pid in before:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)  # a killed one lives on for a moment
    heir = make_fleet()
    assert await heir.adopt() is False
    assert heir.spec is None
    assert not listening(ports_of(spec))  # the front without instances was ended
    assert await make_fleet().adopt() is False  # and forgotten
    (tmp_path / "run" / "fleet.json").write_text('{"spec": "from another time"}')
    assert await make_fleet().adopt() is False


async def test_an_heir_ends_what_was_being_stopped(
    make_fleet: MakeFleet, model: Path, tmp_path: Path
) -> None:
    """The engine died in the middle of a stop: the process is there, nobody wants it."""
    old = make_fleet()
    spec = tiny_spec(model)
    await up(old, spec)
    file = tmp_path / "run" / "fleet.json"
    record = msgspec.json.decode(file.read_bytes())
    await old.detach()
    file.write_bytes(msgspec.json.encode({**record, "wanted": [0]}))
    heir = make_fleet()
    assert await heir.adopt() is True
    await until(lambda: states(heir) == [READY, STOPPED])
    assert not listening([spec.base_port + 1])
    await heir.start(1)
    await asyncio.wait_for(heir.wait_ready(), PATIENCE_S)
