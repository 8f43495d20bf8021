"""Probes: the moments that come out are those of what stands in front, however the model is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.errors import InputError
from normfold.statistics.moments import merge
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import BATCH, Form, Statistics
from normfold.statistics.probes.instrument import instrument
from normfold.statistics.subject import open_subject
from tests.check.networks import Net, images
from tests.check.sources import Arrays, batches
from tests.model.build import actual, net, node

X = images(40)
NET = Net(layers=3)


def conv_moments(model: onnx.ModelProto, layer: int, x: np.ndarray = X) -> tuple[np.ndarray, np.ndarray]:
    values = actual(model, {"x": x}, [f"conv{layer}"])[f"conv{layer}"].astype(np.float64)
    return values.mean((0, 2, 3)), values.var((0, 2, 3))


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_stored_statistics(opset: int) -> None:
    model = NET.model(opset=opset)
    found = collect(open_subject(model), batches(X))
    assert found.samples == 40 and found.batches == 3 and not found.skipped
    for layer, moments in enumerate(found.moments.values()):
        estimate = moments.estimate()
        mean, var = conv_moments(model, layer)
        np.testing.assert_allclose(estimate.mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(estimate.var, var, rtol=1e-5)
    expected = actual(model, {"x": X}, ["scores"])["scores"]
    np.testing.assert_allclose(found.outputs["scores"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 13, 17, 18])
def test_batch_statistics_are_those_of_training(opset: int) -> None:
    """One batch of everything: each layer is then normalised with exactly the statistics of the data."""
    fitted = NET.fitted(X).model(opset=opset)
    wrong = NET.with_layer(1, mean=np.full(8, 3.0), var=np.full(8, 0.2)).model(opset=opset)
    found = collect(open_subject(wrong), batches(X, 40), BATCH)
    for layer, moments in enumerate(found.moments.values()):
        mean, var = conv_moments(fitted, layer)
        np.testing.assert_allclose(moments.estimate().mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moments.estimate().var, var, rtol=1e-4)
    np.testing.assert_allclose(
        found.outputs["scores"], actual(fitted, {"x": X}, ["scores"])["scores"], rtol=1e-3, atol=1e-4
    )


def test_short_batches_have_no_statistics_of_their_own() -> None:
    found = collect(open_subject(NET.model()), batches(X), BATCH)
    assert (found.samples, found.batches) == (32, 2)
    assert collect(open_subject(NET.model()), batches(X[:5]), BATCH).samples == 5


def test_other_statistics_and_another_epsilon() -> None:
    subject = open_subject(NET.model())
    fitted = NET.fitted(X)
    given = {
        site.key: Statistics(fitted.mean[i].astype(np.float64), fitted.var[i].astype(np.float64))
        for i, site in enumerate(subject.sites)
    }
    found = collect(subject, batches(X), Form(statistics=given))
    expected = actual(fitted.model(), {"x": X}, ["scores"])["scores"]
    np.testing.assert_allclose(found.outputs["scores"], expected, rtol=1e-4, atol=1e-5)
    found = collect(subject, batches(X), Form(epsilon=0.1))
    expected = actual(replace(NET, epsilon=0.1).model(), {"x": X}, ["scores"])["scores"]
    np.testing.assert_allclose(found.outputs["scores"], expected, rtol=1e-4, atol=1e-5)


def test_training_mode_is_run_as_explicit_operators() -> None:
    model = replace(NET, training=(1,)).model()
    instrumented = instrument(open_subject(model))
    assert all(probe.mean for probe in instrumented.probes)
    found = collect(open_subject(model), batches(X, 40))
    expected = actual(model, {"x": X}, ["scores"])["scores"]
    np.testing.assert_allclose(found.outputs["scores"], expected, rtol=1e-3, atol=1e-4)


def test_shards_merge_to_one_pass() -> None:
    subject = open_subject(NET.model())
    whole = collect(subject, batches(X, 4)).moments
    for shards in (2, 5):
        parts = [
            collect(subject, batches(X, 4), wanted=lambda batch, s=s, n=shards: batch.index % n == s).moments
            for s in range(shards)
        ]
        for key, moments in whole.items():
            merged = merge([part[key] for part in parts]).estimate()
            for name in ("mean", "var", "se_mean", "se_var", "n_eff", "batch_var", "shuffling"):
                np.testing.assert_allclose(
                    getattr(merged, name), getattr(moments.estimate(), name), rtol=1e-12, atol=0, err_msg=name
                )


def dense(x_dims: list[int | str], *, elem: int = TensorProto.FLOAT, declared: bool = True) -> onnx.ModelProto:
    """A BatchNormalization behind a Relu of a matrix."""
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    weights = {name: np.linspace(0.5, 1.5, 6).astype(dtype) for name in ("gamma", "beta", "mean", "var")}
    inputs = [helper.make_tensor_value_info("x", elem, x_dims if declared else None)]
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["y"], name="bn"),
    ]
    return net(nodes, inputs, [helper.make_empty_tensor_value_info("y")], weights, elem=elem)


@pytest.mark.parametrize("form", [Form(), BATCH], ids=["stored", "batch"])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("elem", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("space", [(), (5,), (3, 4), (2, 3, 2)])
def test_every_rank_and_type(space: tuple[int, ...], elem: int, declared: bool, form: Form) -> None:
    x = np.random.default_rng(1).normal(0.5, 2, (12, 6, *space)).astype(helper.tensor_dtype_to_np_dtype(elem))
    model = dense(["N", 6, *space], elem=elem, declared=declared)
    found = collect(open_subject(model), batches(x, 4), form)
    (moments,) = found.moments.values()
    values = np.maximum(x, 0).astype(np.float64)
    axes = (0, *range(2, x.ndim))
    np.testing.assert_allclose(moments.estimate().mean, values.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(moments.estimate().var, values.var(axes), rtol=1e-5)
    assert moments.estimate().count[0] == values[:, 0].size
    if form.batch:
        scale, first = np.linspace(0.5, 1.5, 6), values[:4]
        around = first - first.mean(axes, keepdims=True)
        wide = scale.reshape(1, 6, *(1,) * len(space))
        expected = wide * around / np.sqrt(first.var(axes, keepdims=True) + 1e-5) + wide
        np.testing.assert_allclose(found.outputs["y"][:4], expected, rtol=2e-3, atol=2e-3)


def test_a_far_mean_does_not_cancel() -> None:
    """Mean 1e4 standard deviations from 0: without a shift the variance would be rounding noise (§4.1)."""
    rng = np.random.default_rng(0)
    x = (1e4 + rng.normal(size=(16, 6, 8, 8))).astype(np.float32)
    weights = {name: np.ones(6, np.float32) for name in ("gamma", "beta", "var")}
    weights["mean"] = np.full(6, 1e4 + 2, np.float32)
    model = net(
        [node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["y"])],
        {"x": ["N", 6, 8, 8]},
        ["y"],
        weights,
    )
    (moments,) = collect(open_subject(model), batches(x, 4)).moments.values()
    np.testing.assert_allclose(moments.estimate().var, x.astype(np.float64).var((0, 2, 3)), rtol=2e-5)


def test_frames_of_a_sample_are_one_unit() -> None:
    weights = {name: np.ones(6, np.float32) for name in ("gamma", "beta", "mean", "var")}
    weights["flat"] = np.array([-1, 6, 4])
    nodes = [
        node("Reshape", ["x", "flat"], ["frames"]),
        node("BatchNormalization", ["frames", "gamma", "beta", "mean", "var"], ["y"]),
    ]
    model = net(nodes, {"x": ["N", 3, 6, 4]}, ["y"], weights)
    x = np.random.default_rng(0).normal(size=(20, 3, 6, 4)).astype(np.float32)
    (moments,) = collect(open_subject(model), batches(x, 8)).moments.values()
    estimate = moments.estimate()
    assert estimate.samples == 20 and estimate.count[0] == 20 * 12
    np.testing.assert_allclose(estimate.se_mean, x.mean((1, 3)).std(0, ddof=1) / np.sqrt(20), rtol=1e-4)


def test_what_cannot_be_measured_is_said() -> None:
    """Of a weight, and with an axis 0 that is not made of samples."""
    weights = {name: np.ones(6, np.float32) for name in ("gamma", "beta", "mean", "var")}
    rest = list(weights)
    weights |= {"weight": np.ones((2, 6), np.float32), "fold": np.array([2, 6, -1])}
    nodes = [
        node("BatchNormalization", ["weight", *rest], ["w"], name="of_weight"),
        node("Reshape", ["x", "fold"], ["folded"]),
        node("BatchNormalization", ["folded", *rest], ["z"], name="odd_rows"),
        node("ReduceSum", ["w"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["out"]),
    ]
    model = net(nodes, {"x": ["N", 6, 2]}, ["out", "z"], weights)
    found = collect(open_subject(model), Arrays({"x": np.ones((5, 6, 2), np.float32)}, 5))
    assert sorted(found.skipped.values()) == [
        "its input does not depend on an input of the model",
        "its input has 2 rows of 5 values for 5 samples",
    ]
    assert not found.moments


def test_one_line_says_why_the_model_does_not_run() -> None:
    wrong = np.zeros((4, 5, 8, 8), np.float32)
    with pytest.raises(InputError) as error:
        collect(open_subject(NET.model()), batches(wrong, 4))
    assert error.value.code == "data.run" and "\n" not in str(error.value)


def test_external_data_is_read_where_it_lies(tmp_path) -> None:
    model = NET.model()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    before = {path.name for path in tmp_path.iterdir()}
    here = collect(open_subject(tmp_path / "m.onnx"), batches(X))
    there = collect(open_subject(NET.model()), batches(X))
    np.testing.assert_array_equal(here.outputs["scores"], there.outputs["scores"])
    assert {path.name for path in tmp_path.iterdir()} == before
