"""Model-local functions: a call is inlined where that lets something fold, and stays byte for byte where it does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from normfold.errors import InputError
from normfold.model.load import load
from normfold.surgery.calls import plan_model
from normfold.surgery.planner import Exclusions
from tests.support import Result, batch_norm, check, compare, folds, operators, optimise, positive, random

NORM = "BatchNormalization({}, g, b, m, v)"
LAYER = f"layer (x, w, g, b, m, v) => (y) {{ c = Conv(x, w) y = {NORM.format('c')} }}"


def functional(
    body: str,
    functions: list[str],
    init: dict[str, np.ndarray],
    *,
    inputs: str = "float[N,3,8,8] x",
    outputs: str = "float[N,4,H,W] y",
    opset: int = 17,
    own: int = 17,
    ir: int = 8,
    domains: str = '"loc" : 1',
) -> ModelProto:
    """A model with functions of the domain `loc`, from text; `own` is the opset that they import."""
    text = f'<ir_version: {ir}, opset_import: ["" : {opset}, {domains}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    for function in functions:
        text += f' <domain: "loc", opset_import: ["" : {own}, {domains}]> {function}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in init.items())
    return model


def weights(prefix: str, out: int, into: int, seed: int = 0, kernel: int = 3) -> dict[str, np.ndarray]:
    """What a layer is called with."""
    return {
        f"{prefix}w": random(out, into, kernel, kernel, seed=seed),
        **batch_norm(out, seed=seed, prefix=prefix),
    }


def arguments(prefix: str) -> str:
    return ", ".join(f"{prefix}{name}" for name in "wgbmv")


ONE = weights("p_", 4, 3)


def one_layer(function: str = LAYER, call: str = "loc.layer", extra: dict | None = None, **options) -> ModelProto:
    return functional(f"y = {call} (x, {arguments('p_')})", [function], {**ONE, **(extra or {})}, **options)


def codes(result: Result) -> list[str]:
    return [decision.code for decision in result.plan.decisions]


def unchanged(model: ModelProto) -> Result:
    """Nothing folds: the very same bytes come out."""
    result = check(model)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    return result


# --- what folds


def test_weights_that_are_arguments():
    result = folds(one_layer(), ["Conv"])
    assert not result.model.functions
    assert codes(result) == ["NF101", "NF302"]
    assert {t.name for t in result.model.graph.initializer} == {"p_w", "layer.bias"} or len(
        result.model.graph.initializer
    ) == 2


def test_every_call_has_its_own_weights():
    init = {**weights("p_", 4, 3), **weights("q_", 5, 4, seed=7)}
    body = f"a = loc.layer (x, {arguments('p_')}) r = Relu(a) y = loc.layer (r, {arguments('q_')})"
    result = folds(functional(body, [LAYER], init, outputs="float[N,5,H,W] y"), ["Conv", "Relu", "Conv"])
    assert [d.site for d in result.decisions] == ["graph:0/layer:1", "graph:2/layer:1"]


def test_two_calls_that_share_their_weights():
    body = f"a = loc.layer (x, {arguments('p_')}) c = Sin(x) d = loc.layer (c, {arguments('p_')}) y = Mul(a, d)"
    folds(functional(body, [LAYER], ONE), ["Conv", "Sin", "Conv", "Mul"])


def test_a_norm_behind_a_call_goes_into_it():
    conv = "layer (x, w) => (y) { c = Conv(x, w) y = Identity(c) }"
    body = f"a = loc.layer (x, w) y = {NORM.format('a')}"
    result = folds(functional(body, [conv], {"w": random(4, 3, 3, 3), **batch_norm(4)}), ["Conv", "Identity"])
    assert result.decisions[0].site == "graph:1"


def test_a_norm_in_a_call_goes_into_what_stands_before():
    norm = f"layer (x, g, b, m, v) => (y) {{ y = {NORM.format('x')} }}"
    body = "a = Conv(x, w) y = loc.layer (a, g, b, m, v)"
    folds(functional(body, [norm], {"w": random(4, 3, 3, 3), **batch_norm(4)}), ["Conv"])


def test_an_affine_crosses_a_call():
    middle = "layer (x, k) => (y) { r = Transpose<perm = [0, 1, 3, 2]>(x) y = Identity(r) }"
    body = f"a = Conv(x, w) c = loc.layer (a, w) y = {NORM.format('c')}"
    init = {"w": random(4, 3, 3, 3), **batch_norm(4)}
    folds(functional(body, [middle], init), ["Conv", "Transpose", "Identity"])


def test_a_weight_that_a_function_makes():
    make = "weight (u, k) => (w) { w = Mul(u, k) }"
    body = f"w = loc.weight (u, k) c = Conv(x, w) y = {NORM.format('c')}"
    init = {"u": random(4, 3, 3, 3), "k": positive(4, 1, 1, 1), **batch_norm(4)}
    result = folds(functional(body, [make], init), ["Conv"])
    assert len(result.model.graph.initializer) == 2


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_nested_functions(depth):
    formals = "x, w, g, b, m, v"
    outer = [f"f{i} ({formals}) => (y) {{ y = loc.f{i + 1} ({formals}) }}" for i in range(depth)]
    model = functional(f"y = loc.f0 (x, {arguments('p_')})", [*outer, LAYER.replace("layer", f"f{depth}")], ONE)
    result = folds(model, ["Conv"])
    assert not result.model.functions
    assert result.decisions[0].site == "graph:0" + "".join(f"/f{i}:0" for i in range(depth)) + f"/f{depth}:1"


def test_an_inner_call_without_edits_stays_a_call():
    functions = [
        "outer (x, w, g, b, m, v) => (y) { c = Conv(x, w) d = " + NORM.format("c") + " y = loc.inner (d) }",
        "inner (x) => (y) { s = Sin(x) y = Cos(s) }",
    ]
    model = functional(f"y = loc.outer (x, {arguments('p_')})", functions, ONE)
    result = folds(model, ["Conv", "inner", "Sin", "Cos"])
    assert [f.name for f in result.model.functions] == ["inner"]
    assert result.model.functions[0] == model.functions[1]


def test_a_call_without_edits_stays_as_it_is():
    other = "other (x) => (y) { y = Sin(x) }"
    model = functional(f"a = loc.other (x) y = loc.layer (a, {arguments('p_')})", [other, LAYER], ONE)
    model.graph.node[0].doc_string = "left alone"
    result = folds(model, ["other", "Conv", "Sin"])
    assert result.model.graph.node[0] == model.graph.node[0]
    assert list(result.model.functions) == [model.functions[0]]


def test_one_call_folds_and_another_does_not():
    body = f"a = loc.layer (x, {arguments('p_')}) e = Exp(k) y = loc.layer (a, w2, e, p_b, p_m, p_v)"
    model = functional(body, [LAYER], {**ONE, "w2": random(4, 4, 3, 3)}, inputs="float[N,3,8,8] x, float[4] k")
    result = check(model)
    assert operators(result.model) == ["Conv", "Exp", "layer", "Conv", "BatchNormalization"]
    assert result.model.graph.node[2] == model.graph.node[2]
    assert codes(result) == ["NF101", "NF101.dynamic-params", "NF302"]
    assert result.decisions[1].site == "function loc::layer:1"
    assert "'e' is not a constant" in result.decisions[1].message


def test_a_body_with_weights_of_its_own_folds_in_place():
    def constant(name, array):
        values = ",".join(repr(float(v)) for v in array.reshape(-1))
        return f"{name} = Constant<value = float[{','.join(map(str, array.shape))}] {{{values}}}>()"

    own = {"w": random(3, 3, 1, 1), **batch_norm(3)}
    made = " ".join(constant(name, array) for name, array in own.items())
    function = f"layer (x) => (y) {{ {made} c = Conv(x, w) d = {NORM.format('c')} y = Relu(d) }}"
    body = "a = loc.layer (x) y = loc.layer (a)"
    result = folds(functional(body, [function], {}, outputs="float[N,3,H,W] y"), ["layer", "layer", "Conv", "Relu"])
    assert codes(result) == ["NF101"]


def test_a_body_learns_shapes_from_its_calls():
    """Whether the channels of a Reshape can be followed depends on what is passed."""
    function = (
        "layer (x, w) => (y) { k = Constant<value = float[1,4,1,1] {2.0,3.0,4.0,5.0}>() "
        "u = Constant<value = float[4,3,1,1] {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,10.0,11.0,12.0}>() "
        "c = Conv(x, u) d = Mul(c, k) y = Add(d, w) }"
    )
    model = functional("y = loc.layer (x, z)", [function], {}, inputs="float[N,3,8,8] x, float[N,4,8,8] z")
    result = folds(model, ["layer", "Conv", "Add"])
    shapes = result.plan.draft.shapes
    scope = load(model).functions[0][1]
    assert scope.inputs[0].name == "x"
    assert any(shapes.dims(slot.node.output) == ("N", 4, 8, 8) for slot, _ in result.plan.slots)


# --- attributes


@pytest.mark.parametrize(
    ("declared", "call", "groups"),
    [
        ("<n>", "loc.layer <n = 3>", 3),
        ("<n : int = 3>", "loc.layer", 3),
        ("<n : int = 3>", "loc.layer <n = 1>", 1),
        ("<n>", "loc.layer", 1),  # neither given nor defaulted: what the operator itself takes
    ],
)
def test_attributes_are_those_of_the_call(declared, call, groups):
    function = (
        f"layer {declared} (x, w, g, b, m, v) => (y) {{ c = Conv<group: int = @n>(x, w) y = {NORM.format('c')} }}"
    )
    init = weights("p_", 6, 3 // groups)
    body = f"y = {call} (x, {arguments('p_')})"
    result = folds(functional(body, [function], init, outputs="float[N,6,H,W] y"), ["Conv"])
    found = {a.name: a.i for a in result.node("Conv").attribute}
    assert found.get("group", 1) == groups
    assert not any(a.ref_attr_name for a in result.node("Conv").attribute)


def test_attributes_pass_through_nested_calls_and_branches():
    functions = [
        "outer <e> (x, w, g, b, m, v, q) => (y) { y = loc.inner <epsilon: float = @e>(x, w, g, b, m, v, q) }",
        "inner <epsilon> (x, w, g, b, m, v, q) => (y) { y = If (q) <then_branch = t () => (float[N,4,6,6] r) "
        "{ c = Conv(x, w) r = BatchNormalization<epsilon: float = @epsilon>(c, g, b, m, v) }, "
        "else_branch = f () => (float[N,4,6,6] r) { r = Conv(x, w) }> }",
    ]
    body = f"y = loc.outer <e = 0.25>(x, {arguments('p_')}, q)"
    model = functional(body, functions, ONE, inputs="float[N,3,8,8] x, bool q")
    result = check(model)
    assert result.applied == 1
    assert operators(result.model) == ["If", "Conv", "Conv"]
    assert result.decisions[0].site == "graph:0/outer:0/inner:0/then_branch:1"


# --- names and optional inputs


def test_names_of_the_caller_are_not_captured():
    """Value and node names of the body occur in the graph with another meaning."""
    function = f"layer (y, x, g, b, m, v) => (r) {{ c = Conv(y, x) d = {NORM.format('c')} r = Add(d, d) }}"
    init = {**ONE, "d": random(4, 1, 1, seed=4), "a/c": random(4, 1, 1, seed=5)}
    body = f"c = Sin(x) a = loc.layer (c, {arguments('p_')}) e = Mul(a, d) y = Pow(e, e)"
    model = functional(body, [function], init)
    for node in (*model.graph.node, *model.functions[0].node):
        node.name = "n" + node.op_type
    model.graph.node[3].input[1] = "a/c"
    model.graph.node[1].name = "a"
    result = check(model)
    assert "layer" not in operators(result.model)
    names = [node.name for node in result.model.graph.node]
    assert len(set(names)) == len(names)
    assert "a/nConv" in names


def test_names_inside_of_branches_are_not_captured():
    """The branch defines `y`, which hides an input of the function; the call passes one value for both inputs."""
    function = (
        "layer (x, y, q, w, g, b, m, v) => (z) { z = If (q) <then_branch = t () => (float[N,4,6,6] r) "
        f"{{ s = Sin(x) c = Conv(s, w) r = {NORM.format('c')} }}, "
        "else_branch = f () => (float[N,4,6,6] r) { s = Cos(y) r = Conv(s, w) }> }"
    )
    body = f"s = Sin(x) r = Cos(s) z = loc.layer (r, r, q, {arguments('p_')}) y = Sin(z)"
    result = check(functional(body, [function], ONE, inputs="float[N,3,8,8] x, bool q"))
    assert result.applied == 1
    assert "layer" not in operators(result.model)


@pytest.mark.parametrize("bias", ["bias", '""', None])
def test_inputs_that_are_left_out(bias):
    function = f"layer (x, w, g, b, m, v, bias) => (y) {{ c = Conv(x, w, bias) y = {NORM.format('c')} }}"
    model = functional(f"y = loc.layer (x, {arguments('p_')})", [function], {**ONE, "bias": random(4, seed=9)})
    if bias is not None:
        model.graph.node[0].input.append(bias.strip('"'))
    if bias != "bias":
        del model.graph.initializer[-1]
    folds(model, ["Conv"])


def test_outputs_that_are_left_out():
    """onnxruntime cannot run the first form of the call; what only the missing outputs need is not computed any more."""
    body = f"c = Conv(x, w) y = {NORM.format('c')} h = Sin(y) k = Constant<value_float = 2.0>() i = Exp(k)"
    function = f"layer (x, w, g, b, m, v) => (y, h, i) {{ {body} }}"
    folds(functional(f"y = loc.layer (x, {arguments('p_')})", [function], ONE), ["Conv"], run=False)
    model = functional(f"u, y, i = loc.layer (x, {arguments('p_')})", [function], ONE)
    model.graph.node[0].output[0] = ""
    folds(model, ["Conv", "Sin", "Exp"], run=False)


def test_outputs_that_are_inputs_and_outputs_twice():
    function = f"layer (x, w, g, b, m, v) => (y, x, y) {{ c = Conv(x, w) y = {NORM.format('c')} }}"
    body = f"a, e, f = loc.layer (x, {arguments('p_')}) s = Sin(e) y = Add(a, f)"
    model = functional(body, [function], ONE, outputs="float[N,4,6,6] y, float[N,3,8,8] s")
    result = check(model, run=False)  # onnxruntime does not load such functions
    assert result.applied == 1
    assert sorted(result.after) == ["Add", "Conv", "Identity", "Identity", "Sin"]
    feed = {"x": random(2, 3, 8, 8)}
    for old, new in zip(*(ReferenceEvaluator(m).run(None, feed) for m in (model, result.model)), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-4, atol=1e-5)


def test_arguments_that_the_body_ignores_are_dropped():
    function = f"layer (x, w, g, b, m, v, unused) => (y) {{ c = Conv(x, w) y = {NORM.format('c')} }}"
    model = functional(f"y = loc.layer (x, {arguments('p_')}, t)", [function], {**ONE, "t": random(1)})
    assert "t" not in {tensor.name for tensor in folds(model, ["Conv"]).model.graph.initializer}


def test_arguments_that_others_read_are_kept():
    function = f"layer (x, w, g, b, m, v, unused) => (y) {{ c = Conv(x, w) y = {NORM.format('c')} }}"
    init = {**ONE, "t": random(1)}
    model = functional(f"s = Sin(t) y = loc.layer (x, {arguments('p_')}, t)", [function], init)
    model.graph.output.append(helper.make_tensor_value_info("s", 1, [1]))
    assert "t" in {tensor.name for tensor in check(model).model.graph.initializer}


# --- places and overloads


def test_calls_in_branches():
    body = (
        "y = If (q) <then_branch = t () => (float[N,4,6,6] r) { r = loc.layer (x, " + arguments("p_") + ") }, "
        "else_branch = f () => (float[N,4,6,6] r) { r = Conv(x, p_w) }>"
    )
    result = check(functional(body, [LAYER], ONE, inputs="float[N,3,8,8] x, bool q"))
    assert result.applied == 1
    assert operators(result.model) == ["If", "Conv", "Conv"]
    assert result.decisions[0].site == "graph:0/then_branch:0/layer:1"


def test_overloads():
    other = "layer (x, w, g, b, m, v) => (y) { c = Conv(x, w) y = Sin(c) }"
    body = f"a = loc.layer (x, {arguments('p_')}) y = loc.layer (x, {arguments('p_')})"
    model = functional(body, [LAYER, other], ONE, ir=10, outputs="float[N,4,H,W] y, float[N,4,H,W] a")
    model.functions[0].overload = model.graph.node[1].overload = "with_norm"
    model.functions[1].overload = model.graph.node[0].overload = "plain"
    data, plan = optimise(model)
    assert operators(ModelProto.FromString(data)) == ["layer", "Conv", "Conv", "Sin"]
    assert [d.site for d in plan.decisions] == ["graph:1/layer:with_norm:1", "graph:1"]


# --- near misses


def test_nothing_to_fold():
    function = "layer (x) => (y) { s = Sin(x) y = Cos(s) }"
    unchanged(functional("y = loc.layer (x)", [function], {}, outputs="float[N,3,8,8] y"))


def test_only_one_call_passes_a_weight_that_is_no_constant():
    result = unchanged(
        functional(
            "e = Exp(k) y = loc.layer (x, p_w, e, p_b, p_m, p_v)",
            [LAYER],
            ONE,
            inputs="float[N,3,8,8] x, float[4] k",
        )
    )
    assert codes(result) == ["NF101.dynamic-params"]


def test_a_refusal_names_what_stands_in_the_way_of_the_call():
    function = f"layer (x, g, b, m, v) => (y) {{ s = Sin(x) y = {NORM.format('s')} }}"
    result = unchanged(
        functional("y = loc.layer (x, g, b, m, v)", [function], batch_norm(3), outputs="float[N,3,8,8] y")
    )
    assert codes(result) == ["NF101.no-absorber"]
    assert result.decisions[0].message.startswith("as 'y' calls it, ")


@pytest.mark.parametrize(
    ("function", "own", "opset", "why"),
    [
        (LAYER, 13, 17, "BatchNormalization"),  # 14 and 15 changed it
        (
            "layer (x, w, g, b, m, v) => (y) { c = Conv(x, w) k = Squeeze(c) y = BatchNormalization(c, g, b, m, v) }",
            11,
            13,
            "",
        ),
    ],
)
def test_functions_of_another_opset(function, own, opset, why):
    result = unchanged(one_layer(function, own=own, opset=opset))
    assert "NF302.opset" in codes(result)
    assert why in result.plan.decisions[-1].message


def test_an_opset_that_changes_nothing_in_the_body():
    folds(one_layer(own=16, opset=17), ["Conv"])


def test_functions_that_the_user_excludes():
    model = one_layer()
    for options in ({"skip": ["NF302"]}, {"only": ["NF101"]}):
        result = check(model, exclusions=Exclusions({}, **options))
        assert codes(result) == ["NF101.dynamic-params", "NF302.user-keep"]
        assert result.model == model
    assert check(model, exclusions=Exclusions({}, only=["NF101", "NF302"])).applied == 1


def test_a_site_that_verification_dropped():
    """The key does not depend on what else is inlined, and the call is not inlined for nothing."""
    init = {**weights("p_", 4, 3), **weights("q_", 5, 4, seed=7)}
    body = f"a = loc.layer (x, {arguments('p_')}) r = Relu(a) y = loc.layer (r, {arguments('q_')})"
    model = functional(body, [LAYER], init, outputs="float[N,5,H,W] y")
    sites = {"graph:0/layer:1": ("verification", "it differs")}
    result = check(model, exclusions=Exclusions(sites))
    assert operators(result.model) == ["layer", "Relu", "Conv", "Conv", "BatchNormalization"]
    assert codes(result) == ["NF101", "NF101.verification", "NF302"]


def test_calls_that_pass_a_graph():
    model = one_layer()
    graph = helper.make_graph([], "body", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("branch", graph))
    result = check(model, run=False)
    assert codes(result) == ["NF101.dynamic-params", "NF302.graph-attribute"]


def test_too_many_arguments():
    model = one_layer()
    model.graph.node[0].input.append("p_w")
    assert "NF302.ill-formed" in codes(check(model, run=False))


def test_functions_that_are_defined_twice_are_left_alone():
    model = one_layer()
    model.functions.append(model.functions[0])
    assert check(model, run=False).model == model


def test_functions_that_nobody_calls_keep_what_they_call():
    model = one_layer()
    unused = parser.parse_function(
        '<domain: "loc", opset_import: ["" : 17, "loc" : 1]> unused (x, w, g, b, m, v) => (y) '
        "{ y = loc.layer (x, w, g, b, m, v) }"
    )
    model.functions.append(unused)
    result = check(model)
    assert result.applied == 1
    assert list(result.model.functions) == list(model.functions)


def test_many_calls_of_one_name():
    init = {f"{name}{i}": value for i in range(3) for name, value in weights("p_", 3, 3, seed=i).items()}
    call = "loc.layer ({}, p_w{i}, p_g{i}, p_b{i}, p_m{i}, p_v{i})"
    body = " ".join(f"a{i + 1} = " + call.format(f"a{i}", i=i) for i in range(3))
    model = functional(f"a0 = Sin(x) {body} y = Sin(a3)", [LAYER], init, outputs="float[N,3,H,W] y")
    for node in model.graph.node[1:4]:
        node.name = "same"
    for node in model.functions[0].node:
        node.name = node.op_type
    names = [node.name for node in folds(model, run=False).model.graph.node if node.op_type == "Conv"]
    assert names == ["same/Conv", "same/Conv_1", "same/Conv_2"]


def test_overridable_arguments_stay():
    model = one_layer(ir=8)
    model.graph.input.append(helper.make_tensor_value_info("p_g", TensorProto.FLOAT, [4]))
    result = unchanged(model)
    assert "NF101.overridable" in codes(result)


def test_too_many_nodes(monkeypatch):
    monkeypatch.setattr("normfold.model.inline._MOST_NODES", 3)
    init = {**weights("p_", 4, 3), **weights("q_", 5, 4, seed=7)}
    body = f"a = loc.layer (x, {arguments('p_')}) r = Relu(a) y = loc.layer (r, {arguments('q_')})"
    result = unchanged(functional(body, [LAYER], init, outputs="float[N,5,H,W] y"))
    assert codes(result) == ["NF101.dynamic-params", "NF302.inline-size", "NF302.inline-size"]


def test_calls_that_are_nested_too_deep(monkeypatch):
    monkeypatch.setattr("normfold.model.inline._DEPTH", 2)
    formals = "x, w, g, b, m, v"
    outer = [f"f{i} ({formals}) => (y) {{ y = loc.f{i + 1} ({formals}) }}" for i in range(2)]
    result = unchanged(functional(f"y = loc.f0 (x, {arguments('p_')})", [*outer, LAYER.replace("layer", "f2")], ONE))
    assert codes(result) == ["NF101.dynamic-params", "NF302.inline-size"]


@pytest.mark.parametrize("calls", [["a"], ["b", "a"]])
def test_recursion(calls):
    names = ["a", *calls[:-1]]
    functions = [f"{name} (x) => (y) {{ y = loc.{called} (x) }}" for name, called in zip(names, calls, strict=True)]
    with pytest.raises(InputError) as caught:
        load(functional("y = loc.a (x)", functions, {}, outputs="float[N,3,8,8] y"))
    assert caught.value.code == "function.recursion"


@pytest.mark.timeout(10)
def test_functions_that_double_with_every_step():
    double = [f"f{i} (x) => (y) {{ a = loc.f{i + 1} (x) y = loc.f{i + 1} (a) }}" for i in range(40)]
    with pytest.raises(InputError) as caught:
        load(functional("y = loc.f0 (x)", [*double, "f40 (x) => (y) { y = Sin(x) }"], {}))
    assert caught.value.code == "function.size"


@pytest.mark.timeout(20)
def test_functions_that_double_a_little():
    double = [f"f{i} (x) => (y) {{ a = loc.f{i + 1} (x) y = loc.f{i + 1} (a) }}" for i in range(18)]
    model = functional("y = loc.f0 (x)", [*double, "f18 (x) => (y) { y = Neg(x) }"], {}, outputs="float[N,3,8,8] y")
    assert not plan_model(load(model), Exclusions({})).plan.edits


# --- fidelity


def test_the_same_bytes_again():
    init = {**weights("p_", 4, 3), **weights("q_", 5, 4, seed=7)}
    body = f"a = loc.layer (x, {arguments('p_')}) r = Relu(a) y = loc.layer (r, {arguments('q_')})"
    model = functional(body, [LAYER], init, outputs="float[N,5,H,W] y")
    assert optimise(model)[0] == optimise(model)[0]


def test_large_weights_inside_of_bodies():
    """A payload that protobuf does not see when the model is loaded comes along when the body is inlined."""
    big = numpy_helper.from_array(random(64, 3, 8, 8), "value")
    function = f"layer (x, g, b, m, v) => (y) {{ w = Constant<value = float {{0.0}}>() c = Conv(x, w) y = {NORM.format('c')} }}"
    body = "y = loc.layer (x, g, b, m, v)"
    model = functional(body, [function], batch_norm(64), outputs="float[N,64,1,1] y")
    model.functions[0].node[0].attribute[0].t.CopyFrom(big)
    result = folds(model)
    assert "BatchNormalization" not in operators(result.model)


def test_unknown_parts_of_inlined_nodes_stay():
    model = one_layer()
    conv = model.functions[0].node[0]
    conv.doc_string = "from the author"
    conv.metadata_props.add(key="k", value="v")
    found = folds(model, ["Conv"]).node("Conv")
    assert found.doc_string == "from the author"
    assert found.metadata_props[0].value == "v"


# --- random functions

_TENSOR = "float[N,3,4,4]"
UNARY = ("Relu", "Tanh", "Neg", "Identity", "Abs")


@st.composite
def layered(draw):
    """Up to three functions of random steps, each called up to twice with weights of its own, perhaps by one another."""
    init: dict[str, np.ndarray] = {}
    functions: list[str] = []
    count = draw(st.integers(1, 3))
    for index in range(count):
        steps, last, formals = [], "x", []
        for step in range(draw(st.integers(1, 4))):
            kind = draw(st.sampled_from(("conv", "norm", "mul", "unary", "call")))
            out = f"t{step}"
            if kind == "call" and index:
                inner = draw(st.integers(0, index - 1))
                passed = [f"{out}_{name}" for name in functions[inner].formals]
                formals += passed
                steps.append(f"{out} = loc.f{inner} ({', '.join([last, *passed])})")
            elif kind == "conv":
                formals.append(f"{out}_w")
                steps.append(f"{out} = Conv({last}, {out}_w)")
            elif kind == "norm":
                names = [f"{out}_{n}" for n in "gbmv"]
                formals += names
                steps.append(f"{out} = BatchNormalization({last}, {', '.join(names)})")
            elif kind == "mul":
                formals.append(f"{out}_k")
                steps.append(f"{out} = Mul({last}, {out}_k)")
            else:
                steps.append(f"{out} = {draw(st.sampled_from(UNARY))}({last})")
            last = out
        functions.append(_Text(index, steps, last, formals))
    body, last, dynamic = [], "x", []
    for call in range(draw(st.integers(1, 3))):
        function = draw(st.sampled_from(functions))
        passed = []
        for formal in function.formals:
            name = f"c{call}_{formal}"
            seed = draw(st.integers(0, 5))
            if formal[-1] == "v" or draw(st.integers(0, 9)):
                init[name] = _value(formal, seed)
            else:
                dynamic.append(name)
            passed.append(name)
        body.append(f"o{call} = loc.f{function.index} ({', '.join([last, *passed])})")
        last = f"o{call}"
        if draw(st.booleans()):
            body.append(f"p{call} = {draw(st.sampled_from(UNARY))}({last})")
            last = f"p{call}"
    body.append(f"y = Identity({last})")
    shapes = {name: ",".join(map(str, _value(name, 0).shape)) for name in dynamic}
    inputs = ", ".join([f"{_TENSOR} x", *(f"float[{shape}] {name}" for name, shape in shapes.items())])
    return functional(" ".join(body), [f.text() for f in functions], init, inputs=inputs, outputs=f"{_TENSOR} y")


class _Text:
    def __init__(self, index: int, steps: list[str], last: str, formals: list[str]) -> None:
        self.index, self.steps, self.last, self.formals = index, steps, last, formals

    def text(self) -> str:
        return f"f{self.index} ({', '.join(['x', *self.formals])}) => ({self.last}) {{ {' '.join(self.steps)} }}"


def _value(formal: str, seed: int) -> np.ndarray:
    kind = formal[-1]
    if kind == "w":
        return random(3, 3, 1, 1, seed=seed)
    if kind == "k":
        return random(1, 3, 1, 1, seed=seed)
    return positive(3, seed=seed) if kind == "v" else random(3, seed=seed)


@settings(max_examples=60, deadline=None)
@given(layered())
def test_random_functions(model):
    onnx.checker.check_model(model)
    result = check(model, run=False)  # the bound needs to see the values inside of functions
    flat = check(onnx.inliner.inline_local_functions(model))
    compare(flat.original, result.model)
    done = check(onnx.inliner.inline_local_functions(result.model))
    assert not done.applied  # as much as another inliner makes possible
    if not result.model.functions:
        assert result.applied == flat.applied
