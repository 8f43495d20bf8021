"""L2: correct folds pass, planted bugs fail, and what cannot be checked says so."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.verification import Region, Status, VerifyOptions, verify_regions

from .builders import ConvBN, model

SETTINGS = {
    "plain": {},
    "tiny variance": {"var": 1e-6},
    "mean 1000": {"mean": 1000.0},
    "K 4": {"cin": 4, "cout": 4, "k": 1},
    "K 2304": {"cin": 256, "cout": 4},
    "grouped": {"group": 4},
    "depthwise": {"group": 8},
}
ELEMS = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "f64": TensorProto.DOUBLE,
}


@pytest.mark.parametrize("elem", ELEMS)
def test_correct_folds_pass(elem):
    regions = [ConvBN(3, elem=ELEMS[elem], **kw).region(name=name) for name, kw in SETTINGS.items()]
    verdicts = verify_regions(regions, VerifyOptions())
    assert [(v.edits, v.status) for v in verdicts] == [((name,), Status.PASS) for name in SETTINGS]
    assert all(v.ratio is not None and v.ratio < 1 and v.max_abs is not None for v in verdicts)


@pytest.mark.parametrize("elem", ["f32", "f16"])
@pytest.mark.parametrize("bug", ["epsilon", "swap", "mean", "group"])
def test_planted_bugs_fail(elem, bug):
    chosen = ["grouped"] if bug == "group" else ["plain", "tiny variance", "mean 1000", "K 4"]
    regions = [ConvBN(3, elem=ELEMS[elem], **SETTINGS[name]).region(bug, name=name) for name in chosen]
    verdicts = verify_regions(regions, VerifyOptions())
    assert [(v.edits[0], v.status) for v in verdicts] == [(name, Status.FAIL) for name in chosen]


def test_one_bad_edit_among_many_is_named():
    regions = [ConvBN(i, 4, 4, 1).region("epsilon" if i == 17 else "", name=f"e{i}") for i in range(40)]
    verdicts = verify_regions(regions, VerifyOptions())
    assert [v.edits[0] for v in verdicts if v.status is not Status.PASS] == ["e17"]


def elementwise(nodes, weights, x=("N", 6, "H", "W"), **kw):
    return model(nodes, [("x", list(x))], [("y", None)], weights, **kw)


def node(kind, *names, **attrs):
    *inputs, output = names
    return helper.make_node(kind, inputs, [output], **attrs)


def test_region_whose_original_does_not_run_is_inconclusive():
    before = elementwise([node("Add", "x", "w", "y")], {"w": np.ones(5)})
    after = elementwise([node("Identity", "x", "y")], {})
    good = ConvBN(1, 4, 4, 1).region(name="good")
    verdicts = verify_regions([good, Region(("a",), before, after), good], VerifyOptions())
    assert [v.status for v in verdicts] == [Status.PASS, Status.INCONCLUSIVE, Status.PASS]
    assert "does not run" in verdicts[1].reason


def test_region_whose_rewrite_does_not_run_fails():
    before = elementwise([node("Identity", "x", "y")], {})
    after = elementwise([node("Add", "x", "w", "y")], {"w": np.ones(5)})
    good = ConvBN(1, 4, 4, 1).region(name="good")
    verdicts = verify_regions([good, Region(("a",), before, after)], VerifyOptions())
    assert [v.status for v in verdicts] == [Status.PASS, Status.FAIL]


def test_unknown_rank_is_unverified():
    region = ConvBN(1).region()
    region.before.graph.input[0].type.tensor_type.ClearField("shape")
    (verdict,) = verify_regions([region], VerifyOptions())
    assert verdict.status is Status.INCONCLUSIVE
    assert "rank" in verdict.reason


def test_renamed_output_fails():
    region = ConvBN(1).region()
    region.after.graph.node[-1].output[0] = region.after.graph.output[0].name = "z"
    (verdict,) = verify_regions([region], VerifyOptions())
    assert verdict.status is Status.FAIL


def test_operator_without_bound_is_judged_by_its_noise_floor():
    def side(gain):
        nodes = [node("Mul", "x", "g", "m"), node("Softmax", "m", "y", axis=1)]
        return elementwise(nodes, {"g": np.full((6, 1, 1), gain)})

    regions = [Region(("same",), side(0.5), side(0.5)), Region(("other",), side(0.5), side(0.501))]
    same, other = verify_regions(regions, VerifyOptions())
    assert (same.status, same.execution) == (Status.PASS, "noise floor")
    assert other.status is Status.FAIL
    assert "Softmax" in same.reason


def test_bug_only_at_batch_above_one_is_found():
    """The rewrite adds the first sample's channel means to every sample."""
    before = [node("ReduceMean", "x", "m", axes=[2, 3]), node("Add", "x", "m", "y")]
    after = [
        node("ReduceMean", "x", "m", axes=[2, 3]),
        node("Slice", "m", "b", "e", "a", "first"),
        node("Add", "x", "first", "y"),
    ]
    cut = {"b": np.array([0]), "e": np.array([1]), "a": np.array([0])}
    (verdict,) = verify_regions([Region(("a",), elementwise(before, {}), elementwise(after, cut))], VerifyOptions())
    assert verdict.status is Status.FAIL


