"""How far apart two outputs of one trial are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .verdicts import Array

_UNIT = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of one output in one trial.

    Args:
        reason: why no number can express it (type, shape, positions of NaN and infinity), or "".
        repaired: the original is not finite somewhere and the candidate is.
        exact: the output holds integers, bools, strings or a container: any difference counts.
        changed: elements that differ, of an exact output.
        max_abs: largest |difference| over elements finite on both sides.
        scale: largest finite magnitude of the original; `level` its root mean square.
        unit: unit roundoff of the type.
        informative: more than half of the values finite, and not all equal.
    """

    reason: str = ""
    repaired: bool = False
    exact: bool = False
    changed: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    rms: float = 0.0
    cosine: float = 1.0
    max_ulp: float = 0.0
    scale: float = 0.0
    level: float = 0.0
    unit: float = 0.0
    location: str = ""
    informative: bool = True


def difference(old: Any, new: Any) -> Difference:
    """Compare one output value of the original with the candidate's."""
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray):
        return _nested(old, new)
    if old.dtype != new.dtype:
        return Difference(f"type {old.dtype} became {new.dtype}")
    if old.shape != new.shape:
        return Difference(f"shape {list(old.shape)} became {list(new.shape)}", exact=old.dtype.name not in _UNIT)
    if old.dtype.name not in _UNIT:
        wrong = old != new
        place = _at(int(np.argmax(wrong)), old.shape) if wrong.any() else ""
        return Difference(exact=True, changed=int(np.count_nonzero(wrong)), location=place, informative=bool(old.size))
    with np.errstate(all="ignore"):
        return _floating(old, new)


def _nested(old: Any, new: Any) -> Difference:
    """Sequences, maps, optionals and plain values: equal structure, equal floats up to nothing."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [difference(a, b) for a, b in zip(old, new, strict=True)]
        return max(parts, key=lambda part: (bool(part.reason), part.changed, part.max_abs), default=Difference())
    if isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
        return _nested(list(old.values()), list(new.values()))
    if type(old) is not type(new) or isinstance(old, list | dict):
        return Difference("the structure differs", exact=True)
    return Difference(exact=True, changed=int(old != new))


def _floating(old: Array, new: Array) -> Difference:
    if not old.size:
        return Difference(informative=False)
    wide = np.float64
    a, b = old.astype(wide), new.astype(wide)
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    fixed = odd & ~np.isfinite(a) & np.isfinite(b)
    if (odd & ~fixed).any():
        place = _at(int(np.argmax(odd & ~fixed)), old.shape)
        return Difference("NaN or infinity at other places than in the original", location=place)
    gap = np.where(finite, np.abs(a - b), 0.0)
    known, others = a[finite], b[finite]
    if not known.size:
        return Difference(repaired=bool(fixed.any()), informative=False)
    worst = int(np.argmax(gap))
    relative = np.divide(gap, np.abs(a), out=np.zeros_like(gap), where=finite & (a != 0))
    norms = float(np.linalg.norm(known) * np.linalg.norm(others))
    return Difference(
        repaired=bool(fixed.any()),
        max_abs=float(gap.ravel()[worst]),
        max_rel=float(relative.max()),
        rms=float(np.sqrt(np.mean(gap[finite] ** 2))),
        cosine=float(np.clip(known @ others / norms, -1, 1)) if norms else 1.0,
        max_ulp=_max_ulp(old, new, finite),
        scale=float(np.abs(known).max()),
        level=float(np.sqrt(np.mean(known**2))),
        unit=_UNIT[old.dtype.name],
        location=_at(worst, old.shape),
        informative=bool(finite.mean() > 0.5 and (known.size == 1 or (known != known[0]).any())),
    )


def _max_ulp(old: Array, new: Array, finite: Array) -> float:
    """Largest distance in representable numbers: floats as ordered integers."""
    kind = np.dtype(f"i{old.dtype.itemsize}")
    left, right = (np.ascontiguousarray(side).view(kind)[finite] for side in (old, new))
    lowest = np.iinfo(kind).min
    ordered = [np.where(side < 0, lowest - side, side).astype(np.float64) for side in (left, right)]
    return float(np.abs(ordered[0] - ordered[1]).max())


def _at(flat: int, shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(int(i)) for i in np.unravel_index(flat, shape)) + "]" if shape else "[]"
