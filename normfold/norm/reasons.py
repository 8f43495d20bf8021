"""Why a norm stays as it is spelled: the stable keys, what each means, and the refusal that carries one."""

from __future__ import annotations

from normfold.refusal import Refusal

REASONS: dict[str, str] = {
    "unconfirmed": "evaluated in float64, the nodes do not compute the norm that they were taken for, or cannot be evaluated",
}


class Refused(Refusal):
    """A find is given up; its nodes stay. `key` is one of `REASONS`."""

    reasons = REASONS
