"""What can be said about a plan before anything is started."""

from __future__ import annotations

import os
import resource

from lab_tui.load.http import parse_url
from lab_tui.load.plan import LoadPlan
from lab_tui.load.pool import workers_for
from lab_tui.load.workload import read_prompts
from lab_tui.model import LabError

SPARE_FILES = 64  # of a worker, besides its streams


def check(plan: LoadPlan) -> None:
    """Raise LabError for a plan that makes no sense or that this machine cannot carry out.

    It reads the file of prompts: not for an event loop.
    """
    if plan.concurrency < 1:
        raise LabError(f"concurrency {plan.concurrency}: at least one stream is needed", "give -c 1 or more")
    if plan.window.requests is not None and plan.window.requests < 1:
        raise LabError(
            f"{plan.window.requests} requests: at least one is needed", "give --requests 1 or more"
        )
    if plan.workload.output_tokens < 1 or plan.workload.prompt_tokens < 1:
        raise LabError("prompts and answers are at least one token long", "ask for more tokens")
    if plan.workload.rate is not None and plan.workload.rate <= 0:
        raise LabError(f"rate {plan.workload.rate}: not above zero", "give requests a second")
    if plan.workload.prompt_file:
        read_prompts(plan.workload.prompt_file)
    parse_url(plan.target.url)
    key = plan.target.api_key
    if key and not (key.isascii() and key.isprintable()):
        raise LabError("the API key has characters that no HTTP header may have", "copy it once more")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = -(-plan.concurrency // workers_for(plan.concurrency, os.cpu_count() or 1))
    files = streams + SPARE_FILES
    if hard != resource.RLIM_INFINITY and files > hard:
        raise LabError(
            f"{plan.concurrency} streams need {files} open files a process, {hard} are allowed",
            "raise the hard limit (ulimit -Hn) or lower the concurrency",
        )
