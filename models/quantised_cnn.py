"""A quantised network in QDQ form: int8 weights behind DequantizeLinear, with the norms still behind the convolutions.

Quantisation-aware training leaves it like this when it is exported before the norms are folded. The first weight has a
scale for each channel, the depthwise one a single scale, the third is a float that a QuantizeLinear rounds in the file.
A fold may multiply scales; the integers, and the rounding of the activations, must stay what they are.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.ports import IMAGE
from models.writing import Array, Writer, model, value, value_of

_LARGEST = 127  # symmetric: the lowest integer of int8 is not used


def quantised_cnn(seed: int = 0) -> ModelProto:
    """Write the model at opset 17."""
    w = Writer(seed)
    x = w.op("Conv", _activation(w, IMAGE.name, 0.03, 128), _per_channel(w, 12, 3, 3, 3), strides=[2, 2], pads=[1] * 4)
    x = _activation(w, w.op("Relu", w.batch_norm(x, 12)), 0.02, 0)
    x = w.op("Conv", x, _one_scale(w, 12, 1, 3, 3), pads=[1] * 4, group=12)
    x = _activation(w, w.op("Relu", w.batch_norm(x, 12)), 0.02, 0)
    x = w.op("Conv", x, _rounded(w, 16, 12, 1, 1), w.constant(w.rng.normal(0.0, 0.1, 16)))
    x = w.op("Relu", w.batch_norm(x, 16))
    x = w.op("Flatten", w.op("GlobalAveragePool", x))
    logits = w.op("Gemm", x, _per_channel(w, 10, 16), w.constant(w.rng.normal(0.0, 0.1, 10)), transB=1)
    w.op("Mul", logits, w.constant(w.rng.uniform(0.5, 1.5, 10)), name="y")
    return model(w.graph("quantised_cnn", [value_of(IMAGE)], value("y", ("batch", 10))))


def _activation(w: Writer, x: str, step: float, middle: int) -> str:
    """Round to uint8 and back."""
    scale, zero = w.constant(np.float32(step)), w.constant(np.uint8(middle))
    return w.op("DequantizeLinear", w.op("QuantizeLinear", x, scale, zero), scale, zero)


def _values(w: Writer, shape: tuple[int, ...]) -> Array:
    return w.rng.normal(0.0, float(np.prod(shape[1:])) ** -0.5, shape)


def _steps(values: Array, scale: Array) -> Array:
    return np.clip(np.rint(values / scale), -_LARGEST, _LARGEST).astype(np.int8)


def _per_channel(w: Writer, *shape: int) -> str:
    values = _values(w, shape)
    scale = np.abs(values).reshape(shape[0], -1).max(axis=1) / _LARGEST
    integers = w.constant(_steps(values, scale.reshape(-1, *[1] * (len(shape) - 1))))
    return w.op("DequantizeLinear", integers, w.constant(scale), w.constant(np.zeros(shape[0], np.int8)), axis=0)


def _one_scale(w: Writer, *shape: int) -> str:
    values = _values(w, shape)
    scale = np.abs(values).max() / _LARGEST
    return w.op("DequantizeLinear", w.constant(_steps(values, scale)), w.constant(scale))


def _rounded(w: Writer, *shape: int) -> str:
    values = _values(w, shape)
    scale, zero = w.constant(np.abs(values).max() / _LARGEST), w.constant(np.int8(0))
    return w.op("DequantizeLinear", w.op("QuantizeLinear", w.constant(values), scale, zero), scale, zero)
