"""ResNet: the plain Conv-BN-ReLU chain, residual sums, and a projected shortcut.

Every BatchNorm directly follows a convolution, so all of them must vanish. In the second stage both summands of the
residual Add end in a Conv-BN: two independent folds whose results meet, and neither may touch the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export, export_dynamo
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def resnet(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter; a fifth of the scales are negative."""
    return export(_net, [IMAGE], seed, negative=0.2)


def resnet_dynamo(seed: int = 0) -> ModelProto:
    """Build it with the torch.export-based exporter."""
    return export_dynamo(_net, [IMAGE], seed, opset=18, negative=0.2)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        *_conv_bn(3, 16, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        _residual(16, 16),
        _residual(16, 32, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def _residual(into: int, out: int, stride: int = 1) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    body = nn.Sequential(*_conv_bn(into, out, stride=stride), nn.ReLU(), *_conv_bn(out, out))
    shortcut = nn.Sequential(*_conv_bn(into, out, kernel=1, stride=stride)) if into != out else nn.Identity()
    return block(lambda m, x: (m.body(x) + m.shortcut(x)).relu(), body=body, shortcut=shortcut)


def _conv_bn(into: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return [nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out)]
