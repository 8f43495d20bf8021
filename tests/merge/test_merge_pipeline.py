"""Merges through the whole pipeline: regions that hold what they must, a guilty merge that goes, options, the report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

import models
import normfold
from normfold import Config
from normfold.model.load import load
from normfold.surgery.apply import apply
from normfold.verification.plan_regions import RegionList
from tests.support import batch_norm, build, compare, operators, plan_of, random

BLOCK = {"w": random(4, 4, 3, 3), "u": random(4, 4, 1, 1, seed=1), **batch_norm(4), **batch_norm(4, seed=7, prefix="q")}
TEXT = (
    "c = Conv<pads=[1,1,1,1]>(x, w) b1 = BatchNormalization(c, g, b, m, v) d = Conv(x, u) "
    "i = BatchNormalization(x, qg, qb, qm, qv) s = Add(b1, d) t = Add(s, i) y = Relu(t)"
)


def block(**options: object) -> ModelProto:
    return build(TEXT, "float[N,4,8,8] x", "y", BLOCK, **options)  # type: ignore[arg-type]


def row(outs: int = 4) -> ModelProto:
    init = {"a": random(6, 6, 3, 3), "ab": random(6), "e": random(outs, 6, 1, 1, seed=1), "eb": random(outs)}
    return build("c = Conv(x, a, ab) d = Conv(c, e, eb) y = Relu(d)", "float[N,6,8,8] x", "y", init)


def codes(result: normfold.Result) -> list[str]:
    return [decision.code for decision in result.report.decisions]


def test_a_region_holds_every_node_concerned() -> None:
    model = block()
    plan = plan_of(model)
    assert [len(edit.dropped) for edit in plan.edits] == [0, 3]
    (region,) = list(RegionList(plan, apply(load(model), plan, {})))
    assert sorted(operators(region.before)) == sorted(op for op in operators(model) if op != "Relu")
    assert operators(region.after) == ["Conv"]
    compare(region.before, region.after)


def test_a_region_of_a_row() -> None:
    model = row()
    plan = plan_of(model)
    (region,) = list(RegionList(plan, apply(load(model), plan, {})))
    assert operators(region.before) == ["Conv", "Conv"]
    assert operators(region.after) == ["Conv"]
    compare(region.before, region.after)


def test_a_region_across_something_else() -> None:
    """The sum that stays in between belongs to the region; what it adds flows in."""
    text = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, u) s = Sub(z, c) y = Add(s, d)"
    model = build(text, "float[N,4,8,8] x, float[N,4,8,8] z", "y", BLOCK)
    plan = plan_of(model)
    (region,) = list(RegionList(plan, apply(load(model), plan, {})))
    assert sorted(operators(region.before)) == ["Add", "Conv", "Conv", "Sub"]
    assert sorted(operators(region.after)) == ["Conv", "Sub"]
    compare(region.before, region.after)
    result = normfold.optimize(model)
    assert result.report.verification is not None
    assert result.report.verification.verdict == "PASS"
    assert codes(result) == ["NF103"]


@pytest.mark.parametrize("level", ["region", "full"])
@pytest.mark.parametrize(
    ("model", "formula", "wrong", "nodes", "kept", "code"),
    [
        (
            block(),
            "add_convolutions.summed",
            lambda terms, dims: REAL["summed"](terms[:-1], dims),
            ["t", "s"],  # without the whole tree, its inner sum is tried
            ["Conv", "Conv", "BatchNormalization", "Add", "Add"],
            "NF103.verification",
        ),
        (
            row(),
            "rows.before_point",
            lambda *parts: np.flip(REAL["before_point"](*parts), 0),
            ["d"],
            ["Conv", "Conv"],
            "NF104.verification",
        ),
    ],
)
def test_a_wrong_merge_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    model: ModelProto,
    formula: str,
    wrong: object,
    nodes: list[str],
    kept: list[str],
    code: str,
) -> None:
    monkeypatch.setattr(f"normfold.affine.merge.{formula}", wrong)
    result = normfold.optimize(model, config=Config(verify=level))
    assert [dropped.node for dropped in result.report.dropped] == nodes
    assert [op for op in operators(result.model) if op != "Relu"] == kept
    assert [found for found in codes(result) if found.endswith(".verification")] == [code] * len(nodes)
    compare(model, result.model)


from normfold.affine.merge.weights import before_point, summed  # noqa: E402 - the real ones, before anything is patched

REAL = {"summed": summed, "before_point": before_point}


def test_a_merge_whose_weights_leave_their_range_goes_alone() -> None:
    small = {"a": random(6, 6, low=1e-4, high=1.9e-4), "e": random(6, 6, low=1e-4, high=1.9e-4, seed=1)}
    init = {name: np.where(array > 1e-3, 1.5e-4, array).astype(np.float16) for name, array in small.items()}
    init |= {"k": random(6, 6).astype(np.float16), "s": random(6).astype(np.float16)}
    text = "c = MatMul(x, a) d = MatMul(c, e) r = Relu(d) f = MatMul(r, k) y = Mul(f, s)"
    result = normfold.optimize(build(text, "float16[N,6] x", "y", init))
    assert sorted(codes(result)) == ["NF102", "NF104.dtype-range"]
    assert (
        normfold.optimize(build(text, "float16[N,6] x", "y", init), dry_run=True).report.decisions
        == result.report.decisions
    )


def test_aggressive() -> None:
    init = {"a": random(6, 1, 3, 3), "e": random(6, 6, 1, 1)}
    model = build("c = Conv<group=6>(x, a) y = Conv(c, e)", "float[N,6,8,8] x", "y", init)
    plain = normfold.optimize(model)
    assert codes(plain) == ["NF104.cost"]
    assert not plain.changed
    result = normfold.optimize(model, config=Config(aggressive=True))
    assert codes(result) == ["NF104"]
    assert "324 parameters instead of 90" in result.report.decisions[0].message
    compare(model, result.model)


def test_aggressive_on_the_command_line(tmp_path: Path) -> None:
    init = {"a": random(6, 1, 3, 3), "e": random(6, 6, 1, 1)}
    onnx.save(build("c = Conv<group=6>(x, a) y = Conv(c, e)", "float[N,6,8,8] x", "y", init), tmp_path / "m.onnx")
    command = [
        sys.executable,
        "-m",
        "cli",
        "optimize",
        str(tmp_path / "m.onnx"),
        "--aggressive",
        "-v",
        "--verify=region",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "324 parameters instead of 90" in " ".join(done.stdout.split())
    assert operators(onnx.load(str(tmp_path / "m.normfold.onnx"))) == ["Conv"]


def test_external_weights(tmp_path: Path) -> None:
    model = block()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    result = normfold.optimize(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert codes(result) == ["NF101", "NF101", "NF103"]
    assert operators(onnx.load(str(tmp_path / "out.onnx"))) == ["Conv", "Relu"]


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    onnx.save(row(), tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").unlink()
    found = normfold.explain(tmp_path / "m.onnx")
    assert [d.code for d in found] == ["NF104.external-data"]
    with pytest.raises(normfold.InputError):
        normfold.optimize(tmp_path / "m.onnx")


def test_the_report_and_the_record() -> None:
    result = normfold.optimize(block())
    assert codes(result) == ["NF101", "NF101", "NF103"]
    merge = result.report.decisions[-1]
    assert merge.op_type == "Add"
    assert merge.message == "merged into Conv 'c' with Conv 'd', BatchNormalization 'i'"
    assert {entry.key: entry.value for entry in result.model.metadata_props}["pkg.normfold.passes"] == "NF101:2 NF103:1"
    assert {op.op_type: (op.before, op.after) for op in result.report.ops} == {
        "Add": (2, 0),
        "BatchNormalization": (2, 0),
        "Conv": (2, 1),
        "Relu": (1, 1),
    }


def test_repvgg_becomes_one_conv_per_block() -> None:
    """Against the values of the original in onnxruntime, its optimisations off."""
    original = models.build("repvgg")
    result = normfold.optimize(original)
    assert sorted(operators(result.model)) == sorted(["Conv", "Relu"] * 4 + ["GlobalAveragePool", "Flatten", "Gemm"])
    assert result.report.dropped == ()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = models.feeds(original, seed=3)
    old, new = (
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (original, result.model)
    )
    np.testing.assert_allclose(new, old, rtol=2e-5, atol=2e-5 * float(np.abs(old).max()))
    again = normfold.optimize(result.model)
    assert not again.changed
    assert not [d for d in again.report.decisions if d.code.startswith(("NF101", "NF103"))]
