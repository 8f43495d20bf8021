"""Companion magnitudes: one more value per value, the scale that its rounding error is measured in.

For every floating value v the companion A(v) ≥ |v| is what v becomes when every constant, input and product counts
with its absolute value. The error of v is then at most about K·u·A(v), whatever cancels in v itself. Where two values
that are both computed meet in a product or a quotient, the first-order growth at the actual values counts, with room for
what an error of both adds (Higham, Accuracy and Stability of Numerical Algorithms, §3): a product of magnitudes would
square the condition of a variance. Companions are float32; they are added to the graph, so one run gives values and
magnitudes. What each operator does to a magnitude stands in `companion_rules`, `companion_norms` and
`companion_contrib`; an operator without an entry raises `NoCompanionError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .bound import SMALLEST_NORMAL, UNIT_ROUNDOFF, lines
from .definitions import MICROSOFT, key
from .protos import FLOATS, TensorType, attributes, opset

SUFFIX = "::A"


# Operators that multiply by constants: one rounding of each constant costs u·A per operator on the path.
_SCALING = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Div", "PRelu", "BatchNormalization", "InstanceNormalization",
    "LayerNormalization", "GroupNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "GroupNorm", "SkipGroupNorm", "NhwcConv",
    "DequantizeLinear",
)  # fmt: skip


class NoCompanionError(Exception):
    """There is no rule for an operator of the region."""


class Companion:
    """The companion graph of one region, under construction.

    Args:
        model: the region; its floats are float32 or float16. Nodes and outputs are added to it.
        types: types of its values with the dims of the largest trial.
        halves: initializers that are stored in float16, whatever they run in.
        elem: the coarsest floating type that it is computed in.
    """

    def __init__(
        self, model: onnx.ModelProto, types: Mapping[str, TensorType], halves: Collection[str], elem: int
    ) -> None:
        self.unit, self.smallest = UNIT_ROUNDOFF[elem], SMALLEST_NORMAL[elem]
        self.model, self.graph, self.types = model, model.graph, types
        self.opset = opset(model)
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.names: dict[str, str] = {}
        self.halves = halves
        self.lengths: dict[str, int] = {}
        self.scalings: dict[str, int] = {}
        self.counter = 0
        self.added: list[onnx.NodeProto] = []

    def is_float(self, name: str) -> bool:
        """True if value `name` is a floating tensor."""
        if name not in self.types:
            raise NoCompanionError(f"the type of {name!r} is unknown")
        return self.types[name].elem in FLOATS

    def op(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attrs: Any) -> str:
        """Add a node with one output and return its name."""
        self.counter += 1
        name = f"{kind}{SUFFIX}{self.counter}"
        self.added.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attrs))
        return name

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        """Add an initializer and return its name."""
        self.counter += 1
        name = f"const{SUFFIX}{self.counter}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def wide(self, name: str) -> str:
        """Return the value `name` itself as float32."""
        if self.types[name].elem == TensorProto.FLOAT:
            return name
        return self.op("Cast", [name], to=TensorProto.FLOAT)

    def size_of(self, name: str) -> str:
        """Return |v| of the value `name`, as float32."""
        return self.op("Abs", [self.wide(name)])

    def reach(self, name: str) -> str:
        """Return |v| plus the largest error that passes: no larger than the exact value of `name` can be."""
        if self.is_constant(name):
            return self.mag(name)
        error = lines(self.lengths.get(name, 1), self.unit).passing
        return self.op("Add", [self.size_of(name), self.op("Mul", [self.mag(name), self.const(error)])])

    def mag(self, name: str) -> str:
        """Return the companion of floating value `name`; that of a constant is made on first use."""
        if name not in self.names:
            if name not in self.constants:
                raise NoCompanionError(f"{name!r} has no companion")
            self.names[name] = self._magnitude_of_constant(name)
        return self.names[name]

    def _magnitude_of_constant(self, name: str) -> str:
        magnitude = self.op("Abs", [self.wide(name)])
        if name not in self.halves or self.opset < 8:
            return magnitude
        # A float16 constant is rounded to a multiple of 2⁻²⁴ however small it is, so it counts as a normal number.
        return self.op("Max", [magnitude, self.const(SMALLEST_NORMAL[TensorProto.FLOAT16])])

    def is_constant(self, name: str) -> bool:
        """True if `name` is an initializer or the output of a Constant node."""
        return name in self.constants

    def define(self, node: onnx.NodeProto, magnitude: str, *, length: int = 0, output: int = 0) -> None:
        """Make `magnitude` the companion of an output of `node`, which adds `length` to the reduction length."""
        target = node.output[output]
        self.names[target] = magnitude
        known = [self.lengths.get(name, 0) for name in node.input if name]
        self.lengths[target] = max(known, default=0) + length
        scaled = [self.scalings.get(name, 0) for name in node.input if name]
        self.scalings[target] = max(scaled, default=0) + (node.op_type in _SCALING)

    def rank(self, name: str) -> int:
        """Return the rank of `name`."""
        rank = self.types[name].rank if name in self.types else None
        if rank is None:
            raise NoCompanionError(f"the rank of {name!r} is unknown")
        return rank

    def size(self, name: str, axes: Sequence[int]) -> int:
        """Return the number of elements of `name` along `axes`."""
        sizes = [self.types[name].dim(axis) if name in self.types else None for axis in axes]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            raise NoCompanionError(f"the dims of {name!r} are unknown")
        return int(np.prod(known, dtype=np.int64))

    def reduce(self, kind: str, value: str, axes: Sequence[int], *, keepdims: int = 1) -> str:
        """Add ReduceMean, ReduceSum or ReduceMax over `axes`."""
        by_input = self.opset >= (13 if kind == "ReduceSum" else 18)
        if by_input:
            return self.op(kind, [value, self.const(axes, np.int64)], keepdims=keepdims)
        return self.op(kind, [value], axes=list(axes), keepdims=keepdims)


Rule = Callable[[Companion, onnx.NodeProto, dict[str, Any]], None]


def add_companion(
    model: onnx.ModelProto,
    types: Mapping[str, TensorType],
    halves: Collection[str] = (),
    elem: int = TensorProto.FLOAT,
) -> tuple[int, int]:
    """Add companions to `model`, in place, as inputs and outputs named `value + SUFFIX`.

    Every floating graph input x gets a float32 input `x::A` to be fed with its magnitudes, every floating output y
    an output `y::A`. `halves` names the initializers that are stored in float16, `elem` is the coarsest floating type
    that the model is computed in.

    Returns:
        The reduction length K and the number of scaling operators, both along the longest path to an output.

    Raises:
        NoCompanionError: an operator has no rule or a needed type is unknown; `model` is then left half-made.
    """
    from .companion_contrib import CONTRIB
    from .companion_rules import RULES, passive  # the tables are built on this module's class

    companion = Companion(model, types, halves, elem)
    if companion.opset < 7:
        raise NoCompanionError(f"opset {companion.opset} is older than broadcasting")
    for info in list(model.graph.input):
        if info.name not in companion.constants and companion.is_float(info.name):
            _add_input(companion, info.name)
    for node in model.graph.node:
        domain, kind = key(node)
        rule = CONTRIB.get(kind) if domain == MICROSOFT else None if domain else RULES.get(kind)
        if passive(companion, node):
            continue
        if rule is None:
            raise NoCompanionError(f"no rounding bound for operator {node.domain or 'ai.onnx'}.{node.op_type}")
        rule(companion, node, attributes(node))
    for info in list(model.graph.output):
        if companion.is_float(info.name):
            companion.op("Identity", [companion.mag(info.name)])
            companion.added[-1].output[0] = info.name + SUFFIX
            model.graph.output.append(helper.make_empty_tensor_value_info(info.name + SUFFIX))
    model.graph.node.extend(companion.added)
    names = [info.name for info in model.graph.output]
    length, scalings = (
        max((found.get(name, 0) for name in names), default=0) for found in (companion.lengths, companion.scalings)
    )
    return length, scalings


def _add_input(companion: Companion, name: str) -> None:
    companion.names[name] = name + SUFFIX
    dims = companion.types[name].dims
    free = None if dims is None else [None] * len(dims)
    companion.graph.input.append(helper.make_tensor_value_info(name + SUFFIX, TensorProto.FLOAT, free))
