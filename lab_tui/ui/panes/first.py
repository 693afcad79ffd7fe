"""What the panes say while there is nothing to see: what to do next, and what must be there before."""

from __future__ import annotations

import sys

from textual.content import Content

from lab_tui.model import Part, Snapshot
from lab_tui.text import typed
from lab_tui.ui import format as fmt
from lab_tui.ui.actions import key
from lab_tui.ui.theme import BAD, MUTED, STRONG

MEANS = {
    "llama-server": "it serves the model",
    "nginx": "it shares requests out among the instances",
    "model": "a GGUF file, which is what is served",
}
NO_MODEL = "no model found"  # as against one that is named in the settings and broken


def steps(snapshot: Snapshot) -> list[Content]:
    """Pane 1 without an instance: the next key, or what is missing and the command that mends it."""
    missing = [part for part in snapshot.parts if not part.found]
    if not missing:
        return _ready(snapshot)
    rows = [Content.styled(typed(" Before a fleet can run (`lab-tui doctor` tells more):"), STRONG)]
    for part in missing:
        rows.append(Content.assemble((f" ✖ {part.problem}", BAD), (f" - {MEANS[part.name]}", MUTED)))
        rows.append(Content.assemble("   ", *_remedy(part)))
    return rows


def _remedy(part: Part) -> list[str | tuple[str, str]]:
    if part.problem == NO_MODEL:
        fetch = typed("`lab-tui models fetch` brings a small one (98 MB), or ")
        return [fetch, (key("up"), STRONG), " and a path"]
    return [typed(part.remedy)]


def _ready(snapshot: Snapshot) -> list[Content]:
    first = " No fleet runs. " if snapshot.fleet is None else " No instance runs. "
    model = next((part.command[0] for part in snapshot.parts if part.name == "model" and part.command), "")
    rows = [
        Content.assemble(first, "Press ", (key("up"), STRONG), " to choose a model and start one,"),
        Content.assemble(
            " or ", (key("new_sweep"), STRONG), " to start a sweep, which brings its own fleet."
        ),
    ]
    last = snapshot.last_fleet
    if last is not None and snapshot.fleet is None:
        name = fmt.middle(fmt.model_name(last.model), 24)
        before = f" starts the last one again: {fmt.settings(last.instances, last.parallel)} of {name}."
        rows.append(Content.assemble(" ", (key("start_all"), STRONG), before))
    else:
        name = fmt.middle(fmt.model_name(model), 24)
        shell = f"lab-tui up -i 2 -p 4 (takes {name})" if model else "lab-tui up -m MODEL.gguf -i 2 -p 4"
        rows.append(Content.styled(f" From a shell: {typed(shell)}", MUTED))
    return rows


def no_card() -> list[Content]:
    """Pane 3 without a card, below the reason: what that means."""
    if sys.platform == "darwin":  # Metal needs no driver that could be asked
        return []
    return [
        Content.styled(" Models run on the CPU. A card needs", MUTED),
        Content.styled(" its driver: NVIDIA's, or amdgpu.", MUTED),
    ]