def test_bug_only_on_non_square_inputs_is_found():
    def side(perm):
        nodes = [
            node("Transpose", "x", "t", perm=perm),
            node("ReduceMean", "t", "m", axes=[2], keepdims=0),
            node("Flatten", "m", "f"),
            node("ReduceSum", "f", "y"),
        ]
        return elementwise(nodes, {})

    # Means over H then a sum over W differ from means over W then a sum over H by H / W: equal on a square.
    (verdict,) = verify_regions([Region(("a",), side([0, 1, 2, 3]), side([0, 1, 3, 2]))], VerifyOptions())
    assert verdict.status is Status.FAIL


def layer_norm(epsilon=1e-5):
    weights = {"g": np.linspace(0.5, 2, 24), "b": np.linspace(-1, 1, 24)}
    return model(
        [node("LayerNormalization", "x", "g", "b", "y", epsilon=epsilon)],
        [("x", ["N", "S", 24])],
        [("y", None)],
        weights,
    )


def chain_norm(*, one_pass=False, epsilon=1e-5):
    weights = {
        "g": np.linspace(0.5, 2, 24),
        "b": np.linspace(-1, 1, 24),
        "e": np.float32(epsilon),
        "two": np.float32(2),
    }
    nodes = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x", "m", "d")]
    if one_pass:
        nodes += [
            node("Mul", "x", "x", "xx"),
            node("ReduceMean", "xx", "mxx", axes=[-1]),
            node("Mul", "m", "m", "mm"),
            node("Sub", "mxx", "mm", "v"),
        ]
    else:
        nodes += [node("Pow", "d", "two", "p"), node("ReduceMean", "p", "v", axes=[-1])]
    nodes += [
        node("Add", "v", "e", "ve"),
        node("Sqrt", "ve", "s"),
        node("Div", "d", "s", "n"),
        node("Mul", "n", "g", "ng"),
        node("Add", "ng", "b", "y"),
    ]
    return model(nodes, [("x", ["N", "S", 24])], [("y", None)], weights)


def test_fused_layer_norm_passes_and_a_wrong_epsilon_fails():
    regions = [
        Region(("right",), chain_norm(), layer_norm()),
        Region(("wrong",), chain_norm(), layer_norm(1e-3)),
        Region(("back",), layer_norm(), chain_norm()),
    ]
    verdicts = verify_regions(regions, VerifyOptions())
    assert [v.status for v in verdicts] == [Status.PASS, Status.FAIL, Status.PASS]


def test_one_pass_variance_is_improved_unless_the_formula_changed():
    regions = [
        Region(("right",), chain_norm(one_pass=True), layer_norm()),
        Region(("wrong",), chain_norm(one_pass=True), layer_norm(1e-3)),
    ]
    right, wrong = verify_regions(regions, VerifyOptions())
    assert right.status in (Status.IMPROVED, Status.PASS), right
    assert wrong.status is Status.FAIL
    (kept,) = verify_regions(regions[:1], VerifyOptions(improve=False))
    assert kept.status in (Status.SUSPECT, Status.PASS)


