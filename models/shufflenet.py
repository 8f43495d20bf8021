"""A ShuffleNet-like network: channel Split and Slice, Concat, and the shuffle (Reshape, Transpose, Reshape).

All of these only move channels, so an affine crosses them if its values are permuted and sliced the same way. A norm
behind a shuffle can reach the convolutions in front of it; getting the permutation backwards still runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def shufflenet(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IMAGE], seed, negative=0.2)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        _unit(16, _by_split),
        _unit(16, _by_slice),
        nn.Conv2d(16, 24, 1, groups=2, bias=False),
        block(lambda _m, x: _shuffle(x)),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def _unit(channels: int, halves: Callable[[Tensor], tuple[Tensor, Tensor]]) -> nn.Module:
    return block(lambda m, x: _shuffle(_joined(m, *halves(x))), body=_body(channels // 2))


def _body(width: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _by_split(x: Tensor) -> tuple[Tensor, Tensor]:
    left, right = x.split([8, 8], dim=1)
    return left, right


def _by_slice(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :8], x[:, 8:]


def _joined(m: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    return torch.cat([left, m.body(right)], dim=1)


def _shuffle(x: Tensor, groups: int = 2) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)
