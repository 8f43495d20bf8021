"""`recalibrate`: broken statistics come back to those of the data, nothing else changes, and what does not help is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import normfold
from normfold import Config
from normfold.errors import GateError, InputError, UsageError
from normfold.recalibration import RecalibrateConfig, recalibrate
from normfold.statistics.judging.ancestry import Ancestry
from normfold.statistics.recalibration.estimate import blended
from normfold.statistics.recalibration.split import Split
from normfold.statistics.subject import open_subject
from normfold.undoing import undo
from tests.check.networks import Net, images
from tests.check.sources import batches
from tests.model.build import actual, net, node

X = images(320)
FITTED = [x for i, x in enumerate(np.split(X, 20)) if i % 4 != 3]  # what is not held out, in batches of 16
NET = Net(layers=4).fitted(np.concatenate(FITTED))
STALE = Net(layers=4, seed=0)  # the same weights, statistics 0 and 1
SOURCE = batches(X)
TIGHT = {"rtol": 2e-5, "atol": 1e-6}


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def statistics(path: Path) -> dict[str, np.ndarray]:
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    return {name: value for name, value in stored.items() if name.startswith(("mean", "var"))}


def wanted(net_: Net = NET) -> dict[str, np.ndarray]:
    means, variances = net_.statistics()
    return {f"{kind}{i}": v for kind, part in (("mean", means), ("var", variances)) for i, v in enumerate(part)}


def test_statistics_become_those_of_the_data_and_nothing_else_changes(tmp_path: Path) -> None:
    source = save(STALE.model(), tmp_path / "m.onnx")
    before = source.read_bytes()
    done = recalibrate(source, tmp_path / "new.onnx", data=SOURCE)
    for name, values in statistics(tmp_path / "new.onnx").items():
        np.testing.assert_allclose(values, wanted()[name], **TIGHT)
    assert source.read_bytes() == before
    old, new = onnx.load(str(source)), onnx.load(str(tmp_path / "new.onnx"))
    assert [n.SerializeToString() for n in old.graph.node] == [n.SerializeToString() for n in new.graph.node]
    kept = {t.name: t.SerializeToString() for t in old.graph.initializer if t.name not in wanted()}
    assert kept == {t.name: t.SerializeToString() for t in new.graph.initializer if t.name not in wanted()}
    gate = done.report.gate
    assert (
        gate is not None and gate.accepted and gate.j_after is not None and gate.j_after < 0.05 < (gate.j_before or 9)
    )
    assert [layer.status for layer in done.report.layers] == ["repaired"] * 4 and done.report.passes == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "new.onnx", "new.undo.npz"]


def test_undo_gives_the_very_bytes_back(tmp_path: Path) -> None:
    source = save(STALE.model(), tmp_path / "m.onnx")
    before = source.read_bytes()
    done = recalibrate(source, source, data=SOURCE, in_place=True)
    assert done.undo is not None and source.read_bytes() != before
    assert done.undo.stat().st_size < 4096
    undo(source, done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before
    undo(source, done.undo, source, in_place=True)
    assert source.read_bytes() == before
    with pytest.raises(InputError, match="not the model that the patch was written for"):
        undo(source, done.undo, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_external_data_is_repaired_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    onnx.save(STALE.model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=16)
    before = (tmp_path / "m.onnx").read_bytes()
    done = recalibrate(tmp_path / "m.onnx", tmp_path / "b" / "new.onnx", data=SOURCE)
    for name, values in statistics(tmp_path / "b" / "new.onnx").items():
        np.testing.assert_allclose(values, wanted()[name], **TIGHT)
    assert done.undo is not None
    with pytest.raises(InputError) as caught:
        undo(done.written, done.undo, tmp_path / "b" / "back.onnx")
    assert caught.value.code == "undo.data"
    undo(done.written, done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before


def test_a_model_that_fits_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = save(NET.model(), tmp_path / "m.onnx")
    with pytest.raises(GateError) as caught:
        recalibrate(source, tmp_path / "new.onnx", data=SOURCE)
    assert caught.value.code == "gate.no_gain" and caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_labels_that_get_worse_answers_refuse(tmp_path: Path) -> None:
    """Labels that agree with the broken model alone: J falls, and so do right answers."""
    stale = Net(layers=4, seed=3)  # of a seed where answers differ
    source = save(stale.model(), tmp_path / "m.onnx")
    labels = actual(stale.model(), {"x": X}, ["scores"])["scores"].argmax(1)
    with pytest.raises(GateError, match="right answers fall"):
        recalibrate(source, tmp_path / "new.onnx", data=SOURCE, labels=labels)
    assert not (tmp_path / "new.onnx").exists()
    fitted = stale.fitted(np.concatenate(FITTED)).model()
    right = actual(fitted, {"x": X}, ["scores"])["scores"].argmax(1)
    gate = recalibrate(source, tmp_path / "new.onnx", data=SOURCE, labels=right).report.gate
    assert gate is not None and gate.metric_after is not None and gate.metric_after > 0.95
    with pytest.raises(InputError, match="10 labels for 320 samples"):
        recalibrate(source, tmp_path / "new.onnx", data=SOURCE, labels=right[:10])


def test_the_variance_that_pytorch_stores(tmp_path: Path) -> None:
    source = save(STALE.model(), tmp_path / "m.onnx")
    recalibrate(source, tmp_path / "new.onnx", data=SOURCE, config=RecalibrateConfig(variance="unbiased"))
    count = sum(len(x) for x in FITTED) * 64
    first = statistics(tmp_path / "new.onnx")["var0"].astype(np.float64)
    np.testing.assert_allclose(first, wanted()["var0"] * count / (count - 1), rtol=1e-6)


def test_a_prior_blends_two_populations(tmp_path: Path) -> None:
    """Stored statistics of one half and the other half as data give those of the whole."""
    half, rest = X[:160], np.concatenate([x for i, x in enumerate(np.split(X[160:], 10)) if i % 4 != 3])
    site = open_subject(Net(layers=1).fitted(half).model()).sites[0]
    other, whole = Net(layers=1).fitted(rest), Net(layers=1).fitted(np.concatenate((half, rest)))
    mean, var = blended(site, other.mean[0], other.var[0], len(rest), float(len(half)))
    np.testing.assert_allclose(mean, whole.mean[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, whole.var[0], rtol=1e-5)
    shifted = Net(layers=1).fitted(half + 1)
    source = save(shifted.model(), tmp_path / "m.onnx")
    recalibrate(source, tmp_path / "new.onnx", data=SOURCE, config=RecalibrateConfig(prior=80))  # 240 are estimated on
    measured = Net(layers=1).fitted(np.concatenate(FITTED)).mean[0]
    blend = 0.25 * shifted.mean[0] + 0.75 * measured
    np.testing.assert_allclose(statistics(tmp_path / "new.onnx")["mean0"], blend, rtol=1e-5, atol=1e-6)


def test_only_some_layers(tmp_path: Path) -> None:
    wrong = NET.with_layer(2, mean=NET.mean[2] + 3)
    source = save(wrong.model(), tmp_path / "m.onnx")
    done = recalibrate(source, tmp_path / "new.onnx", data=SOURCE, config=RecalibrateConfig(only=("bn2",)))
    assert [layer.status for layer in done.report.layers] == ["kept", "kept", "repaired", "kept"]
    now = statistics(tmp_path / "new.onnx")
    np.testing.assert_allclose(now["mean2"], NET.mean[2], **TIGHT)
    np.testing.assert_array_equal(now["mean3"], statistics(source)["mean3"])
    with pytest.raises(UsageError, match="no normalisation is called 'bn9'"):
        recalibrate(source, data=SOURCE, config=RecalibrateConfig(only=("bn9",)))


def test_statistics_that_layers_share_become_several(tmp_path: Path) -> None:
    model = STALE.model()
    for layer in model.graph.node:
        if layer.op_type == "BatchNormalization":
            layer.input[3], layer.input[4] = "mean0", "var0"
    unused = [t for t in model.graph.initializer if t.name[:-1] in ("mean", "var") and t.name[-1] != "0"]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    source = save(model, tmp_path / "m.onnx")
    before = source.read_bytes()
    done = recalibrate(source, tmp_path / "new.onnx", data=SOURCE)
    written = onnx.load(str(tmp_path / "new.onnx"))
    onnx.checker.check_model(written, full_check=True)
    stored = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    norms = [layer for layer in written.graph.node if layer.op_type == "BatchNormalization"]
    assert len({layer.input[3] for layer in norms}) == 4
    for i, layer in enumerate(norms):
        np.testing.assert_allclose(stored[layer.input[3]], NET.mean[i], **TIGHT)
        np.testing.assert_allclose(stored[layer.input[4]], NET.var[i], **TIGHT)
    assert done.undo is not None
    undo(tmp_path / "new.onnx", done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before


def test_a_constant_channel_keeps_its_variance(tmp_path: Path) -> None:
    parts = STALE.model()
    weight = next(t for t in parts.graph.initializer if t.name == "w0")
    values = numpy_helper.to_array(weight).copy()
    values[3] = 0
    weight.CopyFrom(numpy_helper.from_array(values, "w0"))
    done = recalibrate(save(parts, tmp_path / "m.onnx"), tmp_path / "new.onnx", data=SOURCE)
    assert statistics(tmp_path / "new.onnx")["var0"][3] == 1 and done.report.layers[0].constant_channels == 1


def test_folded_models_are_repaired_through_their_manifest(tmp_path: Path) -> None:
    """Folding broken statistics and repairing afterwards gives what folding the right ones would have given."""
    save(STALE.with_layer(1, var=np.full(8, 0.3)).model(), tmp_path / "m.onnx")
    normfold.optimize(tmp_path / "m.onnx", tmp_path / "folded.onnx", config=Config(verify="off"))
    before = (tmp_path / "folded.onnx").read_bytes()
    done = recalibrate(tmp_path / "folded.onnx", tmp_path / "new.onnx", data=SOURCE)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("new")) == [
        "new.normstats.npz", "new.onnx", "new.undo.npz"
    ]  # fmt: skip
    feed = {"x": images(8, seed=9)}
    repaired = actual(onnx.load(str(tmp_path / "new.onnx")), feed, ["scores"])["scores"]
    np.testing.assert_allclose(repaired, actual(NET.model(), feed, ["scores"])["scores"], rtol=1e-3, atol=1e-4)
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load(str(tmp_path / "new.onnx")).graph.node)
    with pytest.raises(GateError):  # the new manifest says what the weights hold now
        recalibrate(tmp_path / "new.onnx", tmp_path / "again.onnx", data=SOURCE)
    assert done.undo is not None
    undo(tmp_path / "new.onnx", done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before
    assert (tmp_path / "back.normstats.npz").read_bytes() == (tmp_path / "folded.normstats.npz").read_bytes()


def test_what_cannot_be_repaired_is_said_in_one_line(tmp_path: Path) -> None:
    cases = [
        (Net(layers=2, training=(1,)).model(), SOURCE, "recalibrate.mode"),
        (STALE.model(), batches(X[:40]), "data.too_few"),
        (STALE.model(), batches(X[:24], 4), "data.too_few"),
        (STALE.model(), batches(np.sort(X, axis=0)), "data.not_shuffled"),
        (net([node("Relu", ["x"], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"], {}), SOURCE, "recalibrate.no_statistics"),
    ]
    for model, source, code in cases:
        with pytest.raises(InputError) as caught:
            recalibrate(save(model, tmp_path / "m.onnx"), tmp_path / "new.onnx", data=source)
        assert caught.value.code == code and "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_without_an_output_nothing_is_written(tmp_path: Path) -> None:
    done = recalibrate(STALE.model(), data=SOURCE)
    assert done.written is None and done.report.gate is not None and done.report.gate.accepted


def test_layers_beside_each_other_are_measured_in_one_pass() -> None:
    weights = {name: np.ones(3, np.float32) for name in ("gamma", "beta", "mean", "var")}
    rest = list(weights)
    nodes = [
        node("BatchNormalization", ["x", *rest], ["a"], name="a"),
        node("Relu", ["x"], ["r"]),
        node("BatchNormalization", ["r", *rest], ["b"], name="b"),
        node("Add", ["a", "b"], ["s"]),
        node("BatchNormalization", ["s", *rest], ["y"], name="c"),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 8, 8])
    subject = open_subject(net(nodes, {"x": ["N", 3, 8, 8]}, [output], weights))
    labels = {site.key: site.label for site in subject.sites}
    levels = Ancestry(subject, list(subject.sites)).levels()
    assert [[labels[key] for key in level] for level in levels] == [["a", "b"], ["c"]]


def test_groups_are_never_on_both_sides() -> None:
    groups = [f"video{i // 5}" for i in range(320)]
    source = batches(X, 16, groups)
    sides = [{g for b in Split(source, held).batches() for g in b.groups or ()} for held in (False, True)]
    assert not sides[0] & sides[1] and len(sides[0]) + len(sides[1]) == 64 and len(sides[1]) > 5
    positions = sorted([*Split(source, False).positions(), *Split(source, True).positions()])
    assert positions == list(range(320))


@pytest.mark.parametrize("name", ["never_updated", "corrupted_layer"])
def test_trained_networks_answer_again(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models import planted

    case = planted.build(name)
    source = save(case.model, tmp_path / "m.onnx")
    gate = recalibrate(source, tmp_path / "new.onnx", data=batches(case.data, 32), labels=case.labels).report.gate
    assert gate is not None and gate.metric_before is not None and gate.metric_after is not None
    assert gate.metric_before < 0.8 and gate.metric_after > 0.85


def test_a_healthy_trained_network_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models import planted

    case = planted.build("healthy_cnn")
    with pytest.raises(GateError):
        recalibrate(save(case.model, tmp_path / "m.onnx"), tmp_path / "new.onnx", data=batches(case.data, 32))
