"""A click-through-rate model: embeddings and dense features, BatchNorm1d on their Concat, then a Linear stack.

The first norm covers embedding tables and raw inputs at once: forward into the Linear it folds whole, backward only
its embedding slices would. The stack alternates Linear-BN-ReLU (backward) and Linear-ReLU-BN-Linear (forward), and one
table is read by two fields, so a fold into it would change both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import VOCABULARY, Port

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

FIELDS = 4
IDS = Port("ids", ("batch", FIELDS), indices=True)
DENSE = Port("dense", ("batch", 6))


def ctr_mlp(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [IDS, DENSE], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    tables = nn.ModuleList([nn.Embedding(VOCABULARY, 8) for _ in range(FIELDS - 1)])
    return block(_score, tables=tables, norm=nn.BatchNorm1d(8 * FIELDS + 6), stack=_stack(8 * FIELDS + 6))


def _stack(width: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Linear(width, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.Dropout(0.1),
        nn.Linear(16, 1),
        nn.Sigmoid(),
    )


def _score(m: nn.Module, ids: Tensor, dense: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    tables = [*m.tables, m.tables[0]]
    columns = [table(ids[:, field]) for field, table in enumerate(tables)]
    return m.stack(m.norm(torch.cat([*columns, dense], dim=1)))
