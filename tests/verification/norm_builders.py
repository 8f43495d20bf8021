"""Spellings of one norm in code: decomposed chains, operators of the standard, and onnxruntime's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normfold.verification import Region

MS = "com.microsoft"
F32, F16, F64, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16


@dataclass
class Graph:
    """Nodes and constants under construction; values are named by number, the result is `y`."""

    opset: int = 17
    elem: int = F32
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)

    def op(self, kind, *inputs, domain="", outputs=1, **attrs):
        names = [f"v{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def const(self, values, elem=None):
        values = np.asarray(values)
        elem = (elem or self.elem) if values.dtype.kind == "f" else TensorProto.INT64
        name = f"c{len(self.constants)}"
        stored = values.astype(helper.tensor_dtype_to_np_dtype(elem))
        self.constants.append(numpy_helper.from_array(stored, name))
        return name

    def reduce(self, kind, x, axes, **attrs):
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, self.const(list(axes)), **attrs)
        return self.op(kind, x, axes=list(axes), **attrs)

    def model(self, inputs, *results, elems=None):
        """A model of these inputs (name -> dims); the results are called y, y1, ..."""
        names = ["y", *(f"y{i}" for i in range(1, len(results)))]
        tail = [helper.make_node("Identity", [r], [n]) for r, n in zip(results, names, strict=True)]
        info = [helper.make_tensor_value_info(n, self.elem, d) for n, d in inputs.items()]
        kinds = elems or [self.elem] * len(names)
        outputs = [helper.make_tensor_value_info(n, e, None) for n, e in zip(names, kinds, strict=True)]
        graph = helper.make_graph([*self.nodes, *tail], "g", info, outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def parameters(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, size), rng.standard_normal(size)


def root(g, v, epsilon, how, numerator):
    """numerator / √(v + ε), in one of the ways in which that is written."""
    w = g.op("Add", v, g.const(np.float64(epsilon))) if epsilon is not None else v
    if how == "rsqrt":
        return g.op("Mul", numerator, g.op("Reciprocal", g.op("Sqrt", w)))
    if how == "div one":
        return g.op("Mul", numerator, g.op("Div", g.const(1.0), g.op("Sqrt", w)))
    if how == "pow -0.5":
        return g.op("Mul", numerator, g.op("Pow", w, g.const(-0.5)))
    if how == "pow 0.5":
        return g.op("Div", numerator, g.op("Pow", w, g.const(0.5)))
    return g.op("Div", numerator, g.op("Sqrt", w))


def variance(g, x, m, d, axes, how):
    if how == "mul":
        return g.reduce("ReduceMean", g.op("Mul", d, d), axes)
    if how in ("one pass", "clamped"):
        v = g.op("Sub", g.reduce("ReduceMean", g.op("Mul", x, x), axes), g.op("Mul", m, m))
        return g.op("Max", v, g.const(0.0)) if how == "clamped" else v
    if how == "pow 4":
        return g.reduce("ReduceMean", g.op("Pow", d, g.const(4.0)), axes)
    return g.reduce("ReduceMean", g.op("Pow", d, g.const(2.0)), axes)


def summed(g, x, axes, kind):
    """A mean written as a sum divided by the extent, which is asked of the shape."""
    length = g.op("ReduceProd", g.op("Gather", g.op("Shape", x), g.const(list(axes))), keepdims=0)
    return g.op("Div", g.reduce(kind, x, axes), g.op("Cast", length, to=g.elem))


def layer_chain(
    *, how="pow", inverse="sqrt", epsilon=1e-5, h=24, axes=(-1,), dims=("N", "S", None), negated=False, opset=17, elem=F32,
    sums=False, cast=False,
):  # fmt: skip
    """LayerNorm of x [N, S, h] decomposed; `cast` puts a float16 model's statistics into float32."""
    gamma, beta = parameters(h)
    g = Graph(opset, F32 if cast else elem)
    x = g.op("Cast", "x", to=F32) if cast else "x"
    m = summed(g, x, axes, "ReduceSum") if sums else g.reduce("ReduceMean", x, axes)
    d = g.op("Sub", m, x) if negated else g.op("Sub", x, m)
    v = summed(g, d, axes, "ReduceSumSquare") if sums else variance(g, x, m, d, axes, how)
    n = root(g, v, epsilon, inverse, d)
    y = g.op("Add", g.op("Mul", n, g.const(_stored(gamma, elem))), g.const(_stored(beta, elem)))
    if cast:
        y = g.op("Cast", y, to=F16)
        g.elem = F16
    return g.model({"x": [*dims[:-1], h]}, y)


