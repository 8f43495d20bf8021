"""L0 and L3 of models with norms: limits of kernels, emulation in the verdict, and originals that had to be repaired."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from normfold.report.build import verification_report
from normfold.verification import Repair, Status, VerifyOptions, verify_models
from normfold.verification.kernel_limits import broken_limits

from .norm_builders import (
    F16,
    F32,
    F64,
    MS,
    C,
    Graph,
    group,
    instance,
    layer_chain,
    layer_op,
    parameters,
    region,
    rms_chain,
    rms_op,
    save,
    skip_op,
)


@pytest.fixture
def compare(tmp_path):
    def run(before, after, options=None, **kw):
        return verify_models(*save(tmp_path, before, after), options or VerifyOptions(), **kw)

    return run


def test_the_verdict_says_that_a_kernel_did_not_run(compare):
    verdict = compare(group("instance"), group("contrib"), VerifyOptions(target="ort-cuda"))
    assert verdict.status is Status.PASS, verdict
    assert verdict.text == "PASS (emulated: com.microsoft.GroupNorm ×1 - graph surgery verified, kernel not run)"
    assert verdict.level_reached == "L3 (emulated)"
    assert (verdict.target_ep, verdict.target_ep_ran) == ("CUDAExecutionProvider", False)
    report = verification_report(verdict)
    assert report.verdict == verdict.text
    assert report.emulated_ops == {"com.microsoft.GroupNorm": 1}
    assert (report.level_reached, report.execution, report.target_ep_ran) == ("L3 (emulated)", "emulated", False)
    assert json.loads(json.dumps(dataclasses.asdict(verdict), allow_nan=False))["emulated_ops"]


def test_native_kernels_can_be_required(compare):
    verdict = compare(group("instance"), group("contrib"), VerifyOptions(require_native=True))
    assert verdict.status is Status.INCONCLUSIVE
    assert "com.microsoft.GroupNorm" in verdict.reason
    native = compare(layer_chain(), layer_op(), VerifyOptions(require_native=True))
    assert (native.status, native.text, native.level_reached) == (Status.PASS, "PASS", "L3")
    wrong = compare(group("instance"), group("contrib", swapped=True), VerifyOptions(require_native=True))
    assert wrong.status is Status.FAIL  # what is wrong is wrong, however it was found


def test_an_expanded_function_is_no_emulation(compare):
    verdict = compare(group("GroupNormalization-21"), group("instance"), VerifyOptions(target="ort-cpu"))
    assert (verdict.text, verdict.execution, verdict.target_ep_ran) == ("PASS", "expanded", True)


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": 1e-3}, {"swapped": True}, {"groups": 4}, {"silu": True}],
    ids=["epsilon", "swapped", "groups", "silu"],
)
def test_mistakes_are_found_through_the_emulation(compare, wrong):
    assert compare(group("instance"), group("contrib", **wrong)).status is Status.FAIL


def double_skip():
    return skip_op(elem=F64)


def wide_scale():
    g = Graph()
    gamma, beta = (p.reshape(1, 24) for p in parameters(24))
    y = g.op("LayerNormalization", "x", g.const(gamma), g.const(beta), axis=-1, epsilon=1e-5)
    return g.model({"x": ["N", "S", 24]}, y)


def rank_4_skip():
    g = Graph()
    y = g.op("SkipLayerNormalization", "x", "x", g.const(parameters(24)[0]), domain=MS, epsilon=1e-5)
    return g.model({"x": ["N", 2, "S", 24]}, y)


LIMITS = {
    "odd C/G": ("ort-cuda", group("contrib", c=9), "C/G = 3 is odd"),
    "C/G above 512": ("ort-cuda", group("contrib", c=1056, groups=2), "at most 512 channels per group, not 528"),
    "indivisible": ("ort-cuda", group("contrib", groups=5), "12 channels in 5 groups"),
    "channels first": ("ort-cuda", group("contrib", last=False), "channels_last=1"),
    "half parameters": ("ort-cuda", group("contrib", elem=F16), "float32 gamma and beta"),
    "group norm on the CPU": ("ort-cpu", group("contrib"), "no kernel"),
    "contrib on TensorRT": ("tensorrt", group("contrib"), "no kernel"),
    "double residual": ("ort-cuda", double_skip(), "no float64"),
    "rank 4 residual": ("ort-cpu", rank_4_skip(), "rank 2 or 3 only, not 4"),
    "scale to broadcast": ("ort-cuda", wide_scale(), "normalised shape [24] only, not [1, 24]"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_kernels_are_checked_without_them(compare, limit):
    target, after, said = LIMITS[limit]
    before = onnx.ModelProto()
    before.CopyFrom(after)
    del before.graph.node[:], before.graph.initializer[:]
    before.graph.node.extend(helper.make_node("Neg", ["x"], [info.name]) for info in after.graph.output)
    verdict = compare(before, after, VerifyOptions(target=target))
    assert (verdict.status, verdict.level) == (Status.FAIL, "L0"), verdict
    assert said in verdict.reason
    assert broken_limits(after, after, target) == []  # the author's own node is no reason to refuse


def test_what_fits_a_kernel_is_no_problem(compare):
    for model in (group("contrib"), group("contrib", elem=F16, wide=True), skip_op(), layer_op()):
        verdict = compare(model, model, VerifyOptions(target="ort-cuda"))
        assert verdict.status is Status.PASS, verdict


def declared(model, dims):
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", F32, dims))
    return model


def test_operators_that_only_the_runtime_knows(compare, tmp_path):
    """SimplifiedLayerNormalization is not in the standard: right for a target that onnxruntime runs, and nowhere else."""
    dims = ["N", "S", 24]
    before, after = declared(rms_chain(), dims), declared(rms_op(), dims)
    assert compare(before, after, VerifyOptions(target="ort-cpu")).status is Status.PASS
    refused = compare(before, after)
    assert (refused.status, refused.level) == (Status.FAIL, "L0")
    assert "SimplifiedLayerNormalization" in refused.reason
    onnx.save(before, tmp_path / "a.onnx")
    onnx.save(after, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    outside = verify_models(tmp_path / "a.onnx", tmp_path / "b.onnx", VerifyOptions(target="ort-cpu"))
    assert outside.status is Status.PASS, outside
    after.graph.node[0].op_type = "NoSuchNormalization"
    assert compare(before, after, VerifyOptions(target="ort-cpu")).level == "L0"


# --- improvements ---


def shifted(seed=0, mean=3000.0, trials=2, shape=(2, 5, 24)):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(shape) + mean).astype(np.float32) for _ in range(trials)]


def test_an_improved_original_is_repaired_before_it_is_compared(compare):
    before, after = layer_chain(how="one pass"), layer_op()
    data = VerifyOptions(inputs={"x": shifted()})
    assert not compare(before, after, data).status.passed  # the original is wrong, and nobody said so
    repairs = [Repair.of(region(before, after))]
    verdict = compare(before, after, data, repairs=repairs)
    assert verdict.status is Status.IMPROVED, verdict
    assert any("on purpose" in line for line in verdict.evidence)
    unwanted = compare(before, after, dataclasses.replace(data, improve=False), repairs=repairs)
    assert unwanted.status is Status.SUSPECT


@pytest.mark.parametrize("wrong", [{"swapped": True}, {"scale": 1.01}], ids=["swapped", "scale"])
def test_a_repaired_original_still_finds_mistakes(compare, wrong):
    before = layer_chain(how="one pass")
    repairs = [Repair.of(region(before, layer_op()))]
    verdict = compare(before, layer_op(**wrong), VerifyOptions(inputs={"x": shifted()}), repairs=repairs)
    assert verdict.status is Status.FAIL


def test_a_wrong_epsilon_fails_against_a_repaired_original(compare):
    before = layer_chain(how="one pass")
    repairs = [Repair.of(region(before, layer_op()))]
    assert compare(before, layer_op(epsilon=1e-3), repairs=repairs).status is Status.FAIL
    assert compare(before, layer_op(), repairs=repairs).status is Status.IMPROVED


REPAIRABLE = {
    "sums": (layer_chain(sums=True), layer_op(), {}),
    "half": (layer_chain(elem=F16), layer_op(elem=F16, epsilon=float(np.float16(1e-5))), {}),
    "half in float": (layer_chain(cast=True, elem=F16), layer_op(elem=F16), {}),
    "rms": (rms_chain(), rms_op(), {}),
    "operators": (rms_op(), rms_chain(), {}),
    "group": (group("GroupNormalization-21"), group("instance"), {}),
    "idiom": (group("instance"), group("pow"), {}),
    "contrib": (group("contrib"), group("instance"), {}),
    "instance": (instance("mvn"), instance("op", epsilon=1e-18), {}),
    "computed statistics": (instance("batch"), instance("op"), {}),
}


@pytest.mark.parametrize("kind", REPAIRABLE)
def test_every_spelling_can_be_repaired(compare, kind):
    before, after, _ = REPAIRABLE[kind]
    verdict = compare(before, after, repairs=[Repair.of(region(before, after))])
    assert verdict.status is Status.IMPROVED, verdict


def two_norms(op=False):
    """Two norms in a row, the first of which also feeds an output; only the second is to be repaired."""
    g = Graph()
    value, regions = "x", []
    for seed in (0, 1):
        gamma, beta = parameters(24, seed)
        first = len(g.nodes)
        if op:
            value = g.op("LayerNormalization", value, g.const(gamma), g.const(beta), epsilon=1e-5, axis=-1)
        else:
            m = g.reduce("ReduceMean", value, [-1])
            square = g.op("Mul", m, m)
            d = g.op("Sub", value, m)
            v = g.op("Sub", g.reduce("ReduceMean", g.op("Mul", value, value), [-1]), square)
            n = g.op("Div", d, g.op("Sqrt", g.op("Add", v, g.const(1e-5))))
            value = g.op("Add", g.op("Mul", n, g.const(gamma)), g.const(beta))
        made = {name for node in g.nodes[first:] for name in node.output}
        regions.append(Repair(frozenset(made), (value,)))
    return g.model({"x": ["N", "S", 24]}, value, regions[0].outputs[0]), regions


def test_only_the_regions_that_were_improved_are_repaired(compare):
    before, repairs = two_norms()
    after, _ = two_norms(op=True)
    data = VerifyOptions(inputs={"x": shifted()})
    assert not compare(before, after, data, repairs=repairs[1:]).status.passed
    assert compare(before, after, data, repairs=repairs).status is Status.IMPROVED
    assert compare(before, after, repairs=repairs[1:]).status is Status.IMPROVED


def test_a_region_that_the_original_does_not_have_is_not_repaired(compare):
    verdict = compare(layer_chain(), layer_op(), repairs=[Repair(frozenset({"elsewhere"}), ("elsewhere",))])
    assert verdict.status is Status.PASS
    assert any("could not be repaired" in line for line in verdict.warnings)


def test_a_region_without_float64_kernels_is_not_repaired(compare):
    g = Graph()
    y = g.op("Conv", "x", g.const(np.ones((3, 3, 1, 1))))
    one = g.model({"x": ["N", 3, "H", "W"]}, y)
    verdict = compare(one, one, repairs=[Repair.of(region(one, one))])
    assert verdict.status is Status.PASS
    assert any("Conv has no float64 kernel" in line for line in verdict.warnings)


# --- depth ---


def tower(depth, *, fused, wrong_at=None, c=16):
    """Residual blocks of LayerNorm and a dense layer."""
    rng = np.random.default_rng(0)
    g, value = Graph(), "x"
    for layer in range(depth):
        gamma, beta = parameters(c, layer)
        weight = rng.standard_normal((c, c)) * 0.5 / np.sqrt(c)
        epsilon = 1e-3 if layer == wrong_at else 1e-5
        if fused:
            n = g.op("LayerNormalization", value, g.const(gamma), g.const(beta), epsilon=epsilon, axis=-1)
        else:
            m = g.reduce("ReduceMean", value, [-1])
            d = g.op("Sub", value, m)
            v = g.reduce("ReduceMean", g.op("Pow", d, g.const(2.0)), [-1])
            n = g.op("Div", d, g.op("Sqrt", g.op("Add", v, g.const(epsilon))))
            n = g.op("Add", g.op("Mul", n, g.const(gamma)), g.const(beta))
        value = g.op("Add", value, g.op("MatMul", n, g.const(weight)))
    return g.model({"x": ["N", "S", c]}, value)


@pytest.mark.parametrize("depth", [5, 20, 50])
def test_fused_norms_pass_and_a_wrong_epsilon_fails_at_every_depth(compare, depth):
    before = tower(depth, fused=False)
    assert compare(before, tower(depth, fused=True)).status is Status.PASS
    verdict = compare(before, tower(depth, fused=True, wrong_at=depth // 2))
    assert verdict.status is Status.FAIL


def test_weights_behind_a_widening_cast_are_moved_for_the_noise_floor(compare):
    verdict = compare(group("contrib"), group("instance", epsilon=1e-3))
    assert verdict.outputs[0].noise_floor > 0
    assert not any("no weight could be moved" in line for line in verdict.warnings)


def test_norms_of_a_subgraph_are_compared(tmp_path):
    def one(swapped):
        gamma, beta = parameters(C)
        first, second = (beta, gamma) if swapped else (gamma, beta)
        node = helper.make_node("GroupNorm", ["x", "g", "b"], ["h"], domain=MS, groups=3, activation=0)
        out = [helper.make_tensor_value_info("h", F32, None)]
        other = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["n"])], "e", [], [helper.make_tensor_value_info("n", F32, None)]
        )
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "limit"], ["flag"]),
            helper.make_node(
                "If", ["flag"], ["y"], then_branch=helper.make_graph([node], "t", [], out), else_branch=other
            ),
        ]
        values = {"g": first, "b": second, "limit": np.float32(-1e9)}
        weights = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()]
        info = [helper.make_tensor_value_info(n, F32, ["N", "H", "W", C]) for n in "xy"]
        graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    same = verify_models(*save(tmp_path, one(False), one(False)), VerifyOptions())
    assert (same.status, same.execution) == (Status.PASS, "emulated")
    assert verify_models(*save(tmp_path, one(False), one(True)), VerifyOptions()).status is Status.FAIL
