"""What stands around a norm and goes into its operator: residual additions, SiLU, embeddings, a scale that is no constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from normfold.targets.names import Target
from tests.support import positive, random
from tests.surgery.norm_models import (
    IMAGE,
    MICROSOFT,
    SEQUENCE,
    C,
    H,
    Lowered,
    Sheet,
    attributes,
    lowered,
    renamed,
    with_all_types,
)  # fmt: skip

ORT_CPU, ORT_CUDA, PORTABLE = Target.ORT_CPU, Target.ORT_CUDA, Target.PORTABLE
SKIP = (Target.ORT_CUDA, Target.DIRECTML)
TWO = f"float[N,5,{H}] l, float[N,5,{H}] r"
Y = f"float[N,5,{H}] y"


def residual(
    *body: str,
    target: Target = ORT_CUDA,
    inputs: str = TWO,
    outputs: str = Y,
    kind: str = "layer",
    init: dict[str, Any] | None = None,
) -> Lowered:
    """Nodes that make `x`, and a norm of it that makes `y`."""
    sheet = Sheet()
    sheet.init |= init or {}
    sheet.add(*body)
    (sheet.layer_norm if kind == "layer" else sheet.rms_norm)("x", "y")
    return lowered(sheet.model(inputs, outputs), target)


def wiring(result: Lowered, op_type: str) -> tuple[list[str], list[str]]:
    node = result.node(op_type)
    return list(node.input), list(node.output)


# --- the addition in front ---


@pytest.mark.parametrize("target", Target)
def test_a_residual_goes_into_the_operator_where_there_is_one(target) -> None:
    result = residual("x = Add(l, r)", target=target)
    if target not in SKIP:
        assert result.operators == ["Add", "LayerNormalization"]
        assert result.domains == {}
        return
    assert wiring(result, "SkipLayerNormalization") == (["l", "r", "g", "b"], ["y"])
    assert result.operators == ["SkipLayerNormalization"]
    assert result.domains == {MICROSOFT: 1}
    assert attributes(result.node("SkipLayerNormalization"))["epsilon"] == pytest.approx(1e-5), "its default is 1e-12"
    assert "10 nodes became com.microsoft.SkipLayerNormalization" in result.decisions[0].message


def test_explain_finds_the_addition() -> None:
    sheet = Sheet()
    sheet.add("x = Add(l, r)")
    sheet.layer_norm("x", "y")
    result = lowered(renamed(sheet.model(TWO, Y)), ORT_CUDA)
    assert {"node/x", "node/y", "node/d"} <= set(result.decisions[0].nodes)


def test_a_sum_that_is_read_elsewhere_comes_out_of_the_operator() -> None:
    result = residual("x = Add(l, r)", "q = Relu(x)", outputs=f"{Y}, float[N,5,{H}] q")
    assert wiring(result, "SkipLayerNormalization") == (["l", "r", "g", "b"], ["y", "", "", "x"])
    assert result.operators == ["SkipLayerNormalization", "Relu"]


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    result = residual("x = Add(l, r)", outputs=f"float[N,5,{H}] x, {Y}")
    assert wiring(result, "SkipLayerNormalization") == (["l", "r", "g", "b"], ["y", "", "", "x"])


@pytest.mark.parametrize(
    "body",
    [("h = Add(l, c)", "x = Add(h, r)"), ("h = Add(l, c)", "x = Add(r, h)"), ("h = Add(l, r)", "x = Add(c, h)")],
)
def test_a_constant_addend_is_the_bias(body) -> None:
    result = residual(*body, init={"c": random(H, seed=7)})
    assert result.operators == ["SkipLayerNormalization"]
    inputs, _ = wiring(result, "SkipLayerNormalization")
    assert set(inputs[:2]) == {"l", "r"}
    assert inputs[2:] == ["g", "b", "c"] or np.array_equal(result.array(inputs[4]), random(H, seed=7))


def test_a_partial_sum_that_is_read_stays() -> None:
    result = residual("h = Add(l, c)", "x = Add(h, r)", init={"c": random(H)}, outputs=f"{Y}, float[N,5,{H}] h")
    assert result.operators == ["Add", "SkipLayerNormalization"]
    assert wiring(result, "SkipLayerNormalization")[0] == ["h", "r", "g", "b"]


PLAIN = {
    "batches of other names": (f"float[N,5,{H}] l, float[M,5,{H}] r", "x = Add(l, r)", {}),
    "broadcast": (f"float[N,5,{H}] l, float[1,5,{H}] r", "x = Add(l, r)", {}),
    "constant operand": (f"float[N,5,{H}] l", "x = Add(l, c)", {"c": random(5, H)}),
    "another operator": (TWO, "x = Mul(l, r)", {}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_operands_that_are_not_proven_equal_stay_outside(case) -> None:
    inputs, body, init = PLAIN[case]
    result = residual(body, inputs=inputs, init=init)
    assert result.operators[1:] == ["LayerNormalization"]
    assert result.domains == {}


def test_a_residual_of_rank_four_stays_outside() -> None:
    dims = f"[N,5,3,{H}]"
    result = residual("x = Add(l, r)", inputs=f"float{dims} l, float{dims} r", outputs=f"float{dims} y")
    assert result.operators == ["Add", "LayerNormalization"]


@pytest.mark.parametrize("target", SKIP)
def test_a_residual_of_an_rms_norm(target) -> None:
    result = residual("x = Add(l, r)", target=target, kind="rms")
    assert wiring(result, "SkipSimplifiedLayerNormalization") == (["l", "r", "g"], ["y"])


def test_of_two_norms_of_one_sum_one_takes_the_addition() -> None:
    sheet = Sheet()
    sheet.add("x = Add(l, r)")
    sheet.layer_norm("x", "y", at="p")
    sheet.rms_norm("x", "q", at="q")
    result = lowered(sheet.model(TWO, f"{Y}, float[N,5,{H}] q"), ORT_CUDA)
    assert sorted(result.operators) == ["SimplifiedLayerNormalization", "SkipLayerNormalization"]
    assert result.codes == ["NF202", "NF202"]


@pytest.mark.parametrize("early", [False, True])
def test_an_operator_that_makes_the_sum_stands_behind_its_scale(early) -> None:
    """The sum is read in front of the norm, so the operator stands where the sum was made; is its scale there by then?"""
    sheet = Sheet()
    scale = "k = Add(modulation, one)"
    sheet.add(*([scale] if early else []), "x = Add(l, r)", "q = Relu(x)")
    sheet.layer_norm("x", "unused")
    del sheet.body[-2:]
    sheet.init = {"e": sheet.init["e"], "one": np.float32(1)}
    sheet.add(*([] if early else [scale]), "t = Mul(n, k)", "y = Add(t, shift)")
    inputs = f"{TWO}, float[{H}] modulation, float[{H}] shift"
    result = lowered(sheet.model(inputs, f"{Y}, float[N,5,{H}] q"), ORT_CUDA)
    onnx.checker.check_model(result.model)
    wanted = ["Add", "SkipLayerNormalization", "Relu"] if early else ["Add", "Relu", "Add", "LayerNormalization"]
    assert result.operators == wanted


# --- the activation behind ---


def images(norms: int, *, between: str = "conv") -> Sheet:
    """Conv, then GroupNormalization, SiLU and Conv in turns; x in, y out."""
    sheet, y = Sheet(21), "x"
    for i in range(norms + 1):
        if between == "conv":
            sheet.init[f"w{i}"] = random(C, C, 3, 3, seed=i) / np.float32(8)
            sheet.add(f"c{i} = Conv<pads=[1,1,1,1]>({y}, w{i})")
        else:
            sheet.add(f"c{i} = CumSum({y}, axis)")
            sheet.init["axis"] = np.int64(3)
        y = f"c{i}"
        if i < norms:
            sheet.group_normalization(y, f"n{i}", at=f"p{i}")
            sheet.silu(f"n{i}", f"a{i}")
            y = f"a{i}"
    sheet.body[-1] = sheet.body[-1].replace(f"{y} =", "y =", 1)
    return sheet


def test_silu_goes_into_group_norm_on_ort_cuda() -> None:
    result = lowered(images(3).model(IMAGE), ORT_CUDA, run=False)
    assert "Sigmoid" not in result.operators
    node = result.node("GroupNorm")
    assert (node.domain, result.domains) == (MICROSOFT, {MICROSOFT: 1})
    given = attributes(node)
    assert (given["activation"], given["channels_last"], given["groups"]) == (1, 1, 3)
    assert "3 nodes became com.microsoft.GroupNorm" in result.decisions[0].message


@pytest.mark.parametrize("target", [Target.DIRECTML])
def test_silu_goes_into_group_norm_without_a_layout(target) -> None:
    sheet = Sheet(21)
    sheet.group_normalization("x", "n")
    sheet.silu("n", "y")
    result = lowered(sheet.model(IMAGE), target, run=False)
    assert result.operators == ["GroupNorm"]
    assert attributes(result.node("GroupNorm"))["activation"] == 1


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (("s = Sigmoid(other)", "y = Mul(n, s)"), f", float[N,{C},4,5] other"),
        (("s = Sigmoid(n)", "y = Mul(n, s)", "q = Relu(n)"), ""),
        (("s = Sigmoid(n)", "y = Mul(n, s)", "q = Relu(s)"), ""),
        (("s = Sigmoid(n)", "t = Mul(s, s)", "y = Mul(n, t)"), ""),
    ],
)
def test_what_is_no_silu_of_the_norm_alone_stays(body, more) -> None:
    sheet = Sheet(21)
    sheet.group_normalization("x", "n")
    sheet.add(*body)
    outputs = f"float[N,{C},4,5] y" + (f", float[N,{C},4,5] q" if any(line.startswith("q") for line in body) else "")
    result = lowered(sheet.model(IMAGE + more, outputs), Target.DIRECTML, run=False)
    assert attributes(result.node("GroupNorm"))["activation"] == 0
    assert "Sigmoid" in result.operators


# --- layout ---


def test_a_region_works_channels_last_between_two_transposes() -> None:
    result = lowered(images(3).model(IMAGE), ORT_CUDA, run=False)
    assert result.operators == [
        "Conv", "Transpose", "GroupNorm", "NhwcConv", "GroupNorm", "NhwcConv", "GroupNorm", "Transpose", "Conv",
    ]  # fmt: skip
    assert result.codes == ["NF202"] * 3
    assert "nodes work channels-last" in result.decisions[0].message
    assert [attributes(result.node("Transpose", at))["perm"] for at in (0, 1)] == [[0, 2, 3, 1], [0, 3, 1, 2]]
    assert result.array(result.node("NhwcConv").input[1]).shape == (C, 3, 3, C), "the weight is turned once"


def test_the_idiom_of_exporters_is_turned_with_the_shape_that_it_asks_for() -> None:
    """torch's Shape of x reads x too; it goes with the norm, or it would hold x in its layout. And a LayerNorm in front."""
    sheet, y = Sheet(13), "h"
    sheet.layer_norm("x", "h", at="L", axes=(1, 2, 3), shape=(C, 4, 5))
    for i in range(4):
        sheet.init[f"w{i}"] = random(C, C, 3, 3, seed=i) / np.float32(8)
        sheet.group_norm(y, f"n{i}", at=f"p{i}")
        sheet.silu(f"n{i}", f"a{i}")
        sheet.add(f"c{i} = Conv<pads=[1,1,1,1]>(a{i}, w{i})")
        y = f"c{i}"
    sheet.body[-1] = sheet.body[-1].replace(f"{y} =", "y =", 1)
    result = lowered(with_all_types(sheet.model(IMAGE)), ORT_CUDA, run=False)
    assert [op for op in result.operators if op != "NhwcConv"] == [
        "LayerNormalization", "Transpose", "GroupNorm", "GroupNorm", "GroupNorm", "GroupNorm", "Transpose", "Conv",
    ]  # fmt: skip
    assert result.opset == 17
    assert result.codes == ["NF202"] * 5