def _stored(values, elem):
    return values.astype(helper.tensor_dtype_to_np_dtype(elem)).astype(np.float64)


def beta_minus(*, epsilon=1e-5, h=24):
    """x·(i·γ) + (β − μ·(i·γ))."""
    gamma, beta = parameters(h)
    g = Graph()
    m = g.reduce("ReduceMean", "x", [-1])
    d = g.op("Sub", "x", m)
    k = root(g, variance(g, "x", m, d, [-1], "mul"), epsilon, "rsqrt", g.const(gamma))
    shift = g.op("Sub", g.const(beta), g.op("Mul", m, k))
    return g.model({"x": ["N", "S", h]}, g.op("Add", g.op("Mul", "x", k), shift))


def guarded(kind, how="one pass"):
    """LayerNorm whose variance goes through an operator that must not change it."""
    gamma, beta = parameters(24)
    g = Graph()
    m = g.reduce("ReduceMean", "x", [-1])
    d = g.op("Sub", "x", m)
    v = variance(g, "x", m, d, [-1], how)
    more = {"Clip": (g.const(0.0),), "Expand": (g.op("Shape", "x"),)}.get(kind, ())
    n = root(g, g.op(kind, v, *more), 1e-5, "rsqrt", d)
    return g.model({"x": ["N", "S", 24]}, g.op("Add", g.op("Mul", n, g.const(gamma)), g.const(beta)))


def unbiased(h=24):
    """LayerNorm with the unbiased variance, whose N − 1 is asked of the shape."""
    gamma, beta = parameters(h)
    g = Graph()
    d = g.op("Sub", "x", g.reduce("ReduceMean", "x", [-1]))
    extent = g.op("Cast", g.op("Gather", g.op("Shape", "x"), g.const([2])), to=F32)
    total = g.reduce("ReduceSum", g.op("Mul", d, d), [-1])
    n = root(g, g.op("Div", total, g.op("Sub", extent, g.const(1.0))), 1e-5, "sqrt", d)
    return g.model({"x": ["N", "S", h]}, g.op("Add", g.op("Mul", n, g.const(gamma)), g.const(beta)))


def absorbed(h=24, *, forget=False):
    """What the unbiased variance becomes: N/(N − 1) goes into gamma and into epsilon, which `forget` leaves out."""
    gamma, beta = parameters(h)
    g, k = Graph(), (h - 1) / h
    epsilon = 1e-5 if forget else 1e-5 * k
    y = g.op("LayerNormalization", "x", g.const(gamma * k**0.5), g.const(beta), epsilon=epsilon, axis=-1)
    return g.model({"x": ["N", "S", h]}, y)


def layer_op(*, epsilon=1e-5, h=24, opset=17, elem=F32, swapped=False, axis=-1, scale=1.0, dims=("N", "S", None)):
    gamma, beta = parameters(h)
    g = Graph(opset, elem)
    first, second = (beta, gamma) if swapped else (gamma, beta)
    y = g.op("LayerNormalization", "x", g.const(first * scale), g.const(second), epsilon=epsilon, axis=axis)
    return g.model({"x": [*dims[:-1], h]}, y)


def rms_chain(*, how="pow", inverse="rsqrt", epsilon=1e-6, h=24, opset=17, elem=F32):
    g = Graph(opset, elem)
    if how == "l2":
        norm = g.reduce("ReduceL2", "x", [-1])
        v = g.op("Div", g.op("Mul", norm, norm), g.const(float(h)))
    else:
        square = g.op("Mul", "x", "x") if how == "mul" else g.op("Pow", "x", g.const(2.0))
        v = g.reduce("ReduceMean", square, [-1])
    n = root(g, v, epsilon, inverse, "x")
    return g.model({"x": ["N", "S", h]}, g.op("Mul", n, g.const(parameters(h)[0])))


