"""Operators of onnxruntime's own domain, as its optimiser and its quantiser write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node, Value
from normfold.model.shapes.dims import Dims, broadcast
from normfold.model.shapes.elementwise import gemm, matmul_dims, same
from normfold.model.shapes.rule import Rule
from normfold.model.shapes.windows import conv_dims

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes

DOMAIN = "com.microsoft"
# The first output has the shape of the first input.
_SAME = (
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "GroupNorm", "QuantizeLinear",
    "DequantizeLinear", "QLinearLeakyRelu", "QLinearSigmoid",
)  # fmt: skip
# The output in which an operator leaves the sum that it normalises: it has the shape of the first input, too.
_SUM = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1}
# The first output, and the sum, have the element type of the first input.
_SAME_TYPE = (
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "GroupNorm", "FusedConv", "NhwcConv", "FusedMatMul", "FusedGemm",
    "MatMulNBits", *_SUM,
)  # fmt: skip


def keeps_type(value: Value, node: Node) -> bool:
    """Whether an output of an operator of this domain has the element type of the first input."""
    return node.domain == DOMAIN and node.op_type in _SAME_TYPE and value.output_slot in (0, _SUM.get(node.op_type, 0))


def _normalised_sum(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """Of what is normalised; the other operand broadcasts to it. The statistics behind it are left out."""
    return shapes.known(node.input(0)) if slot in (0, _SUM[node.op_type]) else None


def _nhwc_conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """A convolution of `[N, *spatial, C]` with weights `[M, *kernel, C/g]`."""
    made = conv_dims(node, *(_channels_second(shapes.known(node.input(i))) for i in range(2)))
    return None if made is None else (made[0], *made[2:], made[1])


def _channels_second(dims: Dims | None) -> Dims | None:
    return None if dims is None else (dims[0], dims[-1], *dims[1:-1])


def _fused_conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return conv_dims(node, shapes.known(node.input(0)), shapes.known(node.input(1)))


def _fused_matmul(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    if attributes.get(node, "transBatchA", 0) or attributes.get(node, "transBatchB", 0):
        return None
    a, b = (_turned(shapes, node, i, name) for i, name in enumerate(("transA", "transB")))
    return matmul_dims(a, b)


def _turned(shapes: Shapes, node: Node, slot: int, name: str) -> Dims | None:
    dims = shapes.known(node.input(slot))
    if dims is None or not attributes.get(node, name, 0):
        return dims
    return None if len(dims) < 2 else (*dims[:-2], dims[-1], dims[-2])


def _n_bits(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, columns = shapes.known(node.input(0)), attributes.get(node, "N", None)
    return None if data is None or columns is None else (*data[:-1], int(columns))


def _qlinear_binary(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return broadcast([shapes.known(node.input(0)), shapes.known(node.input(3))])


RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, Rule(same)),
    **dict.fromkeys(_SUM, Rule(_normalised_sum)),
    "NhwcConv": Rule(_nhwc_conv, 2),
    "FusedConv": Rule(_fused_conv, 2),
    "FusedMatMul": Rule(_fused_matmul, 2),
    "FusedGemm": Rule(gemm, 2),
    "MatMulNBits": Rule(_n_bits),
    "QLinearAdd": Rule(_qlinear_binary, 4),
    "QLinearMul": Rule(_qlinear_binary, 4),
}
