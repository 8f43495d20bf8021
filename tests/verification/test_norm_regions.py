"""L2 of norm rewrites: spellings against operators, planted mistakes, and originals that are worse than the rewrite."""

import numpy as np
import onnx
import pytest

from normfold.verification import Status, VerifyOptions, region_inputs, verify_regions

from .norm_builders import (
    BF16,
    F16,
    F32,
    F64,
    absorbed,
    beta_minus,
    by_layer_norm,
    group,
    guarded,
    instance,
    layer_chain,
    layer_op,
    region,
    rms_chain,
    rms_op,
    sized,
    skip_chain,
    skip_op,
    unbiased,
)

HALF_EPSILON = float(np.float16(1e-5))  # what a float16 graph holds of 1e-5
BRAIN_EPSILON = 2.0**-16

RIGHT = {
    "layer, pow": (layer_chain(), layer_op()),
    "layer, rsqrt": (layer_chain(how="mul", inverse="rsqrt"), layer_op()),
    "layer, pow -0.5": (layer_chain(inverse="pow -0.5"), layer_op()),
    "layer, pow 0.5, opset 18": (layer_chain(inverse="pow 0.5", opset=18), layer_op()),
    "layer, 1 / root, opset 13": (layer_chain(inverse="div one", opset=13), layer_op()),
    "layer, sums over shapes": (layer_chain(sums=True), layer_op()),
    "layer, sums over shapes, opset 18": (layer_chain(sums=True, opset=18), layer_op(opset=18)),
    "layer, beta minus": (beta_minus(), layer_op()),
    "layer, sign": (layer_chain(negated=True), layer_op(scale=-1)),
    "layer, half in float": (layer_chain(cast=True, elem=F16), layer_op(elem=F16)),
    "layer, double": (layer_chain(elem=F64), layer_op(elem=F64)),
    "layer, bfloat": (layer_chain(elem=BF16, epsilon=BRAIN_EPSILON), layer_op(elem=BF16, epsilon=BRAIN_EPSILON)),
    "layer, long rows": (layer_chain(h=4096), layer_op(h=4096)),
    "layer, decomposed again": (layer_op(), layer_chain()),
    "layer, clipped": (guarded("Clip", "pow"), layer_op()),
    "layer, expanded": (guarded("Expand", "mul"), layer_op()),
    "layer, unbiased": (unbiased(), absorbed()),
    "layer, no epsilon": (layer_chain(epsilon=None), layer_op(epsilon=0.0)),
    "layer, two elements": (layer_chain(h=2), layer_op(h=2)),
    "layer, half, decomposed again": (layer_op(elem=F16, epsilon=HALF_EPSILON), layer_chain(elem=F16)),
    "rms": (rms_chain(), rms_op()),
    "rms, l2": (rms_chain(how="l2"), rms_op()),
    "rms, standard": (rms_chain(how="mul", inverse="sqrt"), rms_op("RMSNormalization")),
    "rms, double": (rms_chain(elem=F64), rms_op(elem=F64)),
    "skip": (skip_chain(), skip_op()),
    "layer, rank 2": (layer_chain(dims=("N", 24)), layer_op(dims=("N", 24))),
    "skip, half": (skip_chain(elem=F16), skip_op(elem=F16)),
    "skip, rms": (skip_chain(rms=True), skip_op(rms=True)),
    "skip, no bias": (skip_chain(bias=False), skip_op(bias=False)),
    "group, chain": (group("pow"), group("contrib")),
    "group, idiom": (group("instance"), group("contrib")),
    "group, channels first": (group("instance"), group("contrib", last=False)),
    "group, silu": (group("instance", silu=True), group("contrib", silu=True)),
    "group, half": (group("instance", elem=F16), group("contrib", elem=F16, wide=True)),
    "group, layer": (sized(group("pow")), by_layer_norm()),
    "group, layer and batch": (sized(group("instance")), by_layer_norm(batch_norm=True)),
    "group 21": (group("GroupNormalization-21"), group("instance")),
    "group 18": (group("GroupNormalization-18"), group("instance")),
    "instance": (instance("pow"), instance("op")),
    "instance, rank 3": (instance("pow", dims=("N", 6, "L")), instance("op", dims=("N", 6, "L"))),
    "instance, double": (instance("pow", elem=F64), instance("op", elem=F64)),
    "instance, computed statistics": (instance("batch"), instance("op")),
}
# The original cancels, overflows, or is not finite on a row without variance; the rewrite is right.
BETTER = {
    "layer, one pass": (layer_chain(how="one pass"), layer_op()),
    "layer, one pass, clamped": (layer_chain(how="clamped"), layer_op()),
    "layer, one pass, relu": (guarded("Relu"), layer_op()),
    "layer, one pass, clip": (guarded("Clip"), layer_op()),
    "layer, one pass, abs": (guarded("Abs"), layer_op()),
    "layer, half": (layer_chain(elem=F16), layer_op(elem=F16, epsilon=HALF_EPSILON)),
    "rms, half": (rms_chain(elem=F16, epsilon=1e-5), rms_op(elem=F16, epsilon=HALF_EPSILON)),
    "group, one pass": (group("one pass"), group("instance")),
    "instance, mvn": (instance("mvn"), instance("op", epsilon=1e-18)),
}
WRONG = {
    "epsilon": (layer_chain(), layer_op(epsilon=1e-3)),
    "epsilon, one pass": (layer_chain(how="one pass"), layer_op(epsilon=1e-3)),
    "epsilon, half": (layer_chain(elem=F16), layer_op(elem=F16, epsilon=1e-3)),
    "epsilon, half in float": (layer_chain(cast=True, elem=F16), layer_op(elem=F16, epsilon=1e-3)),
    "epsilon, double": (layer_chain(elem=F64), layer_op(elem=F64, epsilon=1e-3)),
    "epsilon, bfloat": (layer_chain(elem=BF16, epsilon=BRAIN_EPSILON), layer_op(elem=BF16, epsilon=1e-3)),
    "epsilon, by one percent": (layer_chain(), layer_op(epsilon=1.01e-5)),
    "unbiased, epsilon": (unbiased(), absorbed(forget=True)),
    "unbiased, taken for biased": (unbiased(), layer_op()),
    "no epsilon": (layer_chain(), layer_op(epsilon=0.0)),
    "epsilon invented": (layer_chain(epsilon=None), layer_op(epsilon=1e-5)),
    "swapped": (layer_chain(), layer_op(swapped=True)),
    "exponent 4": (layer_chain(how="pow 4"), layer_op()),
    "sign": (layer_chain(negated=True), layer_op()),
    "axis": (layer_chain(axes=(1,), dims=("N", 24, None)), layer_op(dims=("N", 24, None))),
    "no mean": (layer_chain(), rms_op(epsilon=1e-5)),
    "rms, epsilon": (rms_chain(), rms_op(epsilon=1e-5)),
    "skip, bias": (skip_chain(), skip_op(forget_bias=True)),
    "skip, epsilon": (skip_chain(), skip_op(epsilon=1e-3)),
    "group, groups": (group("pow"), group("contrib", groups=4)),
    "group, epsilon": (group("pow"), group("contrib", epsilon=1e-3)),
    "group, epsilon, half": (group("pow", elem=F16), group("contrib", epsilon=1e-3, elem=F16, wide=True)),
    "group, swapped": (group("pow"), group("contrib", swapped=True)),
    "group, silu": (group("pow"), group("contrib", silu=True)),
    "group 21, epsilon": (group("GroupNormalization-21"), group("instance", epsilon=1e-3)),
    "instance, epsilon": (instance("pow"), instance("op", epsilon=1e-3)),
    "computed statistics, epsilon": (instance("batch"), instance("op", epsilon=1e-3)),
    "one pass, epsilon of a group": (group("one pass"), group("instance", epsilon=1e-3)),
}


