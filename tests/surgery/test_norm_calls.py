"""Norms whose parts functions and their callers share: a call is inlined where that makes a norm, else it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import normfold
from normfold import Config
from normfold.model.load import load
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.plan import Plan
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.model.build import run
from tests.norm.rewriting import assert_close, feed, stable
from tests.surgery.test_surgery_functions import functional

CORE = (
    "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) t = Constant<value = float {2.0}>() p = Pow(d, t) "
    "v = ReduceMean<axes = [-1]>(p) e = Constant<value = float {1e-5}>() w = Add(v, e) s = Sqrt(w) "
)
LAYER = f"layer (x, g, b) => (y) {{ {CORE} n = Div(d, s) q = Mul(n, g) y = Add(q, b) }}"
PLAIN = f"plain (x) => (y) {{ {CORE} y = Div(d, s) }}"
CALLS = "a = loc.layer (x, g0, b0) r = Relu(a) c = loc.layer (r, g1, b1) y = loc.layer (c, g2, b2)"


def affines(*sizes: int) -> dict[str, np.ndarray]:
    """`g0`, `b0`, `g1`, ... of these sizes."""
    rng = np.random.default_rng(3)
    found = {f"g{i}": rng.uniform(0.5, 1.5, size).astype(np.float32) for i, size in enumerate(sizes)}
    return found | {f"b{i}": rng.standard_normal(size).astype(np.float32) for i, size in enumerate(sizes)}


def sequence(body: str, functions: list[str], init: dict[str, np.ndarray], **options: Any) -> ModelProto:
    """A model on `[N, 3, 8]`."""
    given = {"inputs": "float[N,3,8] x", "outputs": "float[N,3,8] y", **options}
    return functional(body, functions, init, **given)


def planned(model: ModelProto, **exclusions: Any) -> tuple[ModelProto, Plan]:
    """The result for the portable target, and its plan."""
    found = plan_everything(load(model), Exclusions(**{"sites": {}, **exclusions}), Wishes(Target.PORTABLE))
    return ModelProto.FromString(to_bytes(apply(found.model, found.plan, {}))), found.plan


def done(model: ModelProto, target: Target = Target.PORTABLE) -> tuple[list[str], list[tuple[str, str]], ModelProto]:
    """Operators of the graph, sites and codes, and the result: valid, right, and a fixed point."""
    result, plan = stable(model, target)
    onnx.checker.check_model(result, full_check=True)
    feeds = feed(model, {"N": 2})
    assert_close(run(result, feeds), run(model, feeds), 1e-5)
    return [n.op_type for n in result.graph.node], [(d.site, d.code) for d in plan.decisions], result


def body_of(model: ModelProto, name: str) -> list[str]:
    return next([n.op_type for n in f.node if n.op_type != "Constant"] for f in model.functions if f.name == name)


# --- weights are passed


def test_one_operator_in_the_body_serves_all_calls_that_pass_the_same_shapes():
    operators, found, result = done(sequence(CALLS, [LAYER], affines(8, 8, 8)))
    assert operators == ["layer", "Relu", "layer", "layer"]
    assert body_of(result, "layer") == ["LayerNormalization"]
    assert found == [("function loc::layer:10", "NF202")]


def different(**options: Any) -> ModelProto:
    """Three calls whose weights have other shapes, so that the body alone is no norm with parameters."""
    body = (
        "a = loc.layer (x, g0, b0) r = Relu(a) k = Reshape(r, shape) c = loc.layer (k, g1, b1) "
        "z = Reshape(c, back) y = loc.layer (z, g2, b2)"
    )
    sizes = {"shape": np.array([0, 4, 6], np.int64), "back": np.array([0, 3, 8], np.int64)}
    return sequence(body, [LAYER], {**affines(8, 6, 8), **sizes}, **options)


def test_calls_that_pass_other_shapes_are_inlined():
    operators, found, result = done(different())
    assert operators == ["LayerNormalization", "Relu", "Reshape", "LayerNormalization", "Reshape", "LayerNormalization"]
    assert not result.functions
    keys = ["graph:0", "graph:3", "graph:5"]
    assert found == [*((f"{key}/layer:10", "NF202") for key in keys), *((key, "NF302") for key in keys)]


def test_an_opset_that_has_to_be_raised():
    operators, _, result = done(different(opset=13, own=13))
    assert operators.count("LayerNormalization") == 3
    assert {e.domain: e.version for e in result.opset_import}[""] == 17


def test_weights_of_a_channels_first_norm():
    """Scale and bias `[C]` are unsqueezed in the body: no operator takes them as they are passed."""
    group = (
        "group (x, g, b) => (y) { s = Constant<value_ints = [0, 2, -1]>() r = Reshape(x, s) i = Constant<value_floats = "
        "[1.0, 1.0]>() o = Constant<value_floats = [0.0, 0.0]>() n = InstanceNormalization<epsilon = 0.00001>(r, i, o) "
        "h = Shape(x) z = Reshape(n, h) a = Constant<value_ints = [1, 2]>() u = Unsqueeze(g, a) v = Unsqueeze(b, a) "
        "q = Mul(z, u) y = Add(q, v) }"
    )
    model = functional(
        "y = loc.group (x, g0, b0)", [group], affines(4), inputs="float[N,4,5,5] x", outputs="float[N,4,5,5] y"
    )
    _, plan = stable(model, Target.ORT_CPU)
    assert [(d.site, d.code) for d in plan.decisions if d.rule in ("NF202", "NF302")] == [
        ("graph:0/group:11", "NF202"),
        ("graph:0", "NF302"),
    ]


def test_attributes_that_the_call_passes():
    """As exporters write it: epsilon comes from the call."""
    inner = LAYER.replace("layer (", "layer <axis, epsilon> (")
    model = sequence("y = loc.layer <axis = -1, epsilon = 0.001> (x, g0, b0)", [inner], affines(8))
    for node in model.functions[0].node:
        if node.op_type == "Constant" and node.output[0] == "e":
            del node.attribute[:]
            node.attribute.add(name="value_float", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
    operators, found, result = done(model)
    assert operators == ["LayerNormalization"]
    assert found == [("graph:0/layer:10", "NF202"), ("graph:0", "NF302")]
    epsilon = next(a.f for a in result.graph.node[0].attribute if a.name == "epsilon")
    assert epsilon == pytest.approx(0.001)


# --- parts on both sides


def test_an_affine_behind_the_call():
    body = "n = loc.plain (x) q = Mul(n, g0) y = Add(q, b0)"
    operators, found, result = done(sequence(body, [PLAIN], affines(8)))
    assert operators == ["LayerNormalization"]
    assert found == [("graph:2", "NF202"), ("graph:0", "NF302")]
    assert not result.functions


def test_a_call_without_an_affine_stays_beside_one_with():
    body = "n = loc.plain (x) q = Mul(n, g0) a = Add(q, b0) r = Relu(a) y = loc.plain (r)"
    operators, found, result = done(sequence(body, [PLAIN], affines(8)))
    assert operators == ["LayerNormalization", "Relu", "plain"]
    assert body_of(result, "plain") == ["LayerNormalization"]
    assert ("function loc::plain:8", "NF202") in found
    assert [site for site, code in found if code == "NF302"] == ["graph:0"]


def test_statistics_in_a_function_and_the_rest_around_it():
    functions = [
        "spread (d) => (s) { p = Mul(d, d) v = ReduceMean<axes = [-1]>(p) e = Constant<value = float {1e-5}>() "
        "w = Add(v, e) s = Sqrt(w) }",
        "other (x) => (y) { y = Sin(x) }",
    ]
    body = (
        "o = loc.other (x) m = ReduceMean<axes = [-1]>(o) d = Sub(o, m) s = loc.spread (d) n = Div(d, s) "
        "q = Mul(n, g0) y = Add(q, b0)"
    )
    operators, found, result = done(sequence(body, functions, affines(8)))
    assert operators == ["other", "LayerNormalization"]
    assert found == [("graph:6", "NF202"), ("graph:3", "NF302")]
    assert [f.name for f in result.functions] == ["other"]


def test_a_weight_that_a_function_makes():
    functions = ["weight (u) => (g) { k = Constant<value = float {0.5}>() g = Mul(u, k) }", PLAIN]
    body = "g = loc.weight (g0) n = loc.plain (x) q = Mul(n, g) y = Add(q, b0)"
    operators, found, result = done(sequence(body, functions, affines(8)))
    assert operators == ["LayerNormalization"]
    assert [site for site, code in found if code == "NF302"] == ["graph:0", "graph:1"]
    assert not result.functions


@pytest.mark.parametrize("depth", [1, 3])
def test_nested_functions(depth):
    outer = [f"f{i} (x, g, b) => (y) {{ y = loc.f{i + 1} (x, g, b) }}" for i in range(depth)]
    inner = PLAIN.replace("plain (x)", f"f{depth} (x, g, b)").replace(
        "y = Div(d, s)", "n = Div(d, s) q = Mul(n, k) y = Add(q, b)"
    )
    inner = inner.replace("m = ReduceMean", "h = Constant<value = float {1.0}>() k = Mul(g, h) m = ReduceMean", 1)
    body = "a = loc.f0 (x, g0, b0) y = Sin(a)"
    wide = {name: array.reshape(1, 1, 8) for name, array in affines(8).items()}  # which no operator takes as it is
    operators, found, result = done(sequence(body, [*outer, inner], wide))
    assert operators == ["LayerNormalization", "Sin"]
    assert found[0] == ("graph:0" + "".join(f"/f{i}:0" for i in range(depth)) + f"/f{depth}:12", "NF202")
    assert len([code for _, code in found if code == "NF302"]) == depth + 1
    assert not result.functions


# --- what stays a call


def test_a_norm_that_is_complete_in_its_body_stays_a_call():
    own = LAYER.replace("(x, g, b)", "(x)", 1).replace(
        "m = ReduceMean",
        "g = Constant<value_floats = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]>() b = Constant<value_floats = "
        "[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]>() m = ReduceMean",
        1,
    )
    operators, found, result = done(sequence("a = loc.layer (x) r = Relu(a) y = loc.layer (r)", [own], {}))
    assert operators == ["layer", "Relu", "layer"]
    assert body_of(result, "layer") == ["LayerNormalization"]
    assert found == [("function loc::layer:12", "NF202")]


def test_one_operator_that_gets_its_weights_stays_a_call():
    body = "a = loc.layer (x, g0, b0) r = Relu(a) y = loc.layer (r, g1, b1)"
    model = sequence(body, ["layer (x, g, b) => (y) { y = LayerNormalization(x, g, b) }"], affines(8, 8))
    operators, found, result = done(model)
    assert operators == ["layer", "Relu", "layer"]
    assert found == [("function loc::layer:0", "NF201.single-op")]
    assert result.functions == model.functions


def test_a_norm_that_stays_as_it_is_spelled_is_spoken_of_once():
    """The portable target has nothing better for it; the calls stay, and no Mul or Add of it is spoken of."""
    rms = (
        "rms (x, g) => (y) { t = Constant<value = float {2.0}>() p = Pow(x, t) v = ReduceMean<axes = [-1]>(p) "
        "e = Constant<value = float {1e-5}>() w = Add(v, e) s = Sqrt(w) n = Div(x, s) y = Mul(n, g) }"
    )
    body = "a = loc.rms (x, g0) k = Reshape(a, shape) c = loc.rms (k, g1) y = Reshape(c, back)"
    sizes = {"shape": np.array([-1, 6], np.int64), "back": np.array([-1, 3, 8], np.int64)}
    model = sequence(body, [rms], {**affines(8, 6), **sizes})
    operators, found, _ = done(model)
    assert operators == ["rms", "Reshape", "rms", "Reshape"]
    assert found == [("function loc::rms:7", "NF202.opset-low")]
    (decision,) = planned(model)[1].decisions
    assert decision.message.startswith("as 'a' calls it, RMSNorm over the last axis")


# --- obstacles


def test_the_user_does_not_want_calls_inlined():
    model = different()
    result, plan = planned(model, skip=("NF302",))
    assert result == model
    assert [(d.site, d.code) for d in plan.decisions if d.rule == "NF302"] == [
        (key, "NF302.user-keep") for key in ("graph:0", "graph:3", "graph:5")
    ]


def test_the_user_does_not_want_norms():
    model = different()
    result, plan = planned(model, skip=("NF202",))
    assert result == model
    assert "NF202" not in {d.rule for d in plan.decisions}


def test_a_body_of_another_opset_stays_and_is_refused():
    """ReduceMean takes its axes as an input from opset 18 on."""
    model = different(opset=18)
    operators = [n.op_type for n in model.graph.node]
    result, plan = planned(model)
    assert [n.op_type for n in result.graph.node] == operators
    refused = [d for d in plan.decisions if d.code == "NF302.opset"]
    assert [d.site for d in refused] == ["graph:0", "graph:3", "graph:5"]
    assert "ReduceMean" in refused[0].message


def test_a_graph_that_the_call_passes():
    model = different()
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["o"])], "g", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    model.graph.node[-1].attribute.append(helper.make_attribute("body", graph))
    result, plan = planned(model)
    assert result.graph.node[-1] == model.graph.node[-1]
    codes = {d.site: d.code for d in plan.decisions if d.rule == "NF302"}
    assert codes == {"graph:0": "NF302", "graph:3": "NF302", "graph:5": "NF302.graph-attribute"}


def test_an_edit_that_was_excluded_leaves_its_call():
    result, plan = planned(different(), sites={"norm:graph:3/layer:10": ("verification", "wrong")})
    assert [n.op_type for n in result.graph.node] == [
        "LayerNormalization", "Relu", "Reshape", "layer", "Reshape", "LayerNormalization",
    ]  # fmt: skip
    assert [d.site for d in plan.decisions if d.code == "NF302"] == ["graph:0", "graph:5"]


# --- subgraphs


def test_a_call_in_a_branch():
    model = sequence("y = Identity(x)", [LAYER], affines(8))
    inner = helper.make_graph(
        [helper.make_node("layer", ["x", "g0", "b0"], ["o"], domain="loc")], "then", [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["N", 3, 8])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("plain", ["x"], ["c"], domain="loc"), helper.make_node("Mul", ["c", "g0"], ["u"])], "else", [],
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, ["N", 3, 8])],
    )  # fmt: skip
    node = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other)
    del model.graph.node[:]
    model.graph.node.append(node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "yes"))
    model.functions.extend(sequence("y = loc.plain (x)", [PLAIN], {}).functions)
    _, found, result = done(model)
    branches = {a.name: [n.op_type for n in a.g.node] for a in result.graph.node[0].attribute}
    assert branches == {"then_branch": ["layer"], "else_branch": ["LayerNormalization"]}
    assert body_of(result, "layer") == ["LayerNormalization"]
    assert ("graph:0/else_branch:0", "NF302") in found


# --- with affines, and from file to file


def test_a_norm_and_an_affine_need_calls():
    """The first call is inlined for its norm, the second for a fold; what is left of the functions goes."""
    conv = "conv (x, w, k) => (y) { c = Conv(x, w) y = Mul(c, k) }"
    body = "a = loc.conv (x, w, k) n = loc.plain (a) q = Mul(n, g0) y = Add(q, b0)"
    rng = np.random.default_rng(0)
    init = {
        **affines(8),
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "k": np.full((4, 1, 1), 2.0, np.float32),
    }
    model = functional(body, [conv, PLAIN], init, inputs="float[N,3,6,8] x", outputs="float[N,4,6,8] y")
    operators, found, result = done(model)
    assert operators == ["Conv", "LayerNormalization"]
    assert sorted(site for site, code in found if code == "NF302") == ["graph:0", "graph:1"]
    assert not result.functions


@pytest.mark.parametrize("build", [different, lambda: sequence(CALLS, [LAYER], affines(8, 8, 8))])
def test_a_full_run_proves_it(build):
    report = normfold.optimize(build()).report
    assert report.verification is not None
    assert report.verification.verdict == "PASS"
    assert {region.status for region in report.verification.regions} == {"PASS"}
    assert not report.dropped


def test_regions_alone_prove_what_is_done_in_a_body_and_not_what_was_inlined():
    config = Config(verify="region")
    assert not normfold.optimize(sequence(CALLS, [LAYER], affines(8, 8, 8)), config=config).report.dropped
    report = normfold.optimize(different(), config=config).report
    assert [edit.site for edit in report.dropped] == [f"norm:graph:{i}/layer:10" for i in (0, 3, 5)]
    assert report.status == "unchanged"


def test_norms_across_calls_are_listed_and_explained():
    model = different()
    norms = normfold.inspect(model).norms
    assert [norm.meaning for norm in norms] == ["LayerNorm over the last axis, epsilon 1e-05"] * 3
    assert all("applied NF202" in norm.foldable for norm in norms)
    assert [d.site for d in normfold.explain(model, "graph:3")] == ["graph:3/layer:10", "graph:3"]
