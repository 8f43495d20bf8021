"""Against a checkpoint: what was never updated, what belongs to another layer, and what was folded with what."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import normfold
from normfold import Config
from normfold.errors import InputError
from normfold.statistics.checkpoint.norms import matched, norms
from normfold.statistics.checkpoint.reading import read_checkpoint
from normfold.statistics.schema import Severity
from normfold.statistics.subject import open_subject
from normfold.statistics.with_checkpoint import with_checkpoint
from tests.check.networks import Net, images

NET = Net(layers=3).fitted(images(24))


def state(net: Net = NET, count: int | None = 500) -> dict[str, np.ndarray]:
    """As torch would name it."""
    weights = net.weights()
    found: dict[str, np.ndarray] = {}
    for i in range(net.layers):
        found[f"features.{i}.conv.weight"] = weights[f"w{i}"]
        for theirs, ours in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "var")):
            found[f"features.{i}.bn.{theirs}"] = weights[f"{ours}{i}"]
        if count is not None:
            found[f"features.{i}.bn.num_batches_tracked"] = np.array(count, np.int64)
    return found


def safetensors(arrays: dict[str, np.ndarray], path: Path) -> Path:
    names = {"float32": "F32", "int64": "I64", "float16": "F16", "float64": "F64"}
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        offsets = [len(content), len(content) + len(raw)]
        table[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        content += raw
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)
    return path


def findings(model: onnx.ModelProto | Path, arrays: dict[str, np.ndarray], tmp_path: Path, **options) -> list:
    path = safetensors(arrays, tmp_path / "w.safetensors")
    return list(with_checkpoint(open_subject(model), path, **options).findings)


def renamed() -> onnx.ModelProto:
    """With the names that an exporter keeps."""
    model = NET.model()
    names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
    new = {f"{ours}{i}": f"features.{i}.bn.{theirs}" for ours, theirs in names.items() for i in range(3)}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for layer in model.graph.node:
        layer.input[:] = [new.get(name, name) for name in layer.input]
    return model


@pytest.mark.parametrize("model", [NET.model(), renamed()], ids=["by content", "by name"])
def test_a_model_that_is_its_checkpoint_has_no_findings(model: onnx.ModelProto, tmp_path: Path) -> None:
    part = with_checkpoint(open_subject(model), safetensors(state(), tmp_path / "w.safetensors"))
    assert not part.findings and part.references[0].matched == 3 and not part.references[0].unmatched


def test_half_precision_copies_match(tmp_path: Path) -> None:
    small = {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in state().items()}
    assert not findings(NET.model(), small, tmp_path)


def test_counts_of_batches(tmp_path: Path) -> None:
    arrays = state()
    for layer, count in enumerate((0, 20, 1000)):
        arrays[f"features.{layer}.bn.num_batches_tracked"] = np.array(count, np.int64)
    for other in range(3, 8):  # so that 500 is what is usual
        arrays |= {k.replace("features.0", f"other.{other}"): v for k, v in state().items() if "features.0" in k}
    found = findings(renamed(), arrays, tmp_path)
    assert [(f.code, f.node) for f in found] == [("S01", "bn0"), ("S10", "bn1"), ("S08", "bn2")]
    assert "12% of the initial" in found[1].message and "44 are wanted" in found[1].message
    assert "2 times as often" in found[2].message


def test_swapped_permuted_and_foreign_statistics(tmp_path: Path) -> None:
    arrays = state()
    first, second = "features.0.bn.running_", "features.1.bn.running_"
    for kind in ("mean", "var"):
        arrays[first + kind], arrays[second + kind] = arrays[second + kind], arrays[first + kind]
        arrays[f"features.2.bn.running_{kind}"] = np.roll(arrays[f"features.2.bn.running_{kind}"], 3)
    for model in (renamed(), NET.model()):  # γ and β tell which layer it is where names do not
        found = findings(model, arrays, tmp_path)
        assert [(f.code, f.node) for f in found] == [("S13", "bn0"), ("S13", "bn1"), ("S13", "bn2")]
        assert "holds the statistics of features.1.bn, and is features.0.bn" in found[0].message
        assert "in another order" in found[2].message and found[2].channels == 8
    arrays = state()
    arrays["features.1.bn.running_mean"] = arrays["features.1.bn.running_mean"] + 1
    found = findings(renamed(), arrays, tmp_path)
    assert [(f.code, f.node) for f in found] == [("S09", "bn1")]


def fold(net: Net, folder: Path) -> Path:
    onnx.save(net.model(), folder / "m.onnx")
    normfold.optimize(folder / "m.onnx", folder / "folded.onnx", config=Config(verify="off", manifest=False))
    return folder / "folded.onnx"


def test_weights_that_were_folded_as_they_should_be(tmp_path: Path) -> None:
    part = with_checkpoint(open_subject(fold(NET, tmp_path)), safetensors(state(), tmp_path / "w.safetensors"))
    assert not part.findings and part.references[0].matched == 3


@pytest.mark.parametrize("epsilon", [1e-3, 0.0123])
def test_the_epsilon_that_explains_the_fold(epsilon: float, tmp_path: Path) -> None:
    faint = Net(layers=3, gain=0.1).fitted(images(24))
    path = fold(replace(faint, epsilon=epsilon), tmp_path)
    found = findings(path, state(faint), tmp_path)
    assert [(f.code, f.severity) for f in found] == [("X01", Severity.WARNING)] * 3
    assert [f.evidence[0].value for f in found] == [pytest.approx(epsilon, rel=0.02)] * 3
    assert not findings(path, state(faint), tmp_path, epsilon=epsilon)
    assert {f.severity for f in findings(path, state(faint), tmp_path, epsilon=1e-5)} == {Severity.ERROR}


def test_weights_that_were_folded_with_other_statistics(tmp_path: Path) -> None:
    arrays = state()
    arrays["features.0.bn.running_var"] = arrays["features.0.bn.running_var"] * np.linspace(0.3, 3, 8, dtype=np.float32)
    arrays["features.1.bn.running_mean"] = arrays["features.1.bn.running_mean"] + 0.5
    found = findings(fold(NET, tmp_path), arrays, tmp_path)
    assert [(f.code, f.node, f.severity) for f in found] == [
        ("X01", "conv0", Severity.ERROR), ("X01", "conv1", Severity.ERROR)
    ]  # fmt: skip
    assert "no statistics of the checkpoint explain" in found[0].message and "other means" in found[1].message


def test_weights_that_were_folded_with_those_of_another_layer(tmp_path: Path) -> None:
    weights = NET.weights()
    swapped = [np.array(weights[f"mean{i}"]) for i in (0, 2, 1)], [np.array(weights[f"var{i}"]) for i in (0, 2, 1)]
    arrays = state(replace(NET, mean=tuple(swapped[0]), var=tuple(swapped[1])))
    for i, j in ((1, 2), (2, 1)):
        for part, ours in (("weight", "gamma"), ("bias", "beta")):
            arrays[f"features.{i}.bn.{part}"] = weights[f"{ours}{j}"]
    found = findings(fold(NET, tmp_path), arrays, tmp_path)
    assert [f.node for f in found] == ["conv1", "conv2"]
    assert "folded with the statistics of features.2.bn; features.1.bn stands behind it" in found[0].message


def test_matching_leaves_out_what_is_not_there() -> None:
    sites = open_subject(NET.model()).sites
    some = {name: a for name, a in state().items() if "features.1" not in name}
    pairs = matched(sites, norms(some))
    assert [pairs[site.key].name if site.key in pairs else None for site in sites] == [
        "features.0.bn", None, "features.2.bn"
    ]  # fmt: skip


def test_a_pt_file_and_its_nests(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {f"module.{name}": torch.from_numpy(np.array(a)) for name, a in state().items()}
    torch.save({"epoch": 3, "state_dict": tensors, "note": "best"}, tmp_path / "w.pt")
    read = read_checkpoint(tmp_path / "w.pt")
    assert read.keys() == state().keys()
    report = normfold.check(NET.model(), checkpoint=tmp_path / "w.pt")
    assert report.references[0].matched == 3 and report.references[0].kind == "checkpoint"


def test_what_would_run_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert caught.value.code == "checkpoint.objects" and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.safetensors", "short.safetensors", "lies.safetensors", "w.h5", "text.pt"])
def test_damaged_files_are_one_line(name: str, tmp_path: Path) -> None:
    if name.endswith(".pt"):
        pytest.importorskip("torch")
    path = safetensors(state(), tmp_path / "whole.safetensors")
    content = {
        "short.safetensors": path.read_bytes()[:-40],
        "lies.safetensors": struct.pack("<Q", 1 << 40) + b"{}",
        "w.h5": b"HDF",
        "text.pt": b"not a checkpoint",
    }
    if name in content:
        (tmp_path / name).write_bytes(content[name])
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / name)
    assert caught.value.code.startswith("checkpoint.") and "\n" not in str(caught.value)


def test_planted_fold_with_another_epsilon(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models import planted

    case = planted.build("folded_with_other_epsilon")
    found = findings(case.model, dict(case.state), tmp_path, epsilon=case.epsilon)
    assert len(found) == 20 and {f.code for f in found} == {case.code}
    assert {round(f.evidence[0].value or 0, 5) for f in found} == {0.001}


def test_planted_swap_by_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models import planted

    case, healthy = planted.build("swapped_layers"), planted.build("healthy_cnn")
    found = findings(case.model, dict(healthy.state), tmp_path)
    assert tuple(f.node for f in found) == case.labels_at_fault() and {f.code for f in found} == {"S13"}
    assert not findings(healthy.model, dict(healthy.state), tmp_path)


def test_names_of_initializers_survive_numpy_helper() -> None:
    """The model under test holds what the checkpoint holds; else the tests above would compare nothing."""
    stored = {t.name: numpy_helper.to_array(t) for t in renamed().graph.initializer}
    for name, array in state(count=None).items():
        if ".bn." in name:
            np.testing.assert_array_equal(stored[name], array)
