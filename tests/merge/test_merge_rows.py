"""Two linear operators in a row: what becomes one, under which conditions, and what just fails to."""

import numpy as np
import onnx
import pytest

from normfold.surgery.planner import Exclusions
from tests.support import apart, batch_norm, build, check, merges, random

X = "float[N,6,8,8] x"
# 6 -> 6 -> 4 channels: one Conv needs less than two
POINT, WIDE = random(6, 6, 1, 1), random(4, 6, 3, 3, seed=1)
BASE = {
    "p": POINT, "w": WIDE, "pb": random(6, seed=2), "wb": random(4, seed=3),
    "k": random(6, 6, 3, 3, seed=4), "q": random(4, 6, 1, 1, seed=5), "kb": random(6, seed=6), "qb": random(4, seed=7),
    **batch_norm(6), **batch_norm(4, seed=9, prefix="o"),
}  # fmt: skip


# --- Conv, then Conv 1x1


@pytest.mark.parametrize("bias", ["", ", kb"])
@pytest.mark.parametrize(
    "window", ["", "pads=[1,1,1,1]", "pads=[2,0,1,1],strides=[2,1]", "dilations=[2,2],pads=[2,2,2,2]"]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_point_behind(bias, window, stride):
    """Padding of the first is fine, whatever its bias: the second sees it everywhere."""
    text = f"c = Conv<{window}>(x, k{bias}) y = Conv<strides=[{stride},{stride}]>(c, q, qb)"
    result = merges(build(text, X, "y", BASE), ["Conv"])
    wanted = np.einsum("om,mikl->oikl", BASE["q"][:, :, 0, 0].astype(np.float64), BASE["k"].astype(np.float64))
    np.testing.assert_allclose(result.operand("Conv", 1), wanted, rtol=1e-6, atol=1e-7)
    assert list(result.node("Conv").output) == ["y"]


def test_the_attributes_of_the_first_stay_as_they_were():
    text = 'c = Conv<auto_pad="SAME_LOWER">(x, k) y = Conv(c, q)'
    result = merges(build(text, X, "y", BASE), ["Conv"])
    assert {a.name: onnx.helper.get_attribute_value(a) for a in result.node("Conv").attribute} == {
        "auto_pad": b"SAME_LOWER"
    }


def test_norms_in_between_and_behind():
    text = "c = Conv<pads=[1,1,1,1]>(x, k, kb) b1 = BatchNormalization(c, g, b, m, v) d = Conv(b1, q) "
    merges(build(text + "y = BatchNormalization(d, og, ob, om, ov)", X, "y", BASE), ["Conv"])


# --- Conv 1x1, then Conv


@pytest.mark.parametrize("bias", ["", ", pb"])
@pytest.mark.parametrize("window", ["", "strides=[2,2]", "dilations=[2,2]"])
def test_a_point_in_front_of_a_conv_without_padding(bias, window):
    result = merges(build(f"c = Conv(x, p{bias}) y = Conv<{window}>(c, w, wb)", X, "y", BASE), ["Conv"])
    wanted = np.einsum("omkl,mi->oikl", WIDE.astype(np.float64), POINT[:, :, 0, 0].astype(np.float64))
    np.testing.assert_allclose(result.operand("Conv", 1), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("window", ["pads=[1,1,1,1]", 'auto_pad="SAME_UPPER",strides=[2,2]', "pads=[0,0,0,2]"])
def test_padding_behind_a_bias(window):
    """The zeros of the padding do not pass through the first Conv, so its bias is missing there."""
    merges(build(f"c = Conv(x, p) y = Conv<{window}>(c, w, wb)", X, "y", BASE), ["Conv"])
    apart(build(f"c = Conv(x, p, pb) y = Conv<{window}>(c, w, wb)", X, "y", BASE), "NF104.shift-blocked")


def test_padding_behind_a_shift_that_folded_into_the_first():
    text = "c = Conv(x, p) b1 = BatchNormalization(c, g, b, m, v) y = Conv<pads=[1,1,1,1]>(b1, w, wb)"
    apart(build(text, X, "y", BASE), "NF104.shift-blocked")


def test_a_bias_of_zeros_is_none():
    init = {**BASE, "pb": np.zeros(6, np.float32)}
    merges(build("c = Conv(x, p, pb) y = Conv<pads=[1,1,1,1]>(c, w, wb)", X, "y", init), ["Conv"])


def test_more_output_than_input_positions():
    """Padding that widens the picture: the point in front worked on fewer positions."""
    model = build("c = Conv(x, p) y = Conv<pads=[2,2,2,2]>(c, w, wb)", X, "y", BASE)
    apart(model, "NF104.cost")
    assert "more output positions" in merges(model, ["Conv"], aggressive=True).merges[0].message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("c = Conv<pads=[1,1,1,1]>(x, p) y = Conv(c, w)", "NF104.geometry"),
        ("c = Conv<strides=[2,2]>(x, p) y = Conv(c, w)", "NF104.geometry"),
        ("c = Conv<pads=[1,1,1,1]>(x, k) y = Conv<pads=[1,1,1,1]>(c, q)", "NF104.geometry"),
        ("c = Conv(x, k) y = Conv(c, w)", ""),
        ("c = Conv(x, k) r = Relu(c) y = Conv(r, q)", ""),
        ("c = MaxPool<kernel_shape=[1,1]>(x) y = Conv(c, q)", ""),
    ],
)
def test_near_misses(text, code):
    apart(build(text, X, "y", BASE), *([code] if code else []))


