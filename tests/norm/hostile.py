"""Models that are made to trip up whatever rewrites norms; each runs as it stands."""

from __future__ import annotations

import itertools

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.model.build import net, node

H = 12
DIMS = ["n", 3, H]
F = TensorProto.FLOAT
RNG = np.random.default_rng(5)
G = (RNG.uniform(0.5, 2, H) * RNG.choice([-1, 1], H)).astype(np.float32)
B = RNG.normal(size=H).astype(np.float32)
WEIGHTS = {"two": np.float32(2), "e": np.float32(1e-5), "g": G, "b": B, "zero": np.float32(0)}


def layer(x="x", y="y", p="", *, g="g", b="b", e="e", axes=(-1,), named=False):
    """A LayerNorm of 9 nodes; `p` goes in front of all names in between."""
    specs = [
        ("ReduceMean", [x], "m"),
        ("Sub", [x, f"{p}m"], "d"),
        ("Mul", [f"{p}d", f"{p}d"], "q"),
        ("ReduceMean", [f"{p}q"], "v"),
        ("Add", [f"{p}v", e], "w"),
        ("Sqrt", [f"{p}w"], "r"),
        ("Div", [f"{p}d", f"{p}r"], "n"),
        ("Mul", [f"{p}n", g], "t"),
        ("Add", [f"{p}t", b], None),
    ]
    return [
        node(
            op,
            ins,
            [y if out is None else f"{p}{out}"],
            name=f"{p}{op}{i}" if named else None,
            **({"axes": list(axes)} if op == "ReduceMean" else {}),
        )
        for i, (op, ins, out) in enumerate(specs)
    ]


def info(name, dims, elem=F):
    return helper.make_tensor_value_info(name, elem, dims)


def graph(nodes, outputs, name="body", inputs=(), weights=None):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    return helper.make_graph(nodes, name, list(inputs), [info(o, None) for o in outputs], tensors)


def plain(nodes=None, dims=DIMS, outputs=("y",), weights=None, **more):
    return net(nodes or layer(), {"x": dims}, list(outputs), {**WEIGHTS, **(weights or {})}, **more)


def overridable(*names):
    """The author lists initializers among the inputs: a caller may give others."""
    model = plain()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(info(tensor.name, list(tensor.dims)))
    return model


