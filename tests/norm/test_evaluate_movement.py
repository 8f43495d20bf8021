"""Operators that move elements and make shapes do what the standard says, in both forms of every parameter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from normfold.norm.evaluate import Unknown
from tests.model.build import node
from tests.norm.evaluating import evaluated, model_of, same

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 4))
INTS = np.int64


def vector(*items):
    return np.int64(items)


# name, attributes, further constant inputs, opset
CASES = [
    ("Reshape", {}, [vector(0, 3, -1)], 13),
    ("Reshape", {}, [vector(-1)], 5),
    ("Reshape", {"allowzero": 1}, [vector(12, -1)], 14),
    ("Flatten", {}, [], 13),
    ("Flatten", {"axis": 0}, [], 13),
    ("Flatten", {"axis": -1}, [], 13),
    ("Flatten", {"axis": 3}, [], 13),
    ("Transpose", {}, [], 13),
    ("Transpose", {"perm": [1, 2, 0]}, [], 13),
    ("Unsqueeze", {"axes": [0, 3]}, [], 11),
    ("Unsqueeze", {}, [vector(-1, 1)], 13),
    ("Expand", {}, [vector(3, 2, 6, 4)], 13),
    ("Expand", {}, [vector(1, 6, 1)], 13),
    ("Slice", {"starts": [1], "ends": [100], "axes": [1]}, [], 9),
    ("Slice", {}, [vector(1, -3), vector(2**63 - 1, -1), vector(1, -1)], 13),
    ("Slice", {}, [vector(0), vector(6), vector(1), vector(2)], 13),
    ("Gather", {}, [np.int64(1)], 13),
    ("Gather", {"axis": -1}, [np.int64([[0, -1], [2, 1]])], 13),
    ("Shape", {}, [], 13),
    ("Shape", {"start": 1}, [], 15),
    ("Shape", {"start": -2, "end": -1}, [], 15),
    ("Size", {}, [], 13),
]


@pytest.mark.parametrize(("op", "attributes", "more", "opset"), CASES)
@pytest.mark.parametrize("values", [X, RNG.integers(-9, 9, X.shape)], ids=["floats", "integers"])
def test_one_tensor(op, attributes, more, opset, values):
    weights = {f"w{i}": w for i, w in enumerate(more)}
    same([node(op, ["x", *weights], ["y"], **attributes)], {"x": values}, weights=weights, opset=opset)


def test_a_shape_may_be_an_attribute():
    """Of opset 1, which neither the reference nor the runtime know."""
    model = model_of([node("Reshape", ["x"], ["y"], shape=[4, 0, -1])], {"x": X}, ["y"], opset=4)
    np.testing.assert_array_equal(evaluated(model, {"x": X}, ["y"])[0], X.reshape(4, 6, 2))


@pytest.mark.parametrize(
    ("attributes", "more", "opset"),
    [({}, [], 13), ({"axes": [0, 2]}, [], 11), ({}, [vector(-1)], 13), ({}, [vector(0)], 13)],
)
def test_squeeze(attributes, more, opset):
    weights = {f"w{i}": w for i, w in enumerate(more)}
    values = RNG.standard_normal((1, 3, 1))
    same([node("Squeeze", ["x", *weights], ["y"], **attributes)], {"x": values}, weights=weights, opset=opset)


@pytest.mark.parametrize(
    ("attributes", "more", "opset", "count"),
    [
        ({"axis": 1}, [], 11, 3),
        ({"axis": 1, "split": [1, 5]}, [], 11, 2),
        ({"axis": -2}, [vector(2, 0, 4)], 13, 3),
        ({"axis": 1, "num_outputs": 4}, [], 18, 4),
        ({"axis": 2, "num_outputs": 2}, [], 18, 2),
    ],
)
def test_split(attributes, more, opset, count):
    weights = {f"w{i}": w for i, w in enumerate(more)}
    outputs = [f"y{i}" for i in range(count)]
    same([node("Split", ["x", *weights], outputs, **attributes)], {"x": X}, outputs, weights, opset)


def test_concat():
    feeds = {"x": X, "z": RNG.standard_normal((2, 1, 4))}
    same([node("Concat", ["x", "z", "x"], ["y"], axis=1)], feeds)
    same([node("Concat", ["x", "x"], ["y"], axis=-3)], {"x": X})


@pytest.mark.parametrize("fill", [None, np.float32([0.1]), np.float16([1]), np.int64([7]), np.array([True])])
def test_constant_of_shape_made_of_a_shape(fill):
    attributes = {} if fill is None else {"value": numpy_helper.from_array(fill)}
    nodes = [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["y"], **attributes)]
    model = model_of(nodes, {"x": X}, ["y"])
    (y,) = evaluated(model, {"x": X}, ["y"])
    assert y.shape == X.shape
    assert (y == (0.0 if fill is None else fill.astype(np.float64)[0])).all()


@pytest.mark.parametrize(
    "bounds", [(INTS(0), INTS(5), INTS(2)), (INTS(5), INTS(0), INTS(-2)), (0.0, 3.0, 1.0), (INTS(3), INTS(1), INTS(1))]
)
def test_range(bounds):
    feeds = dict(zip(("a", "b", "c"), map(np.asarray, bounds), strict=True))
    same([node("Range", ["a", "b", "c"], ["y"])], feeds)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=40)
def test_moves_in_a_row(shape, data):
    """Transposes, reshapes, slices and gathers of any shape, after one another."""
    x = np.arange(float(np.prod(shape))).reshape(shape)
    rank, nodes, weights, name = len(shape), [], {}, "x"
    for step in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["Transpose", "Unsqueeze", "Flatten", "Reshape", "Identity"]))
        if kind == "Transpose":
            nodes.append(node(kind, [name], [f"t{step}"], perm=data.draw(st.permutations(range(rank)))))
        elif kind == "Unsqueeze":
            axis = data.draw(st.integers(-rank - 1, rank))
            weights[f"a{step}"] = np.int64([axis])
            nodes.append(node(kind, [name, f"a{step}"], [f"t{step}"]))
            rank += 1
        elif kind == "Flatten":
            nodes.append(node(kind, [name], [f"t{step}"], axis=data.draw(st.integers(-rank, rank))))
            rank = 2
        elif kind == "Reshape":
            weights[f"a{step}"] = np.int64([0, -1])
            nodes.append(node(kind, [name, f"a{step}"], [f"t{step}"]))
            rank = 2
        else:
            nodes.append(node(kind, [name], [f"t{step}"]))
        name = f"t{step}"
    same(nodes, {"x": x}, [name], weights)


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ([node("Reshape", ["x", "s"], ["y"])], {"s": vector(5, -1)}, 13),
        ([node("Reshape", ["x", "s"], ["y"])], {"s": vector(1, 1, 1, 0)}, 13),
        ([node("Reshape", ["x", "s"], ["y"])], {"s": np.float64([2, 24])}, 13),
        ([node("Squeeze", ["x", "s"], ["y"])], {"s": vector(0)}, 13),
        ([node("Gather", ["x", "s"], ["y"])], {"s": vector(9)}, 13),
        ([node("Gather", ["x", "s"], ["y"])], {"s": np.float64([0])}, 13),
        ([node("Concat", ["x", "s"], ["y"], axis=0)], {"s": np.int64(np.zeros((1, 6, 4)))}, 13),
        ([node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": vector(1, 1)}, 13),
        ([node("Split", ["x"], ["y", "z", "u", "v"], axis=1)], {}, 13),
        ([node("Expand", ["x", "s"], ["y"])], {"s": vector(2**40, 1, 1, 1)}, 13),
        ([node("ConstantOfShape", ["s"], ["y"])], {"s": vector(2**40)}, 13),
        ([node("Range", ["s", "t", "t"], ["y"])], {"s": np.float64(0), "t": np.float64(0.3)}, 13),
        ([node("Range", ["s", "t", "s"], ["y"])], {"s": vector(0).reshape(()), "t": vector(3).reshape(())}, 13),
        ([node("Slice", ["x", "s", "s"], ["y"])], {"s": np.float64([0])}, 13),
    ],
)
def test_what_does_not_fit_is_unknown(nodes, weights, opset):
    model = model_of(nodes, {"x": X}, ["y"], weights, opset)
    with pytest.raises(Unknown):
        evaluated(model, {"x": X}, ["y"])