# --- cost


def test_depthwise_then_pointwise():
    init = {"d": random(6, 1, 3, 3), "p": POINT}
    model = build("c = Conv<pads=[1,1,1,1],group=6>(x, d) y = Conv(c, p)", X, "y", init)
    apart(model, "NF104.cost")
    result = merges(model, ["Conv"], aggressive=True)
    assert "324 parameters instead of 90" in result.merges[0].message
    assert not [a for a in result.node("Conv").attribute if a.name == "group" and a.i != 1]


def test_a_bottleneck():
    init = {"a": random(2, 6, 1, 1), "e": random(6, 2, 1, 1)}
    model = build("c = Conv(x, a) y = Conv(c, e)", X, "y", init)
    apart(model, "NF104.cost")
    merges(model, ["Conv"], aggressive=True)


def test_low_rank_matrices():
    init = {"a": random(8, 2), "e": random(2, 8)}
    apart(build("c = MatMul(x, a) y = MatMul(c, e)", "float[N,8] x", "y", init), "NF104.cost")


def test_equal_cost_is_no_growth():
    """2·6 + 3·2... one of 6 inputs and 3 outputs needs 18, the two need 12 + 6."""
    init = {"a": random(6, 2), "e": random(2, 3)}
    merges(build("c = MatMul(x, a) y = MatMul(c, e)", "float[N,6] x", "y", init), ["MatMul"])
    init = {"a": random(6, 2), "e": random(2, 4)}
    apart(build("c = MatMul(x, a) y = MatMul(c, e)", "float[N,6] x", "y", init), "NF104.cost")


def test_a_merged_weight_has_a_limit(monkeypatch):
    from normfold.affine.merge import views

    monkeypatch.setattr(views, "LARGEST_WEIGHT", 10)
    apart(build("c = Conv(x, k) y = Conv(c, q)", X, "y", BASE), "NF104.cost", aggressive=True)


# --- groups


