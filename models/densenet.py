"""DenseNet: BatchNorm over a Concat whose operands other layers read as well.

An affine behind a Concat splits into one slice per operand, but every operand also feeds later Concats with other
norms: no slice may be pushed into a shared producer. The transitions (BN-ReLU-Conv-AvgPool) and a last norm with no
ReLU in front of the classifier are the places where something can be gained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def densenet(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        _dense(16, growth=8, bottleneck=16),
        _dense(24, growth=8, bottleneck=16),
        _transition(32, 16),
        _dense(16, growth=8, bottleneck=16),
        _stack(24, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(32),
        nn.Linear(32, 10),
    )


def _dense(into: int, growth: int, bottleneck: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    body = nn.Sequential(
        nn.BatchNorm2d(into),
        nn.ReLU(),
        nn.Conv2d(into, bottleneck, 1, bias=False),
        nn.BatchNorm2d(bottleneck),
        nn.ReLU(),
        nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False),
    )
    return block(_grow, body=body)


def _grow(m: nn.Module, x: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    return torch.cat([x, m.body(x)], dim=1)


def _transition(into: int, out: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(nn.BatchNorm2d(into), nn.ReLU(), nn.Conv2d(into, out, 1, bias=False), nn.AvgPool2d(2))


def _stack(into: int, growth: int) -> nn.Module:
    """Concatenate two convolutions that nobody else reads, then normalise: here the slices do fold."""
    from torch import nn  # noqa: TID251 - builders are where torch lives

    left, right = nn.Conv2d(into, into, 1, bias=False), nn.Conv2d(into, growth, 3, padding=1)
    return block(_concat_norm, left=left, right=right, norm=nn.BatchNorm2d(into + growth))


def _concat_norm(m: nn.Module, x: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    return m.norm(torch.cat([m.left(x), m.right(x)], dim=1))
