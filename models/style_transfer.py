"""A style-transfer network: reflection padding, InstanceNorm with an affine, residual blocks, upsampling.

InstanceNormalization absorbs an affine behind it but computes its statistics from the image, so a scale in front of it
all but disappears, except for epsilon: "nearly invariant" is not exact. The decoder has one BatchNorm between them,
so both kinds stand in one model: one to fold, the others to keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def style_transfer(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        *_layer(3, 12, kernel=5),
        nn.ReLU(),
        *_layer(12, 16, stride=2),
        nn.ReLU(),
        block(lambda m, x: x + m.body(x), body=nn.Sequential(*_layer(16, 16), nn.ReLU(), *_layer(16, 16))),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.ReflectionPad2d(2),
        nn.Conv2d(12, 3, 5),
        nn.Tanh(),
    )


def _layer(into: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    pad, conv = nn.ReflectionPad2d(kernel // 2), nn.Conv2d(into, out, kernel, stride)
    return [pad, conv, nn.InstanceNorm2d(out, affine=True)]
