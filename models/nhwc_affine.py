"""A TensorFlow network as tf2onnx leaves it: NHWC data, Transposes around the convolutions, norms as Mul and Add.

The norm became an affine on the *last* axis, with constants of shape `[C]`, behind the Transpose that leads back to
NHWC. It folds into the convolution only through the axis map of that Transpose. Height, width and channels have the
same size in one place, where sizes cannot tell the axes apart; the decomposed norm there spells out its Rsqrt.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.ports import Port
from models.writing import Writer, model, statistics, value, value_of

SIDE = CHANNELS = 16  # equal on purpose
IMAGE = Port("x", ("batch", SIDE, SIDE, 3))


def nhwc_affine(seed: int = 0) -> ModelProto:
    """Write the model at opset 15."""
    w = Writer(seed)
    x = _preprocessed(w, IMAGE.name)
    x = w.op("Relu", _affine(w, _conv_nhwc(w, x, CHANNELS, 3), CHANNELS))
    x = w.op("Relu", _decomposed_norm(w, _conv_nhwc(w, x, CHANNELS, CHANNELS, group=CHANNELS), CHANNELS))
    pooled = w.op("ReduceMean", x, axes=[1, 2], keepdims=0)
    logits = w.op("MatMul", pooled, w.constant(w.rng.normal(0.0, CHANNELS**-0.5, (CHANNELS, 10))))
    w.op("Add", logits, w.constant(w.rng.normal(0.0, 0.3, 10)), name="y")
    return model(w.graph("nhwc_affine", [value_of(IMAGE)], value("y", ("batch", 10))), opset=15)


def _preprocessed(w: Writer, x: str) -> str:
    """Subtract a mean colour and divide by its deviation: an affine in front of a padded convolution."""
    centred = w.op("Sub", x, w.constant([0.485, 0.456, 0.406]))
    return w.op("Div", centred, w.constant([0.9, 1.1, 1.0]))


def _conv_nhwc(w: Writer, x: str, out: int, into: int, group: int = 1) -> str:
    channels_first = w.op("Transpose", x, perm=[0, 3, 1, 2])
    return w.op("Transpose", w.conv(channels_first, out, into, group=group), perm=[0, 2, 3, 1])


def _affine(w: Writer, x: str, channels: int) -> str:
    scale, shift, _, _ = statistics(w.rng, channels)
    return w.op("Add", w.op("Mul", x, w.constant(scale)), w.constant(shift))


def _decomposed_norm(w: Writer, x: str, channels: int) -> str:
    """Write `x * k + (beta - mean * k)` where `k = gamma / sqrt(variance + epsilon)` is computed by nodes."""
    gamma, beta, mean, variance = (w.constant(array) for array in statistics(w.rng, channels))
    spread = w.op("Sqrt", w.op("Add", variance, w.constant(np.float32(1e-3))))
    k = w.op("Mul", w.op("Reciprocal", spread), gamma)
    return w.op("Add", w.op("Mul", x, k), w.op("Sub", beta, w.op("Mul", mean, k)))
