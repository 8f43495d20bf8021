"""A vision transformer block: LayerNorm in front of attention and of the MLP, LayerScale on the residuals.

At opset 17 LayerNorm is an operator; below that it is nine, which is how most deployed transformers spell it. The
LayerNorm's affine and the LayerScale are affines on the *last* axis, next to MatMuls that can absorb them; code that
looks at axis 1 sees the token count instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export, export_dynamo
from models.ports import Port

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

WIDTH, HEADS, PATCH = 32, 4, 8
IMAGE = Port("x", ("batch", 3, 32, 32))


def vit_block(seed: int = 0) -> ModelProto:
    """Build it at opset 17, with LayerNormalization as an operator."""
    return export(_net, [IMAGE], seed, negative=0.1)


def vit_block_opset14(seed: int = 0) -> ModelProto:
    """Build it at opset 14, where LayerNorm is ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add."""
    return export(_net, [IMAGE], seed, opset=14, negative=0.1)


def vit_block_dynamo(seed: int = 0) -> ModelProto:
    """Build it at opset 18 with the torch.export-based exporter."""
    return export_dynamo(_net, [IMAGE], seed, opset=18, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Conv2d(3, WIDTH, PATCH, PATCH),
        nn.Flatten(2),
        block(lambda _m, x: x.transpose(1, 2)),
        _residual(_attention()),
        _residual(nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))),
        nn.LayerNorm(WIDTH),
        block(lambda _m, x: x.mean(dim=1)),
        nn.Linear(WIDTH, 10),
    )


def _residual(body: nn.Module) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    scale = nn.ParameterList([_layer_scale()])
    return block(lambda m, x: x + m.scale[0] * m.body(m.norm(x)), norm=nn.LayerNorm(WIDTH), body=body, scale=scale)


def _layer_scale() -> nn.Parameter:
    import torch  # noqa: TID251 - builders are where torch lives

    return torch.nn.Parameter(torch.empty(WIDTH).uniform_(0.2, 1.0))


def _attention() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return block(_attend, qkv=nn.Linear(WIDTH, 3 * WIDTH), project=nn.Linear(WIDTH, WIDTH))


def _attend(m: nn.Module, x: Tensor) -> Tensor:
    tokens = x.shape[1]
    heads = m.qkv(x).view(-1, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    q, k, v = heads[0], heads[1], heads[2]
    weights = (q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)
    return m.project((weights @ v).transpose(1, 2).reshape(-1, tokens, WIDTH))
