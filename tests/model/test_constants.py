"""What is a constant, and that its value is the runtime's."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.model.constants import Constants, float64, readable
from normfold.model.load import Initializers, load
from normfold.model.tensors import Unreadable, Values

from .build import actual, graph_attribute, net, node, viewed
from .test_shapes import CASES, REFUSALS, Case

FOLDED = (
    "Add Sub Mul Div Pow Neg Sqrt Reciprocal Abs Exp Identity Cast Transpose Reshape Squeeze Unsqueeze Flatten Concat "
    "Expand Gather Slice Shape"
)


@pytest.mark.parametrize("op", FOLDED.split())
def test_values_are_those_of_the_runtime(op):
    """The same random uses as for shapes, every data input a constant."""
    found = checked = 0
    for seed in range(60):
        c = Case(np.random.default_rng([seed, 77, *op.encode()]))
        CASES[op](c)
        last = c.nodes[-1].output[0]
        weights = {**c.weights, **c.feeds}
        infos = [helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1])]
        model = net(c.nodes, infos, [helper.make_empty_tensor_value_info(last)], weights, opset=c.opset, ir=9)
        try:
            truth = actual(model, {"unused": np.zeros(1, np.float32)}, [last])[last]
        except REFUSALS:
            continue
        loaded, constants, _ = viewed(model)
        source = constants.get(loaded.graph.values[last])
        checked += 1
        if source is None:
            continue
        found += 1
        assert source.dims == truth.shape
        assert source.data_type == helper.np_dtype_to_tensor_dtype(truth.dtype)
        values = source.array()
        if truth.dtype.kind == "f":
            np.testing.assert_allclose(values.astype(np.float64), truth, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(values, truth)
    assert checked > 15
    assert found * 2 > checked


def constant(model, name="k", **options):
    loaded = load(model, **options)
    constants = Constants()
    return constants, loaded.graph.values[name]


def of(*nodes, weights=None, opset=17, name="k"):
    model = net([*nodes, node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], weights, opset=opset)
    constants, value = constant(model, name)
    return constants.get(value)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(np.float16([1, 2]))}, np.float16([1, 2])),
        ({"value": numpy_helper.from_array(np.array(True))}, np.array(True)),
        ({"value": numpy_helper.from_array(np.arange(3000.0))}, np.arange(3000.0)),
        ({"value_float": 0.1}, np.float32(0.1)),
        ({"value_floats": [0.1, 2.0]}, np.float32([0.1, 2])),
        ({"value_int": -3}, np.int64(-3)),
        ({"value_ints": [1, 2**40]}, np.int64([1, 2**40])),
    ],
)
def test_every_form_of_constant(attributes, expected):
    source = of(node("Constant", [], ["k"], **attributes))
    assert source.dims == expected.shape
    assert source.data_type == helper.np_dtype_to_tensor_dtype(expected.dtype)
    np.testing.assert_array_equal(source.array(), expected)


def test_strings_and_sparse_values_are_no_constants():
    assert of(node("Constant", [], ["k"], value_string="a")) is None
    assert of(node("Constant", [], ["k"], value_strings=["a", "b"])) is None
    values, indices = numpy_helper.from_array(np.float32([1])), numpy_helper.from_array(np.int64([2]))
    assert of(node("Constant", [], ["k"], sparse_value=helper.make_sparse_tensor(values, indices, [4]))) is None


def test_an_empty_list_is_a_constant_without_elements():
    constant_node = helper.make_node("Constant", [], ["k"])
    constant_node.attribute.append(helper.make_attribute("value_ints", [], attr_type=7))
    assert of(constant_node).dims == (0,)


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [
        ([2, 3], None, np.zeros((2, 3), np.float32)),
        ([2], np.int64([7]), np.full(2, 7, np.int64)),
        ([0], np.float16([1]), np.zeros(0, np.float16)),
        ([], np.float64([4]), np.float64(4)),
    ],
)
def test_constant_of_shape(shape, value, expected):
    extra = {} if value is None else {"value": numpy_helper.from_array(value)}
    source = of(node("ConstantOfShape", ["s"], ["k"], **extra), weights={"s": np.int64(shape)})
    assert source.array().dtype == expected.dtype
    np.testing.assert_array_equal(source.array(), expected)


BOMB = 2**40


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("ConstantOfShape", ["s"], ["k"])], {"s": np.int64([BOMB])}),
        ([node("ConstantOfShape", ["s"], ["k"])], {"s": np.int64([2**31, 2**31, 2**31])}),
        ([node("ConstantOfShape", ["s"], ["k"])], {"s": np.int64([-1])}),
        ([node("ConstantOfShape", ["s"], ["k"])], {"s": np.int64([2**62, 0])}),
        ([node("Expand", ["w", "s"], ["k"])], {"s": np.int64([BOMB]), "w": np.float32([1])}),
        ([node("Expand", ["w", "s"], ["k"])], {"s": np.int64([2**20, 2**20]), "w": np.float32([1])}),
        ([node("Gather", ["w", "i"], ["k"])], {"w": np.ones((2, 2**20), np.float32), "i": np.zeros(2**20, np.int64)}),
        ([node("Mul", ["a", "b"], ["k"])], {"a": np.ones((2**20, 1), np.float32), "b": np.ones(2**20, np.float32)}),
        (
            [node("Concat", ["w"] * 200, ["k"], axis=0)],
            {"w": np.ones(2**20, np.float32)},
        ),
        ([node("Reshape", ["w", "s"], ["k"])], {"w": np.float32([1]), "s": np.int64([BOMB])}),
        (
            [node("Unsqueeze", ["w", "s"], ["k"])],
            {"w": np.float32([1]), "s": np.arange(4000)},
        ),
    ],
)
def test_bombs_are_no_constants_and_allocate_nothing(nodes, weights):
    model = net([*nodes, node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], weights)
    constants, value = constant(model)
    tracemalloc.start()
    source = constants.get(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source is None or math.prod(source.dims) == 0
    assert peak < 300 << 20


def test_casts_round_like_the_runtime():
    values = np.float32([1.0009765, 65519.9, 1e-8, -0.0, 3.5])
    nodes = [
        node("Cast", ["w"], ["h"], to=TensorProto.FLOAT16),
        node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["f", "f"], ["k"]),
    ]
    truth = actual(
        net([*nodes, node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": values}),
        {"x": np.zeros(1, np.float32)},
        ["k"],
    )
    np.testing.assert_array_equal(of(*nodes, weights={"w": values}).array().astype(np.float32), truth["k"])


def test_a_cast_sees_the_rounded_operand():
    """Arithmetic is carried in float64, but what a Cast reads has been rounded by the model."""
    values = np.float32([1, 3])
    nodes = [
        node("Div", ["w", "d"], ["q"]),
        node("Mul", ["q", "m"], ["r"]),
        node("Cast", ["r"], ["k"], to=TensorProto.INT64),
    ]
    weights = {"w": values, "d": np.float32([3, 7]), "m": np.float32([3, 7])}
    model = net([*nodes, node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], weights)
    truth = actual(model, {"x": np.zeros(1, np.float32)}, ["k"])["k"]
    np.testing.assert_array_equal(of(*nodes, weights=weights).array(), truth)


def test_integer_arithmetic_that_implementations_may_differ_on():
    weights = {"a": np.int64([-7, 7]), "b": np.int64([2, -2])}
    nodes = [node("Div", ["a", "b"], ["k"])]
    source = of(*nodes, weights=weights)
    if source is not None:
        np.testing.assert_array_equal(source.array(), [-3, -3])  # towards zero


def test_overridable_initializers_are_no_constants():
    model = net(
        [node("Neg", ["w"], ["k"]), node("Relu", ["x"], ["y"])],
        {"x": [1], "w": [2, 2]},
        ["y", "k"],
        {"w": np.ones((2, 2), np.float32)},
    )
    constants, value = constant(model, initializers=Initializers.KEEP)
    assert constants.get(value) is None
    constants, value = constant(model, initializers=Initializers.FREEZE)
    assert constants.get(value) is not None


def test_constants_of_an_outer_scope():
    inner = helper.make_graph(
        [node("Neg", ["w"], ["inner"]), node("Mul", ["x", "inner"], ["out"])],
        "b",
        [],
        [helper.make_empty_tensor_value_info("out")],
    )
    choose = node("If", ["c"], ["y"])
    for name in ("then_branch", "else_branch"):
        choose.attribute.append(graph_attribute(name, inner))
    infos = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [2])]
    loaded = load(net([choose], infos, ["y"], {"w": np.float32([1, 2])}))
    scope = loaded.scopes()[1]
    np.testing.assert_array_equal(Constants().array(scope.values["inner"]), [-1, -2])


def test_a_loop_variable_is_no_constant():
    infos = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("w", 1, [2]),
    ]
    body = helper.make_graph(
        [node("Neg", ["w"], ["next"]), node("Identity", ["go"], ["on"])],
        "body",
        infos,
        [helper.make_empty_tensor_value_info("on"), helper.make_empty_tensor_value_info("next")],
    )
    loop = node("Loop", ["n", "", "w"], ["y"])
    loop.attribute.append(graph_attribute("body", body))
    loaded = load(net([loop], {}, ["y"], {"n": np.int64(3), "w": np.float32([1, 2])}))
    assert Constants().get(loaded.scopes()[1].values["next"]) is None
    assert Constants().get(loaded.graph.values["y"]) is None


@pytest.mark.parametrize(
    "bad",
    [
        node("Reshape", ["w", "w"], ["k"]),
        node("Transpose", ["w"], ["k"], perm=[5, 6]),
        node("Concat", ["w", "x"], ["k"], axis=0),
        node("Concat", ["w"], ["k"], axis=9),
        node("Gather", ["w", "i"], ["k"]),
        node("Squeeze", ["w", "i"], ["k"]),
        node("Cast", ["w"], ["k"], to=99),
        node("Cast", ["w"], ["k"]),
        node("Slice", ["w"], ["k"]),
        node("Expand", ["w"], ["k"]),
        node("Add", ["w"], ["k"]),
        node("Flatten", ["w"], ["k"], axis=7),
        node("Unsqueeze", ["w"], ["k"]),
        node("Neg", ["w"], ["k"], domain="odd"),
        node("Neg", ["w"], ["k"], unknown=1),
    ],
)
def test_ill_formed_uses_are_no_constants(bad):
    weights = {"w": np.float32([[1, 2], [3, 4]]), "i": np.int64([77])}
    model = net([bad, node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], weights, domains=["odd"])
    constants, value = constant(model)
    source = constants.get(value)
    assert source is None or source.dims in ((4,), (4, 1))


def test_integers():
    constants, value = constant(
        net([node("Identity", ["w"], ["k"]), node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": np.int32([[1, -2]])})
    )
    assert constants.ints(value) == [1, -2]
    assert constants.ints(None) is None
    assert constants.array(None) is None
    floats, value = constant(
        net([node("Identity", ["w"], ["k"]), node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": np.float32(1)})
    )
    assert floats.ints(value) is None


def test_widening_is_only_for_floats():
    np.testing.assert_array_equal(float64(Values(np.float16([1.5]), TensorProto.FLOAT16)), [1.5])
    with pytest.raises(Unreadable):
        float64(Values(np.int32([1]), TensorProto.INT32))
    assert readable(Values(np.int32([1]), TensorProto.INT32))


def test_a_constant_of_more_axes_than_numpy_has_is_none():
    nodes = [node("Unsqueeze", ["k", "axes"], ["u"]), node("Mul", ["u", "u"], ["m"]), node("Add", ["x", "m"], ["y"])]
    weights = {"k": np.ones(1, np.float32), "axes": np.arange(34)}
    model, constants, _ = viewed(net(nodes, {"x": [1]}, ["y"], weights))
    assert constants.get(model.graph.values["m"]) is None
