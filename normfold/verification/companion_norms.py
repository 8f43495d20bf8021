"""Companions of the normalisations: A = |γ|·(A(x) + mean A(x)) / √(σ² + ε) + |β| with the σ of the actual values.

The formula carries the condition (|mean| + σ)/√(σ² + ε) of a normalisation whose variance is computed in two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .companion import Companion, NoCompanionError

Attributes = dict[str, Any]
_ATTRIBUTE = 2.0**-24  # unit roundoff of the type of attributes, in which epsilon is stored
_MVN_EPSILON = 1e-18  # the square of what MeanVarianceNormalization adds to the standard deviation


@dataclass(frozen=True, slots=True)
class Standardised:
    """Names of magnitudes and values of one normalisation before its affine.

    Args:
        magnitude: A of the normalised value.
        normal: the normalised value itself.
        mean: its mean, "" of an RMS norm; `mean_magnitude` the companion of that.
        root: √(V + ε).
        moment_magnitude: A of V.
        ratio: (mean² + V) / (V + ε): how much one-pass arithmetic loses, in units of u.
    """

    magnitude: str
    normal: str
    mean: str
    mean_magnitude: str
    root: str
    moment_magnitude: str
    ratio: str


def standardised(
    c: Companion, value: str, magnitude: str, axes: Sequence[int], epsilon: float, *, centred: bool = True
) -> Standardised:
    """Magnitudes of normalising `value` (float32, with its `magnitude`) over `axes`."""
    mean = c.reduce("ReduceMean", value, axes) if centred else ""
    mean_magnitude = c.reduce("ReduceMean", magnitude, axes) if centred else ""
    deviation = c.op("Sub", [value, mean]) if centred else value
    spread = c.op("Add", [magnitude, mean_magnitude]) if centred else magnitude
    moment = c.reduce("ReduceMean", c.op("Mul", [deviation, deviation]), axes)
    shifted = c.op("Add", [moment, c.const(epsilon)])
    root = c.op("Sqrt", [shifted])
    growth = c.op("Mul", [c.op("Abs", [deviation]), spread])
    whole = c.reduce("ReduceMean", c.op("Mul", [value, value]), axes)
    normal = c.op("Div", [deviation, root])
    own = c.op("Div", [spread, root])
    if c.unit < _ATTRIBUTE:  # |y| · ε/(2·(V + ε)), in units of u: the attribute is ε rounded to float32
        share = c.op("Div", [c.const(epsilon / 2 * _ATTRIBUTE / c.unit), shifted])
        own = c.op("Add", [own, c.op("Mul", [c.op("Abs", [normal]), share])])
    return Standardised(
        magnitude=own,
        normal=normal,
        mean=mean,
        mean_magnitude=mean_magnitude,
        root=root,
        moment_magnitude=c.op("Mul", [c.reduce("ReduceMean", growth, axes), c.const(2)]),
        ratio=c.op("Div", [whole, shifted]),
    )


def affine(c: Companion, normal: str, parameters: Sequence[str], dims: Sequence[int] | None = None) -> str:
    """|γ|·A + |β| of the parameters that are there, each seen with `dims`."""
    result = normal
    for kind, name in zip(("Mul", "Add"), parameters, strict=False):
        if name:
            operand = c.mag(name)
            shaped = operand if dims is None else c.op("Reshape", [operand, c.const(list(dims), np.int64)])
            result = c.op(kind, [result, shaped])
    return result


def define_statistics(c: Companion, node: onnx.NodeProto, found: Standardised, length: int, first: int = 1) -> None:
    """Companions of the optional outputs: the mean (of a centred norm), then 1/√(V + ε)."""
    inverse = c.op("Reciprocal", [found.root])
    relative = c.op("Div", [found.moment_magnitude, c.op("Mul", [found.root, found.root])])
    growth = c.op("Mul", [inverse, c.op("Add", [relative, c.const(1)])])
    parts = [found.mean_magnitude, growth] if found.mean else [growth]
    for slot, magnitude in enumerate(parts, first):
        if len(node.output) > slot and node.output[slot]:
            c.define(node, magnitude, length=length, output=slot)


def batch_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """|γ|·(A + |μ|) / √(v + ε) + |β|; statistics that are computed bring their own error."""
    if attrs.get("training_mode") or len([name for name in node.output if name]) > 1:
        raise NoCompanionError("BatchNormalization in training mode has no rounding bound")
    x, scale, bias, mean, var = node.input
    epsilon = attrs.get("epsilon", 1e-5)
    gain, centre, spread = c.mag(scale), c.wide(mean), c.wide(var)
    absolute = [c.mag(x), gain, c.mag(bias), c.op("Neg", [c.mag(mean)]), spread]
    magnitude = c.op("BatchNormalization", absolute, epsilon=epsilon)
    if not c.is_constant(var):  # |γ·(x − μ)| · A(v) / (v + ε)^1.5
        dims = c.const([-1, *[1] * (c.rank(x) - 2)], np.int64)
        gain, centre, spread, error = (c.op("Reshape", [v, dims]) for v in (gain, centre, spread, c.mag(var)))
        shifted = c.op("Add", [spread, c.const(epsilon)])
        deviation = c.op("Abs", [c.op("Sub", [c.wide(x), centre])])
        normal = c.op("Mul", [c.op("Div", [deviation, c.op("Sqrt", [shifted])]), gain])
        magnitude = c.op("Add", [magnitude, c.op("Mul", [normal, c.op("Div", [error, shifted])])])
    c.define(node, magnitude)


def layer_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over the axes from `axis` on."""
    x, axes = node.input[0], _trailing(c, node, attrs)
    found = standardised(c, c.wide(x), c.mag(x), axes, attrs.get("epsilon", 1e-5))
    length = c.size(x, axes)
    c.define(node, affine(c, found.magnitude, node.input[1:]), length=length)
    define_statistics(c, node, found, length)


