"""From values and magnitudes of both sides to a finding: is every difference one that rounding can explain?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bound import LARGEST, Lines
from .companion import SUFFIX
from .verdicts import Array, Status, number

Values = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Finding:
    """The worst element of one output in one trial, and whether the trial says anything.

    `repaired` is True where the original is not finite and the rewrite is, `moved` where a difference is larger than twice
    the rounding of the better conditioned side: one of them cancels, and float64 must say which.
    """

    status: Status
    ratio: float = 0.0
    max_abs: float | None = None
    bound: float | None = None
    rms: float | None = None
    location: str = ""
    reason: str = ""
    informative: bool = False
    repaired: bool = False
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Sides:
    """One trial of one region: outputs and companions before and after; `hostile` values may overflow anywhere."""

    before: Values
    after: Values
    hostile: bool


def judge(name: str, sides: Sides, lines: Lines, elem: int) -> Finding:
    """Compare output `name` of one trial; `elem` is the storage type whose range counts."""
    old, new = sides.before[name], sides.after.get(name)
    if new is None or old.dtype != new.dtype or old.shape != new.shape:
        return Finding(Status.FAIL, np.inf, location=name, reason="type or shape differs")
    if name + SUFFIX not in sides.before:
        return _exact(name, old, new)
    y0, y1 = (_comparable(side) for side in (old, new))
    with np.errstate(all="ignore"):
        old_size, new_size = (
            np.broadcast_to(side[name + SUFFIX].astype(np.float64), y0.shape) for side in (sides.before, sides.after)
        )
        return _bounded(name, y0, y1, (old_size + new_size, new_size), sides.hostile, lines, LARGEST[elem])


def _comparable(values: Array) -> Array:
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _exact(name: str, old: Array, new: Array) -> Finding:
    wrong = old != new
    if not wrong.any():
        return Finding(Status.PASS, informative=bool(old.size))
    return Finding(Status.FAIL, np.inf, location=_at(name, np.argmax(wrong), old.shape), reason="exact values differ")


def _bounded(
    name: str, y0: Array, y1: Array, sizes: tuple[Array, Array], hostile: bool, lines: Lines, largest: float
) -> Finding:
    """Compare two floating outputs; `sizes` are the magnitudes A + A₀ and A."""
    both, own = sizes
    allowed = lines.allowed(degenerate=hostile)
    limit = allowed * both + lines.storage * own + lines.underflow
    finite = np.isfinite(y0) & np.isfinite(y1)
    odd = ~finite & ~((y0 == y1) | (np.isnan(y0) & np.isnan(y1)))
    repaired = odd & ~np.isfinite(y0) & np.isfinite(y1)
    edge = np.isfinite(y0) & (np.abs(y0) > largest / 2)  # rounding may carry it over the end of the range
    broken = odd & ~repaired & ~edge
    if hostile:  # an intermediate may leave the range on one side only
        broken, repaired = broken & (both < largest), repaired & (both < largest)
    if broken.any():
        place = _at(name, np.argmax(broken), y0.shape)
        return Finding(Status.FAIL, np.inf, location=place, reason="finite or infinite on one side only")
    if not y0.size:
        return Finding(Status.PASS)
    gap = np.where(finite, np.abs(y0 - y1), 0).astype(np.float64)
    ratio = _ratio(gap, limit)
    at = int(np.argmax(ratio))
    better = np.fmin(own, both - own)
    least = 2 * allowed * better + lines.storage * own + lines.underflow
    status, reason = _status(gap, ratio, both, own, lines)
    return Finding(
        status,
        float(ratio.ravel()[at]),
        number(float(gap.ravel()[at])),
        number(float(limit.ravel()[at])),
        number(float(np.sqrt(np.mean(gap**2)))),
        _at(name, at, y0.shape),
        reason,
        _says_something(y0, finite),
        bool(repaired.any()),
        bool((_ratio(gap, least) > 1).any()),
    )


def _ratio(gap: Array, limit: Array) -> Array:
    """gap / limit; a limit of 0 allows no gap at all, an infinite one says nothing."""
    ratio = np.divide(gap, limit, out=np.where(gap > 0, np.inf, 0.0), where=limit > 0)
    return np.where(np.isfinite(limit), ratio, 0.0)


def _status(gap: Array, ratio: Array, both: Array, own: Array, lines: Lines) -> tuple[Status, str]:
    if ratio.max() <= 1:
        return Status.PASS, ""
    if (
        lines.failing is not None
        and _ratio(gap, lines.failing * both + lines.storage * own + lines.underflow).max() > 1
    ):
        return Status.FAIL, "rounding cannot explain the difference"
    return Status.SUSPECT, "the difference is larger than rounding usually makes it"


def _says_something(values: Array, finite: Array) -> bool:
    """More than half of the values finite, and not all equal unless there is only one."""
    if finite.mean() <= 0.5:
        return False
    known = values[finite]
    return known.size == 1 or bool((known != known[0]).any())


def _at(name: str, flat: Any, shape: tuple[int, ...]) -> str:
    index = np.unravel_index(int(flat), shape) if shape else ()
    return f"{name}[{', '.join(str(int(i)) for i in index)}]"
