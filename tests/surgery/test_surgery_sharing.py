"""Who else looks: shared weights, outputs, subgraphs, functions, names, overridable initializers."""

# ruff: noqa: E501 - models in the text language of onnx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from normfold.errors import InputError
from normfold.model.load import Initializers, load
from normfold.surgery.planner import Exclusions
from tests.support import batch_norm, build, check, folds, operators, optimise, plan_of, positive, random, stays

W = random(4, 3, 3, 3)
NORM = "BatchNormalization({}, g, b, m, v)"
BASE = {"w": W, **batch_norm(4)}


# --- shared tensors


def test_one_weight_two_batch_norms():
    """microsoft/onnxruntime#28326, Tencent/TNN#808: nothing is edited in place, nothing is cached by name."""
    init = {**BASE, **batch_norm(4, seed=9, prefix="q")}
    text = (
        "c = Conv(x, w) d = Conv(z, w) y = BatchNormalization(c, g, b, m, v) u = BatchNormalization(d, qg, qb, qm, qv)"
    )
    result = folds(build(text, "float[1,3,8,8] x, float[1,3,8,8] z", "y, u", init), ["Conv", "Conv"])
    weights = {node.input[1] for node in result.model.graph.node}
    assert len(weights) == 2


def test_one_weight_one_batch_norm():
    text = "c = Conv(x, w) u = Conv(z, w) y = BatchNormalization(c, g, b, m, v)"
    result = folds(build(text, "float[1,3,8,8] x, float[1,3,8,8] z", "y, u", BASE), ["Conv", "Conv"])
    assert np.array_equal(result.array("w"), W)


def test_one_weight_and_one_batch_norm_shared_by_both():
    text = f"c = Conv(x, w) d = Conv(z, w) y = {NORM.format('c')} u = {NORM.format('d')}"
    result = folds(build(text, "float[1,3,8,8] x, float[1,3,8,8] z", "y, u", BASE), ["Conv", "Conv"])
    assert len({node.input[1] for node in result.model.graph.node}) == 1, "what was shared and is equal stays shared"


def test_shared_parameters_of_different_weights():
    init = {**BASE, "w2": random(4, 3, 3, 3, seed=1)}
    text = f"c = Conv(x, w) d = Conv(x, w2) y = {NORM.format('c')} u = {NORM.format('d')}"
    folds(build(text, outputs="y, u", init=init), ["Conv", "Conv"])


def test_shared_bias():
    init = {**BASE, "w2": random(4, 3, 3, 3, seed=1), "wb": random(4)}
    text = f"c = Conv(x, w, wb) u = Conv(x, w2, wb) y = {NORM.format('c')}"
    result = folds(build(text, outputs="y, u", init=init), ["Conv", "Conv"])
    assert np.array_equal(result.array("wb"), init["wb"])


def test_bias_that_is_also_beta_and_mean():
    init = {"w": W, "g": positive(4), "b": random(4), "v": positive(4, seed=1)}
    folds(build("c = Conv(x, w, b) y = BatchNormalization(c, g, b, b, v)", init=init), ["Conv"])


def test_weight_that_is_a_graph_output():
    result = folds(
        build(
            f"c = Conv(x, w) y = {NORM.format('c')}",
            outputs="float[N,4,6,6] y, float[4,3,3,3] w, float[4] g",
            init=BASE,
        )
    )
    assert np.array_equal(result.array("w"), W)


def test_square_weight_used_twice_by_one_node():
    init = {"w": random(4, 4), "k": positive(4), "t": random(4, seed=1)}
    folds(build("c = Gemm(x, w, w) d = Mul(c, k) y = Add(d, t)", "float[4,4] x", "y", init), ["Gemm"])


# --- the intermediate tensor


def test_intermediate_is_an_output():
    stays(build(f"c = Conv(x, w) y = {NORM.format('c')}", outputs="c, y", init=BASE), "graph-output")


def test_intermediate_has_another_reader():
    stays(build(f"c = Conv(x, w) y = {NORM.format('c')} z = Relu(c)", outputs="y, z", init=BASE), "shared")


def test_intermediate_is_read_twice_by_one_node():
    stays(build("c = Conv(x, w) d = Add(c, c) y = Mul(d, k)", init={"w": W, "k": positive(4, 1, 1)}), "shared")
    stays(build("c = Conv(x, w) d = Mul(c, c) y = Mul(d, k)", init={"w": W, "k": positive(4, 1, 1)}), "shared")


def test_result_is_an_output_and_used_further():
    """microsoft/onnxruntime#4110: the producer takes over the name."""
    text = f"c = Conv(x, w) y = {NORM.format('c')} z = Relu(y) u = Add(y, z)"
    result = folds(build(text, outputs="y, u", init=BASE), ["Conv", "Relu", "Add"])
    assert result.node("Conv").output[0] == "y"


