"""Does a region work at any spatial size? Then one trial at the declared size is enough, the rest may be small."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .protos import TensorType, attributes

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "PRelu", "Sum")
_ANY_SIZE = (
    *_ELEMENTWISE, "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "Relu",
    "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Identity", "Dropout", "Neg", "Abs", "Cast", "Concat", "MaxPool",
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
)  # fmt: skip


def any_size(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> bool:
    """True if every input has spatial axes of one common size and no operator or constant depends on that size.

    A wrong False costs time only. Ask about both sides: the rewrite may need a size that the original did not.
    """
    spaces = {found.dims[2:] for found in types.values() if found.dims is not None}
    if len(spaces) != 1 or not next(iter(spaces)):
        return False
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return all(_allows(node, constants) for node in graph.node)


def _allows(node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]]) -> bool:
    if node.op_type not in _ANY_SIZE or (node.op_type == "Concat" and attributes(node).get("axis") != 1):
        return False
    if node.op_type not in _ELEMENTWISE:
        return True
    shapes = [constants[name] for name in node.input if name in constants]
    return all(shape in ((), (1,)) or (len(shape) > 1 and set(shape[-2:]) == {1}) for shape in shapes)
