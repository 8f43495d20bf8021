"""Elementwise operators, casts and Dropout compute what the standard says, for every type and opset that they know."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from onnx import TensorProto, numpy_helper

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.norm.evaluate import Evaluator, Unknown
from tests.model.build import node
from tests.norm.evaluating import evaluated, model_of, same, same_as_runtime

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4))
POSITIVE = RNG.uniform(0.1, 3, (2, 3, 4))
PAIRS = nps.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3)

UNARY = ("Neg", "Abs", "Exp", "Sigmoid", "Relu", "Identity", "Reciprocal", "Sqrt")
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean")
COMPARISONS = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")


@pytest.mark.parametrize("op", UNARY)
def test_one_operand(op):
    same([node(op, ["a"], ["y"])], {"a": POSITIVE if op in ("Sqrt", "Reciprocal") else 5 * X})


@pytest.mark.parametrize("op", BINARY)
@given(shapes=PAIRS, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_two_operands_broadcast(op, shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.2, 2, shape) * (1 if op == "Pow" else rng.choice([-1, 1])) for shape in shapes.input_shapes)
    feeds = {"a": np.asarray(a), "b": np.asarray(b)}
    if op == "Mean":  # the reference adds in place, which cannot broadcast
        same_as_runtime([node(op, ["a", "b"], ["y"])], {name: v.astype(np.float32) for name, v in feeds.items()})
    else:
        same([node(op, ["a", "b"], ["y"])], feeds)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_operands(op, count):
    same([node(op, ["a", "b", "c"][:count], ["y"])], {name: RNG.standard_normal((2, 3)) for name in "abc"[:count]})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"])
@given(shapes=PAIRS, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_integers_stay_integers(op, shapes, seed):
    rng = np.random.default_rng(seed)
    low = {"Pow": 0, "Div": -9}.get(op, -9)
    a, b = (np.asarray(rng.integers(low, 6, shape)) for shape in shapes.input_shapes)
    # numpy divides towards minus infinity, and so does the reference; runtimes cut
    b = np.asarray(np.where(b == 0, 4, b)) if op == "Div" else b
    compare = same_as_runtime if op == "Div" else same
    compare([node(op, ["a", "b"], ["y"])], {"a": a, "b": b})


def test_negative_integers_are_divided_towards_zero():
    model = model_of([node("Div", ["a", "b"], ["y"])], {"a": np.int64([-7, 7, -7]), "b": np.int64([2, -2, -2])}, ["y"])
    (y,) = evaluated(model, {"a": np.int64([-7, 7, -7]), "b": np.int64([2, -2, -2])}, ["y"])
    assert y.tolist() == [-3, -3, 3]


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_comparisons(op, dtype):
    a, b = RNG.integers(0, 3, (2, 3)).astype(dtype), RNG.integers(0, 3, (3,)).astype(dtype)
    same([node(op, ["a", "b"], ["y"])], {"a": a, "b": b})


def test_logic_and_where():
    feeds = {"p": RNG.random((2, 3)) > 0.5, "q": RNG.random(3) > 0.5, "a": RNG.standard_normal((2, 3)), "b": np.ones(1)}
    nodes = [
        node("And", ["p", "q"], ["r"]),
        node("Or", ["p", "r"], ["s"]),
        node("Xor", ["s", "q"], ["t"]),
        node("Not", ["t"], ["u"]),
        node("Where", ["u", "a", "b"], ["y"]),
    ]
    same(nodes, feeds, ["r", "s", "t", "u", "y"])


@pytest.mark.parametrize(
    "exponent", [np.float32(2), np.int64(2), np.float32([2]), np.float16([[[2]]]), np.float64(-0.5)]
)
def test_a_power_has_an_exponent_of_any_type(exponent):
    same([node("Pow", ["a", "e"], ["y"])], {"a": POSITIVE}, weights={"e": exponent})


def test_a_square_by_an_exponent_of_higher_rank_takes_that_rank():
    same([node("Pow", ["a", "e"], ["y"])], {"a": POSITIVE}, weights={"e": np.full((1, 1, 1, 1), 2.0)})


@pytest.mark.parametrize(
    ("opset", "attributes", "weights", "inputs"),
    [
        (6, {"min": -0.5, "max": 0.75}, {}, ["a"]),
        (6, {"max": 0.75}, {}, ["a"]),
        (11, {}, {"l": np.float64(-0.5), "h": np.float64(0.5)}, ["a", "l", "h"]),
        (13, {}, {"h": np.float64(0.5)}, ["a", "", "h"]),
        (13, {}, {}, ["a"]),
    ],
)
def test_clip(opset, attributes, weights, inputs):
    same([node("Clip", inputs, ["y"], **attributes)], {"a": X}, weights=weights, opset=opset)


def test_old_operands_stretch_by_attributes():
    nodes = [node("Add", ["a", "b"], ["y"], broadcast=1, axis=1)]
    model = model_of(nodes, {"a": X, "b": np.arange(3.0)}, ["y"], opset=6)
    (y,) = evaluated(model, {"a": X, "b": np.arange(3.0)}, ["y"])
    np.testing.assert_array_equal(y, X + np.arange(3.0)[None, :, None])
    silent = model_of([node("Add", ["a", "b"], ["y"])], {"a": X, "b": np.arange(4.0)}, ["y"], opset=6)
    with pytest.raises(Unknown, match="without broadcast"):
        evaluated(silent, {"a": X, "b": np.arange(4.0)}, ["y"])


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT])
def test_casts_between_floats_round_nothing(to):
    model = model_of([node("Cast", ["a"], ["y"], to=to)], {"a": X}, ["y"])
    (y,) = evaluated(model, {"a": X}, ["y"])
    np.testing.assert_array_equal(y, X)


@pytest.mark.parametrize(
    ("values", "to"),
    [
        (np.float64([1.5, -1.5, 0.0, 3.0]), TensorProto.INT64),
        (np.float64([1.5, -1.5, 0.0]), TensorProto.BOOL),
        (np.int64([3, 0, -2]), TensorProto.DOUBLE),
        (np.int64([3, 0, -2]), TensorProto.BOOL),
        (np.int64([3, 0, -2]), TensorProto.INT32),
        (np.array([True, False]), TensorProto.DOUBLE),
        (np.array([True, False]), TensorProto.INT64),
    ],
)
def test_other_casts_convert(values, to):
    same([node("Cast", ["a"], ["y"], to=to)], {"a": values})


@pytest.mark.parametrize("value", [2.9999999, np.nan, np.inf])
def test_a_float_that_rounding_may_carry_over_an_integer_is_not_cut(value):
    model = model_of([node("Cast", ["a"], ["y"], to=TensorProto.INT64)], {"a": np.float64([value])}, ["y"])
    with pytest.raises(Unknown, match="rounding decides"):
        evaluated(model, {"a": np.float64([value])}, ["y"])


def test_a_cast_to_a_narrow_integer_is_unknown():
    model = model_of([node("Cast", ["a"], ["y"], to=TensorProto.INT8)], {"a": X}, ["y"])
    with pytest.raises(Unknown, match="INT8"):
        evaluated(model, {"a": X}, ["y"])


def test_cast_like():
    feeds = {"a": X, "like": np.int64([1])}
    model = model_of([node("CastLike", ["a", "like"], ["y"])], feeds, ["y"])
    np.testing.assert_array_equal(evaluated(model, feeds, ["y"])[0], np.trunc(X))


def test_cast_like_asks_the_shapes_for_the_type():
    """The second operand is not evaluated: nobody could, behind an unknown operator."""
    nodes = [node("Erf", ["a"], ["e"]), node("CastLike", ["a", "e"], ["y"])]
    values, constants = load(model_of(nodes, {"a": X}, ["y"])).graph.values, Constants()
    with pytest.raises(Unknown, match="Erf"):
        Evaluator(constants).run([values["y"]], {values["a"]: X})
    Shapes(constants)  # tells them
    np.testing.assert_array_equal(Evaluator(constants).run([values["y"]], {values["a"]: X})[0], X)


@pytest.mark.parametrize(
    ("opset", "attributes", "inputs"),
    [
        (6, {"is_test": 1, "ratio": 0.3}, ["a"]),
        (7, {"ratio": 0.3}, ["a"]),
        (13, {}, ["a"]),
        (13, {}, ["a", "r", "off"]),
    ],
)
def test_dropout_at_inference(opset, attributes, inputs):
    weights = {"r": np.float64(0.5), "off": np.array(False)}
    model = model_of([node("Dropout", inputs, ["y"], **attributes)], {"a": X}, ["y"], weights, opset)
    np.testing.assert_array_equal(evaluated(model, {"a": X}, ["y"])[0], X)


@pytest.mark.parametrize(("opset", "inputs"), [(6, ["a"]), (13, ["a", "r", "on"])])
def test_dropout_that_trains_is_unknown(opset, inputs):
    weights = {"r": np.float64(0.5), "on": np.array(True)}
    model = model_of([node("Dropout", inputs, ["y"])], {"a": X}, ["y"], weights, opset)
    with pytest.raises(Unknown, match="trains"):
        evaluated(model, {"a": X}, ["y"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_constants_are_widened_from_what_is_stored(dtype):
    stored = np.float64([0.1, 1e-3]).astype(dtype)
    model = model_of(
        [node("Mul", ["a", "k"], ["y"])], {"a": np.ones(2)}, ["y"], {"k": numpy_helper.from_array(stored, "k")}
    )
    (y,) = evaluated(model, {"a": np.ones(2)}, ["y"])
    np.testing.assert_array_equal(y, stored.astype(np.float64))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", ["a", "i"], ["y"])],
        [node("Where", ["a", "a", "a"], ["y"])],
        [node("Not", ["a"], ["y"])],
        [node("Sqrt", ["i"], ["y"])],
        [node("Pow", ["i", "a"], ["y"])],
        [node("Erf", ["a"], ["y"])],
        [node("Neg", ["a"], ["y"], domain="my.own")],
        [node("Add", ["a", ""], ["y"])],
        [node("Add", ["a", "c"], ["y"])],
        [node("Relu", ["a"], ["y"], slope=0.5)],
    ],
)
def test_what_is_ill_formed_or_foreign_is_unknown(nodes):
    feeds = {"a": X, "i": np.int64([2]), "c": np.ones(3)}
    model = model_of(nodes, feeds, ["y"], domains=("my.own",))
    with pytest.raises(Unknown):
        evaluated(model, feeds, ["y"])


def test_an_enormous_result_is_refused_before_it_is_made():
    feeds = {"a": np.ones((9000, 1)), "b": np.ones(9000)}
    model = model_of([node("Add", ["a", "b"], ["y"])], feeds, ["y"])
    with pytest.raises(Unknown, match="too large"):
        evaluated(model, feeds, ["y"])
