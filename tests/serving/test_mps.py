"""NVIDIA's MPS: whether it runs, what is said of it, and a daemon of its own for a fleet."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from lab_tui.cli.status import status_text
from lab_tui.model import FleetSpec, GpuReading, InstanceView, LabError, MpsView
from lab_tui.serving import mps
from lab_tui.serving.cards import Device
from lab_tui.serving.fleet import Fleet
from lab_tui.serving.mps import LEAVE_OUT, Machine
from lab_tui.serving.orphans import describe
from lab_tui.serving.parts import LlamaServer
from lab_tui.sweep import space
from lab_tui.ui.panes import gpus
from lab_tui.ui.series import Series
from tests.store.helpers import sweep_spec
from tests.ui.fake import instance, snapshot

from .conftest import MakeFleet
from .helpers import cuda_script, pids, tiny_spec, until

L4 = GpuReading(
    index=0, name="NVIDIA L4", uuid="GPU-0", maker="NVIDIA",
    memory_total_bytes=24 * 10**9, memory_used_bytes=10**9,
)  # fmt: skip
CUDA0 = Device(name="CUDA0", description="NVIDIA L4", total_bytes=24 * 10**9, free_bytes=23 * 10**9)
# As the real one: a socket in the folder, and a server beside it.
SERVER = "nvidia-cuda-mps-server"
CONTROL = """#!{python}
import os, signal, socket, subprocess, sys
assert sys.argv[1:] == ["-f"] and os.path.isdir(os.environ["CUDA_MPS_LOG_DIRECTORY"])
if os.path.exists({broken!r}):
    sys.exit("no device that can be used")
