"""What looks like linear operators in parallel or in a row, and is none: nothing may be merged."""

import numpy as np
import pytest
from onnx import helper

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
}


@pytest.mark.parametrize("name", NOTHING_TO_MERGE)
def test_no_candidate(name):
    inputs = f"{X}, float[4,4,1,1] z" if "(z)" in NOTHING_TO_MERGE[name] else X
    init = {**INIT, "x1": random(1, 4, 8, 8)}
    model = build(NOTHING_TO_MERGE[name], inputs, "float[N,4,8,8] y", init, domains={"my": 1})
    # what another domain makes has a shape because the file says so
    model.graph.value_info.extend(helper.make_tensor_value_info(made, 1, ["N", 4, 8, 8]) for made in "cd")
    assert candidates(model) == []


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


@pytest.mark.parametrize("text", ["c = Conv(x, w) d = Conv(x, w2) y = Add(c, d)", "c = Conv(x, u) y = Conv(c, v)"])
def test_a_large_weight_that_others_read_is_not_merged(text, monkeypatch):
    from normfold.affine import change

    model = build(f"{text} z = Relu(w) q = Relu(u)", X, "float[N,4,A,B] y, float[4,4,3,3] z, float[4,4,1,1] q", INIT)
    assert candidates(model)[0] in ("NF103", "NF104")
    monkeypatch.setattr(change, "LARGEST_COPY", 0)
    assert candidates(model)[0].endswith(".cost")