def verdicts(table, **options):
    found = verify_regions([region(*table[name], name) for name in table], VerifyOptions(**options))
    return {verdict.edits[0]: verdict for verdict in found}


def test_right_rewrites_pass_with_both_errors():
    found = verdicts(RIGHT)
    assert {name: (v.status, v.reason) for name, v in found.items() if v.status is not Status.PASS} == {}
    for name, verdict in found.items():
        assert verdict.error_before is not None, name
        assert verdict.error_after < 1e-2, (name, verdict)
        assert "noise floor" not in verdict.execution, verdict


def test_planted_mistakes_fail():
    found = verdicts(WRONG)
    assert {name: (v.status, v.reason) for name, v in found.items() if v.status is not Status.FAIL} == {}


def test_better_rewrites_are_improvements_with_both_errors():
    found = verdicts(BETTER)
    assert {name: (v.status, v.reason) for name, v in found.items() if v.status is not Status.IMPROVED} == {}
    for name, verdict in found.items():
        assert verdict.error_after is not None, name
        assert verdict.error_before is None or verdict.error_before > verdict.error_after, verdict
    assert found["layer, one pass"].error_after < 1e-3
    assert "float16 arithmetic" in found["layer, half"].reason


def test_improvements_that_are_not_wanted_are_suspect():
    found = verdicts(BETTER, improve=False)
    assert {v.status for v in found.values()} == {Status.SUSPECT}
    assert {v.status for v in verdicts(RIGHT, improve=False).values()} == {Status.PASS}


