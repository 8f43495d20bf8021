"""Windows that contradict themselves, their weight or each other: nothing may be merged into one."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from normfold.affine.draft import Draft
from normfold.affine.reasons import Refused
from normfold.affine.window import hull, point, pooling_window, window_of
from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from tests.support import apart, build, random

X = "float[N,4,8,8] x"
INIT = {"w": random(4, 4, 3, 3), "u": random(4, 4, 1, 1, seed=1), "w2": random(4, 4, 3, 3, seed=2)}


def beside(operator, same="w"):
    """An operator beside a Conv with the window that it would have without its mistake."""
    return build(f"c = Conv<pads=[1,1,1,1]>(x, {same}) {operator} y = Add(c, d)", X, "float[N,4,8,8] y", INIT)


@pytest.mark.parametrize(
    "mistake",
    [
        "kernel_shape=[1,1]",
        "kernel_shape=[3]",
        "strides=[-1,1]",
        "dilations=[0,1]",
        "pads=[-1,1,3,1]",
        "auto_pad=\"SAME_UPPER\"",
        "auto_pad=\"WRONG\",pads=[0,0,0,0]",
        "group=0",
        "group=3",
        "slope=1",
    ],
)  # fmt: skip
def test_a_window_that_contradicts_itself(mistake):
    rest = "" if "pads" in mistake and "auto" not in mistake else ",pads=[1,1,1,1]" if "pads=" not in mistake else ""
    key = "unknown-attribute" if "slope" in mistake else "ill-formed"
    apart(beside(f"d = Conv<{mistake}{rest}>(x, w2)"), f"NF103.{key}", run=False)


def window(operator, kernel, size=8):
    """The window of an operator on its own."""
    model = build(f"y = {operator}", f"float[N,4,{size},8] x", "float[N,4,A,B] y", INIT)
    node = load(model).graph.nodes[-1]
    draft = Draft(Constants(), Shapes(Constants()))
    return pooling_window(draft, node) if kernel is None else window_of(draft, node, kernel)


@pytest.mark.parametrize(
    "mistake",
    [
        "strides=[1]",
        "strides=[0,1]",
        "strides=[1,1,1]",
        "dilations=[1]",
        "dilations=[1,0]",
        "pads=[1,1]",
        "pads=[0,0,0,0,0,0]",
        "pads=[0,-1,0,1]",
        "kernel_shape=[3,1]",
        'auto_pad="SAME_UPPER",pads=[0,0,1,0]',
        'auto_pad="VALID",pads=[1,0,0,0]',
        'auto_pad="WRONG"',
    ],
)
def test_attributes_that_make_no_window(mistake):
    assert window("Conv(x, w)", (3, 3)).pads == [0, 0, 0, 0]
    with pytest.raises(Refused) as found:
        window(f"Conv<{mistake}>(x, w)", (3, 3))
    assert found.value.key == "ill-formed"


def test_a_kernel_of_nothing():
    for operator, kernel in (("Conv(x, w)", (3, 0)), ("AveragePool(x)", None)):
        with pytest.raises(Refused) as found:
            window(operator, kernel)
        assert found.value.key == "ill-formed"


@pytest.mark.parametrize(
    ("mode", "step", "size", "pads"),
    [
        ("SAME_UPPER", 1, "H", [1, 1, 1, 1]),
        ("SAME_UPPER", 2, 8, [0, 0, 1, 1]),
        ("SAME_LOWER", 2, 8, [1, 1, 0, 0]),
        ("SAME_LOWER", 2, 7, [1, 1, 1, 0]),
        ("VALID", 2, "H", [0, 0, 0, 0]),
        ("SAME_UPPER", 4, 8, [0, 0, 0, 0]),
    ],
)
def test_padding_that_the_size_decides(mode, step, size, pads):
    found = window(f'Conv<auto_pad="{mode}",strides=[{step},{step}]>(x, w)', (3, 3), size)
    assert found.pads == pads


def test_padding_that_an_unknown_size_decides():
    with pytest.raises(Refused) as found:
        window('Conv<auto_pad="SAME_UPPER",strides=[2,1]>(x, w)', (3, 3), "H")
    assert found.value.key == "shape-unknown"
    assert window('Conv<auto_pad="SAME_UPPER",strides=[2,1]>(x, w)', (1, 3), "H").pads == [0, 1, 0, 1]


def test_windows_of_other_ranks_and_steps_have_no_hull():
    flat, square = point(1), point(2)
    for others, key in (([square, flat], "ill-formed"), ([square, replace(square, strides=(1, 2))], "geometry")):
        with pytest.raises(Refused) as found:
            hull(others, ["a", "b"])
        assert found.value.key == key


@pytest.mark.parametrize(
    ("pool", "key"),
    [
        ("AveragePool<kernel_shape=[3,0],pads=[1,1,1,1],count_include_pad=1>", "ill-formed"),
        ("AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1,slope=1>", "unknown-attribute"),
        ("AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>", "geometry"),
        ("AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=0>", "geometry"),
        ('AveragePool<kernel_shape=[3,3],auto_pad="SAME_UPPER">', "geometry"),
        ("AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1,ceil_mode=1>", "geometry"),
    ],
)
def test_a_pool_that_is_not_the_same_everywhere(pool, key):
    apart(beside(f"d = {pool}(x)"), f"NF103.{key}", run=False)


@pytest.mark.parametrize(
    ("wide", "narrow", "part"),
    [
        ("pads=[1,1,1,1],strides=[2,2]", "pads=[1,1,1,1],strides=[1,1]", "strides"),
        ("pads=[1,1,1,1]", "pads=[2,2,2,2],dilations=[2,2]", "dilations"),
        ("pads=[1,1,1,1]", "pads=[1,1,1,2]", "number of positions"),
        ("pads=[1,1,1,1]", "pads=[0,0,1,1]", "number of positions"),
    ],
)
def test_windows_that_fit_into_none(wide, narrow, part):
    text = f"c = Conv<{wide}>(x, w) d = Conv<{narrow}>(x, w2) y = Add(c, d)"
    result = apart(build(text, X, "float[N,4,A,B] y", INIT), "NF103.geometry", run=False)
    assert part in result.merges[0].message


@pytest.mark.parametrize("rank", [3])
def test_weights_of_another_rank(rank):
    """Of the weight, not of the window: it is looked at first."""
    text = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, v) y = Add(c, d)"
    init = {**INIT, "v": random(4, 4, *([1] * rank))}
    result = apart(build(text, X, "float[N,4,8,8] y", init), "NF103.ill-formed", run=False)
    assert "the weight of" in result.merges[0].message


@pytest.mark.parametrize("bias", [3, 1])
def test_a_bias_of_another_length(bias):
    text = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv<pads=[1,1,1,1]>(x, w2, b) y = Add(c, d)"
    apart(build(text, X, "float[N,4,8,8] y", {**INIT, "b": random(bias)}), "NF103.ill-formed", run=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bias_that_is_not_finite(value):
    text = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv<pads=[1,1,1,1]>(x, w2, b) y = Add(c, d)"
    init = {**INIT, "b": np.array([1, value, 2, 3], np.float32)}
    result = apart(build(text, X, "float[N,4,8,8] y", init), "NF103.non-finite", run=False)
    assert "a parameter of" in result.merges[0].message


def test_a_sum_of_biases_that_is_not_finite():
    """Each is a float64, and their sum is none."""
    text = "c = Conv(x, u, a) d = Conv(x, v, b) y = Add(c, d)"
    big = np.full(4, 1.7e308)
    init = {"u": INIT["u"].astype(np.float64), "v": INIT["u"].astype(np.float64), "a": big, "b": big}
    with np.errstate(over="ignore"):
        result = apart(build(text, "double[N,4,8,8] x", "double[N,4,8,8] y", init), "NF103.non-finite", run=False)
    assert "the merged bias" in result.merges[0].message


DENSE = {"w": random(6, 6), "v": random(6, 6, seed=1), "b": random(6)}


@pytest.mark.parametrize(
    ("gemm", "key"),
    [
        ("Gemm<alpha=0.0>(x, v)", "ill-formed"),
        ("Gemm<slope=1>(x, v)", "unknown-attribute"),
        ("Gemm(x, v, column)", "not-per-channel"),
        ("Gemm(x, v, many)", "not-per-channel"),
        ("Gemm(x, cube)", "ill-formed"),
    ],
)
def test_matrices_that_are_none(gemm, key):
    init = {**DENSE, "column": random(2, 1), "many": random(2, 6), "cube": random(1, 6, 6)}
    model = build(f"c = Gemm(x, w) d = {gemm} y = Add(c, d)", "float[2,6] x", "float[2,6] y", init)
    apart(model, f"NF103.{key}", run=False)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan")])
def test_a_factor_that_is_not_finite(alpha):
    model = build("c = Gemm(x, w) d = Gemm(x, v) y = Add(c, d)", "float[2,6] x", "float[2,6] y", DENSE)
    model.graph.node[1].attribute.append(helper.make_attribute("alpha", alpha))
    apart(model, "NF103.ill-formed", run=False)
