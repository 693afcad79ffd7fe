"""The options of bench and sweep that say what one request asks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from lab_tui import paths
from lab_tui.model import LabError, Workload

DISTRIBUTIONS = ("uniform", "normal", "exponential")
ENDPOINTS = ("auto", "completion", "chat")

PromptTokens = Annotated[int | None, typer.Option(help="Length of made-up prompts.  [default: 64]")]
OutputTokens = Annotated[
    str | None, typer.Option(help="Length of answers: 128, or a range as 64-256.  [default: 128]")
]
SweepPromptTokens = Annotated[
    int | None, typer.Option(help="Length of made-up prompts.  [default: the preset's, else 64]")
]
SweepOutputTokens = Annotated[
    str | None,
    typer.Option(help="Length of answers: 128, or a range as 64-256.  [default: the preset's, else 128]"),
]
OutputDistribution = Annotated[
    str | None, typer.Option(help="Of a range: uniform, normal or exponential.  [default: uniform]")
]
PromptFile = Annotated[
    Path | None, typer.Option(help="JSONL of prompts or chat messages, cycled, instead of made-up ones.")
]
UniquePrefix = Annotated[
    bool | None,
    typer.Option("--unique-prefix/--no-unique-prefix", help="Words before each prompt of the file."),
]
Seed = Annotated[int | None, typer.Option(help="Of prompts and lengths.  [default: 1]")]
Endpoint = Annotated[str | None, typer.Option(help="completion, chat or auto.  [default: auto]")]
IgnoreEos = Annotated[
    bool | None,
    typer.Option("--ignore-eos/--no-ignore-eos", help="Every answer at full length.  [default: ignore]"),
]
Rate = Annotated[
    float | None, typer.Option(help="Open loop: so many requests a second (Poisson), -c being the most.")
]


def workload(
    base: Workload,
    *,
    prompt_tokens: int | None = None,
    output_tokens: str | None = None,
    output_distribution: str | None = None,
    prompt_file: Path | None = None,
    unique_prefix: bool | None = None,
    seed: int | None = None,
    endpoint: str | None = None,
    ignore_eos: bool | None = None,
    rate: float | None = None,
) -> Workload:
    """``base`` with the options that were given. Raises LabError naming the one that is wrong."""
    changes: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "output_distribution": output_distribution,
        "unique_prefix": unique_prefix,
        "seed": seed,
        "endpoint": endpoint,
        "ignore_eos": ignore_eos,
        "rate": rate,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if output_tokens is not None:
        low, high = _range(output_tokens)
        changes |= {"output_tokens": low, "output_tokens_max": high if high > low else None}
    if prompt_file is not None:
        changes["prompt_file"] = str(paths.expanded(prompt_file))  # the engine has another cwd
    if prompt_tokens is not None and prompt_tokens < 1:
        raise LabError(f"--prompt-tokens is {prompt_tokens}", "give 1 or more")
    if rate is not None and not 0 < rate < math.inf:
        raise LabError(f"--rate is {rate:g}", "give requests a second, more than 0")
    _one_of("--output-distribution", output_distribution, DISTRIBUTIONS)
    _one_of("--endpoint", endpoint, ENDPOINTS)
    changed = msgspec.structs.replace(base, **changes)
    if output_distribution is not None and changed.output_tokens_max is None:
        raise LabError("--output-distribution says how a range is filled", "give --output-tokens 64-256")
    if prompt_file is not None and prompt_tokens is not None:
        raise LabError("--prompt-tokens and --prompt-file are given", "choose one")
    if unique_prefix is not None and prompt_file is None:
        raise LabError("--unique-prefix is for prompts of a file", "give --prompt-file FILE")
    return changed


def _range(text: str) -> tuple[int, int]:
    """The ends of "128" or "64-256". Raises LabError for anything else."""
    low, dash, high = text.partition("-")
    try:
        ends = int(low), int(high if dash else low)
    except ValueError:
        ends = 0, 0
    if not 1 <= ends[0] <= ends[1]:
        raise LabError(f"--output-tokens is {text}", "give a number of tokens, as 128, or a range, as 64-256")
    return ends


def _one_of(option: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise LabError(f"{option} is {value}", f"choose one of {', '.join(known)}")