@pytest.mark.parametrize(("g1", "g2", "left"), [(2, 2, 2), (2, 1, 1), (1, 2, 1), (4, 2, 2), (2, 4, 2), (4, 4, 4)])
@pytest.mark.parametrize("point_first", [False, True])
def test_groups(g1, g2, left, point_first):
    k1, k2 = ((1, 1), (3, 3)) if point_first else ((3, 3), (1, 1))
    init = {"a": random(8, 8 // g1, *k1), "e": random(4, 8 // g2, *k2, seed=1), "ab": random(8), "eb": random(4)}
    text = f"c = Conv<group={g1}>(x, a, ab) y = Conv<group={g2}>(c, e, eb)"
    result = merges(build(text, "float[N,8,6,6] x", "y", init), ["Conv"], aggressive=True)
    assert result.operand("Conv", 1).shape == (4, 8 // left, 3, 3)


def test_groups_that_do_not_divide_the_new_channels():
    """The merged Conv has another group than the one that stays: what folds into it later must know that."""
    init = {"a": random(6, 2, 1, 1), "e": random(4, 6, 3, 3, seed=1), **batch_norm(4)}
    text = "c = Conv<group=3>(x, a) y0 = Conv(c, e) y = BatchNormalization(y0, g, b, m, v)"
    merges(build(text, X, "y", init), ["Conv"])


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    init = {"a": random(6, 6, *([3] * rank)), "e": random(4, 6, *([1] * rank), seed=1), "ab": random(6)}
    merges(build("c = Conv(x, a, ab) y = Conv(c, e)", f"float[N,6{',5' * rank}] x", "y", init), ["Conv"])


# --- MatMul and Gemm


DENSE = {
    "a": random(6, 6), "at": random(6, 6, seed=1), "e": random(6, 4, seed=2), "et": random(4, 6, seed=3),
    "ab": random(6, seed=4), "eb": random(4, seed=5), "one": random(1, 4, seed=6), "s": np.float32(0.5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("c = MatMul(x, a) y = MatMul(c, e)", ["MatMul"]),
        ("c = Gemm(x, a, ab) y = MatMul(c, e)", ["Gemm"]),
        ("c = MatMul(x, a) y = Gemm(c, e, eb)", ["Gemm"]),
        ("c = Gemm<transB=1>(x, at, ab) y = Gemm<transB=1>(c, et, eb)", ["Gemm"]),
        ("c = Gemm<alpha=2.0,beta=3.0>(x, a, ab) y = Gemm<alpha=0.3,beta=-1.0>(c, e, one)", ["Gemm"]),
        ("c = Gemm(x, a, s) y = Gemm(c, e, s)", ["Gemm"]),
        ("c = Gemm<transA=1>(x, a) y = MatMul(c, e)", ["Gemm"]),
        ("c = MatMul(x, a) h = Mul(c, s) i = Add(h, ab) y = MatMul(i, e)", ["Gemm"]),
    ],
)
def test_matrices(text, ops):
    merges(build(text, "float[6,6] x", "y", DENSE), ops)


def test_linear_layers_of_higher_rank():
    """torch writes a Linear on tokens as MatMul and Add: the first bias goes through the second matrix."""
    text = "c = MatMul(x, a) cb = Add(c, ab) d = MatMul(cb, e) y = Add(d, eb)"
    result = check(build(text, "float[N,3,6] x", "y", DENSE))
    assert sorted(result.after) == ["Add", "MatMul"]
    wanted = DENSE["ab"].astype(np.float64) @ DENSE["e"].astype(np.float64) + DENSE["eb"]
    np.testing.assert_allclose(result.operand("Add", 1), wanted, rtol=1e-6)


def test_a_constant_behind_that_varies_over_tokens():
    init = {**DENSE, "t": random(3, 4)}
    result = check(build("c = MatMul(x, a) d = MatMul(c, e) y = Add(d, t)", "float[N,3,6] x", "y", init))
    assert sorted(result.after) == ["Add", "MatMul"]
    init["t"] = random(3, 6)
    model = build("c = MatMul(x, a) i = Add(c, t) y = MatMul(i, e)", "float[N,3,6] x", "y", init)
    apart(model, "NF104.not-per-channel")


def test_a_long_row():
    """The formula of each new weight reads the one before: its depth is bounded, and the result is one MatMul."""
    init = {f"w{i}": random(4, 4, seed=i) for i in range(60)}
    text = " ".join(f"v{i + 1} = MatMul(v{i}, w{i})" for i in range(60)).replace("v0", "x").replace("v60", "y")
    merges(build(text, "float[N,4] x", "y", init), ["MatMul"])


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("c = MatMul(x, a) y = Gemm<transA=1>(c, a)", ["NF104.geometry"]),
        ("c = Gemm(x, a, full) y = MatMul(c, e)", ["NF104.not-per-channel"]),
        ("c = MatMul(a, x) y = MatMul(c, e)", []),
        ("c = MatMul(x, a) y = MatMul(c, x)", []),
        ("c = MatMul(x, x) y = MatMul(c, e)", []),
    ],
)
def test_matrices_that_stay(text, codes):
    init = {**DENSE, "full": random(6, 6, seed=9)}
    apart(build(text, "float[6,6] x", "y", init), *codes)


def test_batched_weights_stay():
    init = {"a": random(3, 6, 6), "e": random(6, 4)}
    apart(build("c = MatMul(x, a) y = MatMul(c, e)", "float[N,3,2,6] x", "y", init), "NF104.ill-formed")


# --- who else looks


@pytest.mark.parametrize(
    ("tail", "outputs", "code"),
    [
        ("", "y, c", "NF104.graph-output"),
        ("z = Relu(c)", "y, z", "NF104.shared"),
        ("z = Shape(c)", "y, z", "NF104.shared"),
    ],
)
def test_somebody_else_reads_what_lies_between(tail, outputs, code):
    apart(build(f"c = Conv(x, k) y = Conv(c, q) {tail}", X, outputs, BASE), code)


def test_captured():
    text = "c = Conv(x, k) y = Conv(c, q) z = If (i) <then_branch = t () => (float[N,6,6,6] o) { o = Relu(c) }, "
    text += "else_branch = e () => (float[N,6,6,6] no) { no = Abs(c) }>"
    apart(build(text, f"{X}, bool i", "float[N,4,6,6] y, float[N,6,6,6] z", BASE), "NF104.captured")


def test_inside_of_a_body_with_weights_from_outside():
    text = "y = If (i) <then_branch = t () => (float[N,4,6,6] o) { c = Conv(x, k, kb) o = Conv(c, q) }, "
    text += "else_branch = e () => (float[N,4,6,6] no) { no = Conv(x, w) }>"
    merges(build(text, f"{X}, bool i", "float[N,4,6,6] y", BASE), ["Conv", "Conv", "If"])


def test_shared_weights_stay_for_others():
    text = "c = Conv(x, k) y = Conv(c, q) d = Conv(z, k) e = Relu(d) u = Conv(e, q)"
    result = merges(build(text, f"{X}, float[N,6,8,8] z", "y, u", BASE), ["Conv", "Conv", "Conv", "Relu"])
    assert np.array_equal(result.array("k"), BASE["k"])
    assert np.array_equal(result.array("q"), BASE["q"])


def test_dynamic_and_overridable_weights():
    apart(build("c = Conv(x, k) y = Conv(c, q)", f"{X}, float[4,6,1,1] q", "y", {"k": BASE["k"]}))
    apart(build("c = Conv(x, k) y = Conv(c, q)", X, "y", BASE, listed=("k",)))


def test_stale_value_info_goes():
    """A declared shape of the tensor in between would contradict the new one."""
    model = build("c = Conv(x, k) d = Conv(c, q) y = Relu(d)", X, "y", BASE)
    model = onnx.shape_inference.infer_shapes(model)
    result = merges(model, ["Conv", "Relu"])
    assert {info.name for info in result.model.graph.value_info} == {"d"}


def test_only_what_is_allowed():
    model = build("c = Conv(x, k) y = Conv(c, q)", X, "y", BASE)
    apart(model, "NF104.user-keep", exclusions=Exclusions({}, skip=("NF104",)))
    apart(model, "NF104.user-keep", exclusions=Exclusions({}, only=("NF103",)))
    apart(model, "NF104.verification", exclusions=Exclusions({"graph:1": ("verification", "it differs")}))


# --- rows and branches together


def test_rows_inside_of_branches():
    """MobileOne with a bottleneck of 1x1 in one branch: the row first, then the sum."""
    init = {**BASE, "w": random(6, 6, 3, 3), "q": random(6, 6, 1, 1)}
    text = "c = Conv<pads=[1,1,1,1]>(x, k) d = Conv(c, q) e = Conv<pads=[1,1,1,1]>(x, w) s = Add(d, e) y = Add(s, x)"
    result = merges(build(text, X, "y", init), ["Conv"])
    assert sorted(d.code for d in result.merges) == ["NF103", "NF104"]


def test_branches_then_a_row():
    init = {**BASE, "p": random(6, 6, 1, 1)}
    text = "c = Conv<pads=[1,1,1,1]>(x, k, kb) d = Conv(x, p) s = Add(c, d) t = Add(s, x) y = Conv(t, q, qb)"
    merges(build(text, X, "y", init), ["Conv"])


def test_a_point_that_absorbs_its_shortcut_lets_the_next_conv_in():
    text = "c = Conv(x, p) s = Add(c, x) y = Conv<pads=[1,1,1,1]>(s, w, wb)"
    merges(build(text, X, "y", BASE), ["Conv"])


# --- numbers


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_types(dtype):
    kind = "float16" if dtype == np.float16 else "double"
    init = {name: array.astype(dtype) for name, array in BASE.items()}
    text = "c = Conv<pads=[1,1,1,1]>(x, k, kb) y = Conv(c, q, qb)"
    result = merges(build(text, X.replace("float", kind), "y", init), ["Conv"])
    assert result.operand("Conv", 1).dtype == dtype


def test_products_that_become_subnormal():
    """Both weights are ordinary numbers of float16; their product is not, and would lose most of its digits."""
    from tests.support import refuses_when_written

    init = {
        "a": random(6, 6, low=1e-4, high=2e-4, dtype=np.float16),
        "e": random(6, 6, low=1e-4, high=2e-4, dtype=np.float16),
    }
    init = {name: np.where(array == 0.5, np.float16(1.5e-4), array) for name, array in init.items()}
    model = build("c = MatMul(x, a) y = MatMul(c, e)", "float16[N,6] x", "y", init)
    assert "subnormal" in refuses_when_written(model)


def test_products_that_overflow():
    from tests.support import refuses_when_written

    init = {"a": random(6, 6) * 1e30, "e": random(6, 6, seed=1) * 1e30}
    model = build("c = MatMul(x, a) y = MatMul(c, e)", "float[N,6] x", "y", init)
    assert "exceeds" in refuses_when_written(model)


def test_the_product_is_the_same_on_every_machine():
    """Element by element in a fixed order: bit for bit what a plain loop gives."""
    from normfold.affine.merge.weights import product

    left, right = random(5, 7).astype(np.float64), random(7, 70_000).astype(np.float64)
    wanted = np.zeros((5, 70_000))
    for middle in range(7):
        wanted += np.outer(left[:, middle], right[middle])
    assert np.array_equal(product(left, right), wanted)


def test_a_row_of_three_whose_groups_change_on_the_way():
    init = {"w": random(4, 1, 1), "w2": random(3, 4, 1), "w3": random(1, 3, 1)}
    model = build("a = Conv<group=4>(x, w) b = Conv(a, w2) c = Conv(b, w3) y = Sigmoid(c)", "float[2,4,5] x", init=init)
    assert check(model).after == ["Conv", "Sigmoid"]


@pytest.mark.parametrize("quantised", ["w", "w2"])
def test_a_quantised_weight_does_not_become_floats(quantised):
    init = {"w": random(4, 4, 1, 1), "w2": random(4, 4, 1, 1, seed=1)}
    name = f"{quantised}q"
    init[name] = np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1)
    init["s"] = np.float32(0.1)
    del init[quantised]
    body = f"{quantised} = DequantizeLinear({name}, s) a = Conv(x, w) b = Conv(a, w2) y = Sigmoid(b)"
    model = build(body, "float[2,4,5,5] x", init=init, opset=13)
    assert check(model, aggressive=True).after == ["DequantizeLinear", "Conv", "Conv", "Sigmoid"]


def test_a_map_behind_a_merged_conv_has_the_size_of_the_merged_one():
    """The row makes the stride larger; the shift in front then becomes a map of the smaller output."""
    init = {"k": random(4, 1, 1), "q": random(4, 1, 1, seed=5), "w": random(2, 4, 1, 1), "w2": random(2, 1, 1, 1)}
    first = "c = Conv<pads=[0, 1, 1, 1], strides=[2, 2]>(b, w)"
    body = f"a = Add(x, k) b = Mul(a, q) {first} d = Conv<group=2, strides=[2, 1]>(c, w2) y = Relu(d)"
    assert check(build(body, "float[2,4,4,4] x", init=init)).after == ["Conv", "Add", "Relu"]
