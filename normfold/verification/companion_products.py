"""What products, quotients, powers and roots of computed values do to a magnitude: first order, at the actual values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from .companion import Companion, NoCompanionError
from .protos import constant_values
from .verdicts import Array

Attributes = dict[str, Any]


def mul(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    """|a|·A(b) + A(a)·|b| of two computed values; the product of the magnitudes where one is a constant."""
    left, right = node.input
    if c.is_constant(left) or c.is_constant(right):
        return c.define(node, c.op("Mul", [c.mag(left), c.mag(right)]))
    first = c.op("Mul", [c.reach(left), c.mag(right)])
    return c.define(node, _no_smaller(c, c.op("Add", [first, c.op("Mul", [c.mag(left), c.size_of(right)])])))


def _no_smaller(c: Companion, magnitude: str) -> str:
    """A product of computed values may fall below the smallest normal number, where rounding is absolute."""
    return c.op("Add", [magnitude, c.const(c.smallest)])


def div(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    """A(a)/|b| + |a|·A(b)/b²."""
    top, bottom = node.input
    divisor = c.size_of(bottom)
    error = c.op("Div", [c.mag(top), divisor])
    if not c.is_constant(bottom):
        relative = c.op("Div", [c.mag(bottom), divisor])
        error = c.op("Add", [error, c.op("Mul", [c.op("Div", [c.reach(top), divisor]), relative])])
    c.define(node, error)


def sqrt(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    """A/(2·√x) + √x."""
    c.define(node, _of_root(c, c.mag(node.input[0]), node.output[0]))


def _of_root(c: Companion, magnitude: str, root: str) -> str:
    """A/(2·√x) + √x, of the magnitude of x and the name of √x."""
    value = c.size_of(root)
    half = c.op("Mul", [c.op("Div", [magnitude, value]), c.const(0.5)])
    return c.op("Add", [half, value])


def reciprocal(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    """A/x² + 1/|x|."""
    value = c.size_of(node.output[0])
    growth = c.op("Mul", [c.mag(node.input[0]), c.op("Mul", [value, value])])
    c.define(node, c.op("Add", [growth, value]))


def raised(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    """|p|·|ξ|^(p−1)·A + |x|^p, with ξ between x and the exact value."""
    base, exponent = node.input
    given = constant(c, exponent)
    if given is None or given.size != 1:
        raise NoCompanionError("Pow without a constant scalar exponent has no rounding bound here")
    power = float(given.ravel()[0])
    value = c.size_of(node.output[0])
    if power >= 1:
        slope = c.op("Pow", [c.reach(base), c.const(np.float32(power - 1))])
    else:  # of roots and reciprocals the base is far from 0, or nothing can be said
        slope = c.op("Div", [value, c.size_of(base)])
    growth = c.op("Mul", [c.op("Mul", [slope, c.mag(base)]), c.const(abs(power))])
    c.define(node, _no_smaller(c, c.op("Add", [growth, value])))


def constant(c: Companion, name: str) -> Array | None:
    """The values of an initializer or of a Constant node, behind Casts; None if `name` is something else."""
    makers = {output: node for node in c.graph.node for output in node.output}
    while (maker := makers.get(name)) is not None:
        if maker.op_type == "Constant":
            return constant_values(maker)
        if maker.op_type not in ("Cast", "Identity"):
            return None
        name = maker.input[0]
    tensor = next((t for t in c.graph.initializer if t.name == name), None)
    return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def sum_of_squares(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Σ 2·|x|·A, and the square root of that for a norm."""
    base = node.input[0]
    square = c.op("Mul", [c.op("Add", [c.reach(base), c.size_of(base)]), c.mag(base)])
    axes = reduced_axes(c, node, attrs)
    total = c.reduce("ReduceSum", _no_smaller(c, square), axes, keepdims=attrs.get("keepdims", 1))
    if node.op_type == "ReduceL2":
        total = _of_root(c, total, node.output[0])
    c.define(node, total, length=c.size(base, axes))


def reduced_axes(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> Sequence[int]:
    """The axes of a reduction, given as attribute, as constant input, or not at all, which means all of them."""
    if "axes" in attrs:
        return [int(axis) for axis in attrs["axes"]]
    if len(node.input) > 1 and node.input[1]:
        given = constant(c, node.input[1])
        if given is None:
            raise NoCompanionError(f"the axes of {node.op_type} are not constant")
        if given.size:
            return [int(axis) for axis in given.ravel()]
    return [] if attrs.get("noop_with_empty_axes") else range(c.rank(node.input[0]))


def smooth_gate(c: Companion, magnitude: str) -> str:
    """A of y·sigmoid(y), of the magnitude of y: its slope is at most 1.1."""
    return c.op("Mul", [magnitude, c.const(2.1)])
