"""Reductions: both forms of the axes, every default, and sums that lose next to nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.norm.evaluate import Unknown
from normfold.norm.rows import mean_over, sum_over
from tests.model.build import node
from tests.norm.evaluating import evaluated, model_of, same

RNG = np.random.default_rng(0)
BY_INPUT = {"ReduceSum": 13}
OPERATORS = (
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
)


@pytest.mark.parametrize("op", OPERATORS)
@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_any_axes_in_either_form(op, data, seed):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    rank = len(shape)
    axes = data.draw(st.none() | st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    axes = None if axes is None else [data.draw(st.sampled_from([a, a - rank])) for a in axes]
    attributes = {} if (keep := data.draw(st.sampled_from([None, 0, 1]))) is None else {"keepdims": keep}
    by_input = data.draw(st.booleans())
    opset = max(13, BY_INPUT.get(op, 18)) if by_input else 11
    weights = {"axes": np.int64(axes)} if by_input and axes is not None else {}
    if not by_input and axes is not None:
        attributes["axes"] = axes
    x = np.random.default_rng(seed).uniform(-2, 2, shape)
    same([node(op, ["x", *weights], ["y"], **attributes)], {"x": x}, weights=weights, opset=opset)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_integers(op):
    weights = {"axes": np.int64([1])}
    opset = 18
    same([node(op, ["x", "axes"], ["y"])], {"x": RNG.integers(-5, 5, (3, 4))}, weights=weights, opset=opset)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("listed", [True, False])
def test_no_axes_may_mean_nothing(op, listed):
    weights = {"axes": np.zeros(0, np.int64)} if listed else {}
    x = RNG.standard_normal((2, 3))
    model = model_of([node(op, ["x", *weights], ["y"], noop_with_empty_axes=1)], {"x": x}, ["y"], weights, 18)
    np.testing.assert_array_equal(evaluated(model, {"x": x}, ["y"])[0], x)
    same([node(op, ["x", *weights], ["y"])], {"x": x}, weights=weights, opset=18)


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_what_is_left_of_a_square_without_axes_is_disputed(op):
    x = RNG.standard_normal((2, 3))
    model = model_of([node(op, ["x"], ["y"], noop_with_empty_axes=1)], {"x": x}, ["y"], opset=18)
    with pytest.raises(Unknown, match="runtimes differ"):
        evaluated(model, {"x": x}, ["y"])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 2, 2)])
def test_global_average(shape):
    same([node("GlobalAveragePool", ["x"], ["y"])], {"x": RNG.standard_normal(shape)})


@pytest.mark.parametrize(
    ("nodes", "x"),
    [
        ([node("ReduceMean", ["x"], ["y"], axes=[2])], RNG.standard_normal((2, 3))),
        ([node("ReduceMean", ["x"], ["y"])], np.int64([[1, 2]])),
        ([node("ReduceL2", ["x"], ["y"])], np.int64([[1, 2]])),
        ([node("ReduceSum", ["x"], ["y"], wide=1)], RNG.standard_normal((2, 3))),
        ([node("GlobalAveragePool", ["x"], ["y"])], RNG.standard_normal((2, 3))),
        ([node("ReduceMax", ["x"], ["y"])], np.zeros((0, 2))),
    ],
)
def test_what_does_not_fit_is_unknown(nodes, x):
    model = model_of(nodes, {"x": x}, ["y"], opset=11)
    with pytest.raises(Unknown):
        evaluated(model, {"x": x}, ["y"])


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 2), (2,), (0, 1, 2)])
def test_sums_are_pairwise_along_every_axis(axes):
    """One after the other, numpy's way along leading axes, the error of this sum would be a hundred times larger."""
    x = 1e3 + RNG.standard_normal((1 << 14, 4, 2)) / 3
    exact = np.empty(np.sum(x, axes).shape)
    columns = np.moveaxis(x, axes, range(-len(axes), 0)).reshape(*exact.shape, -1)
    for index in np.ndindex(exact.shape):
        exact[index] = math.fsum(columns[index])
    error = np.abs(sum_over(x, axes, keepdims=False) - exact) / np.abs(exact)
    assert error.max() < 4e-16
    np.testing.assert_array_equal(
        mean_over(x, axes).reshape(exact.shape), sum_over(x, axes, keepdims=False) / (x.size / exact.size)
    )
