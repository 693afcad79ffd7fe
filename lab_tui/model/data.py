"""The base of all shared data, and the one error that users see."""

from __future__ import annotations

import msgspec


class Data(msgspec.Struct, frozen=True, gc=False):
    """Base of all shared data.

    Frozen data cannot refer to itself, so Python's collector of cycles need not go through it: with the
    10,000 cells of a large sweep each of its rounds would hold every thread for a tenth of a second.
    """


class LabError(Exception):
    """Something a user can act on: one line that says what, and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