NORMS = {
    "InstanceNormalization": ({"g": np.linspace(0.5, 2, 6), "b": np.linspace(-1, 1, 6)}, {}, 17),
    "GroupNormalization": ({"g": np.linspace(0.5, 2, 6), "b": np.linspace(-1, 1, 6)}, {"num_groups": 3}, 21),
    "BatchNormalization": (
        {"g": np.linspace(0.5, 2, 6), "b": np.linspace(-1, 1, 6), "m": np.ones(6), "v": np.full(6, 2.0)},
        {},
        15,
    ),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("elem", ["f32", "f16"])
def test_affine_folded_into_a_norm(kind, elem):
    weights, attrs, opset = NORMS[kind]
    scale, shift = np.linspace(1, 2, 6).reshape(6, 1, 1), np.linspace(-1, 2, 6).reshape(6, 1, 1)
    dtype = helper.tensor_dtype_to_np_dtype(ELEMS[elem])
    weights = {k: v.astype(dtype) for k, v in weights.items()}
    scale, shift = scale.astype(dtype), shift.astype(dtype)
    nodes = [node(kind, "x", *weights, "n", **attrs), node("Mul", "n", "s", "p"), node("Add", "p", "t", "y")]
    before = elementwise(nodes, {**weights, "s": scale, "t": shift}, opset=opset, elem=ELEMS[elem])
    s, t = scale.ravel().astype(float), shift.ravel().astype(float)

    def after(extra):
        folded = {**weights, "g": weights["g"] * s, "b": weights["b"] * s + t + extra}
        return elementwise([node(kind, "x", *weights, "y", **attrs)], folded, opset=opset, elem=ELEMS[elem])

    verdicts = verify_regions([Region(("a",), before, after(0)), Region(("b",), before, after(0.2))], VerifyOptions())
    assert [v.status for v in verdicts] == [Status.PASS, Status.FAIL]


SHAPE_OPS = {
    "pool": ([node("AveragePool", "a", "y", kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=0)], {}),
    "max": ([node("MaxPool", "a", "y", kernel_shape=[3, 3])], {}),
    "global": ([node("GlobalAveragePool", "a", "y")], {}),
    "relu": ([node("Relu", "a", "y")], {}),
    "clip": ([node("Clip", "a", "lo", "hi", "y")], {"lo": np.float32(0), "hi": np.float32(6)}),
    "prelu": ([node("PRelu", "a", "slope", "y")], {"slope": np.full((6, 1, 1), 0.3)}),
    "leaky": ([node("LeakyRelu", "a", "y", alpha=0.2)], {}),
    "transpose": ([node("Transpose", "a", "y", perm=[0, 2, 3, 1])], {}),
    "flatten": ([node("Flatten", "a", "y")], {}),
    "concat": ([node("Concat", "a", "x", "y", axis=1)], {}),
    "residual": ([node("Add", "a", "x", "y")], {}),
    "pad": ([node("Pad", "a", "p", "y")], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "resize": ([node("Resize", "a", "", "k", "y", mode="linear")], {"k": np.array([1, 1, 2, 2], np.float32)}),
    "dropout": ([node("Dropout", "a", "y")], {}),
    "sigmoid": ([node("Sigmoid", "a", "y")], {}),
    "shape": (
        [node("Shape", "a", "sh"), node("Reshape", "a", "sh", "y")],
        {},
    ),
    "slice": ([node("Slice", "a", "i", "j", "k", "y")], {"i": np.array([1]), "j": np.array([3]), "k": np.array([1])}),
}


@pytest.mark.parametrize("reorder", [False, True], ids=["right", "wrong"])
def test_operators_that_regions_contain(reorder):
    """(x·s) + t against a 1 × 1 convolution, followed by each operator."""
    s, t = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)
    regions = []
    for name, (tail, weights) in SHAPE_OPS.items():
        head = [node("Mul", "x", "s", "m"), node("Add", "m", "t", "a")]
        before = elementwise([*head, *tail], {"s": s.reshape(6, 1, 1), "t": t.reshape(6, 1, 1), **weights})
        kernel = np.diag(s[::-1] if reorder else s).reshape(6, 6, 1, 1)
        after = elementwise([node("Conv", "x", "W", "t", "a"), *tail], {"W": kernel, "t": t, **weights})
        regions.append(Region((name,), before, after))
    verdicts = verify_regions(regions, VerifyOptions())
    expected = Status.FAIL if reorder else Status.PASS
    assert [
        (v.edits[0], v.status, v.reason) for v in verdicts if v.status is not expected or v.execution != "native"
    ] == []


def test_embedding_region_draws_indices_in_range():
    table, s = np.random.default_rng(0).standard_normal((5, 4)), np.linspace(1, 2, 4)
    ids = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", "S"])
    nodes = [node("Gather", "T", "x", "e"), node("Mul", "e", "s", "y")]
    before = model(nodes, [ids], [("y", None)], {"T": table.astype(np.float32), "s": s.astype(np.float32)})
    after = model(
        [node("Gather", "T", "x", "y")], [ids], [("y", None)], {"T": table.astype(np.float32) * s.astype(np.float32)}
    )
    (verdict,) = verify_regions([Region(("a",), before, after)], VerifyOptions())
    assert verdict.status is Status.PASS, verdict


def test_all_nan_region_does_not_pass():
    side = elementwise([node("Mul", "x", "w", "y")], {"w": np.full((6, 1, 1), np.nan)})
    (verdict,) = verify_regions([Region(("a",), side, side)], VerifyOptions())
    assert verdict.status is Status.INCONCLUSIVE


def test_same_seed_gives_the_same_verdict_and_progress_counts_up():
    seen = []
    regions = [ConvBN(i, 4, 4, 1).region(name=f"e{i}") for i in range(3)]
    first = verify_regions(regions, VerifyOptions(seed=5), progress=lambda done, total: seen.append((done, total)))
    assert first == verify_regions(iter(regions), VerifyOptions(seed=5))
    assert seen[-1] == (3, 3)
    assert first != verify_regions(regions, VerifyOptions(seed=6))


def test_regions_are_left_alone():
    region = ConvBN(1).region()
    copies = [side.SerializeToString(deterministic=True) for side in (region.before, region.after)]
    verify_regions([region], VerifyOptions())
    assert copies == [side.SerializeToString(deterministic=True) for side in (region.before, region.after)]


def test_static_dims_are_honoured():
    (verdict,) = verify_regions([ConvBN(1).region(dims=(1, 8, 6, "W"))], VerifyOptions())
    assert verdict.status is Status.PASS
    assert verdict.shapes["x"][:3] == (1, 8, 6)


def test_no_regions():
    assert verify_regions([], VerifyOptions()) == ()


def test_models_are_valid():
    region = ConvBN(1).region()
    onnx.checker.check_model(region.before)


def test_inputs_of_different_sizes_are_found_by_trying():
    """One input is twice as large as the other and only the operators know."""

    def side(nodes, weights):
        inputs = [("x", ["N", 6, "a", "b"]), ("z", ["N", 6, "c", "d"])]
        tail = [node("MaxPool", "m", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Concat", "p", "z", "y", axis=1)]
        return model([*nodes, *tail], inputs, [("y", None)], weights)

    s = np.linspace(1, 2, 6)
    before = side([node("Mul", "x", "s", "m")], {"s": s.reshape(6, 1, 1)})
    after = side([node("Conv", "x", "W", "m")], {"W": np.diag(s).reshape(6, 6, 1, 1)})
    (verdict,) = verify_regions([Region(("a",), before, after)], VerifyOptions())
    assert verdict.status is Status.PASS, verdict


def test_large_static_region_runs_once_at_its_size_and_then_smaller():
    (good, bad) = verify_regions(
        [ConvBN(2, 16, 16).region(bug, dims=(1, 16, 40, 33)) for bug in ("", "swap")], VerifyOptions()
    )
    assert (good.status, bad.status) == (Status.PASS, Status.FAIL)


def test_repro_of_a_failure_is_kept(tmp_path):
    verify_regions([ConvBN(2).region("swap", name="a/b")], VerifyOptions(keep_repro=tmp_path / "repro"))
    (folder,) = (tmp_path / "repro").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["after.onnx", "before.onnx", "command.txt", "inputs.npz"]


def test_repaired_overflow_is_an_improvement_unless_forbidden():
    """x·2¹²⁷·2⁻¹²⁶ overflows from |x| = 2 on; the rewrite x·2 does not, and is right."""

    def side(*gains):
        names = ["x", *(f"m{i}" for i in range(len(gains) - 1)), "y"]
        nodes = [node("Mul", names[i], f"g{i}", names[i + 1]) for i in range(len(gains))]
        return elementwise(nodes, {f"g{i}": np.full((6, 1, 1), gain) for i, gain in enumerate(gains)})

    before, right, wrong = side(2.0**127, 2.0**-126), side(2.0), side(2.5)
    regions = [Region(("right",), before, right), Region(("wrong",), before, wrong), Region(("back",), right, before)]
    verdicts = verify_regions(regions, VerifyOptions())
    assert [v.status for v in verdicts] == [Status.IMPROVED, Status.FAIL, Status.FAIL], verdicts
    (kept,) = verify_regions(regions[:1], VerifyOptions(improve=False))
    assert kept.status is Status.SUSPECT
