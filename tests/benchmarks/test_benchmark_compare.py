"""The judge of the peers: right for a correct fold, wrong for everything else that a folder can get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.generate.small import BUILDERS
from benchmarks.measure.compare import compare, judge_output, worst
from benchmarks.measure.jitter import jitter_weights, nudge
from benchmarks.measure.reference import Reference, Trial, difference, reference, stepped


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return BUILDERS["conv_norm"](0)


@pytest.fixture(scope="module")
def expected(original: onnx.ModelProto) -> Reference:
    return reference(original, seeds=2)


def folded(model: onnx.ModelProto, epsilon: float = 1e-5) -> onnx.ModelProto:
    """The textbook fold of Conv → BatchNormalization → Relu."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    W, gamma, beta, mean, variance = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    scale = gamma / np.sqrt(variance + epsilon)
    conv, norm, relu = result.graph.node
    weights = {"W": W * scale[:, None, None, None], "b": beta - mean * scale}
    result.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    conv.input[1:] = ["W", "b"]
    relu.input[0] = conv.output[0]
    result.graph.node.remove(norm)
    return result


def test_the_original_is_right(original: onnx.ModelProto, expected: Reference) -> None:
    assert compare(expected, original.SerializeToString()).word == "right"


def test_a_correct_fold_is_right(original: onnx.ModelProto, expected: Reference) -> None:
    assert compare(expected, folded(original).SerializeToString()).word == "right"


def test_a_fold_with_another_epsilon_is_wrong(original: onnx.ModelProto, expected: Reference) -> None:
    verdict = compare(expected, folded(original, epsilon=1e-3).SerializeToString())
    assert verdict.word == "wrong"
    assert verdict.worst > 10
    assert "off by" in verdict.why


def test_a_renamed_output_is_wrong(original: onnx.ModelProto, expected: Reference) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(original)
    renamed.graph.output[0].name = renamed.graph.node[-1].output[0] = "other"
    assert compare(expected, renamed.SerializeToString()).why == "outputs changed"


def test_a_fixed_batch_is_wrong(original: onnx.ModelProto, expected: Reference) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(original)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert "does not run" in compare(expected, fixed.SerializeToString()).why


def test_a_reference_survives_its_file(expected: Reference, tmp_path: Path) -> None:
    expected.save(tmp_path / "reference.npz")
    again = Reference.load(tmp_path / "reference.npz")
    assert (again.inputs, again.outputs) == (expected.inputs, expected.outputs)
    assert [trial.noise for trial in again.trials] == [trial.noise for trial in expected.trials]
    assert np.array_equal(again.trials[-1].outputs[0], expected.trials[-1].outputs[0])


def test_a_reference_covers_two_shapes_and_all_seeds(expected: Reference) -> None:
    assert [trial.outputs[0].shape[0] for trial in expected.trials] == [1, 1, 2, 2]


def test_the_noise_floor_is_above_zero(expected: Reference) -> None:
    assert all(0 < trial.noise[0] < 1e-4 for trial in expected.trials)


@pytest.mark.parametrize(("delta", "word"), [(0.0, "right"), (3e-3, "right"), (6e-3, "suspect"), (9e-3, "wrong")])
def test_the_lines_are_at_four_and_eight_times_the_noise(delta: float, word: str) -> None:
    y = np.ones(4, np.float32)
    assert judge_output(y, (y + np.float32(delta)), noise=1e-3).word == word


def test_integers_have_no_tolerance_but_their_noise() -> None:
    y = np.array([1, 2])
    assert judge_output(y, y, noise=0.0).word == "right"
    assert judge_output(y, y + 1, noise=0.0).word == "wrong"


def test_nan_and_infinity_are_compared_by_place() -> None:
    a = np.array([np.nan, np.inf, 1.0])
    assert difference(a, a) == 0
    assert difference(a, np.array([1.0, np.inf, 1.0])) == np.inf
    assert difference(a, np.array([np.nan, -np.inf, 1.0])) == np.inf
    assert difference(np.ones(3), a) == np.inf


def test_shape_and_type_belong_to_the_answer() -> None:
    assert difference(np.ones(3), np.ones((3, 1))) == np.inf
    assert difference(np.ones(3), np.ones(3, np.float32)) == np.inf


def test_the_worst_verdict_counts() -> None:
    y = np.ones(1, np.float32)
    assert worst([judge_output(y, y, 0), judge_output(y, y + 1, 0), judge_output(y, y, 0)]).word == "wrong"


def test_a_nudge_is_one_ulp_and_keeps_zeros() -> None:
    array = np.array([0.0, 1.0, -3.0], np.float32)
    moved = nudge(array, np.random.default_rng(0))
    assert moved[0] == 0
    assert np.all(np.abs(moved[1:] - array[1:]) <= np.spacing(np.abs(array[1:])))
    assert np.all(moved[1:] != array[1:])


def test_jitter_leaves_the_scales_of_a_resize() -> None:
    model = BUILDERS["through_concat"](0)
    moved, count = jitter_weights(model, 0)
    scales = next(node.input[2] for node in model.graph.node if node.op_type == "Resize")
    pairs = zip(model.graph.initializer, moved.graph.initializer, strict=True)
    kept = [before.name for before, after in pairs if before.raw_data == after.raw_data]
    assert kept == [scales]
    assert count == len(model.graph.initializer) - 1


def test_the_noise_of_a_quantised_model_is_pooled_and_at_least_one_step() -> None:
    y = np.array([0.0, 0.5, 2.0], np.float32)
    quiet, loud = Trial({}, [y], [0.0]), Trial({}, [y], [3.0])
    assert [trial.noise for trial in stepped([quiet, quiet])] == [[0.5], [0.5]]
    assert [trial.noise for trial in stepped([quiet, loud])] == [[3.0], [3.0]]
    assert stepped([Trial({}, [np.array([1, 2])], [0.0])])[0].noise == [0.0]
