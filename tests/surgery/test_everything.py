"""Norms and affines leave nothing to each other, and calls nothing to either: one run does it all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import normfold
from normfold import Config
from normfold.model import unwritten
from normfold.model.load import load
from normfold.statistics.folded.finding import find_manifest
from normfold.surgery import everything
from normfold.surgery.plan import Outcome
from normfold.targets.names import Target
from tests.fuzz.generator import random_model
from tests.fuzz.norm_spellings import random_norms
from tests.fuzz.outliner import outlined
from tests.norm.rewriting import stable
from tests.support import batch_norm, build, positive, random
from tests.surgery.norm_models import SEQUENCE, H, Sheet, lowered, plan
from tests.surgery.test_surgery_functions import functional

ORT_CPU = Target.ORT_CPU


def gain_behind_a_shift(x: str = "x") -> Sheet:
    """An RMSNorm has no bias, so that `0.5` stays behind it, and `3` behind that; a mean that is taken out takes the `0.5`."""
    sheet = Sheet()
    sheet.rms_norm(x, "r", at="a")
    sheet.init |= {"c": np.float32(0.5), "k": np.float32(3.0)}
    sheet.add("t = Add(r, c)", "z = Mul(t, k)")
    sheet.mean("z", "zm", (-1,))
    sheet.add("y = Sub(z, zm)")
    return sheet


def held_down_by_a_call() -> ModelProto:
    """The attribute that a call gives keeps the opset low; inlining it, for what folds there, sets it free."""
    sheet = Sheet(10)
    sheet.layer_norm("f", "y")
    body = "part <a> (u, k) => (v) { s = Mul(u, k) v = Pad<pads : ints = @a>(s) }"
    init = {**sheet.init, "W": random(H, H), "k": positive(H)}
    text = "h = MatMul(x, W) f = loc.part<a : ints = [0, 0, 0, 0, 1, 0]>(h, k) " + " ".join(sheet.body)
    return functional(text, [body], init, inputs=SEQUENCE, outputs=f"float[N,6,{H}] y", opset=10, own=10)


def test_a_norm_takes_what_an_affine_in_between_had_kept_from_it() -> None:
    result = lowered(gain_behind_a_shift().model(SEQUENCE), ORT_CPU)
    assert result.operators == ["SimplifiedLayerNormalization", "ReduceMean", "Sub"]
    assert [(d.outcome, d.node) for d in result.plan.decisions] == [
        (Outcome.APPLIED, "r"), (Outcome.APPLIED, "t"), (Outcome.APPLIED, "z"),
    ]  # fmt: skip


def test_a_call_that_folds_away_lets_the_opset_rise() -> None:
    result, found = stable(held_down_by_a_call(), ORT_CPU)
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Pad", "LayerNormalization"]
    assert {d.code for d in found.decisions if d.outcome is Outcome.APPLIED} == {"NF102", "NF202", "NF302"}
    assert not result.functions


@pytest.mark.parametrize("model", [gain_behind_a_shift().model(SEQUENCE), held_down_by_a_call()], ids=["norm", "call"])
def test_every_stage_is_verified(model: ModelProto) -> None:
    result = normfold.optimize(model, config=Config(target=ORT_CPU))
    assert len(result.plan.earlier) == 1
    assert result.report.verification is not None
    assert result.report.verification.verdict.startswith("PASS")
    edits = {edit.id for edit in result.plan.all_edits}
    assert {name for region in result.report.verification.regions for name in region.edits} == edits
    assert normfold.optimize(result.model, config=Config(target=ORT_CPU)).report.status == "unchanged"


def test_an_edit_of_a_later_stage_can_be_left_out() -> None:
    model = gain_behind_a_shift().model(SEQUENCE)
    _, found = plan(model, ORT_CPU)
    (late,) = found.norms
    result, rest = plan(model, ORT_CPU, excluded={late.id: ("verification", "not today")})
    assert [node.op_type for node in result.graph.node] == ["SimplifiedLayerNormalization", "Mul", "ReduceMean", "Sub"]
    assert [d.code for d in rest.decisions if d.outcome is not Outcome.APPLIED][:1] == ["NF102.no-absorber"]


def test_a_weight_of_an_earlier_stage_that_leaves_its_range_is_left_out() -> None:
    sheet = gain_behind_a_shift("h")
    sheet.init |= {"W": np.full((H, H), 3e38, np.float32), "q": 10 * positive(H)}
    sheet.body[:0] = ["wide = MatMul(x, W)", "h = Mul(wide, q)"]
    off = Config(target=ORT_CPU, verify=normfold.VerifyLevel.OFF)
    found = {d.node: d.code for d in normfold.optimize(sheet.model(SEQUENCE), config=off).report.decisions}
    assert found == {"h": "NF102.dtype-range", "r": "NF202", "t": "NF102", "z": "NF202"}
    rehearsed = normfold.optimize(sheet.model(SEQUENCE), config=off, dry_run=True).report.decisions
    assert {d.node: d.code for d in rehearsed} == found


def test_nobody_looks_again_where_nothing_new_can_come_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    monkeypatch.setattr(
        everything, "unwritten", lambda candidate: looks.append(candidate) or unwritten.unwritten(candidate)
    )
    sheet = Sheet()
    sheet.layer_norm("x", "l")
    sheet.init |= {"W": random(H, H), "q": positive(H), "V": random(H, H)}
    sheet.add("one = MatMul(l, W)", "two = Mul(one, q)", "three = Relu(two)", "y = MatMul(three, V)")
    assert lowered(sheet.model(SEQUENCE), ORT_CPU, run=False).operators == [
        "LayerNormalization",
        "MatMul",
        "Relu",
        "MatMul",
    ]
    assert not looks
    lowered(gain_behind_a_shift().model(SEQUENCE), ORT_CPU)
    assert looks


@pytest.mark.parametrize(
    ("seed", "target", "threads"),
    [
        (310010, Target.ORT_CUDA, None),  # a GroupNorm whose Reshape a function holds
        (424406, Target.DIRECTML, None),  # a mean that a function takes out
        (7100047, ORT_CPU, 1),  # the Transposes of a norm beside an affine
        (7100096, Target.TENSORRT, None),
        (7100149, Target.PORTABLE, 1),
    ],
)
def test_random_norms_that_a_second_run_found(seed: int, target: Target, threads: int | None) -> None:
    model = random_norms(seed)
    assert model is not None
    for one in (model, outlined(model, seed)):
        assert one is not None
        stable(one, target, threads)


def test_a_merge_says_how_many_channels_there_are() -> None:
    """Of `x + x·W` nobody knows whether x is broadcast; of `x·(W + I)` the weight says it, and the Neg behind can fold."""
    init = {"W": random(1, 1), "U": random(1, 1, seed=3), "V": random(2, 2)}
    body = "a = MatMul(x, W) s = Add(x, a) t = Relu(s) n = Neg(s) b = MatMul(x, U) c = Concat<axis = 1>(b, n) y = MatMul(c, V)"
    model = build(body, "float[N,k] x", "float[N,2] y, float[N,k] t", init, opset=17)
    result, found = stable(model)
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Relu", "MatMul", "Concat", "MatMul"]
    assert len(found.earlier) == 1
    random_one = random_model(5001343)
    assert random_one is not None
    stable(random_one)


def test_a_sum_that_a_second_run_found_through_a_call() -> None:
    model = random_model(1202031)
    assert model is not None
    moved = outlined(model, 1202031)
    assert moved is not None
    stable(moved)


def test_statistics_of_every_stage_are_in_the_manifest(tmp_path: Path) -> None:
    sheet = gain_behind_a_shift("h")
    sheet.init |= {"W": random(4, 3, 1, 1), **batch_norm(4, prefix="n")}
    sheet.body[:0] = ["wide = Conv(x, W)", "h = BatchNormalization(wide, ng, nb, nm, nv)"]
    model = sheet.model(f"float[N,3,5,{H}] x", f"float[N,4,5,{H}] y")
    off = Config(target=ORT_CPU, verify=normfold.VerifyLevel.OFF)
    onnx.save(model, tmp_path / "model.onnx")
    result = normfold.optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", config=off)
    assert len(result.plan.earlier) == 1
    records = find_manifest(load(tmp_path / "out.onnx"))
    assert records is not None
    assert [(record.label, record.side, record.host) for record in records.records] == [("h", "output", "wide")]
    assert records.records[0].tensor in {name for node in result.model.graph.node for name in node.output}


@pytest.mark.parametrize(
    ("front", "operators"),
    [
        (["u = MatMul(x, W)", "q = Mul(u, c)"], ["MatMul"]),
        (["u = Relu(x)", "q = Mul(c, u)"], ["Relu", "Mul"]),  # nothing that could take it
    ],
    ids=["folds", "alone"],
)
def test_a_factor_in_front_of_a_norm_that_stays_is_no_part_of_its_pattern(
    front: list[str], operators: list[str]
) -> None:
    sheet = Sheet()
    sheet.rms_norm("q", "y", at="n")
    sheet.init |= {"c": np.float32(3.0), **({"W": random(H, H)} if "W" in front[0] else {})}
    sheet.body[:0] = front
    result = lowered(sheet.model(SEQUENCE), Target.OPENVINO, run=False)
    assert result.operators == [*operators, "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]
    (decision,) = result.decisions
    assert decision.code == "NF202.left-to-target"
    first = front[1].partition(" ")[0]
    assert f"in {5 + len(front)} nodes, Mul {first!r} in front included; " in decision.message


def test_what_only_a_part_of_a_norm_goes_through_is_a_part_of_it() -> None:
    """`(3·x)` under the root and `x` above it: a factor that somebody may fold into what makes x would change the norm."""
    sheet = Sheet()
    sheet.init |= {"W": random(H, H), "c": np.float32(3.0), "e": np.float32(1e-5)}
    sheet.add("u = MatMul(x, W)", "q = Mul(u, c)", "p = Mul(q, q)")
    sheet.mean("p", "v", (-1,))
    sheet.add("w = Add(v, e)", "s = Sqrt(w)", "y = Div(u, s)")
    result = lowered(sheet.model(SEQUENCE), Target.OPENVINO, run=False)
    assert result.operators == ["MatMul", "Mul", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]
    assert "in front" not in result.decisions[0].message