def rms_op(kind="SimplifiedLayerNormalization", *, epsilon=1e-6, h=24, elem=F32, opset=None):
    g = Graph(opset or (23 if kind == "RMSNormalization" else 17), elem)
    y = g.op(kind, "x", g.const(parameters(h)[0]), axis=-1, epsilon=epsilon)
    return g.model({"x": ["N", "S", h]}, y)


def skip_chain(*, epsilon=1e-5, h=24, elem=F32, rms=False, bias=True):
    """x + skip (+ bias), then the norm; y and the sum."""
    g = Graph(17, elem)
    total = g.op("Add", "x", "skip")
    total = g.op("Add", total, g.const(parameters(h, 5)[1])) if bias else total
    gamma, beta = parameters(h)
    if rms:
        y = g.op("SimplifiedLayerNormalization", total, g.const(gamma), axis=-1, epsilon=epsilon)
    else:
        y = g.op("LayerNormalization", total, g.const(gamma), g.const(beta), axis=-1, epsilon=epsilon)
    dims = ["N", "S", h]
    return g.model({"x": dims, "skip": dims}, y, total)


def skip_op(*, epsilon=1e-5, h=24, elem=F32, rms=False, bias=True, forget_bias=False):
    g = Graph(17, elem)
    gamma, beta = parameters(h)
    extra = [g.const(parameters(h, 5)[1] * (0 if forget_bias else 1))] if bias else []
    kind = "SkipSimplifiedLayerNormalization" if rms else "SkipLayerNormalization"
    middle = [] if rms else [g.const(beta)]
    y, _, _, total = g.op(
        kind, "x", "skip", g.const(gamma), *middle, *extra, domain=MS, outputs=4, epsilon=epsilon
    )  # fmt: skip
    g.nodes[-1].output[1] = g.nodes[-1].output[2] = ""
    dims = ["N", "S", h]
    return g.model({"x": dims, "skip": dims}, y, total)


C, GROUPS = 12, 3


