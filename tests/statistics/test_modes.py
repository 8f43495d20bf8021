"""M01 to M03: the mode of a BatchNormalization, per opset, and what it may mean."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from tests.statistics.build import examine, found
from tests.support import batch_norm, build, random

C = 4


def norm(node: str, opset: int = 17, **options: object) -> ModelProto:
    dims = "float[N,4,8,8]"
    return build(node, f"{dims} x", f"{dims} y", batch_norm(C, sign=False), opset=opset, **options)  # type: ignore[arg-type]


TRAINING = [
    pytest.param("y = BatchNormalization(x, g, b, m, v)", 6, id="opset 6 without is_test"),
    pytest.param("y = BatchNormalization<is_test: int = 0>(x, g, b, m, v)", 6, id="opset 6 with is_test 0"),
    pytest.param("y, rm, rv, sm, sv = BatchNormalization(x, g, b, m, v)", 9, id="opset 9 with five outputs"),
    pytest.param("y, rm, rv = BatchNormalization<training_mode: int = 1>(x, g, b, m, v)", 15, id="opset 15"),
    pytest.param("y, rm, rv = BatchNormalization(x, g, b, m, v)", 15, id="outputs without the attribute"),
]


@pytest.mark.parametrize(("node", "opset"), TRAINING)
def test_training_mode_is_an_error(node: str, opset: int) -> None:
    model = norm(node, opset)
    (finding,) = found(model, "M01")
    assert finding.severity == "error"
    report = examine(model)
    assert report.verdict == "fail"
    assert report.findings[0].code == "M01"
    assert "model.eval()" in report.next_step
    assert report.layers[0].status == "fail"


INFERENCE = [
    pytest.param("y = BatchNormalization<is_test: int = 1>(x, g, b, m, v)", 6, id="opset 6"),
    pytest.param("y = BatchNormalization(x, g, b, m, v)", 9, id="opset 9"),
    pytest.param("y = BatchNormalization<training_mode: int = 0>(x, g, b, m, v)", 15, id="opset 15"),
]


@pytest.mark.parametrize(("node", "opset"), INFERENCE)
def test_inference_mode_is_none(node: str, opset: int) -> None:
    assert not found(norm(node, opset), "M01")


def test_outputs_without_a_name_count_and_are_told() -> None:
    model = norm("y = BatchNormalization(x, g, b, m, v)", 9)
    model.graph.node[0].output.extend([""] * 4)
    (finding,) = found(model, "M01")
    assert "4 of its outputs have no name" in finding.message


def test_statistics_that_were_never_filled_are_told() -> None:
    model = norm("y, rm, rv = BatchNormalization<training_mode: int = 1>(x, g, b, m, v)")
    for tensor in model.graph.initializer:
        if tensor.name in ("m", "v"):
            tensor.raw_data = np.full(C, tensor.name == "v", np.float32).tobytes()
    (finding,) = found(model, "M01")
    assert "never updated" in finding.message
    assert not found(model, "S01"), "statistics that are not used are not judged"


def test_a_weight_that_is_standardised_is_no_mistake() -> None:
    # what pytorch writes for weight standardisation: the weight as [1, O, I·k·k]
    body = """
    w3 = Reshape(w, flat)
    n, rm, rv = BatchNormalization<training_mode: int = 1>(w3, g, b, m, v)
    w4 = Reshape(n, full)
    y = Conv(x, w4)
    """
    init = {"w": random(C, 3, 1, 1), "flat": np.array([1, C, -1]), "full": np.array([C, 3, 1, 1])}
    model = build(body, "float[N,3,8,8] x", "float[N,4,8,8] y", {**init, **batch_norm(C, sign=False)})
    assert [f.severity for f in found(model, "M02")] == ["info"]
    assert not found(model, "M01")


IDIOM = """
r = Reshape(x, shape)
n, rm, rv = BatchNormalization<training_mode: int = 1>(r, g, b, m, v)
y = Reshape(n, back)
"""


def instance_norm(shape: str, target: list[int] | None, body: str = IDIOM) -> ModelProto:
    init: dict[str, np.ndarray] = {**batch_norm(8, sign=False), "back": np.array([2, 4, 8, 8])}
    inputs = f"float[{shape}] x"
    if target is None:
        inputs += ", int64[4] shape"
    else:
        init["shape"] = np.array(target)
    return build(body, inputs, "float[2,4,8,8] y", init)


def test_an_instance_norm_in_disguise_is_no_mistake() -> None:
    model = instance_norm("2,4,8,8", [1, 8, 8, 8])
    assert [f.severity for f in found(model, "M03")] == ["info"]
    assert not found(model, "M01")


def test_what_may_be_an_instance_norm_is_a_warning() -> None:
    model = instance_norm("2,4,8,8", None)
    assert [f.severity for f in found(model, "M03")] == ["warning"]
    assert not found(model, "M01")


def test_a_reshape_that_keeps_the_batch_is_no_instance_norm() -> None:
    model = instance_norm("4,8,8,2", [2, 8, 8, 4])
    assert found(model, "M01") and not found(model, "M03")


def test_without_the_reshape_back_it_is_no_instance_norm() -> None:
    model = instance_norm(
        "2,4,8,8", [1, 8, 8, 8], IDIOM.replace("y = Reshape(n, back)", "t = Relu(n)\ny = Reshape(t, back)")
    )
    assert found(model, "M01") and not found(model, "M03")
