"""`stats`: any number of parts is one measurement, baselines stand in for statistics, and mistakes are one line."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold
from normfold import Config
from normfold.checking import CheckConfig
from normfold.collecting import collect_over_ray, collect_part, merge_files, record_baseline, write_file
from normfold.errors import EnvironmentProblem, InputError
from normfold.statistics.data import DataOptions
from normfold.statistics.shards import Part, Shard, merged, read_part
from tests.check.networks import Net, images

X = images(150)
NET = Net(layers=3).fitted(X)
OPTIONS = DataOptions(batch=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(NET.model(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "m.onnx"


def part(model: Path, index: int, count: int, **options: object) -> Part:
    shard = Shard(index, count)
    return collect_part(model, model.parent / "x.npy", shard, options=dataclasses.replace(OPTIONS, **options))


def estimates(whole: Part) -> list[np.ndarray]:
    names = ("mean", "var", "var_unbiased", "se_mean", "se_var", "n_eff", "psi", "shuffling", "low", "high")
    return [getattr(m.estimate(), name) for m in whole.moments.values() for name in names]


@pytest.mark.parametrize("count", [2, 7, 19])
@pytest.mark.parametrize("grouped", [False, True])
def test_any_number_of_shards_is_one_pass(model: Path, count: int, grouped: bool) -> None:
    options: dict[str, object] = {}
    if grouped:
        groups = np.array([f"g{i // 6}" for i in range(len(X))])
        np.savez(model.parent / "x.npz", x=X, who=groups)
        options["group_key"] = "who"
    source = model.parent / ("x.npz" if grouped else "x.npy")
    made = dataclasses.replace(OPTIONS, **options)
    whole = collect_part(model, source, Shard(0, 1), options=made)
    files = []
    for index in range(count):
        piece = collect_part(model, source, Shard(index, count), options=made)
        files.append(write_file(piece.to_bytes(), model.parent / f"{index}.npz"))
    together = merge_files(files[::-1])
    assert (together.samples, together.batches) == (whole.samples, whole.batches)
    for one, other in zip(estimates(whole), estimates(together), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=0)
    assert together.to_bytes() == merge_files(files).to_bytes()


def test_merged_parts_merge_again(model: Path) -> None:
    pieces = [part(model, i, 3) for i in range(3)]
    half = merged(pieces[:2], ["a", "b"])
    assert half.shards == (0, 1) and not half.is_complete
    whole = merged([half, pieces[2]], ["ab", "c"])
    assert whole.is_complete
    for one, other in zip(estimates(merged(pieces, ["a", "b", "c"])), estimates(whole), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=0)


def test_a_part_comes_back_from_its_file(model: Path) -> None:
    piece = part(model, 1, 4)
    path = write_file(piece.to_bytes(), model.parent / "p.npz")
    back = read_part(path)
    assert back.to_bytes() == piece.to_bytes() and back.shards == (1,) and back.labels == piece.labels
    assert path.stat().st_size < 40_000


def test_what_does_not_belong_together_is_refused(model: Path) -> None:
    pieces = [write_file(part(model, i, 3).to_bytes(), model.parent / f"{i}.npz") for i in range(3)]
    (model.parent / "copy.npz").write_bytes(pieces[0].read_bytes())
    other = model.parent / "other.npz"
    onnx.save(NET.with_layer(0, mean=NET.mean[0] + 1).model(), model.parent / "other.onnx")
    write_file(part(model.parent / "other.onnx", 2, 3).to_bytes(), other)
    quarter = write_file(part(model, 2, 4).to_bytes(), model.parent / "quarter.npz")
    cases = [
        ([*pieces, model.parent / "copy.npz"], "moments.twice"),
        (pieces[:2], "moments.missing"),
        ([*pieces[:2], other], "moments.other"),
        ([*pieces[:2], quarter], "moments.other"),
        ([model], "moments.damaged"),
        ([model.parent / "none.npz"], "moments.missing"),
    ]
    for files, code in cases:
        with pytest.raises(InputError) as caught:
            merge_files(files)
        assert caught.value.code == code and "\n" not in str(caught.value)
    assert merge_files(pieces[:2], partial=True).shards == (0, 1)


def test_a_changed_number_is_noticed(model: Path) -> None:
    piece = part(model, 0, 1)
    arrays = dict(np.load(write_file(piece.to_bytes(), model.parent / "p.npz")))
    arrays["0000.low"] = arrays["0000.low"] + 1
    np.savez(model.parent / "p.npz", **arrays)
    with pytest.raises(InputError, match="checksum"):
        read_part(model.parent / "p.npz")


def test_folded_models_are_measured_through_their_manifest(model: Path) -> None:
    normfold.optimize(model, model.parent / "folded.onnx", config=Config(verify="off"))
    one, other = part(model, 0, 1), part(model.parent / "folded.onnx", 0, 1)
    assert list(other.labels.values()) == list(one.labels.values())
    for mine, theirs in zip(one.moments.values(), other.moments.values(), strict=True):
        np.testing.assert_allclose(theirs.estimate().var, mine.estimate().var, rtol=1e-4)
    normfold.optimize(model, model.parent / "bare.onnx", config=Config(verify="off", manifest=False))
    with pytest.raises(InputError, match="stats record"):
        part(model.parent / "bare.onnx", 0, 1)


def shifted(x: np.ndarray) -> np.ndarray:
    return (1.6 * x + 0.5).astype(np.float32)


def test_a_baseline_stands_in_for_statistics(model: Path) -> None:
    """A model that was folded elsewhere: later data of the same kind passes, shifted data does not."""
    normfold.optimize(model, model.parent / "bare.onnx", config=Config(verify="off", manifest=False))
    bare, baseline = model.parent / "bare.onnx", model.parent / "base.npz"
    made = record_baseline(bare, model.parent / "x.npy", baseline, options=OPTIONS)
    assert [layer.node for layer in made.layers] == ["conv0", "conv1", "conv2"] and baseline.is_file()
    config = CheckConfig(data=OPTIONS)
    same = normfold.check(bare, data={"x": images(150, seed=7)}, baseline=baseline, config=config)
    assert max(layer.j or 0 for layer in same.layers) < 0.05 and same.references[0].kind == "baseline"
    other = normfold.check(bare, data={"x": shifted(X)}, baseline=baseline, config=config)
    assert other.verdict == "fail" and (other.layers[0].j or 0) > 0.25
    with pytest.raises(InputError) as caught:
        onnx.save(Net(layers=1, seed=3).model(), model.parent / "else.onnx")
        renamed = onnx.load(str(model.parent / "else.onnx"))
        for layer in renamed.graph.node:
            layer.input[:] = [f"z{name}" if name.startswith(("conv", "bn")) else name for name in layer.input]
            layer.output[:] = [f"z{name}" if name.startswith(("conv", "bn")) else name for name in layer.output]
        normfold.check(renamed, data={"x": X}, baseline=baseline, config=config)
    assert caught.value.code == "baseline.other"


def test_check_sees_a_fold_through_its_manifest(model: Path) -> None:
    wrong = NET.with_layer(1, mean=NET.mean[1] + 3 * np.sqrt(NET.var[1]))
    onnx.save(wrong.model(), model)
    normfold.optimize(model, model.parent / "folded.onnx", config=Config(verify="off"))
    report = normfold.check(model.parent / "folded.onnx", data={"x": X}, config=CheckConfig(data=OPTIONS))
    assert report.verdict == "fail" and report.findings[0].node == "bn1" and report.findings[0].is_root_cause
    assert report.references[0].kind == "manifest" and report.references[0].matched == 3
    (model.parent / "folded.normstats.npz").unlink()
    alone = normfold.check(model.parent / "folded.onnx")
    assert any("is not beside the model" in warning for warning in alone.warnings)


def test_a_ray_cluster_measures_the_same(model: Path) -> None:
    pytest.importorskip("ray")
    whole = part(model, 0, 1)
    over = collect_over_ray(model, str(model.parent / "x.npy"), 2, options=OPTIONS)
    assert over.is_complete and over.count == 2
    for one, other in zip(estimates(whole), estimates(over), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=0)
    with pytest.raises(InputError) as caught:
        collect_over_ray(model, str(model.parent / "none.npy"), 2, options=OPTIONS)
    assert caught.value.code == "data.missing"


def test_without_ray_one_line_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentProblem, match="pip install"):
        collect_over_ray(model, str(model.parent / "x.npy"), 2)


def test_an_error_crosses_processes_as_it_is() -> None:
    error = InputError("a.b", "what", where="here", hint="how")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is InputError and vars(back) == vars(error) and str(back) == str(error)