def rms_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """|γ|·A / √(mean(x²) + ε)."""
    x, axes = node.input[0], _trailing(c, node, attrs)
    found = standardised(c, c.wide(x), c.mag(x), axes, attrs.get("epsilon", 1e-5), centred=False)
    length = c.size(x, axes)
    c.define(node, affine(c, found.magnitude, node.input[1:2]), length=length)
    define_statistics(c, node, found, length)


def instance_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over the spatial axes of each channel."""
    x = node.input[0]
    rank = c.rank(x)
    axes = range(2, rank)
    found = standardised(c, c.wide(x), c.mag(x), axes, attrs.get("epsilon", 1e-5))
    c.define(node, affine(c, found.magnitude, node.input[1:], [-1, *[1] * (rank - 2)]), length=c.size(x, axes))


def variance_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """MeanVarianceNormalization: no affine, and an epsilon that only zero variance sees."""
    x, axes = node.input[0], [int(axis) for axis in attrs.get("axes", (0, 2, 3))]
    found = standardised(c, c.wide(x), c.mag(x), axes, _MVN_EPSILON)
    c.define(node, found.magnitude, length=c.size(x, axes))


def group_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Normalise over (C / groups, spatial); γ and β per channel, or per group before opset 21."""
    x, groups = node.input[0], attrs["num_groups"]
    grouped = c.const([0, groups, -1], np.int64)
    view, magnitude = c.op("Reshape", [c.wide(x), grouped]), c.op("Reshape", [c.mag(x), grouped])
    normal = standardised(c, view, magnitude, [2], attrs.get("epsilon", 1e-5)).magnitude
    if c.opset < 21:
        normal = affine(c, normal, node.input[1:], [-1, 1])
    normal = c.op("Reshape", [normal, c.op("Shape", [x])])
    if c.opset >= 21:
        normal = affine(c, normal, node.input[1:], [-1, *[1] * (c.rank(x) - 2)])
    c.define(node, normal, length=c.size(x, range(1, c.rank(x))) // groups)


def _trailing(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> list[int]:
    rank = c.rank(node.input[0])
    return list(range(attrs.get("axis", -1) % rank, rank))
