"""Which instances died or hung while they were measured, and of what."""

from __future__ import annotations

from lab_tui.model import InstanceState, InstanceView, LabError
from lab_tui.serving.fleet import Fleet

WORDS = {InstanceState.BACKOFF: "died", InstanceState.FAILED: "died", InstanceState.HUNG: "hung"}
BEGINS = tuple(f"{word}: " for word in dict.fromkeys(WORDS.values()))  # one of them begins each flag


class Deaths:
    """Those that :meth:`look` has seen dead or hung since this was made; one that was before is none."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._before = {i.index for i in fleet.instances if i.state in WORDS}
        self._seen: dict[int, InstanceView] = {}

    def look(self) -> None:
        """See how the instances are now. Cheap: for every view of a load."""
        for instance in self._fleet.instances:
            if instance.state not in WORDS:
                self._before.discard(instance.index)
            elif instance.index not in self._before and instance.index not in self._seen:
                self._seen[instance.index] = instance.view()

    def flags(self) -> tuple[str, ...]:
        """What a reader must know, a line for each."""
        return tuple(f"{WORDS[one.state]}: instance {one.index}: {one.reason}" for one in self._seen.values())

    def log_lines(self) -> list[str]:
        """The last words of those that died; one that hangs has none."""
        return [line for view in self._seen.values() for line in view.log_tail]

    def named_in(self, error: LabError) -> LabError:
        """The error of a measurement that brought nothing, with what became of the instances meanwhile."""
        if not self._seen:
            return error
        first, *more = self._seen.values()
        others = f", and {len(more)} more" if more else ""
        return LabError(
            f"{error.message}; instance {first.index} {WORDS[first.state]}: {first.reason}{others}",
            f"`lab-tui logs {first.index}` shows its log",
        )
