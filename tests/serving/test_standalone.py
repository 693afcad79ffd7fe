"""A fleet without lab-tui: what is exported is run, and nothing of it is left."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from lab_tui import files
from lab_tui.engine import exports
from lab_tui.model import FleetSpec, GpuReading, LabError
from lab_tui.serving import parts
from lab_tui.serving.cards import Device
from lab_tui.serving.compose import compose
from lab_tui.serving.parts import Found, LlamaServer, Nginx, parse_flags
from lab_tui.serving.placement import Seat
from lab_tui.serving.standalone import NAME, Recipe, as_one, nginx_conf, script
from lab_tui.serving.units import systemd, word
from tests.ports import free_ports

from .conftest import embedded_nginx
from .helpers import (
    PATIENCE_S,
    SlowBackend,
    completion,
    listening,
    processes_with,
    server_script,
    tiny_spec,
    until,
)
from .helptexts import HELP_2026

SPEC = FleetSpec(model="/models/m.gguf", instances=3, parallel=8, threads=2, extra_args=("--jinja",))
SERVER = LlamaServer(
    command=("/usr/bin/llama-server",), source="PATH", version="", flags=parse_flags(HELP_2026)
)
NGINX = Nginx(command=("/usr/sbin/nginx",), source="PATH", version=(1, 29, 7))
RECIPE = Recipe(origin="sweep 3, cell 7", spec=SPEC, server=SERVER, nginx=NGINX, ready_timeout_s=90.0)
HARD = 'it\'s a "model" of 100% $HOME `date` \\ö'


PLACED = msgspec.structs.replace(
    RECIPE,
    seats=tuple(
        Seat(
            cards=(n,),
            visible={"CUDA_VISIBLE_DEVICES": f"GPU-{n}"},
            cpus=(2 * n, 2 * n + 1),
            split_mode="layer" if n == 2 else "",
            shares=(3, 1) if n == 2 else (),
        )
        for n in range(3)
    ),
    backend="CUDA",
)


def test_what_is_exported_keeps_to_its_cards_and_cores() -> None:
    text = script(PLACED)[f"{NAME}.sh"]
    assert "\nenv CUDA_VISIBLE_DEVICES=GPU-1 taskset -c 2-3 /usr/bin/llama-server --model" in text
    assert text.count("--split-mode layer --tensor-split 3,1") == 1
    made = systemd(PLACED)
    assert [name for name in made if "@" in name] == [f"{NAME}@{port}.service" for port in (9000, 9001, 9002)]
    unit = made[f"{NAME}@9002.service"]
    assert "Environment=CUDA_VISIBLE_DEVICES=GPU-2\nCPUAffinity=4-5\nExecStart=" in unit
    assert "--port %i" in unit and "--tensor-split 3,1" in unit
    assert "Environment" not in systemd(RECIPE)[f"{NAME}@.service"]
    contained = compose(PLACED)["compose.yaml"]
    assert '    environment: {"CUDA_VISIBLE_DEVICES": "GPU-1"}\n    cpuset: "2-3"\n' in contained


@pytest.fixture
def hard_path(tmp_path: Path, tiny_model: Path) -> Path:
    """The model below a folder whose name needs quotes everywhere."""
    folder = tmp_path / HARD
    folder.mkdir()
    os.link(tiny_model, folder / "model.gguf")
    return folder / "model.gguf"


async def real(spec: FleetSpec, server: Found | None = None, timeout_s: float = PATIENCE_S) -> Recipe:
    """Of the embedded parts."""
    embedded = Found(command=(sys.executable, "-m", "lab_tui.serving.embedded"), source="embedded")
    return Recipe(
        origin="a test",
        spec=spec,
        server=await parts.probe_llama_server(server or embedded),
        nginx=await parts.probe_nginx(Found(command=(embedded_nginx(),), source="embedded")),
        ready_timeout_s=timeout_s,
    )


class Script:
    """An exported script that runs, as from a shell of its own."""

    def __init__(self, recipe: Recipe, folder: Path, **env: str) -> None:
        self._log = folder / "script.log"
        self._run = folder / "tmp"
        self._run.mkdir()
        file = folder / f"{NAME}.sh"
        file.write_text(script(recipe)[f"{NAME}.sh"])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self._run), **env},
                cwd=folder,
                start_new_session=True,
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def left(self) -> list[str]:
        """Files it has not cleared away."""
        return [path.name for path in self._run.iterdir()]

    async def ended(self) -> int:
        """Until it is over; its exit code."""
        await until(lambda: self.process.poll() is not None, "the script to end")
        return int(self.process.returncode)


@contextlib.asynccontextmanager
async def running(recipe: Recipe, folder: Path, **env: str) -> AsyncIterator[Script]:
    """The script, killed with all it started however the test ends."""
    run = Script(recipe, folder, **env)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert run.process.stdout is not None
        run.process.stdout.close()


def ports(spec: FleetSpec) -> range:
    return range(spec.base_port, spec.front_port + 1)


# --- run ------------------------------------------------------------------------------------------


async def test_the_script_serves_and_leaves_nothing(hard_path: Path, tmp_path: Path) -> None:
    keys = hard_path.with_name("keys")
    keys.write_text("key-0123456789abcdef\n")
    keys.chmod(0o600)
    spec = tiny_spec(hard_path, api_key_file=str(keys))
    async with running(await real(spec), tmp_path, LLAMA_ARG_PORT="1", LLAMA_API_KEY="secret") as run:
        assert run.process.stdout is not None
        await until(lambda: run.process.poll() is not None or listening([spec.front_port]), "the front")
        assert run.process.stdout.readline() == f"http://127.0.0.1:{spec.front_port}\n", run.log
        upstreams = set()
        for _ in range(2):
            async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
                url = f"http://127.0.0.1:{spec.front_port}/completion"
                assert (await http.post(url, json=completion(4))).status_code == 401
                headers = {"X-Api-Key": "key-0123456789abcdef"}
                answer = await http.post(url, json=completion(4), headers=headers)
            assert answer.json()["tokens_predicted"] == 4
            upstreams.add(answer.headers["X-Upstream"])
        assert upstreams == {f"127.0.0.1:{spec.base_port + index}" for index in range(2)}
        run.process.terminate()
        assert await run.ended() == 128 + signal.SIGTERM
        assert not listening(ports(spec))
        assert not processes_with(str(tmp_path))
        assert run.left == []


async def test_the_script_ends_all_when_one_ends(hard_path: Path, tmp_path: Path) -> None:
    spec = tiny_spec(hard_path)
    async with running(await real(spec), tmp_path) as run:
        assert run.process.stdout is not None
        assert run.process.stdout.readline()
        (victim,) = processes_with(f"--port {spec.base_port + 1} ")
        victim.kill()
        assert await run.ended() == 1
        assert f"{NAME}: instance 1 has ended\n" in run.log
        assert not listening(ports(spec))
        assert not processes_with(str(tmp_path))


async def test_the_script_says_which_one_does_not_start(hard_path: Path, tmp_path: Path) -> None:
    """And that its variables are not those of llama-server."""
    spec = tiny_spec(hard_path)
    fault = f'[ "$port" = {spec.base_port + 1} ] && {{ echo "twin ${{LLAMA_ARG_TWIN-none}}" >&2; exit 3; }}'
    server = Found(command=(str(server_script(tmp_path / "llama server", fault)),), source="configured")
    async with running(await real(spec, server), tmp_path, LLAMA_ARG_TWIN="1") as run:
        assert await run.ended() == 1
        assert "twin none\n" in run.log
        assert f"{NAME}: instance 1 ended before it was ready\n" in run.log
        assert not listening(ports(spec))
        assert not processes_with(str(tmp_path))


async def test_the_script_gives_up_in_time_and_when_told_while_it_waits(
    hard_path: Path, tmp_path: Path
) -> None:
    spec = tiny_spec(hard_path, instances=1)
    server = Found(command=(str(server_script(tmp_path / "llama-server", "exec sleep 600")),), source="PATH")
    async with running(await real(spec, server, timeout_s=1.0), tmp_path) as run:
        assert await run.ended() == 1
        assert f"{NAME}: instance 0 was not ready within 1 s\n" in run.log
    shutil.rmtree(tmp_path / "tmp")
    async with running(await real(spec, server), tmp_path) as run:
        await until(lambda: len(list((tmp_path / "tmp").glob("*/nginx.conf"))) == 1, "it has begun")
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 128 + signal.SIGTERM
        assert run.left == []


# As the real one: a socket in the folder, and gone when told to quit.
CONTROL = """#!{python}
import os, signal, socket, sys
folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
if sys.argv[1:] == []:
    assert sys.stdin.read() == "quit\\n"
    os.kill(int(open(folder + "/pid").read()), signal.SIGTERM)
    sys.exit()
