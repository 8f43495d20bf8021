"""Pre-activation ResNet: BN-ReLU-Conv, so the first norm of each block has no convolution behind it.

The first BatchNorm of a block reads the residual stream, which other nodes read too: it must be kept, refused with a
reason, or absorbed forward where that is exact. The one in the middle of a block follows a convolution and folds.
The data norm in front of the padded stem convolution is the classic wrong fold: the zeros of the padding are not
normalised, so the shift cannot simply become a bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def preact_resnet(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        _block(16, 16),
        _block(16, 24, stride=2),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def _block(into: int, out: int, stride: int = 1) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    first = nn.Sequential(nn.BatchNorm2d(into), nn.ReLU())
    body = nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
    )
    if into == out:
        return block(lambda m, x: x + m.body(m.first(x)), first=first, body=body)
    shortcut = nn.Conv2d(into, out, 1, stride, bias=False)
    return block(lambda m, x: _projected(m, m.first(x)), first=first, body=body, shortcut=shortcut)


def _projected(m: nn.Module, x: Tensor) -> Tensor:
    return m.shortcut(x) + m.body(x)
