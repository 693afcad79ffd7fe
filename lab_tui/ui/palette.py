"""The command palette: the same actions as the keys, by name."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider

from lab_tui.ui.actions import Action, here
from lab_tui.ui.screens.base import LabScreen

NOT_HERE = ("palette",)  # it is open already


class LabCommands(Provider):
    """Offers what works on the screen below."""

    def _actions(self) -> Iterator[Action]:
        if isinstance(self.screen, LabScreen):
            yield from (action for action in here(self.screen.SCOPE) if action.name not in NOT_HERE)

    async def discover(self) -> Hits:
        """Everything, before a word is typed."""
        for action in self._actions():
            yield DiscoveryHit(_title(action), self._run(action), help=action.help or f"key {action.shown}")

    async def search(self, query: str) -> Hits:
        """What matches the words."""
        matcher = self.matcher(query)
        for action in self._actions():
            title = f"{_title(action)}: {action.help}" if action.help else _title(action)
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), self._run(action), help=f"key {action.shown}")

    def _run(self, action: Action) -> partial[Coroutine[Any, Any, None]]:
        return partial(self.screen.run_action, f"screen.act('{action.name}')")


def _title(action: Action) -> str:
    return action.label.capitalize()
