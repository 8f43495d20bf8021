"""The shift of a probe, taken out of the bias of the convolution in front.

A probe wants D = X − μ. Where X comes from a convolution and nothing but the normalisation reads it, the bias b − μ makes the
convolution compute D, for nothing; a Sub of its own would go over the tensor once more, and the normalisation then has the
mean 0. D is rounded no more often than X was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normfold.model import dtypes
from normfold.model.constants import Constants
from normfold.model.graph import Node
from normfold.statistics.exact_sums import Float64
from normfold.statistics.probes.graph_edit import Writer
from normfold.statistics.sites import StatSite

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHT, _BIAS = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedConv:
    """A convolution that computes X − shift.

    Args:
        node: the convolution.
        bias: `[C]`, b − shift as it is stored.
        shift: `[C]`, exactly what the bias is smaller by.
    """

    node: Node
    bias: np.ndarray
    shift: Float64

    def write(self, graph: Writer) -> list[str]:
        """Store the bias; returns the inputs of the convolution."""
        given = list(self.node.proto.input[:_BIAS])
        return [*given, graph.constant(self.bias)]


def shifted_conv(site: StatSite, constants: Constants, shift: Float64) -> ShiftedConv | None:
    """The convolution in front of a site with this shift in its bias; None where there is none that could have it.

    Args:
        site: of float or double.
        constants: of its model.
        shift: `[C]`, finite.
    """
    node = site.x.producer
    if node is None or node.op_type not in _CONVOLUTIONS or node.proto.domain not in ("", "ai.onnx"):
        return None
    if node.scope is not site.node.scope or site.x.is_output or len(site.x.uses) != 1:
        return None
    weight = node.input(_WEIGHT)
    if site.dtype not in (dtypes.FLOAT, dtypes.DOUBLE) or weight is None or weight.exposed:
        return None
    storage = np.float64 if site.dtype == dtypes.DOUBLE else np.float32
    bias = node.input(_BIAS)
    values = np.zeros(shift.size) if bias is None else None if bias.exposed else constants.array(bias)
    if values is None or values.shape != shift.shape:
        return None
    stored = (np.asarray(values, np.float64) - shift).astype(storage)
    if not np.isfinite(stored).all():
        return None
    return ShiftedConv(node, stored, np.asarray(values, np.float64) - stored.astype(np.float64))