def test_a_rewrite_that_brings_in_the_cancellation_is_no_improvement():
    found = verdicts({name: (after, before) for name, (before, after) in BETTER.items() if "one pass" in name})
    assert {v.status for v in found.values()} <= {Status.FAIL, Status.SUSPECT}


KINDS = {
    "f32": (F32, 1e-5),
    "f16": (F16, HALF_EPSILON),
    "f64": (F64, float(np.float32(1e-5))),
    "bf16": (BF16, BRAIN_EPSILON),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_near_what_rounding_does(kind):
    """Observed / allowed of right rewrites: never near 1, and not so small that the bound would excuse anything."""
    elem, epsilon = KINDS[kind]
    pairs = [
        (layer_chain(elem=elem, epsilon=epsilon, h=h), layer_op(elem=elem, epsilon=epsilon, h=h)) for h in (8, 24, 768)
    ]
    ratios = [v.ratio for v in verify_regions([region(*pair) for pair in pairs], VerifyOptions())]
    assert max(ratios) < 0.3
    # Half and bfloat run in float32 or round to the same number on both sides; there only the upper end says something.
    assert kind in ("f16", "bf16") or min(ratios) > 1e-3


@pytest.mark.parametrize(("kind", "least"), [("f32", 50), ("f64", 1e5)])
def test_a_wrong_epsilon_shows_on_ordinary_rows(kind, least, monkeypatch):
    """At mean / sigma ≤ 1 and a variance of 1, 1e-3 for 1e-5 is far outside the bound: no special rows are needed."""
    monkeypatch.setattr(region_inputs, "_NORM_PLAN", ())
    monkeypatch.setattr(region_inputs, "_LIGHT_PLAN", ("normal",) * 3)
    elem, epsilon = KINDS[kind]
    pair = layer_chain(elem=elem, epsilon=epsilon), layer_op(elem=elem, epsilon=1e-3)
    (verdict,) = verify_regions([region(*pair)], VerifyOptions())
    assert verdict.status is Status.FAIL
    assert verdict.ratio > least


def test_rows_near_epsilon_show_a_wrong_epsilon_in_half():
    for elem, epsilon in (KINDS["f16"], KINDS["bf16"]):
        pair = layer_chain(elem=elem, epsilon=epsilon), layer_op(elem=elem, epsilon=2 * epsilon)
        (verdict,) = verify_regions([region(*pair)], VerifyOptions())
        assert verdict.status is Status.FAIL, verdict


def test_emulated_regions_say_so_and_can_be_refused():
    pair = {"e": (group("instance"), group("contrib"))}
    assert verdicts(pair)["e"].execution == "emulated"
    assert verdicts(pair)["e"].emulated == {"com.microsoft.GroupNorm": 1}
    refused = verdicts(pair, require_native=True)["e"]
    assert refused.status is Status.INCONCLUSIVE
    assert "com.microsoft.GroupNorm" in refused.reason
    assert verdicts({"e": RIGHT["layer, pow"]}, require_native=True)["e"].status is Status.PASS


def test_a_function_that_the_runtime_expands_is_called_that_on_its_own_target():
    pair = {"e": (group("GroupNormalization-21"), group("instance"))}
    here = verdicts(pair, target="ort-cpu")["e"]
    assert here.execution == "expanded"
    assert here.status is Status.IMPROVED  # its function body takes the variance in one pass
    assert verdicts(pair)["e"].status is Status.PASS


def test_all_outputs_of_a_residual_norm_are_compared():
    before, after = skip_chain(), skip_op()
    tail = after.graph.node[-1]
    assert tail.output[0] == "y1"
    tail.input[0] = "x"  # the sum that the rest of the model reads is no longer the sum
    (verdict,) = verify_regions([region(before, after)], VerifyOptions())
    assert verdict.status is Status.FAIL
    assert verdict.location.startswith("y1")


def test_a_decision_made_of_values_is_judged_by_its_noise_floor():
    """Where(v > 0, v, 0) has no rounding bound; it is compared all the same."""
    before = guarded("Abs", "mul")
    guard = next(node for node in before.graph.node if node.op_type == "Abs")
    zero = next(node for node in before.graph.node if node.op_type == "Sub").input[1]
    guard.op_type = "Where"
    asked = onnx.helper.make_node("IsNaN", [guard.input[0]], ["nan"])
    guard.input[:] = ["nan", zero, guard.input[0]]
    before.graph.node.insert(list(before.graph.node).index(guard), asked)
    right, wrong = verify_regions([region(before, layer_op()), region(before, layer_op(epsilon=1e-3))], VerifyOptions())
    assert (right.status, right.execution) == (Status.PASS, "noise floor")
    assert wrong.status is Status.FAIL
