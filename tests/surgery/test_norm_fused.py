"""Operators of onnxruntime that add, normalise and activate in one: lowered where the target has none, else left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

import normfold
from normfold import Config
from normfold.surgery.plan import Decision, Outcome, Plan
from normfold.targets.names import Target
from tests.model.build import run
from tests.norm.rewriting import assert_close, exact, feed, rewritten, stable

MS = "com.microsoft"
H = 8
SKIP = ["x", "s", "g", "b", "c"]


def vector(seed: int, dtype: Any = np.float32, size: int = H) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, size).astype(dtype)


def graph(
    nodes: Sequence[NodeProto],
    inputs: dict[str, list[Any]],
    outputs: Sequence[str],
    init: dict[str, np.ndarray],
    *,
    dtype: Any = np.float32,
    opset: int = 17,
) -> ModelProto:
    """A model in which all inputs and outputs have one element type; the outputs are shaped like the first input."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    first = next(iter(inputs.values()))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        list(nodes), "g", [info(name, kind, dims) for name, dims in inputs.items()],
        [info(name, kind, first) for name in outputs], [numpy_helper.from_array(v, k) for k, v in init.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(body, opset_imports=imports, ir_version=8)


def one(
    op_type: str,
    inputs: list[str],
    outputs: list[str],
    flows: dict[str, list[Any]],
    dtype: Any,
    opset: int,
    **attrs: Any,
) -> ModelProto:
    """A model of one node; what does not flow in is a vector, in float32 for the parameters of groups."""
    wide = op_type in ("GroupNorm", "SkipGroupNorm")
    given = [name for name in inputs if name and name not in flows]
    init = {n: vector(i, np.float32 if wide and n in "gb" else dtype) for i, n in enumerate(given)}
    domain = "" if op_type == "SimplifiedLayerNormalization" else MS
    node = helper.make_node(op_type, inputs, outputs, name="norm", domain=domain, **attrs)
    return graph([node], flows, [name for name in outputs if name], init, dtype=dtype, opset=opset)


ROWS, SAME, IMAGE = {"x": ["N", 3, H]}, {"x": ["N", 3, H], "s": ["N", 3, H]}, {"x": ["N", 4, 5, H]}
FIRST = {"x": ["N", H, 4, 5]}
GROUPS = {"groups": 2, "epsilon": 1e-3}
CASES: dict[str, Callable[..., ModelProto]] = {
    "skip": lambda *a: one("SkipLayerNormalization", SKIP, ["y", "", "", "t"], SAME, *a, epsilon=1e-3),
    "skip alone": lambda *a: one("SkipLayerNormalization", SKIP[:3], ["y"], SAME, *a, epsilon=1e-3),
    "skip of a sequence": lambda *a: one("SkipLayerNormalization", SKIP[:4], ["y"], {**ROWS, "s": [3, H]}, *a, epsilon=1e-3),
    "skip rms": lambda *a: one(
        "SkipSimplifiedLayerNormalization", ["x", "s", "g", "c"], ["y", "", "", "t"], SAME, *a, epsilon=1e-3
    ),
    "skip rms alone": lambda *a: one("SkipSimplifiedLayerNormalization", SKIP[:3], ["y"], SAME, *a, epsilon=1e-3),
    "rms": lambda *a: one("SimplifiedLayerNormalization", ["x", "g"], ["y"], ROWS, *a, epsilon=1e-3),
    "group": lambda *a: one("GroupNorm", ["x", "g", "b"], ["y"], IMAGE, *a, **GROUPS, activation=1),
    "group first": lambda *a: one("GroupNorm", ["x", "g", "b"], ["y"], FIRST, *a, **GROUPS, activation=1, channels_last=0),
    "skip group": lambda *a: one(
        "SkipGroupNorm", ["x", "g", "b", "s", "c"], ["y", "t"], {**IMAGE, "s": ["N", 4, 5, H]}, *a, **GROUPS, activation=1
    ),
    "skip group, embedding": lambda *a: one(
        "SkipGroupNorm", ["x", "g", "b", "s"], ["y"], {**IMAGE, "s": ["N", H]}, *a, **GROUPS, activation=0
    ),
    "skip group, broadcast": lambda *a: one(
        "SkipGroupNorm", ["x", "g", "b", "s", "c"], ["y"], {**IMAGE, "s": ["N", 1, 1, H]}, *a, **GROUPS, activation=1
    ),
}  # fmt: skip
KINDS = [(np.float32, 17, 2e-6), (np.float32, 13, 2e-6), (np.float16, 17, 4e-3)]
STANDARD = (Target.PORTABLE, Target.TENSORRT, Target.OPENVINO)


def the_norm(plan: Plan) -> Decision:
    (decision,) = plan.decisions
    return decision


@pytest.mark.parametrize("target", STANDARD)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "opset", "tolerance"), KINDS)
def test_standard_operators_that_compute_the_same(case, target, dtype, opset, tolerance):
    model = CASES[case](dtype, opset)
    result, plan = stable(model, target)
    onnx.checker.check_model(result, full_check=True)
    assert {node.domain for node in result.graph.node} == {""}
    decision = the_norm(plan)
    assert (decision.site, decision.code, decision.outcome) == ("graph:0", "NF202", Outcome.APPLIED)
    feeds = feed(model, {"N": 2})
    versions = {e.domain: e.version for e in result.opset_import}
    assert versions[""] >= opset
    if target is Target.TENSORRT and "GroupNormalization" in {node.op_type for node in result.graph.node}:
        assert versions[""] == 21
    assert_close(run(result, feeds), exact(model, feeds), tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", [Target.ORT_CPU, Target.ORT_CUDA, Target.DIRECTML])
def test_targets_of_onnxruntime_keep_what_they_have(case, target):
    model = CASES[case](np.float32, 17)
    result, plan = stable(model, target)
    lacking = {
        Target.ORT_CPU: ("GroupNorm", "SkipGroupNorm"), Target.ORT_CUDA: (), Target.DIRECTML: ("SkipGroupNorm",),
    }[target]  # fmt: skip
    if model.graph.node[0].op_type not in lacking and (target, case) != (Target.ORT_CUDA, "group first"):
        assert result == model
        assert the_norm(plan).code == "NF201.single-op"
        return
    assert the_norm(plan).code == "NF202"
    assert not any(node.op_type in lacking for node in result.graph.node)
    if target is Target.DIRECTML:  # it has a kernel for the norm and the activation
        assert result.graph.node[-1].op_type == "GroupNorm"
    else:
        feeds = feed(model, {"N": 2})
        assert_close(run(result, feeds), exact(model, feeds), 2e-6)


@pytest.mark.parametrize(
    "case", ["skip", "skip of a sequence", "skip rms", "rms", "group first", "skip group, embedding"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_full_run_proves_it(case, dtype):
    report = normfold.optimize(CASES[case](dtype, 17), config=Config(target=Target.PORTABLE)).report
    assert report.verification is not None
    assert report.verification.verdict.startswith("PASS")
    (region,) = report.verification.regions
    assert region.status.startswith("PASS")
    assert not report.dropped


def test_what_is_said():
    _, plan = rewritten(CASES["skip"](np.float32, 13))
    assert the_norm(plan).message == (
        "LayerNorm over the last axis, epsilon 0.001: portable has no kernel for com.microsoft.SkipLayerNormalization; "
        "it became 2 Add, LayerNormalization in 3 nodes; one operator of the standard since opset 17"
    )
    _, plan = rewritten(CASES["group first"](np.float32, 17), Target.OPENVINO)
    assert (
        "(2026 and later only); it became InstanceNormalization idiom, Sigmoid, Mul in 7 nodes"
        in the_norm(plan).message
    )
    _, plan = rewritten(CASES["rms"](np.float32, 17))
    assert "SimplifiedLayerNormalization became elementary operators in 6 nodes" in the_norm(plan).message


def test_absent_epsilon_is_that_of_the_operator():
    model = one("SkipLayerNormalization", SKIP, ["y"], SAME, np.float32, 17)
    result, _ = stable(model)
    (epsilon,) = (a.f for a in result.graph.node[-1].attribute if a.name == "epsilon")
    assert epsilon == np.float32(1e-12)


def test_parameters_that_are_no_constants():
    flows = {**SAME, "g": [H], "b": [H]}
    result, _ = stable(one("SkipLayerNormalization", SKIP[:4], ["y"], flows, np.float32, 17, epsilon=1e-3))
    assert list(result.graph.node[-1].input)[1:] == ["g", "b"]


def test_layers_in_a_row():
    """The second reads the sum of the first, whose type and shape nothing else tells."""
    first = helper.make_node("SkipLayerNormalization", ["x", "s", "g"], ["y0", "", "", "t"], name="a", domain=MS)
    other = helper.make_node("Gelu", ["y0"], ["u"], domain=MS)
    second = helper.make_node("SkipSimplifiedLayerNormalization", ["u", "t", "g"], ["y"], name="b", domain=MS)
    model = graph([first, other, second], SAME, ["y"], {"g": vector(0)})
    result, plan = stable(model)
    assert [d.site for d in plan.decisions if d.code == "NF202"] == ["graph:0", "graph:2"]
    assert [n.op_type for n in result.graph.node][:4] == ["Add", "LayerNormalization", "Gelu", "Add"]
    assert "t" in result.graph.node[0].output
    feeds = feed(model, {"N": 2})
    assert_close(run(result, feeds), run(model, feeds), 1e-5)


def test_in_a_function_and_its_attributes_from_the_call():
    node = helper.make_node("SkipLayerNormalization", ["x", "s", "g"], ["y"], domain=MS)
    node.attribute.add(name="epsilon", ref_attr_name="e", type=onnx.AttributeProto.FLOAT)
    call = helper.make_node("layer", ["x", "s", "g"], ["y"], domain="loc", e=0.25)
    model = graph([call], SAME, ["y"], {"g": vector(0)})
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    model.functions.append(helper.make_function("loc", "layer", ["x", "s", "g"], ["y"], [node], imports, ["e"]))
    model.opset_import.append(helper.make_opsetid("loc", 1))
    result, plan = stable(model)
    assert [n.op_type for n in result.graph.node] == ["Add", "LayerNormalization"]
    assert [(d.site, d.code) for d in plan.decisions] == [("graph:0/layer:0", "NF202"), ("graph:0", "NF302")]
    feeds = feed(model, {"N": 2})
    assert_close(run(result, feeds), run(model, feeds), 1e-5)


# --- what stays


def kept(model: ModelProto, target: Target = Target.PORTABLE) -> str:
    """Nothing changes; the message of the only decision."""
    result, plan = stable(model, target)
    assert result == model
    decision = the_norm(plan)
    assert (decision.code, decision.outcome) == ("NF202.no-kernel", Outcome.KEPT)
    return decision.message


def test_statistics_that_are_read():
    model = one("SkipLayerNormalization", SKIP, ["y", "m"], SAME, np.float32, 17)
    assert kept(model).endswith("it stays, because its output 'm' is read, which other operators do not make")
    simple = one("SimplifiedLayerNormalization", ["x", "g"], ["y", "i"], ROWS, np.float32, 17)
    assert "portable has no kernel for SimplifiedLayerNormalization" in kept(simple)


def test_an_unknown_attribute_or_activation():
    assert "'mode'" in kept(one("SkipLayerNormalization", SKIP, ["y"], SAME, np.float32, 17, mode=1))
    message = kept(one("GroupNorm", ["x", "g", "b"], ["y"], IMAGE, np.float32, 17, groups=2, activation=2))
    assert "activation 2" in message
    assert "3 groups" not in message
    assert "G = 3" in kept(one("GroupNorm", ["x", "g", "b"], ["y"], IMAGE, np.float32, 17, groups=3, activation=1))


def test_a_sum_with_the_channels_first_is_not_defined():
    flows = {**FIRST, "s": ["N", H]}
    model = one(
        "SkipGroupNorm", ["x", "g", "b", "s"], ["y"], flows, np.float32, 17, **GROUPS, activation=1, channels_last=0
    )
    assert "channels at the end" in kept(model)


def test_group_parameters_that_are_no_constants():
    flows = {**IMAGE, "g": [H]}
    for activation in (0, 1):
        model = one("GroupNorm", ["x", "g", "b"], ["y"], flows, np.float32, 17, groups=2, activation=activation)
        assert "constant" in kept(model)


def test_an_unknown_rank():
    node = helper.make_node("SkipLayerNormalization", ["u", "v", "g"], ["y"], domain=MS)
    odd = [helper.make_node("Odd", [a], [b], domain="loc") for a, b in (("x", "u"), ("s", "v"))]
    model = graph([*odd, node], SAME, ["y"], {"g": vector(0)})
    model.opset_import.append(helper.make_opsetid("loc", 1))
    assert "rank" in kept(model)


def test_the_rank_of_what_is_added_is_that_of_the_norm():
    """What an operator in front makes may be unknown; a residual of rank 3 is added to rank 3."""
    node = helper.make_node("SkipLayerNormalization", ["u", "s", "g"], ["y"], domain=MS)
    attention = helper.make_node("Attention", ["x", "w", "c"], ["u"], domain=MS, num_heads=2)
    init = {"g": vector(0), "w": np.ones((H, 3 * H), np.float32), "c": vector(1, size=3 * H)}
    result, _ = stable(graph([attention, node], SAME, ["y"], init))
    assert [n.op_type for n in result.graph.node] == ["Attention", "Add", "LayerNormalization"]


@pytest.mark.parametrize(
    ("target", "is_told"), [(Target.PORTABLE, True), (Target.TENSORRT, True), (Target.ORT_CPU, False)]
)
def test_an_embedding_is_no_norm_alone(target, is_told):
    node = helper.make_node(
        "EmbedLayerNormalization", ["i", "", "w", "p", "", "g", "b"], ["y", "mask"], domain=MS, epsilon=1e-3
    )
    init = {"w": np.ones((20, H), np.float32), "p": np.ones((6, H), np.float32), "g": vector(0), "b": vector(1)}
    model = graph([node], {"i": ["N", 3]}, ["y"], init)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    result, plan = stable(model, target)
    assert result == model
    assert the_norm(plan).code == ("NF202.no-kernel" if is_told else "NF201.single-op")


def test_a_function_of_the_same_name_is_a_call():
    model = CASES["skip alone"](np.float32, 17)
    nodes = [helper.make_node("Add", ["x", "s"], ["t"]), helper.make_node("Mul", ["t", "g"], ["y"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function(MS, "SkipLayerNormalization", ["x", "s", "g"], ["y"], nodes, imports))
    del model.graph.node[0].attribute[:]
    result, plan = stable(model)
    assert "LayerNormalization" not in {n.op_type for n in result.graph.node}
    assert not plan.norms


def test_what_verification_refused_stays():
    from tests.surgery.test_norm_calls import planned

    model = CASES["skip"](np.float32, 17)
    result, plan = planned(model, sites={"norm:graph:0": ("verification", "wrong")})
    assert result == model
    assert the_norm(plan).code == "NF202.verification"
    result, plan = planned(model, skip=("NF202",))
    assert result == model
    assert the_norm(plan).code == "NF201.single-op"


# --- what `inspect` says ---

MEANINGS = {
    "skip": "LayerNorm over the last axis, epsilon 0.001 of a sum of 3 tensors, which is a result as well",
    "skip alone": "LayerNorm over the last axis, epsilon 0.001 of a sum of 2 tensors",
    "skip rms alone": "RMSNorm over the last axis, epsilon 0.001 of a sum of 2 tensors",
    "rms": "RMSNorm over the last axis, epsilon 0.001",
    "group": "GroupNorm over 2 groups of channels, epsilon 0.001, SiLU behind",
}


@pytest.mark.parametrize("name", MEANINGS)
def test_inspect_says_what_an_operator_does_beside_the_norm(name: str) -> None:
    (norm,) = normfold.inspect(CASES[name](np.float32, 17)).norms
    assert norm.meaning == MEANINGS[name]
    assert set(norm.targets) == {target.value for target in Target}
    assert norm.targets["ort-cuda"].startswith("stays: already is the one operator")
    for target in (Target.PORTABLE, Target.ORT_CPU, Target.ORT_CUDA):
        changed = rewritten(CASES[name](np.float32, 17), target)[1].norms
        assert norm.targets[target.value].startswith("stays") is not bool(changed)


@pytest.mark.parametrize("activation", [0, 1])
def test_group_norm_with_the_channels_first_has_no_kernel_on_cuda(activation: int) -> None:
    model = one(
        "GroupNorm", ["x", "g", "b"], ["y"], FIRST, np.float32, 17, **GROUPS, activation=activation, channels_last=0
    )
    result, plan = stable(model, Target.ORT_CUDA)
    assert "GroupNorm" not in {node.op_type for node in result.graph.node}
    assert [decision.code for decision in plan.decisions] == ["NF202"]
    feeds = feed(model, {"N": 2})
    assert_close(exact(result, feeds), exact(model, feeds), 1e-6)
    assert not rewritten(model, Target.DIRECTML)[1].norms, "which has one"
