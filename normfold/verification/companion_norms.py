"""Companions of the normalisations: A = |γ|·(A(x) + mean A(x)) / √(σ² + ε) + |β| with the σ of the actual values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from .companion import Companion, NoCompanionError

Attributes = dict[str, Any]


def batch_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """|γ|·(A + |μ|) / √(v + ε) + |β|: the operator itself on absolute values and a negative mean."""
    if attrs.get("training_mode") or len([name for name in node.output if name]) > 1:
        raise NoCompanionError("BatchNormalization in training mode has no rounding bound")
    x, scale, bias, mean, var = node.input
    absolute = [c.mag(x), c.mag(scale), c.mag(bias), c.op("Neg", [c.mag(mean)]), c.wide(var)]
    c.define(node, c.op("BatchNormalization", absolute, epsilon=attrs.get("epsilon", 1e-5)))


def layer_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over the axes from `axis` on."""
    x, axes = node.input[0], _trailing(c, node, attrs)
    normal = _standardised(c, c.wide(x), c.mag(x), axes, attrs.get("epsilon", 1e-5))
    c.define(node, _affine(c, normal, node.input, None), length=c.size(x, axes))


def rms_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """|γ|·A / √(mean(x²) + ε)."""
    x, axes = node.input[0], _trailing(c, node, attrs)
    value = c.wide(x)
    square = c.reduce("ReduceMean", c.op("Mul", [value, value]), axes)
    normal = c.op("Div", [c.mag(x), _root(c, square, attrs.get("epsilon", 1e-5))])
    c.define(node, c.op("Mul", [normal, c.mag(node.input[1])]), length=c.size(x, axes))


def instance_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over the spatial axes of each channel."""
    x = node.input[0]
    rank = c.rank(x)
    axes = range(2, rank)
    normal = _standardised(c, c.wide(x), c.mag(x), axes, attrs.get("epsilon", 1e-5))
    c.define(node, _affine(c, normal, node.input, [-1, *[1] * (rank - 2)]), length=c.size(x, axes))


def group_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over (C / groups, spatial); γ and β per channel, or per group before opset 21."""
    x, groups = node.input[0], attrs["num_groups"]
    grouped = c.const([0, groups, -1], np.int64)
    view, magnitude = c.op("Reshape", [c.wide(x), grouped]), c.op("Reshape", [c.mag(x), grouped])
    normal = _standardised(c, view, magnitude, [2], attrs.get("epsilon", 1e-5))
    if c.opset < 21:
        normal = _affine(c, normal, node.input, [-1, 1])
    normal = c.op("Reshape", [normal, c.op("Shape", [x])])
    if c.opset >= 21:
        normal = _affine(c, normal, node.input, [-1, *[1] * (c.rank(x) - 2)])
    c.define(node, normal, length=c.size(x, range(1, c.rank(x))) // groups)


def _trailing(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> list[int]:
    rank = c.rank(node.input[0])
    return list(range(attrs.get("axis", -1) % rank, rank))


def _root(c: Companion, variance: str, epsilon: float) -> str:
    return c.op("Sqrt", [c.op("Add", [variance, c.const(epsilon)])])


def _standardised(c: Companion, value: str, magnitude: str, axes: Sequence[int], epsilon: float) -> str:
    centred = c.op("Sub", [value, c.reduce("ReduceMean", value, axes)])
    variance = c.reduce("ReduceMean", c.op("Mul", [centred, centred]), axes)
    spread = c.op("Add", [magnitude, c.reduce("ReduceMean", magnitude, axes)])
    return c.op("Div", [spread, _root(c, variance, epsilon)])


def _affine(c: Companion, normal: str, inputs: Sequence[str], shape: list[int] | None) -> str:
    result = normal
    for kind, name in zip(("Mul", "Add"), inputs[1:], strict=False):
        if name:
            operand = c.mag(name)
            shaped = operand if shape is None else c.op("Reshape", [operand, c.const(shape, np.int64)])
            result = c.op(kind, [result, shaped])
    return result
