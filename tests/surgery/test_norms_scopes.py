"""Norms in bodies and functions, names, constants, declarations: what the file looks like in which norms are spelled anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import normfold
from normfold import Config
from normfold.targets.names import Target
from tests.norm.rewriting import assert_close
from tests.support import Runner, feeds
from tests.surgery.norm_models import (
    IMAGE,
    MICROSOFT,
    SEQUENCE,
    C,
    H,
    Lowered,
    Sheet,
    lowered,
    opset_of,
    renamed,
    with_all_types,
)
from tests.surgery.test_norms_surroundings import images
from tests.surgery.test_surgery_functions import functional

PORTABLE, ORT_CPU = Target.PORTABLE, Target.ORT_CPU
Y = f"float[N,5,{H}] y"


def norm_body(x: str = "x", y: str = "y", *, opset: int = 17) -> tuple[str, dict[str, np.ndarray]]:
    """The nodes of a LayerNorm and their constants."""
    sheet = Sheet(opset)
    sheet.layer_norm(x, y)
    return " ".join(sheet.body), sheet.init


def run_both(result: Lowered) -> None:
    """Where float64 evaluation does not reach: onnxruntime on both sides."""
    for feed in feeds(result.original, {"N": 3}):
        if all(np.ptp(value) for value in feed.values() if value.dtype == np.float32):
            assert_close(Runner(result.model).run(feed), Runner(result.original).run(feed), 2e-5)


# --- bodies ---


def in_if(then: str, *, opset: int = 17, inputs: str = f"{SEQUENCE}, bool q") -> tuple[str, str]:
    other = f"else_branch = e () => ({Y}) {{ y = Relu(x) }}"
    return f"z = If (q) <then_branch = t () => ({Y}) {{ {then} }}, {other}>", inputs


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_in_a_branch_with_constants_of_outside(opset) -> None:
    body, init = norm_body(opset=opset)
    sheet = Sheet(opset)
    sheet.init = init
    text, inputs = in_if(body)
    sheet.add(text)
    result = lowered(sheet.model(inputs, f"float[N,5,{H}] z"), run=False)
    assert sorted(result.operators) == ["If", "LayerNormalization", "Relu"]
    assert list(result.node("LayerNormalization").input) == ["x", "g", "b"], "captured, not copied"
    assert result.opset == max(opset, 17)
    run_both(result)


def test_a_statistic_of_outside_is_not_moved_into_a_branch() -> None:
    sheet = Sheet()
    sheet.layer_norm("x", "unused")
    core, rest = sheet.body[:-2], sheet.body[-2:]
    sheet.body = core
    text, inputs = in_if(" ".join(rest).replace("unused", "y"))
    sheet.add(text)
    result = lowered(sheet.model(inputs, f"float[N,5,{H}] z"), run=False)
    assert result.operators.count("LayerNormalization") == 1
    assert {node.op_type for node in result.model.graph.node} == {"If", "LayerNormalization"}
    run_both(result)


LOOP = (
    f"last = Loop (trips, go, x) <body = b (int64 i, bool c, float[N,5,{H}] x_in) => (bool c_out, float[N,5,{H}] x_out) "
    "{{ c_out = Identity(c) {body} }}>"
)
SCAN = (
    f"start, last = Scan <num_scan_inputs = 1, body = b (float[5,{H}] s_in, float[5,{H}] x_in) => "
    f"(float[5,{H}] s_out, float[5,{H}] x_out) {{{{ {{body}} s_out = Add(s_in, x_out) }}}}> (zero, x)"
)


@pytest.mark.parametrize("target", [PORTABLE, ORT_CPU])
@pytest.mark.parametrize("loop", ["loop", "scan"])
def test_in_a_loop(loop, target) -> None:
    body, init = norm_body("x_in", "x_out")
    sheet = Sheet()
    sheet.init = init | {"trips": np.int64(2), "go": np.bool_(True), "zero": np.zeros((5, H), np.float32)}
    sheet.add((LOOP if loop == "loop" else SCAN).format(body=body))
    for name in ("trips", "go") if loop == "scan" else ("zero",):
        del sheet.init[name]
    inputs = SEQUENCE if loop == "loop" else f"float[4,5,{H}] x"
    ends = f"float[N,5,{H}] last" if loop == "loop" else f"float[4,5,{H}] last, float[5,{H}] start"
    result = lowered(sheet.model(inputs, ends), target, run=False)
    assert result.codes == ["NF202"]
    assert result.operators.count("LayerNormalization") == 1
    assert "Sqrt" not in result.operators
    run_both(result)


def test_a_contrib_operator_in_a_branch_is_imported() -> None:
    body, init = norm_body("total", "y")
    sheet = Sheet()
    sheet.init = init
    text, inputs = in_if(f"total = Add(x, other) {body}", inputs=f"{SEQUENCE}, float[N,5,{H}] other, bool q")
    sheet.add(text)
    result = lowered(sheet.model(inputs, f"float[N,5,{H}] z"), Target.ORT_CUDA, run=False)
    assert "SkipLayerNormalization" in result.operators
    assert result.domains == {MICROSOFT: 1}
    run_both(result)


# --- functions ---


def calling(target: Target, *, opset: int = 17, residual: bool = False) -> Lowered:
    """Two calls of a function that holds a LayerNorm with constants of its own, which Cast and Reshape give a type."""
    sheet = Sheet(opset)
    sheet.layer_norm("total" if residual else "tensor", "y", shape=(1, 1, H))
    gamma = f"g = Constant<value = float[1,1,{H}] {{{','.join(map(str, range(1, H + 1)))}}}>()"
    beta = f"b = Constant<value = float[1,1,{H}] {{{','.join(map(str, range(H)))}}}>()"
    made = ["e = Constant<value_float=1e-5>()", gamma, beta, f"dims = Constant<value_ints=[3,5,{H}]>()"]
    made += ["axesminus1 = Constant<value_ints=[-1]>()"] if opset >= 18 else []
    made += ["typed = Cast<to=1>(x)", "tensor = Reshape(typed, dims)"]
    made += ["act = Relu(tensor)", "total = Add(tensor, act)"] if residual else []
    function = f"layer (x) => (y) {{ {' '.join([*made, *sheet.body])} }}"
    calls = "a = loc.layer(x) z = loc.layer(a)"
    outputs = f"float[N,5,{H}] z"
    model = functional(calls, [function], {}, inputs=SEQUENCE, outputs=outputs, opset=opset, own=opset)
    return lowered(model, target, run=False)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_in_a_function(opset) -> None:
    result = calling(PORTABLE, opset=opset)
    assert result.codes == ["NF202"]
    assert result.operators == ["layer", "layer", "Cast", "Reshape", "LayerNormalization"]
    assert result.opset == max(opset, 17)
    (function,) = result.model.functions
    assert opset_of(function) == result.opset, "one meaning in one file"
    made = {node.output[0] for node in function.node if node.op_type == "Constant"}
    assert set(result.node("LayerNormalization").input[1:]) <= made, "a function has no initializers"
    run_both(result)


def test_a_contrib_operator_in_a_function_is_imported_there_and_in_the_model() -> None:
    result = calling(Target.ORT_CUDA, residual=True)
    assert result.operators == ["layer", "layer", "Cast", "Reshape", "Relu", "SkipLayerNormalization"]
    (function,) = result.model.functions
    assert {entry.domain: entry.version for entry in function.opset_import}[MICROSOFT] == 1
    assert result.domains == {"loc": 1, MICROSOFT: 1}
    run_both(result)


# --- names ---


def test_the_end_keeps_its_name_and_new_nodes_have_names_of_their_own() -> None:
    sheet = Sheet(21)
    sheet.group_normalization("x", "y")
    result = lowered(renamed(sheet.model(IMAGE)), ORT_CPU)
    assert result.model.graph.node[-1].name == "node/y"
    assert list(result.model.graph.node[-1].output) == ["y"]
    assert len({node.name for node in result.model.graph.node}) == len(result.model.graph.node)


def test_a_node_without_a_name_gets_one_from_its_output() -> None:
    sheet = Sheet()
    sheet.layer_norm()
    (node,) = lowered(sheet.model(SEQUENCE)).model.graph.node
    assert node.name.startswith("y")


def test_names_of_the_graph_are_never_taken() -> None:
    """Tensors that are called like everything that is made up: `y/scale`, `y/ones`, `x`, `scale`."""
    sheet = Sheet(21)
    sheet.group_normalization("x", "y")
    taken = ["y/ones", "y/zeros", "y/shape", "y/scale", "y/bias", "y/x", "scale", "bias", "ones"]
    model = sheet.model(IMAGE)
    for i, name in enumerate(taken):
        model.graph.node.append(helper.make_node("Relu", ["x"], [name], f"y/Reshape_{i}"))
        model.graph.output.append(helper.make_tensor_value_info(name, 1, ["N", C, 4, 5]))
    for target in (PORTABLE, ORT_CPU):
        lowered(model, target)


# --- constants ---


def test_gamma_and_beta_of_the_right_shape_are_read_and_not_written_again() -> None:
    sheet = Sheet(13)
    sheet.layer_norm()
    for target in Target:
        result = lowered(sheet.model(SEQUENCE), target)
        assert list(result.node("LayerNormalization").input) == ["x", "g", "b"]
        assert {t.name: t for t in result.model.graph.initializer} == {
            t.name: t for t in result.original.graph.initializer if t.name in "gb"
        }


def test_a_gamma_of_another_shape_is_written_in_the_right_one() -> None:
    sheet = Sheet()
    sheet.layer_norm(shape=(1, 1, H))
    result = lowered(sheet.model(SEQUENCE))
    names = result.node("LayerNormalization").input[1:]
    assert [result.array(name).shape for name in names] == [(H,), (H,)]
    assert {t.name for t in result.model.graph.initializer} == set(names)


def test_a_gamma_that_others_read_stays() -> None:
    sheet = Sheet()
    sheet.layer_norm(shape=(1, 1, H))
    sheet.add("q = Mul(x, g)")
    result = lowered(sheet.model(SEQUENCE, f"{Y}, float[N,5,{H}] q"))
    assert result.array("g").shape == (1, 1, H)


@pytest.mark.parametrize(("target", "constants"), [(ORT_CPU, 2 + 1 + 1), (PORTABLE, 2 + 1 + 1 + 2)])
def test_equal_constants_are_shared(target, constants) -> None:
    """Two GroupNorms with the same parameters: ones, zeros and shapes are written once."""
    sheet = Sheet(21)
    sheet.group_normalization("x", "a")
    sheet.add("r = Relu(a)", "y = GroupNormalization<num_groups=3, epsilon=1e-5>(r, g, b)")
    result = lowered(sheet.model(IMAGE), target)
    assert result.codes == ["NF202", "NF202"]
    names = {t.name for t in result.model.graph.initializer}
    values = [(t.data_type, tuple(t.dims), t.raw_data) for t in result.model.graph.initializer]
    assert len(set(values)) == len(names)


def test_before_ir_4_new_constants_are_nodes() -> None:
    """Every initializer would have to be an input."""
    sheet = Sheet(13)
    sheet.layer_norm(shape=(1, H))
    result = lowered(sheet.model(SEQUENCE, ir=3))
    assert result.operators == ["LayerNormalization"]
    made = {node.output[0] for node in result.model.graph.node if node.op_type == "Constant"}
    assert set(result.node("LayerNormalization").input[1:]) <= made
    assert not any(t.name for node in result.model.graph.node for a in node.attribute for t in [a.t])


def test_a_gamma_that_a_caller_may_override_is_no_constant() -> None:
    """An initializer that is also an input, listed on purpose because others are not."""
    sheet = Sheet()
    sheet.layer_norm()
    result = lowered(sheet.model(SEQUENCE, listed=("g",)), run=False)
    assert "LayerNormalization" in result.operators
    assert "g" in {info.name for info in result.model.graph.input}
    run_both(result)


# --- declarations ---


def test_what_is_gone_is_not_declared_any_more() -> None:
    for target in Target:
        for sheet, inputs in ((Sheet(13), SEQUENCE), (Sheet(17), IMAGE)):
            (sheet.layer_norm if inputs == SEQUENCE else sheet.group_norm)()
            sheet.body[-1] = sheet.body[-1].replace("y =", "last =")
            sheet.add("y = Relu(last)")
            model = with_all_types(sheet.model(inputs))
            assert {"last", "t", "n"} <= {info.name for info in model.graph.value_info}
            result = lowered(model, target)  # which compares value_info with what is made
            assert "last" in {info.name for info in result.model.graph.value_info}, "what stays is declared as it was"


def test_turned_tensors_are_not_declared_in_their_old_layout() -> None:
    model = images(3).model(IMAGE)
    inner = [name for node in model.graph.node for name in node.output if name != "y"]
    model.graph.value_info.extend(helper.make_tensor_value_info(name, 1, ["N", C, 4, 5]) for name in inner)
    result = lowered(model, Target.ORT_CUDA, run=False)
    declared = {info.name for info in result.model.graph.value_info}
    first, second = (result.node("Transpose", at) for at in (0, 1))
    assert declared == {*first.input, *second.output}, "what is read and made channels-first"


# --- files ---


def with_wide_parameters(folder: Path, width: int = 512) -> tuple[Path, ModelProto]:
    """A LayerNorm whose parameters lie in a data file."""
    sheet = Sheet(13)
    sheet.layer_norm(shape=(width,))
    model = sheet.model(f"float[N,5,{width}] x")
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=1024)
    return path, model


def test_external_parameters_stay_in_their_file(tmp_path: Path) -> None:
    source, _ = with_wide_parameters(tmp_path)
    data = (tmp_path / "m.data").read_bytes()
    normfold.optimize(source, tmp_path / "out.onnx", config=Config(verify="region"))
    before = {t.name: t for t in onnx.load(str(source), load_external_data=False).graph.initializer}
    result = onnx.load(str(tmp_path / "out.onnx"), load_external_data=False)
    assert [node.op_type for node in result.graph.node] == ["LayerNormalization"]
    assert {t.name for t in result.graph.initializer} == {"g", "b"}
    for item in result.graph.initializer:
        assert item.data_location == onnx.TensorProto.EXTERNAL
        assert [e.value for e in item.external_data if e.key == "length"] == [
            e.value for e in before[item.name].external_data if e.key == "length"
        ]
    assert (tmp_path / "m.data").read_bytes() == data
