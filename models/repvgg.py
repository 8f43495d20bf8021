"""RepVGG as trained: parallel 3x3, 1x1 and identity branches, each with its own BatchNorm, summed.

The two convolution branches fold backward. The identity branch is a BatchNorm with no weights at all: its shift joins
the bias and its scale becomes a diagonal kernel, after which the three branches are one Conv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def repvgg(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        _branches(3, 16, stride=2),
        _branches(16, 16),
        _branches(16, 24, stride=2, groups=4),
        _branches(24, 24, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def _branches(into: int, out: int, stride: int = 1, groups: int = 1) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    wide = nn.Conv2d(into, out, 3, stride, 1, groups=groups, bias=False)
    narrow = nn.Conv2d(into, out, 1, stride, groups=groups, bias=False)
    convolutions = {
        "wide": nn.Sequential(wide, nn.BatchNorm2d(out)),
        "narrow": nn.Sequential(narrow, nn.BatchNorm2d(out)),
    }
    if into != out:
        return block(lambda m, x: (m.wide(x) + m.narrow(x)).relu(), **convolutions)
    return block(_three, identity=nn.BatchNorm2d(out), **convolutions)


def _three(m: nn.Module, x: Tensor) -> Tensor:
    return (m.wide(x) + m.narrow(x) + m.identity(x)).relu()
