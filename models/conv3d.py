"""A video network of factorised Conv3d, spatial then temporal, with BatchNorm3d and average pooling.

Rank 5: the channel axis is still 1 and a per-channel constant needs three trailing ones. Code that was written for
images fails here, loudly or not. One norm stands behind a padding-free AvgPool and may cross it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import Port

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed

VIDEO = Port("x", ("batch", 3, "depth", 16, 16))


def conv3d(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [VIDEO], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        *_factorised(3, 8),
        nn.ReLU(),
        block(lambda m, x: (x + m.body(x)).relu(), body=nn.Sequential(*_factorised(8, 8))),
        nn.Conv3d(8, 12, 1, bias=False),
        nn.AvgPool3d(2),
        nn.BatchNorm3d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 6),
    )


def _factorised(into: int, out: int) -> list[nn.Module]:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return [
        nn.Conv3d(into, out, (1, 3, 3), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(out),
        nn.ReLU(),
        nn.Conv3d(out, out, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(out),
    ]
