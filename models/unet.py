"""A diffusion U-Net: GroupNorm and SiLU, skip connections through Concat, nearest upsampling.

GroupNorm has three spellings: opset 17 writes Reshape, InstanceNormalization, Reshape, Mul, Add; opset 18 has an
operator with one scale per *group*; opset 21 corrects it to one per channel. None is a BatchNorm: its statistics
depend on the data, so it can be fused but never folded away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export, export_dynamo
from models.ports import IMAGE

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def unet_groupnorm_silu(seed: int = 0) -> ModelProto:
    """Build it at opset 17, where each GroupNorm is five operators."""
    return export(_net, [IMAGE], seed, negative=0.1)


def unet_groupnorm_silu_dynamo(seed: int = 0) -> ModelProto:
    """Build it at opset 21 with the torch.export-based exporter, where GroupNormalization is one operator."""
    return export_dynamo(_net, [IMAGE], seed, opset=21, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return block(
        _forward,
        stem=nn.Conv2d(3, 16, 3, padding=1),
        down=_block(16),
        pool=nn.Conv2d(16, 24, 3, 2, 1),
        middle=_block(24),
        up=nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(24, 16, 3, padding=1)),
        merge=_block(32),
        head=nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1)),
    )


def _block(channels: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    layers = [_norm_silu_conv(channels), _norm_silu_conv(channels)]
    return block(lambda m, x: x + m.body(x), body=nn.Sequential(*layers))


def _norm_silu_conv(channels: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))


def _forward(m: nn.Module, x: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    outer = m.down(m.stem(x))
    inner = m.up(m.middle(m.pool(outer)))
    return m.head(m.merge(torch.cat([outer, inner], dim=1)))
