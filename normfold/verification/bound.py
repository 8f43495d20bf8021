"""The lines between rounding and error, per element.

    PASS   |Δ| ≤ max(16, 2√K) · u · (A + A₀)
    FAIL   |Δ| > 2·γ_K · (A + A₀),  γ_K = K·u / (1 − K·u)     rounding cannot explain it

K is the reduction length, u the unit roundoff of the storage type, A and A₀ the companion magnitudes of both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import TensorProto

# 16 and 2√K are provisional; correct rewrites measured at most 3.1·u·A (affine) and 39·u·A (constant rows, K = 4096).
_PASS_FLOOR, _PASS_GROWTH = 16.0, 2.0
# Of K; provisional. InstanceNormalization on CPU measured K/110 for a constant channel among huge ones at K = 200704.
_DRIFT = 1 / 16

UNIT_ROUNDOFF: dict[int, float] = {
    TensorProto.DOUBLE: 2.0**-53,
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
SMALLEST_NORMAL: dict[int, float] = {
    TensorProto.DOUBLE: 2.0**-126,  # magnitudes are float32 at least
    TensorProto.FLOAT: 2.0**-126,
    TensorProto.FLOAT16: 2.0**-14,
    TensorProto.BFLOAT16: 2.0**-126,
}
LARGEST: dict[int, float] = {
    TensorProto.DOUBLE: 1.7976931348623157e308,
    TensorProto.FLOAT: 3.4028234663852886e38,
    TensorProto.FLOAT16: 65504.0,
    TensorProto.BFLOAT16: 3.3895313892515355e38,
}


@dataclass(frozen=True, slots=True)
class Lines:
    """Factors of (A + A₀): at most `passing` is PASS; above `failing` is FAIL; None where γ_K does not exist.

    `storage` times A joins both where the region ran wider than its constants are stored: one rounding of every
    rewritten constant, and nothing else, may show. `underflow` joins both as it is: below the smallest normal number
    rounding is absolute, not relative. `drifting` takes the place of `passing` in trials whose rows are degenerate.
    `truth` times A₀ is what the float64 evaluation of the original may itself be off by: an original that adds 1 to 1e-20
    has lost all of it in float64 as well, and a rewrite that does not add has not.
    """

    passing: float
    failing: float | None
    storage: float = 0.0
    underflow: float = 0.0
    drifting: float = 0.0
    truth: float = 0.0

    def allowed(self, *, degenerate: bool) -> float:
        """The PASS factor of a trial."""
        return max(self.passing, self.drifting) if degenerate else self.passing


def lines(
    reduction: int, unit: float, *, storage: float = 0.0, smallest: float = 0.0, statistics: bool = False
) -> Lines:
    """Return the lines for reduction length `reduction` and unit roundoff `unit`.

    `storage` is what rounding the rewritten constants once may cost, relative to A, when they run in a wider type.
    `smallest` is the smallest normal number of the type: a result below it is off by up to u·smallest, whatever A is
    (Higham, Accuracy and Stability of Numerical Algorithms, §2.8: fl(x·y) = x·y·(1 + δ) + η). `statistics` says that the
    region sums over its own values, which may all be equal: a running sum then rounds in the same direction every time.
    """
    length = max(1, reduction)
    underflow = _PASS_FLOOR * length * unit * smallest
    factor = max(_PASS_FLOOR, _PASS_GROWTH * math.sqrt(length))
    passing, truth = factor * unit, factor * UNIT_ROUNDOFF[TensorProto.DOUBLE]
    drifting = _DRIFT * length * unit if statistics else 0.0
    if length * unit >= 1:
        return Lines(passing, None, storage, underflow, drifting, truth)
    failing = max(passing, drifting, 2 * length * unit / (1 - length * unit))
    return Lines(passing, failing, storage, underflow, drifting, truth)


def coarsest(elems: Iterable[int]) -> int:
    """Return the floating element type with the largest unit roundoff among `elems` (float32 if there is none)."""
    floats = [elem for elem in elems if elem in UNIT_ROUNDOFF]
    return max(floats, key=lambda elem: UNIT_ROUNDOFF[elem], default=TensorProto.FLOAT)
