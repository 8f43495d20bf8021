"""What `check`, `stats` and `recalibrate` make of statistics in the bodies of If and Loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from normfold.checking import CheckConfig, check
from normfold.errors import InputError
from normfold.recalibration import recalibrate
from normfold.statistics.collect import NOT_REACHED
from normfold.statistics.probes.collector import collect
from normfold.statistics.shards import Part, Shard, merged
from normfold.statistics.subject import open_subject
from normfold.statistics.with_data import DataSettings
from normfold.undoing import undo
from tests.check.bodies import EPSILON, WEIGHTS, C, X, body, branching, looping, moments, norm
from tests.check.sources import batches
from tests.model.build import node, run


def test_parts_merge_where_only_some_reach_a_branch() -> None:
    subject = open_subject(branching())
    labels = {site.key: site.label for site in subject.sites}

    def part(shard: Shard) -> Part:
        found = collect(subject, batches(X, 4), wanted=shard)
        return Part(
            "m", found.moments, labels, (shard.index,), shard.count, found.samples, found.batches, "x",
            {shard.index: found.sha256}, found.skipped,
        )  # fmt: skip

    parts = [part(Shard(index, 4)) for index in range(4)]
    assert [len(piece.moments) for piece in parts] == [1, 1, 1, 1]
    whole, together = part(Shard(0, 1)), merged(parts[::-1], list("abcd"))
    assert list(together.moments) == list(whole.moments) and not together.skipped
    for key, state in whole.moments.items():
        one, other = state.estimate(), together.moments[key].estimate()
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-12)
        np.testing.assert_allclose(other.se_var, one.se_var, rtol=1e-12)
        assert one.samples == other.samples
    never = merged(parts[:2], ["a", "b"])
    assert list(never.skipped.values()) == [NOT_REACHED]
    broken = dataclasses.replace(parts[0], skipped=dict.fromkeys(parts[0].skipped, "other"))
    with pytest.raises(InputError, match="different measurements"):
        merged([broken, parts[2]], ["a", "c"])


def fitted_branches() -> tuple[ModelProto, np.ndarray]:
    """Two norms behind each other in a branch, whose statistics are those of data that all goes through it."""
    x = np.random.default_rng(7).normal(0.7, 1.3, (480, C, 5)).astype(np.float32)
    rng = np.random.default_rng(8)
    weight = (rng.normal(size=(C, C, 1)) * 0.6).astype(np.float32)
    first = normalised_with(x, *moments([x]))
    behind = np.einsum("oi,nil->nol", weight[:, :, 0], np.maximum(first, 0))
    own = {"mean2": moments([behind])[0].astype(np.float32), "var2": moments([behind])[1].astype(np.float32)}
    then = body(
        [
            norm("x", "a", "front"),
            node("Relu", ["a"], ["r0"]),
            node("Conv", ["r0", "weight"], ["c"]),
            node("BatchNormalization", ["c", "gamma", "beta", "mean2", "var2"], ["t"], name="behind"),
        ],
        ["t"], weights=own,
    )  # fmt: skip
    model = branching(then=then, other=body([node("Identity", ["x"], ["e"])], ["e"]))
    known = dict(zip(("mean", "var"), moments([x]), strict=True))
    for tensor in model.graph.initializer:
        if tensor.name in known:
            tensor.CopyFrom(numpy_helper.from_array(known[tensor.name].astype(np.float32), tensor.name))
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return model, x


def normalised_with(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    gamma, beta, mean, var = (v.reshape(1, C, 1) for v in (WEIGHTS["gamma"], WEIGHTS["beta"], mean, var))
    return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta


def change(model: ModelProto, name: str, values: np.ndarray) -> ModelProto:
    """With other numbers in an initializer, wherever it stands."""
    changed = ModelProto.FromString(model.SerializeToString())
    inner = [a.g for n in changed.graph.node for a in n.attribute if a.HasField("g")]
    for graph in (changed.graph, *inner):
        for tensor in graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return changed


def stored(model: ModelProto, name: str) -> np.ndarray:
    inner = [a.g for n in model.graph.node for a in n.attribute if a.HasField("g")]
    found = [t for graph in (model.graph, *inner) for t in graph.initializer if t.name == name]
    return numpy_helper.to_array(found[0])


def test_a_fault_in_a_branch_is_found_and_its_victim_is_told_apart() -> None:
    model, x = fitted_branches()
    assert {layer.node: layer.status for layer in check(model, data=batches(x, 32)).layers} == {
        "front": "pass", "behind": "pass"
    }  # fmt: skip
    report = check(change(model, "mean", stored(model, "mean") + 2), data=batches(x, 32))
    layers = {layer.node: layer for layer in report.layers}
    assert report.verdict == "fail" and layers["front"].is_root_cause
    assert layers["behind"].collateral_of == layers["front"].key


@pytest.mark.parametrize("names", [("mean", "var"), ("mean2", "var2")])
def test_statistics_in_a_branch_are_repaired(names: tuple[str, str], tmp_path: Path) -> None:
    """Those of the main graph that a branch reads, and those that lie in the branch itself; and back again."""
    model, x = fitted_branches()
    onnx.save(change(change(model, names[0], np.zeros(C)), names[1], np.ones(C)), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    done = recalibrate(tmp_path / "m.onnx", tmp_path / "new.onnx", data=batches(x, 32))
    written = onnx.load(tmp_path / "new.onnx")
    run(written, {"x": x})
    used = x.reshape(-1, 32, C, 5)[[i for i in range(15) if i % 4 != 3]].reshape(-1, C, 5)
    if names[0] == "mean":
        np.testing.assert_allclose(stored(written, "mean"), moments([used])[0], rtol=1e-4)
        np.testing.assert_allclose(stored(written, "var"), moments([used])[1], rtol=1e-4)
    else:
        np.testing.assert_allclose(stored(written, "mean2"), stored(model, "mean2"), rtol=0.1, atol=0.05)
    assert done.undo is not None
    undo(tmp_path / "new.onnx", done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before


def test_a_fault_in_a_loop_is_found_and_repaired(tmp_path: Path) -> None:
    """The loop feeds its own result back, so that the statistics that fit depend on those that are stored."""
    x = np.random.default_rng(9).normal(0.7, 1.3, (480, C, 5)).astype(np.float32)
    model = looping()
    mean, var = WEIGHTS["mean"].astype(np.float64), WEIGHTS["var"].astype(np.float64)
    for _ in range(60):  # to the fixed point
        seen = [x.astype(np.float64)]
        for _ in range(2):
            seen.append(0.5 * normalised_with(seen[-1], mean, var) + x)
        mean, var = moments(seen)
    fitting = change(change(model, "mean", mean), "var", var)
    assert [layer.status for layer in check(fitting, data=batches(x, 32)).layers] == ["pass"]
    wrong = change(fitting, "mean", mean + 2)
    report = check(wrong, data=batches(x, 32), config=CheckConfig(run=DataSettings(attribution="batch")))
    assert report.verdict == "fail" and report.layers[0].is_root_cause
    onnx.save(wrong, tmp_path / "m.onnx")
    gate = recalibrate(tmp_path / "m.onnx", tmp_path / "new.onnx", data=batches(x, 32)).report.gate
    assert gate is not None and gate.j_before is not None and gate.j_after is not None
    assert gate.j_after < gate.j_before / 4
