"""What looks like linear operators in parallel or in a row, and is none: nothing may be merged."""

import numpy as np
import pytest
from onnx import helper

from normfold.affine import change
from normfold.affine.merge import branch
from tests.support import apart, build, merges, plan_of, random

X = "float[N,4,8,8] x"
INIT = {
    "w": random(4, 4, 3, 3),
    "w2": random(4, 4, 3, 3, seed=2),
    "u": random(4, 4, 1, 1, seed=1),
    "v": random(4, 4, 1, 1, seed=3),
    "k": random(4, 1, 1),
    "b": random(4, seed=5),
    "c3": random(4, 3, 1, 1),
    "g": np.float32(0.5),
    "m": random(8, 8),
    "m2": random(8, 8, seed=1),
    "m3": random(5, 8),
}


def candidates(model):
    """The codes of the merges that are tried, "" for those that are made."""
    return [d.code for d in plan_of(model).decisions if d.rule in ("NF103", "NF104")]


SAME = 'AveragePool<kernel_shape=[2,2],strides=[2,2],auto_pad="SAME_UPPER">(x)'
MEAN = "AveragePool<kernel_shape=[1,1]>"
TWO = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv<pads=[1,1,1,1]>(x, w2)"
NOTHING_TO_MERGE = {
    "a sum of another domain": f"{TWO} y = my.Add(c, d)",
    "a branch of another domain": "c = Conv(x, u) d = my.Conv(x, v) y = Add(c, d)",
    "a sum of one": f"{TWO} e = Sum(c) f = Relu(e) y = Mul(f, d)",
    "a product": f"{TWO} y = Mul(c, d)",
    "a row of another domain": "c = my.Conv(x, u) y = Conv(c, v)",
    "a row behind another domain": "c = Conv(x, u) y = my.Conv(c, v)",
    "a convolution and a matrix": "c = Conv(x, u) y = MatMul(c, m)",
    "a matrix and a convolution": "c = MatMul(x, m) y = Conv(c, u)",
    "a computed weight": "c = Conv(x, u) h = Cos(z) y = Conv(c, h)",
    "a transposed convolution in a row": "c = ConvTranspose(x, u) y = Conv(c, v)",
    "a constant that is convolved": "c = Conv(x, u) d = Conv(x1, v) y = Add(c, d)",
    "constants that are convolved": "c = Conv(x1, u) d = Conv(x1, v) e = Add(c, d) y = Add(e, x)",
    "a quotient by a branch": "c = Conv(x, u) h = Div(k, c) d = Conv(x, v) y = Add(h, d)",
    "a sum with an attribute of its own": f"{TWO} y = Add<slope=1>(c, d)",
    "a step that is read elsewhere": "c = Conv(x, u) h = Identity(c) d = Conv(x, v) y = Add(h, d) e = Relu(h)",
    "a summand of unknown rank": f"{TWO} z = my.Make(x) y = Sum(c, d, z)",
    "means with a weight": f"c = {MEAN}(x, u) d = {MEAN}(x, u) y = Add(c, d)",
    "a mean and a matrix": f"c = {MEAN}(x) y = MatMul(c, m)",
    "a matrix of data and a constant one": "c = MatMul(x, x) y = MatMul(c, m)",
    "a row with two things in the way": "c = Conv<strides=[2,2]>(x, u) d = Conv(c, w) e = Relu(c) y = Relu(x)",
}


@pytest.mark.parametrize("name", NOTHING_TO_MERGE)
def test_no_candidate(name):
    inputs = f"{X}, float[4,4,1,1] z" if "(z)" in NOTHING_TO_MERGE[name] else X
    init = {**INIT, "x1": random(1, 4, 8, 8)}
    model = build(NOTHING_TO_MERGE[name], inputs, "float[N,4,8,8] y", init, domains={"my": 1})
    # what another domain makes has a shape because the file says so
    model.graph.value_info.extend(helper.make_tensor_value_info(made, 1, ["N", 4, 8, 8]) for made in "cd")
    assert candidates(model) == []


@pytest.mark.parametrize("outputs", [[], [""]])
def test_a_sum_that_makes_nothing(outputs):
    model = build(f"{TWO} y = Relu(c)", X, "float[N,4,8,8] y", INIT)
    model.graph.node.append(helper.make_node("Add", ["c", "d"], outputs))
    assert candidates(model) == []


