"""What a norm means, however it was spelled: pure data, without a target and without a graph.

    y = gamma · (x - c·mean(x)) / sqrt(V(x) + epsilon) + beta

with `c = 1` and the centred biased variance, or `c = 0` and the mean square; statistics over `axes`, and over the channels of
one group where `groups` is given (`norm-fusion`, section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from normfold.model.shapes import Dims

Float64 = NDArray[np.float64]


class Kind(StrEnum):
    """What the field calls a norm, of its axes alone: the spelling does not matter."""

    LAYER = "LayerNorm"
    RMS = "RMSNorm"
    GROUP = "GroupNorm"
    INSTANCE = "InstanceNorm"
    OTHER = "norm"


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A norm in normal form.

    Args:
        centred: whether the mean is subtracted (`c = 1`).
        dims: shape of `x` and `y`: numbers, symbols, or None where nothing is known. The rank is always known.
        axes: the dimensions that are reduced as a whole, ascending and not negative.
        epsilon: added to the variance, non-negative.
        gamma, beta: float64, of the rank of `x`, each extent 1 or that of `x`; None for ones and zeros.
        input_type, output_type: ONNX element types of `x` and `y`.
        parameter_type: the widest type in which an element of gamma or beta is stored; `input_type` where there are none.
        groups: number of groups that dimension `channel` is cut into, contiguous channels together; its statistics are
            over the channels of a group and over `axes`. None where the channels are not cut.
        channel: the dimension that is cut; None where none is.
        scale, bias: names of tensors of type `parameter_type` that are no constants and have exactly the shape
            `x.shape[axes[0]:]`, where the axes are a suffix; they take the place of gamma and beta, which are None then.
    """

    centred: bool
    dims: Dims
    axes: tuple[int, ...]
    epsilon: float
    gamma: Float64 | None
    beta: Float64 | None
    input_type: int
    output_type: int
    parameter_type: int
    groups: int | None = None
    channel: int | None = None
    scale: str | None = None
    bias: str | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions of `x`."""
        return len(self.dims)

    @property
    def is_suffix(self) -> bool:
        """Whether the statistics are over the last dimensions."""
        return self.groups is None and self.axes == tuple(range(self.rank - len(self.axes), self.rank))

    @property
    def is_spatial(self) -> bool:
        """Whether the statistics are over all spatial dimensions of `[N, C, *spatial]`, and nothing else."""
        return self.rank > 2 and self.axes == tuple(range(2, self.rank))

    @property
    def kind(self) -> Kind:
        """What the field calls it."""
        if self.groups is not None:
            return Kind.GROUP
        if not self.centred:
            return Kind.RMS
        spatial = tuple(range(1, self.rank - 1))  # of [N, *spatial, C]
        if self.is_spatial and self._spares(1) and (self.rank > 3 or self._varies(1)):
            return Kind.INSTANCE  # without parameters, [N, C, L] might as well be a sequence
        if self.rank > 3 and self.axes == spatial:
            return Kind.INSTANCE
        return Kind.LAYER if self.is_suffix or self.axes == (1,) else Kind.OTHER

    def _varies(self, axis: int) -> bool:
        """Whether gamma or beta varies along a dimension."""
        return any(p is not None and p.shape[axis] > 1 for p in (self.gamma, self.beta))

    def _spares(self, channel: int) -> bool:
        """Whether gamma and beta vary along no other dimension than the channel."""
        parameters = [p for p in (self.gamma, self.beta) if p is not None]
        return self.scale is None and all(
            extent == 1 or axis == channel for p in parameters for axis, extent in enumerate(p.shape)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """The Add whose result a norm normalises.

    Args:
        left, right: the operands, proven to have the shape of the sum.
        bias: float64 `[H]`, a constant that is added as well; None if there is none.
        is_read: whether somebody else reads the sum.
    """

    left: str
    right: str
    bias: Float64 | None
    is_read: bool


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What stands around a norm and may go into its operator.

    Args:
        residual: the Add in front, None if there is none.
        embedding: name of a tensor `[N, C, 1, 1]` that is added in front of a norm of `[N, C, H, W]`, None if there is none.
        embedded: the other operand of that Add.
        silu: whether the output is read only by `y · Sigmoid(y)`.
    """

    residual: Residual | None = None
    embedding: str | None = None
    embedded: str | None = None
    silu: bool = False