def test_the_middle_of_a_chain_is_an_output():
    text = f"c = Conv(x, w) y = {NORM.format('c')} z = Mul(y, k)"
    result = check(build(text, outputs="y, z", init={**BASE, "k": positive(1)}))
    assert result.keys == ["graph-output"]
    assert result.after == ["Conv", "Mul"]


def test_captured_by_a_subgraph():
    """onnxruntime/onnxruntime-qnn#582: uses in subgraphs count."""
    stays(_branches("t = Relu(c)", "f = Identity(y)", BASE), "captured")


def _branches(
    then,
    other,
    init,
    body="c = Conv(x, w) y = BatchNormalization(c, g, b, m, v)",
    outputs="float[N,4,6,6] y, float[N,4,6,6] z",
):
    text = f"{body} z = If (p) <then_branch = a () => (float[N,4,6,6] t) {{ {then} }}, else_branch = b () => (float[N,4,6,6] f) {{ {other} }}>"
    return build(text, "float[N,3,8,8] x, bool p", outputs, init)


def test_folds_inside_a_branch_with_weights_from_outside():
    then = f"c1 = Conv(x, w) t = {NORM.format('c1')}"
    other = f"c2 = Conv(x, w) r2 = Relu(c2) f = {NORM.format('r2')}"
    model = _branches(then, other, BASE, body="", outputs="float[N,4,6,6] z")
    result = check(model)
    assert result.applied == 1
    assert np.array_equal(result.array("w"), W)


def test_folds_inside_both_branches():
    then, other = f"c1 = Conv(x, w) t = {NORM.format('c1')}", f"c2 = Conv(x, w) f = {NORM.format('c2')}"
    result = folds(_branches(then, other, BASE, body="", outputs="float[N,4,6,6] z"), ["Conv", "Conv", "If"])
    assert not result.model.graph.initializer, "nobody reads the old tensors any more"


def test_folds_outside_while_a_branch_reads_the_result():
    model = _branches("t = Relu(y)", "f = Identity(y)", BASE, outputs="float[N,4,6,6] z")
    folds(model, ["Conv", "Relu", "Identity", "If"])


def test_an_affine_does_not_leave_its_branch():
    model = _branches(
        f"t = {NORM.format('c')}",
        "f = Relu(x2)",
        {**BASE, "x2": random(1, 4, 6, 6)},
        body="c = Conv(x, w)",
        outputs="float[N,4,6,6] z",
    )
    stays(model, "captured")


def test_inside_a_loop_and_a_scan():
    init = {"w": random(4, 4), "k": positive(4), "t": random(4), "n": np.array(3), "on": np.array(True)}
    text = (
        "y = Loop (n, on, x) <body = body (int64 i, bool go, float[2,4] s) => (bool go2, float[2,4] s2) "
        "{ go2 = Identity(go) c = MatMul(s, w) d = Mul(c, k) s2 = Add(d, t) }>"
    )
    result = folds(build(text, "float[2,4] x", "float[2,4] y", init))
    assert "Gemm" in result.after
    text = "e, y = Scan<num_scan_inputs=1, body = body (float[2,4] s, float[2,4] u) => (float[2,4] s2, float[2,4] o) { c = MatMul(u, w) o = Mul(c, k) s2 = Add(s, o) }> (z, x)"
    folds(build(text, "float[2,4] z, float[5,2,4] x", "float[2,4] e, float[5,2,4] y", {"w": init["w"], "k": init["k"]}))


def test_loop_state_is_no_constant():
    init = {"w": random(4, 4), "n": np.array(3), "on": np.array(True), "k0": positive(4)}
    text = (
        "e, y = Loop (n, on, x, k0) <body = body (int64 i, bool go, float[2,4] s, float[4] k) => (bool go2, float[2,4] s2, float[4] k2) "
        "{ go2 = Identity(go) c = MatMul(s, w) s2 = Mul(c, k) k2 = Mul(k, k) }>"
    )
    result = check(build(text, "float[2,4] x", "float[2,4] e, float[4] y", init))
    assert not result.applied


# --- functions


def function_model(body, attributes="", call=""):
    head = '<ir_version: 8, opset_import: ["" : 17, "loc" : 1]> g (float[N,3,8,8] x) => (float[N,4,6,6] y)'
    text = f'{head} {{ y = loc.block {call}(x) }} <domain: "loc", opset_import: ["" : 17]> block {attributes} (x) => (y) {{ {body} }}'
    return parser.parse_model(text)


def constants(arrays):
    def one(name, array):
        shape = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
        return f"{name} = Constant<value = float{shape} {{{','.join(repr(float(v)) for v in array.reshape(-1))}}}>()"

    return " ".join(one(name, array) for name, array in arrays.items())


