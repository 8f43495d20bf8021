"""What the evaluator cannot tell it says so: a wrong number would confirm a wrong norm."""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest

from normfold.model.constants import Constants
from normfold.norm.evaluate import Evaluator, Unknown, call, elementwise
from normfold.norm.evaluate.call import widened
from tests.model.build import viewed
from tests.support import build, positive, random

X = random(2, 3, 4).astype(np.float64)
IMAGE = random(2, 4, 3, 3).astype(np.float64)
INIT = {
    "f": np.float32(2), "i": np.array(2), "b": np.array(True), "bs": np.array([True, False, True, False]), "pair": np.array([0.0, 1.0], np.float32), "row": random(4), "col": random(2, 1, 1), "g3": random(3), "p4": positive(4), "g2": random(2),
    "minus": np.array([5, -1]), "cut": np.array([2, 2]), "zero": np.array(0), "one": np.array(1), "h": np.array(3.0, np.float32), "near": np.array([1.0 + 1e-7, 2.0], np.float64), "inf": np.array([np.inf]), "axes": np.array([1]), "ax3": np.array([3]), "s": np.array([6, 4]),
}  # fmt: skip


def value(text, x=X, *, opset=17, domains=None):
    """What the evaluator makes of y."""
    words = text
    for sign in "(),<>=[]{}":
        words = words.replace(sign, " ")
    init = {name: array for name, array in INIT.items() if name in words.split()}
    sizes = ",".join(map(str, x.shape))
    kind = {"f": "double", "i": "int64", "b": "bool"}[x.dtype.kind]
    model = build(
        text,
        f"{kind}[{sizes}] x",
        "float[A] y",
        init,
        opset=opset,
        ir=3 if opset < 8 else 9,
        domains={"com.microsoft": 1, **(domains or {})},
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    loaded, _, _ = viewed(model)
    values = loaded.graph.values
    return Evaluator(Constants()).run([values["y"]], {values["x"]: x})[0]


NONE = np.zeros((2, 0, 4))
# name -> nodes that cannot be told, part of the message, nodes that can, further arguments
CASES = {
    "floats of integers": ("y = GlobalAveragePool(x)", "reads no floats", None, {"x": np.ones((2, 3, 4), np.int64)}),
    "integers to a float power": ("y = Pow(x, h)", "power of a float", "y = Pow(x, i)", {"x": np.ones(3, np.int64)}),
    "a sigmoid of integers": ("y = Sigmoid(x)", "int64", "y = Abs(x)", {"x": np.ones(3, np.int64)}),
    "a sum of floats and integers": ("y = Add(x, i)", "int64", "y = Add(x, f)", {}),
    "a comparison of floats and integers": ("y = Less(x, i)", "int64", "y = Less(x, f)", {}),
    "logic of floats": ("y = And(x, b)", "bool", None, {}),
    "a choice by floats": ("y = Where(x, f, f)", "Where", "y = Where(bs, x, f)", {}),
    "a choice of two types": ("y = Where(bs, x, i)", "Where", "y = Where(bs, x, f)", {}),
    "operands that do not broadcast, before 7": ("y = Add(x, row)", "without broadcast", "y = Add<broadcast=1>(x, row)", {"opset": 6}),
    "two bounds": ("y = Clip(x, pair)", "bound of Clip", "y = Clip(x, f)", {}),
    "an integer bound": ("y = Clip(x, i)", "bound of Clip", "y = Clip(x, f)", {}),
    "a type by a word": ('y = Cast<to="FLOAT">(x)', "word", None, {"opset": 5}),
    "a narrow integer": ("y = Cast<to=3>(x)", "INT8", "y = Cast<to=7>(x)", {}),
    "a float that is nearly whole": ("n = Mul(x, near) y = Cast<to=7>(n)", "rounding decides", "n = Mul(x, pair) y = Cast<to=7>(n)", {"x": np.ones(2)}),
    "infinity as an integer": ("n = Mul(x, inf) y = Cast<to=7>(n)", "rounding decides", None, {"x": np.ones(1)}),
    "a Dropout that trains": ("y = Dropout(x, f, b)", "trains", "y = Dropout(x, f)", {}),
    "a Dropout that trains, of old": ("y = Dropout<is_test=0>(x)", "trains", "y = Dropout<is_test=1>(x)", {"opset": 6}),
    "an attribute": ("y = Relu<slope=1>(x)", "attribute slope", "y = Relu(x)", {}),
    "an operator": ("y = Cos(x)", "operator Cos", None, {}),
    "another domain": ("y = my.Relu(x)", "operator my.Relu", None, {"domains": {"my": 1}}),
    "a Reshape without a shape": ("y = Reshape(x)", "has no shape", "y = Reshape(x, s)", {}),
    "an Unsqueeze without axes": ("y = Unsqueeze(x)", "axes", "y = Unsqueeze(x, axes)", {}),
    "a ConstantOfShape without a shape": ("y = ConstantOfShape()", "has no shape", None, {}),
    "an Expand without a shape": ("y = Expand(x, )", "has no shape", None, {}),
    "a Gather by floats": ("y = Gather(x, f)", "no integers", "y = Gather(x, zero)", {}),
    "a Split into too little": ("y, z = Split<axis=2>(x, minus)", "Split", "y, z = Split<axis=2>(x, cut)", {}),
    "a Split into too many": ("y = Split<axis=2>(x, cut)", "Split", None, {}),
    "a Range without steps": ("y = Range(zero, i, zero)", "of these operands", "y = Range(zero, i, one)", {}),
    "a Range of two types": ("y = Range(zero, i, f)", "Range", None, {}),
    "no elements": ("y = ReduceSum(x, axes)", "ReduceSum", "y = Relu(x)", {"x": NONE}),
    "a reduction of flags": ("g = Greater(x, f) y = ReduceMax<axes=[1]>(g)", "ReduceMax", "y = ReduceMax<axes=[1]>(x)", {}),
    "a mean of integers": ("y = ReduceMean<axes=[0]>(x)", "ReduceMean", "y = ReduceSum<axes=[0]>(x)", {"x": np.ones(3, np.int64), "opset": 11}),
    "an axis too far": ("y = ReduceMean<axes=[3]>(x)", "axes", "y = ReduceMean<axes=[-3]>(x)", {}),
    "an L2 without axes": ("y = ReduceL2<noop_with_empty_axes=1>(x)", "differ", "y = ReduceSum<noop_with_empty_axes=1>(x)", {"opset": 18}),
    "a pool of a matrix": ("y = GlobalAveragePool(x)", "rank 2", None, {"x": np.ones((2, 3))}),
    "a scale of another length": ("y = InstanceNormalization(x, g3, g3)", "no vector of 4", "y = InstanceNormalization(x, row, row)", {"x": IMAGE}),
    "a scale of integers": ("y = InstanceNormalization(x, i, row)", "no floats", None, {"x": IMAGE}),
    "a norm of a matrix": ("y = InstanceNormalization(x, g3, g3)", "rank 2", None, {"x": np.ones((2, 3))}),
    "GroupNormalization before 18": ("y = GroupNormalization<num_groups=2>(x, g2, g2)", "opset 17", None, {"x": IMAGE}),
    "GroupNormalization without groups": ("y = GroupNormalization(x, row, row)", "GroupNormalization", "y = GroupNormalization<num_groups=2>(x, row, row)", {"x": IMAGE, "opset": 21}),
    "groups that do not divide": ("y = GroupNormalization<num_groups=3>(x, row, row)", "3 groups", None, {"x": IMAGE, "opset": 21}),
    "no groups": ("y = GroupNormalization<num_groups=0>(x, row, row)", "0 groups", None, {"x": IMAGE, "opset": 21}),
    "groups of a vector": ("y = GroupNormalization<num_groups=1>(x, row, row)", "has 1 groups", None, {"x": np.ones(4), "opset": 21}),
    "another activation": ("y = com.microsoft.GroupNorm<groups=2, activation=2, channels_last=0>(x, row, row)", "activation 2", "y = com.microsoft.GroupNorm<groups=2, activation=1, channels_last=0>(x, row, row)", {"x": IMAGE}),
    "no activation": ("y = com.microsoft.GroupNorm<groups=2, channels_last=0>(x, row, row)", "lacks", None, {"x": IMAGE}),
    "a residual with the channels first": ("y = com.microsoft.SkipGroupNorm<groups=2, activation=0, channels_last=0>(x, row, row, x)", "channels-last", None, {"x": IMAGE}),
    "a residual that enlarges": ("y = com.microsoft.SkipLayerNormalization(x, big, row)", "", None, {}),
    "MeanVarianceNormalization before 9": ("y = MeanVarianceNormalization(x)", "opset 8", None, {"x": IMAGE, "opset": 8}),
    "MeanVarianceNormalization over nothing": ("y = MeanVarianceNormalization<axes=[4]>(x)", "axes", "y = MeanVarianceNormalization<axes=[3]>(x)", {"x": IMAGE}),
    "BatchNormalization of a vector": ("y = BatchNormalization(x, row, row, row, p4)", "of [4]", None, {"x": np.ones(4)}),
    "BatchNormalization of nothing": ("y = BatchNormalization(x, g3, g3, g3, g3)", "BatchNormalization", None, {"x": np.zeros((0, 3, 4))}),
}  # fmt: skip
INIT["big"] = random(5, 2, 3, 4)


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_told(name):
    miss, part, hit, options = CASES[name]
    with np.errstate(all="ignore"):
        with pytest.raises(Unknown) as found:
            value(miss, **options)
        assert part in str(found.value)
        assert hit is None or value(hit, **options) is not None


def test_operands_of_one_shape_need_no_broadcast():
    np.testing.assert_array_equal(value("y = Add(x, x)", opset=6), 2 * X)


def test_a_list_of_no_axes():
    with pytest.raises(Unknown, match="over axes"):
        value("y = MeanVarianceNormalization<axes: ints = []>(x)", IMAGE)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([1, 2**63 - 1], np.uint64), "i"),
        (np.array([], np.uint64), "i"),
        (np.array([2**32 - 1], np.uint32), "i"),
        (np.array([1.5], np.float16), "f"),
        (np.array([True]), "b"),
        (np.array([2**63], np.uint64), None),
        (np.array(["word"]), None),
        (np.array([1j]), None),
    ],
)
def test_types(values, kind):
    if kind is None:
        with pytest.raises(Unknown):
            widened(values)
    else:
        assert widened(values).dtype.kind == kind
        assert widened(values).tolist() == values.tolist()


