"""A fleet as a docker compose file: one container an instance, nginx before them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab_tui.model import LabError
from lab_tui.serving.cards import CUDA, ROCM
from lab_tui.serving.cores import span
from lab_tui.serving.nginx_conf import KEYS_FILE
from lab_tui.serving.parts import Nginx
from lab_tui.serving.placement import Seat
from lab_tui.serving.standalone import FOREGROUND, NAME, Recipe

IMAGE = "ghcr.io/ggml-org/llama.cpp:server"
# What the name of the image goes on with for each backend, and what lets a container have the cards; it
# runs as root, who needs no group for them. Facts: llama.cpp's docs/docker.md.
BACKENDS = {
    "": ("", ""),
    CUDA: ("-cuda", "  gpus: all\n"),
    ROCM: ("-rocm", "  devices: [/dev/kfd, /dev/dri]\n"),
    "Vulkan": ("-vulkan", "  devices: [/dev/dri]\n"),
    "SYCL": ("-intel", "  devices: [/dev/dri]\n"),
}
NGINX = Nginx(command=("nginx",), source="image", version=(1, 28))
MODELS = "/models"
KEYS = "/run/secrets/api_keys"  # where compose puts the secret of that name
COMPOSE = """\
# {title}
# Mounted at {models}, read-only: the folder of the model; on another machine name its folder at "source".
# Another file that the arguments name has to be mounted too.
# The containers share the network of the machine (Linux): instances stay on its loopback, as without docker.
name: {name}

x-instance: &instance
  image: {image}
  network_mode: host
  restart: unless-stopped
{cards}{secrets}  volumes:
    - {{type: bind, source: {folder}, target: {models}, read_only: true}}

services:
{instances}
  front:
    image: {nginx_image}
    network_mode: host
    restart: unless-stopped
{front_secrets}    command: {front}
    tmpfs: [/front/tmp]
    ulimits: {{nofile: {files}}}
    configs:
      - {{source: front, target: /front/nginx.conf}}
    depends_on:
{after}

configs:
  front:
    content: |
{config}
{key}"""
INSTANCE = """\
  llama-{index}:
    <<: *instance
    command: {command}
{seat}    healthcheck:
      test: ["CMD", "curl", "-fs", "--noproxy", "127.0.0.1", "-o", "/dev/null", "http://127.0.0.1:{port}/health"]
      interval: 2s
      start_period: {timeout_s}s
"""


def compose(recipe: Recipe) -> dict[str, str]:
    """One file, the configuration of nginx in it. Raises LabError for cards that no image can use."""
    if recipe.backend not in BACKENDS:
        raise LabError(f"llama.cpp has no image for {recipe.backend}", "take --format sh or systemd")
    suffix, cards = BACKENDS[recipe.backend]
    folder, name = _mounted(Path(recipe.spec.model))
    keyed = bool(recipe.spec.api_key_file)
    inside = msgspec.structs.replace(
        recipe,
        spec=msgspec.structs.replace(
            recipe.spec, model=f"{MODELS}/{name}", api_key_file=KEYS if keyed else ""
        ),
        server=msgspec.structs.replace(recipe.server, command=()),  # the image runs it
        nginx=NGINX,
        keys_file=f"tmp/{KEYS_FILE}",
    )
    instances = [
        INSTANCE.format(
            index=index,
            port=port,
            command=_list(inside.command(index)),
            seat=_seated(inside.seat(index)),
            timeout_s=round(recipe.ready_timeout_s),
        )
        for index, port in enumerate(inside.ports)
    ]
    front: tuple[str, ...] = (*NGINX.command, "-p", "/front/", "-c", "nginx.conf", *FOREGROUND)
    if keyed:
        front = (
            "/bin/sh",
            "-c",
            f"{inside.make_keys(f'/front/{inside.keys_file}')} && exec {shlex.join(front)}",
        )
    indexes = range(inside.spec.instances)
    text = COMPOSE.format(
        title=recipe.title_with_mps,
        name=NAME,
        models=MODELS,
        image=_text(f"{IMAGE}{suffix}"),
        cards=cards,
        secrets="  secrets: [api_keys]\n" if keyed else "",
        front_secrets="    secrets: [api_keys]\n" if keyed else "",
        key=f"\nsecrets:\n  api_keys: {{file: {_text(recipe.spec.api_key_file)}}}\n" if keyed else "",
        folder=_text(str(folder)),
        instances="\n".join(instances),
        nginx_image=_text(f"nginx:{NGINX.version_text}"),
        front=_list(front),
        files=inside.files,
        after="\n".join(f"      llama-{index}: {{condition: service_healthy}}" for index in indexes),
        config="\n".join(f"      {line}".rstrip() for line in _dollars(inside.config()).splitlines()),
    )
    return {"compose.yaml": text}


def _seated(seat: Seat) -> str:
    """The lines that keep a container to the cards and cores of a seat; a UUID names a card in it as well."""
    variables = ", ".join(f"{_text(name)}: {_text(value)}" for name, value in seat.visible.items())
    lines = [f"    environment: {{{variables}}}\n"] if variables else []
    lines += [f"    cpuset: {_text(span(seat.cpus))}\n"] if seat.cpus else []
    return "".join(lines)


def _mounted(model: Path) -> tuple[Path, Path]:
    """The folder to mount and the model below it: with what it links to, as in a Hugging Face cache."""
    real = model.resolve()
    both = Path(os.path.commonpath([model.parent, real.parent]))
    if both == Path(both.anchor):  # the whole machine is too much
        return real.parent, Path(real.name)
    return both, model.relative_to(both)


def _list(words: Sequence[str]) -> str:
    return "[" + ", ".join(map(_text, words)) + "]"


def _text(text: str) -> str:
    """A string of YAML, which JSON's are too; compose itself replaces what begins with ``$``.

    What does not print is escaped, but beyond 16 bits, where JSON and YAML differ and YAML takes all.
    """
    written = json.dumps(text, ensure_ascii=False)
    return _dollars("".join(c if c.isprintable() or c > "\uffff" else f"\\u{ord(c):04x}" for c in written))


def _dollars(text: str) -> str:
    return text.replace("$", "$$")
