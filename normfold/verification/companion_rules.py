"""What each operator does to a magnitude. Norms are in `companion_norms`.

Linear operators take the magnitudes of all operands; monotone and 1-Lipschitz ones hand theirs on; smooth ones use
|f'|·A + |f|, the first-order growth of an error plus the rounding of the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from . import companion_norms as norms
from . import companion_products as products
from .companion import Companion, NoCompanionError, Rule

_SHAPE_QUESTIONS = ("Shape", "Size")
_FLOATS_OF_NONE = ("Constant", "ConstantOfShape", "Cast", "Range", "EyeLike", "DequantizeLinear")
_DISCONTINUOUS = "a decision (integer or bool) made from floating values has no rounding bound"
Attributes = dict[str, Any]


def passive(c: Companion, node: onnx.NodeProto) -> bool:
    """Handle a node that no floating data reaches: its results are the same on both sides. True if it was one."""
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise NoCompanionError(f"no rounding bound for operator {node.op_type}")
    data = [name for name in node.input if name and c.is_float(name) and not c.is_constant(name)]
    if data and node.op_type not in _SHAPE_QUESTIONS:
        if not any(name and c.is_float(name) for name in node.output):
            raise NoCompanionError(f"{node.op_type}: {_DISCONTINUOUS}")
        return False
    if node.op_type not in (*_SHAPE_QUESTIONS, *_FLOATS_OF_NONE):
        return not any(name and c.is_float(name) for name in node.output)
    for index, name in enumerate(node.output):
        if c.is_float(name):
            c.define(node, c.op("Abs", [c.wide(name)]), output=index)
        if node.op_type == "Constant":
            c.constants.add(name)
    return True


def _operand(c: Companion, name: str) -> str:
    return c.mag(name) if name and c.is_float(name) else name


def _same(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """The same operator on magnitudes: structure, sums, maxima and averages."""
    _same_first(c, node, attrs, count=len(node.input))


def _same_data(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """The same operator on the first input's magnitude; the other inputs are settings."""
    _same_first(c, node, attrs, count=1)


def _same_first(c: Companion, node: onnx.NodeProto, attrs: Attributes, *, count: int, length: int = 0) -> None:
    inputs = [_operand(c, name) if i < count else name for i, name in enumerate(node.input)]
    first = c.op(node.op_type, inputs, **attrs)
    floats = [i for i, name in enumerate(node.output) if name and c.is_float(name)]
    outputs = [f"{first}.{i}" if i in floats else "" for i in range(max(floats) + 1)]
    c.added[-1].output[:] = outputs
    for i in floats:
        c.define(node, outputs[i], output=i, length=length)


