"""Convolutions in half precision, once with the norms in half too and once with them in float32.

The fold must be computed wide and rounded once, and the result must fit: a small variance turns into a large scale,
and float16 ends at 65504. From opset 15 a BatchNormalization may hold float32 statistics next to float16 data, so the
types of its five operands are not one type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def conv_fp16(seed: int = 0) -> ModelProto:
    """Build it all in float16."""
    return export(_net, [IMAGE], seed, negative=0.1, finish=lambda module: module.half())


def conv_fp16_float_norms(seed: int = 0) -> ModelProto:
    """Build it in float16 with BatchNorm parameters in float32, as mixed-precision training leaves them."""
    return export(_net, [IMAGE], seed, negative=0.1, finish=_half_except_norms)


def _half_except_norms(module: nn.Module) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    module.half()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.float()
    return module


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
