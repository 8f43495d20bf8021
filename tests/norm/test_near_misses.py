"""What looks like a norm and is none, and the mistakes of other tools: the function must stay what it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from normfold.norm.recognise import Recogniser
from normfold.targets.names import Target
from tests.model.build import net, node, run, viewed
from tests.norm.recognising import assert_means, only, sites
from tests.norm.rewriting import RUNNABLE, assert_close, codes, exact, feed, operators, rewritten, stable
from tests.norm.spellings import E32, along, vector

H = 24
DIMS = ["n", "s", H]
SIZES = {"n": 2, "s": 3}
G, B = vector(H, 1), vector(H, 2)
SCALARS = {"two": np.float32(2), "e": np.float32(1e-5), "g": G, "b": B, "zero": np.float32(0)}

MEAN = node("ReduceMean", ["x"], ["m"], axes=[-1])
SUB = node("Sub", ["x", "m"], ["d"])
SQUARE = node("Mul", ["d", "d"], ["p"])
VARIANCE = node("ReduceMean", ["p"], ["v"], axes=[-1])
ADD = node("Add", ["v", "e"], ["w"])
SQRT = node("Sqrt", ["w"], ["r"])
DIV = node("Div", ["d", "r"], ["n"])
LAYER = {"m": MEAN, "d": SUB, "p": SQUARE, "v": VARIANCE, "w": ADD, "r": SQRT, "n": DIV}
END = (node("Mul", ["n", "g"], ["t"]), node("Add", ["t", "b"], ["y"]))


def layer(*, after=(), weights=None, dims=DIMS, opset=17, inputs=None, **changed):
    """A LayerNorm with some nodes replaced; each is named after what it makes, and may be several."""
    nodes = []
    for name, usual in LAYER.items():
        new = changed.get(name, usual)
        nodes += new if isinstance(new, list) else [new]
    return net(
        [*nodes, *(after or END)], {"x": dims, **(inputs or {})}, ["y"], {**SCALARS, **(weights or {})}, opset=opset
    )


def unchanged(model, sizes=None, **data):
    """No target rewrites anything, or what it writes is the same function."""
    feeds = feed(model, sizes or SIZES, **data)
    wanted = exact(model, feeds)
    for target in RUNNABLE:
        result, _ = stable(model, target)
        assert_close(run(result, feeds), wanted, 2e-5)


def recognisable(model):
    loaded, _, shapes = viewed(model)
    return loaded, shapes


def norms_of_x(model):
    """The norms of x itself that are found, by the tensor that they make."""
    return {site.output.name: site for site in sites(model) if site.base.name == "x"}


NEAR_MISSES = {
    "epsilon outside of the root": layer(w=node("Sqrt", ["v"], ["w"]), r=node("Add", ["w", "e"], ["r"])),
    "exponent 3": layer(p=node("Pow", ["d", "three"], ["p"]), weights={"three": np.float32(3)}),
    "exponent 4": layer(p=node("Pow", ["d", "four"], ["p"]), weights={"four": np.float32(4)}),
    "root over deviation": layer(n=node("Div", ["r", "d"], ["n"])),
    "clamped variance": layer(w=node("Max", ["v", "e"], ["w"])),
    "clamped from above": layer(w=[node("Add", ["v", "e"], ["w_"]), node("Min", ["w_", "two"], ["w"])]),
    "absolute deviation": layer(p=node("Abs", ["d"], ["p"])),
    "absolute numerator": layer(n=[node("Abs", ["d"], ["a"]), node("Div", ["a", "r"], ["n"])]),
    "variance without the mean subtracted above": layer(n=node("Div", ["x", "r"], ["n"])),
    "mean square with the mean subtracted above": layer(p=node("Mul", ["x", "x"], ["p"])),
    "mean added": layer(d=node("Add", ["x", "m"], ["d"])),
    "half of the mean": layer(
        d=[node("Mul", ["m", "half"], ["h"]), node("Sub", ["x", "h"], ["d"])], weights={"half": np.float32(0.5)}
    ),
    "variance added to its mean": layer(
        w=[node("Add", ["v", "m"], ["w_"]), node("Add", ["w_", "e"], ["w"])], n=node("Div", ["d", "r"], ["n"])
    ),
    "epsilon per feature": layer(weights={"e": np.float32(np.linspace(1e-5, 1e-2, H))}),
    "negative epsilon": layer(weights={"e": np.float32(-1e-5)}),
    "product with the deviation": layer(n=node("Mul", ["d", "r"], ["n"])),
    "variance in the place of the root": layer(n=node("Div", ["d", "w"], ["n"])),
    "shifted numerator": layer(n=[node("Add", ["d", "two"], ["d2"]), node("Div", ["d2", "r"], ["n"])]),
    "cube root": layer(r=node("Pow", ["w", "third"], ["r"]), weights={"third": np.float32(1 / 3)}),
    "gamma inside of the square": layer(p=[node("Mul", ["d", "g"], ["dg"]), node("Mul", ["dg", "dg"], ["p"])]),
    "variance of another axis": layer(v=node("ReduceMean", ["p"], ["v"], axes=[1])),
    "mean of another axis": layer(m=node("ReduceMean", ["x"], ["m"], axes=[1])),
    "maximum": layer(v=node("ReduceMax", ["p"], ["v"], axes=[-1])),
    "variance of another tensor": layer(p=node("Mul", ["o", "o"], ["p"]), inputs={"o": DIMS}),
    "guard": layer(
        v=[VARIANCE, node("Equal", ["v", "zero"], ["is"])],
        n=[node("Where", ["is", "two", "r"], ["rr"]), node("Div", ["d", "rr"], ["n"])],
    ),
    "clamped norm": layer(n=[node("Div", ["d", "r"], ["n_"]), node("Max", ["n_", "two"], ["n"])], r=[SQRT], v=VARIANCE),
}
# These hold a norm of x, without what makes them a near-miss.
HOLD_A_NORM = {"clamped norm": "n_"}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses(name):
    model = NEAR_MISSES[name]
    assert set(norms_of_x(model)) == {HOLD_A_NORM[name]} if name in HOLD_A_NORM else not norms_of_x(model)
    unchanged(model)


def test_a_factor_whose_square_is_not_finite():
    """The root times 1e200, squared: no float64 holds that, and nothing is known of it."""
    nodes = [node("Mul", ["x", "x"], ["xx"]), node("ReduceMean", ["xx"], ["v"], axes=[-1]), node("Add", ["v", "e"], ["w"]),
             node("Sqrt", ["w"], ["r"]), node("Mul", ["r", "huge"], ["h"]), node("Pow", ["h", "two"], ["y"])]  # fmt: skip
    weights = {"e": np.float64(1e-5), "huge": np.float64(1e200), "two": np.float64(2)}
    assert not sites(net(nodes, {"x": DIMS}, ["y"], weights, elem=TensorProto.DOUBLE))


def test_an_inverse_root_that_is_stretched_is_no_norm():
    """It has the shape of x and the moment of a norm, and nothing of x itself."""
    end = [node("Reciprocal", ["r"], ["i"]), node("Add", ["i", "two"], ["s"]), node("Expand", ["s", "shape"], ["y"])]
    weights = {"e": np.float32(1e-5), "two": np.float32(2), "shape": np.array([2, 3, H])}
    model = net([*(LAYER[name] for name in "mdpvwr"), *end], {"x": [2, 3, H]}, ["y"], weights)
    assert not sites(model)


def test_integers_have_no_norm():
    square, mean = node("Mul", ["x", "x"], ["p"]), node("ReduceMean", ["p"], ["y"], axes=[-1])
    assert not sites(net([square, mean], {"x": [2, 3, H]}, ["y"], elem=TensorProto.INT64))


def test_a_function_that_is_called_like_a_norm():
    """The call means what its body says."""
    body = [node("Relu", ["x"], ["y"])]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function(
        "com.microsoft", "GroupNorm", ["x", "s", "b"], ["y"], body, imports, ["groups", "channels_last", "activation"]
    )
    call = node("GroupNorm", ["x", "s", "b"], ["y"], domain="com.microsoft", groups=2, channels_last=0, activation=0)
    weights = {"s": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    options = {"domains": ("com.microsoft",)}
    assert sites(net([call], {"x": [2, 4, 5, 6]}, ["y"], weights, **options))
    assert not sites(net([call], {"x": [2, 4, 5, 6]}, ["y"], weights, functions=[function], **options))


def test_a_division_by_zero_in_front_of_a_statistic():
    """It is no scalar multiple of x, and nothing is divided to find out."""
    model = layer(m=[node("Div", ["x", "zero"], ["u"]), node("ReduceMean", ["u"], ["m"], axes=[-1])])
    assert not norms_of_x(model)


def test_what_is_rounded_on_the_way_to_less_than_it_comes_and_goes():
    """In float64 nothing would show it, and the operator would round less."""
    half, back = node("Cast", ["d0"], ["d1"], to=TensorProto.FLOAT16), node("Cast", ["d1"], ["d"], to=TensorProto.FLOAT)
    assert not norms_of_x(layer(d=[node("Sub", ["x", "m"], ["d0"]), half, back]))
    wide, back = node("Cast", ["d0"], ["d1"], to=TensorProto.DOUBLE), node("Cast", ["d1"], ["d"], to=TensorProto.FLOAT)
    assert norms_of_x(layer(d=[node("Sub", ["x", "m"], ["d0"]), wide, back]))


# Behind a norm of x, what is no scale and no bias although it has the shape of one.
def behind(*nodes, outputs=("y",), inputs=None, **options):
    return net(
        [*LAYER.values(), *nodes],
        {"x": [2, 3, H], **(inputs or {"z": [H], "q": [H]})},
        list(outputs),
        SCALARS,
        **options,
    )


OPERANDS = {
    "scale and bias": ((node("Mul", ["n", "z"], ["t"]), node("Add", ["t", "q"], ["y"])), {}, 2),
    "scale on the left": ((node("Mul", ["z", "n"], ["y"]),), {}, 1),
    "a divisor": ((node("Div", ["n", "z"], ["y"]),), {}, 0),
    "a difference": ((node("Mul", ["n", "z"], ["t"]), node("Sub", ["t", "q"], ["y"])), {}, 1),
    "a maximum": ((node("Max", ["n", "z"], ["y"]),), {}, 0),
    "another domain": ((node("Mul", ["n", "z"], ["y"], domain="my"),), {"domains": ("my",)}, 0),
    "another attribute": ((node("Mul", ["n", "z"], ["y"], mystery=1),), {}, 0),
    "of other rows": ((node("Mul", ["n", "z"], ["y"]),), {"inputs": {"z": [3, H]}}, 0),
    "of one": ((node("Mul", ["n", "z"], ["y"]),), {"inputs": {"z": [1]}}, 0),
    "of unknown length": ((node("Mul", ["n", "z"], ["y"]),), {"inputs": {"z": ["h"]}}, 0),
    "the norm is read elsewhere": ((node("Mul", ["n", "z"], ["y"]), node("Relu", ["n"], ["o"])), {"outputs": ("y", "o")}, 0),
    "the norm is an output": ((node("Mul", ["n", "z"], ["y"]),), {"outputs": ("y", "n")}, 0),
    "the scaled norm is one": ((node("Mul", ["n", "z"], ["t"]), node("Add", ["t", "q"], ["y"])), {"outputs": ("y", "t")}, 1),
    "a bias alone": ((node("Add", ["n", "q"], ["y"]),), {}, 0),
    "its own square": ((node("Mul", ["n", "n"], ["y"]),), {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERANDS)
def test_operands_that_are_no_scale_and_bias(name):
    nodes, options, count = OPERANDS[name]
    (site,) = Recogniser(*recognisable(behind(*nodes, **options))).sites()
    assert len(site.operands) == count


def test_a_scale_that_is_read_in_a_body_is_not_taken():
    then, other = (
        helper.make_graph([node(op, ["n", "z"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)])
        for op, name in (("Mul", "then"), ("Sub", "other"))
    )
    choice = node("If", ["which"], ["y"], then_branch=then, else_branch=other)
    inputs = [helper.make_tensor_value_info("which", TensorProto.BOOL, [])]
    inputs += [helper.make_tensor_value_info(name, 1, dims) for name, dims in (("x", [2, 3, H]), ("z", [H]))]
    model = net([*LAYER.values(), choice], inputs, ["y"], SCALARS)
    assert all(not site.operands for site in Recogniser(*recognisable(model)).sites())


# --- one for every mistake of section 7 of the norm reference ---------------------------------------------


def test_the_sign_of_a_deviation_the_wrong_way_round():
    model = layer(d=node("Sub", ["m", "x"], ["d"]))
    assert_means(only(model), axes=[2], epsilon=E32, gamma=-along(2, 3, np.float64(G)), beta=along(2, 3, B))
    unchanged(model)


@pytest.mark.parametrize("epsilon", [0.25, 1e-3, 1e-12])
@pytest.mark.parametrize("first", [False, True])
def test_epsilon_is_read_from_either_operand(epsilon, first):
    add = node("Add", ["e", "v"] if first else ["v", "e"], ["w"])
    model = layer(w=add, weights={"e": np.float32(epsilon)})
    assert_means(only(model), axes=[2], epsilon=float(np.float32(epsilon)), gamma=along(2, 3, G), beta=along(2, 3, B))
    unchanged(model)


@pytest.mark.parametrize("extents", [(H, H, H), (H, H)])
def test_dropped_dimensions_meet_others_of_the_same_extent(extents):
    """keepdims=0: the mean of row i is subtracted from column i."""
    model = layer(
        m=node("ReduceMean", ["x"], ["m"], axes=[-1], keepdims=0),
        v=node("ReduceMean", ["p"], ["v"], axes=[-1], keepdims=0),
        dims=list(extents),
    )
    assert not norms_of_x(model)
    unchanged(model)


def test_scale_is_found_by_its_role_and_not_by_its_rank():
    """The divisor is a constant of the rank that scales have."""
    model = layer(n=[node("Div", ["d", "r"], ["q"]), node("Div", ["q", "g2"], ["n"])], weights={"g2": G + 3})
    gamma = along(2, 3, np.float64(G) / (np.float64(G + 3)))
    assert_means(only(model), axes=[2], epsilon=E32, gamma=gamma, beta=along(2, 3, B))
    unchanged(model)


@pytest.mark.parametrize("dims", [["n", "s", 1], ["n", 1, 1], [2, 1, 1]])
@pytest.mark.parametrize("part", ["gamma", "beta", "rank"])
def test_a_parameter_that_enlarges(dims, part):
    """x[.., 1] · gamma[H] has another shape than x."""
    after = {
        "gamma": (node("Mul", ["n", "g"], ["y"]),),
        "beta": (node("Add", ["n", "b"], ["y"]),),
        "rank": (node("Mul", ["n", "wide"], ["y"]),),
    }[part]
    model = layer(dims=dims, after=after, weights={"wide": np.ones((3, 1, 1, 1), np.float32) * 2})
    assert "y" not in norms_of_x(model)
    unchanged(model)


def test_ranks_grow_in_front_of_a_scale():
    """A scale with more dimensions than x, all of them 1, still makes another shape."""
    model = layer(dims=["n", H], after=(node("Mul", ["n", "wide"], ["y"]),), weights={"wide": G.reshape(1, 1, H)})
    assert set(norms_of_x(model)) == {"n"}
    unchanged(model)


def test_an_unknown_extent_proves_nothing():
    """The last dimension might be 1, and gamma would enlarge it."""
    model = layer(dims=["n", "s", "h"])
    assert set(norms_of_x(model)) == {"n"}
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 1)).astype(np.float32)}
    for target in RUNNABLE:
        assert_close(run(stable(model, target)[0], feeds), run(model, feeds), 1e-6)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_the_axis_of_a_layer_norm_behind_an_addition(axis):
    shape = (4, 5, 6)[axis - 1 :]
    g = vector(int(np.prod(shape)), 1).reshape(shape)
    nodes = [node("Add", ["a", "c"], ["x"]), node("LayerNormalization", ["x", "g", "b"], ["y"], axis=axis)]
    model = net(nodes, {"a": [2, 4, 5, 6], "c": [2, 4, 5, 6]}, ["y"], {"g": g, "b": -g})
    unchanged(model)
    result, _ = rewritten(model, Target.ORT_CPU)
    assert "SkipLayerNormalization" not in operators(result) or axis == 3


@pytest.mark.parametrize("shape", [(), (1,), (3, H), (1, 3, H), (3, 1)])
def test_scales_of_other_shapes_than_the_normalised_one(shape):
    """A scale that some kernels index as if it had the normalised shape."""
    g = vector(int(np.prod(shape)), 1).reshape(shape)
    model = layer(dims=["n", 3, H], after=(node("Mul", ["n", "g"], ["y"]),), weights={"g": g})
    for target in Target:
        result, _ = stable(model, target)
        for item in result.graph.node:
            if item.op_type == "LayerNormalization":
                scale = next(t for t in result.graph.initializer if t.name == item.input[1])
                assert list(scale.dims) == [H]
    unchanged(model)


def test_beta_is_not_gamma_in_channels_first():
    g, b = vector(6, 1), vector(6, 2)
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[1]),
        SUB,
        SQUARE,
        node("ReduceMean", ["p"], ["v"], axes=[1]),
        ADD,
        SQRT,
        DIV,
        *END,
    ]
    weights = {"e": np.float32(1e-6), "g": g.reshape(6, 1, 1), "b": b.reshape(6, 1, 1)}
    model = net(nodes, {"x": ["n", 6, 3, 5]}, ["y"], weights)
    assert_means(only(model), axes=[1], epsilon=float(np.float32(1e-6)), gamma=along(1, 4, g), beta=along(1, 4, b))
    unchanged(model)


def test_two_affines_on_one_core():
    model = layer(
        after=(
            *END[:1],
            node("Add", ["t", "b"], ["y1"]),
            node("Mul", ["n", "g2"], ["t2"]),
            node("Add", ["t2", "b"], ["y2"]),
            node("Concat", ["y1", "y2"], ["y"], axis=-1),
        ),
        weights={"g2": G[::-1].copy()},
    )
    assert set(norms_of_x(model)) == {"n"}
    unchanged(model)


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_x_of_32_bits_beside_a_gamma_of_16(where):
    """x is float32, the parameters float16: the operator must not be given both."""
    cast = node("Cast", ["n"], ["n16"], to=TensorProto.FLOAT16)
    wide = node("Cast", ["g16"], ["g"], to=TensorProto.FLOAT)
    after = [cast, node("Mul", ["n16", "g16"], ["y16"]), node("Cast", ["y16"], ["y"], to=1)]
    if where == "before":
        after = [wide, node("Mul", ["n", "g"], ["y"])]
    weights = {k: v for k, v in SCALARS.items() if k != "g"} | {"g16": G.astype(np.float16)}
    model = net([*LAYER.values(), *after], {"x": DIMS}, ["y"], weights)
    feeds = feed(model, SIZES)
    for target in RUNNABLE:
        result, _ = stable(model, target)
        assert_close(run(result, feeds), run(model, feeds), 2e-6 if where == "before" else 2e-3)


@pytest.mark.parametrize("opset", [11, 17, 20, 21])
def test_a_sigmoid_of_something_else_is_no_silu(opset):
    """GroupNorm(x) · Sigmoid(o)."""
    nodes = [
        node("Reshape", ["x", "split"], ["r"]),
        node("InstanceNormalization", ["r", "ones", "zeros"], ["i"], epsilon=1e-5),
        node("Reshape", ["i", "back"], ["n"]),
        node("Mul", ["n", "gc"], ["t"]),
        node("Sigmoid", ["o"], ["gate"]),
        node("Mul", ["t", "gate"], ["y"]),
    ]
    weights = {
        "split": np.int64([0, 3, -1]),
        "back": np.int64([2, 12, 4, 4]),
        "ones": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.float32),
        "gc": vector(12).reshape(12, 1, 1),
    }
    model = net(nodes, {"x": [2, 12, 4, 4], "o": [2, 12, 4, 4]}, ["y"], weights, opset=opset)
    for target in Target:
        result, _ = stable(model, target)
        assert operators(result)["Sigmoid"] == 1
        assert all(a.i == 0 for item in result.graph.node for a in item.attribute if a.name == "activation")
    unchanged(model)


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ORT_CPU, Target.TENSORRT, Target.OPENVINO])
def test_contrib_group_norm_only_where_there_is_a_kernel(target):
    nodes = [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=3, epsilon=1e-5)]
    model = net(nodes, {"x": ["n", 12, 4, 4]}, ["y"], {"g": vector(12), "b": vector(12, 1)}, opset=21)
    result, _ = stable(model, target)
    assert "GroupNorm" not in operators(result)
    assert target in (Target.TENSORRT, Target.OPENVINO) or "GroupNormalization" not in operators(result)


def test_a_residual_is_no_bias():
    model = layer(after=(END[0], node("Add", ["t", "o"], ["y"])), inputs={"o": DIMS})
    assert set(norms_of_x(model)) == {"t"}
    unchanged(model)


@pytest.mark.parametrize("axes", [{}, {"axes": [2]}, {"axes": [-1]}, {"axes": [1, 2]}, {"axes": [-1, 1]}])
@pytest.mark.parametrize("noop", [None, 0, 1])
def test_axes_and_noop_with_empty_axes(axes, noop):
    """No axes are all axes, unless the node says otherwise; then the mean square is the square itself."""
    given = axes.get("axes")
    inputs = ["p", "axes"] if given else ["p"]
    attributes = {} if noop is None else {"noop_with_empty_axes": noop}
    nodes = [
        node("Pow", ["x", "two"], ["p"]),
        node("ReduceMean", inputs, ["v"], **attributes),
        ADD,
        SQRT,
        node("Div", ["x", "r"], ["n"]),
        node("Mul", ["n", "g"], ["y"]),
    ]
    weights = {**SCALARS, **({"axes": np.int64(given)} if given else {})}
    model = net(nodes, {"x": [2, 3, H]}, ["y"], weights, opset=18)
    if given is None and noop == 1:
        assert not sites(model)
    else:
        reduced = sorted(a % 3 for a in given) if given else [0, 1, 2]
        assert_means(only(model), axes=reduced, epsilon=E32, centred=False, gamma=along(2, 3, G))
    unchanged(model)


@pytest.mark.parametrize("opset", [18, 20, 21])
@pytest.mark.parametrize("epsilon", [None, 1e-3])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_epsilon_and_parameters_of_group_normalization(opset, epsilon, groups):
    """Version 18 has them per group and repeats them, 21 per channel; epsilon must survive; one group is no InstanceNorm."""
    size = groups if opset < 21 else 12
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=groups, **attributes)]
    model = net(nodes, {"x": [2, 12, 3, 3]}, ["y"], {"g": vector(size), "b": vector(size, 1)}, opset=opset)
    unchanged(model)
    unchanged(model, spread=0.03)  # where epsilon counts
    for target in Target:
        result, _ = stable(model, target)
        kept = [item for item in result.graph.node if item.op_type == "GroupNormalization"]
        for item in kept:
            scale = next(t for t in result.graph.initializer if t.name == item.input[1])
            assert list(scale.dims) == [12 if result.opset_import[0].version >= 21 else groups]
            stored = {a.name: a.f for a in item.attribute}
            assert stored.get("epsilon", 1e-5) == pytest.approx(1e-5 if epsilon is None else epsilon, rel=1e-6)


def test_rms_does_not_swallow_a_layer_norm():
    """At opset 23 the tail d/√(mean(d²)+e) is an RMSNorm of d; the whole is more."""
    layer_norm = layer(
        m=node("ReduceMean", ["x", "last"], ["m"]),
        v=node("ReduceMean", ["p", "last"], ["v"]),
        opset=23,
        weights={"last": np.int64([-1])},
    )
    site = only(layer_norm)
    assert site.norm.centred
    assert site.base.name == "x"
    for target in Target:
        assert operators(stable(layer_norm, target)[0])["RMSNormalization"] == 0


@pytest.mark.parametrize("name", ["Mul", "Pow"])
def test_nothing_aborts_on_a_square_without_a_norm(name):
    """Mul(x, x) and a mean behind it: an operator that others fuse blindly, and stumble over."""
    square = node("Mul", ["x", "x"], ["p"]) if name == "Mul" else node("Pow", ["x", "two"], ["p"])
    model = net([square, node("ReduceMean", ["p"], ["y"], axes=[-1])], {"x": DIMS}, ["y"], SCALARS)
    assert not sites(model)
    unchanged(model)


def test_layer_norm_without_a_bias_and_without_anything():
    for after in ((node("Mul", ["n", "g"], ["y"]),), (node("Identity", ["n"], ["y"]),)):
        model = layer(after=after)
        assert only(model).output.name == "y"
        unchanged(model)


def test_large_means_do_not_cancel():
    """The operators that take the place of a two-pass norm must not be worse than it."""
    model = layer()
    feeds = feed(model, SIZES, mean=3000, spread=1)
    for target in RUNNABLE:
        assert_close(run(stable(model, target)[0], feeds), exact(model, feeds), 1e-3)


def test_deviations_beyond_the_range_of_float16():
    """(x - m)² leaves the range of float16; the operator computes in float32."""
    half = {k: v.astype(np.float16) for k, v in SCALARS.items()}
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, DIMS)]
    model = net([*LAYER.values(), *END], info, ["y"], half, elem=TensorProto.FLOAT16)
    feeds = feed(model, SIZES, spread=600)
    result, _ = stable(model)
    assert_close(run(result, feeds), exact(model, feeds), 5e-3)


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "com.example"])
def test_operators_of_other_domains_are_other_operators(domain):
    nodes = [node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1, domain=domain)]
    model = net(nodes, {"x": DIMS}, ["y"], SCALARS, domains=() if not domain else (domain,))
    assert bool(sites(model)) is not bool(domain)


# --- side outputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["m", "d", "p", "v", "w", "r", "n", "t"])
@pytest.mark.parametrize("as_output", [False, True])
def test_a_side_output_keeps_its_value_and_blocks_nothing(side, as_output):
    name = "side" if not as_output else side
    extra = [] if as_output else [node("Exp", [side], ["side"])]
    model = net([*LAYER.values(), *END, *extra], {"x": DIMS}, ["y", name], SCALARS)
    feeds = feed(model, SIZES)
    for target in RUNNABLE:
        result, plan = stable(model, target)
        assert_close(run(result, feeds), exact(model, feeds), 2e-5)
        # mean and variance beside an operator cost more than it saves; the mean alone does not
        assert len(plan.norms) == (side in ("m", "d", "p", "n", "t")), target
        kept = [decision.node for decision in plan.decisions if decision.code == "NF202.statistics"]
        assert kept == ([] if plan.norms else ["y"]), target


@pytest.mark.parametrize(("affine", "gains"), [("gamma", True), ("none", False)])
@pytest.mark.parametrize("side", ["v", "w", "r"])
def test_a_mean_square_that_somebody_reads(side, affine, gains):
    """It is taken once more by the operator, which saves the division and the scale each their pass over the tensor."""
    last = [node("Div", ["x", "r"], ["n"]), node("Mul", ["n", "g"], ["y"])]
    nodes = [node("Mul", ["x", "x"], ["p"]), VARIANCE, ADD, SQRT]
    nodes += last if affine == "gamma" else [node("Div", ["x", "r"], ["y"])]
    model = net(nodes, {"x": DIMS}, ["y", side], SCALARS)
    feeds = feed(model, SIZES)
    for target, operator in ((Target.ORT_CPU, "SimplifiedLayerNormalization"), (Target.PORTABLE, None)):
        result, plan = stable(model, target)
        fused = gains and operator is not None
        assert bool(plan.norms) is fused
        assert operators(result)["ReduceMean"] == 1
        assert operators(result)[operator or "Div"] == (1 if fused or operator is None else 0)
        assert ("NF202.statistics" in codes(plan)) is not fused
        assert_close(run(result, feeds), exact(model, feeds), 2e-5)


def test_a_mean_and_a_root_that_somebody_reads():
    """Statistics that are used elsewhere stay where they are made, once."""
    model = net([*LAYER.values(), *END], {"x": DIMS}, ["y", "m", "r"], SCALARS)
    result, _ = stable(model)
    assert operators(result)["ReduceMean"] == 2
    unchanged(model)


@pytest.mark.parametrize("shared", ["mean square", "root", "everything"])
def test_two_norms_share_their_statistics(shared):
    """Both are found, and the statistics go with the last of them."""
    nodes = [node("Mul", ["x", "x"], ["p"]), node("ReduceMean", ["p"], ["v"], axes=[-1])]
    if shared != "mean square":
        nodes += [node("Add", ["v", "e1"], ["w"]), node("Sqrt", ["w"], ["r"]), node("Reciprocal", ["r"], ["i"])]
    if shared == "everything":
        nodes += [node("Mul", ["x", "i"], ["n"])]
    for i in (1, 2):
        if shared == "mean square":
            nodes += [node("Add", ["v", f"e{i}"], [f"w{i}"]), node("Sqrt", [f"w{i}"], [f"r{i}"])]
            nodes += [node("Div", ["x", f"r{i}"], [f"n{i}"]), node("Mul", [f"n{i}", f"g{i}"], [f"y{i}"])]
        elif shared == "root":
            nodes += [node("Mul", ["i", f"g{i}"], [f"k{i}"]), node("Mul", ["x", f"k{i}"], [f"y{i}"])]
        else:
            nodes += [node("Mul", ["n", f"g{i}"], [f"y{i}"])]
    weights = {"e1": np.float32(1e-5), "e2": np.float32(1e-3), "g1": G, "g2": B}
    model = net(nodes, {"x": DIMS}, ["y1", "y2"], weights)
    assert {site.output.name for site in sites(model)} == ({"n"} if shared == "everything" else {"y1", "y2"})
    result, _ = stable(model, Target.ORT_CPU)
    assert operators(result)["ReduceMean"] == 0
    assert operators(result)["SimplifiedLayerNormalization"] == (1 if shared == "everything" else 2)
    unchanged(model)
