"""A screen whose work ends before its widgets go."""

from __future__ import annotations

from textual.await_remove import AwaitRemove
from textual.screen import Screen, ScreenResultType


class TidyScreen(Screen[ScreenResultType]):
    """Beside ModalScreen it stands second: Textual looks for styles along the first base."""

    def remove(self) -> AwaitRemove:
        """Leave the app, the workers first.

        Textual ends them after the widgets. One that comes back to a screen in between finds none of them,
        which ends the whole app.
        """
        self.workers.cancel_node(self)
        return super().remove()
