"""A squeeze-excite network: a gate computed from the data multiplies the channels, then a BatchNorm follows.

The Mul of the gate has two data operands, so it is no affine. A scale may cross it into exactly *one* operand and a
shift never crosses; both a norm before the gate (two readers: the gate and the Mul) and one behind it are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def squeeze_excite(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        _gate(16),
        nn.Conv2d(16, 24, 1, bias=False),
        _gate(24),
        nn.BatchNorm2d(24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def _gate(channels: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, channels, 1),
        nn.Sigmoid(),
    )
    return block(lambda m, x: x * m.gate(x), gate=gate)
