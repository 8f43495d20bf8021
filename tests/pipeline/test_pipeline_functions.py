"""Model-local functions from file to file: what a run claims about calls that it inlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import models
import normfold
from normfold import Config
from normfold.verification import end_to_end
from tests.pipeline.test_pipeline_gate import damage, lost_shift
from tests.surgery.test_surgery_functions import LAYER, ONE, arguments, functional, weights

FOLDED = {"NF101": 4, "NF302": 3}


def counts(result: normfold.Result) -> dict[str, int]:
    codes = [decision.code for decision in result.report.decisions]
    return {code: codes.count(code) for code in sorted(set(codes))}


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.build("local_function").SerializeToString(deterministic=True))
    return path


def test_a_full_run_proves_what_was_inlined(source: Path) -> None:
    out = source.with_name("out.onnx")
    result = normfold.optimize(source, out)
    report = result.report
    assert counts(result) == FOLDED
    assert report.verification is not None
    assert report.verification.verdict == "PASS"
    assert len(report.verification.regions) == 4
    assert {region.status for region in report.verification.regions} == {"PASS"}  # none of them lacks shapes
    assert operators(out) == ["Conv", "Relu"] * 3 + ["Conv"]
    written = onnx.load(str(out))
    assert not written.functions
    assert {p.key: p.value for p in written.metadata_props}["pkg.normfold.passes"] == "NF101:4 NF302:3"
    ops = {op.op_type: (op.before, op.after) for op in report.ops}
    assert ops == {"BatchNormalization": (2, 0), "Conv": (2, 4), "ConvBnRelu": (3, 0), "Relu": (1, 3)}
    again = normfold.optimize(out, source.with_name("again.onnx"))
    assert not again.changed
    assert source.with_name("again.onnx").read_bytes() == out.read_bytes()


def test_regions_alone_do_not_prove_that_inlining_was_right(source: Path) -> None:
    out = source.with_name("out.onnx")
    report = normfold.optimize(source, out, config=Config(verify="region")).report
    assert [edit.site for edit in report.dropped] == [f"graph:{i}/ConvBnRelu:1" for i in range(3)]
    assert all("whole model" in edit.reason for edit in report.dropped)
    assert operators(out) == ["ConvBnRelu"] * 3 + ["Conv"]
    assert onnx.load(str(out)).functions == onnx.load(str(source)).functions


def test_a_whole_model_that_says_nothing_does_not_either(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "_repeats", lambda *_: False)
    model = onnx.load(str(source))
    model.graph.node.append(onnx.helper.make_node("RandomNormalLike", ["y"], ["z"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["batch", 6, "height", "width"]))
    source.write_bytes(model.SerializeToString())
    report = normfold.optimize(source, source.with_name("out.onnx")).report
    assert len(report.dropped) == 3
    assert report.verification is not None
    assert report.verification.verdict == "INCONCLUSIVE"


def test_without_verification_everything_folds(source: Path) -> None:
    assert counts(normfold.optimize(source, config=Config(verify="off"))) == FOLDED
    assert counts(normfold.optimize(source, dry_run=True)) == FOLDED


def test_a_wrong_edit_in_one_call_is_dropped(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, lost_shift, "node_convbnrelu_1/conv")
    out = source.with_name("out.onnx")
    result = normfold.optimize(source, out)
    assert [edit.site for edit in result.report.dropped] == ["graph:1/ConvBnRelu:1"]
    assert operators(out) == ["Conv", "Relu", "ConvBnRelu", "Conv", "Relu", "Conv"]
    assert counts(result) == {"NF101": 3, "NF101.verification": 1, "NF302": 2}


def test_nodes_of_bodies_and_calls_can_be_asked_about(source: Path) -> None:
    assert len(normfold.explain(source, "norm")) == 3
    assert [d.site for d in normfold.explain(source, "node_convbnrelu_1")] == ["graph:1/ConvBnRelu:1", "graph:1"]
    assert [d.site for d in normfold.explain(source, "node_convbnrelu_1/norm")] == ["graph:1/ConvBnRelu:1"]
    report = normfold.inspect(source)
    assert len(report.norms) == 4
    assert report.functions == 1
    assert report.nodes == 8


def test_external_weights_of_calls_and_bodies(tmp_path: Path) -> None:
    """One call folds, another stays; the body has a large constant in a file."""
    body = f"a = loc.layer (x, {arguments('p_')}) r = Relu(a) s = loc.layer (r, w2, e, q_b, q_m, q_v) y = loc.big (s)"
    big = "big (x) => (y) { k = Constant<value = float {0.0}>() c = Conv(x, k) y = Sin(c) }"
    init = {**ONE, **weights("q_", 5, 4, seed=7), "w2": np.ones((5, 4, 3, 3), np.float32)}
    model = functional(
        f"e = Exp(z) {body}", [LAYER, big], init, inputs="float[N,3,8,8] x, float[5] z", outputs="float[N,5,4,4] y"
    )
    model.functions[1].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(np.ones((5, 5, 1, 1), np.float32), "k"))
    source, out = tmp_path / "m.onnx", tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    onnx.save(model, str(source), save_as_external_data=True, location="m.data", size_threshold=0)
    result = normfold.optimize(source, out)
    assert counts(result) == {"NF101": 1, "NF101.dynamic-params": 1, "NF302": 1}
    assert operators(out) == ["Exp", "Conv", "Relu", "layer", "big"]
    left: ModelProto = onnx.load(str(out))
    assert {t.name for t in left.graph.initializer} >= {"w2", "q_b", "q_m", "q_v"}


def test_what_folds_in_a_body_is_proven_there(tmp_path: Path) -> None:
    """Shapes come from the calls, so that the region can run; nothing is inlined."""
    made = " ".join(f"{name} = Constant<value = float {{0.0}}>()" for name in "wgbmv")
    body = f"layer (x) => (y) {{ {made} c = Conv(x, w) d = BatchNormalization(c, g, b, m, v) y = Relu(d) }}"
    model = functional("a = loc.layer (x) y = loc.layer (a)", [body], {}, outputs="float[N,3,8,8] y")
    own = weights("", 3, 3, kernel=1)
    for node in model.functions[0].node[:5]:
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(own[node.output[0]]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    out = tmp_path / "out.onnx"
    report = normfold.optimize(tmp_path / "m.onnx", out, config=Config(verify="region")).report
    assert not report.dropped
    assert report.verification is not None
    assert [region.status for region in report.verification.regions] == ["PASS"]
    assert operators(out) == ["layer", "layer"]
    assert [n.op_type for n in onnx.load(str(out)).functions[0].node if n.op_type != "Constant"] == ["Conv", "Relu"]
