"""Folded models: the manifest says what was folded, and statistics can be measured as if nothing had been."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import models
import normfold
from normfold import Config
from normfold.errors import InputError
from normfold.model.load import load
from normfold.statistics.collect import Collected
from normfold.statistics.folded.finding import Shown, find_manifest, shown
from normfold.statistics.folded.manifest import STATS_KEY, manifest
from normfold.statistics.folded.records import Record, Records, read_records
from normfold.statistics.probes.collector import collect
from normfold.statistics.subject import Subject, open_subject
from normfold.surgery.apply import apply
from normfold.surgery.planner import Exclusions, make_plan
from tests.check.networks import Net, images
from tests.check.sources import Arrays, batches
from tests.model.build import net, node

X = images(24)
NET = Net(layers=3).fitted(X)
NAMES = [name for name in models.names() if name in models.TORCH_FREE or not name.endswith("_dynamo")]
OFF = Config(verify="off")


def fold(model: ModelProto, folder: Path, config: Config = OFF) -> Path:
    onnx.save(model, folder / "m.onnx")
    normfold.optimize(folder / "m.onnx", folder / "folded.onnx", config=config)
    return folder / "folded.onnx"


def view(path: Path) -> Shown:
    folded = open_subject(path)
    records = find_manifest(folded.original)
    assert records is not None
    return shown(folded, records)


def compare(original: Subject, seen: Shown, before: Collected, after: Collected) -> float:
    """Largest difference of moments, in standard deviations, over everything that both could measure."""
    sites = {site.label: site for site in original.sites}
    worst, compared = 0.0, 0
    for key, record in seen.by_site.items():
        site = sites[record.label]
        if site.key not in before.moments or key not in after.moments:
            continue
        one, other = before.moments[site.key].estimate(), after.moments[key].estimate()
        clear = np.abs(record.gamma) > 2e-3 * np.median(np.abs(record.gamma))
        spread = record.var + record.epsilon
        shift = np.abs(one.mean - other.mean) / np.sqrt(spread)
        ratio = np.abs(np.log((one.var + record.epsilon) / (other.var + record.epsilon)))
        worst = max(worst, float(shift[clear].max()), float(ratio[clear].max()))
        compared += 1
    assert compared, "nothing was compared"
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_moments_in_front_of_what_was_folded_are_recovered(name: str, tmp_path: Path) -> None:
    """For every reference model: fold, and measure the same as before, wherever the manifest says that it can be done."""
    if name not in models.TORCH_FREE:
        pytest.importorskip("torch")
    model = models.build(name)
    path = fold(model, tmp_path)
    folded = open_subject(path)
    records = find_manifest(folded.original)
    if records is None:
        gone = len(open_subject(model).sites) - len(folded.sites)
        assert not gone or name == "repvgg", "normalisations went without a trace"
        return
    feeds = models.feeds(model, 0, 8)
    if any(array.ndim == 0 for array in feeds.values()):
        pytest.skip("an input has no axis of samples")
    seen = shown(folded, records)
    assert all("is an input of the model" in reason for reason in seen.skipped.values())
    source = Arrays(feeds, 8)
    before, after = collect(open_subject(model), source), collect(seen.subject, source)
    assert compare(open_subject(model), seen, before, after) < (5e-3 if "fp16" in name else 1e-5)
    for output, values in after.outputs.items():
        np.testing.assert_allclose(values, before.outputs[output], rtol=1e-2 if "fp16" in name else 1e-4, atol=2e-3)


def test_a_fold_that_another_one_went_past_is_omitted(tmp_path: Path) -> None:
    """densenet: a later normalisation is folded through the tensor of an earlier one, which holds something else then."""
    pytest.importorskip("torch")
    records = find_manifest(open_subject(fold(models.build("densenet"), tmp_path)).original)
    assert records is not None
    assert dict(records.omitted)["/5/norm/BatchNormalization"].endswith("was folded past it")
    assert "/5/norm/BatchNormalization" not in {record.label for record in records.records}


def test_a_planted_shift_is_seen_through_the_fold(tmp_path: Path) -> None:
    wrong = NET.with_layer(1, mean=NET.mean[1] + 2 * np.sqrt(NET.var[1]))
    seen = view(fold(wrong.model(), tmp_path))
    assert seen.subject.path == tmp_path / "folded.onnx" and not seen.folded.sites
    found = collect(seen.subject, batches(X)).moments
    shifts = []
    for site in seen.subject.sites:
        assert site.mean is not None and site.var is not None
        shifts.append(np.median((found[site.key].estimate().mean - site.mean) / np.sqrt(site.var)))
    np.testing.assert_allclose(shifts[0], 0, atol=1e-3)
    np.testing.assert_allclose(shifts[1], -2, atol=1e-2)
    assert [site.label for site in seen.subject.sites] == ["bn0", "bn1", "bn2"]


def test_the_same_fold_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    onnx.save(NET.model(), tmp_path / "m.onnx")
    for name in ("a", "b"):
        normfold.optimize(tmp_path / "m.onnx", tmp_path / f"{name}.onnx", config=OFF)
    first, second = ((tmp_path / f"{name}.normstats.npz").read_bytes() for name in ("a", "b"))
    assert first == second and (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    said = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "a.onnx")).metadata_props}
    assert said[STATS_KEY] == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize("config", [Config(verify="off", manifest=False), Config(verify="off", metadata=False)])
def test_no_manifest_where_none_is_wanted_or_none_can_be_named(config: Config, tmp_path: Path) -> None:
    path = fold(NET.model(), tmp_path, config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folded.onnx", "m.onnx"]
    assert find_manifest(open_subject(path).original) is None


def test_a_manifest_is_found_under_another_name_and_missed_aloud(tmp_path: Path) -> None:
    path = fold(NET.model(), tmp_path)
    manifest = tmp_path / "folded.normstats.npz"
    manifest.rename(tmp_path / "kept.normstats.npz")
    assert find_manifest(open_subject(path).original) is not None
    (tmp_path / "kept.normstats.npz").unlink()
    with pytest.raises(InputError, match="is not beside the model"):
        find_manifest(open_subject(path).original)
    manifest.write_bytes(Records("manifest", ()).to_bytes())
    with pytest.raises(InputError, match="is that of another model"):
        find_manifest(open_subject(path).original)


def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.normstats.npz"
    for content, code in ((b"PK nothing", "manifest.damaged"), (Records("baseline", ()).to_bytes(), "manifest.kind")):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_records(path, "manifest")
        assert caught.value.code == code and "\n" not in str(caught.value)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    vectors = {name: np.random.default_rng(i).normal(size=3) for i, name in enumerate(("gamma", "beta", "mean", "var"))}
    record = Record("t", "input", "bn", "graph:1", "", 1e-5, **vectors)
    path = tmp_path / "x.npz"
    path.write_bytes(Records("manifest", (record,), "abc", omitted=(("bn2", "why"),)).to_bytes())
    back = read_records(path, "manifest")
    assert back.source_sha256 == "abc" and back.omitted == (("bn2", "why"),)
    assert (back.records[0].tensor, back.records[0].side, back.records[0].epsilon) == ("t", "input", 1e-5)
    for name, vector in vectors.items():
        np.testing.assert_array_equal(getattr(back.records[0], name), vector)


def _series(blocks: int, norms: int) -> ModelProto:
    """`blocks` times Conv, as many BatchNormalizations and Relu."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], {}, "x"
    for block in range(blocks):
        weights[f"{block}.w"] = rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
        nodes.append(node("Conv", [last, f"{block}.w"], [f"{block}.c"]))
        last = f"{block}.c"
        for norm in range(norms):
            name = f"{block}.{norm}"
            weights |= {f"{name}{part}": rng.uniform(0.9, 1.1, 4).astype(np.float32) for part in "sbmv"}
            nodes.append(node("BatchNormalization", [last, *(f"{name}{part}" for part in "sbmv")], [name]))
            last = name
        nodes.append(node("Relu", [last], [f"{block}.r"]))
        last = f"{block}.r"
    return net(nodes, {"x": [1, 4, 2, 2]}, [last], weights)


