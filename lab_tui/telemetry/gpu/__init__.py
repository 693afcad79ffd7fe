"""The cards of this machine, whoever made them, behind one interface.

All calls may block (NVML's start takes seconds without persistence mode): use a thread.
"""

from __future__ import annotations

import sys

from lab_tui.telemetry.gpu.amd import AmdReader
from lab_tui.telemetry.gpu.apple import AppleReader
from lab_tui.telemetry.gpu.nvidia import NvidiaReader
from lab_tui.telemetry.gpu.reader import SLOW_S, CardReader, Together

__all__ = ["SLOW_S", "AmdReader", "AppleReader", "CardReader", "NvidiaReader", "Together", "all_cards"]


def all_cards() -> Together:
    """A reader of every card that this machine may have."""
    return Together((AppleReader(),) if sys.platform == "darwin" else (NvidiaReader(), AmdReader()))
