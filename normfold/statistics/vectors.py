"""numpy arrays <-> the tuples of the report."""

from __future__ import annotations

import math

from normfold.model.tensors import Float64
from normfold.statistics.schema import Vector


def vector(values: Float64 | None) -> Vector:
    """The values, None where one is not finite; () for no array."""
    if values is None:
        return ()
    return tuple(item if math.isfinite(item) else None for item in values.tolist())


def number(value: float) -> float | None:
    """The value, None if it is not finite."""
    return float(value) if math.isfinite(value) else None