def ir3():
    model = plain(opset=9, ir=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(info(tensor.name, list(tensor.dims)))
    return model


def in_branches():
    """x, gamma and beta are captured; epsilon is the body's own."""
    then = graph(layer(y="t_y", p="t_", e="t_e"), ["t_y"], weights={"t_e": np.float32(1e-3)})
    other = graph([*layer(y="o_", p="o_"), node("Neg", ["o_"], ["o_y"])], ["o_y"])
    nodes = [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Greater", ["top", "zero"], ["is"])]
    return plain([*nodes, node("If", ["is"], ["y"], then_branch=then, else_branch=other)])


def captured_statistics():
    """A branch reads the mean and the deviation of a norm outside."""
    then = graph([node("Add", ["m", "d"], ["t_y"])], ["t_y"])
    other = graph([node("Identity", ["n"], ["o_y"])], ["o_y"])
    nodes = [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Greater", ["top", "zero"], ["is"])]
    return plain([*layer(), *nodes, node("If", ["is"], ["z"], then_branch=then, else_branch=other)], outputs=("y", "z"))


def shadowed():
    """The body has names of its own that the outer graph has as well, and makes a norm of them."""
    body_nodes = layer(x="x_in", y="x_out", p="s_", g="g_in")
    body = helper.make_graph(
        [*body_nodes, node("Identity", ["c_in"], ["c_out"])],
        "body",
        [info("i", [], TensorProto.INT64), info("c_in", [], TensorProto.BOOL), info("x_in", DIMS)],
        [info("c_out", [], TensorProto.BOOL), info("x_out", None)],
        [numpy_helper.from_array(G * 2, "g_in")],
    )
    nodes = [node("Loop", ["trips", "yes", "x"], ["y"], body=body)]
    return plain(nodes, weights={"trips": np.int64(3), "yes": np.bool_(True)})


def scanned():
    body = helper.make_graph(
        [*layer(x="row", y="row_y", p="s_"), node("Add", ["state", "row_y"], ["next"])],
        "body",
        [info("state", [H]), info("row", [H])],
        [info("next", [H]), info("row_y", [H])],
    )
    node_ = node("Scan", ["start", "x2"], ["last", "y"], body=body, num_scan_inputs=1)
    return net([node_], {"x2": [5, H]}, ["last", "y"], {**WEIGHTS, "start": np.zeros(H, np.float32)})


def in_function(calls=2, *, parameters=False):
    """The norm in a function; gamma and beta made there, or handed in."""
    nodes = layer(x="fx", y="fy")
    made = [("two", 2.0), ("e", 1e-5)] + ([] if parameters else [("g", G), ("b", B)])
    constants = [
        node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32), name))
        for name, value in made
    ]
    inputs = ["fx", "g", "b"] if parameters else ["fx"]
    function = helper.make_function("f", "Norm", inputs, ["fy"], [*constants, *nodes], [helper.make_opsetid("", 17)])
    body, last = [], "x"
    for i in range(calls):
        out = "y" if i == calls - 1 else f"h{i}"
        body.append(node("Norm", [last, "g", "b"] if parameters else [last], [out], domain="f"))
        last = out
    return net(body, {"x": DIMS}, ["y"], {"g": G, "b": B}, functions=[function], domains=("f",))


def epsilon_of_the_caller():
    """An attribute of the function is the epsilon of the operator inside."""
    inner = node("LayerNormalization", ["fx", "g", "b"], ["fn"], axis=-1)
    reference = helper.make_attribute("epsilon", 0.0)
    reference.ClearField("f")
    reference.ref_attr_name = "eps"
    inner.attribute.append(reference)
    function = helper.make_function(
        "f", "Norm", ["fx", "g", "b"], ["fy"],
        [inner, node("Mul", ["fn", "g"], ["ft"]), node("Add", ["ft", "b"], ["fy"])],
        [helper.make_opsetid("", 17)], ["eps"],
    )  # fmt: skip
    nodes = [
        node("Norm", ["x", "g", "b"], ["h"], domain="f", eps=0.5),
        node("Norm", ["h", "g", "b"], ["y"], domain="f", eps=1e-3),
    ]
    return net(nodes, {"x": DIMS}, ["y"], WEIGHTS, functions=[function], domains=("f",))


