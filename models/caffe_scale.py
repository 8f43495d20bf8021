"""A converted Caffe network: BatchNorm without an affine, followed by the Scale layer as Mul and Add.

Caffe splits the norm in two layers, and converters keep the split: BatchNormalization with scale 1 and bias 0, then
Mul and Add with `[C, 1, 1]` constants. The three nodes are one affine. One Scale stands on a residual Add with no norm
at all, and one is written with the constant first, divides, subtracts and negates.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.ports import Port
from models.writing import Writer, model, statistics, value, value_of

IMAGE = Port("x", ("batch", 3, "height", "width"))


def caffe_scale(seed: int = 0) -> ModelProto:
    """Write the model at opset 13."""
    w = Writer(seed)
    stem = w.op("Relu", _scale_layer(w, _batch_norm_layer(w, w.conv(IMAGE.name, 12, 3, bias=True), 12), 12))
    body = _scale_layer(w, _batch_norm_layer(w, w.conv(stem, 12, 12, group=4), 12), 12)
    joined = w.op("Relu", _scale_layer(w, w.op("Add", stem, body), 12))
    _mirrored_scale(w, w.conv(joined, 8, 12, kernel=1), 8)
    return model(w.graph("caffe_scale", [value_of(IMAGE)], value("y", ("batch", 8, "height", "width"))), opset=13)


def _batch_norm_layer(w: Writer, x: str, channels: int) -> str:
    _, _, mean, variance = statistics(w.rng, channels)
    unit = [w.constant(np.ones(channels)), w.constant(np.zeros(channels))]
    return w.op("BatchNormalization", x, *unit, w.constant(mean), w.constant(variance), epsilon=2e-5)


def _scale_layer(w: Writer, x: str, channels: int) -> str:
    scale, shift, _, _ = (array.reshape(channels, 1, 1) for array in statistics(w.rng, channels))
    return w.op("Add", w.op("Mul", x, w.constant(scale)), w.constant(shift))


def _mirrored_scale(w: Writer, x: str, channels: int) -> None:
    """Write `y = -((shift - x) / divisor) * scale`, with the per-channel constants `[1, C, 1, 1]`."""
    scale, shift, _, divisor = (w.constant(array.reshape(1, -1, 1, 1)) for array in statistics(w.rng, channels))
    quotient = w.op("Div", w.op("Sub", shift, x), divisor)
    w.op("Mul", scale, w.op("Neg", quotient), name="y")
