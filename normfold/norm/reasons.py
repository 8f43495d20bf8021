"""Why a norm stays as it is spelled: the stable keys, what each means, and the refusal that carries one."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "unconfirmed": "evaluated in float64, the nodes do not compute the norm that they were taken for, or cannot be evaluated",
}


class Refused(Exception):
    """A find is given up; its nodes stay.

    Args:
        key: one of `REASONS`.
        message: what exactly, one line.
        blocker: label of the node in the way, or "".
    """

    def __init__(self, key: str, message: str, blocker: str = "") -> None:
        super().__init__(message)
        assert key in REASONS, key
        self.key = key
        self.message = message
        self.blocker = blocker
