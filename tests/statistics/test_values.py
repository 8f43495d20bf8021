"""S01 to S05 and S07: what the stored numbers of one layer say. Each with a near miss."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.checking import CheckConfig
from normfold.statistics.thresholds import Thresholds
from tests.statistics.build import CHANNELS, changed, codes, examine, found, healthy


def put(name: str, index: object, value: object) -> object:
    def change(values: dict[str, np.ndarray]) -> None:
        values[name][index] = value

    return change


def test_a_healthy_model_has_no_finding() -> None:
    report = examine(healthy())
    assert not report.findings
    assert report.verdict == "pass"
    assert "was not measured" in report.summary and "--data" in report.next_step
    assert {layer.status.value for layer in report.layers} == {"skipped"}
    assert [layer.node for layer in report.layers] == [f"bn{i}" for i in range(6)]


def never(values: dict[str, np.ndarray], *layers: int, gamma: bool = True) -> None:
    for i in layers:
        values[f"m{i}"][:], values[f"v{i}"][:] = 0, 1
        if not gamma:
            values[f"g{i}"][:], values[f"b{i}"][:] = 1, 0


def test_never_updated_is_the_first_finding() -> None:
    model = changed(lambda values: never(values, *range(6)))
    report = examine(model)
    assert [f.code for f in report.findings] == ["S01"] * 6
    assert report.verdict == "fail"
    assert "in 6 of 6 layers" in report.summary
    assert [f.node for f in found(changed(lambda values: never(values, 3)), "S01")] == ["bn3"]


def test_a_layer_that_does_nothing_is_a_warning() -> None:
    assert [f.severity for f in found(changed(lambda v: never(v, 2, gamma=False)), "S01")] == ["warning"]


def test_a_scale_written_as_a_layer_is_none() -> None:
    def affine(values: dict[str, np.ndarray]) -> None:
        values["m2"][:], values["v2"][:] = 0, np.float32(1 - 1e-5)

    assert not codes(changed(affine)) & {"S01", "S07"}
    assert "S01" not in codes(changed(put("m2", slice(0, CHANNELS - 1), 0.0)))


def test_partly_updated() -> None:
    assert [f.node for f in found(changed(put("m2", slice(None), 0.0)), "S07")] == ["bn2"]
    assert [f.node for f in found(changed(put("v2", slice(None), 1.0)), "S07")] == ["bn2"]
    assert "S07" not in codes(changed(put("m2", slice(1, None), 0.0)))


@pytest.mark.parametrize("name", ["m2", "v2", "g2", "b2"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(name: str, value: float) -> None:
    model = changed(put(name, 5, value))
    (finding,) = found(model, "S02")
    assert finding.node == "bn2" and finding.channels == 1
    assert examine(model).findings[0].code == "S02"
    assert "NaN" not in examine(model).model_dump_json().replace("NaN or infinity", "").replace("gives NaN", "")


def test_negative_variance() -> None:
    (nan,) = found(changed(put("v1", 3, -1e-3)), "S03")
    (large,) = found(changed(put("v1", 3, -5e-6)), "S03")
    assert "NaN" in nan.message and "explode" in large.message
    assert "S03" not in codes(changed(put("v1", 3, 0.0)))


def test_dead_and_exploding_channels() -> None:
    (dead,) = found(changed(put("v1", 3, 1e-7)), "S04")
    assert dead.severity == "warning" and dead.channels == 1
    assert not found(changed(put("v1", 3, 1e-3)), "S04")  # scale about 30
    strict = CheckConfig(thresholds=Thresholds(gain=10))
    assert "S04" in {f.code for f in examine(changed(put("v1", 3, 1e-3)), strict).findings}


def test_a_dead_channel_without_weight_does_not_matter() -> None:
    def pruned(values: dict[str, np.ndarray]) -> None:
        values["v1"][3], values["g1"][3] = 1e-9, 1e-9

    assert [f.severity for f in found(changed(pruned), "S04")] == ["info"]


def test_numbers_that_float16_cannot_hold() -> None:
    (large,) = found(changed(put("v1", 3, 1e5)), "S05")
    assert large.severity == "info" and "1e+05" in large.message
    assert "S05" not in codes(changed(put("v1", 3, 6e4)))

    def wide(values: dict[str, np.ndarray]) -> None:
        values["w1"][3] *= 1e4
        values["v1"][3] = 1e-3

    assert "folded weight" in found(changed(wide), "S05")[0].message
    assert found(changed(put("v1", 3, 1e-9), epsilon={1: 0.0}), "S05")


def test_in_a_model_of_float16_it_is_a_warning() -> None:
    model = healthy()
    for tensor in model.graph.initializer:
        array = np.frombuffer(tensor.raw_data, np.float32).astype(np.float16)
        if tensor.name == "v1":
            array[3] = 1e-8
        tensor.raw_data, tensor.data_type = array.tobytes(), 10
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = 10
    model.graph.node[4].attribute[0].f = 0.0
    assert [f.severity for f in found(model, "S05")] == ["warning"]