def test_a_function_with_the_name_of_an_operator():
    """Its rank is known, because the body of the function is."""
    model = build("c = Conv(x, u) d = Conv(x, v) y = Add(c, d)", X, "y", INIT)
    model.graph.node[1].domain = "my"
    body = [helper.make_node("Conv", ["a", "b"], ["h"]), helper.make_node("Relu", ["h"], ["o"])]
    model.functions.append(helper.make_function("my", "Conv", ["a", "b"], ["o"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("my", 1))
    assert candidates(model) == []


def test_branches_from_outside_of_the_body():
    body = """y = If (p) <
        then_branch = a () => (float[2,4,8,8] t) { t = Add(c, d) },
        else_branch = b () => (float[2,4,8,8] f) { f = Relu(x) }>"""
    model = build(f"{TWO} {body}", "float[2,4,8,8] x, bool p", "float[2,4,8,8] y", INIT)
    assert candidates(model) == []


def test_an_inner_sum_of_very_many(monkeypatch):
    """It is one summand of the sum behind it; by itself it may merge."""
    text = "c = Conv(x, u) d = Conv(x, v) s = Sum(d, x, z) y = Add(s, c)"
    model = build(text, f"{X}, {X.replace('x', 'z')}", "y", INIT)
    assert candidates(model) == ["NF103.branch", "NF103"]
    monkeypatch.setattr(branch, "LARGEST_SUM", 2)
    assert candidates(model) == ["NF103.branch"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("c = Conv<pads=[1,1,1,1]>(x, w) d = MatMul(x, m) y = Add(c, d)", "NF103.geometry"),
        # something else is added in between, and what stands there is no operator that could take the other one
        ("c = Conv<pads=[1,1,1,1]>(x, w) e = Add(x, z) y = Add(e, c)", "NF103.branch"),
        (f"c = Conv<pads=[1,1,1,1]>(x, w) d = {MEAN}(x) e = Add(d, z) y = Add(e, c)", "NF103.branch"),
        (f"{TWO} h = Identity(d) e = Add(h, z) y = Add(e, c)", "NF103.branch"),
        # the border of the first Conv is filled with another number than that of the second
        (f"a0 = Sub(x, g) a = Div(a0, third) {TWO.replace('x', 'a', 1)} y = Add(c, d)", "NF103.geometry"),
    ],
)
def test_branches(text, code):
    init = {**INIT, "third": np.float32(3)}
    apart(build(text, f"{X}, {X.replace('x', 'z')}", "y", init), code)


@pytest.mark.parametrize(
    ("text", "shape", "first", "code"),
    [
        ("c = Conv(x, a) d = Conv(x, b) y = Add(c, d)", (4, 4), "float[N,4] x", "ill-formed"),
        ("c = Conv(x, a) d = Conv(x, b) y = Add(c, d)", (4, 0, 1, 1), X, "ill-formed"),
        (f"c = Conv(x, a) d = {SAME} y = Add(c, d)", (4, 4, 1), "float[2,4,8] x", "shape-unknown"),
        ("c = MatMul(x, a) d = MatMul(x, b) y = Add(c, d)", (0, 8), "float[3,0] x", "ill-formed"),
        ("c = MatMul(x, a) d = MatMul(x, b) y = Add(c, d)", (8, 8), "float[8] x", "geometry"),
        ("c = MatMul(x, a) d = MatMul(x, b) y = Add(c, d)", (8, 8), "int64[3,8] x", "ill-formed"),
    ],
)
def test_weights_that_are_none(text, shape, first, code):
    """No kernel, no channel, no matrix, no float."""
    kind = first.split("[")[0]
    dtype = {"float": np.float32, "int64": np.int64}[kind]
    init = {name: (9 * random(*shape, seed=seed)).astype(dtype) for seed, name in enumerate("ab")}
    assert candidates(build(text, first, f"{kind}[A] y", init)) == [f"NF103.{code}"]


def test_before_opset_7_no_add_is_made_behind_a_matrix():
    text = "c = MatMul(x, m) y = Gemm<broadcast=1>(c, m2, b8)"
    model = build(text, "float[3,8] x", "float[3,8] y", {**INIT, "b8": random(8)}, opset=6, ir=3)
    assert candidates(model) == ["NF104.shift-blocked"]


def test_before_opset_7_a_sum_broadcasts_by_attributes():
    text = f"{TWO} y = %s(c, d)"
    assert candidates(build(text % "Add", X, "float[N,4,8,8] y", INIT, opset=6, ir=3)) == []
    assert candidates(build(text % "Sum", X, "float[N,4,8,8] y", INIT, opset=6, ir=3)) == ["NF103"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # the sizes do not fit, and the Add broadcasts
        ("c = Conv(x, u) y = Conv(c, c3)", "NF104.ill-formed"),
        ("c = Conv<slope=1>(x, u) y = Conv(c, v)", "NF104.unknown-attribute"),
        ("c = Conv(x, u) y = Conv<slope=1>(c, v)", "NF104.unknown-attribute"),
        ("c = Conv(x, w) y = Conv(c, w2)", None),
        ("c = Conv(x, u) y = Conv<pads=[1,1,1,1]>(c, w)", "NF104"),
        ("c = Conv(x, u, b) y = Conv<pads=[1,1,1,1]>(c, w)", "NF104.shift-blocked"),
        ("c = Conv<strides=[2,2]>(x, u) y = Conv(c, w)", "NF104.geometry"),
        ("c = Conv<pads=[1,1,1,1]>(x, u) y = Conv(c, w)", "NF104.geometry"),
        ("c = Conv(x, u) d = Mul(c, x) y = Conv(d, v)", None),
        ("c = MatMul(x, m) y = MatMul(c, m3)", "NF104.geometry"),
    ],
)
def test_rows(text, code):
    assert candidates(build(text, X, "float[N,A,B,C] y", INIT)) == ([code] if code else [])