assert sys.argv[1:] == ["-f"] and os.path.isdir(os.environ["CUDA_MPS_LOG_DIRECTORY"])
open(folder + "/pid", "w").write(str(os.getpid()))
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir(folder)  # its path may be longer than that of a socket
control.bind("control")
signal.pause()
"""


async def test_the_script_has_an_mps_daemon_of_its_own(hard_path: Path, tmp_path: Path) -> None:
    control = tmp_path / "bin" / "nvidia-cuda-mps-control"
    control.parent.mkdir()
    control.write_text(CONTROL.format(python=sys.executable))
    control.chmod(0o755)
    spec = tiny_spec(hard_path, instances=1, mps="on")
    fault = '[ -S "$CUDA_MPS_PIPE_DIRECTORY/control" ] && echo "it is a client" >&2; exit 3'
    server = Found(command=(str(server_script(tmp_path / "llama-server", fault)),), source="PATH")
    recipe = await real(spec, server)
    async with running(recipe, tmp_path, PATH=f"{control.parent}:{os.environ['PATH']}") as run:
        assert await run.ended() == 1
        assert "it is a client\n" in run.log and "Traceback" not in run.log
        assert not processes_with(str(control)) and run.left == []
    shutil.rmtree(tmp_path / "tmp")
    control.write_text("#!/bin/sh\nexit 1\n")
    async with running(recipe, tmp_path, PATH=f"{control.parent}:{os.environ['PATH']}") as run:
        assert await run.ended() == 1
        assert f"{NAME}: NVIDIA's MPS daemon did not start\n" in run.log
        assert "it is a client" not in run.log


async def test_the_nginx_configuration_alone_serves(tmp_path: Path) -> None:
    backend = SlowBackend()
    await backend.start()
    front = free_ports(1)
    recipe = await real(FleetSpec(model="/m.gguf", base_port=backend.port, front_port=front, max_streams=64))
    folder = tmp_path / HARD
    (folder / "tmp").mkdir(parents=True)
    text = nginx_conf(recipe)["nginx.conf"]
    (folder / "nginx.conf").write_text(text)
    said = shlex.split(text.splitlines()[1].partition("then: ")[2])  # the command it says itself
    command = [f"{folder}/" if word == "DIR/" else word for word in said]
    nginx = await asyncio.create_subprocess_exec(*command)
    try:
        await until(lambda: listening([front]), "nginx")
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"http://127.0.0.1:{front}/x", content=b"12345")
            assert answer.json() == {"port": backend.port, "body": 5}
            assert (await http.get(f"http://127.0.0.1:{front}/lab-tui/generation")).json()["body"] == 0
    finally:
        nginx.terminate()
        await nginx.wait()
        await backend.stop()


# --- units ----------------------------------------------------------------------------------------


def unit(text: str) -> configparser.ConfigParser:
    """A unit file; a key given twice or anything else that is none is refused."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_units_name_each_other_and_start_what_lab_tui_starts() -> None:
    made = systemd(RECIPE)
    assert list(made) == [
        f"{NAME}@.service",
        f"{NAME}-front.service",
        f"{NAME}.target",
        f"{NAME}.nginx.conf",
    ]
    instance, front, target = (unit(made[name]) for name in list(made)[:3])
    names = " ".join(f"{NAME}@{port}.service" for port in (9000, 9001, 9002))
    assert target["Unit"]["Wants"] == f"{names} {NAME}-front.service"
    assert front["Unit"]["After"] == front["Unit"]["Wants"] == names
    command = [w.replace("%i", "9002") for w in instance["Service"]["ExecStart"].removeprefix(":").split()]
    assert tuple(command) == RECIPE.command(2)
    assert instance["Service"]["TimeoutStartSec"] == "90"
    assert made[f"{NAME}.nginx.conf"].endswith(RECIPE.config())
    assert as_one(made).count("# ==> ") == 4