def test_function_bodies_hold_their_weights_in_constants():
    result = folds(function_model(f"{constants(BASE)} c = Conv(x, w) y = {NORM.format('c')}"), ["block", "Conv"])
    assert not result.model.graph.initializer


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) y = BatchNormalization<epsilon: float = @e>(c, g, b, m, v)",
        "c = Conv<group: int = @e>(x, w) y = BatchNormalization(c, g, b, m, v)",
        "c = Conv(x, w) k = Constant<value_float: float = @e>() y = Mul(c, k)",
        "c = Conv(x, w) l = LeakyRelu<alpha: float = @e>(c) y = BatchNormalization(l, g, b, m, v)",
        "c = Conv(x, w) l = Cast<to: int = @e>(c) y = BatchNormalization(l, g, b, m, v)",
    ],
)
def test_attributes_bound_by_the_call_are_unknown_in_the_body(body):
    value = "0.25" if "float" in body else "1"
    model = function_model(f"{constants(BASE)} {body}", "<e>", f"<e = {value}>")
    assert not check(model, exclusions=Exclusions({}, skip=["NF302"])).applied
    assert check(model).applied == (0 if "LeakyRelu" in body else 1)


def test_function_named_like_a_standard_operator():
    head = '<ir_version: 8, opset_import: ["" : 17, "loc" : 1]> g (float[N,4,8,8] x, float[4] a) => (float[N,4,8,8] y)'
    body = '{ y = loc.Mul(x, a) } <domain: "loc", opset_import: ["" : 17]> Mul (x, a) => (y) { r = Relu(x) y = Identity(r) }'
    result = check(parser.parse_model(head + body))
    assert not result.decisions


# --- names


def test_empty_and_duplicate_node_names():
    model = build(
        f"c = Conv(x, w) d = {NORM.format('c')} e = Conv(d, u) y = {NORM.format('e')}",
        init={**BASE, "u": random(4, 4, 3, 3)},
    )
    for name in ("", "same"):
        for node in model.graph.node:
            node.name = name
        folds(model, ["Conv", "Conv"], run=not name)  # onnxruntime wants different names


def test_names_that_we_would_generate_are_taken():
    """onnx/onnx#2401, microsoft/onnxscript#2680."""
    init = {
        "w": random(5, 4),
        "k": positive(4),
        "t": random(4),
        "c.bias": random(4, seed=2),
        "c.unbiased": random(4, seed=3),
    }
    text = 'c = MatMul(x, w) d = Mul(c, k) e = Add(d, t) f = Sin(e) y = Sum(f, "c.bias")'.replace('"c.bias"', "q")
    model = build(text, "float[2,3,5] x", "y", {**{n: init[n] for n in ("w", "k", "t")}, "q": init["c.bias"]})
    model.graph.node[0].name = "q"  # its bias would be called q.bias
    for suffix in ("q.bias", "c.unbiased", "q.bias_1", "q.bias_add"):
        model.graph.initializer.append(numpy_helper.from_array(random(4), suffix))
        model.graph.node[4].input.append(suffix)
    check(model)


def test_value_info_of_changed_tensors():
    model = build(f"c = Conv(x, w) d = {NORM.format('c')} y = Relu(d)", init=BASE)
    model = onnx.shape_inference.infer_shapes(model)
    result = folds(model, ["Conv", "Relu"])
    produced = {name for node in result.model.graph.node for name in node.output}
    assert {info.name for info in result.model.graph.value_info} <= produced


def test_unsorted_nodes():
    model = build(f"c = Conv(x, w) d = {NORM.format('c')} y = Relu(d)", init=BASE)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    data, plan = optimise(model)
    assert len(plan.edits) == 1
    assert sorted(operators(onnx.ModelProto.FromString(data))) == ["Conv", "Relu"]


def test_a_custom_domain_is_another_operator():
    model = build(f"c = my.Conv(x, w) y = {NORM.format('c')}", outputs="float[N,4,6,6] y", init=BASE, domains={"my": 1})
    stays(model, "shape-unknown", run=False)
    model = build(
        "c = Conv(x, w) y = my.BatchNormalization(c, g, b, m, v)",
        outputs="float[N,4,6,6] y",
        init=BASE,
        domains={"my": 1},
    )
    assert not check(model, run=False).decisions


def test_the_standard_domain_by_its_long_name():
    model = build(f"c = Conv(x, w) y = {NORM.format('c')}", init=BASE)
    for node in model.graph.node:
        node.domain = "ai.onnx"
    folds(model, ["Conv"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 9)),
        lambda m: m.graph.node.append(m.graph.node[0]),
        lambda m: m.graph.node[0].input.__setitem__(0, "y"),
        lambda m: m.graph.node[0].input.__setitem__(0, "nobody"),
        lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    ],
)
def test_broken_models_are_rejected_at_loading(damage):
    model = build(f"c = Conv(x, w) y = {NORM.format('c')}", init=BASE)
    damage(model)
    with pytest.raises(InputError):
        load(model)


