"""Every reason key has a row, and the rows are compared with the list of reasons: a guard nobody exercises is none."""

# ruff: noqa: E501 - a table, one row a line
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from normfold.affine.reasons import REASONS
from normfold.surgery.planner import Exclusions
from tests.support import batch_norm, build, check, plan_of, positive, random

F32 = np.float32
W = random(4, 3, 3, 3)
NORM = "y = BatchNormalization(c, g, b, m, v)"
K = {"k": positive(4, 1, 1)}

# key -> text, init, further arguments of `build`; the site is the node that makes y
ROWS = {
    "training-mode": (f"c = Conv(x, w) {NORM.replace('Normalization', 'Normalization<training_mode=1>').replace('y =', 'y, r, s =')}", {"w": W, **batch_norm(4)}, {}),
    "computed-stats": (f"c = Conv(x, w) m = ReduceMean<axes=[0, 2, 3], keepdims=0>(c) {NORM}", {"w": W, **{n: a for n, a in batch_norm(4).items() if n != "m"}}, {"opset": 13}),
    "dynamic-params": (f"c = Conv(x, w) {NORM}", {"w": W, **{n: a for n, a in batch_norm(4).items() if n != "g"}}, {"inputs": "float[N,3,8,8] x, float[4] g"}),
    "overridable": (f"c = Conv(x, w) {NORM}", {"w": W, **batch_norm(4)}, {"listed": ("b",)}),
    "spatial": (f"c = Conv(x, w) {NORM.replace('Normalization', 'Normalization<spatial=0>')}", {"w": W, **{n: random(4, 6, 6) for n in "gbm"}, "v": positive(4, 6, 6)}, {"opset": 7, "ir": 3}),
    "ill-formed": (f"c = Conv(x, w) {NORM}", {"w": W, **batch_norm(3)}, {"outputs": "float[N,4,6,6] y"}),
    "unknown-attribute": ("c = Conv(x, w) d = HardSwish(c) e = Relu(c) y = Mul(e, k)", {"w": W, **K}, {"opset": 17}),
    "not-per-channel": ("c = Conv(x, w) y = Mul(c, k)", {"w": W, "k": positive(6)}, {}),
    "broadcast": ("c = Conv(x, w) y = Mul(c, k)", {"w": random(1, 3, 3, 3), "k": positive(5, 1, 1)}, {}),
    "shape-unknown": ("c = Conv(x, w) y = Mul(c, k)", {"w": W, "k": positive(5)}, {"inputs": "float[N,3,8,L] x"}),
    "shared": ("c = Conv(x, w) z = Relu(c) y = Mul(c, k)", {"w": W, **K}, {"outputs": "y, z"}),
    "graph-output": ("c = Conv(x, w) y = Mul(c, k)", {"w": W, **K}, {"outputs": "y, c"}),
    "captured": ("c = Conv(x, w) y = Mul(c, k) z = If (p) <then_branch = a () => (float[N,4,6,6] t) { t = Relu(c) }, else_branch = b () => (float[N,4,6,6] f) { f = Abs(c) }>", {"w": W, **K}, {"inputs": "float[N,3,8,8] x, bool p", "outputs": "float[N,4,6,6] y, float[N,4,6,6] z"}),
    "no-absorber": ("c = Sigmoid(x) y = Mul(c, k)", {"k": F32(2)}, {}),
    "shift-blocked": ("c = Conv(x, w) d = Relu(c) y = Add(d, k)", {"w": W, **K}, {}),
    "negative-scale": ("c = Conv(x, w) d = Relu(c) y = Neg(d)", {"w": W}, {}),
    "branch": ("c = Conv(x, w) h = Conv(x, w) p = ReduceMean<axes=[1]>(h) d = Add(c, p) y = Mul(d, k)", {"w": W, **K}, {}),
    "quantised": ("c = Conv(x, w) d = QuantizeLinear(c, s, z) e = DequantizeLinear(d, s, z) y = Mul(e, k)", {"w": W, "s": F32(0.1), "z": np.uint8(128), **K}, {}),
    "custom-domain": ("h = Conv(x, w) d = my.Op(x) e = Concat<axis=1>(h, d) y = Mul(e, k)", {"w": W, "k": F32(2)}, {"domains": {"my": 1}, "outputs": "float[N,8,6,6] y"}),
    "non-finite": ("c = Conv(x, w) y = Div(c, k)", {"w": W, "k": F32(0)}, {}),
    "nonpositive-variance": (f"c = Conv(x, w) {NORM}", {"w": W, **batch_norm(4), "v": -positive(4)}, {}),
    "dtype-range": ("c = Conv(x, w) y = Mul(c, k)", {"w": W.astype(np.float16), "k": np.float16(2000)}, {"inputs": "float16[1,3,8,8] x"}),
    "bias-in-place": ("c = MatMul(x, w) y = Add(c, k)", {"w": random(5, 4), "k": random(4)}, {"inputs": "float[2,3,5] x"}),
    "padded-shift": ("y = Add(x, k) c = Conv<pads=[1, 1, 1, 1]>(y, w)", {"w": W, "k": positive(3, 1, 1)}, {"outputs": "c"}),
    "fused-pattern": ("c = Div(x, r) d = Erf(c) e = Add(d, o) f = Mul(x, e) y = Mul(f, h) z = MatMul(y, w)", {"r": F32(2**0.5), "o": F32(1), "h": F32(0.5), "w": random(8, 8)}, {"outputs": "z"}),
    "search-limit": ("c = Conv(x, w) " + " ".join(f"{f'd{i}' if i < 250 else 'e'} = Relu({f'd{i - 1}' if i else 'c'})" for i in range(251)) + " y = Mul(e, k)", {"w": W, **K}, {}),
}  # fmt: skip
ELSEWHERE = {
    "cost": "test_cost_of_a_copied_weight",
    "external-data": "test_external_data_that_is_missing",
    "user-keep": "test_the_user_and_verification_exclude_sites",
    "sparse": "tests/affine/test_affine_constants.py",
    "constant": "tests/affine/test_affine_constants.py",
    "verification": "test_the_user_and_verification_exclude_sites",
}


