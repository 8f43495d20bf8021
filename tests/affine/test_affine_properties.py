"""Random graphs of absorbers, crossings and affine chains: whatever is folded computes the same.

The graphs are drawn as a list of steps over a growing pool of values, so that values get several readers and several
outputs. Sizes are chosen to coincide often.
"""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from normfold.model.tensors import RangeRefusal
from tests.support import batch_norm, check, optimise, random

ELEM = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


class Graph:
    """A graph under construction; `pool` holds names with their shapes."""

    def __init__(self, draw, dtype, opset):
        self.draw, self.dtype, self.opset = draw, dtype, opset
        self.nodes, self.init, self.pool, self.extra = [], {}, [], []
        self.seed = draw(st.integers(0, 1000))

    def one_of(self, *options):
        return self.draw(st.sampled_from(options))

    def constant(self, array):
        name = f"k{len(self.init)}"
        self.init[name] = np.asarray(array, self.dtype if np.asarray(array).dtype.kind == "f" else None)
        return name

    def values(self, *shape, low=-1.0, high=1.0):
        self.seed += 1
        return random(*shape, seed=self.seed, low=low, high=high) if shape else np.float32(1.25)

    def add(self, op, inputs, shape, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.pool.append((name, tuple(shape)))
        return name


def per_channel(graph, shape, *, positive=False):
    """A constant for that shape: mostly one that fits the channel, sometimes one that varies elsewhere."""
    kind = graph.one_of("channel", "channel", "channel", "scalar", "one", "last", "other")
    rank, channel = len(shape), 1 if len(shape) > 1 else 0
    dims = [1] * rank
    if kind == "scalar":
        dims = []
    elif kind == "one":
        dims = [1]
    elif kind == "last":
        dims = [shape[-1]]
    else:
        axis = channel if kind == "channel" else graph.draw(st.integers(0, rank - 1))
        dims[axis] = shape[axis]
        if graph.draw(st.booleans()):
            dims = dims[axis:]
    sign = 1.0 if positive or graph.draw(st.booleans()) else -1.0
    values = graph.values(*dims, low=0.5, high=1.5) * sign
    if not positive and dims and graph.draw(st.integers(0, 3)) == 0:
        values = values * np.where(np.arange(values.size).reshape(values.shape) % 2, 1, -1)
    return graph.constant(values)


def affine(graph, name, shape):
    op = graph.one_of("Mul", "Add", "Sub", "Div", "Neg", "BatchNormalization", "BatchNormalization")
    if op == "Neg":
        return graph.add(op, [name], shape)
    if op == "BatchNormalization" and len(shape) > 1:
        graph.seed += 5
        parameters = batch_norm(shape[1], seed=graph.seed, sign=graph.draw(st.booleans()))
        return graph.add(op, [name, *(graph.constant(parameters[n]) for n in "gbmv")], shape)
    if op in ("Div", "BatchNormalization"):
        return graph.add("Div", [name, per_channel(graph, shape, positive=True)], shape)
    operands = [name, per_channel(graph, shape)]
    if graph.draw(st.booleans()):
        operands.reverse()
    return graph.add(op, operands, shape)


def absorber(graph, name, shape):
    if len(shape) == 4 and shape[2] >= 2 and shape[3] >= 2:
        op = graph.one_of("Conv", "Conv", "ConvTranspose", "InstanceNormalization", "MatMul")
        cin = shape[1]
        group = graph.one_of(*[g for g in (1, 2, 3, cin) if cin % g == 0])
        per_out = graph.one_of(1, 2, 3)
        bias = [graph.constant(graph.values(group * per_out))] if graph.draw(st.booleans()) else []
        if op == "Conv":
            pad = graph.one_of(0, 1)
            weight = graph.constant(graph.values(group * per_out, cin // group, 2, 2) / 2)
            out = (shape[0], group * per_out, shape[2] + 2 * pad - 1, shape[3] + 2 * pad - 1)
            return graph.add(op, [name, weight, *bias], out, group=group, pads=[pad] * 4)
        if op == "ConvTranspose":
            weight = graph.constant(graph.values(cin, per_out, 2, 2) / 2)
            out = (shape[0], group * per_out, shape[2] + 1, shape[3] + 1)
            return graph.add(op, [name, weight, *bias], out, group=group)
        if op == "InstanceNormalization" and shape[2] * shape[3] > 3:
            scale = [graph.constant(graph.values(cin, low=0.5)), graph.constant(graph.values(cin))]
            return graph.add(op, [name, *scale], shape, epsilon=0.1)
    size = graph.one_of(2, 3, shape[-1])
    weight = graph.constant(graph.values(shape[-1], size) / 2)
    if len(shape) == 2 and graph.draw(st.booleans()):
        alpha, beta = graph.one_of(1.0, 0.5, -2.0), graph.one_of(1.0, 0.0, 2.0)
        trans = graph.draw(st.booleans())
        if trans:
            weight = graph.constant(graph.values(size, shape[-1]) / 2)
        c_shape = graph.one_of((), (1,), (size,), (1, size), (shape[0], 1), (shape[0], size))
        inputs = [name, weight, graph.constant(graph.values(*c_shape))]
        return graph.add("Gemm", inputs, (shape[0], size), alpha=alpha, beta=beta, transB=int(trans))
    if len(shape) < 2:
        return graph.add("Relu", [name], shape)
    if len(shape) == 3 and graph.draw(st.booleans()):
        left = graph.constant(graph.values(size, shape[1]) / 2)
        return graph.add("MatMul", [left, name], (shape[0], size, shape[2]))
    return graph.add("MatMul", [name, weight], (*shape[:-1], size))


def crossing(graph, name, shape):
    ops = [
        "Relu",
        "LeakyRelu",
        "Identity",
        "Abs",
        "Sigmoid",
        "Transpose",
        "Reshape",
        "Clip",
        "Slice",
        "Gather",
        "Split",
    ]
    if len(shape) == 4:
        ops += [
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "Pad",
            "Pad",
            "Resize",
            "ReduceMean",
            "Flatten",
            "DepthToSpace",
        ]
    op = graph.one_of(*ops)
    rank = len(shape)
    if op == "Transpose":
        perm = graph.draw(st.permutations(range(rank)))
        return graph.add(op, [name], [shape[i] for i in perm], perm=perm)
    if op == "Reshape":
        axis = graph.draw(st.integers(0, rank - 1))
        if rank > 2 and axis + 1 < rank and graph.draw(st.booleans()):
            new = [*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]]
        elif rank < 5 and shape[axis] % 2 == 0:
            new = [*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :]]
        else:
            new = list(shape)
        return graph.add(op, [name, graph.constant(np.array(new, np.int64))], new)
    if op == "Clip":
        return graph.add(op, [name, graph.constant(np.float32(-0.5)), graph.constant(np.float32(0.75))], shape)
    axis = graph.draw(st.integers(0, rank - 1))
    size = shape[axis]
    cut = lambda n: (*shape[:axis], n, *shape[axis + 1 :])  # noqa: E731
    if op == "Slice":
        step = graph.one_of(1, 2, -1)
        bounds = [size - 1, -size - 1] if step < 0 else [0, max(1, size - 1)]
        inputs = [graph.constant(np.array([n], np.int64)) for n in (*bounds, axis, step)]
        return graph.add(
            op, [name, *inputs], cut(len(range(*bounds[:1], -1, -1)) if step < 0 else -(-bounds[1] // step))
        )
    if op == "Gather":
        order = graph.draw(st.permutations(range(size)))
        return graph.add(op, [name, graph.constant(np.array(order, np.int64))], shape, axis=axis)
    if op == "Split" and size >= 2:
        first = graph.draw(st.integers(1, size - 1))
        names = [f"v{len(graph.nodes)}", f"v{len(graph.nodes)}_b"]
        graph.nodes.append(
            helper.make_node(op, [name, graph.constant(np.array([first, size - first], np.int64))], names, axis=axis)
        )
        graph.pool += [(names[0], cut(first)), (names[1], cut(size - first))]
        return names[0]
    if op == "MaxPool" or op == "AveragePool":
        if min(shape[2:]) < 2:
            return graph.add("Relu", [name], shape)
        pad = graph.one_of(0, 1)
        extra = {} if op == "MaxPool" else {"count_include_pad": graph.one_of(0, 1)}
        return graph.add(
            op,
            [name],
            (*shape[:2], *(s + 2 * pad - 1 for s in shape[2:])),
            kernel_shape=[2, 2],
            pads=[pad] * 4,
            **extra,
        )
    if op == "GlobalAveragePool":
        return graph.add(op, [name], (*shape[:2], 1, 1))
    if op == "Pad":
        mode = graph.one_of("constant", "constant", "edge")
        value = [graph.constant(np.float32(graph.one_of(0.0, 0.5)))] if mode == "constant" else []
        amounts = graph.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64))
        return graph.add(op, [name, amounts, *value], (*shape[:2], shape[2] + 1, shape[3] + 1), mode=mode)
    if op == "Resize":
        scales = graph.constant(np.array([1, 1, 2, 2], np.float32).astype(np.float32))
        graph.init[scales] = graph.init[scales].astype(np.float32)
        return graph.add(op, [name, "", scales], (*shape[:2], shape[2] * 2, shape[3] * 2), mode="nearest")
    if op == "ReduceMean":
        keep = graph.one_of(0, 1)
        return graph.add(op, [name], (*shape[:2], 1, 1) if keep else shape[:2], axes=[2, 3], keepdims=keep)
    if op == "Flatten":
        return graph.add(op, [name], (shape[0], int(np.prod(shape[1:]))))
    if op == "DepthToSpace" and shape[1] % 4 == 0:
        mode = graph.one_of("DCR", "CRD")
        return graph.add(op, [name], (shape[0], shape[1] // 4, shape[2] * 2, shape[3] * 2), blocksize=2, mode=mode)
    return graph.add(op if op in ("Relu", "LeakyRelu", "Identity", "Abs", "Sigmoid") else "Relu", [name], shape)


def branch(graph, shape):
    """A second branch of that shape: a linear operator on an input of its own."""
    source = f"x{len(graph.extra)}"
    graph.extra.append((source, shape))
    channels = shape[1] if len(shape) == 4 else shape[-1]
    if len(shape) == 4:
        return graph.add("Conv", [source, graph.constant(graph.values(channels, channels, 1, 1) / 2)], shape)
    if len(shape) == 1:
        return graph.add("Relu", [source], shape)
    return graph.add("MatMul", [source, graph.constant(graph.values(channels, channels) / 2)], shape)


def joining(graph, name, shape):
    read = {used for node in graph.nodes for used in node.input}
    partners = [entry[0] for entry in graph.pool[1:] if entry[1] == shape and entry[0] not in read and entry[0] != name]
    kind = graph.draw(st.integers(0, 9))
    if kind == 0:
        other = name
    elif partners and kind < 6:
        other = graph.draw(st.sampled_from(partners))
    else:
        other = branch(graph, shape)
        if graph.draw(st.booleans()):
            other = graph.add("Relu", [other], shape)
    op = graph.one_of("Add", "Sub", "Mul", "Sum", "Concat", "Concat")
    operands = [name, other] if graph.draw(st.booleans()) else [other, name]
    if op != "Concat":
        return graph.add(op, operands, shape)
    axis = graph.one_of(1, *range(len(shape))) % len(shape)
    return graph.add(op, operands, (*shape[:axis], shape[axis] * 2, *shape[axis + 1 :]), axis=axis)


@st.composite
def models(draw):
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float32, np.float16]))
    opset = draw(st.sampled_from([13, 14, 15, 17]))
    graph = Graph(draw, dtype, opset)
    shape = draw(
        st.sampled_from(
            [(2, 4, 4, 4), (1, 3, 3, 3), (2, 3, 4, 5), (2, 4, 4), (3, 4), (4, 4), (1, 1, 4, 4), (2, 6, 2, 3)]
        )
    )
    graph.pool.append(("x", shape))
    absorber(graph, "x", shape)
    for _ in range(draw(st.integers(2, 9))):
        step = draw(st.sampled_from([affine, affine, affine, crossing, crossing, absorber, joining]))
        last = min(len(graph.pool) - 1, draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1])))
        name, dims = graph.pool[-1 - last]
        if int(np.prod(dims)) <= 4096:
            step(graph, name, dims)
    affine(graph, *graph.pool[-1])
    read = {name for node in graph.nodes for name in node.input}
    outputs = [entry for entry in graph.pool[1:] if entry[0] not in read]
    extra = draw(st.integers(0, 9))
    if extra < 2:
        outputs += [entry for entry in graph.pool[1:] if entry not in outputs][-1 - extra :][:1]
    elem = ELEM[dtype]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in graph.init.items() if name in read]
    infos = [helper.make_tensor_value_info(name, elem, list(dims)) for name, dims in outputs]
    inputs = [helper.make_tensor_value_info(name, elem, list(dims)) for name, dims in [("x", shape), *graph.extra]]
    graph_proto = helper.make_graph(graph.nodes, "g", inputs, infos, tensors)
    return helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


SETTINGS = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SETTINGS
@given(models())
def test_whatever_folds_computes_the_same(model):
    onnx.checker.check_model(model)
    try:
        check(model)
    except RangeRefusal:
        return  # the pipeline excludes the edit


@settings(SETTINGS, max_examples=100)
@given(models(), st.randoms(use_true_random=False))
def test_operand_order_and_node_order_do_not_matter(model, rng):
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for node in other.graph.node:
        if node.op_type in ("Add", "Mul") and rng.random() < 0.5:
            node.input[:] = list(node.input)[::-1]
    nodes = list(other.graph.node)
    rng.shuffle(nodes)
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    try:
        plans = [optimise(m)[1] for m in (model, other)]
    except RangeRefusal:
        return
    applied = [sorted((d.node, d.code) for d in plan.decisions if d.outcome == "applied") for plan in plans]
    assert applied[0] == applied[1]
