"""L0 and L3: whole models against their interface and their own noise floor."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.errors import InputError, UsageError
from normfold.verification import Status, VerifyOptions, noise, verify_models

from .builders import model, net


def node(kind, *names, **attrs):
    *inputs, output = names
    return helper.make_node(kind, inputs, [output], **attrs)


@pytest.fixture
def compare(tmp_path):
    def run(before, after, options=None, **kw):
        paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
        for path, one in zip(paths, (before, after), strict=True):
            onnx.save(one, path)
        return verify_models(*paths, options or VerifyOptions(), **kw)

    return run


@pytest.mark.parametrize("depth", [5, 20, 50])
def test_correct_fold_passes_at_every_depth(compare, depth):
    verdict = compare(net(depth), net(depth, folded=True))
    assert verdict.status is Status.PASS, verdict
    assert verdict.level == "L3"
    assert verdict.coverage == 1
    assert verdict.outputs[0].cosine > 0.999999


@pytest.mark.parametrize("depth", [5, 20, 50])
def test_one_wrong_epsilon_fails_at_every_depth(compare, depth):
    verdict = compare(net(depth), net(depth, folded=True, bug_at=depth // 2))
    assert verdict.status is Status.FAIL
    assert verdict.outputs[0].ratio > 10


def test_verdict_is_json(compare):
    verdict = compare(net(2), net(2, folded=True))
    assert json.loads(json.dumps(dataclasses.asdict(verdict), allow_nan=False))["status"] == "PASS"
    assert len({str(shapes) for shapes in verdict.settings.shapes}) >= 2
    assert verdict.settings.seeds == (0, 1, 2)


def two_outputs(names=("y", "z"), kinds=("Relu", "Neg"), dims=("N", 3)):
    nodes = [node(kind, "x", name) for kind, name in zip(kinds, names, strict=True)]
    return model(nodes, [("x", list(dims))], [(name, list(dims)) for name in names], {})


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (model([node("Relu", "x", "y")], [("x", ["N", 3])], [("y", ["N", 3])], {}), "'z' is missing"),
        (two_outputs(("y", "w")), "'z' is missing"),
        (two_outputs(("z", "y"), ("Neg", "Relu")), "order"),
        (two_outputs(dims=("M", 3)), "shape"),
        (two_outputs(dims=(1, 3)), "shape"),
    ],
    ids=["dropped", "renamed", "reordered", "symbol", "fixed"],
)
def test_changed_interface_fails_at_l0(compare, after, said):
    verdict = compare(two_outputs(), after)
    assert (verdict.status, verdict.level) == (Status.FAIL, "L0")
    assert said in verdict.reason


def test_changed_element_type_fails_at_l0(compare):
    half = model([node("Relu", "x", "y")], [("x", [2])], [("y", [2])], {}, elem=TensorProto.FLOAT16)
    full = model([node("Relu", "x", "y")], [("x", [2])], [("y", [2])], {})
    assert "FLOAT16" in compare(half, full).reason


def test_frozen_input_may_disappear(compare):
    nodes, weights = [node("Mul", "x", "w", "y")], {"w": np.full(3, 2.0)}
    before = model(nodes, [("x", ["N", 3]), ("w", [3])], [("y", ["N", 3])], weights)
    after = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], weights)
    assert compare(before, after).status is Status.FAIL
    assert compare(before, after, frozen=frozenset({"w"})).status is Status.PASS


def test_candidate_that_does_not_run_fails(compare):
    before = model([node("Identity", "x", "y")], [("x", ["N", 3])], [("y", None)], {})
    after = model([node("Reshape", "x", "s", "y")], [("x", ["N", 3])], [("y", None)], {"s": np.array([7])})
    verdict = compare(before, after)
    assert verdict.status is Status.FAIL
    assert "candidate does not" in verdict.reason


def test_original_that_does_not_run_is_inconclusive(compare):
    one = model([helper.make_node("Nothing", ["x"], ["y"], domain="ai.example")], [("x", [2])], [("y", [2])], {})
    one.opset_import.append(helper.make_opsetid("ai.example", 1))
    verdict = compare(one, one)
    assert verdict.status is Status.INCONCLUSIVE
    assert "does not run here (load)" in verdict.reason


def test_all_nan_is_not_a_pass(compare):
    one = model([node("Mul", "x", "w", "y")], [("x", ["N", 3])], [("y", ["N", 3])], {"w": np.full(3, np.nan)})
    verdict = compare(one, one)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.coverage == 0


def test_new_nan_fails(compare):
    before = model([node("Relu", "x", "y")], [("x", ["N", 30])], [("y", ["N", 30])], {})
    nodes = [node("Sqrt", "x", "s"), node("Mul", "s", "s", "y")]
    assert compare(before, model(nodes, [("x", ["N", 30])], [("y", ["N", 30])], {})).status is Status.FAIL


def test_random_model_is_seeded(compare):
    nodes = [node("RandomNormalLike", "x", "r"), node("Add", "x", "r", "s"), node("Mul", "s", "w", "y")]
    one = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], {"w": np.ones(3)})
    other = model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], {"w": np.full(3, 1.01)})
    assert compare(one, one).status is Status.PASS
    assert compare(one, other).status is Status.FAIL


def embedding(scale=1.0, ids="ids"):
    nodes = [node("Gather", "T", ids, "y")]
    table = np.random.default_rng(0).standard_normal((4, 3)) * scale
    info = helper.make_tensor_value_info(ids, TensorProto.INT64, ["N", "S"])
    return model(nodes, [info], [("y", None)], {"T": table})


def test_integer_inputs_stay_in_range(compare):
    assert compare(embedding(), embedding()).status is Status.PASS
    assert compare(embedding(), embedding(1.01)).status is Status.FAIL


def test_float_table_change_within_one_rounding_passes(compare):
    assert compare(embedding(), embedding(1 + 2.0**-24)).status is Status.PASS


def argmax(shift):
    weights = {"w": np.ones(4), "b": np.array([0, shift, 0, 0], float)}
    nodes = [node("Mul", "x", "w", "s"), node("Add", "s", "b", "t"), node("ArgMax", "t", "y", axis=1)]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 1])
    return model(nodes, [("x", ["N", 4])], [output], weights)


def test_flipped_argmax_is_accepted_only_inside_the_margin(compare):
    tie = np.array([[1.0, 1.0, 0.0, 0.0]], np.float32)
    options = VerifyOptions(inputs={"x": tie})
    verdict = compare(argmax(0), argmax(2.0**-23), options)
    assert verdict.status is Status.PASS, verdict
    assert "flipped" in verdict.outputs[0].reason
    assert compare(argmax(0), argmax(0.1), options).status is Status.FAIL


def test_deep_argmax_passes(compare):
    verdict = compare(net(20, head="argmax"), net(20, head="argmax", folded=True))
    assert verdict.status is Status.PASS, verdict


def test_integer_outputs_are_exact(compare):
    def one(k):
        info = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", 3]) for n in ("x", "y")]
        return model([node("Add", "x", "k", "y")], info[:1], info[1:], {"k": np.array(k)})

    assert compare(one(1), one(1)).status is Status.PASS
    assert compare(one(1), one(2)).status is Status.FAIL


def test_user_tolerance_replaces_the_noise_floor(compare):
    a, b = embedding(), embedding(1.01)
    assert compare(a, b, VerifyOptions(rtol={"y": 0.1})).status is Status.PASS
    assert compare(a, b, VerifyOptions(atol={"": 1e-9})).status is Status.FAIL


def test_user_inputs(compare):
    one = net(1)
    data = [np.zeros((1, 8, 9, 9), np.float32), np.ones((2, 8, 5, 5), np.float32)]
    verdict = compare(one, one, VerifyOptions(inputs={"x": data}))
    assert verdict.settings.shapes == ({"x": (1, 8, 9, 9)}, {"x": (2, 8, 5, 5)})
    assert not verdict.settings.random_inputs
    shaped = compare(one, one, VerifyOptions(shapes={"x": (1, 8, 4, 6)}))
    assert shaped.settings.shapes[0] == {"x": (1, 8, 4, 6)}
    for bad in (
        VerifyOptions(inputs={"nope": data}),
        VerifyOptions(inputs={"x": np.zeros((1, 9, 2, 2), np.float32)}),
        VerifyOptions(inputs={"x": np.zeros((1, 8, 2, 2), np.int64)}),
        VerifyOptions(shapes={"x": (1, 8)}),
    ):
        with pytest.raises(UsageError):
            compare(one, one, bad)


def test_small_inputs_that_do_not_fit_are_enlarged(compare):
    """Four unpadded poolings of 2 need at least 16 pixels."""
    nodes, x = [], "x"
    for i in range(4):
        nodes.append(node("MaxPool", x, f"p{i}", kernel_shape=[2, 2], strides=[2, 2]))
        x = f"p{i}"
    nodes.append(node("Conv", x, "W", "y", kernel_shape=[2, 2]))
    one = model(nodes, [("x", ["N", 3, "H", "W_"])], [("y", None)], {"W": np.ones((2, 3, 2, 2))})
    verdict = compare(one, one)
    assert verdict.status is Status.PASS
    assert min(verdict.settings.shapes[0]["x"][2:]) >= 32


def test_bug_only_at_batch_above_one_is_found(compare):
    before = model([node("Identity", "x", "y")], [("x", ["N", 3])], [("y", ["N", 3])], {})
    cut = {"b": np.array([0]), "e": np.array([1]), "a": np.array([0])}
    nodes = [node("Slice", "x", "b", "e", "a", "f"), node("Shape", "x", "s"), node("Expand", "f", "s", "y")]
    assert compare(before, model(nodes, [("x", ["N", 3])], [("y", ["N", 3])], cut)).status is Status.FAIL


def test_external_data_stay_where_they_are(tmp_path):
    for name, one in (("a", net(3)), ("b", net(3, folded=True))):
        onnx.save(one, tmp_path / f"{name}.onnx", save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    verdict = verify_models(tmp_path / "a.onnx", tmp_path / "b.onnx", VerifyOptions())
    assert verdict.status is Status.PASS, verdict
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_and_damaged_files(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01nothing")
    with pytest.raises(InputError, match="no such file"):
        verify_models(tmp_path / "none.onnx", tmp_path / "none.onnx", VerifyOptions())
    with pytest.raises(InputError, match="not an ONNX model"):
        verify_models(tmp_path / "bad.onnx", tmp_path / "bad.onnx", VerifyOptions())


def test_model_without_weights_jitters_its_inputs(compare):
    before = model([node("Sigmoid", "x", "y")], [("x", ["N", 9])], [("y", ["N", 9])], {})
    nodes = [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Sub", "e", "m", "d"), node("Reciprocal", "d", "y")]
    after = model(nodes, [("x", ["N", 9])], [("y", ["N", 9])], {"m": np.float32(-1)})
    assert compare(before, after).status is Status.PASS


def test_training_form_that_crashes_the_runtime_is_not_run(compare):
    weights = {name: np.ones(3) for name in ("g", "b", "m", "v")}
    nodes = [helper.make_node("BatchNormalization", ["x", *weights], ["y", "", "z"], training_mode=1, name="bn")]
    one = model(nodes, [("x", ["N", 3])], [("y", ["N", 3]), ("z", [3])], weights, opset=15)
    verdict = compare(one, one)
    assert verdict.status is Status.INCONCLUSIVE
    assert "crashes" in verdict.reason


def test_noise_floor_of_a_share_of_the_weights_is_scaled_and_said(compare, monkeypatch):
    monkeypatch.setattr(noise, "_BUDGET", 9000)
    good = compare(net(20), net(20, folded=True))
    assert good.status is Status.PASS
    assert any("of the weights" in warning for warning in good.warnings)
    assert compare(net(20), net(20, folded=True, bug_at=4)).status is Status.FAIL


def test_inputs_of_a_failure_are_kept(compare, tmp_path):
    compare(embedding(), embedding(1.01), VerifyOptions(keep_repro=tmp_path / "repro"))
    kept = sorted(path.name for path in (tmp_path / "repro").iterdir())
    assert kept == ["command.txt", "inputs0.npz", "inputs1.npz", "inputs2.npz"]


@pytest.mark.parametrize(("threshold", "scale"), [(0.0, 1.0), (40.0, 1.0)])
def test_a_model_that_answers_only_to_pixels_is_asked_with_pixels(compare, threshold, scale):
    """N(0, 1) never passes a threshold of 40; values of 0 to 255 do, and then a wrong scale shows."""
    weights = {"t": np.float32([threshold]), "s": np.float32([scale])}
    wrong = {**weights, "s": np.float32([scale * 1.01])}
    nodes = [node("Sub", "x", "t", "d"), node("Relu", "d", "r"), node("Mul", "r", "s", "y")]
    build = lambda given: model(nodes, [("x", ("N", 7))], [("y", ("N", 7))], given)  # noqa: E731
    assert compare(build(weights), build(weights)).status is Status.PASS
    assert compare(build(weights), build(wrong)).status is Status.FAIL
