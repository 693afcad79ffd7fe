"""The base of all shared data, and the one error that users see."""

from __future__ import annotations

import msgspec


class Data(msgspec.Struct, frozen=True):
    """Base of all shared data."""


class LabError(Exception):
    """Something a user can act on: one line that says what, and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
