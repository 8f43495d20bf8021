"""A refusal with a stable key: the one form in which rules, finds and spellings say why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Refusal(Exception):
    """Something is not done, for a reason that has a code.

    Args:
        key: one of `reasons`.
        message: what exactly, one line.
        blocker: label of the node in the way, or "".
    """

    reasons: ClassVar[Mapping[str, str]] = {}

    def __init__(self, key: str, message: str, blocker: str = "") -> None:
        super().__init__(message)
        assert key in self.reasons, key
        self.key = key
        self.message = message
        self.blocker = blocker
