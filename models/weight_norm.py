"""Weight normalisation: the convolution's weight is not a tensor but a small computation, g * v / ||v||.

With constants left unfolded the weight reaches the Conv through ReduceL2, Div and Mul. A fold must resolve this constant
subgraph, and then it goes; treating the Mul as an affine of the data would be wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def weight_norm(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter, constants unfolded."""
    return export(_net, [IMAGE], seed, negative=0.1, fold_constants=False)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        _normalised(nn.Conv2d(3, 12, 3, padding=1)),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        _normalised(nn.Conv2d(12, 12, 3, 2, 1, groups=3)),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        _normalised(nn.Linear(12, 8)),
        nn.BatchNorm1d(8),
    )


def _normalised(layer: nn.Module) -> nn.Module:
    import torch  # noqa: TID251 - builders are where torch lives

    return torch.nn.utils.parametrizations.weight_norm(layer)