server = subprocess.Popen(["nvidia-cuda-mps-server", "300"], executable={sleep!r})
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.bind(os.environ["CUDA_MPS_PIPE_DIRECTORY"] + "/control")
control.listen()
signal.pause()
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake nvidia-cuda-mps-control on PATH; it ends at once while the file that is given is there."""
    folder, broken = tmp_path / "bin", tmp_path / "broken"
    folder.mkdir()
    script, sleep = folder / mps.PROGRAM, shutil.copy(str(shutil.which("sleep")), folder / SERVER)
    script.write_text(CONTROL.format(python=sys.executable, broken=str(broken), sleep=str(sleep)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return broken


# --- whether it runs, and can ---------------------------------------------------------------------


def test_a_daemon_is_seen_by_its_socket(tmp_path: Path) -> None:
    folder = {mps.PIPES: str(tmp_path)}
    assert not mps.machine_runs_one(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(str(tmp_path / "control"))
        control.listen()
        control.setblocking(False)
        assert mps.machine_runs_one(folder)
        with pytest.raises(BlockingIOError):
            control.accept()  # it was not spoken to
    assert not mps.machine_runs_one(folder)  # it died, its socket is still there
    assert not mps.listens(tmp_path / ("long" * 40))


def spec(mode: str = "on", instances: int = 2) -> FleetSpec:
    return FleetSpec(model="m", instances=instances, mps=mode)


def test_what_stands_in_the_way_is_said_with_the_way_out(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mps.check(spec(), [L4], [CUDA0])
    mps.check(spec(instances=60), [L4], None)
    amd = GpuReading(index=0, name="card", maker="AMD")
    for asked, cards, devices, says in (
        (spec(), [amd], [CUDA0], "MPS is for NVIDIA's cards, and none answers here"),
        (spec(), [L4], [], "MPS is for CUDA, and this llama-server does not use it"),
        (spec(instances=61), [L4], None, "61 instances on 1 card: MPS takes 60 on each"),
    ):
        with pytest.raises(LabError, match=says) as caught:
            mps.check(asked, cards, devices)
        assert LEAVE_OUT in caught.value.remedy
    monkeypatch.setattr(mps, "WSL", control.parent)
    with pytest.raises(LabError, match="NVIDIA has no MPS for WSL: leave MPS out"):
        mps.check(spec(), [L4], [CUDA0])
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(control.parent / "empty"))
    with pytest.raises(LabError, match="nvidia-cuda-mps-control is not installed: it comes with"):
        mps.check(spec(), [L4], [CUDA0])


async def test_it_is_an_axis_where_a_daemon_can_be_had(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = LlamaServer(command=("llama-server",), source="PATH", version="1", flags={})
    sweep = sweep_spec(axes=space.parse_axes(["mps=off,on", "concurrency=1"]))
    assert [cell.fleet.mps for cell in space.cells(sweep)] == ["off", "on"]
    assert space.model_loads(sweep) == 2  # an environment is for life
    await space.check_arguments(build, sweep)
    with pytest.raises(LabError, match="axis mps: 'maybe' is not one of off, on"):
        space.parse_axes(["mps=maybe"])
    monkeypatch.setenv("PATH", str(control.parent / "empty"))
    with pytest.raises(LabError, match="is not installed"):
        await space.check_arguments(build, sweep)
    await space.check_arguments(build, sweep_spec(axes={"mps": ("off",)}))


OFF, ON = Machine(False, None), Machine(True, None)


def seated(*where: str | None) -> list[InstanceView]:
    return [instance(index, gpu=gpu) for index, gpu in enumerate(where)]


def test_it_is_advised_where_instances_share_a_card_and_only_there() -> None:
    two = [L4, GpuReading(index=1, name="NVIDIA L4", maker="NVIDIA")]

    def hint(instances: list[InstanceView], cards: list[GpuReading] = two, machine: Machine = OFF) -> str:
        found = mps.view(machine, spec(""), None, cards, instances)
        assert found is not None
        return found.hint

    assert hint(seated("0", "0", "1")) == (
        "MPS is off: 2 instances take turns on GPU 0. With it their kernels run side by side: "
        "`lab-tui up --mps on`; a sweep with `--axis mps=off,on` measures what it brings"
    )
    assert hint(seated("0+1", "0+1", "1")).startswith("MPS is off: 3 instances take turns on GPU 0, 1.")
    assert hint(seated("0", "1")) == hint(seated(None, None)) == hint(seated("0", "0"), machine=ON) == ""
    parted = GpuReading(index=0, name="NVIDIA A100", maker="NVIDIA", missing={"util_pct": "MIG is on"})
    assert hint(seated("0", "0"), [parted]) == ""
    missing = Machine(False, LabError("it is not installed", "install it"))
    assert hint(seated("0", "0"), machine=missing).endswith(
        "side by side, but it is not installed: install it"
    )
    amd = [GpuReading(index=0, name="card", maker="AMD")]
    assert mps.view(ON, spec(""), None, amd, seated("0", "0")) is None
    assert mps.view(OFF, spec("on"), 7, two, seated("0", "0")) == MpsView(on=True, own=True, pid=7)
    assert mps.view(None, spec("on"), 7, (), ()) == MpsView(on=True, own=True, pid=7)  # no orphan
    assert mps.view(OFF, spec("off"), None, two, seated("0", "0")) == MpsView(on=False, own=True)


def test_status_and_the_zoomed_pane_say_it() -> None:
    hint = "MPS is off: 2 instances take turns on GPU 0. With it their kernels run side by side"
    for view, said in (
        (MpsView(on=False, own=False, hint=hint), hint),
        (MpsView(on=True, own=False), "MPS is on: the machine's daemon"),
        (MpsView(on=False, own=False), ""),
        (None, ""),
    ):
        state = snapshot(gpus=(L4,), mps=view)
        shown = " ".join(line.plain.strip() for line in gpus.lines(state, Series(), 60, 1, whole=True))
        assert said in shown and said in status_text(state)
        assert said or "MPS" not in shown + status_text(state)
        assert "MPS" not in " ".join(line.plain for line in gpus.lines(state, Series(), 60, 1, whole=False))


# --- a daemon of the fleet's own ------------------------------------------------------------------


async def cards(*_: object) -> SimpleNamespace:
    return SimpleNamespace(gpus=(L4,), vram_by_card={})


def variables(fleet: Fleet) -> list[dict[str, str]]:
    """What the instances really have in their environment of MPS."""
    found = [psutil.Process(pid).environ() for pid in pids(fleet) if pid]
    return [{name: value for name, value in one.items() if "_MPS_" in name} for one in found]


def running(name: str, folder: Path) -> list[psutil.Process]:
    """The live processes of the fake that have this in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(name in word for word in words):
            try:
                ours = process.environ().get(mps.PIPES, "").startswith(str(folder))
                found += [process] if ours and process.status() != psutil.STATUS_ZOMBIE else []
            except psutil.Error:
                continue
    return found