@pytest.mark.parametrize("between", ["conv", "cumsum"])
def test_a_region_that_does_not_pay_keeps_its_layout(between) -> None:
    result = lowered(images(1, between=between).model(IMAGE), ORT_CUDA, run=False)
    assert "Transpose" not in result.operators
    assert "GroupNorm" not in result.operators
    assert result.operators[1:6] == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
    assert (result.domains, result.opset) == ({}, 21)


def test_a_group_of_odd_size_has_no_kernel() -> None:
    """C/G = 3 in a region that would pay."""
    sheet, y = Sheet(21), "x"
    for i in range(3):
        sheet.group_normalization(y, f"n{i}", at=f"p{i}", groups=2)
        y = f"n{i}"
    sheet.body[-1] = sheet.body[-1].replace(f"{y} =", "y =", 1)
    result = lowered(sheet.model(IMAGE), ORT_CUDA)
    assert "GroupNorm" not in result.operators
    assert result.operators.count("InstanceNormalization") == 3


def test_the_layout_says_why_a_norm_is_not_turned() -> None:
    sheet = Sheet(21)
    sheet.group_norm()
    decision = lowered(sheet.model(IMAGE), ORT_CUDA).decisions[0]
    assert decision.code == "NF202.layout"
    assert "com.microsoft.GroupNorm: its Transposes do not cancel with those of its neighbours" in decision.message


