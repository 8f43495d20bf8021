"""The whole examination, on networks whose statistics are measured and then broken in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from normfold.errors import InputError
from normfold.statistics.findings import finding
from normfold.statistics.part import Part
from normfold.statistics.schema import Finding, Severity, Status
from normfold.statistics.subject import open_subject
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.with_data import DataSettings, run_with_data
from tests.check.networks import Net, images
from tests.check.sources import Arrays, batches
from tests.model.build import conv_bn, net, node

TRAIN, TEST = images(1024, seed=1), images(384, seed=2)
MORE = images(1024, seed=3)
LAYERS = 8


@cache
def healthy() -> Net:
    return Net(layers=LAYERS).fitted(TRAIN)


def examined(
    model: Net | ModelProto, x: np.ndarray = TEST, size: int = 32, *, groups: Sequence[str] | None = None,
    found: Sequence[Finding] = (), settings: DataSettings | None = None,
) -> Part:  # fmt: skip
    proto = model.model() if isinstance(model, Net) else model
    return run_with_data(
        open_subject(proto), batches(x, size, groups), Thresholds(), found=found, settings=settings or DataSettings()
    )


def codes(part: Part) -> list[str]:
    return [item.code for item in part.findings]


def statuses(part: Part) -> list[Status]:
    return [layer.status for layer in part.layers.values()]


def roots(part: Part) -> list[str]:
    return [layer.node for layer in part.layers.values() if layer.is_root_cause]


def rule(part: Part, code: str) -> tuple[Status, str]:
    return next((r.status, r.reason) for r in part.rules if r.code == code)


def test_a_healthy_network_passes() -> None:
    part = examined(healthy(), MORE)
    assert set(statuses(part)) == {Status.PASS} and not part.findings
    assert [probe.status for probe in part.probes] == [Status.PASS, Status.PASS]
    assert part.data.samples == 1024 and part.data.batches == 32 and len(part.data.sha256) == 64
    assert 0.5 < part.data.shuffling < part.data.shuffling_limit
    assert part.preprocessing.status is Status.PASS
    layer = next(iter(part.layers.values()))
    assert layer.j < 0.05 and layer.n == 1024 and 1 < layer.n_eff < 1024 * 64
    assert layer.mean_shift_interval[0] < layer.mean_shift_interval[1]
    assert len(layer.channels.measured_mean) == len(layer.channels.j) == 8
    assert rule(part, "D01")[0] is rule(part, "D03")[0] is Status.PASS
    assert rule(part, "C01") == (Status.SKIPPED, "no layer is shifted")


def test_too_little_data_is_inconclusive_and_says_how_much_is_needed() -> None:
    part = examined(healthy(), TEST[:24], 8)
    assert set(statuses(part)) == {Status.INCONCLUSIVE} and not part.findings
    needed = [layer.samples_needed for layer in part.layers.values()]
    assert all(24 < n < 10000 for n in needed)
    assert rule(part, "D03")[0] is Status.SKIPPED


@pytest.mark.parametrize("index", [0, 3, LAYERS - 1])
def test_one_wrong_layer_is_found_exactly(index: int) -> None:
    mean, var = healthy().mean[index], healthy().var[index]
    part = examined(healthy().with_layer(index, mean=mean + 2 * np.sqrt(var), var=var * 3))
    assert codes(part)[0] == "S13" and roots(part) == [f"bn{index}"]
    assert part.findings[0].node == f"bn{index}" and part.findings[0].severity is Severity.ERROR
    layers = list(part.layers.values())
    assert all(layer.status in (Status.PASS, Status.INCONCLUSIVE) for layer in layers[:index])
    behind = [layer for layer in layers[index + 1 :] if layer.status in (Status.WARN, Status.FAIL)]
    assert all(layer.collateral_of == layers[index].key for layer in behind)
    assert len(behind) >= (LAYERS - 1 - index) // 2


@pytest.mark.parametrize(
    "settings", [DataSettings(), DataSettings(attribution="sequential")], ids=["batch", "sequential"]
)
def test_swapped_layers_name_each_other(settings: DataSettings) -> None:
    one, other = 2, 6
    swapped = healthy().with_layer(one, mean=healthy().mean[other], var=healthy().var[other])
    swapped = swapped.with_layer(other, mean=healthy().mean[one], var=healthy().var[one])
    part = examined(swapped, settings=settings)
    assert codes(part)[:2] == ["S13", "S13"] and roots(part) == ["bn2", "bn6"]
    assert "'bn6'" in part.findings[0].message and "'bn2'" in part.findings[1].message


def test_permuted_channels_are_called_that() -> None:
    order = np.random.default_rng(0).permutation(8)
    part = examined(healthy().with_layer(4, mean=healthy().mean[4][order], var=healthy().var[4][order]))
    assert codes(part)[0] == "S13" and "another order" in part.findings[0].message and roots(part) == ["bn4"]


@pytest.mark.parametrize("factor", [0.3, 0.634, 0.8])
def test_the_factor_of_a_moving_average_is_recovered(factor: float) -> None:
    mean = tuple(factor * m for m in healthy().mean)
    var = tuple(1 - factor + factor * v for v in healthy().var)
    part = examined(replace(healthy(), mean=mean, var=var))
    assert codes(part)[0] == "S10"
    assert part.findings[0].evidence[0].value == pytest.approx(factor, abs=0.03)


def test_statistics_that_were_never_updated() -> None:
    plain = Net(layers=LAYERS)
    assert codes(examined(plain))[0] in ("S01", "D01")
    subject = open_subject(plain.model())
    known = [finding("S01", "never updated", site=site) for site in subject.sites]
    part = run_with_data(subject, batches(TEST, 32), Thresholds(), found=known)
    assert not {code for code in codes(part) if code != "C01"}  # the file said it all
    assert Status.FAIL in statuses(part)


def test_the_last_batch() -> None:
    wide = Net(layers=LAYERS, channels=16)
    part = examined(wide.fitted(TRAIN[:16]))
    assert codes(part)[0] == "S11" and 3 < part.findings[0].evidence[0].value < 50
    assert not part.findings[0].collateral_of


@pytest.mark.parametrize("fixed", [False, True])
def test_a_model_that_cannot_take_smaller_batches_does_not_tell_an_average_from_one_batch(fixed: bool) -> None:
    """The last batch of 24, or an average over many of 2: with free batches the layers behind the first tell them apart."""
    wide = Net(layers=LAYERS, channels=16).fitted(TRAIN[24:48])
    part = examined(replace(wide, batch=32) if fixed else wide)
    assert codes(part)[0] == "S11" and part.findings[0].evidence[0].value > 19
    assert ("would look the same" in part.findings[0].message) is fixed


def test_another_epsilon() -> None:
    faint = replace(Net(layers=LAYERS, epsilon=1e-3, gain=0.05), beta_scale=0.0)
    trained = faint.fitted(TRAIN)
    part = examined(replace(trained, epsilon=1e-5))
    assert codes(part)[0] == "S06" and "with 0.001 the statistics fit" in part.findings[0].message


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda x: x * 255, "divide by 255"),
        (lambda x: x / 255, "multiply by 255"),
        (lambda x: (x + 1) / 2, "2x − 1"),
        (lambda x: 2 * x - 1, "(x + 1)/2"),
        (lambda x: 127.5 * (x + 1), "divide by 127.5, then subtract 1"),
    ],
)
def test_what_was_forgotten_before_the_model(transform, words: str) -> None:
    part = examined(healthy(), transform(TEST.astype(np.float64)).astype(np.float32))
    assert codes(part)[0] == "D01" and part.preprocessing.winner == words
    assert part.findings[0].fix.endswith(words) and roots(part) == ["bn0"]
    assert not [code for code in codes(part) if code.startswith("S")]
    assert any("colour channels" in text for text in part.preprocessing.not_identifiable)
    if "255" in words:
        scale = part.preprocessing.global_scale
        assert scale == pytest.approx(255 if "divide" in words else 1 / 255, rel=0.05)


def test_colours_in_another_order() -> None:
    colours = np.array([0.8, -0.1, -1.2], np.float32)[:, None, None]
    fitted = Net(layers=4).fitted(TRAIN + colours)
    part = examined(fitted, (TEST + colours)[:, ::-1])
    assert codes(part)[0] == "D01" and "RGB" in part.preprocessing.winner
    assert not any("colour" in text for text in part.preprocessing.not_identifiable)
    implied = part.preprocessing.implied_mean
    np.testing.assert_allclose(implied, colours[:, 0, 0], atol=0.35)


def test_data_of_another_kind() -> None:
    """White noise of the same mean and variance: no transform of the values gives it the neighbourhoods of images."""
    noise = np.random.default_rng(5).normal(
        TEST.mean((0, 2, 3), keepdims=True), TEST.std((0, 2, 3), keepdims=True), TEST.shape
    )
    part = examined(healthy(), noise.astype(np.float32))
    assert codes(part)[0] in ("D02", "S13") and "bn0" in roots(part)
    assert part.preprocessing.winner == ""


def test_data_that_was_rounded_is_not_taken_for_small_batches() -> None:
    """The variance of the first layer is off by more than a batch could be, and small batches explain no variance behind it."""
    part = examined(healthy(), np.trunc(TEST[:64]))
    assert codes(part)[0] not in ("S11", "S14") and "bn0" in roots(part)


@pytest.mark.filterwarnings("error")
def test_data_that_overflows_or_is_constant() -> None:
    part = examined(healthy(), np.clip(TEST.astype(np.float64) * 1e38, -3e38, 3e38).astype(np.float32))
    assert codes(part)[0] == "D02" and "NaN or infinite in" in part.findings[0].message
    assert "nan" not in part.findings[0].message
    assert Status.FAIL in statuses(examined(healthy(), np.ones_like(TEST)))


def test_grouped_samples() -> None:
    order = np.argsort(TEST.mean((1, 2, 3)))
    part = examined(healthy(), TEST[order])
    assert codes(part) == ["D03"] and set(statuses(part)) <= {Status.PASS, Status.INCONCLUSIVE}
    assert part.data.shuffling > part.data.shuffling_limit
    grouped = examined(healthy(), TEST[order], groups=[f"g{i // 8}" for i in range(len(TEST))])
    assert grouped.data.groups == 48 and grouped.data.shuffling is None
    assert rule(grouped, "D03")[0] is Status.SKIPPED


def test_data_that_is_not_shuffled_does_not_blame_the_innocent() -> None:
    order = np.argsort(TEST.mean((1, 2, 3)))
    mean, var = healthy().mean[3], healthy().var[3]
    part = examined(healthy().with_layer(3, mean=mean + 2 * np.sqrt(var), var=var * 3), TEST[order])
    assert roots(part) == ["bn3"] and {"S13", "D03"} <= set(codes(part))
    assert any("one after the other" in text for text in part.warnings)


def test_a_model_that_takes_small_batches_only() -> None:
    mean, var = healthy().mean[3], healthy().var[3]
    wrong = replace(healthy().with_layer(3, mean=mean + 2 * np.sqrt(var), var=var * 3), batch=2)
    assert roots(examined(wrong, TEST[:128], 2)) == ["bn3"]


def test_training_mode() -> None:
    training = replace(healthy(), training=(0, 1))
    part = examined(training)
    probe = part.probes[1]
    assert probe.status is Status.FAIL and probe.max_abs > probe.noise_floor > 0
    assert codes(part) == ["M04"]  # nobody else said it
    known = [finding("M01", "training mode")]
    assert codes(examined(training, found=known)) == []


def test_a_model_that_draws_random_numbers() -> None:
    nodes, weights = conv_bn("a", "x", "y", 3)
    nodes += [node("RandomNormalLike", ["y"], ["r"]), node("Add", ["y", "r"], ["z"])]
    part = examined(net(nodes, {"x": ["N", 3, 8, 8]}, ["z"], weights))
    assert [probe.status for probe in part.probes] == [Status.FAIL, Status.SKIPPED] and "M05" in codes(part)


def test_a_model_of_one_sample_cannot_be_tried_in_company() -> None:
    part = examined(replace(healthy(), batch=1), TEST[:12], 1)
    assert part.probes[1].status is Status.SKIPPED and part.probes[0].status is Status.PASS


def test_statistics_that_are_shared() -> None:
    """Two layers that read one mean; the second one has other inputs."""
    model = healthy().with_layer(5, mean=healthy().mean[2], var=healthy().var[2]).model()
    for item in model.graph.node:
        if item.name == "bn5":
            item.input[3], item.input[4] = "mean2", "var2"
    part = examined(model)
    assert codes(part)[0] == "S08" and "bn2, bn5" in part.findings[0].message and roots(part) == ["bn5"]


def test_the_outcome_is_measured_on_classes() -> None:
    mean, var = healthy().mean[2], healthy().var[2]
    part = examined(healthy().with_layer(2, mean=mean - 6 * np.sqrt(var), var=var * 100))
    assert part.outcome.top1_disagreement > 0.2
    assert part.outcome.information_eval < 0.3 * part.outcome.information_batch
    collapse = next(item for item in part.findings if item.code == "C01")
    assert not collapse.is_root_cause and collapse.collateral_of == next(
        layer.key for layer in part.layers.values() if layer.is_root_cause
    )


def test_layers_that_are_not_measured_say_why() -> None:
    body, weights = conv_bn("inner", "x", "inner.y", 3)
    branch = helper.make_graph(body, "then", [], [helper.make_empty_tensor_value_info("inner.y")])
    other = helper.make_graph(
        [node("Identity", ["x"], ["same"])], "else", [], [helper.make_empty_tensor_value_info("same")]
    )
    weights["flag"] = np.array(False)
    model = net(
        [node("If", ["flag"], ["y"], then_branch=branch, else_branch=other)], {"x": ["N", 3, 8, 8]}, ["y"], weights
    )
    part = examined(model)
    (layer,) = part.layers.values()
    assert layer.status is Status.SKIPPED and layer.reason.startswith("not reached")
    assert rule(part, "D01")[0] is Status.SKIPPED


def test_a_model_without_statistics_is_still_tried() -> None:
    part = examined(net([node("Relu", ["x"], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"]))
    assert not part.layers and part.data.samples == 384
    assert [probe.status for probe in part.probes] == [Status.PASS, Status.PASS]
    by_batch = net(
        [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"]
    )
    assert codes(examined(by_batch)) == ["M04"]


def test_constant_factors_of_the_variance() -> None:
    exact = Net(layers=3).fitted(TEST)
    factor = 16 / 15
    part = examined(replace(exact, var=tuple(v * factor for v in exact.var)))
    assert codes(part)[0] == "S12" and part.findings[0].severity is Severity.INFO
    assert part.findings[0].evidence[0].value == pytest.approx(factor, rel=0.01)


def test_text_inputs_and_several_inputs() -> None:
    nodes, weights = conv_bn("a", "x", "y", 3)
    nodes.append(node("Add", ["y", "z"], ["sum"]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "z")]
    model = net(nodes, infos, ["sum"], weights)
    part = run_with_data(open_subject(model), Arrays({"x": 200 * TEST, "z": TEST}, 32), Thresholds())
    assert part.preprocessing.status is Status.SKIPPED and "2 inputs" in part.preprocessing.reason


def test_no_samples() -> None:
    with pytest.raises(InputError, match="no samples"):
        examined(healthy(), TEST[:0])


def test_progress_names_the_stages() -> None:
    seen: list[str] = []
    run_with_data(
        open_subject(healthy().model()), batches(TEST, 32), Thresholds(), progress=lambda stage, *_: seen.append(stage)
    )
    assert seen[0] == "stability" and seen.count("stored statistics") == 12
