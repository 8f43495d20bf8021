"""Companions of onnxruntime's own norm operators.

The kernels of the residual norms compute E[x²] − E[x]², which loses (mean² + V)/(V + ε) in units of u; that is theirs to
lose, so it counts as rounding.
"""

from __future__ import annotations

import numpy as np
import onnx

from .companion import Companion, Rule
from .companion_norms import Attributes, Standardised, affine, define_statistics, standardised
from .companion_products import smooth_gate


def _skip_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes, *, centred: bool) -> None:
    inputs = [*node.input, "", "", ""]
    gamma, beta = inputs[2], inputs[3] if centred else ""
    parts = [name for name in (*inputs[:2], inputs[4 if centred else 3]) if name]
    total, magnitude = _sums(c, [c.wide(name) for name in parts]), _sums(c, [c.mag(name) for name in parts])
    found = standardised(c, total, magnitude, [-1], attrs.get("epsilon", 1e-12), centred=centred)
    length = c.size(node.input[0], [-1])
    lossy = c.op("Add", [found.magnitude, _one_pass(c, found)]) if centred else found.magnitude
    c.define(node, affine(c, lossy, (gamma, beta)), length=length)
    if centred:
        define_statistics(c, node, found, length)
    elif len(node.output) > 2:
        define_statistics(c, node, found, length, first=2)
    if len(node.output) > 3 and node.output[3]:
        c.define(node, magnitude, output=3)


def _sums(c: Companion, parts: list[str]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = c.op("Add", [total, part])
    return total


def _one_pass(c: Companion, found: Standardised) -> str:
    return c.op("Mul", [c.op("Abs", [found.normal]), found.ratio])


def _skip_layer_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    _skip_norm(c, node, attrs, centred=True)


def _skip_rms_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    _skip_norm(c, node, attrs, centred=False)


def _group_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    x, gamma, beta = node.input[:3]
    value, magnitude = (_flat(c, name, gamma, attrs) for name in (c.wide(x), c.mag(x)))
    _grouped(c, node, attrs, value, magnitude, gamma, beta)


def _skip_group_norm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    x, gamma, beta, skip, bias = [*node.input, ""][:5]
    values, magnitudes = ([_flat(c, ask(name), gamma, attrs) for name in (x, skip)] for ask in (c.wide, c.mag))
    if bias:
        dims = c.const([-1] if attrs.get("channels_last", 1) else [-1, 1], np.int64)
        values.append(c.op("Reshape", [c.wide(bias), dims]))
        magnitudes.append(c.op("Reshape", [c.mag(bias), dims]))
    total, magnitude = _sums(c, values), _sums(c, magnitudes)
    _grouped(c, node, attrs, total, magnitude, gamma, beta)
    if len(node.output) > 1 and node.output[1]:
        c.define(node, c.op("Reshape", [magnitude, c.op("Shape", [x])]), output=1)


def _flat(c: Companion, value: str, gamma: str, attrs: Attributes) -> str:
    """The value as [N, space, C], or [N, C, space]."""
    channels = c.size(gamma, [0])
    dims = [0, -1, channels] if attrs.get("channels_last", 1) else [0, channels, -1]
    return c.op("Reshape", [value, c.const(dims, np.int64)])


def _grouped(
    c: Companion, node: onnx.NodeProto, attrs: Attributes, value: str, magnitude: str, gamma: str, beta: str
) -> None:
    x, groups, last = node.input[0], int(attrs["groups"]), attrs.get("channels_last", 1)
    sides = [c.op("Transpose", [side], perm=[0, 2, 1]) if last else side for side in (value, magnitude)]
    view = c.const([0, groups, -1], np.int64)
    grouped = [c.op("Reshape", [side, view]) for side in sides]
    found = standardised(c, grouped[0], grouped[1], [2], attrs.get("epsilon", 1e-5))
    normal = c.op("Reshape", [found.magnitude, c.op("Shape", [sides[0]])])
    result = affine(c, normal, (gamma, beta), (-1, 1))
    result = smooth_gate(c, result) if attrs.get("activation") else result
    result = c.op("Transpose", [result], perm=[0, 2, 1]) if last else result
    length = c.size(x, range(1, c.rank(x))) // groups
    c.define(node, c.op("Reshape", [result, c.op("Shape", [x])]), length=length)


def _nhwc_conv(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Conv on absolute values, channels last."""
    x, weight = (c.op("Transpose", [c.mag(name)], perm=[0, 3, 1, 2]) for name in node.input[:2])
    bias = [c.mag(node.input[2])] if len(node.input) > 2 and node.input[2] else []
    found = c.op("Transpose", [c.op("Conv", [x, weight, *bias], **attrs)], perm=[0, 2, 3, 1])
    c.define(node, found, length=c.size(node.input[1], range(1, 4)))


CONTRIB: dict[str, Rule] = {
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "GroupNorm": _group_norm,
    "SkipGroupNorm": _skip_group_norm,
    "NhwcConv": _nhwc_conv,
}