def test_beyond_opset_21_the_idiom_has_no_kernel_and_is_not_written() -> None:
    sheet = Sheet(22)
    sheet.group_normalization("x", "y")
    result = lowered(sheet.model(IMAGE), ORT_CUDA)
    assert "InstanceNormalization" not in result.operators
    assert "LayerNormalization" in result.operators


@pytest.mark.parametrize("opset", [17, 21])
def test_an_embedding_is_added_by_the_operator(opset) -> None:
    """UNet: Conv, + time embedding, GroupNorm, SiLU, Conv; enough of them that the layout pays.

    In the idiom of exporters, Shape reads the sum as well.
    """
    sheet, y, inputs = Sheet(opset), "x", IMAGE
    for i in range(4):
        sheet.init[f"w{i}"] = random(C, C, 3, 3, seed=i) / np.float32(8)
        sheet.add(f"c{i} = Conv<pads=[1,1,1,1]>({y}, w{i})", f"s{i} = Add(c{i}, e{i})")
        (sheet.group_norm if opset == 17 else sheet.group_normalization)(f"s{i}", f"n{i}", at=f"p{i}")
        sheet.silu(f"n{i}", f"a{i}")
        y, inputs = f"a{i}", f"{inputs}, float[N,{C},1,1] e{i}"
    sheet.body[-1] = sheet.body[-1].replace(f"{y} =", "y =", 1)
    result = lowered(with_all_types(sheet.model(inputs)) if opset == 17 else sheet.model(inputs), ORT_CUDA, run=False)
    assert result.operators.count("SkipGroupNorm") == 4
    assert not {"Add", "Sigmoid", "GroupNormalization"} & set(result.operators)
    assert result.operators.count("Transpose") == 2
    assert "nodes became com.microsoft.SkipGroupNorm" in result.decisions[0].message


