"""Operators whose result has the shape of an operand, or of all of them broadcast; and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dims, broadcast
from normfold.model.shapes.rule import EVERY_INPUT, Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def same(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """The first output has the dimensions of the first input."""
    return shapes.known(node.input(0)) if slot == 0 else None


def _same_all(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return shapes.known(node.input(0))


def _batch_norm(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """As the data, with as many channels as there are scales: a fold may leave an Add of that many values here."""
    data, scale = shapes.known(node.input(0)), shapes.known(node.input(1))
    if slot or data is None or scale is None or len(data) < 2 or len(scale) != 1 or isinstance(data[1], int):
        return None if slot else data
    return (data[0], scale[0], *data[2:])


def _elementwise(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    if node.attributes.get("broadcast") is not None or node.attributes.get("axis") is not None:
        return shapes.known(node.input(0))  # before opset 7 the second operand is stretched to the first
    return broadcast([shapes.known(operand) for operand in node.inputs])


def _matmul(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return matmul_dims(shapes.known(node.input(0)), shapes.known(node.input(1)))


def matmul_dims(a: Dims | None, b: Dims | None) -> Dims | None:
    """The dimensions of a matrix product."""
    if a is None or b is None or not a or not b:
        return None
    batch = broadcast([a[:-2], b[:-2]])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return None if batch is None else (*batch, *rows, *columns)


def gemm(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """The dimensions of a Gemm."""
    a, b = shapes.known(node.input(0)), shapes.known(node.input(1))
    rows = a[1 if attributes.get(node, "transA", 0) else 0] if a is not None and len(a) == 2 else None
    columns = b[0 if attributes.get(node, "transB", 0) else 1] if b is not None and len(b) == 2 else None
    return (rows, columns)


_ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Mean", "Where", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "And", "Or", "Xor", "Mod", "PRelu",
)  # fmt: skip


UNARY = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid",
    "HardSwish", "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil", "Round",
    "Sign", "Sin", "Cos", "Identity", "Cast", "CastLike", "Softmax", "LogSoftmax", "Not", "LRN", "LpNormalization",
    "MeanVarianceNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "LayerNormalization", "SimplifiedLayerNormalization", "QuantizeLinear", "DequantizeLinear", "ThresholdedRelu", "Celu",
    "CumSum", "Trilu", "ImageScaler", "Affine", "ScatterND", "ScatterElements", "Scatter", "ReverseSequence", "Shrink",
    "Hardmax", "IsNaN", "IsInf", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, Rule(same)),
    **dict.fromkeys(_ELEMENTWISE, Rule(_elementwise, EVERY_INPUT)),
    "Dropout": Rule(_same_all),
    "BatchNormalization": Rule(_batch_norm, 2),
    "MatMul": Rule(_matmul, EVERY_INPUT),
    "Gemm": Rule(gemm, EVERY_INPUT),
}
