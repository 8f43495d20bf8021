"""What operators make of constants is what the runtime makes of them, for every form that an opset allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from normfold.model import computed
from normfold.model.constants import Constants, readable
from normfold.model.constants.resolve import _OPERATORS
from normfold.model.load import load

from .build import actual, net, node

RNG = np.random.default_rng(0)
V = RNG.uniform(-2, 2, (4, 3, 2, 5)).astype(np.float32)
P = RNG.uniform(0.5, 2, (3, 4)).astype(np.float32)
Q = RNG.uniform(-1, 1, (3, 4)).astype(np.float32)
INTS = np.int64([[3, -7, 2], [5, 4, -1]])
EPSILON = float(np.float32(1e-5))
B = np.array([[True, False, True, False]] * 3)


def model_of(nodes, weights, opset=17):
    return net([*nodes, node("Relu", ["unused"], ["y"])], {"unused": [1]}, ["y"], weights, opset=opset, ir=8)


def resolved(nodes, weights, opset=17, name="k"):
    loaded = load(model_of(nodes, weights, opset))
    return Constants().get(loaded.graph.values[name])


def truth(nodes, weights, opset, name="k"):
    model = model_of(nodes, weights, opset)
    feeds = {"unused": np.zeros(1, np.float32)}
    if opset < 7:
        del model.graph.output[:]
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
        return ReferenceEvaluator(model).run(None, feeds)[0]
    return actual(model, feeds, [name])[name]


def same(nodes, weights, opset=17, name="k", rtol=2e-5):
    source = resolved(nodes, weights, opset, name)
    assert source is not None, "no constant"
    wanted = truth(nodes, weights, opset, name)
    assert source.dims == wanted.shape
    assert source.data_type == helper.np_dtype_to_tensor_dtype(wanted.dtype)
    values = source.array()
    assert values.shape == wanted.shape
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(values.astype(np.float64), wanted, rtol=rtol, atol=1e-6)
    else:
        np.testing.assert_array_equal(values, wanted)


def one(op, *weights, **attributes):
    """A node that reads constants, and those."""
    named = {f"w{i}": w for i, w in enumerate(weights) if w is not None}
    inputs = [f"w{i}" if w is not None else "" for i, w in enumerate(weights)]
    return [node(op, inputs, ["k"], **attributes)], named


# op, operands, attributes, opsets
REDUCE = [
    (op, (V, *([] if by == "attribute" else [np.int64(axes)] if axes is not None else [])), {**attrs}, opset)
    for op, first in (
        ("ReduceL1", 18), ("ReduceL2", 18), ("ReduceSumSquare", 18), ("ReduceSum", 13), ("ReduceMean", 18),
        ("ReduceMax", 18), ("ReduceMin", 18), ("ReduceProd", 18),
    )
    for by, axes, attrs, opset in (
        ("attribute", None, {"axes": [1, 2, 3]}, 11),
        ("attribute", None, {"axes": [-1, 0], "keepdims": 0}, 11),
        ("attribute", None, {"keepdims": 0}, 11),
        ("attribute", None, {}, 11),
        ("input", [1, -2], {}, max(first, 13)),
        ("input", [0], {"keepdims": 0}, max(first, 18)),
        ("input", None, {"keepdims": 0}, max(first, 18)),
        ("input", [], {}, max(first, 18)),
    )
]  # fmt: skip
CASES = [
    *REDUCE,
    ("ReduceSum", (V,), {"noop_with_empty_axes": 1}, 13),
    ("ReduceMean", (V, np.int64([])), {"noop_with_empty_axes": 1}, 18),
    ("ReduceLogSum", (P,), {"axes": [1]}, 11),
    ("ReduceSum", (INTS, np.int64([0])), {"keepdims": 0}, 13),
    ("ReduceProd", (INTS,), {"axes": [1]}, 13),
    ("ReduceMax", (INTS,), {}, 13),
    ("ReduceMin", (INTS.astype(np.int32),), {"axes": [-1], "keepdims": 0}, 13),
    ("LpNormalization", (V,), {}, 11),
    ("LpNormalization", (V,), {"axis": 1, "p": 1}, 11),
    ("Softmax", (Q,), {}, 13),
    ("Softmax", (V,), {"axis": 1}, 13),
    ("Softmax", (V,), {}, 11),
    ("Softmax", (V,), {"axis": 2}, 11),
    ("Softmax", (V,), {"axis": -1}, 11),
    ("MatMul", (P, Q.T), {}, 13),
    ("MatMul", (V, RNG.uniform(-1, 1, (5, 2)).astype(np.float32)), {}, 13),
    ("MatMul", (P, RNG.uniform(-1, 1, 4).astype(np.float32)), {}, 13),
    ("MatMul", (RNG.uniform(-1, 1, 3).astype(np.float32), P), {}, 13),
    ("MatMul", (RNG.uniform(-1, 1, 3).astype(np.float32),) * 2, {}, 13),
    ("Gemm", (P, Q), {"transB": 1, "alpha": 0.3}, 11),
    ("Gemm", (P, Q, RNG.uniform(-1, 1, 4).astype(np.float32)), {"transA": 1, "beta": 2.5}, 11),
    ("Gemm", (P, Q.T.copy(), np.float32(0.5)), {"alpha": 1.5, "beta": 0.1}, 13),
    ("Log", (P,), {}, 13),
    ("Sigmoid", (V * 20,), {}, 13),
    ("Tanh", (V,), {}, 13),
    ("Softplus", (V * 30,), {}, 13),
    ("Softsign", (V,), {}, 13),
    ("Relu", (V,), {}, 13),
    ("Sin", (V,), {}, 13),
    ("Cos", (V,), {}, 13),
    ("LeakyRelu", (V,), {}, 13),
    ("LeakyRelu", (V,), {"alpha": 0.3}, 13),
    ("Elu", (V,), {"alpha": 0.7}, 13),
    ("HardSigmoid", (V,), {}, 13),
    ("HardSigmoid", (V,), {"alpha": 0.4, "beta": 0.1}, 13),
    ("Floor", (V,), {}, 13),
    ("Ceil", (V,), {}, 13),
    ("Round", (np.float32([0.5, 1.5, -0.5, 2.3]),), {}, 13),
    ("Sign", (V,), {}, 13),
    ("Sign", (INTS,), {}, 13),
    ("Max", (P, Q, np.float32([0.8])), {}, 13),
    ("Min", (P, Q), {}, 8),
    ("Max", (INTS, np.int64([1])), {}, 13),
    ("Sum", (P, Q, np.float32(2)), {}, 13),
    ("Mean", (P, Q, np.float32(2)), {}, 13),
    ("Div", (INTS, np.int64([2, -3, 4])), {}, 13),
    ("Mod", (INTS, np.int64([2, -3, 4])), {}, 13),
    ("Pow", (P, np.int64(2)), {}, 13),
    ("Clip", (V, np.float32(-0.5), np.float32(0.25)), {}, 13),
    ("Clip", (V, None, np.float32(0.25)), {}, 11),
    ("Clip", (V, np.float32(-0.5)), {}, 12),
    ("Clip", (V,), {}, 13),
    ("Clip", (V,), {"min": -0.5, "max": 0.7}, 9),
    ("Clip", (V,), {"max": 0.7}, 7),
    ("Clip", (INTS, np.int64(-2), np.int64(4)), {}, 13),
    ("Clip", (INTS, None, np.int64(4)), {}, 13),
    ("Equal", (INTS, np.int64([3, 4, 2])), {}, 13),
    ("Equal", (B, B[:1]), {}, 13),
    ("Less", (P, np.float32(1)), {}, 13),
    ("Greater", (P, np.float32(1)), {}, 9),
    ("LessOrEqual", (INTS, np.int64(4)), {}, 13),
    ("GreaterOrEqual", (P, Q), {}, 13),
    ("And", (B, ~B), {}, 13),
    ("Or", (B, B[:1]), {}, 13),
    ("Xor", (B, B[:1]), {}, 13),
    ("Not", (B,), {}, 13),
    ("Where", (B, P, Q), {}, 13),
    ("Where", (B[:, :1], P, np.float32(0)), {}, 9),
    ("Where", (np.array(True), INTS, np.int64([[1], [2]])), {}, 13),
    ("Tile", (P, np.int64([2, 3])), {}, 13),
    ("Tile", (INTS, np.int64([1, 0])), {}, 6 + 1),
    ("Expand", (P[:, :1], np.int64([2, 1, 4])), {}, 13),
    ("Concat", (P, Q), {"axis": -1}, 13),
    ("Flatten", (V,), {"axis": 2}, 13),
    ("Pad", (P, np.int64([1, 0, 0, 2])), {}, 13),
    ("Pad", (P, np.int64([1, -1, -1, 2]), np.float32(0.5)), {}, 13),
    ("Pad", (INTS, np.int64([0, 1, 0, 0]), np.int64(9)), {}, 13),
    ("Pad", (V, np.int64([1, 2]), np.float32(3), np.int64([-2])), {}, 18),
    ("Pad", (P,), {"pads": [1, 0, 0, 2], "value": 1.5}, 10),
    ("Pad", (P,), {"pads": [1, 0, 0, -2]}, 7),
    ("Size", (V,), {}, 13),
    ("Shape", (V,), {"start": 1, "end": -1}, 15),
    ("Range", (np.int64(3), np.int64(-9), np.int64(-4)), {}, 13),
    ("Range", (np.int32(0), np.int32(5), np.int32(2)), {}, 11),
    ("Range", (np.float32(0), np.float32(7), np.float32(2)), {}, 11),
    ("Range", (np.int64(3), np.int64(3), np.int64(1)), {}, 11),
    ("LayerNormalization", (V, P[0, :1].repeat(5)), {}, 17),
    ("LayerNormalization", (V, np.ones((2, 5), np.float32) * 2, np.ones((2, 5), np.float32)), {"axis": 2}, 17),
    ("InstanceNormalization", (V, P[0, :3].copy(), Q[0, :3].copy()), {"epsilon": 1e-3}, 13),
]


@pytest.mark.parametrize(
    ("op", "weights", "attributes", "opset"), CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)]
)
def test_an_operator_on_constants(op, weights, attributes, opset):
    same(*one(op, *weights, **attributes), opset=opset)


@pytest.mark.parametrize(("op", "weights", "attributes", "opset"), CASES[:: len(CASES) // 40])
def test_a_large_operand_is_read_in_blocks(monkeypatch, op, weights, attributes, opset):
    """The same values where everything counts as large and a block holds a few elements."""
    monkeypatch.setattr(computed, "_AT_ONCE", -1)
    monkeypatch.setattr("normfold.model.tensors._BLOCK_ELEMENTS", 7)
    same(*one(op, *weights, **attributes), opset=opset)


def test_every_operator_has_a_case():
    elsewhere = (
        "Add Sub Mul Neg Sqrt Reciprocal Abs Exp Identity Cast Transpose Reshape Squeeze Unsqueeze Gather Slice Split "
        "ConstantOfShape BatchNormalization DequantizeLinear QuantizeLinear"
    )
    assert {case[0] for case in CASES} | set(elsewhere.split()) == set(_OPERATORS)


@pytest.mark.parametrize("slot", [0, 1, 2])
@pytest.mark.parametrize(
    ("opset", "extra", "attributes"),
    [
        (11, (), {"split": [2, 0, 3], "axis": 3}),
        (13, (np.int64([2, 0, 3]),), {"axis": -1}),
        (13, (), {"axis": 1}),
        (18, (), {"axis": 3, "num_outputs": 3}),
        (7, (), {"axis": 1}),
    ],
)
def test_every_output_of_split(slot, opset, extra, attributes):
    names = ["a", "b", "c"]
    weights = {"w0": V, **{f"w{i}": w for i, w in enumerate(extra, start=1)}}
    same([node("Split", list(weights), names, **attributes)], weights, opset, names[slot])


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [
        (15, ["k", "m", "v"], {"training_mode": 1}),
        (14, ["k", "m", "v"], {"training_mode": 1, "epsilon": 1e-3, "momentum": 0.0}),
        (9, ["k", "m", "v", "sm", "sv"], {}),
        (7, ["k", "m", "v", "sm", "sv"], {"epsilon": 0.01}),
        (15, ["k"], {}),
        (9, ["k"], {"epsilon": 0.5}),
        (7, ["k"], {"spatial": 1}),
    ],
)
@pytest.mark.parametrize("dims", [(1, 4, 30), (4, 3, 2, 5), (5, 3)])
def test_batch_normalization_of_a_constant(opset, outputs, attributes, dims):
    """Weight standardisation is written as a BatchNormalization in training mode, on a weight."""
    weights = {"x": np.resize(V, dims), **{n: np.float32(RNG.uniform(0.5, 2, dims[1])) for n in "abcd"}}
    nodes = [node("BatchNormalization", ["x", "a", "b", "c", "d"], outputs, **attributes)]
    same(nodes, weights, opset)
    assert all(resolved(nodes, weights, opset, name) is None for name in outputs[1:])


def test_batch_normalization_of_old_opsets():
    weights = {"x": np.resize(V, (1, 4, 30)), **{n: np.full(4, i, np.float32) for i, n in enumerate("abcd", start=1)}}
    spelled = lambda **a: resolved([node("BatchNormalization", [*"xabcd"], ["k"], **a)], weights, 6)  # noqa: E731
    x = weights["x"].astype(np.float64)
    batch = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + EPSILON)
    np.testing.assert_allclose(spelled().array(), batch * 1 + 2)
    np.testing.assert_allclose(spelled(is_test=1).array(), (x - 3) / np.sqrt(4 + EPSILON) + 2)
    assert spelled(is_test=1, spatial=0) is None


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize(("dims", "attributes"), [((2, 5), {}), ((4,), {"axis": 0}), ((3, 2), {"axis": 1}), ((), {})])
def test_broadcasting_before_opset_7(op, dims, attributes):
    second = np.full(dims, 2.0, np.float32)
    aligned = second.reshape(dims + (1,) * (4 - attributes["axis"] - len(dims))) if attributes else second
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}[op]
    source = resolved(*one(op, np.abs(V), second, broadcast=1, **attributes), opset=6)
    np.testing.assert_allclose(source.array(), function(np.abs(V).astype(np.float64), aligned))


NO_CONSTANT = {
    "noop is disputed for what also maps": (one("ReduceL2", V, noop_with_empty_axes=1), 18),
    "a norm of zero": (one("LpNormalization", np.zeros((2, 2), np.float32)), 13),
    "another norm": (one("LpNormalization", V, p=3), 13),
    "unknown attribute": (one("Transpose", V, order=[0, 1, 2, 3]), 13),
    "reflection": (one("Pad", P, np.int64([1, 0, 0, 1]), mode="reflect"), 13),
    "fractions in a range": (one("Range", np.float32(0), np.float32(1), np.float32(0.1)), 13),
    "an endless range": (one("Range", np.int64(0), np.int64(1), np.int64(0)), 13),
    "a huge range": (one("Range", np.float64(0), np.float64(2**24), np.float64(1)), 13),
    "division by zero": (one("Div", INTS, np.int64([0])), 13),
    "no integer mean": (one("ReduceMean", INTS), 13),
    "no integer roots": (one("Sqrt", INTS), 13),
    "a remainder by C's rules": (one("Mod", P, Q, fmod=1), 13),
    "C larger than the product": (one("Gemm", P, Q.T.copy(), np.ones((2, 3, 3), np.float32)), 13),
    "inner dimensions": (one("MatMul", P, Q), 13),
    "wrong parts": (one("Split", V, np.int64([2, 2]), axis=3), 13),
    "uneven parts": ([node("Split", ["w0"], ["k", "l"], axis=3)], {"w0": V}, 13),
    "negative tiles": (one("Tile", P, np.int64([-1, 2])), 13),
    "nothing to reduce": (one("ReduceMax", np.zeros((0, 2), np.float32)), 13),
    "per activation": (
        one("BatchNormalization", np.resize(V, (2, 3, 4)), *[np.ones((3, 4), np.float32)] * 4, spatial=0), 8,
    ),
    "statistics of the wrong length": (one("BatchNormalization", V, *[np.ones(2, np.float32)] * 4), 13),
    "scales of another length": (one("DequantizeLinear", np.int8([[1, 2]]), np.float32([1, 2, 3]), axis=0), 13),
    "one scale before opset 13": (one("DequantizeLinear", np.int8([[1, 2]]), np.float32([1, 2]), axis=1), 12),
    "zero points of another type": (one("DequantizeLinear", np.int8([1]), np.float32(1), np.uint8(1)), 13),
    "scales for other blocks": (
        one("DequantizeLinear", np.int8([[1, 2]]), np.ones((1, 3), np.float32), axis=1, block_size=2), 21,
    ),
    "no dequantised type": (one("DequantizeLinear", np.int64([1]), np.float32(1)), 13),
    "half a step may be rounded either way": (one("QuantizeLinear", np.float16([1]), np.float16(1), np.int8(0)), 19),
    "four bits": (one("QuantizeLinear", P, np.float32(1), output_dtype=TensorProto.INT4), 21),
    "blocks of integers": (
        one("QuantizeLinear", P, np.ones((3, 2), np.float32), axis=1, block_size=2, output_dtype=TensorProto.INT8), 21,
    ),
}  # fmt: skip


S, Z = P[0] / 9, np.int8([3, 0, -128, 127])
FORMS = {
    "one scale": ((INTS.astype(np.int8), np.float32(0.3)), {}, (10, 13, 19, 21, 23)),
    "one scale in a list": ((INTS.astype(np.uint8), np.float32([0.3]), np.uint8([7])), {}, (13, 21)),
    "an axis": ((np.int8(np.arange(12).reshape(3, 4)), S, Z), {"axis": 1}, (13, 21)),
    "an axis from the end": ((np.int8(np.arange(12).reshape(3, 4)), S, Z), {"axis": -1}, (13, 21)),
    "the default axis": ((np.int8(np.arange(24).reshape(2, 4, 3)), S, Z), {}, (13, 21)),
    "int32": ((np.int32([70000, -3]), np.float32(0.001)), {}, (13, 21)),
    "int16": ((np.int16([700, -3]), np.float32(0.01), np.int16(5)), {}, (21,)),
    "blocks": ((np.int8(np.arange(15).reshape(3, 5)), P[:, :3]), {"axis": 1, "block_size": 2}, (21,)),
    "half precision": ((np.int8([7, -3]), np.float16(0.01)), {}, (19, 21)),
}
FLOATS = {
    "one scale": ((P * 3, np.float32(0.3)), {}, (10, 13, 19, 21)),
    "saturated": ((Q * 99, np.float32(0.3), np.int8(5)), {}, (10, 13, 21)),
    "an axis": ((Q, S, Z), {"axis": 1}, (13, 21)),
    "ties": ((np.float32([0.5, 1.5, 2.5, -0.5, -1.5]), np.float32(1), np.int8(0)), {}, (13,)),
    "a type": ((Q, np.float32(0.1)), {"output_dtype": TensorProto.INT8}, (21,)),
}


@pytest.mark.parametrize(("name", "opset"), [(name, opset) for name, form in FORMS.items() for opset in form[2]])
def test_dequantised(name, opset):
    weights, attributes, _ = FORMS[name]
    same(*one("DequantizeLinear", *weights, **attributes), opset, rtol=1e-3 if name.startswith("half") else 2e-5)


@pytest.mark.parametrize(("name", "opset"), [(name, opset) for name, form in FLOATS.items() for opset in form[2]])
def test_quantised(name, opset):
    weights, attributes, _ = FLOATS[name]
    same(*one("QuantizeLinear", *weights, **attributes), opset)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bits_are_read(kind, raw):
    numbers = np.arange(15).reshape(3, 5) - (8 if kind == TensorProto.INT4 else 0)
    tensor = helper.make_tensor("w0", kind, numbers.shape, numbers.reshape(-1))
    if raw:
        data = bytes(tensor.int32_data)
        tensor = helper.make_tensor("w0", kind, numbers.shape, data, raw=True)
    model = model_of([node("DequantizeLinear", ["w0", "w1"], ["k"])], {"w1": np.float32(0.5)}, 21)
    model.graph.initializer.append(tensor)
    source = Constants().get(load(model).graph.values["k"])
    np.testing.assert_array_equal(source.array(), numbers * 0.5)


def test_arithmetic_on_a_quantised_weight_is_no_constant():
    """It would be written as floats; a vector of parameters may be."""
    scaled = [node("DequantizeLinear", ["w0", "w1"], ["d"]), node("Neg", ["d"], ["k"])]
    assert resolved(scaled, {"w0": INTS.astype(np.int8), "w1": np.float32(0.5)}) is None
    same(scaled, {"w0": np.int8([1, -2]), "w1": np.float32(0.5)})


@pytest.mark.parametrize("name", NO_CONSTANT)
def test_no_constant(name):
    *call, opset = NO_CONSTANT[name]
    nodes, weights = call[0] if len(call) == 1 else call
    assert resolved(nodes, weights, opset) is None


def test_a_comparison_is_not_decided_by_what_is_not_rounded():
    """0.1 + 0.2 == 0.3 in float32 and not in float64: behind arithmetic no comparison is a constant, behind a Cast it is."""
    weights = {"a": np.float32([0.1]), "b": np.float32([0.2]), "c": np.float32([0.3])}
    total = node("Add", ["a", "b"], ["t"])
    assert resolved([total, node("Equal", ["t", "c"], ["k"])], weights) is None
    assert resolved([total, node("Floor", ["t"], ["k"])], weights) is None
    nodes = [total, node("Cast", ["t"], ["h"], to=TensorProto.FLOAT16), node("Floor", ["h"], ["k"])]
    same(nodes, weights)


def test_a_cast_of_a_large_weight_rounds_in_blocks(monkeypatch):
    monkeypatch.setattr(computed, "_AT_ONCE", -1)
    nodes = [
        node("Mul", ["w", "w"], ["s"]),
        node("Cast", ["s"], ["h"], to=TensorProto.FLOAT16),
        node("Cast", ["h"], ["k"], to=TensorProto.FLOAT),
    ]
    source = resolved(nodes, {"w": V})
    assert source.array().dtype == np.float32
    np.testing.assert_array_equal(source.array(), (V * V).astype(np.float16).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weight_normalisation_in_blocks(data):
    """g·v / ||v|| over any axes of any shape, with blocks that end anywhere."""
    dims = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axes = sorted(data.draw(st.sets(st.integers(0, len(dims) - 1), min_size=1)))
    block = data.draw(st.integers(1, 40))
    v = np.random.default_rng(len(dims)).uniform(0.5, 2, dims).astype(np.float32)
    g = np.full([1 if i in axes else d for i, d in enumerate(dims)], 1.5, np.float32)
    nodes = [
        node("ReduceL2", ["v"], ["n"], axes=axes),
        node("Div", ["v", "n"], ["d"]),
        node("Mul", ["d", "g"], ["k"]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computed, "_AT_ONCE", data.draw(st.sampled_from([-1, 8, 1 << 16])))
        patch.setattr("normfold.model.tensors._BLOCK_ELEMENTS", block)
        values = resolved(nodes, {"v": v, "g": g}).array()
    wide = v.astype(np.float64)
    np.testing.assert_allclose(values, 1.5 * wide / np.sqrt((wide**2).sum(tuple(axes), keepdims=True)), rtol=1e-12)


def test_a_large_computation_reads_nothing_until_it_is_asked(monkeypatch):
    """No values are made for a weight that nobody folds."""
    v = np.ones((300, 300), np.float32)
    nodes = [node("ReduceL2", ["v"], ["n"], axes=[1]), node("Div", ["v", "n"], ["k"])]
    monkeypatch.setattr("normfold.model.tensors.FileTensor.array", lambda _: pytest.fail("read"))
    source = resolved(nodes, {"v": v})
    assert source.dims == (300, 300)
    assert readable(source)
    monkeypatch.undo()
    np.testing.assert_allclose(source.array(), 300**-0.5)


def test_an_expression_that_repeats_itself_is_not_followed_forever():
    """k0·k0, k1·k1, …: small as a graph, endless as an expression."""
    nodes = [node("Mul", [f"k{i}", f"k{i}"], [f"k{i + 1}"]) for i in range(200)]
    assert resolved(nodes, {"k0": np.ones((600, 600), np.float32)}, name="k200") is None
    assert resolved(nodes, {"k0": np.ones((6, 6), np.float32)}, name="k200").dims == (6, 6)


def test_constant_of_shape_holds_one_element():
    fill = numpy_helper.from_array(np.float32([3]))
    source = resolved([node("ConstantOfShape", ["s"], ["k"], value=fill)], {"s": np.int64([2**13, 2**13])})
    assert source.array().strides == (0, 0)