# --- initializers that are inputs


def test_ir_3_lists_every_initializer():
    result = folds(build(f"c = Conv(x, w) y = {NORM.format('c')}", init=BASE, opset=8, ir=3), ["Conv"])
    assert {i.name for i in result.model.graph.input} == {"x", *(t.name for t in result.model.graph.initializer)}


@pytest.mark.parametrize("ir", [4, 8, 10])
def test_overridable_initializers_are_not_constants(ir):
    """microsoft/onnxruntime#32143."""
    model = build(f"c = Conv(x, w) y = {NORM.format('c')}", init=BASE, ir=ir, listed=("g",))
    stays(model, "overridable")
    folds(model, ["Conv"], policy=Initializers.FREEZE)
    stays(model, "overridable", policy=Initializers.KEEP)


def test_all_weights_listed_is_an_exporters_habit():
    model = build(f"c = Conv(x, w) y = {NORM.format('c')}", init=BASE, listed=tuple(BASE))
    result = folds(model, ["Conv"])
    assert [i.name for i in result.model.graph.input] == ["x"]
    stays(model, "overridable", policy=Initializers.KEEP)


def test_overridable_weight():
    model = build(f"c = Conv(x, w) y = {NORM.format('c')}", init={**BASE, "o": random(4, 4)}, listed=("w",))
    stays(model, "overridable")


# --- constants of every form


@pytest.mark.parametrize(
    "text",
    [
        "k = Constant<value_float=2.5>()",
        "k = Constant<value_floats=[2.5]>()",
        "k = Constant<value = float[4,1,1] {1, 2, -3, 4}>()",
        "k0 = Constant<value = float[4] {1, 2, -3, 4}>() k = Unsqueeze(k0, ax)",
        "k0 = Constant<value_floats=[1.0, 2.0, 3.0, 4.0]>() k = Reshape(k0, sh)",
        "sh0 = Constant<value_ints=[4, 1, 1]>() k = ConstantOfShape<value = float[1] {3}>(sh0)",
        "i = Constant<value_int=3>() k = Cast<to=1>(i)",
        "k0 = Identity(q) k1 = Transpose<perm=[2, 0, 1]>(k0) k2 = Transpose<perm=[1, 2, 0]>(k1) k = Neg(k2)",
        "k0 = Cast<to=10>(q) k = Cast<to=1>(k0)",
        "k0 = Concat<axis=0>(q, q) a = Constant<value_ints=[2]>() e = Constant<value_ints=[6]>() k = Slice(k0, a, e)",
    ],
)
def test_constants(text):
    arrays = {"q": positive(4, 1, 1), "ax": np.array([1, 2]), "sh": np.array([4, 1, 1])}
    init = {"w": W, **{name: array for name, array in arrays.items() if f"({name}" in text or f", {name})" in text}}
    folds(build(f"c = Conv(x, w) {text} y = Mul(c, k)", init=init), ["Conv"])


def test_a_sparse_initializer_is_no_reason_to_guess():
    model = build("c = Conv(x, w) y = Mul(c, k)", "float[1,3,8,8] x", "float[1,4,6,6] y", {"w": W})
    values = helper.make_tensor("k", TensorProto.FLOAT, [2], [2.0, 3.0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [2], [0, 2]), [4, 1, 1])
    )
    assert not [d for d in plan_of(model).decisions if d.outcome == "applied"]


def test_weights_from_a_constant_node():
    folds(build(f"{constants({'w': W})} c = Conv(x, w) y = {NORM.format('c')}", init=batch_norm(4)), ["Conv"])


def test_arithmetic_is_not_left_in_the_graph():
    """onnx/optimizer#133."""
    folds(build(f"w = Mul(w0, w0) c = Conv(x, w) y = {NORM.format('c')}", init={"w0": W, **batch_norm(4)}), ["Conv"])


def test_same_bytes_whatever_the_order_of_nodes_and_names():
    init = {**BASE, "w2": random(4, 3, 3, 3, seed=5), "k": positive(4, 1, 1)}
    text = f"c = Conv(x, w) h = Conv(x, w2) d = {NORM.format('c')} e = Mul(k, h) f = Add(d, e) y = Relu(f)"
    model = build(text, init=init)
    first = optimise(model)[0]
    assert first == optimise(model)[0]
    order = [1, 3, 0, 2, 4, 5]
    nodes = [model.graph.node[i] for i in order]
    shuffled = onnx.ModelProto.FromString(model.SerializeToString())
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    second = onnx.ModelProto.FromString(optimise(shuffled)[0])
    tensors = lambda m: sorted(t.raw_data for t in m.graph.initializer)  # noqa: E731
    assert tensors(onnx.ModelProto.FromString(first)) == tensors(second)