async def leaves_nothing_when_it_goes_no_further(
    fleet: Fleet, spec: FleetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails, or is given up, once the daemon runs."""
    keys, run = tmp_path / "keys", tmp_path / "run"
    keys.write_text("some-key-0123456789\n")
    keys.chmod(0o600)
    (run / "api-keys.new").mkdir()  # where the copy of the keys would be written
    with pytest.raises(LabError, match="cannot keep the API keys"):
        await fleet.up(msgspec.structs.replace(spec, api_key_file=str(keys)))
    assert fleet.mps_pid is None and running("nvidia-cuda", run) == []
    (run / "api-keys.new").rmdir()
    with monkeypatch.context() as patched:
        patched.setattr(mps, "listens", lambda _: False)
        starting = asyncio.create_task(fleet.up(spec))
        await until(lambda: running(SERVER, run))
        starting.cancel()
        await asyncio.wait({starting})
    await fleet.detach()
    assert fleet.mps_pid is None and running("nvidia-cuda", run) == []


async def test_a_fleet_has_a_daemon_of_its_own_for_as_long_as_it_is_asked_to(
    make_fleet: MakeFleet, model: Path, tmp_path: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mps.CARDS, "GPU-0")
    run = tmp_path / "run"
    given = {"look": cards, "llama_server": str(cuda_script(tmp_path / "llama-server"))}
    fleet = make_fleet(**given)
    plain = tiny_spec(model, instances=1)
    own = tiny_spec(model, instances=2, mps="on", base_port=plain.base_port, front_port=plain.front_port)
    await leaves_nothing_when_it_goes_no_further(fleet, own, tmp_path, monkeypatch)
    await fleet.up(plain)
    await fleet.wait_ready()
    before = pids(fleet)
    control.touch()
    with pytest.raises(LabError, match="MPS daemon did not start: no device that can be used"):
        await fleet.up(own)
    assert fleet.spec == plain and pids(fleet) == before
    control.unlink()
    await fleet.up(own)
    await fleet.wait_ready()
    folder = run / "mps"
    assert variables(fleet) == [{mps.PIPES: f"{folder}/pipe", mps.LOGS: f"{folder}/log"}] * 2
    (daemon,) = running(mps.PROGRAM, run)
    assert mps.CARDS not in daemon.environ()  # else clients would count among what it leaves
    kept = pids(fleet)

    os.kill(daemon.pid, signal.SIGKILL)  # its server serves those it has; the next instance wants a daemon
    await until(lambda: len(running(SERVER, run)) == 2 and mps.listens(folder / "pipe"))
    await fleet.detach()
    heir = make_fleet(**given)
    assert await heir.adopt()
    await heir.wait_ready()
    (daemon,) = running(mps.PROGRAM, run)
    assert pids(heir) == kept and heir.mps_pid == daemon.pid
    assert describe([daemon]) == f"MPS (pid {daemon.pid})"

    # An engine that died while it was to begin anew: its heir begins it, before any instance.
    await heir.detach()
    os.kill(daemon.pid, signal.SIGKILL)
    file = run / "fleet.json"
    file.write_bytes(msgspec.json.encode({**msgspec.json.decode(file.read_bytes()), "mps": None}))
    heir = make_fleet(**given)
    assert await heir.adopt()
    assert heir.mps_pid is not None and mps.listens(folder / "pipe") and pids(heir) == kept

    off = tiny_spec(model, instances=1, mps="off", base_port=plain.base_port, front_port=plain.front_port)
    await heir.up(off)
    await heir.wait_ready()
    assert variables(heir) == [{mps.PIPES: f"{folder}/none"}] and not (folder / "none").exists()
    assert running("nvidia-cuda", run) == []
    await heir.up(own)
    await heir.down()
    assert running("nvidia-cuda", run) == []
