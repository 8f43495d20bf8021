"""Every operator that works channels-last: turned, between Transposes, it makes the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from normfold.surgery.layout.operators import TO_FIRST, TO_LAST, Facts, Numbers, Passage, passage
from tests.model.build import run, viewed
from tests.support import build
from tests.surgery.raising import assert_same_bits, values

IMAGE = "float[2,4,6,5] x"
CHANNEL = {"c": values(4, 1, 1, seed=1)}
FULL = {"c": values(2, 4, 6, 5, seed=1)}
SMALL = np.array(0.3, np.float32)


def found(model: ModelProto) -> Passage | None:
    loaded, constants, shapes = viewed(model)
    return passage(loaded.graph.nodes[0], Facts(constants, shapes))


def turned(model: ModelProto, how: Passage) -> ModelProto:
    """The first node as it works channels-last, between Transposes."""
    result = ModelProto()
    result.CopyFrom(model)
    node = result.graph.node[0]
    inputs, before = list(node.input), []
    for slot in how.slots:
        before.append(helper.make_node("Transpose", [inputs[slot]], [f"{inputs[slot]}.{slot}"], perm=TO_LAST))
        inputs[slot] = before[-1].output[0]
    for slot, constant in how.constants.items():
        name = f"{inputs[slot]}.new"
        values_ = constant.values if isinstance(constant, Numbers) else constant.source.array()
        dtype = helper.tensor_dtype_to_np_dtype(constant.data_type)
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(values_, dtype), name))
        inputs[slot] = name
    kept: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    outputs = [f"{name}.last" for name in node.output]
    new = helper.make_node(node.op_type, inputs, outputs, **{**kept, **how.attributes})
    after = [helper.make_node("Transpose", [f"{name}.last"], [name], perm=TO_FIRST) for name in node.output]
    del result.graph.node[:]
    result.graph.node.extend([*before, new, *after])
    return result


# Text, opset, constants, names of the outputs.
OPERATORS = [
    ("Relu(x)", 13, {}),
    ("Clip<min=-0.5, max=0.5>(x)", 9, {}),
    ("Clip(x, low)", 13, {"low": SMALL}),
    ("Dropout(x)", 13, {}),
    ("HardSigmoid<alpha=0.3>(x)", 13, {}),
    ("Cast<to=11>(x)", 13, {}),
    ("Mul(x, c)", 13, CHANNEL),
    ("Sub(c, x)", 13, FULL),
    ("Div(x, c)", 13, {"c": values(1, 1, 1, seed=2) + 3}),
    ("Pow(x, c)", 13, {"c": np.array([2.0], np.float32)}),
    ("Add(x, x)", 13, {}),
    ("Sum(x, c, x)", 13, CHANNEL),
    ("Max(x, c)", 13, {"c": values(6, 1, seed=3)}),
    ("PRelu(x, c)", 13, CHANNEL),
    ("Concat<axis=1>(x, x)", 13, {}),
    ("Concat<axis=-1>(x, c, x)", 13, FULL),
    ("Concat<axis=0>(x, c)", 13, FULL),
    ("Concat<axis=2>(x, x)", 13, {}),
    ("Split<axis=1>(x)", 13, {}),
    ("Split<axis=-2>(x, c)", 13, {"c": np.array([2, 4])}),
    ("Split(x)", 13, {}),
    ("Pad<pads=[0,1,2,0,0,0,1,3], value=2.5>(x)", 9, {}),
    ("Pad(x, c)", 13, {"c": np.array([0, 0, 1, 2, 0, 1, 0, 3])}),
    ('Pad<mode="reflect">(x, c)', 13, {"c": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    ("Upsample<scales=[1.0,1.0,2.0,3.0]>(x)", 7, {}),
    ("Upsample(x, c)", 9, {"c": np.array([1, 1, 2, 1.5], np.float32)}),
    ("Resize(x, c)", 10, {"c": np.array([1, 1, 0.5, 2], np.float32)}),
    ("Resize(x, r, c)", 11, {"c": np.array([1, 1, 2, 3], np.float32), "r": np.zeros(0, np.float32)}),
    ("Resize(x, , , c)", 13, {"c": np.array([2, 4, 9, 10])}),
    (
        "Resize(x, r, e, c)",
        11,
        {"c": np.array([2, 4, 9, 10]), "r": np.zeros(0, np.float32), "e": np.zeros(0, np.float32)},
    ),
]


@pytest.mark.parametrize(("text", "opset", "init"), OPERATORS, ids=[f"{t}-{o}" for t, o, _ in OPERATORS])
def test_turned_operators(text: str, opset: int, init: dict[str, np.ndarray]) -> None:
    count = 2 if text.startswith("Split") else 1
    names = ", ".join(f"y{index}" for index in range(count))
    model = build(f"{names} = {text}", IMAGE, names, init, opset=opset)
    how = found(model)
    assert how is not None
    data = {"x": np.abs(values(2, 4, 6, 5))}
    for before, after in zip(run(model, data), run(turned(model, how), data), strict=True):
        assert_same_bits(before, after, text)


BARE = {"k": np.array([1, 1, 2, 2], np.float32)}


@pytest.mark.parametrize(
    ("text", "inputs", "init"),
    [
        ("MaxPool<kernel_shape=[2,2]>(x)", IMAGE, {}),
        ("Relu(x)", "float[2,4,6] x", {}),
        ("Relu(x)", "float[2,4,6,5,1] x", {}),
        ("Add(x, v)", f"{IMAGE}, float[5] v", {}),
        ("Add(x, v)", f"{IMAGE}, float[2,4,6,1,5] v", {}),
        ("Where(m, x, x)", IMAGE, {"m": np.ones((4, 1, 1), bool)}),
        ("Clip(x, low)", f"{IMAGE}, float[A] low", {}),
        ('Resize<mode="linear">(x, , k)', IMAGE, BARE),
        (
            'Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, k)',
            IMAGE,
            {"r": np.ones(8, "float32"), **BARE},
        ),
        ("Resize<axes=[2,3]>(x, , k)", IMAGE, {"k": np.array([2, 2], np.float32)}),
        ("Resize(x, , k)", f"{IMAGE}, float[4] k", {}),
        ("Pad(x, p)", f"{IMAGE}, int64[8] p", {}),
        ("Pad(x, p, , a)", IMAGE, {"p": np.array([1, 1, 1, 1]), "a": np.array([2, 3])}),
        ("Conv(x, w)", f"{IMAGE}, float[3,4,1,1] w", {}),
        ("Conv(x, w)", "double[2,4,6,5] x", {"w": values(3, 4, 1, 1, dtype=np.float64)}),
        ("Conv(x, w)", "float[2,4,6] x", {"w": values(3, 4, 1)}),
        ("Concat<axis=1>(x, c)", "int32[2,4,6,5] x", {"c": np.ones((2, 4, 6, 5), np.int32)}),
        ("Concat<axis=1>(c, c)", IMAGE, FULL),
    ],
)
def test_what_stays(text: str, inputs: str, init: dict[str, np.ndarray]) -> None:
    kind = inputs.split("[")[0]
    assert found(build(f"y = {text}", inputs, f"{kind}[] y", init, opset=18)) is None
    assert found(build("y = Relu(x)", IMAGE, opset=18)) is not None


def test_a_convolution_is_written_out() -> None:
    weight = values(6, 2, 3, 1)
    text = "y = Conv<group=2, strides=[2,1], pads=[1,0,1,0]>(x, w, b)"
    how = found(build(text, IMAGE, init={"w": weight, "b": values(6)}, opset=13))
    assert how is not None
    assert (how.op_type, how.domain, how.slots) == ("NhwcConv", "com.microsoft", (0,))
    assert how.attributes == {"kernel_shape": [3, 1]}
    assert set(how.constants) == {1}
    np.testing.assert_array_equal(how.constants[1].source.array(), weight.transpose(0, 2, 3, 1))


def test_a_mask_that_is_asked_for_keeps_a_dropout_where_it_is() -> None:
    model = build("y, m = Dropout(x)", IMAGE, "float[2,4,6,5] y, bool[2,4,6,5] m", opset=13)
    assert found(model) is None
