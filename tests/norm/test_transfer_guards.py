"""What a row of the transfer tables may not say: an attribute, version or operand that just fails leaves nothing known."""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest
from onnx import AttributeProto, helper

from normfold.norm import frame as frames
from normfold.norm.frame import Frame
from normfold.norm.numbers import Extents
from normfold.norm.transfer import _CONTRIB, _STANDARD, row_of, transfer
from tests.model.build import net, node, viewed
from tests.support import build, positive, random

F32 = np.float32
SEQUENCE, IMAGE = "float[2,3,8] x", "float[2,4,5,6] x"
# Two groups of two channels, normalised over the channels of a group and over space.
GROUPED = {"inputs": IMAGE, "parts": [[2], [2, 2], [5], [6]], "axes": frozenset((2, 3, 4))}
INIT = {
    "zero": F32(0), "two": F32(2), "one": F32(1), "minus": F32(-1), "none": np.zeros(0, F32), "inf": F32(np.inf),
    "c": random(8), "d": random(8, seed=1), "p": positive(8), "mixed": np.array([2, 2, 2, 2, 2, 2, 2, 3], F32), "wide": np.full((1, 3, 8), 2, F32),
    "two4": np.full((1, 1, 1, 1), 2, F32), "zero4": np.zeros((1, 1, 1, 1), F32), "zeros2": np.zeros(2, F32), "table": np.ones((2, 4, 5), F32), "unknowns": np.array([-1, -1, 48]), "unknown": np.array([-1, 1, 48]), "rows": positive(3, 1), "big": np.full((7, 2, 3, 8), 2, F32), "bigzero": np.zeros((7, 1, 1, 1), F32),
    "s": random(4), "b": random(4, seed=2), "g2": random(2), "m": random(4, seed=3), "v": positive(4), "nv": -positive(4),
    "true": np.array(True), "false": np.array(False), "flags": np.array([False, True]), "ratio": F32(0.5),
    "whole": np.array([2, 3, 8]), "flat": np.array([6, 8]), "minus1": np.array([-1, 8]), "axis": np.array([2]), "axis0": np.array([0]), "axes": np.array([0, 0]),
    "others": np.array([0, 2, 3]), "ones3": np.array([1, 1, 1]), "nothing": np.array([-1, 0, 8]), "too": np.array([2, 3, 0, 0]), "negative": np.array([-2, -3, 8]), "long": np.array([2, 3, 9]), "expanded": np.array([2, 3, 8]), "other": np.array([2, 3, 7]),
}  # fmt: skip
# In front of y where the row needs a statistic: the mean square of the last dimension.
Q = "xx = Mul(x, x) q = ReduceMean<axes=[-1]>(xx)"


