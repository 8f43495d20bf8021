"""What an affine does to the numbers, for the report."""

from __future__ import annotations

import numpy as np

from normfold.affine.algebra import Affine

# Above this factor a channel had almost no variance when its statistics were taken; its noise is now signal.
HUGE_GAIN = 1e3


def is_exact(affine: Affine) -> bool:
    """Whether multiplying by it rounds nothing: every scale is a power of two (or its negative), and nothing is added."""
    mantissa, _ = np.frexp(affine.scale)
    return not affine.shifts and bool((np.abs(mantissa) == 0.5).all())


def remarks(affine: Affine) -> tuple[str, ...]:
    """Dead channels and huge gains, one sentence each."""
    low, high = float(np.abs(affine.scale).min(initial=1.0)), float(np.abs(affine.scale).max(initial=0.0))
    if low > 0 and high <= HUGE_GAIN:
        return ()  # nearly always
    scale = np.broadcast_to(affine.scale, affine.shape)
    found = []
    dead = int(np.count_nonzero(scale == 0))
    if dead:
        found.append(f"{dead} of {scale.size} channels are constant, because their scale is 0")
    magnitude = np.abs(scale)
    if magnitude.size and float(magnitude.max()) > HUGE_GAIN:
        channel = int(np.argmax(magnitude))
        found.append(
            f"channel {channel} is multiplied by {magnitude.reshape(-1)[channel]:.3g}: it had almost no variance"
        )
    return tuple(found)
