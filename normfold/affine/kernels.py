"""Operators that compute with integers: nothing is absorbed there, and nothing passes."""

from __future__ import annotations

from normfold.affine.reasons import Refused
from normfold.model.graph import Node

_INTEGER = frozenset((
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits",
    "MatMulBnb4", "MatMulFpQ4", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere", "QAttention", "QOrderedMatMul", "QMoE", "GatherBlockQuantized",
))  # fmt: skip


def require_float(node: Node) -> None:
    """The node computes with floats, as far as its name tells; such operators exist in several domains.

    Raises:
        Refused: `quantised`.
    """
    if node.op_type in _INTEGER:
        raise Refused(
            "quantised", f"{node.op_type} {node.label!r}: folding would move values off its rounding grid", node.label
        )
