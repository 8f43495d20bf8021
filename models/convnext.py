"""A ConvNeXt block: depthwise 7x7, then LayerNorm and an MLP on channels-last data, LayerScale, residual.

The norm runs over the channels, on the last axis, between two Transposes; the stem norm is the channels-first variant
(mean over axis 1, written by hand in the original). Folding its affine into the Linear behind it needs the axis map
through the Transpose, not a guess from sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

WIDTH = 24


def convnext_block(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 4, 4),
        block(_norm_channels_first, affine=nn.LayerNorm(WIDTH)),
        _block(),
        _block(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, 10),
    )


def _norm_channels_first(m: nn.Module, x: Tensor) -> Tensor:
    """Compute LayerNorm over axis 1 as the authors' code does, with the parameters of the given module."""
    import torch  # noqa: TID251 - builders are where torch lives

    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    normal = (x - mean) / torch.sqrt(variance + 1e-6)
    return m.affine.weight[:, None, None] * normal + m.affine.bias[:, None, None]


def _block() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    mlp = nn.Sequential(
        nn.LayerNorm(WIDTH, eps=1e-6),
        nn.Linear(WIDTH, 4 * WIDTH),
        nn.GELU(),
        nn.Linear(4 * WIDTH, WIDTH),
    )
    depthwise = nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH)
    return block(_mix, depthwise=depthwise, mlp=mlp, scale=nn.ParameterList([_layer_scale()]))


def _mix(m: nn.Module, x: Tensor) -> Tensor:
    channels_last = m.depthwise(x).permute(0, 2, 3, 1)
    return x + (m.scale[0] * m.mlp(channels_last)).permute(0, 3, 1, 2)


def _layer_scale() -> nn.Parameter:
    import torch  # noqa: TID251 - builders are where torch lives

    return torch.nn.Parameter(torch.empty(WIDTH).uniform_(0.2, 1.0))