def clashes():
    """Names that a rewrite would like to use are taken, in the graph and in a body."""
    taken = ["y/scale", "y/bias", "y/LayerNormalization", "y/ones", "y/zeros", "y/shape", "scale", "x/y"]
    then = graph([node("Add", ["y/scale", "y/shape"], ["y/bias_2"])], ["y/bias_2"])
    other = graph([node("Identity", ["y/ones"], ["y/scale_2"])], ["y/scale_2"])
    nodes = [node("Exp", ["x"], [taken[0]])]
    nodes += [node("Abs", [a], [b]) for a, b in itertools.pairwise(taken)]
    nodes += [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Greater", ["top", "zero"], ["is"])]
    nodes += [node("If", ["is"], ["z"], then_branch=then, else_branch=other)]
    return plain([*nodes, *layer(named=True)], outputs=("y", "z", "x/y"))


def old_company():
    """Opset 10 with operators that later versions changed."""
    nodes = [
        *layer(y="h"),
        node("Unsqueeze", ["h"], ["u"], axes=[1]),
        node("Softmax", ["u"], ["s"], axis=3),
        node("Dropout", ["s"], ["o"], ratio=0.3),
        node("Squeeze", ["o"], ["sq"], axes=[1]),
        node("Clip", ["sq"], ["c"], min=0.01, max=0.2),
        node("Pad", ["c"], ["pp"], pads=[0, 0, 0, 0, 0, 4], value=0.5),
        node("Slice", ["pp", "from", "to", "along"], ["sl"]),
        node("Split", ["sl"], ["a", "bb"], axis=2, split=[4, 8]),
        node("Concat", ["bb", "a"], ["cc"], axis=2),
        node("ReduceSum", ["cc"], ["rs"], axes=[1], keepdims=1),
        node("TopK", ["cc", "k"], ["y", "idx"], axis=-1),
        node("Cast", ["rs"], ["z"], to=F),
    ]
    return plain(
        nodes,
        opset=10,
        outputs=("y", "z"),
        weights={"k": np.int64([5]), "from": np.int64([0]), "to": np.int64([H]), "along": np.int64([2])},
    )


def duplicates():
    """The same norm twice, node by node, and once more of the result."""
    nodes = [*layer(y="y1", p="a"), *layer(y="y2", p="b"), *layer(x="y2", y="y3", p="c")]
    return plain([*nodes, node("Sum", ["y1", "y2", "y3"], ["y"])])


def chain(count=4):
    nodes = [item for i in range(count) for item in layer(x=f"h{i}", y=f"h{i + 1}", p=f"c{i}")]
    return plain([node("Identity", ["x"], ["h0"]), *nodes, node("Identity", [f"h{count}"], ["y"])])


def backwards(sign):
    """Gamma with extreme values."""
    return plain(weights={"g": G * sign})


def typed(elem, dtype, **weights):
    values = {k: np.asarray(v).astype(dtype) for k, v in {**WEIGHTS, **weights}.items()}
    return net(layer(), [info("x", DIMS, elem)], ["y"], values, elem=elem)


def transposed_square():
    """Both dimensions are 12 long: the statistics of one, the parameters along the other."""
    nodes = [
        node("Transpose", ["x"], ["tx"], perm=[1, 0]),
        *layer(x="tx", y="ty"),
        node("Transpose", ["ty"], ["u"], perm=[1, 0]),
        node("Sub", ["u", "x"], ["y"]),
    ]
    return plain(nodes, dims=[H, H])


def gathered_mean():
    """One element of the mean is taken, and the rest is dropped: it broadcasts over everything."""
    nodes = layer()
    nodes[1:2] = [node("Gather", ["m", "first"], ["m1"], axis=0), node("Sub", ["x", "m1"], ["d"])]
    return plain(nodes, weights={"first": np.int64([0])})


def moved_mean():
    """keepdims=0 and an Unsqueeze at the wrong place, where the extents happen to agree."""
    nodes = layer()
    nodes[0:1] = [
        node("ReduceMean", ["x"], ["m_"], axes=[2], keepdims=0),
        node("Unsqueeze", ["m_", "one"], ["m"]),
    ]
    return plain(nodes, dims=["n", H, H], weights={"one": np.int64([1])})


def split_extents():
    """A Reshape that cuts a dimension one way, and another that cuts it otherwise."""
    nodes = [
        node("Reshape", ["x", "s1"], ["a"]),
        *layer(x="a", y="a1", p="a", axes=(-1,), g="g4", b="g4"),
        node("Reshape", ["x", "s2"], ["c"]),
        *layer(x="c", y="c1", p="c", axes=(-1,), g="g6", b="g6"),
        node("Reshape", ["a1", "s0"], ["a2"]),
        node("Reshape", ["c1", "s0"], ["c2"]),
        node("Add", ["a2", "c2"], ["y"]),
    ]
    weights = {"s1": np.int64([0, 3, 3, 4]), "s2": np.int64([0, 3, 2, 6]), "s0": np.int64([0, 3, 12])}
    return plain(nodes, weights={**weights, "g4": G[:4], "g6": G[:6]})


MODELS = {
    "plain": plain,
    "symbols that coincide": lambda: plain(dims=["n", "n", H]),
    "one symbol everywhere": lambda: plain([*layer()[:7], node("Identity", ["n"], ["y"])], dims=["n", "n", "n"]),
    "square": lambda: plain(dims=[H, H, H]),
    "two dimensions of the same extent": transposed_square,
    "rank 1": lambda: plain(dims=[H]),
    "rank 6": lambda: plain(dims=[1, 2, 1, 2, 3, H]),
    "extents of 1": lambda: plain(dims=[1, 1, H]),
    "statistics of one element": lambda: plain([*layer()[:7], node("Identity", ["n"], ["y"])], dims=["n", 3, 1]),
    "overridable gamma": lambda: overridable("g"),
    "overridable epsilon": lambda: overridable("e"),
    "everything overridable": lambda: overridable(*WEIGHTS),
    "IR 3": ir3,
    "norms in branches": in_branches,
    "statistics that a branch reads": captured_statistics,
    "a loop": shadowed,
    "a scan": scanned,
    "a function": in_function,
    "a function called once": lambda: in_function(1),
    "a function with parameters": lambda: in_function(parameters=True),
    "epsilon of the caller": epsilon_of_the_caller,
    "names that are taken": clashes,
    "old company": old_company,
    "duplicates": duplicates,
    "a chain": chain,
    "nobody reads the norm": lambda: plain([*layer(y="unread"), node("Exp", ["x"], ["y"])]),
    "epsilon 0": lambda: plain(weights={"e": np.float32(0)}),
    "tiny epsilon": lambda: plain(weights={"e": np.float32(1e-40)}),
    "huge epsilon": lambda: plain(weights={"e": np.float32(3e38)}),
    "infinite epsilon": lambda: plain(weights={"e": np.float32(np.inf)}),
    "huge gamma": lambda: backwards(1e37),
    "tiny gamma": lambda: backwards(1e-40),
    "gamma 0": lambda: backwards(0),
    "gamma NaN": lambda: plain(weights={"g": np.where(np.arange(H) == 3, np.nan, G).astype(np.float32)}),
    "beta infinite": lambda: plain(weights={"b": np.where(np.arange(H) == 3, np.inf, B).astype(np.float32)}),
    "float16": lambda: typed(TensorProto.FLOAT16, np.float16),
    "float16, gamma beyond": lambda: typed(TensorProto.FLOAT16, np.float16, g=G * 30000),
    "float64": lambda: typed(TensorProto.DOUBLE, np.float64),
    "float64, epsilon 1e-320": lambda: typed(TensorProto.DOUBLE, np.float64, e=1e-320),
    "float64, gamma beyond float32": lambda: typed(TensorProto.DOUBLE, np.float64, g=G.astype(np.float64) * 1e200),
    "dropout in between": lambda: plain(
        [*layer(y="y_")[:7], node("Dropout", ["n"], ["no"]), node("Mul", ["no", "g"], ["y"])]
    ),
    "one element of the mean": gathered_mean,
    "the mean at the wrong place": moved_mean,
    "two ways to cut": split_extents,
    "shape unknown": lambda: net(layer(), [info("x", None)], ["y"], WEIGHTS),
    "extents unknown": lambda: net(layer(), [info("x", [None, None, None])], ["y"], WEIGHTS),
    "gamma from integers": lambda: plain(
        [node("Cast", ["gi"], ["gf"], to=F), *layer(g="gf")], weights={"gi": np.arange(1, H + 1)}
    ),
    "gamma shared with others": lambda: plain(
        [*layer(), node("Mul", ["x", "g"], ["z_"]), node("Add", ["z_", "e"], ["z"])], outputs=("y", "z")
    ),
    "everything is an output": lambda: plain(outputs=("y", "t", "n", "r", "w", "v", "q", "d", "m")),
}