def _pool(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    _same_first(c, node, attrs, count=1, length=math.prod(attrs["kernel_shape"]))


def _global_pool(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    axes = range(2, c.rank(node.input[0]))
    _same_first(c, node, attrs, count=1, length=c.size(node.input[0], axes))


def _reduction(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    _same_first(c, node, attrs, count=1, length=c.size(node.input[0], products.reduced_axes(c, node, attrs)))


def _product(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """Π A, once for every factor: their relative errors add up."""
    axes = products.reduced_axes(c, node, attrs)
    whole = c.op("ReduceProd", [c.mag(node.input[0]), *node.input[1:]], **attrs)
    count = c.size(node.input[0], axes)
    c.define(node, c.op("Mul", [whole, c.const(max(1, count))]), length=count)


def _sum(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    kind = "Sum" if node.op_type == "Sum" else "Add"
    c.define(node, c.op(kind, [c.mag(name) for name in node.input]))


def _keep(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    c.define(node, c.mag(node.input[0]))


def _at_least_value(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    c.define(node, _larger(c, c.mag(node.input[0]), c.size_of(node.output[0])))


def _larger(c: Companion, left: str, right: str) -> str:
    if c.opset < 8:  # Max has no broadcasting yet; the sum is an upper bound of it
        return c.op("Add", [left, right])
    return c.op("Max", [left, right])


def _leaky(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    slope = max(1.0, abs(attrs.get("alpha", 1.0)))
    c.define(node, c.op("Mul", [c.mag(node.input[0]), c.const(slope)]))


def _prelu(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    slope = c.op("Add", [c.mag(node.input[1]), c.const(1)])
    c.define(node, c.op("Mul", [c.mag(node.input[0]), slope]))


def _conv(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    weight = node.input[1]
    products = c.size(weight, range(1, c.rank(weight)))
    _same_first(c, node, attrs, count=3, length=products)


def _conv_transpose(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    weight, rank = node.input[1], c.rank(node.input[1])
    taps = [math.ceil(c.size(weight, [2 + i]) / stride) for i, stride in enumerate(_strides(attrs, rank - 2))]
    channels = c.size(weight, [0]) // attrs.get("group", 1)
    _same_first(c, node, attrs, count=3, length=channels * math.prod(taps))


def _strides(attrs: Attributes, rank: int) -> list[int]:
    return list(attrs.get("strides") or [1] * rank)


def _gemm(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    inner = c.size(node.input[1], [1 if attrs.get("transB") else 0])
    absolute = {key: abs(value) if key in ("alpha", "beta") else value for key, value in attrs.items()}
    _same_first(c, node, absolute, count=3, length=inner)


def _matmul(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    left, right = node.input
    try:
        inner = c.size(right, [-2 if c.rank(right) > 1 else 0])
    except NoCompanionError:
        inner = c.size(left, [-1])
    _same_first(c, node, attrs, count=2, length=inner)


def _pad(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    absolute = {key: abs(value) if key == "value" else value for key, value in attrs.items()}
    _same_first(c, node, absolute, count=len(node.input))


def _resize(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    if attrs.get("mode") == b"cubic":
        raise NoCompanionError("cubic Resize has negative weights and no rounding bound here")
    absolute = {key: abs(value) if key == "extrapolation_value" else value for key, value in attrs.items()}
    _same_first(c, node, absolute, count=1)


def _where(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    c.define(node, c.op("Where", [node.input[0], c.mag(node.input[1]), c.mag(node.input[2])], **attrs))


def _min(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
    c.define(node, c.op("Max", [c.mag(name) for name in node.input]))


def _smooth(slope: float) -> Rule:
    """|f'| ≤ slope everywhere."""

    def rule(c: Companion, node: onnx.NodeProto, _: Attributes) -> None:
        growth = c.op("Mul", [c.mag(node.input[0]), c.const(slope)])
        c.define(node, c.op("Add", [growth, c.op("Abs", [c.wide(node.output[0])])]))

    return rule


def _reduce_min(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    """A minimum is no larger in magnitude than the largest magnitude."""
    largest = c.op("ReduceMax", [c.mag(node.input[0]), *node.input[1:]], **attrs)
    c.define(node, largest)


def _image_scaler(c: Companion, node: onnx.NodeProto, attrs: Attributes) -> None:
    bias = np.abs(np.asarray(attrs.get("bias", ()), np.float32)).reshape(1, -1, 1, 1)
    scaled = c.op("Mul", [c.mag(node.input[0]), c.const(abs(attrs.get("scale", 1.0)))])
    c.define(node, c.op("Add", [scaled, c.const(bias)]))


_STRUCTURE = (
    "Gather", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Identity",
    "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "MaxPool", "GlobalMaxPool", "ReduceMax", "Max", "GatherElements",
    "GatherND",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_STRUCTURE, _same),
    **dict.fromkeys(("Upsample", "GridSample", "RoiAlign"), _same_data),
    **dict.fromkeys(("AveragePool", "LpPool"), _pool),
    "GlobalAveragePool": _global_pool,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceL1"), _reduction),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL2"), products.sum_of_squares),
    "GlobalLpPool": _global_pool,
    "ReduceMin": _reduce_min,
    "ReduceProd": _product,
    "ImageScaler": _image_scaler,
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Mul": products.mul,
    "Div": products.div,
    **dict.fromkeys(("Neg", "Abs", "Relu", "Dropout", "Cast"), _keep),
    "Clip": _at_least_value,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Resize": _resize,
    "Where": _where,
    "Min": _min,
    "Sqrt": products.sqrt,
    "Reciprocal": products.reciprocal,
    "Pow": products.raised,
    **dict.fromkeys(("Sigmoid", "HardSigmoid"), _smooth(0.25)),
    **dict.fromkeys(("Tanh",), _smooth(1.0)),
    **dict.fromkeys(("Erf", "Gelu", "HardSwish", "Elu", "Selu", "Softplus", "Softsign", "Mish"), _smooth(1.8)),
    "BatchNormalization": norms.batch_norm,
    "InstanceNormalization": norms.instance_norm,
    "LayerNormalization": norms.layer_norm,
    "GroupNormalization": norms.group_norm,
    "RMSNormalization": norms.rms_norm,
    "SimplifiedLayerNormalization": norms.rms_norm,
    "MeanVarianceNormalization": norms.variance_norm,
}
