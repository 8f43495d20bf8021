"""The networks that faults are planted in: small, deep enough for a shift to spread, each norm behind a weight."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from models.planted.data import CLASSES, FEATURES

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed

# (width, layers): the stages halve the image, and 20 layers are enough for one to hide.
STAGES = ((12, 7), (16, 7), (24, 6))


def cnn(epsilon: float) -> nn.Module:
    """Return twenty times Conv, BatchNormalization, Relu; layers of one stage have statistics of one size."""
    from torch import nn  # noqa: TID251 - builders are where torch lives

    parts: list[nn.Module] = []
    before = 3
    for width, layers in STAGES:
        for layer in range(layers):
            stride = 2 if before != 3 and layer == 0 else 1
            parts += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width, eps=epsilon), nn.ReLU()]
            before = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


def mlp(epsilon: float) -> nn.Module:
    """Return five Linear layers with a BatchNormalization behind each but the last."""
    from torch import nn  # noqa: TID251 - builders are where torch lives

    widths = (FEATURES, 48, 48, 32, 32)
    parts: list[nn.Module] = []
    for into, out in pairwise(widths):
        parts += [nn.Linear(into, out), nn.BatchNorm1d(out, eps=epsilon), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], CLASSES))


def depthwise(epsilon: float) -> nn.Module:
    """Return a stem and five times depthwise and pointwise convolution, each with BatchNormalization and Relu6."""
    from torch import nn  # noqa: TID251 - builders are where torch lives

    def layer(into: int, out: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(out, eps=epsilon), nn.ReLU6()]

    parts, before = layer(3, 12, 3, 1, 1), 12
    for out, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        parts += [*layer(before, before, 3, stride, before), *layer(before, out, 1, 1, 1)]
        before = out
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))