def _calls(model: ModelProto) -> int:
    """Python calls that writing down the statistics of a fold makes."""
    loaded = load(model)
    plan = make_plan(loaded, Exclusions({}))
    candidate = apply(loaded, plan, {})
    count = 0

    def tally(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(tally)
    try:
        records = manifest(plan, candidate, None)
    finally:
        sys.setprofile(None)
    assert records is not None
    return count


def test_the_work_of_a_manifest_grows_with_the_model() -> None:
    assert _calls(_series(400, 1)) < 2.2 * _calls(_series(200, 1))


def test_very_many_norms_in_one_tensor_are_omitted_with_a_reason() -> None:
    """A block of one norm, and one of 70."""
    model, long = _series(1, 1), _series(1, 70)
    for item in [*long.graph.node, *long.graph.initializer, *long.graph.output]:
        item.name = f"long.{item.name}"
    for one in long.graph.node:
        one.input[:] = [f"long.{name}" if name != "x" else "0.r" for name in one.input]
        one.output[:] = [f"long.{name}" for name in one.output]
    model.graph.node.extend(long.graph.node)
    model.graph.initializer.extend(long.graph.initializer)
    del model.graph.output[:]
    model.graph.output.extend(long.graph.output)
    loaded = load(model)
    plan = make_plan(loaded, Exclusions({}))
    records = manifest(plan, apply(loaded, plan, {}), None)
    assert records is not None
    assert len(records.records) == 1
    assert len(records.omitted) == 70
    assert all("more than 64 others" in reason for _, reason in records.omitted)
