"""The gate: a wrong edit is named and dropped, the others stay, and nothing unverified is ever written."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import conv_bn, count, image, listing, run, save, statistics, tensor
from onnx import ModelProto, TensorProto, helper

import normfold
from normfold import Config, EnvironmentProblem, GateError, Status, WorkerError
from normfold.affine import absorbers
from normfold.affine.algebra import Affine
from normfold.gate import bisect

Wrong = Callable[[Affine], Affine]


def other_epsilon(affine: Affine) -> Affine:
    return replace(affine, scale=affine.scale * 1.003)


def swapped_channels(affine: Affine) -> Affine:
    return replace(affine, scale=np.flip(affine.scale), shift=np.flip(affine.shift))


def lost_shift(affine: Affine) -> Affine:
    return replace(affine, shift=affine.shift * 0)


def damage(monkeypatch: pytest.MonkeyPatch, wrong: Wrong, *nodes: str) -> None:
    """Make the weights of these nodes wrong."""
    build = absorbers.build

    def patched(draft, node, operand, affine):  # type: ignore[no-untyped-def]
        return build(draft, node, operand, wrong(affine) if node.label in nodes else affine)

    monkeypatch.setattr(absorbers, "build", patched)


def codes(result: normfold.Result) -> dict[str, str]:
    return {decision.node: decision.code for decision in result.report.decisions}


# --- an edit that is wrong ---


@pytest.mark.parametrize("wrong", [other_epsilon, swapped_channels, lost_shift])
@pytest.mark.parametrize("level", ["region", "full"])
def test_a_wrong_edit_is_dropped_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong, level: str
) -> None:
    damage(monkeypatch, wrong, "conv1")
    model = conv_bn()
    result = normfold.optimize(model, tmp_path / "out.onnx", config=Config(verify=level))
    assert [dropped.node for dropped in result.report.dropped] == ["bn1"]
    assert "FAIL" in result.report.dropped[0].reason
    assert codes(result) == {"bn0": "NF101", "bn1": "NF101.verification", "bn2": "NF101"}
    written = onnx.load(str(tmp_path / "out.onnx"))
    assert [node.name for node in written.graph.node if node.op_type == "BatchNormalization"] == ["bn1"]
    np.testing.assert_allclose(run(written, image())[0], run(model, image())[0], rtol=1e-4, atol=1e-5)
    found = result.report.verification
    assert found is not None
    assert found.verdict == "PASS"
    assert len(found.regions) == 2, "the report is about what was written"


def test_every_edit_wrong_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, lost_shift, "conv0", "conv1", "conv2")
    source = save(conv_bn(), tmp_path / "m.onnx")
    result = normfold.optimize(source, tmp_path / "out.onnx")
    assert not result.changed
    assert len(result.report.dropped) == 3
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_all_or_nothing_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, swapped_channels, "conv1")
    source = save(conv_bn(), tmp_path / "m.onnx")
    with pytest.raises(GateError) as caught:
        normfold.optimize(source, tmp_path / "out.onnx", config=Config(all_or_nothing=True))
    assert caught.value.exit_code == 1
    assert caught.value.code == "gate.failed"
    assert sorted(listing(tmp_path)) == ["m.onnx"]


def test_what_was_refused_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, swapped_channels, "conv1")
    model = conv_bn()
    normfold.optimize(model, tmp_path / "out.onnx", keep_rejected=tmp_path / "bad.onnx")
    bad = onnx.load(str(tmp_path / "bad.onnx"))
    assert count(bad) == 0
    assert not np.allclose(run(bad, image())[0], run(model, image())[0], rtol=1e-2)
    assert sorted(listing(tmp_path)) == ["bad.onnx", "out.normstats.npz", "out.onnx"]


def test_a_destination_keeps_its_file_when_the_gate_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, swapped_channels, "conv1")
    (tmp_path / "out.onnx").write_bytes(b"precious")
    with pytest.raises(GateError):
        normfold.optimize(conv_bn(), tmp_path / "out.onnx", config=Config(all_or_nothing=True))
    assert listing(tmp_path) == {"out.onnx": b"precious"}


def test_without_verification_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests rest on: the damage is real, and it is the gate that finds it."""
    damage(monkeypatch, swapped_channels, "conv1")
    model = conv_bn()
    result = normfold.optimize(model, config=Config(verify="off"))
    assert result.report.verification is not None
    assert result.report.verification.verdict == "OFF"
    assert not np.allclose(run(result.model, image())[0], run(model, image())[0], rtol=1e-2)


