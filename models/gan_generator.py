"""DCGAN generator: transposed convolutions, one of them grouped, each with a BatchNorm behind it.

The weight of a ConvTranspose is `[C_in, C_out / group, k, k]`: its output channels lie on axis 1 and, with groups,
partly on axis 0. Broadcasting the scale over the wrong axis runs without an error whenever the sizes agree, so the
grouped layer here has as many input as output channels. The first norm sits behind a Linear and a Reshape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import export
from models.ports import Port

if TYPE_CHECKING:
    from torch import nn  # noqa: TID251 - for annotations only, never executed


def gan_generator(seed: int = 0) -> ModelProto:
    """Build it with the TorchScript exporter; a quarter of the scales are negative."""
    return export(_net, [Port("z", ("batch", 32))], seed, negative=0.25)


def _net() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Linear(32, 16 * 4 * 4, bias=False),
        nn.Unflatten(1, (16, 4, 4)),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 24, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 24, 3, stride=2, padding=1, output_padding=1, groups=4),
        nn.BatchNorm2d(24),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(24, 12, 3, stride=1, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 4, stride=2, padding=1),
        nn.Tanh(),
    )
