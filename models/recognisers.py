"""Sequence recognisers: a BatchNorm right in front of an LSTM or a GRU, and one behind it.

An RNN's input weights absorb an affine exactly (there is no padding on the feature axis), if the fold knows that they
are `[directions, gates * hidden, input]` and that the bias has two halves. The LSTM model normalises `[N, C, T]` and
transposes; the GRU model flattens time into the batch, `[T * N, C]`, as DeepSpeech2 does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export
from models.ports import Port

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed


def lstm_recogniser(seed: int = 0) -> ModelProto:
    """Build convolution, norm, bidirectional LSTM and Linear: a text recogniser."""
    return export(_lstm, [Port("x", ("batch", 1, 8, "width"))], seed, negative=0.1)


def gru_recogniser(seed: int = 0) -> ModelProto:
    """Build flattened norms around two GRUs: a speech recogniser."""
    return export(_gru, [Port("x", ("batch", "time", 12))], seed, negative=0.1)


def _lstm() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    features = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d((8, 2)),
        nn.Flatten(2),
    )
    rnn = nn.LSTM(8, 12, bidirectional=True)
    return block(_read_text, features=features, norm=nn.BatchNorm1d(8), rnn=rnn, head=nn.Linear(24, 10))


def _read_text(m: nn.Module, x: Tensor) -> Tensor:
    hidden, _ = m.rnn(m.norm(m.features(x)).permute(2, 0, 1))
    return m.head(hidden).permute(1, 0, 2)


def _gru() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        _norm_of_steps(12),
        _rnn(nn.GRU(12, 16, batch_first=True)),
        _norm_of_steps(16),
        _rnn(nn.GRU(16, 16, batch_first=True)),
        _norm_of_steps(16),
        nn.Linear(16, 10, bias=False),
    )


def _norm_of_steps(features: int) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return block(lambda m, x: m.norm(x.flatten(0, 1)).view(x.shape), norm=nn.BatchNorm1d(features))


def _rnn(rnn: nn.Module) -> nn.Module:
    return block(lambda m, x: m.rnn(x)[0], rnn=rnn)