def test_a_sum_that_is_made_and_not_given_is_worked_out():
    wanted = value("y = com.microsoft.SkipLayerNormalization(x, x, row)")
    got = value("y, mean, root, total = com.microsoft.SkipLayerNormalization(x, x, row)")
    np.testing.assert_array_equal(got, wanted)


TOO_LARGE = {
    "an Expand": "y = Expand(x, huge)",
    "a ConstantOfShape": "n = Size(x) m = Mul(n, n) k = Unsqueeze(m, zero) y = ConstantOfShape(k)",
    "an outer product": "t = Transpose(x) y = Add(x, t)",
    "a choice": "c = Greater(x, f) t = Transpose(x) y = Where(c, x, t)",
    "a Gather": "y = Gather(x, zeros)",
    "a Concat": "y = Concat<axis=1>(x, x, x, x)",
    "a Range": "n = Size(x) m = Mul(n, n) y = Range(zero, m, one)",
}
INIT |= {"huge": np.array([32, 32]), "zeros": np.zeros(128, np.int64)}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large(name, monkeypatch):
    x = np.ones((1, 32))
    assert value(TOO_LARGE[name], x) is not None
    for module in (call, elementwise):
        monkeypatch.setattr(module, "SIZE_LIMIT", 100)
    with pytest.raises(Unknown, match="too large"):
        value(TOO_LARGE[name], x)
