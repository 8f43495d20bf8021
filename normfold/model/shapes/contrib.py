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
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "GroupNorm", "QuantizeLinear", "DequantizeLinear", "QLinearLeakyRelu",
    "QLinearSigmoid",
)  # fmt: skip
# Where the sum is given out that a norm normalises; it is like the first output.
_SUMS = {
    "SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1, "EmbedLayerNormalization": 2,
}  # fmt: skip
# The input that the first output has the element type of.
_TYPED_LIKE = {
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "FusedConv", "NhwcConv"), 0),
    **dict.fromkeys(
        ("FusedMatMul", "FusedGemm", "GroupNorm", "Attention", "MultiHeadAttention", "MatMulNBits", *_SUMS), 0
    ),
    "EmbedLayerNormalization": 2,
}


def type_source(node: Node, slot: int) -> Value | None:
    """The input whose element type an output has, None if that is not known."""
    if slot not in (0, _SUMS.get(node.op_type)) or node.op_type not in _TYPED_LIKE:
        return None
    return node.input(_TYPED_LIKE[node.op_type])


def _skip_norm(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return shapes.known(node.input(0)) if slot in (0, _SUMS[node.op_type]) else None


def _embedding(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    ids, words = shapes.known(node.input(0)), shapes.known(node.input(2))
    is_embedded = slot in (0, _SUMS[node.op_type])
    return (*ids, words[1]) if is_embedded and ids is not None and words is not None and len(words) == 2 else None


def _attention(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """`[batch, length, hidden]`; the weight holds those of query, key and value side by side."""
    data, weight = shapes.known(node.input(0)), shapes.known(node.input(1))
    if slot or data is None or weight is None or len(data) != 3 or len(weight) != 2:
        return None
    hidden = attributes.ints(node, "qkv_hidden_sizes")
    if hidden is not None:
        return (*data[:2], hidden[2])
    return (*data[:2], weight[1] // 3 if isinstance(weight[1], int) else None)


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
    **dict.fromkeys(_SUMS, Rule(_skip_norm)),
    "EmbedLayerNormalization": Rule(_embedding, 3),
    "Attention": Rule(_attention, 2),
    "NhwcConv": Rule(_nhwc_conv, 2),
    "FusedConv": Rule(_fused_conv, 2),
    "FusedMatMul": Rule(_fused_matmul, 2),
    "FusedGemm": Rule(gemm, 2),
    "MatMulNBits": Rule(_n_bits),
    "QLinearAdd": Rule(_qlinear_binary, 4),
    "QLinearMul": Rule(_qlinear_binary, 4),
}
