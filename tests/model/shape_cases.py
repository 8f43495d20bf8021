"""Random uses of the operators that exporters write now and then: each builder takes a `Case` of `test_shapes`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

MS = "com.microsoft"
# These have no kernel on the CPU, so there is nothing to compare with.
WITHOUT_KERNEL = {"GroupNorm", "SkipGroupNorm"}


def top_k(c):
    dims = c.dims(c.int(1, 3))
    axis = c.int(-len(dims), len(dims) - 1)
    k = c.int(1, dims[axis])
    c.opset = c.pick(9, 11, 13)
    if c.opset == 9 and c.pick(0, 1):
        c.add("TopK", [c.data(dims), c.ints([k])], 2, axis=axis)
    else:
        c.add("TopK", [c.data(dims), c.ints([k])], 2, axis=None if axis == -1 else axis)


def arg(op):
    def build(c):
        dims = c.dims(c.int(1, 3))
        axis = c.int(-len(dims), len(dims) - 1)
        c.add(op, [c.data(dims)], axis=c.pick(None, axis) if axis == 0 else axis, keepdims=c.pick(None, 0, 1))

    return build


def tile(c):
    dims = c.dims(c.int(1, 3))
    c.add("Tile", [c.data(dims), c.ints([c.int(0, 3) for _ in dims])])


def tile_by_shape(c):
    x, like = c.data([1, 3]), c.data(c.dims(2))
    c.add("Tile", [x, c.add("Shape", [like])])


def non_zero(c):
    c.add("Transpose", [c.add("NonZero", [c.data(c.dims(c.int(1, 3)))])])


def one_hot(c):
    dims = c.dims(c.int(0, 3))
    indices = c.data(dims, np.int64, 0, 3)
    axis = c.pick(None, c.int(-len(dims) - 1, len(dims)))
    c.add("OneHot", [indices, c.ints(c.pick([4], 4)), c.weight([0, 1])], axis=axis)


def scatter_nd(c):
    dims = c.dims(3)
    c.add("ScatterND", [c.data(dims), c.ints([[0], [dims[0] - 1]]), c.data([2, *dims[1:]])])


def scatter_elements(op):
    def build(c):
        dims = c.dims(2)
        c.opset = 10 if op == "Scatter" else 13
        c.add(op, [c.data(dims), c.ints([[0]]), c.data([1, 1])], axis=c.int(0, 1))

    return build


def gather_elements(c):
    dims = c.dims(2)
    c.add("GatherElements", [c.data(dims), c.ints(np.zeros([dims[0], c.int(1, 4)]))], axis=1)


def gather_nd(c):
    dims, batch = c.dims(4), c.int(0, 1)
    width = c.int(1, 3 - batch)
    lead = [*dims[:batch], *c.dims(c.int(0, 2))]
    c.add("GatherND", [c.data(dims), c.ints(np.zeros([*lead, width]))], batch_dims=batch or None)


def compress(c):
    dims = c.dims(3)
    axis = c.pick(None, 0, -1)
    c.add("Compress", [c.data(dims), c.weight([True, False], bool)], axis=axis)


def boxes(c):
    c.add("NonMaxSuppression", [c.data([1, 5, 4]), c.data([1, 2, 5])])


def range_(c):
    c.add("Range", [c.data([], np.int64, 0, 2), c.weight(9, np.int64), c.weight(2, np.int64)])


def size(c):
    c.add("Size", [c.data(c.dims(2))])


def filled(c):
    like = c.data(c.dims(c.int(1, 3)))
    value = helper.make_tensor("", TensorProto.DOUBLE, [1], [2.0]) if c.pick(0, 1) else None
    c.add("ConstantOfShape", [c.add("Shape", [like])], value=value)


def einsum(c):
    a, b, d, e = c.dims(4)
    equation, dims = c.pick(
        ("ab,bd->ad", [[a, b], [b, d]]),
        ("abd,aed->abe", [[a, b, d], [a, e, d]]),
        ("ab -> ba", [[a, b]]),
        ("a,b->ab", [[a], [b]]),
        ("abd->b", [[a, b, d]]),
        ("abde,ade->abd", [[a, b, d, e], [a, d, e]]),
        ("...a,ab->...b", [[2, a], [a, b]]),
    )
    c.add("Einsum", [c.data(d) if c.pick(0, 1) else c.weight(np.ones(d)) for d in dims], equation=equation)


def grid_sample(c):
    n = c.int(1, 2)
    c.opset = c.pick(16, 20)
    c.add("GridSample", [c.data([n, 3, *c.dims(2, 2)]), c.data([n, *c.dims(2), 2])])


def roi_align(c):
    size = {} if c.pick(0, 1) else {"output_height": c.int(1, 3), "output_width": c.int(1, 3)}
    count = c.int(1, 4)
    c.add("RoiAlign", [c.data([1, 3, 8, 8]), c.data([count, 4]), c.ints(np.zeros(count))], **size)


def deform_conv(c):
    kernel, height = c.int(1, 3), c.int(4, 7)
    out = height - kernel + 1
    c.opset = 19
    x, offset = c.data([1, 2, height, height]), c.data([1, 2 * kernel * kernel, out, out])
    c.add("DeformConv", [x, c.weight(np.ones([3, 2, kernel, kernel])), offset], kernel_shape=[kernel, kernel])


def unpool(c):
    x = c.data([1, 2, 6, 6])
    pooled, indices = c.add("MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2])
    c.add("MaxUnpool", [pooled, indices], kernel_shape=[2, 2], strides=[2, 2])


def quantised_conv(c):
    rank = 2
    weight = c.weight(np.ones([4, 3, *c.dims(rank, 1, 3)]), np.uint8)
    scale, zero = c.weight(0.5), c.weight(1, np.uint8)
    x = c.data([1, 3, *c.dims(rank, 4, 8)], np.uint8, 0, 9)
    c.add("QLinearConv", [x, scale, zero, weight, scale, zero, scale, zero], strides=c.dims(rank, 1, 2))


def conv_integer(c):
    x = c.data([1, 3, *c.dims(2, 4, 8)], np.uint8, 0, 9)
    c.add("ConvInteger", [x, c.weight(np.ones([4, 3, 3, 3]), np.uint8)], pads=[1, 1, 0, 0])


def quantised_matmul(c):
    a, b, d, n = c.dims(4)
    scale, zero = c.weight(0.5), c.weight(1, np.uint8)
    inputs = [c.data([n, a, b], np.uint8, 0, 9), scale, zero, c.weight(np.ones([b, d]), np.uint8), scale, zero]
    c.add("QLinearMatMul", [*inputs, scale, zero])


def matmul_integer(c):
    a, b, d = c.dims(3)
    c.add("MatMulInteger", [c.data([a, b], np.uint8, 0, 9), c.weight(np.ones([b, d]), np.uint8)])


def dynamic_quantise(c):
    names = c.add("DynamicQuantizeLinear", [c.data(c.dims(2))], 3)
    c.add("DequantizeLinear", [names[0], names[1], names[2]])


def quantise_again(c):
    c.opset = 21
    q = c.add("QuantizeLinear", [c.data(c.dims(2)), c.weight(0.1)], output_dtype=c.pick(None, 2, 3))
    c.add("DequantizeLinear", [q, "w0"])


def branch(c, name, *nodes):
    return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info(f"{name}.out")])


def if_(c):
    a, b = c.data(c.dims(2)), c.data(c.pick(c.dims(2), c.dims(1)))
    condition = c.data([], bool, 0, 2)
    then, other = (helper.make_node("Relu", [x], [f"{n}.out"]) for n, x in (("then", a), ("else", c.pick(a, b))))
    c.add("If", [condition], then_branch=branch(c, "then", then), else_branch=branch(c, "else", other))


def loop(c):
    state, row = c.data(c.dims(2)), c.data([3])
    grows = c.pick(0, 1)
    infos = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [None, None]),
    ]
    step = helper.make_node("Concat", ["s", "s"], ["t"], axis=0) if grows else helper.make_node("Relu", ["s"], ["t"])
    nodes = [step, helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", [row], ["u"])]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("on", "t", "u")]
    body = helper.make_graph(nodes, "body", infos, outputs)
    c.add("Loop", [c.weight(c.int(0, 2), np.int64), "", state], 2, body=body)


def contrib(op, *dims, **attributes):
    def build(c):
        n = c.int(1, 3)
        c.add(op, [c.data([n, *d]) if d[:1] == (4,) else c.weight(np.ones(d)) for d in dims], domain=MS, **attributes)

    return build


def skip_norm(op):
    """With the sum as an output, and the statistics left out."""

    def build(c):
        n = c.int(1, 3)
        inputs = [c.data([n, 4, 8]), c.data([n, 4, 8]), c.weight(np.ones(8))]
        c.add(op, inputs, 4, domain=MS)
        c.nodes[-1].output[1] = c.nodes[-1].output[2] = ""

    return build


def embedding(c):
    n, length, hidden = c.int(1, 3), c.int(1, 5), c.int(2, 6)
    ids = c.data([n, length], np.int32, 0, 9)
    words, places, scale = c.weight(np.ones([9, hidden])), c.weight(np.ones([6, hidden])), c.weight(np.ones(hidden))
    c.add("EmbedLayerNormalization", [ids, "", words, places, "", scale, scale], 3, domain=MS)


def attention(c):
    n, length, wide, heads = c.int(1, 3), c.int(1, 5), c.int(2, 6), c.int(1, 2)
    sizes = [2 * heads, 2 * heads, heads * c.int(1, 3)]
    same = c.int(0, 1)
    total = 6 * heads if same else sum(sizes)
    more = {} if same else {"qkv_hidden_sizes": sizes}
    inputs = [c.data([n, length, wide]), c.weight(np.ones([wide, total])), c.weight(np.ones(total))]
    c.add("Attention", inputs, domain=MS, num_heads=heads, **more)


def fused_conv(c):
    x = c.data([1, 3, *c.dims(2, 4, 8)])
    c.add("FusedConv", [x, c.weight(np.ones([4, 3, 3, 3]))], domain=MS, activation="Relu", strides=c.dims(2, 1, 2))


def fused_matmul(c):
    a, b, d = c.dims(3)
    turned, other = c.int(0, 1), c.int(0, 1)
    x, w = c.data([2, b, a] if turned else [2, a, b]), c.weight(np.ones([d, b] if other else [b, d]))
    c.add("FusedMatMul", [x, w], domain=MS, transA=turned, transB=other, alpha=0.5)


def fused_gemm(c):
    a, b, d = c.dims(3)
    other = c.int(0, 1)
    w = c.weight(np.ones([d, b] if other else [b, d]))
    c.add("FusedGemm", [c.data([a, b]), w, c.weight(np.ones(d))], domain=MS, transB=other, activation="Relu")


def n_bits(c):
    columns, depth = c.int(1, 5), 32
    packed, scales = c.weight(np.ones([columns, 1, 16]), np.uint8), c.weight(np.ones(columns))
    c.add(
        "MatMulNBits",
        [c.data([2, c.int(1, 3), depth]), packed, scales],
        domain=MS,
        K=depth,
        N=columns,
        bits=4,
        block_size=32,
    )


def quantised_binary(op):
    def build(c):
        dims = c.dims(3)
        scale, zero = c.weight(0.5), c.weight(1, np.uint8)
        x, y = (c.data(d, np.uint8, 0, 9) for d in (dims, [c.pick(1, d) for d in dims]))
        c.add(op, [x, scale, zero, y, scale, zero, scale, zero], domain=MS)

    return build


def own_quantise(c):
    q = c.add("QuantizeLinear", [c.data(c.dims(3)), c.weight(0.1), c.weight(3, np.uint8)], domain=MS)
    c.add("DequantizeLinear", [q, "w0", "w1"], domain=MS)


def quantised_activation(op, **attributes):
    def build(c):
        scale, zero = c.weight(0.05), c.weight(0, np.uint8)
        c.add(op, [c.data(c.dims(3), np.uint8, 0, 9), scale, zero, scale, zero], domain=MS, **attributes)

    return build


def split_to_sequence(c):
    """One part of a split, by a list of lengths, by one length for all, or element by element."""
    dims = c.dims(c.int(1, 3), 2)
    axis = c.int(-len(dims), len(dims) - 1)
    size, way = dims[axis], c.pick("lengths", "length", "elements")
    first = c.int(1, size - 1)
    chunk = c.int(1, size)
    split = {"lengths": [c.ints([first, size - first])], "length": [c.ints(chunk)], "elements": []}[way]
    count = {"lengths": 2, "length": -(-size // chunk), "elements": size}[way]
    keep = c.pick(None, 0, 1)
    parts = c.add("SplitToSequence", [c.data(dims), *split], axis=axis, keepdims=keep)
    c.add("SequenceAt", [parts, c.ints(c.int(-count, count - 1))])


def sequence_construct(c):
    items = [c.data(c.dims(2)) for _ in range(c.int(1, 3))]
    c.add("SequenceAt", [c.add("SequenceConstruct", items), c.ints(c.int(-len(items), len(items) - 1))])


def reverse(c):
    x = c.data([3, 2, 4])
    c.add("ReverseSequence", [x, c.ints([1, 3])])


def is_infinite(c):
    c.add("IsInf", [c.data(c.dims(2))])


CASES = {
    "TopK": top_k,
    "ArgMax": arg("ArgMax"),
    "ArgMin": arg("ArgMin"),
    "Tile": tile,
    "tile by a shape": tile_by_shape,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements("ScatterElements"),
    "Scatter": scatter_elements("Scatter"),
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Compress": compress,
    "NonMaxSuppression": boxes,
    "Range": range_,
    "Size": size,
    "ConstantOfShape": filled,
    "Einsum": einsum,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
    "DeformConv": deform_conv,
    "MaxUnpool": unpool,
    "QLinearConv": quantised_conv,
    "ConvInteger": conv_integer,
    "QLinearMatMul": quantised_matmul,
    "MatMulInteger": matmul_integer,
    "DynamicQuantizeLinear": dynamic_quantise,
    "quantise and say to what": quantise_again,
    "If": if_,
    "Loop": loop,
    "ReverseSequence": reverse,
    "SequenceAt": split_to_sequence,
    "take out of a list": sequence_construct,
    "IsInf": is_infinite,
}
# How many elements there are depends on the data.
RANK_ONLY = {"Compress", "Loop", "NonMaxSuppression", "NonZero", "Range"}
CONTRIB = {
    "Gelu": contrib("Gelu", (4, 3)),
    "FastGelu": contrib("FastGelu", (4, 3), (3,)),
    "QuickGelu": contrib("QuickGelu", (4, 3)),
    "BiasGelu": contrib("BiasGelu", (4, 3), (3,)),
    "SkipLayerNormalization": skip_norm("SkipLayerNormalization"),
    "SkipSimplifiedLayerNormalization": skip_norm("SkipSimplifiedLayerNormalization"),
    "EmbedLayerNormalization": embedding,
    "Attention": attention,
    "FusedConv": fused_conv,
    "FusedMatMul": fused_matmul,
    "FusedGemm": fused_gemm,
    "MatMulNBits": n_bits,
    "QLinearAdd": quantised_binary("QLinearAdd"),
    "QLinearMul": quantised_binary("QLinearMul"),
    "QuantizeLinear": own_quantise,
    "DequantizeLinear": own_quantise,
    "QLinearSigmoid": quantised_activation("QLinearSigmoid"),
    "QLinearLeakyRelu": quantised_activation("QLinearLeakyRelu", alpha=0.1),
}
