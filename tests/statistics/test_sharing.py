"""S08, S11, S13, S16 and N01 from the file."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from normfold.checking import CheckConfig
from normfold.model.load import Initializers
from tests.statistics.build import chain, changed, examine, found, healthy, trained
from tests.support import batch_norm, build


def sharing(values: dict[str, np.ndarray], reader: int, owner: int) -> ModelProto:
    model = chain(values)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    norms[reader].input[3] = f"m{owner}"
    return model


def test_one_set_of_statistics_at_two_places() -> None:
    (finding,) = found(sharing(trained(), 3, 2), "S08")
    assert finding.node == "bn2" and finding.nodes == ("bn3",)


def test_defaults_may_be_shared() -> None:
    values = trained()
    for i in (2, 3):
        values[f"m{i}"][:], values[f"v{i}"][:] = 0, 1
    assert not found(sharing(values, 3, 2), "S08")


def test_a_copy_in_another_layer() -> None:
    def copied(values: dict[str, np.ndarray]) -> None:
        values["m4"], values["v4"] = values["m1"].copy(), values["v1"].copy()

    findings = [f for f in found(changed(copied), "S13") if "same mean" in f.message]
    assert [(f.node, f.nodes) for f in findings] == [("bn4", ("bn1",))]
    assert not [f for f in found(healthy(), "S13") if "same mean" in f.message]


def momentum(value: float, producer: str) -> list[str]:
    model = healthy()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.add(name="momentum", type=1, f=value)
    model.producer_name = producer
    return [str(finding.severity) for finding in found(model, "S11")]


def test_momentum_that_looks_swapped() -> None:
    assert momentum(0.1, "pytorch") == ["warning"]
    assert momentum(0.1, "something") == ["info"]
    assert not momentum(0.9, "pytorch")


def test_statistics_that_a_caller_may_override() -> None:
    model = healthy(listed=("m2",))
    (finding,) = found(model, "S16")
    assert finding.node == "bn2" and "'m2'" in finding.message
    from normfold.checking import check

    frozen = check(model, config=CheckConfig(initializers=Initializers.FREEZE))
    assert not [f for f in frozen.findings if f.code == "S16"]


def test_an_exporter_s_habit_is_no_finding() -> None:
    assert not found(healthy(listed=tuple(trained())), "S16")
    assert not found(healthy(ir=3), "S16")


def test_statistics_that_are_computed() -> None:
    body = "mu = ReduceMean<axes: ints = [0,2,3], keepdims: int = 0>(x)\ny = BatchNormalization(x, g, b, mu, v)"
    model = build(body, "float[N,4,8,8] x", "float[N,4,8,8] y", batch_norm(4, sign=False), opset=13)
    (finding,) = found(model, "S16")
    assert finding.severity == "warning" and "computed" in finding.message
    report = examine(model)
    assert report.layers[0].reason == "no stored statistics that can be read"


def test_no_statistics_is_not_healthy() -> None:
    conv = build(
        "y = Conv(x, w, b)",
        "float[N,3,8,8] x",
        "y",
        {"w": np.ones((4, 3, 1, 1), np.float32), "b": np.ones(4, np.float32)},
    )
    report = examine(conv)
    assert report.verdict == "inconclusive"
    assert [f.code for f in report.findings] == ["N01"]
    assert "baseline" in report.next_step


def test_a_model_of_stateless_norms_has_none_to_miss() -> None:
    body = "t = MatMul(x, w)\ny = LayerNormalization(t, s)"
    model = build(body, "float[N,4] x", "float[N,4] y", {"w": np.eye(4, dtype=np.float32), "s": np.ones(4, np.float32)})
    report = examine(model)
    assert report.verdict == "pass" and not report.findings
    assert [(layer.status.value, layer.op_type) for layer in report.layers] == [
        ("not-applicable", "LayerNormalization")
    ]


def test_a_model_without_anything_to_normalise() -> None:
    report = examine(build("y = Relu(x)", "float[N,4] x", "float[N,4] y"))
    assert report.verdict == "pass" and report.summary == "Nothing wrong was found: no norms."