# --- behind: scale and bias that are no constants ---


def modulated(dims: str, *, target: Target = PORTABLE) -> Lowered:
    """adaLN: the norm has no parameters; scale and shift are computed."""
    sheet = Sheet()
    sheet.layer_norm("x", "unused")
    del sheet.body[-2:]
    sheet.init = {"e": sheet.init["e"], "one": np.float32(1)}
    sheet.add("k = Add(modulation, one)", "t = Mul(n, k)", "y = Add(t, shift)")
    return lowered(sheet.model(f"{SEQUENCE}, float{dims} modulation, float{dims} shift"), target)


@pytest.mark.parametrize("target", Target)
def test_a_scale_of_the_normalised_shape_is_wired(target) -> None:
    result = modulated(f"[{H}]", target=target)
    assert result.operators == ["Add", "LayerNormalization"]
    assert list(result.node("LayerNormalization").input) == ["x", "k", "shift"]


@pytest.mark.parametrize("dims", [f"[N,1,{H}]", f"[1,{H}]", "[1]"])
def test_a_scale_of_another_shape_stays_outside(dims) -> None:
    result = modulated(dims)
    assert result.operators == ["LayerNormalization", "Add", "Mul", "Add"]
    scale, bias = (result.array(name) for name in result.node("LayerNormalization").input[1:])
    assert (scale == 1).all()
    assert (bias == 0).all()


# --- beside ---


@pytest.mark.parametrize("target", Target)
def test_a_mean_that_is_an_output_is_still_made(target) -> None:
    sheet = Sheet()
    sheet.layer_norm()
    result = lowered(sheet.model(SEQUENCE, f"{Y}, float[N,5,1] m"), target)
    assert sorted(result.operators) == ["LayerNormalization", "ReduceMean"]


@pytest.mark.parametrize("name", ["v", "s"])
def test_a_norm_whose_variance_is_an_output_stays(name) -> None:
    """Both statistics have to be taken anyway: an operator would take them again."""
    sheet = Sheet()
    sheet.layer_norm()
    result = lowered(sheet.model(SEQUENCE, f"{Y}, float[N,5,1] {name}"), PORTABLE)
    assert result.model.graph == result.original.graph


def test_two_affines_on_one_core_share_it() -> None:
    """The core ends where the ways part; each affine stays behind it."""
    sheet = Sheet()
    sheet.layer_norm()
    sheet.init |= {"g2": positive(H, seed=5), "b2": random(H, seed=5)}
    sheet.add("t2 = Mul(n, g2)", "q = Add(t2, b2)")
    result = lowered(sheet.model(SEQUENCE, f"{Y}, float[N,5,{H}] q"), PORTABLE)
    assert result.operators.count("LayerNormalization") == 1
    assert "Sqrt" not in result.operators


def test_an_addition_that_ends_another_norm_belongs_to_that_norm() -> None:
    """A norm over all axes with a computed bias of its whole shape, then a norm of the result."""
    sheet = Sheet()
    sheet.layer_norm("x", "unused", axes=(0, 1))
    del sheet.body[-2:]
    sheet.add("t = Mul(n, k)", "z = Add(t, shift)")
    sheet.layer_norm("z", "y", at="q")
    for name in ("g", "b"):
        del sheet.init[name]
    dims = f"[5,{H}]"
    result = lowered(sheet.model(f"float{dims} x, float{dims} k, float{dims} shift", f"float{dims} y"), ORT_CPU)
    assert result.operators == ["LayerNormalization", "LayerNormalization"]
