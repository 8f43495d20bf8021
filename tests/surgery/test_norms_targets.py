"""What a spelled-out norm becomes: every target and kind, the opset that is raised for it, and what the decision says."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.surgery.plan import Outcome
from normfold.targets.names import Target
from tests.surgery.norm_models import IMAGE, MICROSOFT, SEQUENCE, C, G, H, Lowered, Sheet, attributes, lowered

PORTABLE, ORT_CPU, ORT_CUDA = Target.PORTABLE, Target.ORT_CPU, Target.ORT_CUDA
TENSORRT, DIRECTML, OPENVINO = Target.TENSORRT, Target.DIRECTML, Target.OPENVINO

IDIOM = ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]
ROWS = ["Reshape", "LayerNormalization", "Reshape", "Mul", "Add"]
DECOMPOSED_RMS = ["Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


def spelled(kind: str, opset: int) -> tuple[Sheet, str]:
    sheet = Sheet(opset)
    {
        "layer": sheet.layer_norm,
        "rms": sheet.rms_norm,
        "group": sheet.group_norm,
        "instance": sheet.instance_norm,
    }[kind]()
    return sheet, IMAGE if kind in ("group", "instance") else SEQUENCE


def result_of(kind: str, opset: int, target: Target, threads: int | None = None) -> Lowered:
    sheet, inputs = spelled(kind, opset)
    return lowered(sheet.model(inputs), target, threads)


# --- what becomes of what ---

BECOMES = [
    *(("layer", 13, target, ["LayerNormalization"], 17) for target in Target),
    *(("layer", 18, target, ["LayerNormalization"], 18) for target in Target),
    *(("rms", 17, target, ["SimplifiedLayerNormalization"], 17) for target in (ORT_CPU, ORT_CUDA, DIRECTML)),
    *(("rms", 23, target, ["RMSNormalization"], 23) for target in (PORTABLE, ORT_CPU, TENSORRT)),
    *(("rms", 23, target, ["SimplifiedLayerNormalization"], 23) for target in (ORT_CUDA, DIRECTML)),
    *(("instance", opset, target, ["InstanceNormalization"], opset) for target in Target for opset in (13, 21)),
    *(("instance", 22, target, ["InstanceNormalization"], 22) for target in (PORTABLE, ORT_CPU, TENSORRT, OPENVINO)),
    *(("instance", 22, target, ROWS, 22) for target in (ORT_CUDA, DIRECTML)),
    ("group", 13, TENSORRT, ["GroupNormalization"], 21),
    ("group", 22, TENSORRT, ["GroupNormalization"], 22),
    ("group", 13, DIRECTML, ["GroupNorm"], 13),
    ("group", 13, ORT_CPU, ROWS, 17),
    ("group", 22, ORT_CUDA, ROWS, 22),
    ("group", 21, OPENVINO, ["GroupNormalization"], 21),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "opset", "target", "wanted", "raised"), BECOMES)
def test_a_norm_becomes_what_its_target_does_best(kind, opset, target, wanted, raised) -> None:
    result = result_of(kind, opset, target)
    assert result.operators == wanted
    assert result.opset == raised, "raised exactly as far as the operators need"
    assert result.domains == ({MICROSOFT: 1} if wanted == ["GroupNorm"] else {})
    assert result.codes == ["NF202"]
    decision = result.decisions[0]
    assert decision.outcome is Outcome.APPLIED
    assert {"layer": "LayerNorm", "rms": "RMSNorm", "group": "GroupNorm", "instance": "InstanceNorm"}[kind] in (
        decision.message
    )
    assert " nodes became " in decision.message
    assert "; " in decision.message, "and why"


STAYS = [
    *(("rms", 17, target, "opset-low", DECOMPOSED_RMS) for target in (PORTABLE, TENSORRT)),
    *(("rms", opset, OPENVINO, "left-to-target", DECOMPOSED_RMS) for opset in (17, 23)),
    *(("group", opset, PORTABLE, "target-spelling", IDIOM) for opset in (13, 22)),
    ("group", 17, OPENVINO, "target-spelling", IDIOM),
    ("group", 21, ORT_CUDA, "layout", IDIOM),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "opset", "target", "key", "wanted"), STAYS)
def test_a_norm_stays_where_nothing_is_gained(kind, opset, target, key, wanted) -> None:
    result = result_of(kind, opset, target)
    assert result.codes == [f"NF202.{key}"]
    assert result.operators == wanted
    assert result.model.graph == result.original.graph
    assert result.opset == opset, "an opset is not raised for nothing"
    assert result.decisions[0].outcome is Outcome.KEPT


def test_group_norm_on_the_cpu_depends_on_the_threads() -> None:
    one = result_of("group", 17, ORT_CPU, 1)
    assert one.operators == ["Reshape", "InstanceNormalization", "Reshape", "BatchNormalization"]
    batch_norm = one.node("BatchNormalization")
    assert attributes(batch_norm)["epsilon"] == 0
    assert [one.array(name).tolist() for name in batch_norm.input[3:]] == [[0.0] * 6, [1.0] * 6]
    assert result_of("group", 17, ORT_CPU, 2).operators == ROWS
    assert result_of("group", 17, ORT_CPU).operators == ROWS, "the runtime's default is more than one"


def test_epsilon_and_axis_are_written_out() -> None:
    node = result_of("layer", 13, PORTABLE).node("LayerNormalization")
    assert attributes(node) == {"axis": -1, "epsilon": pytest.approx(1e-5, rel=1e-7)}
    assert len(node.input) == 3


def test_a_norm_that_is_one_operator_already_is_kept() -> None:
    sheet = Sheet()
    sheet.init |= {"g": np.ones(H, np.float32), "b": np.zeros(H, np.float32)}
    sheet.add("y = LayerNormalization<axis=-1>(x, g, b)")
    for target in Target:
        result = lowered(sheet.model(SEQUENCE), target)
        assert result.codes == ["NF201.single-op"]
        assert result.decisions[0].message.endswith("already is the one operator LayerNormalization")


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("target", [t for t in Target if t not in (TENSORRT, OPENVINO)])
def test_group_normalization_has_no_kernel_in_onnxruntime(opset, target) -> None:
    sheet = Sheet(opset)
    sheet.group_normalization("x", "y")
    if opset == 18:  # one parameter per group
        sheet.init |= {"g": np.float32([1, 2, 3]), "b": np.float32([-1, 0, 1])}
    result = lowered(sheet.model(IMAGE), target)
    assert result.codes == ["NF202"]
    assert "GroupNormalization" not in result.operators
    assert result.opset == opset
    if target is DIRECTML:
        assert result.array(result.node("GroupNorm").input[1]).tolist() == (
            [1, 1, 2, 2, 3, 3]
            if opset == 18
            else result.original.graph.initializer[0].float_data[:] or result.array("g").tolist()
        )


@pytest.mark.parametrize("target", [PORTABLE, ORT_CPU, TENSORRT])
def test_a_contrib_group_norm_is_lowered_back_for_other_targets(target) -> None:
    sheet = Sheet(21)
    sheet.init |= {"g": np.linspace(1, 2, 6, dtype=np.float32), "b": np.linspace(-1, 1, 6, dtype=np.float32)}
    sheet.add(f"y = {MICROSOFT}.GroupNorm<groups=3, epsilon=1e-5, activation=0, channels_last=0>(x, g, b)")
    result = lowered(sheet.model(IMAGE, domains={MICROSOFT: 1}), target)
    assert result.codes == ["NF202"]
    assert "GroupNorm" not in result.operators
    if target is TENSORRT:
        assert result.operators == ["GroupNormalization"]


def test_marks_say_what_no_hardware_has_confirmed() -> None:
    assert result_of("layer", 17, PORTABLE).decisions[0].notes == ()
    (note,) = result_of("layer", 17, ORT_CUDA).decisions[0].notes
    assert note.startswith("rests on a fact that no hardware has confirmed: ")


# --- the opset ---


def with_upsample(kind: str) -> Sheet:
    """At opset 13, with a node that no newer opset has."""
    sheet, _ = spelled(kind, 13)
    sheet.add("z = RoiAlign<output_height=2, output_width=2>(x4, rois, index)")
    return sheet


OLD = ", float[N,2,4,4] x4, float[1,4] rois, int64[1] index"


def test_the_whole_model_is_raised_exactly() -> None:
    """RoiAlign got half-pixel coordinates at opset 16, so it is told to go on as before."""
    sheet = with_upsample("layer")
    result = lowered(sheet.model(SEQUENCE + OLD, f"float[N,5,{H}] y, float[a,b,c,d] z"), run=False)
    assert (result.codes, result.opset) == (["NF202"], 17)
    assert attributes(result.node("RoiAlign"))["coordinate_transformation_mode"] == b"output_half_pixel"


def test_a_node_without_an_exact_form_keeps_the_opset() -> None:
    sheet, _ = spelled("layer", 13)
    sheet.add("z, mask = Dropout(x)", "q = NoSuchOperator(z)")
    result = lowered(sheet.model(SEQUENCE, f"float[N,5,{H}] y, float[N,5,{H}] q"), ORT_CPU, run=False)
    assert result.codes == ["NF202.opset"]
    message = result.decisions[0].message
    assert "opset 17 is needed, and the model stays at 13" in message
    assert "NoSuchOperator" in message
    assert result.opset == 13
    assert result.model.graph == result.original.graph


def test_norms_take_the_best_that_the_opset_allows() -> None:
    """GroupNormalization would need opset 21, so tensorrt gets its second choice, and InstanceNormalization is there."""
    sheet = Sheet(13)
    sheet.layer_norm("x", "a", axes=(2, 3), shape=(6, 1, 1))
    sheet.init["r"] = np.array([0, 3, -1], np.int64)
    sheet.init |= {"gg": np.ones((6, 1, 1), np.float32) * 2, "gb": np.ones((6, 1, 1), np.float32)}
    sheet.init["ge"] = np.float32(1e-5)
    sheet.init["back"] = np.array([-1, 6, 4, 5], np.int64)
    sheet.add("z = Reshape(x, r)", "gm = ReduceMean<axes=[2]>(z)", "gd = Sub(z, gm)", "gp = Mul(gd, gd)")
    sheet.add("gv = ReduceMean<axes=[2]>(gp)", "gw = Add(gv, ge)", "gs = Sqrt(gw)", "gn = Div(gd, gs)")
    sheet.add("gx = Reshape(gn, back)", "gt = Mul(gx, gg)", "c = Add(gt, gb)", "q = NoSuchOperator(x)")
    outputs = "float[N,6,4,5] a, float[N,6,4,5] c, float[N,6,4,5] q"
    result = lowered(sheet.model(IMAGE, outputs), DIRECTML, run=False)
    assert sorted(result.operators) == ["GroupNorm", "InstanceNormalization", "NoSuchOperator"]
    assert result.opset == 13


# --- elementary operators ---


def moments(cheap: bool) -> Sheet:
    """A GroupNorm of [N, H, W, C] from tf.nn.moments; with one pass over x more where it is not the cheap spelling."""
    sheet = Sheet(13)
    sheet.init |= {
        "r": np.array([0, 4, 5, G, C // G], np.int64),
        "back": np.array([0, 4, 5, C], np.int64),
        "e": np.float32(1e-5),
        "g": np.linspace(0.5, 2.0, C, dtype=np.float32).reshape(G, C // G),
        "b": np.linspace(-1.0, 1.0, C, dtype=np.float32).reshape(G, C // G),
    }
    sheet.add("z = Reshape(x, r)")
    sheet.mean("z", "m", [1, 2, 4])
    sheet.add("d = Sub(z, m)", "p = Mul(d, d)")
    sheet.mean("p", "v", [1, 2, 4])
    sheet.add("w = Add(v, e)", "s = Sqrt(w)", "i = Reciprocal(s)")
    if cheap:
        sheet.add("k = Mul(i, g)", "t = Mul(z, k)", "c = Mul(m, k)", "f = Sub(b, c)", "o = Add(t, f)")
    else:
        sheet.add("n = Mul(d, i)", "t = Mul(n, g)", "o = Add(t, b)")
    sheet.add("y = Reshape(o, back)")
    return sheet


@pytest.mark.parametrize("cheap", [True, False])
def test_elementary_operators_never_go_over_the_tensor_more_often_than_before(cheap: bool) -> None:
    result = lowered(moments(cheap).model(f"float[N,4,5,{C}] x"), PORTABLE)
    wanted = "Reshape ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Reshape Add"
    assert " ".join(result.operators) == wanted


def test_a_cheaper_spelling_stays_although_it_has_more_nodes() -> None:
    sheet = Sheet(13)
    sheet.init |= {"e": np.float32(1e-5), "g": np.ones((1, 1, C), np.float32) * 2, "b": np.ones((1, 1, C), np.float32)}
    sheet.mean("x", "m", [1, 2])
    sheet.add("q = Mul(x, x)")
    sheet.mean("q", "u", [1, 2])
    sheet.add("o = Mul(m, m)", "f = Sub(u, o)", "w = Add(f, e)", "s = Sqrt(w)", "i = Reciprocal(s)", "k = Mul(i, g)")
    sheet.add("t = Mul(x, k)", "c = Mul(m, k)", "h = Neg(c)", "j = Add(h, b)", "y = Add(t, j)")
    result = lowered(sheet.model(f"float[N,4,5,{C}] x"), PORTABLE)
    assert len(result.operators) == 14, "two sums, a square, a product and a sum; the deviation would be one more"
