"""A one-dimensional audio network: strided and dilated Conv1d, and the speech order Conv-ReLU-BN.

In TDNN stacks the norm comes *after* the activation, so it cannot go back into its convolution (a shift never crosses
a ReLU) and must go forward into the next one: exact where that one has no padding, and only there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import Port

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed

AUDIO = Port("x", ("batch", 8, "time"))


def audio_cnn_1d(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter."""
    return export(_net, [AUDIO], seed, negative=0.1)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.BatchNorm1d(8),
        nn.Conv1d(8, 16, 3),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.Conv1d(16, 24, 3, dilation=2),
        nn.ReLU(),
        nn.BatchNorm1d(24),
        nn.Conv1d(24, 24, 3, padding=1, bias=False),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        _residual(24),
        nn.MaxPool1d(2),
        block(lambda _m, x: x.mean(dim=2)),
        nn.Linear(24, 12),
        nn.BatchNorm1d(12),
    )


def _residual(channels: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    body = nn.Sequential(
        nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm1d(channels),
        nn.PReLU(channels),
        nn.Conv1d(channels, channels, 1, bias=False),
        nn.BatchNorm1d(channels),
    )
    return block(lambda m, x: x + m.body(x), body=body)