# --- regions that pass, and a whole that does not ---


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions see nothing: all pass, whatever is in them."""
    import normfold.verification as verification

    real = verification.verify_regions

    def pretend(regions, options, **rest):  # type: ignore[no-untyped-def]
        return tuple(replace(verdict, status=Status.PASS, reason="") for verdict in real(regions, options, **rest))

    monkeypatch.setattr(verification, "verify_regions", pretend)


@pytest.mark.parametrize("culprits", [("conv1",), ("conv0", "conv3"), ("conv0", "conv1", "conv2", "conv3", "conv4")])
def test_the_whole_model_finds_the_culprit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, culprits: tuple[str, ...]
) -> None:
    damage(monkeypatch, swapped_channels, *culprits)
    blind(monkeypatch)
    model = conv_bn(5)
    result = normfold.optimize(model, tmp_path / "out.onnx", keep_rejected=tmp_path / "bad.onnx")
    guilty = {name.replace("conv", "bn") for name in culprits}
    assert {dropped.node for dropped in result.report.dropped} == guilty
    assert all("the whole model differs" in dropped.reason for dropped in result.report.dropped)
    assert {node for node, code in codes(result).items() if code == "NF101"} == {f"bn{i}" for i in range(5)} - guilty
    written = onnx.load(str(tmp_path / "out.onnx"))
    np.testing.assert_allclose(run(written, image())[0], run(model, image())[0], rtol=1e-4, atol=1e-5)
    assert count(onnx.load(str(tmp_path / "bad.onnx"))) == 0, "what was refused, not what the search tried last"


def test_wiring_that_no_region_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of the model taken from the wrong place."""
    from normfold.surgery.apply import _Surgeon

    rename = _Surgeon._rename

    def crossed(self: _Surgeon) -> None:
        rename(self)
        for node in self.model.graph.nodes:
            if node.label == "relu2" and any(gone.label == "bn2" for gone, _ in self.draft.bypassed.values()):
                self.candidate.patch(node.scope).node(node.index).inputs = ["r1"]

    monkeypatch.setattr(_Surgeon, "_rename", crossed)
    model = conv_bn()
    result = normfold.optimize(model, tmp_path / "out.onnx")
    assert "bn2" in {dropped.node for dropped in result.report.dropped}
    np.testing.assert_allclose(run(result.model, image())[0], run(model, image())[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "needs_both", "found"),
    [({3}, False, [3]), ({0, 7}, False, [0, 7]), (set(range(8)), False, list(range(8))), ({2, 3}, True, [2, 3])],
)
def test_halving(bad: set[int], needs_both: bool, found: list[int]) -> None:
    edits = list(range(8))
    asked: list[int] = []

    def fails(part: object) -> bool:
        asked.append(len(part))  # type: ignore[arg-type]
        return bad <= set(part) if needs_both else bool(bad & set(part))  # type: ignore[call-overload]

    assert sorted(bisect(edits, fails)) == found  # type: ignore[arg-type,type-var]
    assert len(asked) <= 2 * len(edits)


# --- weights that leave the range of their type ---


