"""The terminal as the screen writes to it: the mouse can be let go of, and everything be said in ASCII."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.drivers.linux_driver import LinuxDriver

from lab_tui.ui.glyphs import plain

if TYPE_CHECKING:
    from lab_tui.ui.app import LabApp

# Buttons and moves (xterm's modes 1000 and 1003). How they are reported stays as Textual has asked for it.
MOUSE_ON = "\x1b[?1000h\x1b[?1003h"
MOUSE_OFF = "\x1b[?1003l\x1b[?1000l"


class Terminal(LinuxDriver):
    """Textual's driver, which asks for the mouse once and for all; the app may change its mind."""

    def __init__(
        self, app: LabApp, *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._lab = app
        app.terminal = self

    def write(self, data: str) -> None:
        """To the terminal, in ASCII where it has no more."""
        super().write(plain(data) if self._lab.ascii else data)

    def start_application_mode(self) -> None:
        """Also after a suspension: the mouse is as the app wants it."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if not self._lab.mouse:
            self.follow_mouse()

    def follow_mouse(self) -> None:
        """Ask the terminal for mouse events, or leave them to it, so that its own selection works."""
        self.write(MOUSE_ON if self._lab.mouse else MOUSE_OFF)
        self.flush()
