"""A derived dimension is never another than onnxruntime's: random uses of every operator that has a rule."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes, broadcast
from normfold.model.shapes.contrib import RULES as CONTRIB_RULES
from normfold.model.shapes.elementwise import UNARY
from normfold.model.shapes.table import RULES

from . import shape_cases
from .build import FLOAT, actual, net, node, viewed

REFUSALS = tuple(
    getattr(ort_errors, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
        "InvalidProtobuf",
    )
)
SEEDS = 60


class Case:
    """One use of an operator: data inputs that stay inputs, parameters that are weights."""

    def __init__(self, rng):
        self.rng = rng
        self.nodes, self.feeds, self.weights = [], {}, {}
        self.opset = 17
        self.domain = ""

    def int(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def pick(self, *items):
        return items[self.int(0, len(items) - 1)]

    def dims(self, rank, low=1, high=7):
        return [self.int(low, high) for _ in range(rank)]

    def data(self, dims, dtype=np.float32, low=0.1, high=1.0):
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.rng.uniform(low, high, dims).astype(dtype)
        return name

    def weight(self, values, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def ints(self, values):
        return self.weight(values, np.int64)

    def add(self, op, inputs, outputs=1, **attributes):
        names = [f"y{len(self.nodes)}_{i}" for i in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names


def window(c, rank, *, ceil=True):
    """Random attributes of a sliding window of a given rank."""
    kernel = c.dims(rank, 1, 3)
    attributes = {"kernel_shape": kernel}
    if c.pick(0, 1):
        attributes["strides"] = c.dims(rank, 1, 3)
    if c.pick(0, 1):
        attributes["dilations"] = c.dims(rank, 1, 2)
    mode = c.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", None)
    if mode:
        attributes["auto_pad"] = mode
    if mode in ("NOTSET", None) and c.pick(0, 1):
        attributes["pads"] = [c.int(0, k - 1) for k in kernel * 2]
    if ceil and c.pick(0, 1):
        attributes["ceil_mode"] = 1
    return attributes


def conv(c):
    rank, group = c.int(1, 3), c.int(1, 3)
    attributes = window(c, rank, ceil=False)
    kernel = attributes["kernel_shape"]
    if c.pick(0, 1):
        del attributes["kernel_shape"]
    x = c.data([c.int(1, 2), group * 2, *c.dims(rank, 4, 9)])
    c.add("Conv", [x, c.weight(np.ones((group * c.int(1, 2), 2, *kernel)))], group=group, **attributes)


def conv_transpose(c):
    rank, group = c.int(1, 2), c.int(1, 3)
    attributes = window(c, rank, ceil=False)
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * rank)
    if c.pick(0, 1):
        attributes["output_padding"] = [c.int(0, s - 1) for s in strides]
    x = c.data([c.int(1, 2), group * 2, *c.dims(rank, 3, 6)])
    if not c.int(0, 4):
        attributes["output_shape"] = c.dims(rank, 9, 12)
        attributes.pop("pads", None)
    c.add("ConvTranspose", [x, c.weight(np.ones((group * 2, c.int(1, 2), *kernel)))], group=group, **attributes)


def pool(op):
    def build(c):
        rank = c.int(1, 3)
        attributes = window(c, rank)
        if op == "AveragePool":
            c.opset = c.pick(11, 19, 22)
            if c.opset == 11:
                attributes.pop("dilations", None)
        if op == "LpPool":
            c.opset = c.pick(11, 18, 22)
            if c.opset == 11:
                attributes.pop("dilations", None)
                attributes.pop("ceil_mode", None)
        if op == "MaxPool":
            c.opset = c.pick(8, 12, 17)
            if c.opset == 8:
                attributes.pop("dilations", None)
                attributes.pop("ceil_mode", None)
        c.add(op, [c.data([c.int(1, 2), 3, *c.dims(rank, 5, 9)])], **attributes)

    return build


def unary(op, **attributes):
    def build(c):
        c.opset = 20
        c.add(op, [c.data(c.dims(c.int(2, 4)))], **attributes)

    return build


def elementwise(op, dtype=np.float32, count=2):
    def build(c):
        full = c.dims(c.int(0, 4))
        names = []
        for _ in range(c.int(1, 3) if count is None else count):
            dims = [1 if c.int(0, 2) == 0 else d for d in full][c.int(0, len(full)) :]
            names.append(c.data(dims, dtype, 1, 5) if c.pick(0, 1) else c.weight(np.ones(dims), dtype))
        c.add(op, names)

    return build


def where(c):
    full = c.dims(3)
    parts = [[1 if c.int(0, 2) == 0 else d for d in full][c.int(0, 2) :] for _ in range(3)]
    c.add("Where", [c.data(parts[0], bool, 0, 2), c.data(parts[1]), c.data(parts[2])])


def matmul(c):
    k, batch = c.int(1, 4), c.dims(c.int(0, 2))
    a = [[k], [c.int(1, 4), k], [*batch, c.int(1, 4), k]][c.int(0, 2)]
    b = [[k], [k, c.int(1, 4)], [*[1 if c.pick(0, 1) else d for d in batch], k, c.int(1, 4)]][c.int(0, 2)]
    c.add("MatMul", [c.data(a), c.data(b) if c.pick(0, 1) else c.weight(np.ones(b))])


def gemm(c):
    m, k, n = c.dims(3)
    a, b = c.int(0, 1), c.int(0, 1)
    inputs = [c.data([k, m] if a else [m, k]), c.weight(np.ones([n, k] if b else [k, n]))]
    c.add("Gemm", [*inputs, *([c.weight(np.ones(n))] if c.pick(0, 1) else [])], transA=a or None, transB=b or None)


def transpose(c):
    rank = c.int(1, 4)
    c.add("Transpose", [c.data(c.dims(rank))], perm=c.pick(None, [int(i) for i in c.rng.permutation(rank)]))


def reshape_target(c, dims):
    """A legal target for the dims: regrouped, with 0 and -1 here and there."""
    target, rest = [], list(dims)
    while rest:
        count = c.int(1, len(rest))
        target.append(int(np.prod(rest[:count])))
        rest = rest[count:]
    if c.pick(0, 1):
        target.insert(c.int(0, len(target)), 1)
    for i, size in enumerate(target):
        if i < len(dims) and dims[i] == size and c.pick(0, 1):
            target[i] = 0
    if target and c.pick(0, 1):
        at = c.int(0, len(target) - 1)
        target[at] = -1
    return target


def reshape(c):
    dims = c.dims(c.int(1, 4), c.pick(0, 1, 1, 1), 6)
    x = c.data(dims)
    if c.int(0, 5) == 0:
        c.opset = 14
        c.add("Reshape", [x, c.ints(reshape_target(c, dims))], allowzero=1)
    else:
        c.add("Reshape", [x, c.ints(reshape_target(c, dims))])


def flatten(c):
    rank = c.int(0, 4)
    c.add("Flatten", [c.data(c.dims(rank))], axis=c.pick(None, c.int(-rank, rank)))


def squeeze(c):
    dims = [c.pick(1, d) for d in c.dims(c.int(1, 4))]
    ones = [i for i, d in enumerate(dims) if d == 1]
    chosen = [i - len(dims) if c.pick(0, 1) else i for i in ones if c.pick(0, 1)]
    c.opset = c.pick(11, 13)
    if not chosen or c.pick(0, 1, 1) == 0:
        c.add("Squeeze", [c.data(dims)])
    elif c.opset == 11:
        c.add("Squeeze", [c.data(dims)], axes=chosen)
    else:
        c.add("Squeeze", [c.data(dims), c.ints(chosen)])


def unsqueeze(c):
    rank, count = c.int(0, 3), c.int(1, 3)
    axes = [int(a) for a in c.rng.permutation(rank + count)[:count]]
    axes = [a - rank - count if c.pick(0, 1) else a for a in axes]
    c.opset = c.pick(11, 13)
    if c.opset == 11:
        c.add("Unsqueeze", [c.data(c.dims(rank))], axes=axes)
    else:
        c.add("Unsqueeze", [c.data(c.dims(rank)), c.ints(axes)])


def concat(c):
    dims = c.dims(c.int(1, 4))
    axis = c.int(-len(dims), len(dims) - 1)
    parts = []
    for _ in range(c.int(1, 20)):
        part = list(dims)
        part[axis] = c.int(0, 4)
        parts.append(c.data(part) if c.pick(0, 1) else c.weight(np.ones(part)))
    c.add("Concat", parts, axis=axis)


def split(c):
    dims = c.dims(c.int(1, 3), 2, 9)
    axis = c.int(-len(dims), len(dims) - 1)
    x, count = c.data(dims), c.int(1, 3)
    c.opset = c.pick(11, 13, 18)
    cuts = sorted(c.int(0, dims[axis]) for _ in range(count - 1))
    sizes = [b - a for a, b in itertools.pairwise([0, *cuts, dims[axis]])]
    if c.pick(0, 1):
        if c.opset == 11:
            c.add("Split", [x], count if count > 1 else 1, axis=axis, split=sizes)
        else:
            c.add("Split", [x, c.ints(sizes)], count, axis=axis)
    elif c.opset == 18:
        c.add("Split", [x], count, axis=axis, num_outputs=count)
    else:
        c.add("Split", [x], count, axis=axis)


def slice_(c):
    dims = c.dims(c.int(1, 3), 1, 8)
    axes = [int(a) for a in c.rng.permutation(len(dims))[: c.int(1, len(dims))]]
    far = (-(2**63), -(2**31), -9, -2, -1, 0, 1, 3, 9, 2**31 - 1, 2**63 - 1)
    starts, ends = [c.pick(*far) for _ in axes], [c.pick(*far) for _ in axes]
    axes = [a - len(dims) if c.pick(0, 1) else a for a in axes]
    c.opset = c.pick(9, 13)
    if c.opset == 9:
        c.add("Slice", [c.data(dims)], starts=starts, ends=ends, axes=axes)
        return
    steps = [c.pick(-3, -1, 1, 2, 5) for _ in axes]
    whole = c.pick(0, 1)
    if c.pick(0, 1) and len(axes) == len(dims):
        c.add("Slice", [c.data(dims), c.ints(starts), c.ints(ends)])
    else:
        inputs = [c.data(dims), c.ints(starts), c.ints(ends), c.ints(axes), *([c.ints(steps)] if whole else [])]
        c.add("Slice", inputs)


def gather(c):
    dims = c.dims(c.int(1, 3))
    axis = c.int(-len(dims), len(dims) - 1)
    indices = c.rng.integers(0, dims[axis], c.dims(c.int(0, 2)))
    c.add("Gather", [c.data(dims), c.weight(indices, np.int64)], axis=c.pick(None, axis) if axis == 0 else axis)


def pad(c):
    dims = c.dims(c.int(1, 4), 3, 6)
    x, mode = c.data(dims), c.pick(None, "constant", "edge", "reflect")
    low = -1 if mode in (None, "constant") else 0
    c.opset = c.pick(10, 13, 18)
    pads = [c.int(low, 2) for _ in range(2 * len(dims))]
    if c.opset == 10:
        c.add("Pad", [x], pads=pads, mode=mode)
    elif c.opset == 18 and c.pick(0, 1):
        axes = [int(a) for a in c.rng.permutation(len(dims))[: c.int(1, len(dims))]]
        pads = [c.int(low, 2) for _ in range(2 * len(axes))]
        axes = [a - len(dims) if c.pick(0, 1) else a for a in axes]
        c.add("Pad", [x, c.ints(pads), "", c.ints(axes)], mode=mode)
    else:
        c.add("Pad", [x, c.ints(pads)], mode=mode)


def resize(c):
    dims = [1, 2, *c.dims(2, 2, 7)]
    x = c.data(dims)
    c.opset = c.pick(10, 11, 13, 18, 19)
    scales = [1.0, 1.0, c.pick(0.5, 1.5, 2.0, 3.0, 0.33, 1.7), c.pick(0.5, 1.0, 2.0, 2.5)]
    mode = c.pick("nearest", "linear")
    if c.opset == 10:
        c.add("Resize", [x, c.weight(scales)], mode=mode)
        return
    policy = {}
    axes = None
    if c.opset >= 18 and c.pick(0, 1):
        axes, scales = [2, 3], scales[2:]
    if c.opset >= 18 and c.pick(0, 1):
        policy = {"keep_aspect_ratio_policy": c.pick("stretch", "not_larger", "not_smaller")}
    if c.pick(0, 1):
        c.add("Resize", [x, "", c.weight(scales)], mode=mode, axes=axes)
    else:
        sizes = [c.int(2, 12), c.int(2, 12)]
        full = sizes if axes else [*dims[:2], *sizes]
        c.add("Resize", [x, "", "", c.ints(full)], mode=mode, axes=axes, **policy)


def upsample(c):
    c.opset = c.pick(7, 9)
    scales = [1.0, 1.0, c.pick(1.0, 1.5, 2.0, 3.0), c.pick(1.0, 2.0, 2.5)]
    x = c.data([1, 2, *c.dims(2, 2, 7)])
    if c.opset == 7:
        c.add("Upsample", [x], scales=scales, mode="nearest")
    else:
        c.add("Upsample", [x, c.weight(scales)], mode="nearest")


def reduce_(op):
    def build(c):
        dims = c.dims(c.int(1, 4))
        axes = [int(a) for a in c.rng.permutation(len(dims))[: c.int(0, len(dims))]]
        axes = [a - len(dims) if c.pick(0, 1) else a for a in axes]
        keep = c.pick(None, 0, 1)
        c.opset = c.pick(11, 13, 18)
        x = c.data(dims)
        by_input = c.opset == 18 or (op == "ReduceSum" and c.opset >= 13)
        if by_input and c.pick(0, 1, 1):
            c.add(op, [x, c.ints(axes)], keepdims=keep, noop_with_empty_axes=c.pick(None, 0, 1))
        elif by_input:
            c.add(op, [x], keepdims=keep, noop_with_empty_axes=c.pick(None, 0, 1))
        else:
            c.add(op, [x], keepdims=keep, axes=axes or None)

    return build


def depth_to_space(c):
    block = c.int(1, 3)
    mode = c.pick(None, "CRD") if c.opset >= 11 else None
    c.add("DepthToSpace", [c.data([1, 2 * block * block, *c.dims(2)])], blocksize=block, mode=mode)


def space_to_depth(c):
    block = c.int(1, 3)
    c.add("SpaceToDepth", [c.data([1, 2, c.int(1, 3) * block, c.int(1, 3) * block])], blocksize=block)


def expand(c):
    dims = [c.pick(1, d) for d in c.dims(c.int(0, 3))]
    target = [c.pick(1, d) if d != 1 else c.int(1, 4) for d in dims]
    target = [*c.dims(c.int(0, 2)), *target][c.pick(0, 0, 1) :]
    c.add("Expand", [c.data(dims), c.ints(target)])


def shape(c):
    c.opset = c.pick(13, 15)
    rank = c.int(0, 4)
    extra = {"start": c.int(-3, 3), "end": c.int(-3, 3)} if c.opset == 15 and c.pick(0, 1) else {}
    c.add("Shape", [c.data(c.dims(rank))], **extra)


def recurrent(op, gates):
    def build(c):
        length, batch, size, hidden = c.dims(4)
        directions = c.int(1, 2)
        x = c.data([length, batch, size])
        w = c.weight(np.ones([directions, gates * hidden, size]))
        r = c.weight(np.ones([directions, gates * hidden, hidden]))
        layout = c.pick(None, None, 0, 1)
        direction = "bidirectional" if directions == 2 else c.pick(None, "forward", "reverse")
        c.add(op, [x, w, r], c.int(1, 2), hidden_size=hidden, direction=direction, layout=layout)

    return build


def norm(op):
    def build(c):
        channels = 4
        x = c.data([2, channels, *c.dims(2)])
        ones = [c.weight(np.ones(channels)) for _ in range(4)]
        if op == "BatchNormalization":
            training = c.pick(0, 1)
            c.opset = 15
            c.add(op, [x, *ones], 3 if training else 1, training_mode=training)
        elif op == "LayerNormalization":
            axis = c.int(-2, 3)
            dims = c.feeds[x].shape[axis:]
            c.add(op, [x, c.weight(np.ones(dims))], c.int(1, 3), axis=axis)
        elif op == "GroupNormalization":
            c.opset = 21
            c.add(op, [x, *ones[:2]], num_groups=2)
        elif op in ("RMSNormalization", "SimplifiedLayerNormalization"):
            c.opset = 23
            c.add(op, [x, c.weight(np.ones(c.feeds[x].shape[-1:]))])
        else:
            c.add(op, [x, *ones[:2]])

    return build


def dropout(c):
    c.opset = c.pick(10, 12)
    c.add("Dropout", [c.data(c.dims(3))], c.int(1, 2))


def quantise(c):
    x = c.data(c.dims(3))
    q = c.add("QuantizeLinear", [x, c.weight(0.1), c.weight(3, np.uint8)])
    c.add("DequantizeLinear", [q, "w0", "w1"])


def conv_integer(c):
    x = c.data([1, 2, *c.dims(2, 4, 9)], np.uint8, 0, 9)
    c.add("ConvInteger", [x, c.weight(np.ones((3, 2, *c.dims(2, 1, 3))), np.uint8)], pads=c.pick(None, [1, 0, 1, 2]))


def matmul_integer(c):
    x = c.data([*c.dims(c.int(0, 2)), 3, 4], np.uint8, 0, 9)
    c.add("MatMulInteger", [x, c.weight(np.ones((4, 5)), np.int8), c.weight(3, np.uint8)])


def cast(c):
    c.add("Cast", [c.data(c.dims(2))], to=c.pick(TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL))


def cast_like(c):
    c.add("CastLike", [c.data(c.dims(2)), c.data(c.dims(1))])


def prelu(c):
    dims = c.dims(4)
    slope = c.pick([dims[1], 1, 1], [1], [2, *dims])  # the last one is no legal slope, but runtimes broadcast it
    c.add("PRelu", [c.data(dims), c.weight(np.ones(slope))])


def clip(c):
    c.add("Clip", [c.data(c.dims(3)), c.weight(0.2), c.weight(0.5)])


def logical(op):
    return elementwise(op, bool)


def compare(op):
    return elementwise(op, np.float32)


def cumsum(c):
    c.add("CumSum", [c.data(c.dims(2)), c.weight(0, np.int64)])


def view_like(c):
    """What exporters write for `x.view(x.size(0), -1)`, and regroupings of it."""
    dims = c.dims(4)
    x = c.data(dims)
    s = c.add("Shape", [x])
    parts = []
    order = [int(i) for i in c.rng.permutation(4)]
    for i in order[: c.int(1, 3)]:
        style = c.int(0, 3)
        if style == 0:
            parts.append(c.add("Unsqueeze", [c.add("Gather", [s, c.weight(i, np.int64)]), c.ints([0])]))
        elif style == 1:
            parts.append(c.add("Gather", [s, c.ints([c.pick(i, i - 4)])]))
        elif style == 2:
            parts.append(c.add("Slice", [s, c.ints([i]), c.ints([i + 1]), c.ints([0])]))
        else:
            a, b = order[-1], i
            pair = [c.add("Gather", [s, c.ints([j])]) for j in (a, b)]
            parts.append(c.add("Div", [c.add("Mul", pair), pair[0]]))
    parts.insert(c.int(0, len(parts)), c.ints([-1]))
    target = c.add("Concat", parts, axis=0)
    target = c.add("Cast", [c.add("Cast", [target], to=TensorProto.INT64)], to=TensorProto.INT64)
    c.add("Reshape", [x, target])


def flatten_product(c):
    """Two reshapes through one merged dimension, where a product may hide a symbol."""
    a, b, d = c.dims(3)
    x = c.data([a, b, d])
    merged = c.add("Reshape", [x, c.ints([-1, d])])
    back = c.add("Reshape", [merged, c.ints([c.pick(a, -1), b, d] if c.pick(0, 1) else [a, -1, d])])
    s = c.add("Shape", [x])
    other = c.add("Reshape", [c.add("Relu", [back]), s])
    c.add("Expand", [c.add("ReduceMean", [other], axes=[1], keepdims=1), s])


def resize_by_shape(c):
    x = c.data([1, 2, *c.dims(2, 2, 5)])
    like = c.data([1, 3, *c.dims(2, 2, 9)])
    c.opset = 13
    head = c.add("Slice", [c.add("Shape", [x]), c.ints([0]), c.ints([2]), c.ints([0])])
    tail = c.add("Slice", [c.add("Shape", [like]), c.ints([2]), c.ints([4]), c.ints([0])])
    y = c.add("Resize", [x, "", "", c.add("Concat", [head, tail], axis=0)], mode="nearest")
    c.add("Concat", [y, like], axis=1)


def expand_by_shape(c):
    x = c.data([c.int(1, 3), 1, c.int(1, 3)])
    like = c.data([c.pick(1, c.feeds[x].shape[0]), 4, 1])
    y = c.add("Expand", [x, c.add("Shape", [like])])
    c.add("Add", [y, x])


REDUCE = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceL1 ReduceSumSquare ReduceProd ReduceLogSum ReduceLogSumExp"
)
CASES = {
    **{op: unary(op) for op in UNARY},  # those that need more than one operand are given below
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    **{op: pool(op) for op in ("MaxPool", "AveragePool", "LpPool")},
    "GlobalAveragePool": lambda c: c.add("GlobalAveragePool", [c.data([2, 3, *c.dims(c.int(1, 3))])]),
    "GlobalLpPool": lambda c: c.add("GlobalLpPool", [c.data([2, 3, *c.dims(c.int(1, 3))])]),
    "GlobalMaxPool": lambda c: c.add("GlobalMaxPool", [c.data([2, 3, *c.dims(c.int(1, 3))])]),
    **{op: elementwise(op) for op in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{op: elementwise(op, count=None) for op in ("Sum", "Max", "Min", "Mean")},
    **{op: compare(op) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")},
    **{op: logical(op) for op in ("And", "Or", "Xor")},
    "Mod": elementwise("Mod", np.int64),
    "Where": where,
    "Not": lambda c: c.add("Not", [c.data(c.dims(2), bool, 0, 2)]),
    "LRN": lambda c: c.add("LRN", [c.data([1, 4, *c.dims(2)])], size=3),
    "MeanVarianceNormalization": lambda c: c.add("MeanVarianceNormalization", [c.data([1, 4, *c.dims(2)])]),
    **{
        op: norm(op)
        for op in (
            "BatchNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "SimplifiedLayerNormalization",
        )
    },
    "QuantizeLinear": quantise,
    "DequantizeLinear": quantise,
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "Cast": cast,
    "CastLike": cast_like,
    "PRelu": prelu,
    "Clip": clip,
    "CumSum": cumsum,
    "Dropout": dropout,
    "MatMul": matmul,
    "Gemm": gemm,
    "Transpose": transpose,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
    **{op: reduce_(op) for op in REDUCE.split()},
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Expand": expand,
    "Shape": shape,
    "LSTM": recurrent("LSTM", 4),
    "GRU": recurrent("GRU", 3),
    "RNN": recurrent("RNN", 1),
    "view(x.size(0), -1)": view_like,
    "merge and split": flatten_product,
    "resize to the size of another": resize_by_shape,
    "expand to the shape of another": expand_by_shape,
}
CASES |= shape_cases.CASES | {f"com.microsoft.{op}": case for op, case in shape_cases.CONTRIB.items()}
# Seen in old converters only; no runtime here runs them.
LEGACY = {"ImageScaler", "Affine", "Crop"}
# Those have no kernel on the CPU.
ELSEWHERE = {"GroupNorm", "SkipGroupNorm", "NhwcConv"}
for legacy in LEGACY:
    CASES.pop(legacy, None)


def test_every_rule_has_a_case():
    covered = {op for op in CASES if op in RULES}
    assert covered | LEGACY == set(RULES)
    assert set(shape_cases.CONTRIB) | ELSEWHERE | shape_cases.WITHOUT_KERNEL == set(CONTRIB_RULES)


def test_norms_of_groups_and_their_sums_are_like_their_input():
    groups = {"domain": "com.microsoft", "groups": 2, "activation": 1}
    nodes = [
        node("SkipGroupNorm", ["x", "g", "g", "s"], ["t", "u"], **groups),
        node("GroupNorm", ["u", "g", "g"], ["y"], **groups),
    ]
    weights = {"g": np.ones(8, np.float32)}
    inputs = {"x": ["N", 4, "W", 8], "s": ["N", 8]}
    loaded, _, shapes = viewed(net(nodes, inputs, ["t", "y"], weights, domains=["com.microsoft"]))
    values = [loaded.graph.values[name] for name in "tuy"]
    assert [shapes.dims(value) for value in values] == [("N", 4, "W", 8)] * 3
    assert [shapes.data_type(value) for value in values] == [FLOAT] * 3


def test_statistics_of_a_norm_are_not_like_its_input():
    nodes = [node("SkipLayerNormalization", ["x", "s", "g"], ["y", "m"], domain="com.microsoft")]
    weights = {"g": np.ones(8, np.float32)}
    model = net(nodes, {"x": [2, 3, 8], "s": [2, 3, 8]}, ["y"], weights, domains=["com.microsoft"])
    loaded, _, shapes = viewed(model)
    mean = loaded.graph.values["m"]
    assert (shapes.dims(mean), shapes.data_type(mean)) == (None, None)


def built(c, symbolic):
    """The model of a case; `symbolic` names some input dimensions instead of giving them."""
    infos, bound = [], {}
    for name, array in c.feeds.items():
        dims = list(array.shape)
        for axis, size in enumerate(dims):
            if symbolic and c.rng.integers(2):
                # Equal sizes share a symbol now and then: equal names promise equal numbers.
                symbol = f"s{size}" if c.rng.integers(2) else f"{name}_{axis}"
                bound[symbol] = size
                dims[axis] = symbol
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    last = c.nodes[-1].output[0]
    ends = [helper.make_empty_tensor_value_info(last)]
    model = net(c.nodes, infos, ends, c.weights, opset=c.opset, ir=9, domains=["com.microsoft"])
    return model, bound


def contradictions(model, bound, feeds):
    """(tensors checked, tensors fully known, messages) against what onnxruntime computes."""
    loaded, _, shapes = viewed(model)
    names = [value.name for n in loaded.graph.nodes for value in n.outputs if value is not None]
    seen = actual(model, feeds, names)
    wrong, known = [], 0
    for name in names:
        value = loaded.graph.values[name]
        if isinstance(seen[name], list):  # a sequence has no dimensions
            assert shapes.dims(value) is None
            continue
        dims, real = shapes.dims(value), seen[name].shape
        kind = shapes.data_type(value)
        if kind is not None and kind != helper.np_dtype_to_tensor_dtype(seen[name].dtype):
            wrong.append(f"{name}: type {kind}, really {seen[name].dtype}")
        if dims is None:
            continue
        known += None not in dims
        if len(dims) != len(real):
            wrong.append(f"{name}: rank of {dims}, really {real}")
            continue
        for derived, size in zip(dims, real, strict=True):
            number = bound.get(derived, f"unbound {derived}") if isinstance(derived, str) else derived
            if number not in (None, size):
                wrong.append(f"{name}: {dims}, really {real}")
        data = shapes.data(value) if seen[name].dtype == np.int64 else None
        if data is not None:
            numbers = [bound.get(item, item) for item in data]
            reality = seen[name].reshape(-1).tolist()
            if len(numbers) != len(reality) or any(a not in (None, b) for a, b in zip(numbers, reality, strict=True)):
                wrong.append(f"{name}: data {data}, really {reality}")
    return len(names), known, wrong


@pytest.mark.parametrize("op", sorted(CASES))
def test_no_dimension_contradicts_the_runtime(op):
    checked = known = 0
    for seed in range(SEEDS):
        c = Case(np.random.default_rng([seed, len(op), *op.encode()]))
        CASES[op](c)
        model, bound = built(c, symbolic=seed % 3 == 2)
        try:
            count, full, wrong = contradictions(model, bound, c.feeds)
        except REFUSALS:
            continue  # a combination that the runtime does not run
        assert not wrong, f"seed {seed}: {wrong}\n{onnx.printer.to_text(model)}"
        checked, known = checked + count, known + full
    assert checked >= SEEDS // 3, "the runtime rejected nearly every case: the generator tests nothing"
    assert known * 5 >= checked or op in shape_cases.RANK_ONLY, "hardly anything was derived"


@pytest.mark.parametrize(
    ("parts", "result"),
    [
        ([(2, 3), (3,)], (2, 3)),
        ([("N", 3), (1, 3)], ("N", 3)),
        ([("N", 3), ("M", 3)], (None, 3)),
        ([("N",), (None,)], (None,)),
        ([(4,), ("N",)], (4,)),
        ([(4,), (None,)], (4,)),
        ([(0,), (1,)], (0,)),
        ([(1,), (None,)], (None,)),
        ([(), (5,)], (5,)),
        ([None, (5,)], None),
    ],
)
def test_broadcast(parts, result):
    assert broadcast(parts) == result


def test_the_old_broadcast_stretches_the_second_operand():
    nodes = [node("Add", ["x", "b"], ["y"], axis=1, broadcast=1)]
    loaded, _, shapes = viewed(net(nodes, {"x": [2, 3, "H"], "b": [3]}, ["y"], opset=6, ir=3))
    assert shapes.dims(loaded.graph.values["y"]) == (2, 3, "H")


def test_declared_value_info_is_not_believed():
    model = net([node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["z"])], {"x": [2, 3]}, ["z"])
    model.graph.value_info.append(helper.make_tensor_value_info("y", FLOAT, [7, 7]))
    loaded, _, shapes = viewed(model)
    assert shapes.dims(loaded.graph.values["z"]) == (2, 3)


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "known"),
    [
        ("GroupNorm", {"x": ["N", 5, 6, 8]}, {"groups": 2}, [("N", 5, 6, 8)]),
        ("SkipGroupNorm", {"x": ["N", 5, 6, 8]}, {"groups": 2}, [("N", 5, 6, 8), ("N", 5, 6, 8)]),
        ("NhwcConv", {"x": ["N", 5, 6, 8], "w": [4, 3, 2, 8]}, {"strides": [2, 1]}, [("N", 2, 5, 4)]),
        ("SkipLayerNormalization", {"x": ["N", 5, 8]}, {}, [("N", 5, 8), None, None, ("N", 5, 8)]),
    ],
)
def test_what_contrib_operators_make(op, operands, attributes, known):
    outputs = [f"y{i}" for i in range(len(known))]
    nodes = [node(op, [*operands], outputs, domain="com.microsoft", **attributes)]
    model = net(nodes, operands, outputs, elem=TensorProto.FLOAT16, domains=["com.microsoft"])
    loaded, _, shapes = viewed(model)
    values = [loaded.graph.values[name] for name in outputs]
    assert [shapes.dims(value) for value in values] == known
    assert [shapes.data_type(value) for value in values] == [None if k is None else TensorProto.FLOAT16 for k in known]


@pytest.mark.parametrize("op", ["RMSNormalization", "SimplifiedLayerNormalization"])
def test_some_norms_end_in_the_type_of_their_scale(op):
    model = net(
        [node(op, ["x", "g"], ["y"])], {"x": [2, 8]}, ["y"], {"g": np.ones(8, np.float32)}, elem=TensorProto.FLOAT16
    )
    loaded, _, shapes = viewed(model)
    assert shapes.data_type(loaded.graph.values["y"]) == TensorProto.FLOAT


def test_unknown_operators_know_nothing():
    model = net(
        [node("Mystery", ["x"], ["y"], domain="odd"), node("Relu", ["y"], ["z"])], {"x": [2]}, ["z"], domains=["odd"]
    )
    loaded, _, shapes = viewed(model)
    assert shapes.dims(loaded.graph.values["z"]) is None
    assert shapes.data_type(loaded.graph.values["z"]) is None


@pytest.mark.parametrize("kind", ["relu", "data", "constants"])
def test_long_chains_do_not_recurse(kind):
    length = 5000
    if kind == "relu":
        nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        model = net(nodes, {"v0": [2, "N"]}, [f"v{length}"])
        expected = (2, "N")
    elif kind == "constants":
        nodes = [node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        model = net(
            [*nodes, node("Add", ["x", f"v{length}"], ["y"])], {"x": [1]}, ["y"], {"v0": np.ones(3, np.float32)}
        )
        expected = (3,)
    else:
        nodes = [node("Shape", ["x"], ["v0"]), *(node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(length))]
        model = net([*nodes, node("Reshape", ["x", f"v{length}"], ["y"])], {"x": [2, 3]}, ["y"])
        expected = None  # too deep a computation to follow, and no error
    loaded, _, shapes = viewed(model)
    assert shapes.dims(loaded.graph.outputs[0]) == expected


def test_every_answer_is_computed_once(monkeypatch):
    length = 2000
    nodes = [node("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    count = 0
    infer = Shapes._infer

    def counted(self, value):
        nonlocal count
        count += 1
        return infer(self, value)

    monkeypatch.setattr(Shapes, "_infer", counted)
    loaded, _, shapes = viewed(net(nodes, {"v0": [2]}, [f"v{length}"]))
    for value in loaded.graph.values.values():
        shapes.dims(value)
    assert count == length + 1


def test_a_function_of_the_model_is_not_the_operator_of_that_name():
    """com.microsoft.Gelu keeps the shape; a function that calls itself so may do anything."""
    imports = [helper.make_opsetid("", 17)]
    body = [node("Flatten", ["x"], ["y"])]
    own = helper.make_function("com.microsoft", "Gelu", ["x"], ["y"], body, imports)
    nodes = [node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    arguments = {"opset": 17, "domains": ["com.microsoft"]}
    for functions, expected in (((), (2, 3, 4)), ((own,), None)):
        loaded, _, shapes = viewed(net(nodes, {"x": [2, 3, 4]}, ["y"], functions=functions, **arguments))
        assert shapes.dims(loaded.graph.values["y"]) == expected


def test_branches_of_different_rank_have_no_common_shape():
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(op, ["x"], [f"{name}.out"])], name, [], [helper.make_empty_tensor_value_info(f"{name}.out")]
        )
        for name, op in (("then", "Relu"), ("else", "Flatten"))
    }
    infos = [
        helper.make_tensor_value_info("p", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", FLOAT, [2, 3, 4]),
    ]
    loaded, _, shapes = viewed(net([helper.make_node("If", ["p"], ["y"], **branches)], infos, ["y"]))
    assert shapes.dims(loaded.graph.values["y"]) is None
    assert shapes.data_type(loaded.graph.values["y"]) == FLOAT
    assert sorted(shapes.dims(scope.outputs[0]) for scope in loaded.graph.nodes[0].subgraphs) == [(2, 3, 4), (2, 12)]


@pytest.mark.parametrize("extent", [1 << 62, (1 << 63) - 1, -(1 << 63)])
def test_extents_that_no_tensor_can_have_are_not_known(extent):
    """Attributes may say anything; what follows must still fit into a file."""
    windows = [
        node("Conv", ["x", "w"], ["y"], pads=[extent] * 4),
        node("Conv", ["x", "w"], ["y"], kernel_shape=[extent] * 2),
        node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[extent] * 4),
        node("MaxPool", ["x"], ["y"], kernel_shape=[extent, extent]),
        node("ConvTranspose", ["x", "w"], ["y"], strides=[extent] * 2),
        node("SpaceToDepth", ["x"], ["y"], blocksize=extent),
        node("DepthToSpace", ["x"], ["y"], blocksize=extent),
    ]
    for window in windows:
        model = load(net([window], {"x": [1, 4, 5, 5]}, ["y"], {"w": np.ones((4, 4, 1, 1), np.float32)}))
        dims = Shapes(Constants()).dims(model.graph.values["y"])
        assert dims is None or all(dim is None or isinstance(dim, str) or 0 <= dim < 1 << 63 for dim in dims)


def test_a_rank_that_no_array_can_have_is_not_known():
    model = load(net([node("Relu", ["x"], ["y"])], {"x": [1] * 33}, ["y"], {}))
    shapes = Shapes(Constants())
    assert shapes.dims(model.graph.values["x"]) is None
    assert shapes.dims(model.graph.values["y"]) is None
    assert shapes.rank(load(net([node("Relu", ["x"], ["y"])], {"x": [1] * 32}, ["y"], {})).graph.values["y"]) == 32
