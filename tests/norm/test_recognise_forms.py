"""Norms by group, by instance, and inside of other operators: what each is recognised as."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from normfold.norm.meaning import Kind
from tests.model.build import net, node
from tests.norm.recognising import assert_means, only
from tests.norm.spellings import E32, SPELLINGS, along, vector

SHAPES = {3: (10,), 4: (3, 5), 5: (2, 3, 2)}
C, G = 12, 3


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name != "SkipLayerNormalization"])
def test_every_exporter_is_understood(name):
    case = SPELLINGS[name]()
    site = only(case.model())
    base = (
        "x16" if name == "half precision" else case.base
    )  # in front of the Cast: the operator computes in float32 anyway
    assert (site.base.name, site.output.name) == (base, case.output)
    norm = case.norm
    assert (site.norm.scale, site.norm.bias) == (norm.scale, norm.bias)
    assert_means(
        site,
        axes=norm.axes,
        epsilon=norm.epsilon,
        centred=norm.centred,
        gamma=norm.gamma,
        beta=norm.beta,
        groups=norm.groups,
        channel=norm.channel,
    )


class GroupNorm:
    """Spellings of a GroupNorm of [N, C, *spatial], whose extents may be unknown."""

    def __init__(self, rank, dynamic):
        self.spatial = SHAPES[rank]
        self.rank = rank
        names = ["h", "w", "d"][: len(self.spatial)]
        self.dims = ["n", C, *names] if dynamic else [2, C, *self.spatial]
        self.nodes, self.weights = [], {}

    def op(self, op_type, *inputs, out=None, **attributes):
        out = out or f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(node(op_type, list(inputs), [out], **attributes))
        return out

    def const(self, values, dtype=np.float32):
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def ints(self, *values):
        return self.const(values, np.int64)

    def size(self, value, start, end):
        return self.op("Slice", self.op("Shape", value), self.ints(start), self.ints(end))

    def grouped(self, style, x="x"):
        """x as [N, G, ...]."""
        if style == "static":
            return self.op("Reshape", x, self.ints(0, G, -1))
        if style == "Shape":
            shape = self.op("Concat", self.size(x, 0, 1), self.ints(G), self.ints(-1), axis=0)
            return self.op("Reshape", x, shape)
        if style == "divided":  # C/G from the Shape as well
            per = self.op("Div", self.size(x, 1, 2), self.ints(G))
            shape = self.op("Concat", self.size(x, 0, 1), self.ints(G), per, self.size(x, 2, 9), axis=0)
            return self.op("Reshape", x, shape)
        rest = [d if isinstance(d, int) else -1 for d in self.dims[2:]]
        if rest.count(-1) > 1:
            return self.op("Reshape", x, self.op("Concat", self.ints(0, G, C // G), self.size(x, 2, 9), axis=0))
        return self.op("Reshape", x, self.ints(0, G, C // G, *rest))

    def back(self, value, style):
        if style == "static":
            known = [d if isinstance(d, int) else -1 for d in self.dims]
            if known.count(-1) <= 1:
                return self.op("Reshape", value, self.ints(*known))
        return self.op("Reshape", value, self.op("Shape", "x"))

    def decomposed(self, value, axes):
        m = self.op("ReduceMean", value, axes=axes, keepdims=1)
        d = self.op("Sub", value, m)
        v = self.op("ReduceMean", self.op("Mul", d, d), axes=axes, keepdims=1)
        return self.op("Div", d, self.op("Sqrt", self.op("Add", v, self.const(1e-5))))

    def affine(self, value, style):
        g, b = vector(C, 1), vector(C, 2)
        wide = [C, *[1] * (self.rank - 2)]
        gamma = beta = None
        if style in ("both", "gamma"):
            value, gamma = self.op("Mul", value, self.const(g.reshape(wide))), along(1, self.rank, g)
        if style == "both":
            value, beta = self.op("Add", value, self.const(b.reshape(wide))), along(1, self.rank, b)
        return value, gamma, beta

    def model(self, end):
        self.op("Identity", end, out="y")
        ends = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, self.dims)]
        model = net(self.nodes, {"x": self.dims}, ends, self.weights, opset=17)
        onnx.checker.check_model(model)
        return model


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("affine", ["none", "gamma", "both"])
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("grouping", ["static", "Shape", "divided", "split"])
@pytest.mark.parametrize("core", ["instance", "instance with parameters", "decomposed"])
def test_group_norm(rank, dynamic, affine, grouping, core):
    net = GroupNorm(rank, dynamic)
    r = net.grouped(grouping)
    inner_gamma, inner_beta = np.ones(C), np.zeros(C)
    if core == "decomposed":
        wide = {"static": 3, "Shape": 3}.get(grouping, rank + 1)
        n = net.decomposed(r, list(range(2, wide)))
    else:
        g, b = np.ones(G, np.float32), np.zeros(G, np.float32)
        if core == "instance with parameters":
            g, b = vector(G, 3), vector(G, 4)
        inner_gamma, inner_beta = np.repeat(g, C // G), np.repeat(b, C // G)
        n = net.op("InstanceNormalization", r, net.const(g), net.const(b), epsilon=1e-5)
    end, gamma, beta = net.affine(net.back(n, grouping), affine)
    site = only(net.model(end))
    gamma = along(1, rank, np.float64(inner_gamma)) * (1.0 if gamma is None else gamma)
    outer = 1.0 if affine == "none" else along(1, rank, np.float64(vector(C, 1)))
    beta = along(1, rank, np.float64(inner_beta)) * outer + (0.0 if beta is None else beta)
    assert site.output.name == "y"
    assert_means(site, axes=range(2, rank), epsilon=E32, gamma=gamma, beta=beta, groups=G, channel=1)


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("groups", [1, C])
def test_groups_that_are_none(rank, groups):
    """One group is a LayerNorm of the sample, a group per channel an InstanceNorm; the target sees that, not the analysis."""
    net = GroupNorm(rank, dynamic=False)
    r = net.op("Reshape", "x", net.ints(0, groups, -1))
    ones, zeros = net.const(np.ones(groups)), net.const(np.zeros(groups))
    n = net.op("InstanceNormalization", r, ones, zeros, epsilon=1e-5)
    end, gamma, beta = net.affine(net.op("Reshape", n, net.op("Shape", "x")), "both")
    site = only(net.model(end))
    axes = range(1 if groups == 1 else 2, rank)
    assert_means(site, axes=axes, epsilon=E32, gamma=gamma, beta=beta)


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("dynamic", [False, True])
def test_group_normalization(rank, opset, dynamic):
    g, b = (vector(G if opset < 21 else C, seed) for seed in (1, 2))
    dims = ["n", C, *["h", "w", "d"][: rank - 2]] if dynamic else [2, C, *SHAPES[rank]]
    nodes = [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=G, epsilon=1e-4)]
    site = only(net(nodes, {"x": dims}, ["y"], {"g": g, "b": b}, opset=opset))
    wide = [along(1, rank, np.float64(np.repeat(p, C // len(p)))) for p in (g, b)]
    e = float(np.float32(1e-4))
    assert_means(site, axes=range(2, rank), epsilon=e, gamma=wide[0], beta=wide[1], groups=G, channel=1)


@pytest.mark.parametrize("spatial", [(5,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_group_norm_channels_last(spatial, keepdims):
    """flax: the mean of the reshaped tensor over space and the inner factor, kept or not."""
    rank = len(spatial) + 2
    axes = [*range(1, rank - 1), rank]
    g, b = vector(C, 1), vector(C, 2)

    def mean(source, target):
        nodes = [node("ReduceMean", [source], [f"{target}_"], axes=axes, keepdims=keepdims)]
        wide = [0, *[1] * len(spatial), G, 1]
        return [*nodes, node("Reshape", [f"{target}_", "wide"], [target])], wide

    first, wide = mean("z", "m")
    second, _ = mean("p", "v")
    nodes = [
        node("Reshape", ["x", "split"], ["z"]),
        *first,
        node("Sub", ["z", "m"], ["d"]),
        node("Mul", ["d", "d"], ["p"]),
        *second,
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["s"]),
        node("Reciprocal", ["s"], ["r"]),
        node("Mul", ["r", "g"], ["i"]),
        node("Mul", ["d", "i"], ["n"]),
        node("Add", ["n", "b"], ["o"]),
        node("Reshape", ["o", "merged"], ["y"]),
    ]
    if keepdims == 0:
        wide[0] = -1
    weights = {
        "split": np.int64([-1, *spatial, G, C // G]),
        "merged": np.int64([-1, *spatial, C]),
        "wide": np.int64(wide),
        "e": np.float32(1e-5),
        "g": g.reshape(G, C // G),
        "b": b.reshape(G, C // G),
    }
    site = only(net(nodes, {"x": ["n", *spatial, C]}, ["y"], weights))
    last = rank - 1
    gamma, beta = (along(last, rank, np.float64(p)) for p in (g, b))
    assert_means(site, axes=range(1, last), epsilon=E32, gamma=gamma, beta=beta, groups=G, channel=last)


def test_interleaved_groups_are_no_group_norm():
    """The channels of a group lie G apart: no operator has that."""
    shape = GroupNorm(4, dynamic=False)
    r = shape.op("Reshape", "x", shape.ints(0, C // G, G, 3, 5))
    site = only(shape.model(shape.back(shape.decomposed(r, [1, 3, 4]), "static")))
    assert site.base.name == r
    assert_means(site, axes=(1, 3, 4), epsilon=E32)
    assert site.norm.kind is Kind.OTHER


@pytest.mark.parametrize("spatial", list(SHAPES.values()))
@pytest.mark.parametrize("axes", [None, "spatial"])
def test_mean_variance_normalization(spatial, axes):
    rank = len(spatial) + 2
    if axes is None and rank != 4:
        return  # the default axes are those of images
    g, b = vector(6, 1), vector(6, 2)
    chosen = {} if axes is None else {"axes": list(range(2, rank))}
    nodes = [
        node("MeanVarianceNormalization", ["x"], ["n"], **chosen),
        node("Mul", ["n", "g"], ["t"]),
        node("Add", ["t", "b"], ["y"]),
    ]
    weights = {"g": g.reshape(6, *[1] * len(spatial)), "b": b.reshape(6, *[1] * len(spatial))}
    site = only(net(nodes, {"x": ["n", 6, *spatial]}, ["y"], weights))
    reduced = (0, 2, 3) if axes is None else tuple(range(2, rank))
    assert_means(site, axes=reduced, epsilon=1e-18, gamma=along(1, rank, g), beta=along(1, rank, b))


@pytest.mark.parametrize("ones", ["constant", "ConstantOfShape", "Expand", "cast"])
@pytest.mark.parametrize("length", [7, "s"])
def test_layer_norm_inside_of_an_instance_norm(ones, length):
    """tf2onnx: the sequence is taken for the channels; its length is known only when the model runs."""
    h = 24
    g, b = vector(h, 1), vector(h, 2)
    made = {
        "constant": [],
        "ConstantOfShape": [
            node("ConstantOfShape", ["s"], ["ones"], value=onnx.numpy_helper.from_array(np.float32([1]))),
            node("ConstantOfShape", ["s"], ["zeros"]),
        ],
        "Expand": [node("Expand", ["one", "s"], ["ones"]), node("Expand", ["zero", "s"], ["zeros"])],
        "cast": [
            node("ConstantOfShape", ["s"], ["ones_"], value=onnx.numpy_helper.from_array(np.float64([1]))),
            node("Cast", ["ones_"], ["ones"], to=1),
            node("ConstantOfShape", ["s"], ["zeros_"]),
            node("Identity", ["zeros_"], ["zeros"]),
        ],
    }[ones]
    if ones == "constant" and length == "s":
        return
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "i1", "i2"], ["s"]),
        *made,
        node("InstanceNormalization", ["x", "ones", "zeros"], ["n"], epsilon=1e-5),
        node("Mul", ["n", "g"], ["t"]),
        node("Add", ["t", "b"], ["y"]),
    ]
    weights = {"i1": np.int64([1]), "i2": np.int64([2]), "g": g, "b": b, "one": np.float32(1), "zero": np.float32(0)}
    if ones == "constant":
        weights |= {"ones": np.ones(7, np.float32), "zeros": np.zeros(7, np.float32)}
    site = only(net(nodes, {"x": ["n", length, h]}, ["y"], weights))
    assert_means(site, axes=[2], epsilon=E32, gamma=along(2, 3, g), beta=along(2, 3, b))


@pytest.mark.parametrize("scaled", [False, True])
def test_layer_norm_inside_of_a_batch_norm(scaled):
    """Keras 2: [B, S, D] as [1, B·S, D, 1], the rows in the place of the channels."""
    d = 24
    g, b = vector(d, 1), vector(d, 2)
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["x", "tall"], ["r"]),
        node("ReduceMean", ["r"], ["m_"], axes=[0, 2, 3]),
        node("Squeeze", ["m_", "all"], ["m"]),
        node("Sub", ["r", "m_"], ["c"]),
        node("Mul", ["c", "c"], ["sq"]),
        node("ReduceMean", ["sq"], ["v"], axes=[0, 2, 3], keepdims=0),
        node("Shape", ["m"], ["rows"]),
        node(
            "ConstantOfShape", ["rows"], ["ones"], value=onnx.numpy_helper.from_array(np.float32([2 if scaled else 1]))
        ),
        node("ConstantOfShape", ["rows"], ["zeros"]),
        node("BatchNormalization", ["r", "ones", "zeros", "m", "v"], ["z"], epsilon=1e-3),
        node("Reshape", ["z", "shape"], ["n"]),
        node("Mul", ["n", "g"], ["t"]),
        node("Add", ["t", "b"], ["y"]),
    ]
    weights = {"tall": np.int64([1, -1, d, 1]), "all": np.int64([0, 2, 3]), "g": g, "b": b}
    site = only(net(nodes, {"x": ["b", "s", d]}, ["y"], weights))
    gamma = along(2, 3, np.float64(g)) * (2 if scaled else 1)
    assert_means(site, axes=[2], epsilon=float(np.float32(1e-3)), gamma=gamma, beta=along(2, 3, b))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("k", ["sum", "mean"])
def test_l2_normalisation_with_epsilon_inside(affine, k):
    """x/√(Σx² + e) is the RMS family; with a clamp on the norm it is not."""
    h = 24
    g = vector(h, 1)
    nodes = [
        node(
            "ReduceL2" if k == "sum" else "Pow",
            ["x"] if k == "sum" else ["x", "two"],
            ["l"],
            **({"axes": [-1]} if k == "sum" else {}),
        ),
        node("Pow", ["l", "two"], ["q"]) if k == "sum" else node("ReduceMean", ["l"], ["q"], axes=[-1]),
        node("Add", ["q", "e"], ["w"]),
        node("Sqrt", ["w"], ["s"]),
        node("Div", ["x", "s"], ["n"]),
        node("Mul", ["n", "g"], ["y"]) if affine else node("Identity", ["n"], ["y"]),
    ]
    site = only(net(nodes, {"x": ["n", "s_", h]}, ["y"], {"two": np.float32(2), "e": np.float32(1e-6), "g": g}))
    factor = 1 / math.sqrt(h) if k == "sum" else 1.0
    gamma = (along(2, 3, np.float64(g)) if affine else 1.0) * np.full((1, 1, 1), factor)
    epsilon = float(np.float32(1e-6)) / (h if k == "sum" else 1)
    assert_means(site, axes=[2], epsilon=epsilon, centred=False, gamma=gamma)


@pytest.mark.parametrize("factor", [0.125, -3.0])
@pytest.mark.parametrize("side", ["both", "statistics"])
@pytest.mark.parametrize("centred", [False, True])
def test_statistics_of_a_scaled_tensor(factor, side, centred):
    """√V(s·x) is |s|·√V(x): the sign of s stays in gamma, epsilon is divided by s²."""
    h = 24
    nodes = [node("Mul", ["f", "x"], ["u"]) if factor > 0 else node("Div", ["x", "f"], ["u"])]
    top = "u" if side == "both" else "x"
    if centred:
        nodes += [
            node("ReduceMean", ["u"], ["mu"], axes=[-1]),
            node("Sub", ["u", "mu"], ["du"]),
            node("ReduceMean", ["x"], ["mx"], axes=[-1]),
            node("Sub", ["x", "mx"], ["dx"]),
        ]
    d, n = ("du", "d" + top) if centred else ("u", top)
    nodes += [
        node("Mul", [d, d], ["sq"]),
        node("ReduceMean", ["sq"], ["v"], axes=[-1]),
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["r"]),
        node("Div", [n, "r"], ["y"]),
    ]
    site = only(net(nodes, {"x": ["n", h]}, ["y"], {"f": np.float32(factor), "e": np.float32(1e-3)}))
    s = factor if factor > 0 else 1 / factor
    gamma = np.sign(s) if side == "both" else 1 / abs(s)
    epsilon = float(np.float32(1e-3)) / s**2
    assert_means(site, axes=[1], epsilon=epsilon, centred=centred, gamma=np.full((1, 1), gamma))


@pytest.mark.parametrize("op_type", ["RMSNormalization", "SimplifiedLayerNormalization", "LayerNormalization"])
@pytest.mark.parametrize("axis", [-1, 1, 2, None])
def test_single_operators(op_type, axis):
    shape = (4, 6)[(axis or -1) if (axis or -1) < 0 else axis - 1 :]
    g = vector(math.prod(shape), 1).reshape(shape)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [node(op_type, ["x", "g"], ["y"], epsilon=1e-3, **attributes)]
    site = only(net(nodes, {"x": ["n", 4, 6]}, ["y"], {"g": g}, opset=23))
    axes = range(3 - len(shape), 3)
    gamma = np.float64(g).reshape((1,) * (3 - len(shape)) + shape)
    centred = op_type == "LayerNormalization"
    assert_means(site, axes=axes, epsilon=float(np.float32(1e-3)), centred=centred, gamma=gamma)
