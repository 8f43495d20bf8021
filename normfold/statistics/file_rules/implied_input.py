"""The mean of the training input, as far as the first layer remembers it (§8.1).

The first convolution is linear: with S_ok = Σ_ij W_okij, its output has mean μ_o = Σ_k S_ok·x̄_k + b_o, and μ is what the
BatchNormalization behind it stores. Solved for x̄ by least squares. Zeros in the padding pull x̄ towards 0 by about 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normfold.model.tensors import Float64
from normfold.statistics.file_rules.values import is_default, readable
from normfold.statistics.file_rules.weights import linear_before
from normfold.statistics.subject import Subject


@dataclass(frozen=True, slots=True, eq=False)
class ImpliedInput:
    """x̄ by input channel, `[I]`, of the graph input `name`, and how much of the `[O]` means μ of the site `key` it explains."""

    name: str
    mean: Float64
    r2: float
    key: str
    channels: int

    @property
    def adjusted_r2(self) -> float:
        """R² less what I free numbers explain of O by chance; NaN where these are as many."""
        free = self.channels - 1 - self.mean.size
        return 1 - (1 - self.r2) * (self.channels - 1) / free if free > 0 else float("nan")


def implied_input(subject: Subject) -> ImpliedInput | None:
    """What the first layer that reads a graph input says; None where there is none, or it says too little."""
    for site, mean, var in readable(subject):
        linear = linear_before(subject, site.x)
        if linear is None or linear.groups != 1 or not linear.data.is_input or linear.weight.shape[0] != mean.size:
            continue
        sums = linear.weight.reshape(*linear.weight.shape[:2], -1).sum(axis=2)
        target = mean - linear.bias
        if is_default(mean, var) or not np.isfinite(target).all() or np.linalg.matrix_rank(sums) < sums.shape[1]:
            return None
        solved = np.linalg.lstsq(sums, target, rcond=None)[0]
        spread = float(((target - target.mean()) ** 2).sum())
        left = float(((target - sums @ solved) ** 2).sum())
        r2 = 1.0 - left / spread if spread else float("nan")
        return ImpliedInput(linear.data.name, solved, r2, site.key, mean.size)
    return None
