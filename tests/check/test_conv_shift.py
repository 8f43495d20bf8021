"""The shift of a probe in the bias of a convolution: the same moments and answers, and one operator less."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.model.write import write_to_run
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import BATCH, STORED, Form, Statistics
from normfold.statistics.probes.instrument import instrument
from normfold.statistics.subject import Subject, open_subject
from tests.check.sources import batches
from tests.model.build import actual, net, node

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(12, 3, 5, 4)) + 1).astype(np.float32)
MEAN = np.array([40.0, -3.0], np.float32)


def model(*, bias: bool = True, transposed: bool = False, read_twice: bool = False) -> onnx.ModelProto:
    weight = RNG.normal(size=(3, 2, 3, 3) if transposed else (2, 3, 3, 3)).astype(np.float32)
    constants = {
        "w": weight, "b": np.array([41.0, -2.0], np.float32), "gamma": np.array([1.5, -0.5], np.float32),
        "beta": np.array([0.1, 0.2], np.float32), "mean": MEAN, "var": np.array([4.0, 2.0], np.float32),
    }  # fmt: skip
    if not bias:
        del constants["b"]
    conv = node("ConvTranspose" if transposed else "Conv", ["x", "w", *(["b"] if bias else [])], ["c"], name="conv")
    nodes = [conv, node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], name="bn")]
    nodes.append(node("Add", ["n", "c"], ["y"]) if read_twice else node("Relu", ["n"], ["y"]))
    return net(nodes, {"x": ("N", 3, 5, 4)}, {"y": None}, constants)


def operators(subject: Subject, folder, form: Form = STORED) -> Counter[str]:
    write_to_run(instrument(subject, form).candidate, folder / "probed.onnx")
    return Counter(n.op_type for n in onnx.load(folder / "probed.onnx").graph.node)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_convolution_takes_the_shift(bias: bool, transposed: bool, tmp_path) -> None:
    proto = model(bias=bias, transposed=transposed)
    subject = open_subject(proto)
    found = collect(subject, batches(X, 4))
    (moments,) = found.moments.values()
    values = actual(proto, {"x": X}, ["c"])["c"].astype(np.float64)
    np.testing.assert_allclose(moments.estimate().mean, values.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(moments.estimate().var, values.var((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.outputs["y"], actual(proto, {"x": X}, ["y"])["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.shift, MEAN, rtol=1e-6)
    assert operators(subject, tmp_path)["Sub"] == 0


def test_what_is_read_elsewhere_stays_as_it_is(tmp_path) -> None:
    proto = model(read_twice=True)
    subject = open_subject(proto)
    found = collect(subject, batches(X, 4))
    np.testing.assert_allclose(found.outputs["y"], actual(proto, {"x": X}, ["y"])["y"], rtol=1e-5, atol=1e-5)
    assert operators(subject, tmp_path)["Sub"] == 1


@pytest.mark.parametrize("form", ["statistics", "epsilon", "batch"])
def test_every_form_of_the_normalisation_follows(form: str) -> None:
    proto = model()
    subject = open_subject(proto)
    (site,) = subject.sites
    values = actual(proto, {"x": X}, ["c"])["c"].astype(np.float64)
    mean, var, epsilon = values.mean((0, 2, 3)), values.var((0, 2, 3)), 1e-5
    wanted = Form(statistics={site.key: Statistics(mean, var)})
    if form == "epsilon":
        wanted, mean, var, epsilon = Form(epsilon=0.5), site.mean, site.var, 0.5
    elif form == "batch":
        wanted = BATCH
    found = collect(subject, batches(X, len(X)), wanted)
    column = (-1, 1, 1)
    scale = (site.gamma / np.sqrt(var + epsilon)).reshape(column)
    expected = np.maximum((values - mean.reshape(column)) * scale + np.array([0.1, 0.2]).reshape(column), 0)
    np.testing.assert_allclose(found.outputs["y"], expected, rtol=1e-4, atol=1e-4)


def test_a_bias_that_a_caller_may_override_is_left_alone(tmp_path) -> None:
    proto = model()
    for tensor in proto.graph.initializer:
        if tensor.name == "b":
            proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]))
    assert operators(open_subject(proto), tmp_path)["Sub"] == 1
