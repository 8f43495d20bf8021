"""Which nodes are evaluated: those between what is given and what is wanted, and no others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.norm.evaluate import Evaluator, Unknown
from tests.model.build import net, node
from tests.norm.evaluating import evaluated, model_of

X = np.arange(6.0).reshape(2, 3)


def planned(model, outputs, given):
    values = load(model).graph.values
    return Evaluator(Constants()).plan([values[name] for name in outputs], {values[name] for name in given})


def test_nothing_behind_what_is_given_is_evaluated():
    nodes = [node("Erf", ["x"], ["u"]), node("Neg", ["u"], ["v"]), node("Abs", ["v"], ["y"]), node("Erf", ["y"], ["z"])]
    model = model_of(nodes, {"x": X}, ["z"])
    assert [n.op_type for n in planned(model, ["y"], ["v"]).nodes] == ["Abs"]
    np.testing.assert_array_equal(evaluated(model, {"x": X}, ["y"], given={"v": -X})[0], X)
    with pytest.raises(Unknown, match="Erf"):
        planned(model, ["y"], ["x"])


def test_what_is_given_is_an_answer_as_well():
    model = model_of([node("Neg", ["x"], ["y"])], {"x": X}, ["y"])
    assert [a.tolist() for a in evaluated(model, {"x": X}, ["x", "y", "x"])] == [X.tolist(), (-X).tolist(), X.tolist()]


def test_a_node_is_evaluated_once_however_often_it_is_read():
    nodes = [node("Neg", ["x"], ["a"]), node("Mul", ["a", "a"], ["b"]), node("Add", ["b", "a"], ["y"])]
    model = model_of(nodes, {"x": X}, ["y"])
    assert [n.op_type for n in planned(model, ["y", "a", "y"], ["x"]).nodes] == ["Neg", "Mul", "Add"]
    y, a = evaluated(model, {"x": X}, ["y", "a"])
    np.testing.assert_array_equal(a, -X)
    np.testing.assert_array_equal(y, X * X - X)


def test_a_long_chain_needs_no_stack():
    names = ["x", *(f"t{i}" for i in range(5000))]
    nodes = [node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    np.testing.assert_array_equal(evaluated(model_of(nodes, {"x": X}, [names[-1]]), {"x": X}, [names[-1]])[0], X)


def test_a_value_that_comes_from_outside_is_named():
    model = model_of([node("Add", ["x", "other"], ["y"])], {"x": X, "other": X}, ["y"])
    with pytest.raises(Unknown, match="'other' is no constant"):
        planned(model, ["y"], ["x"])


def test_an_initializer_that_a_caller_may_override_is_no_constant():
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("x", "k")]
    model = net([node("Add", ["x", "k"], ["y"])], infos, ["y"], {"k": np.ones(3, np.float32)})
    with pytest.raises(Unknown, match="'k'"):
        planned(model, ["y"], ["x"])


def test_a_shape_in_front_of_a_cast_is_that_behind_it():
    nodes = [
        node("Cast", ["x16"], ["x"], to=TensorProto.FLOAT),
        node("Shape", ["x16"], ["s"]),
        node("Flatten", ["x"], ["f"], axis=0),
        node("Reshape", ["f", "s"], ["y"]),
    ]
    model = model_of(nodes, {"x16": X.astype(np.float16)}, ["y"])
    np.testing.assert_array_equal(evaluated(model, {}, ["y"], given={"x": X})[0], X)


def test_data_in_front_of_a_cast_is_not_what_is_behind_it():
    nodes = [node("Cast", ["i"], ["x"], to=TensorProto.FLOAT), node("Cast", ["i"], ["y"], to=TensorProto.DOUBLE)]
    model = model_of(nodes, {"i": np.int64([1, 2])}, ["y", "x"])
    with pytest.raises(Unknown, match="'i'"):
        planned(model, ["y"], ["x"])


def test_a_plan_runs_on_any_shape():
    nodes = [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"]), node("Sub", ["z", "x"], ["y"])]
    model = model_of(nodes, {"x": X}, ["y"])
    values = load(model).graph.values
    plan = Evaluator(Constants()).plan([values["y"]], {values["x"]})
    for shape in ((1,), (2, 3), (4, 1, 2), ()):
        np.testing.assert_array_equal(plan.run({values["x"]: np.ones(shape)})[0], -np.ones(shape))


def test_a_function_of_the_model_is_not_taken_for_an_operator_of_that_name():
    imports = [helper.make_opsetid("", 17)]
    body = helper.make_function(
        "com.microsoft", "GroupNorm", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], imports
    )
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    call = node("GroupNorm", ["x"], ["y"], domain="com.microsoft")
    model = net([call], infos, ["y"], functions=[body], domains=("com.microsoft",))
    with pytest.raises(Unknown, match="GroupNorm"):
        planned(model, ["y"], ["x"])


def test_a_missing_data_file_is_said(tmp_path):
    import onnx

    weights = {"k": np.ones(2000, np.float32)}
    model = net([node("Add", ["x", "k"], ["y"])], {"x": [2000]}, ["y"], weights)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(Unknown, match="'k' cannot be read"):
        planned(path, ["y"], ["x"])
