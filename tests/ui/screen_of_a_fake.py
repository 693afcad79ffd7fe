"""Run as a program: the real screen on a fake engine, for tests that need a terminal and signals."""

from __future__ import annotations

import sys

import lab_tui.ui.app as app
from lab_tui.config import load
from tests.ui.fake import FakeClient

if __name__ == "__main__":
    setattr(app, "EngineClient", FakeClient)  # noqa: B010 (an assignment would be one of types)
    sys.exit(app.run(load()))
