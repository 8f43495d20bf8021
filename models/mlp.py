"""A multilayer perceptron: Gemm with BatchNorm1d before and after it, and a MatMul on rank-3 data.

At rank 2 the channel axis of a BatchNorm and the column axis of a Gemm are both axis 1, so folds go both ways and
chains of them compose. At rank 3 axis 1 is the *token* axis while the MatMul's columns are the last one: the norm that
stands there must not be folded into the weight that happens to have the same size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import Port

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed

TOKENS = WIDTH = 12  # equal on purpose: sizes must not be taken as proof of an axis


def mlp(seed: int = 0) -> ModelProto:
    """Build the Gemm stack."""
    return export(_gemms, [Port("x", ("batch", 20))], seed, negative=0.2)


def mlp_tokens(seed: int = 0) -> ModelProto:
    """Build the MatMul on tokens with a norm on each side of it, channel axis and column axis of equal size."""
    return export(_matmuls, [Port("x", ("batch", TOKENS, WIDTH))], seed, negative=0.2)


def _gemms() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.BatchNorm1d(20),
        nn.Linear(20, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        _residual(32),
        nn.BatchNorm1d(32),
        nn.Linear(32, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.Linear(16, 6),
        nn.BatchNorm1d(6, affine=False),
    )


def _residual(width: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    body = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.LeakyReLU(0.1))
    return block(lambda m, x: x + m.body(x), body=body)


def _matmuls() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH, bias=False),
        nn.BatchNorm1d(TOKENS),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        block(lambda m, x: m.norm(x.transpose(1, 2)).transpose(1, 2), norm=nn.BatchNorm1d(WIDTH)),
    )