def test_a_row_whose_middle_is_read_elsewhere():
    text = "c = Conv(x, u) d = Mul(c, k) y = Conv(d, v) z = Relu(d)"
    apart(build(text, X, "float[N,4,8,8] y, float[N,4,8,8] z", INIT), "NF104.shared")


def test_valid_padding_may_be_dilated():
    """Only SAME leaves open where the padding goes."""
    text = 'c = Conv<auto_pad="VALID",dilations=[2,2]>(x, w) d = Conv<dilations=[2,2]>(x, w2) y = Add(c, d)'
    merges(build(text, X, "y", INIT), ["Conv"])


def test_a_channel_whose_factor_is_out_of_range():
    """The diagonal of the sum would hold it."""
    half = {name: array.astype(np.float16) for name, array in INIT.items()}
    text = "c = Conv<pads=[1,1,1,1]>(x, w) h = Mul(x, large) y = Add(c, h)"
    model = build(text, X.replace("float", "float16"), "y", {**half, "large": np.float16(2000)})
    assert candidates(model) == ["NF103.dtype-range"]
    square = build(
        "c = MatMul(x, m) h = Mul(x, large) y = Add(c, h)", "float16[3,8] x", "y", {**half, "large": np.float16(2000)}
    )
    assert candidates(square) == ["NF103.dtype-range"]
    for two in (TWO, "c = MatMul(x, m) d = MatMul(x, m2)"):
        text = f"{two} h = Mul(d, large) y = Add(c, h)"
        model = build(text, X.replace("float", "float16"), "y", {**half, "large": np.float16(2000)})
        assert candidates(model) == ["NF103.dtype-range"]


ROW_AND_SUM = ["c = Conv(x, w) d = Conv(x, w2) y = Add(c, d)", "c = Conv(x, u) y = Conv(c, v)"]


@pytest.mark.parametrize("text", ROW_AND_SUM)
def test_a_large_weight_that_others_read_is_not_merged(text, monkeypatch):
    monkeypatch.setattr(change, "LARGEST_COPY", 0)
    assert candidates(build(text, X, "float[N,4,A,B] y", INIT)) in (["NF103"], ["NF104"])
    model = build(f"{text} z = Relu(w) q = Relu(u)", X, "float[N,4,A,B] y, float[4,4,3,3] z, float[4,4,1,1] q", INIT)
    assert candidates(model)[0].endswith(".cost")


def test_a_weight_that_is_stored_small_is_not_written_large(monkeypatch):
    monkeypatch.setattr(change, "LARGEST_COPY", 0)
    text = f"h = Expand(u, full) {TWO.replace('w2', 'h')} y = Add(c, d)"
    model = build(text, X, "y", {**INIT, "full": np.array([4, 4, 3, 3])})
    assert candidates(model) == ["NF103.cost"]
