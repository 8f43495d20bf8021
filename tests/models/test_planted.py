"""Every planted case is broken in exactly the way that it says; what `check` makes of it is tested where `check` is."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from models import planted
from models.planted import data
from models.planted.case import Case
from models.planted.faults import CORRUPTED, SWAPPED
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import BATCH, STORED, Form
from normfold.statistics.subject import open_subject
from tests.check.sources import batches

pytest.importorskip("torch", reason="torch trains these networks")


def scores(model: ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def divergences(case: Case, form: Form = STORED) -> np.ndarray:
    """Median J of every layer."""
    subject = open_subject(case.model)
    found = collect(subject, batches(case.data, case.batch_size), form).moments
    layers = []
    for site in subject.sites:
        assert site.mean is not None and site.var is not None and site.epsilon is not None
        measured = found[site.key].estimate()
        stored, now = site.var + site.epsilon, measured.var + site.epsilon
        shift = (measured.mean - site.mean) ** 2
        layers.append(np.median((now / stored + stored / now - 2 + shift * (1 / stored + 1 / now)) / 2))
    return np.array(layers)


@pytest.mark.parametrize("name", planted.names())
def test_is_valid_and_the_same_each_time(name: str) -> None:
    case = planted.build(name)
    onnx.checker.check_model(case.model, full_check=True)
    assert case.name == name and len(case.labels_at_fault()) == len(case.layers)
    assert case.data.dtype == np.float32 and len(case.data) == len(case.labels)
    again = planted.build.__wrapped__(name)
    assert again.model.SerializeToString() == case.model.SerializeToString()
    np.testing.assert_array_equal(again.data, case.data)


@pytest.mark.parametrize("name", list(planted.HEALTHY))
@pytest.mark.parametrize("seed", [0, 1])
def test_healthy_networks_have_learned_and_fit_their_data(name: str, seed: int) -> None:
    case = planted.build(name, seed)
    assert case.healthy and case.accuracy(scores(case.model, case.data)) > 0.8
    assert divergences(case).max() < 0.1


def test_one_layer_of_twenty_is_corrupted() -> None:
    alone = divergences(planted.build("corrupted_layer"), BATCH)
    assert len(alone) == 20 and alone[CORRUPTED] > 0.25
    assert np.delete(alone, CORRUPTED).max() < 0.02


def test_two_layers_are_swapped() -> None:
    alone = divergences(planted.build("swapped_layers"), BATCH)
    assert alone[list(SWAPPED)].min() > 0.25 and np.delete(alone, SWAPPED).max() < 0.02


@pytest.mark.parametrize("name", ["never_updated", "under_trained", "epsilon_too_large", "epsilon_too_small"])
def test_what_concerns_every_layer_ruins_the_answers(name: str) -> None:
    case = planted.build(name)
    assert case.accuracy(scores(case.model, case.data)) < 0.5


def test_averages_that_were_stopped_early_are_on_one_line() -> None:
    """μ = a·m for one a in all layers, as statistics that start at 0 must be."""
    case, whole = planted.build("under_trained"), planted.build("healthy_cnn")
    mine, theirs = (
        np.concatenate([v for k, v in c.state.items() if k.endswith("running_mean")]) for c in (case, whole)
    )
    assert float(mine @ theirs / (theirs @ theirs)) == pytest.approx(1 - 0.99**100, abs=0.03)


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("times_255", lambda x: x / 255),
        ("swapped_colours", lambda x: x[:, ::-1]),
        ("not_normalised", data.normalised),
        ("not_divided_nor_normalised", lambda x: data.normalised(x / 255)),
    ],
)
def test_the_transform_is_what_was_forgotten(name: str, repaired) -> None:
    case = planted.build(name)
    assert case.accuracy(scores(case.model, case.data)) < 0.6
    fed = np.ascontiguousarray(repaired(case.data), np.float32)
    assert case.accuracy(scores(case.model, fed)) > 0.8


def test_training_mode_is_exported_as_such() -> None:
    norms = [node for node in planted.build("training_mode").model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 20
    assert all(any(a.name == "training_mode" and a.i for a in node.attribute) for node in norms)


def test_the_folded_case_has_no_norm_left_and_a_checkpoint_with_all() -> None:
    case = planted.build("folded_with_other_epsilon")
    assert not any(node.op_type == "BatchNormalization" for node in case.model.graph.node)
    assert sum(name.endswith("running_var") for name in case.state) == 20


def test_small_batches_and_last_batches_leave_a_moderate_mismatch() -> None:
    for name in ("small_batch", "momentum_swapped"):
        assert 0.1 < divergences(planted.build(name)).max() < 1


def test_sorted_data_is_sorted() -> None:
    case = planted.build("unshuffled")
    assert (np.diff(case.labels) >= 0).all()


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="swapped_layers"):
        planted.build("swaped_layers")