def keys_of(model):
    return [d.code.split(".")[1] for d in plan_of(model).decisions if "." in d.code and d.rule in ("NF101", "NF102")]


def row_model(key):
    text, init, options = ROWS[key]
    model = build(text, init=init, **options)
    if key == "unknown-attribute":
        next(node for node in model.graph.node if node.op_type == "Relu").attribute.append(
            helper.make_attribute("slope", 1)
        )
    return model


UNRUNNABLE = (
    "training-mode",
    "spatial",
    "ill-formed",
    "unknown-attribute",
    "custom-domain",
    "non-finite",
    "nonpositive-variance",
    "computed-stats",
)


@pytest.mark.parametrize("key", ROWS)
def test_refused(key):
    model = row_model(key)
    result = check(model, run=key not in UNRUNNABLE, sizes={"L": 7})
    site = next(d for d in result.decisions if d.node == "y")
    assert site.code.endswith(f".{key}"), (site.code, site.message)
    assert "\n" not in site.message
    assert len(site.message) > 10


def test_cost_of_a_copied_weight(monkeypatch):
    monkeypatch.setattr("normfold.affine.change.LARGEST_COPY", 16)
    model = build("c = Conv(x, w) z = Conv(x, w) y = Mul(c, k)", outputs="y, z", init={"w": W, **K})
    assert keys_of(model) == ["cost"]


def test_external_data_that_is_missing(tmp_path):
    tensor = TensorProto(name="k", data_type=1, dims=[4, 1, 1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="nothing.bin")
    model = build("c = Conv(x, w) y = Mul(c, k)", outputs="float[N,4,6,6] y", init={"w": W, "k": tensor})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert keys_of(str(tmp_path / "m.onnx")) == ["external-data"]


@pytest.mark.parametrize("rule", ["NF101", "NF102"])
def test_the_user_and_verification_exclude_sites(rule):
    norm = f"c = Conv(x, w) {NORM}" if rule == "NF101" else "c = Conv(x, w) y = Mul(c, k)"
    model = build(norm, init={"w": W, **(batch_norm(4) if rule == "NF101" else K)})
    other = {"NF101": "NF102", "NF102": "NF101"}[rule]
    for exclusions, key in (
        (Exclusions({}, skip=(rule,)), "user-keep"),
        (Exclusions({}, only=(other,)), "user-keep"),
        (Exclusions({"graph:1": ("verification", "it differs")}), "verification"),
    ):
        result = check(model, exclusions=exclusions)
        assert result.keys == [key]
        assert result.after == result.before
    assert check(model, exclusions=Exclusions({}, only=(rule,))).applied == 1


def test_every_reason_is_exercised():
    no_folds = {"geometry", "opset"}  # tests/merge, tests/surgery/versions
    assert set(ROWS) | set(ELSEWHERE) == set(REASONS) - no_folds
    assert all(name in globals() or Path(name).is_file() for name in ELSEWHERE.values())
