"""A weight that is asked for its shape or type: what replaces it can answer as well, and the old one goes."""

# ruff: noqa: E501 - models in the text language of onnx
import numpy as np
import pytest

from normfold.model.load import Initializers
from tests.support import batch_norm, build, check, folds, positive, random

W = random(4, 3, 3, 3)
BASE = {"w": W, "k": np.array([2]), **batch_norm(4)}
NORM = "y = BatchNormalization(c, g, b, m, v)"
MADE = "h = Constant<value_float = 0.5>() u = Mul(w, h)"


def names(result):
    return {item.name for item in result.model.graph.initializer}


@pytest.mark.parametrize("asks", ["Shape(w)", "Size(w)", "CastLike(k, w)"])
@pytest.mark.parametrize("first", [True, False])
def test_a_measured_weight_is_stored_once(asks, first):
    parts = [f"s = {asks}", f"c = Conv(x, w) {NORM}"]
    result = folds(build(" ".join(parts if first else parts[::-1]), outputs="y, s", init=BASE, opset=18))
    assert [node.input[1] for node in result.model.graph.node if node.op_type == "Conv"] == ["w"]
    assert not np.array_equal(result.array("w"), W)
    assert sum(result.array(name).size == W.size for name in names(result)) == 1


def test_what_computes_a_measured_weight_goes_as_well():
    """torch.export without optimisation measures standardised weights to make a bias of zeros."""
    text = f"{MADE} s = Shape(u) c = Conv(x, u) {NORM}"
    result = folds(build(text, outputs="y, s", init=BASE), ["Conv", "Shape"])
    assert {"u"} == names(result) & {"u", "w"}


def test_measured_twice_before_and_behind_and_in_a_branch():
    text = f"""s = Shape(w) c = Conv(x, w) {NORM} t = Size(w)
        r = If(cond) <then_branch = a () => (int64[4] p) {{ p = Shape(w) }}, else_branch = e () => (int64[4] p) {{ p = Identity(s) }}>"""
    model = build(
        text,
        "float[N,3,8,8] x, bool cond",
        "float[N,4,6,6] y, int64 t, int64[4] r",
        {n: a for n, a in BASE.items() if n != "k"},
    )
    result = folds(model)
    assert "w" in names(result)
    assert sum(result.array(name).size == W.size for name in names(result)) == 1


def test_a_reader_of_the_elements_keeps_the_old_weight():
    text = f"s = Shape(w) c = Conv(x, w) d = ReduceSum<keepdims = 0>(w) {NORM}"
    result = folds(build(text, outputs="y, s, d", init={n: a for n, a in BASE.items() if n != "k"}))
    assert np.array_equal(result.array("w"), W)


def test_another_convolution_keeps_the_old_weight():
    text = f"s = Shape(w) c = Conv(x, w) z = Conv(x, w) {NORM}"
    result = folds(build(text, outputs="y, s, z", init=BASE))
    assert np.array_equal(result.array("w"), W)


def test_two_new_weights_of_one_old_one():
    text = f"s = Shape(w) c = Conv(x, w) {NORM} d = Conv(x, w) z = Mul(d, q)"
    result = folds(build(text, outputs="y, s, z", init={**BASE, "q": positive(4, 1, 1)}))
    assert "w" in names(result)
    assert sum(result.array(name).size == W.size for name in names(result)) == 2


def test_a_new_weight_of_another_shape_does_not_answer():
    """A vector times a matrix becomes a matrix product with a matrix of its own."""
    text = "s = Shape(w) d = MatMul(x, w) e = Add(d, a) y = Mul(e, q)"
    init = {"w": random(5, 1), "a": random(4), "q": positive(4)}
    result = check(build(text, "float[N,5] x", "y, s", init))
    kept = {name: result.array(name).shape for name in names(result)}
    assert kept.get("w", (5, 1)) == (5, 1)


def test_before_ir_4_the_old_weight_stays():
    """A new tensor would be a Constant in front of the convolution, behind the one who asks."""
    text = f"{MADE} s = Shape(u) c = Conv(x, u) {NORM}"
    init = {n: a for n, a in BASE.items() if n != "k"}
    result = check(build(text, outputs="y, s", init=init, opset=13, ir=3), policy=Initializers.FREEZE)
    assert result.applied
    assert result.after.count("Shape") == 1


def test_a_weight_that_is_an_output_keeps_its_elements():
    result = folds(build(f"{MADE} s = Shape(u) c = Conv(x, u) {NORM}", outputs="y, s, u", init=BASE))
    assert "Mul" in result.after