def out_of_range(blocks: int, bad: set[int]) -> ModelProto:
    model = conv_bn(blocks, kind=TensorProto.FLOAT16)
    for item in model.graph.initializer:
        if item.name in {f"bn{i}_g" for i in bad}:
            item.CopyFrom(tensor(item.name, np.full(4, 6e4), TensorProto.FLOAT16))
        if item.name in {f"w{i}" for i in bad}:
            item.CopyFrom(tensor(item.name, np.full(tuple(item.dims), 4.0), TensorProto.FLOAT16))
        if item.name in {f"bn{i}_v" for i in bad}:
            item.CopyFrom(tensor(item.name, np.full(4, 1e-2), TensorProto.FLOAT16))
    return model


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_range_that_is_left_excludes_that_edit_only(dry_run: bool) -> None:
    result = normfold.optimize(out_of_range(3, {1}), config=Config(verify="off"), dry_run=dry_run)
    assert codes(result) == {"bn0": "NF101", "bn1": "NF101.dtype-range", "bn2": "NF101"}
    assert result.report.dropped == (), "that is a refusal, not a failure"


def test_any_number_of_ranges_may_be_left() -> None:
    result = normfold.optimize(out_of_range(80, set(range(1, 80))), config=Config(verify="off"))
    assert codes(result) == {f"bn{i}": "NF101.dtype-range" if i else "NF101" for i in range(80)}


# --- no verdict ---


def random_model() -> ModelProto:
    noise = helper.make_node("RandomNormal", [], ["noise"], "noise", shape=[4, 8, 8])
    add = helper.make_node("Add", ["r1", "noise"], ["y"], "add")
    return conv_bn(2, tail=[noise, add])


def test_a_model_that_draws_random_numbers(tmp_path: Path) -> None:
    """Both sides draw the same numbers, so that it can be compared; what is written draws its own."""
    result = normfold.optimize(random_model(), tmp_path / "out.onnx", config=Config(strict=True))
    found = result.report.verification
    assert found is not None
    assert found.verdict == "PASS"
    written = onnx.load(str(tmp_path / "out.onnx"))
    assert count(written) == 0
    noise = next(node for node in written.graph.node if node.name == "noise")
    assert "seed" not in {attribute.name for attribute in noise.attribute}


def unrepeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose seeds do nothing."""
    from normfold.verification import end_to_end

    monkeypatch.setattr(end_to_end, "_repeats", lambda *_: False)


def test_a_model_that_does_not_repeat_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unrepeatable(monkeypatch)
    result = normfold.optimize(random_model(), tmp_path / "out.onnx")
    found = result.report.verification
    assert found is not None
    assert found.verdict == "INCONCLUSIVE"
    assert "repeat" in found.reason
    assert {region.status for region in found.regions} == {"PASS"}
    assert count(onnx.load(str(tmp_path / "out.onnx"))) == 0


def test_strict_wants_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unrepeatable(monkeypatch)
    with pytest.raises(GateError) as caught:
        normfold.optimize(random_model(), tmp_path / "out.onnx", config=Config(strict=True))
    assert caught.value.code == "gate.inconclusive"
    assert listing(tmp_path) == {}


def foreign_operator() -> ModelProto:
    tail = [helper.make_node("Secret", ["r1"], ["y"], "secret", domain="com.example")]
    model = conv_bn(2, tail=tail)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def test_a_model_that_the_runtime_cannot_load(tmp_path: Path) -> None:
    """The regions can be compared, the whole cannot: it is written, and the report says what the evidence is."""
    result = normfold.optimize(foreign_operator(), tmp_path / "out.onnx")
    found = result.report.verification
    assert found is not None
    assert found.verdict == "INCONCLUSIVE"
    assert "does not run here" in found.reason
    assert [region.status for region in found.regions] == ["PASS", "PASS"]
    assert count(onnx.load(str(tmp_path / "out.onnx"))) == 0
    with pytest.raises(GateError):
        normfold.optimize(foreign_operator(), tmp_path / "strict.onnx", config=Config(strict=True))
    assert sorted(listing(tmp_path)) == ["out.normstats.npz", "out.onnx"]


def test_a_region_without_evidence_needs_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import normfold.verification as verification

    real = verification.verify_regions

    def shy(regions, options, **rest):  # type: ignore[no-untyped-def]
        found = list(real(regions, options, **rest))
        found[0] = replace(found[0], status=Status.INCONCLUSIVE, reason="it would not run")
        return tuple(found)

    monkeypatch.setattr(verification, "verify_regions", shy)
    whole = normfold.optimize(conv_bn())
    assert whole.report.verification is not None
    assert whole.report.verification.verdict == "PASS"
    assert any("rest on the whole model" in line for line in whole.report.verification.warnings)
    alone = normfold.optimize(foreign_operator())
    assert {dropped.reason for dropped in alone.report.dropped} == {"it would not run"}
    assert not alone.changed, "neither its region nor the whole model spoke for any edit"


# --- the child process ---


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "worker.crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "worker.crashed"),
        ("import time; time.sleep(60)", "worker.timeout"),
        ("raise SystemExit(0)", "worker.no_result"),
        ("raise RuntimeError('broken')", "worker.exception"),
        ("raise MemoryError", "resource.memory"),
    ],
)
def test_a_child_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: str) -> None:
    from normfold.verification import runner

    monkeypatch.setattr(runner, "_BOOTSTRAP", program)
    (tmp_path / "out.onnx").write_bytes(b"precious")
    with pytest.raises(WorkerError) as caught:
        normfold.optimize(conv_bn(), tmp_path / "out.onnx", config=Config(timeout_s=1.0))
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert listing(tmp_path) == {"out.onnx": b"precious"}


def test_no_child_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.verification import runner

    started: list[int] = []
    start = runner.Worker._start

    def noted(self: runner.Worker):  # type: ignore[no-untyped-def]
        process = start(self)
        started.append(process.pid)
        return process

    monkeypatch.setattr(runner.Worker, "_start", noted)
    normfold.optimize(conv_bn())
    assert started
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
    assert not [name for name in sys.modules if name.split(".")[0] == "onnxruntime_training"]


@pytest.mark.parametrize(
    ("installed", "code", "fix"),
    [
        ((), "runtime.missing", "pip install"),
        (("onnxruntime", "onnxruntime-gpu"), "runtime.conflict", "pip uninstall"),
    ],
)
def test_the_runtime_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], code: str, fix: str
) -> None:
    from normfold.verification import runtime

    monkeypatch.setattr(runtime, "_version", lambda name: "1.30.0" if name in installed else None)
    source = save(conv_bn(), tmp_path / "m.onnx")
    for action in (
        lambda: normfold.optimize(source, tmp_path / "out.onnx"),
        lambda: normfold.optimize(source, tmp_path / "out.onnx", config=Config(verify="region")),
        lambda: normfold.verify(source, source),
    ):
        with pytest.raises(EnvironmentProblem) as caught:
            action()
        assert caught.value.code == code
        assert fix in caught.value.hint
    assert sorted(listing(tmp_path)) == ["m.onnx"]
    assert normfold.optimize(source, config=Config(verify="off")).changed, "what needs no runtime works without one"
    assert normfold.optimize(source, dry_run=True).report.status == "planned"


# --- statistics of a batch norm that make no sense ---


@pytest.mark.parametrize(
    ("slot", "value", "key"),
    [
        ("v", -1.0, "nonpositive-variance"),
        ("m", np.nan, "non-finite"),
        ("g", np.inf, "non-finite"),
        ("b", np.nan, "non-finite"),
    ],
)
def test_broken_statistics_stay_as_they_are(slot: str, value: float, key: str) -> None:
    model = conv_bn()
    broken = {item.name: item for item in statistics("bn1", 4, 1)}
    for item in model.graph.initializer:
        if item.name == f"bn1_{slot}":
            values = onnx.numpy_helper.to_array(broken[item.name]).copy()
            values[2] = value
            item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
    result = normfold.optimize(model, config=Config(verify="region"))
    assert codes(result) == {"bn0": "NF101", "bn1": f"NF101.{key}", "bn2": "NF101"}
