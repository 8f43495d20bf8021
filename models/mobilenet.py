"""MobileNetV2: depthwise convolutions, inverted residuals with a linear end, ReLU6.

Depthwise weights are `[C, 1, k, k]`: the fold must run over the output axis, whatever the group count. ReLU6 bounds
are the same for all channels, so a per-channel affine must not cross it; the linear bottleneck has no activation at
all, so its BatchNorm and the next expansion stand in front of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export, export_dynamo
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def mobilenet_v2(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter; this is the model that the repository ships."""
    return export(_net, [IMAGE], seed)


def mobilenet_v2_dynamo(seed: int = 0) -> ModelProto:
    """Build it with the torch.export-based exporter."""
    return export_dynamo(_net, [IMAGE], seed, opset=20)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        *_conv_bn_relu6(3, 16, stride=2),
        _inverted(16, 16, stride=1, expand=2),
        _inverted(16, 24, stride=2, expand=4),
        _inverted(24, 24, stride=1, expand=4),
        *_conv_bn_relu6(24, 96, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(96, 10),
    )


def _inverted(into: int, out: int, stride: int, expand: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    wide = into * expand
    body = nn.Sequential(
        *_conv_bn_relu6(into, wide, kernel=1),
        *_conv_bn_relu6(wide, wide, stride=stride, groups=wide),
        nn.Conv2d(wide, out, 1, bias=False),
        nn.BatchNorm2d(out),
    )
    return block(lambda m, x: x + m.body(x), body=body) if into == out else body


def _conv_bn_relu6(into: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU6()]