def test_units_of_a_fleet_with_mps() -> None:
    on, off = (
        systemd(msgspec.structs.replace(RECIPE, spec=msgspec.structs.replace(SPEC, mps=mode)))
        for mode in ("on", "off")
    )
    instance, daemon = (unit(on[f"{NAME}{which}.service"]) for which in ("@", "-mps"))
    assert instance["Unit"]["Requires"] == instance["Unit"]["After"] == f"{NAME}-mps.service"
    assert daemon["Service"]["ExecStart"] == ":nvidia-cuda-mps-control -f"
    for text in (on[f"{NAME}@.service"], on[f"{NAME}-mps.service"]):
        assert f"Environment=CUDA_MPS_PIPE_DIRECTORY=%t/{NAME}-mps/pipe CUDA_MPS_LOG" in text
    assert f"{NAME}-mps.service" not in off
    assert f"Environment=CUDA_MPS_PIPE_DIRECTORY=%t/{NAME}-mps/none\n" in off[f"{NAME}@.service"]


def test_units_of_an_older_export_are_found_and_those_of_others_are_not(tmp_path: Path) -> None:
    """A unit of one instance would count before the template of all."""
    files.write(files.places(systemd(PLACED), tmp_path))
    for name in (f"{NAME}@.service.d", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{NAME}@9009.service").write_text("[Unit]\n")  # somebody's own
    os.mkfifo(tmp_path / f"{NAME}@9010.service")
    targets = files.places(systemd(RECIPE), tmp_path)
    older = files.left_over(targets)
    assert [path.name for path in older] == [f"{NAME}@{port}.service" for port in (9000, 9001, 9002)]
    files.remove(older)
    files.write(targets)
    assert files.left_over(targets) == [] and (tmp_path / f"{NAME}@9009.service").exists()
    assert files.left_over(files.places(systemd(RECIPE), tmp_path / "new")) == []
    assert files.left_over(files.places(script(RECIPE), tmp_path)) == []


def test_a_word_of_a_unit() -> None:
    for text, written in (
        ("--port", "--port"),
        ("$HOME/a", "$HOME/a"),
        ("100%", "100%%"),
        ("a b", '"a b"'),
        ("", '""'),
        ("it's", '"it\'s"'),
        ('"\\\n', '"\\"\\\\\\n"'),
        (";", '";"'),
    ):
        assert word(text) == written


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("program", [sys.executable, "hard"])
def test_systemd_takes_the_units(
    program: str, hard_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program == "hard":
        program = str(server_script(hard_path.with_name("llama-server"), ""))
    recipe = msgspec.structs.replace(
        RECIPE,
        spec=msgspec.structs.replace(SPEC, model=str(hard_path), api_key_file=str(hard_path)),
        server=msgspec.structs.replace(
            SERVER, command=(program,), flags=SERVER.flags | {"--api-key-file": "FNAME"}
        ),
        nginx=msgspec.structs.replace(NGINX, command=(program,)),
    )
    folder = tmp_path / "units"
    folder.mkdir()
    for name, text in systemd(recipe).items():
        (folder / name).write_text(text)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert verified(folder, f"{NAME}.target", f"{NAME}@9000.service", f"{NAME}-front.service") == (0, "")
    broken = (folder / f"{NAME}-front.service").read_text().replace("ExecStart=", "ExecStart=relative/")
    (folder / f"{NAME}-front.service").write_text(broken)
    assert verified(folder, f"{NAME}-front.service")[0] != 0


def verified(folder: Path, *units: str) -> tuple[int, str]:
    """What systemd says of them: exit code and words."""
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *units],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout


# --- containers -----------------------------------------------------------------------------------


def lines(text: str, key: str) -> list[str]:
    """What is written after ``key:`` in each line that has it."""
    return [
        line.partition(f"{key}: ")[2] for line in text.splitlines() if line.strip().startswith(f"{key}: ")
    ]


def test_containers_run_the_same_commands_on_a_mounted_model() -> None:
    recipe = msgspec.structs.replace(RECIPE, spec=msgspec.structs.replace(SPEC, model=f"/{HARD}/m$1.gguf"))
    text = compose(recipe)["compose.yaml"]
    *instances, front = (json.loads(line) for line in lines(text, "command"))
    assert len(instances) == 3
    for index, words in enumerate(instances):
        assert words == [
            "/models/m$$1.gguf" if w == recipe.spec.model else w for w in recipe.command(index)[1:]
        ]
    assert front[:3] == ["nginx", "-p", "/front/"]
    (volume,) = (line for line in text.splitlines() if "type: bind" in line)
    source = volume.partition("source: ")[2].partition(", target: /models, read_only: true")[0]
    assert json.loads(source).replace("$$", "$") == f"/{HARD}"
    assert lines(text, "image") == ['"ghcr.io/ggml-org/llama.cpp:server"', '"nginx:1.28"']
    assert "gpus: all" not in text
    content = text.partition("    content: |\n")[2]
    assert all(line.startswith("      ") for line in content.splitlines())
    config = "".join(line.removeprefix("      ") + "\n" for line in content.splitlines())
    assert config.replace("$$", "$") == recipe.config().replace("    keepalive 0;\n", "")  # 1.28 has none


def test_a_model_that_is_a_link_is_mounted_with_what_it_links_to(tmp_path: Path) -> None:
    """As in a Hugging Face cache: snapshots/REVISION/m.gguf links to ../../blobs/HASH."""
    for folder in ("blobs", "snapshots/1a"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "blobs" / "feed").write_bytes(b"")
    model = tmp_path / "snapshots" / "1a" / "m.gguf"
    model.symlink_to("../../blobs/feed")
    text = compose(msgspec.structs.replace(RECIPE, spec=msgspec.structs.replace(SPEC, model=str(model))))
    assert f'source: "{tmp_path}", target: /models' in text["compose.yaml"]
    assert '"/models/snapshots/1a/m.gguf"' in text["compose.yaml"]


@pytest.mark.parametrize(
    ("backend", "image", "cards"),
    [
        ("CUDA", "server-cuda", "  gpus: all\n"),
        ("ROCm", "server-rocm", "  devices: [/dev/kfd, /dev/dri]\n"),
        ("Vulkan", "server-vulkan", "  devices: [/dev/dri]\n"),
        ("SYCL", "server-intel", "  devices: [/dev/dri]\n"),
    ],
)
def test_containers_use_the_cards_there_are(backend: str, image: str, cards: str) -> None:
    text = compose(msgspec.structs.replace(RECIPE, backend=backend))["compose.yaml"]
    assert cards in text
    assert lines(text, "image")[0] == f'"ghcr.io/ggml-org/llama.cpp:{image}"'


def test_containers_use_cards_as_the_build_does_else_by_their_maker() -> None:
    nvidia, amd, apple = (GpuReading(index=0, name="", maker=maker) for maker in ("NVIDIA", "AMD", "Apple"))

    def asked(gpus: tuple[GpuReading, ...], *devices: str) -> str:
        listed = tuple(Device(name=name, description="", total_bytes=1, free_bytes=1) for name in devices)
        return exports._backend(msgspec.structs.replace(SERVER, devices=listed or None), gpus)

    assert asked((amd,)) == "ROCm" and asked((nvidia, amd)) == "CUDA" and asked((apple,)) == ""
    assert asked((amd,), "Vulkan0") == "Vulkan" and asked((), "SYCL0") == "SYCL"
    for backend in (asked((nvidia,), "Vulkan0"), asked((apple,), "Metal")):
        with pytest.raises(LabError, match=f"llama.cpp has no image for {backend}: take --format sh"):
            compose(msgspec.structs.replace(RECIPE, backend=backend))