def group(kind, *, groups=GROUPS, epsilon=1e-5, elem=F32, swapped=False, silu=False, last=True, c=C, wide=False):
    """GroupNorm of x [N, C, H, W] in several spellings; `wide` stores the contrib operator's γ and β in float32."""
    gamma, beta = parameters(c)
    gamma, beta = (_stored(v, elem) for v in ((beta, gamma) if swapped else (gamma, beta)))
    g = Graph({"GroupNormalization-21": 21, "GroupNormalization-18": 18}.get(kind, 17), elem)
    x, y = "x", None
    if kind == "contrib":
        x = g.op("Transpose", "x", perm=[0, 2, 3, 1]) if last else x
        stored = F32 if wide else elem
        y = g.op(
            "GroupNorm", x, g.const(gamma, stored), g.const(beta, stored), domain=MS, groups=groups, epsilon=epsilon,
            activation=int(silu), channels_last=int(last),
        )  # fmt: skip
        y = g.op("Transpose", y, perm=[0, 3, 1, 2]) if last else y
        return g.model({"x": ["N", c, "H", "W"]}, y)
    if kind == "GroupNormalization-21":
        y = g.op("GroupNormalization", x, g.const(gamma), g.const(beta), num_groups=groups, epsilon=epsilon)
        return g.model({"x": ["N", c, "H", "W"]}, _silu(g, y) if silu else y)
    if kind == "GroupNormalization-18":
        ones, zeros = g.const(np.ones(groups)), g.const(np.zeros(groups))
        n = g.op("GroupNormalization", x, ones, zeros, num_groups=groups, epsilon=epsilon)
    elif kind == "instance":
        view = g.op("Reshape", x, g.const([0, groups, -1]))
        n = g.op("InstanceNormalization", view, g.const(np.ones(groups)), g.const(np.zeros(groups)), epsilon=epsilon)
        n = g.op("Reshape", n, g.op("Shape", x))
    else:  # decomposed, in a 5-D view
        sizes = g.op("Slice", g.op("Shape", x), g.const([2]), g.const([4]))
        shape = g.op("Concat", g.const([0, groups, c // groups]), sizes, axis=0)
        view = g.op("Reshape", x, shape)
        m = g.reduce("ReduceMean", view, [2, 3, 4])
        d = g.op("Sub", view, m)
        n = root(g, variance(g, view, m, d, [2, 3, 4], kind), epsilon, "sqrt", d)
        n = g.op("Reshape", n, g.op("Shape", x))
    dims = (c, 1, 1)
    y = g.op("Add", g.op("Mul", n, g.const(gamma.reshape(dims))), g.const(beta.reshape(dims)))
    return g.model({"x": ["N", c, "H", "W"]}, _silu(g, y) if silu else y)


def by_layer_norm(*, batch_norm=False, space=(4, 5)):
    """GroupNorm as LayerNormalization of [N, G, K], with the affine as one BatchNormalization or as Mul and Add."""
    gamma, beta = parameters(C)
    g, size = Graph(), C // GROUPS * space[0] * space[1]
    view = g.op("Reshape", "x", g.const([0, GROUPS, size]))
    n = g.op("LayerNormalization", view, g.const(np.ones(size)), axis=-1, epsilon=1e-5)
    n = g.op("Reshape", n, g.const([0, C, *space]))
    if batch_norm:
        still = g.const(np.zeros(C)), g.const(np.ones(C))
        y = g.op("BatchNormalization", n, g.const(gamma), g.const(beta), *still, epsilon=0.0)
    else:
        y = g.op("Add", g.op("Mul", n, g.const(gamma.reshape(C, 1, 1))), g.const(beta.reshape(C, 1, 1)))
    return g.model({"x": ["N", C, *space]}, y)


def sized(model, space=(4, 5)):
    """The model with a fixed size of its input's last two dimensions."""
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], space, strict=True):
        dim.dim_value = size
    return model


def _silu(g, y):
    return g.op("Mul", y, g.op("Sigmoid", y))


def instance(kind, *, epsilon=1e-5, elem=F32, dims=("N", 6, "H", "W")):
    gamma, beta = parameters(6)
    g = Graph(17, elem)
    rank = len(dims)
    axes, shape = list(range(2, rank)), (6, *[1] * (rank - 2))
    if kind == "op":
        y = g.op("InstanceNormalization", "x", g.const(gamma), g.const(beta), epsilon=epsilon)
        return g.model({"x": list(dims)}, y)
    if kind == "mvn":
        n = g.op("MeanVarianceNormalization", "x", axes=axes)
    elif kind == "batch":  # each sample and channel a channel of its own, statistics computed
        view = g.op(
            "Reshape",
            "x",
            g.op("Concat", g.const([1, -1]), g.op("Slice", g.op("Shape", "x"), g.const([2]), g.const([rank])), axis=0),
        )
        m = g.reduce("ReduceMean", view, axes)
        d = g.op("Sub", view, m)
        v = g.reduce("ReduceMean", g.op("Mul", d, d), axes)
        flat = [g.op("Reshape", s, g.const([-1])) for s in (m, v)]
        ones = g.op("Expand", g.const([1.0]), g.op("Shape", flat[0]))
        zeros = g.op("Sub", ones, ones)
        n = g.op("BatchNormalization", view, ones, zeros, *flat, epsilon=epsilon)
        n = g.op("Reshape", n, g.op("Shape", "x"))
    else:
        m = g.reduce("ReduceMean", "x", axes)
        d = g.op("Sub", "x", m)
        n = root(g, variance(g, "x", m, d, axes, kind), epsilon, "sqrt", d)
    y = g.op("Add", g.op("Mul", n, g.const(gamma.reshape(shape))), g.const(beta.reshape(shape)))
    return g.model({"x": list(dims)}, y)


def region(before, after, name="e"):
    return Region((name,), before, after)


def save(folder, before, after):
    paths = folder / "a.onnx", folder / "b.onnx"
    for path, one in zip(paths, (before, after), strict=True):
        onnx.save(one, path)
    return paths