def spoken(body, inputs=SEQUENCE, *, opset=17, last=1, parts=None, axes=None, spoil=None, change=None):
    """Whether anything is known of y, in a frame of x whose statistics are over the `last` dimensions."""
    init = {
        name: array
        for name, array in INIT.items()
        if name in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    model = build(body, inputs, "float[A] y", init, opset=opset, ir=3 if opset < 8 else 9, domains={"com.microsoft": 1})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if spoil is not None:
        last_node = next(item for item in model.graph.node if item.output[0] == "y")
        last_node.attribute.append(helper.make_attribute(spoil, 1))
    if change is not None:
        change(model)
    loaded, _, shapes = viewed(model)
    values = loaded.graph.values
    base, extents = values["x"], Extents(shapes)
    sizes = extents.of(base)
    frame = Frame(base, base.scope, shapes, extents, parts or [[size] if size != 1 else [] for size in sizes])
    frame.axes = axes or frozenset(atom for axis in frame.view[len(sizes) - last :] for atom in axis.atoms)
    frame.restart()
    order = {id(item): i for i, item in enumerate(base.scope.nodes)}
    frame.run(transfer, lambda item: order[id(item)])
    return frame.fact(values["y"]) is not None


KNOWN = {
    "Identity": ("y = Identity(x)", {}),
    "Dropout": ("y = Dropout(x)", {}),
    "Cast": ("y = Cast<to=10>(x)", {}),
    "CastLike": ("y = CastLike(x, two)", {}),
    "Neg": ("y = Neg(x)", {}),
    "Add": ("y = Add(x, c)", {}),
    "Sub": ("y = Sub(x, c)", {}),
    "Mul": ("y = Mul(x, c)", {}),
    "Div": ("y = Div(x, c)", {}),
    "Sum": ("y = Sum(x, c, d)", {}),
    "Sqrt": (f"{Q} y = Sqrt(q)", {}),
    "Reciprocal": (f"{Q} r = Sqrt(q) y = Reciprocal(r)", {}),
    "Pow": ("y = Pow(x, two)", {}),
    "Relu": (f"{Q} y = Relu(q)", {}),
    "Abs": (f"{Q} y = Abs(q)", {}),
    "Max": (f"{Q} y = Max(q, zero)", {}),
    "Clip": (f"{Q} y = Clip(q, zero)", {}),
    "ReduceMean": ("y = ReduceMean<axes=[-1]>(x)", {}),
    "ReduceSum": ("y = ReduceSum(x, axis)", {}),
    "ReduceSumSquare": ("y = ReduceSumSquare<axes=[2]>(x)", {}),
    "ReduceL2": ("y = ReduceL2<axes=[2]>(x)", {}),
    "GlobalAveragePool": ("y = GlobalAveragePool(x)", {}),
    "Transpose": ("y = Transpose<perm=[1,0,2]>(x)", {}),
    "Reshape": ("y = Reshape(x, flat)", {}),
    "Flatten": ("y = Flatten<axis=2>(x)", {}),
    "Squeeze": (f"{Q} y = Squeeze(q, axis)", {}),
    "Unsqueeze": ("y = Unsqueeze(x, axis0)", {}),
    "Expand": (f"{Q} y = Expand(q, expanded)", {}),
    "LayerNormalization": ("y = LayerNormalization(x, c)", {}),
    "RMSNormalization": ("y = RMSNormalization(x, c)", {"opset": 23}),
    "SimplifiedLayerNormalization": ("y = SimplifiedLayerNormalization(x, c)", {}),
    "InstanceNormalization": ("y = InstanceNormalization(x, s, b)", {"inputs": IMAGE, "last": 2}),
    "GroupNormalization": ("y = GroupNormalization<num_groups=2>(x, s, b)", {**GROUPED, "opset": 21}),
    "MeanVarianceNormalization": ("y = MeanVarianceNormalization<axes=[2]>(x)", {}),
    "BatchNormalization": ("y = BatchNormalization(x, s, b, m, v)", {"inputs": IMAGE, "last": 2}),
    "GroupNorm": ("y = com.microsoft.GroupNorm<groups=2, channels_last=0>(x, s, b)", GROUPED),
}  # fmt: skip


SPATIAL = {"inputs": IMAGE, "last": 2}
ONE_IMAGE = {"inputs": "float[1,4,5,6] x", "last": 2}


@pytest.mark.parametrize("op", [*_STANDARD, *_CONTRIB])
def test_an_attribute_that_nobody_knows(op):
    body, options = KNOWN[op]
    assert spoken(body, **options)
    assert not spoken(body, **options, spoil="mystery")


def test_a_function_with_the_name_of_an_operator():
    body, options = KNOWN["GroupNorm"]

    def define(model):
        inner, names = [helper.make_node("Relu", ["x"], ["y"])], ["groups", "channels_last"]
        imports = [helper.make_opsetid("", 17)]
        model.functions.append(
            helper.make_function("com.microsoft", "GroupNorm", ["x", "s", "b"], ["y"], inner, imports, names)
        )

    assert spoken(body, **options)
    assert not spoken(body, **options, change=define)


def test_an_epsilon_that_a_caller_gives():
    body, options = KNOWN["GroupNorm"]

    def bind(model):
        model.graph.node[-1].attribute.add(name="epsilon", type=AttributeProto.FLOAT, ref_attr_name="theirs")

    assert not spoken(body, **options, change=bind)


# What is not known, and what is, beside it.
TWO_AXES = {"last": 2}
NEAR_MISSES = {
    "a mean that is not complete": ("u = ReduceMean<axes=[1]>(x) n = ReduceMean<axes=[2]>(x) y = Sub(x, u)", TWO_AXES, "u = ReduceMean<axes=[1]>(x) n = ReduceMean<axes=[2]>(u) y = Sub(x, n)", TWO_AXES),
    "a mean that is not complete, first": ("u = ReduceMean<axes=[1]>(x) y = Sub(u, x)", TWO_AXES, None, {}),
    "the square of a mean that is not complete": ("u = ReduceMean<axes=[1]>(x) y = Mul(u, u)", TWO_AXES, "u = ReduceMean<axes=[1, 2]>(x) y = Mul(u, u)", TWO_AXES),
    "minus a mean that is not complete": ("u = ReduceMean<axes=[1]>(x) y = Neg(u)", TWO_AXES, None, {}),
    "a clamped mean that is not complete": ("xx = Mul(x, x) u = ReduceMean<axes=[1]>(xx) y = Relu(u)", TWO_AXES, "xx = Mul(x, x) u = ReduceMean<axes=[1, 2]>(xx) y = Relu(u)", TWO_AXES),
    "two types": ("h = Cast<to=10>(x) y = Add(x, h)", {}, None, {}),
    "an exponent of a higher rank": ("y = Pow(x, two4)", {}, "y = Add(x, two4)", {}),
    "a bound of a higher rank": (f"{Q} y = Max(q, zero4)", {}, None, {}),
    "several bounds": (f"{Q} y = Clip(q, zeros2)", {}, None, {}),
    "a flag": ("y = Add(x, true)", {}, None, {}),
    "a size": ("n = Size(x) y = Add(x, n)", {}, "n = Size(x) f = Cast<to=1>(n) y = Add(x, f)", {}),
    "a mean of a mean that is not complete": ("u = ReduceMean<axes=[1]>(x) y = ReduceMean<axes=[0]>(u)", TWO_AXES, None, {}),
    "squares without axes": ("y = ReduceSumSquare<noop_with_empty_axes=1>(x)", {"opset": 18}, None, {}),
    "a constant mean of a matrix": ("y = BatchNormalization(x, s, b, table, v)", SPATIAL, None, {}),
    "a mean over too much": ("y = ReduceMean<axes=[0, 1]>(x)", TWO_AXES, "y = ReduceMean<axes=[1]>(x)", TWO_AXES),
    "a weighted mean": ("u = Mul(x, c) y = ReduceMean<axes=[-1]>(u)", {}, "u = Add(x, c) y = ReduceMean<axes=[-1]>(u)", {}),
    "Transpose that loses an axis": ("y = Transpose<perm=[0, 1]>(x)", {}, None, {}),
    "Reshape with two unknowns": ("y = Reshape(x, unknowns)", {}, "y = Reshape(x, unknown)", {}),
    "GroupNormalization-18 without groups": ("y = GroupNormalization<num_groups=0>(x, g2, g2)", {**GROUPED, "opset": 18}, None, {}),
    "GroupNorm of a volume": ("y = com.microsoft.GroupNorm<groups=2, channels_last=0>(x, s, b)", {"inputs": "float[2,4,4,2,3] x", "parts": [[2], [2, 2], [4], [2], [3]], "axes": frozenset((2, 3, 4, 5))}, None, {}),
    "a mean of a weighted sum": ("u = Mul(x, c) y = ReduceMean<axes=[-1]>(u)", {}, "u = Mul(x, rows) y = ReduceMean<axes=[-1]>(u)", {}),
    "Dropout that trains": ("y = Dropout(x, ratio, true)", {}, "y = Dropout(x, ratio, false)", {}),
    "Dropout with several modes": ("y = Dropout(x, ratio, flags)", {}, None, {}),
    "Dropout whose mask is named": ("y, z = Dropout(x)", {}, None, {}),
    "Dropout of old, training": ("y = Dropout<is_test=0>(x)", {"opset": 6}, "y = Dropout<is_test=1>(x)", {"opset": 6}),
    "Cast to integers": ("y = Cast<to=7>(x)", {}, None, {}),
    "CastLike integers": ("y = CastLike(x, whole)", {}, None, {}),
    "Add before 7": ("y = Add(x, c)", {"opset": 6}, None, {}),
    "Mul by infinity": ("y = Mul(x, inf)", {}, None, {}),
    "Div by zero": ("y = Div(x, zero)", {}, None, {}),
    "Sum before 8": ("y = Sum(x, c)", {"opset": 7}, None, {}),
    "Sqrt before 7": ("xx = Pow(x, two) y = Sqrt(xx)", {"opset": 6}, None, {}),
    "Pow of several exponents": ("y = Pow(x, mixed)", {}, "y = Pow(x, two)", {}),
    "Pow without an exponent": ("y = Pow(x, none)", {}, None, {}),
    "Pow that enlarges": ("y = Pow(x, big)", {}, "y = Pow(x, wide)", {}),
    "Abs of x": ("y = Abs(x)", {}, None, {}),
    "Relu of what may be negative": (f"{Q} n = Sub(q, one) y = Relu(n)", {}, f"{Q} n = Add(q, one) y = Relu(n)", {}),
    "Max before 8": (f"{Q} y = Max(q, zero)", {"opset": 7}, None, {}),
    "Max of one": (f"{Q} y = Max(q)", {}, None, {}),
    "Max that enlarges": (f"{Q} y = Max(q, bigzero)", {}, None, {}),
    "Max above the bound": (f"{Q} y = Max(q, two)", {}, f"{Q} y = Max(q, minus)", {}),
    "Clip with a limit": (f"{Q} y = Clip(q, zero, two)", {}, f"{Q} y = Clip(q, zero, inf)", {}),
    "Clip with an unknown limit": (f"{Q} z = Cos(q) y = Clip(q, zero, z)", {}, None, {}),
    "Clip of old with a limit": (f"{Q} y = Clip<min=0.0, max=6.0>(q)", {"opset": 10}, f"{Q} y = Clip<min=0.0>(q)", {"opset": 10}),
    "Clip of old without bounds": (f"{Q} y = Clip(q)", {"opset": 10}, None, {}),
    "ReduceMean over unknown axes": ("i = Cast<to=7>(z) y = ReduceMean(x, i)", {"inputs": f"{SEQUENCE}, float[1] z", "opset": 18}, None, {}),
    "mean over another axis as well": ("y = ReduceMean<axes=[0]>(x)", {}, None, {}),
    "sum of squares of nothing": ("y = ReduceSumSquare<axes=[0]>(x)", {}, None, {}),
    "pool of a matrix": ("y = GlobalAveragePool(x)", {"inputs": "float[2,8] x"}, None, {}),
    "Transpose by no permutation": ("y = Transpose<perm=[0,0,2]>(x)", {}, None, {}),
    "Reshape to another number": ("y = Reshape(x, long)", {}, None, {}),
    "Reshape with a zero too many": ("y = Reshape(x, too)", {}, None, {}),
    "Reshape to nothing": ("y = Reshape<allowzero=1>(x, nothing)", {}, "y = Reshape(x, minus1)", {}),
    "Reshape to negatives": ("y = Reshape(x, negative)", {}, None, {}),
    "Reshape to data": ("i = Cast<to=7>(z) y = Reshape(x, i)", {"inputs": f"{SEQUENCE}, float[2] z"}, None, {}),
    "Reshape to floats": ("f = Cast<to=1>(flat) y = Reshape(x, f)", {}, None, {}),
    "Flatten beyond the end": ("y = Flatten<axis=4>(x)", {}, "y = Flatten<axis=3>(x)", {}),
    "Flatten before the start": ("y = Flatten<axis=-4>(x)", {}, "y = Flatten<axis=-3>(x)", {}),
    "Squeeze of a long axis": ("y = Squeeze(x, axis)", {}, None, {}),
    "Squeeze of what may be long": ("y = Squeeze(x)", {"inputs": "float[N,1,8] x"}, "y = Squeeze(x)", {"inputs": "float[2,1,8] x"}),
    "Squeeze over unknown axes": ("i = Cast<to=7>(z) y = Squeeze(x, i)", {"inputs": "float[2,1,8] x, float[1] z"}, None, {}),
    "Unsqueeze twice at one place": ("y = Unsqueeze(x, axes)", {}, None, {}),
    "Expand to another length": (f"{Q} y = Expand(q, other)", {}, f"{Q} y = Expand(q, ones3)", {}),
    "a mean of a norm": (f"{Q} r = Sqrt(q) n = Div(x, r) y = ReduceMean<axes=[-1]>(n)", {}, None, {}),
    "Expand of a whole axis": ("y = Expand(x, long)", {}, None, {}),
    "Expand to floats": (f"{Q} f = Cast<to=1>(expanded) y = Expand(q, f)", {}, None, {}),
    "LayerNormalization of no axis": ("y = LayerNormalization<axis=3>(x, c)", {}, "y = LayerNormalization<axis=2>(x, c)", {}),
    "LayerNormalization before the start": ("y = LayerNormalization<axis=-4>(x, c)", {}, None, {}),
    "LayerNormalization in half precision": ("y = LayerNormalization<stash_type=10>(x, c)", {}, "y = LayerNormalization<stash_type=1>(x, c)", {}),
    "LayerNormalization with a computed scale": ("f = Cos(z) y = LayerNormalization(x, f)", {"inputs": f"{SEQUENCE}, float[8] z"}, None, {}),
    "InstanceNormalization of a matrix": ("y = InstanceNormalization(x, c, d)", {"inputs": "float[2,8] x"}, None, {}),
    "InstanceNormalization before 6": ("y = InstanceNormalization(x, s, b)", {**SPATIAL, "opset": 5}, "y = InstanceNormalization(x, s, b)", {**SPATIAL, "opset": 6}),
    "GroupNormalization without groups": ("y = GroupNormalization<num_groups=0>(x, s, b)", {**GROUPED, "opset": 21}, None, {}),
    "GroupNormalization that does not divide": ("y = GroupNormalization<num_groups=3>(x, s, b)", {**GROUPED, "opset": 21}, None, {}),
    "GroupNormalization in half precision": ("y = GroupNormalization<num_groups=2, stash_type=10>(x, s, b)", {**GROUPED, "opset": 21}, None, {}),
    "GroupNormalization before 18": ("y = GroupNormalization<num_groups=2>(x, g2, g2)", {**GROUPED, "opset": 17}, "y = GroupNormalization<num_groups=2>(x, g2, g2)", {**GROUPED, "opset": 18}),
    "GroupNormalization of a matrix": ("y = GroupNormalization<num_groups=2>(x, c, d)", {"inputs": "float[2,8] x", "parts": [[2], [2, 4]], "axes": frozenset((2,)), "opset": 21}, None, {}),
    "MeanVarianceNormalization before 9": ("y = MeanVarianceNormalization<axes=[2]>(x)", {"opset": 8}, "y = MeanVarianceNormalization<axes=[2]>(x)", {"opset": 9}),
    "BatchNormalization that trains": ("y = BatchNormalization<training_mode=1>(x, s, b, m, v)", SPATIAL, None, {}),
    "BatchNormalization with statistics": ("y, z, w = BatchNormalization(x, s, b, m, v)", SPATIAL, None, {}),
    "BatchNormalization before 7": ("y = BatchNormalization<is_test=1>(x, s, b, m, v)", {**SPATIAL, "opset": 6}, "y = BatchNormalization(x, s, b, m, v)", {**SPATIAL, "opset": 7}),
    "BatchNormalization per position": ("y = BatchNormalization<spatial=0>(x, s, b, m, v)", {**SPATIAL, "opset": 8}, "y = BatchNormalization<spatial=1>(x, s, b, m, v)", {**SPATIAL, "opset": 8}),
    "BatchNormalization of a vector": ("y = BatchNormalization(x, c, c, c, p)", {"inputs": "float[8] x"}, None, {}),
    "BatchNormalization of negative variance": ("y = BatchNormalization(x, s, b, m, nv)", SPATIAL, None, {}),
    "BatchNormalization that trains before 14": ("y = BatchNormalization<training_mode=1>(x, s, b, m, v)", {**ONE_IMAGE, "opset": 13}, "y = BatchNormalization<training_mode=1>(x, s, b, m, v)", {**ONE_IMAGE, "opset": 14}),
    "BatchNormalization that trains, and more": ("y = BatchNormalization<training_mode=1, slope=1>(x, s, b, m, v)", ONE_IMAGE, None, {}),
    "BatchNormalization that trains on a matrix": ("y = BatchNormalization<training_mode=1>(x, s, b, m, v)", {"inputs": "float[1,4] x"}, None, {}),
    "BatchNormalization by a statistic of rank 4": ("u = GlobalAveragePool(x) y = BatchNormalization(x, s, b, u, v)", ONE_IMAGE, "u = GlobalAveragePool(x) w = Squeeze(u, others) y = BatchNormalization(x, s, b, w, v)", ONE_IMAGE),
    "GroupNorm with its activation": ("y = com.microsoft.GroupNorm<groups=2, channels_last=0, activation=1>(x, s, b)", GROUPED, "y = com.microsoft.GroupNorm<groups=2, channels_last=0, activation=0>(x, s, b)", GROUPED),
    "GroupNorm of a sequence": ("y = com.microsoft.GroupNorm<groups=2, channels_last=0>(x, s, b)", {"inputs": "float[2,4,5] x", "parts": [[2], [2, 2], [5]], "axes": frozenset((2, 3))}, None, {}),
    "GroupNorm that does not divide": ("y = com.microsoft.GroupNorm<groups=3, channels_last=0>(x, s, b)", GROUPED, None, {}),
    "GroupNorm with a computed scale": ("f = Cos(z) y = com.microsoft.GroupNorm<groups=2, channels_last=0>(x, f, b)", {**GROUPED, "inputs": f"{IMAGE}, float[4] z"}, None, {}),
}  # fmt: skip


def test_large_constants_and_ranks_are_not_looked_at(monkeypatch):
    assert spoken("y = Add(x, c)")
    monkeypatch.setattr(frames, "_MOST_ELEMENTS", 7)
    assert not spoken("y = Add(x, c)")
    assert spoken("y = Unsqueeze(x, axis0)")
    monkeypatch.setattr(frames, "_MOST_AXES", 3)
    assert not spoken("y = Unsqueeze(x, axis0)")


@pytest.mark.parametrize(
    ("op", "domain", "has_row"),
    [("Add", "", True), ("GroupNorm", "com.microsoft", True), ("Add", "com.microsoft", False), ("Add", "my", False), ("GroupNorm", "my", False), ("GroupNorm", "", False), ("Cos", "", False)],
)  # fmt: skip
def test_rows_belong_to_a_domain(op, domain, has_row):
    loaded, _, _ = viewed(
        net([node(op, ["x"], ["y"], domain=domain)], {"x": [2]}, ["y"], domains=("my", "com.microsoft"))
    )
    (made,) = loaded.graph.nodes
    assert (row_of(made) is not None) is has_row


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses(name):
    miss, options, hit, others = NEAR_MISSES[name]
    assert not spoken(miss, **options)
    assert hit is None or spoken(hit, **others)
