"""Parallel linear branches that are added: what becomes one operator, and what just fails to."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from normfold.surgery.plan import Outcome
from normfold.surgery.planner import Exclusions
from tests.support import apart, batch_norm, build, check, merges, positive, random

X = "float[N,4,8,8] x"
K3, K1 = random(4, 4, 3, 3), random(4, 4, 1, 1, seed=1)
BASE = {"w": K3, "u": K1, **batch_norm(4), **batch_norm(4, seed=9, prefix="q"), **batch_norm(4, seed=7, prefix="r")}
WIDE, NARROW = "c = Conv<pads=[1,1,1,1]>(x, w)", "d = Conv(x, u)"


def norm(name, data, prefix=""):
    return f"{name} = BatchNormalization({data}, {prefix}g, {prefix}b, {prefix}m, {prefix}v)"


# --- spellings that merge


def test_wide_and_narrow():
    result = merges(build(f"{WIDE} {NARROW} y = Add(c, d)", X, "y", BASE), ["Conv"])
    wanted = K3.astype(np.float64)
    wanted[:, :, 1, 1] += K1[:, :, 0, 0].astype(np.float64)
    np.testing.assert_array_equal(result.operand("Conv", 1), wanted.astype(np.float32))
    assert result.node("Conv").name == "" and list(result.node("Conv").output) == ["y"]


def test_repvgg_block():
    text = (
        f"{WIDE} {norm('cn', 'c')} {NARROW} {norm('dn', 'd', 'q')} {norm('i', 'x', 'r')} s = Add(cn, dn) y = Add(s, i)"
    )
    result = merges(build(text, X, "y", BASE), ["Conv"])
    assert [d.code for d in result.decisions] == ["NF101"] * 3
    assert [d.code for d in result.merges] == ["NF103"]


@pytest.mark.parametrize(
    "tail",
    [
        "y = Sum(c, d, x)",
        "s = Add(x, c) y = Add(d, s)",
        "s = Sub(c, x) y = Add(s, d)",
        "s = Sub(c, d) y = Sub(x, s)",
        "s = Add(c, x) t = Sub(d, x) y = Add(s, t)",
        "s = Sum(c, x) t = Sum(d, x) y = Sum(s, t)",
        "n = Neg(x) s = Add(c, n) y = Sub(s, d)",
        "h = Mul(x, half) s = Add(c, h) y = Add(s, d)",
    ],
)
def test_trees_and_signs(tail):
    init = {**BASE, "half": np.float32(0.5)}
    merges(build(f"{WIDE} {NARROW} {tail}", X, "y", init), ["Conv"])


def test_a_tree_of_many():
    init = {**BASE, **{f"k{i}": random(4, 4, 3, 3, seed=20 + i) for i in range(5)}}
    text = " ".join(f"c{i} = Conv<pads=[1,1,1,1]>(x, k{i})" for i in range(5))
    merges(build(f"{text} s = Sum(c0, c1, c2) t = Add(c3, c4) u2 = Add(s, t) y = Add(u2, x)", X, "y", init), ["Conv"])


def test_identity_beside_one_conv():
    result = merges(build(f"{WIDE} y = Add(c, x)", X, "y", BASE), ["Conv"])
    wanted = K3.copy()
    wanted[np.arange(4), np.arange(4), 1, 1] += 1
    np.testing.assert_array_equal(result.operand("Conv", 1), wanted)


def test_residual_units_in_a_row_without_activation():
    """The sum is both the data of the next Conv and its shortcut."""
    text = f"{WIDE} s = Add(c, x) d = Conv<pads=[1,1,1,1]>(s, k) y = Add(d, s)"
    merges(build(text, X, "y", {**BASE, "k": random(4, 4, 3, 3, seed=5)}), ["Conv", "Conv"])


def test_a_scale_behind_the_sum_folds_after_the_merge():
    """The identity branch has nothing that could take it, so it cannot go in front of the sum."""
    result = merges(build(f"{WIDE} s = Add(c, x) {norm('y', 's')}", X, "y", BASE), ["Conv"])
    assert [d.code for d in result.decisions] == ["NF101"]


def test_a_merge_makes_room_for_the_next():
    """Only after the inner sum is one Conv, and the norm has gone into it, the outer one adds two of them."""
    text = f"{WIDE} s = Add(c, x) {norm('t', 's')} {NARROW} y = Add(t, d)"
    result = merges(build(text, X, "y", BASE), ["Conv"])
    assert [d.code for d in result.merges] == ["NF103", "NF103"]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("counted", ["", ", count_include_pad=1"])
def test_average_pool(group, counted):
    pads = "0,0,0,0" if not counted else "1,1,1,1"
    more = "1,1,1,1" if counted else "0,0,0,0"
    text = (
        f"c = Conv<pads=[{more}],group={group}>(x, w) p = AveragePool<kernel_shape=[3,3],pads=[{pads}]{counted}>(x) "
        f"{norm('pn', 'p')} y = Add(c, pn)"
    )
    result = check(build(text, X, "y", {**BASE, "w": random(4, 4 // group, 3, 3)}))
    assert sorted(result.after) == ["Conv"]


def test_average_pool_of_another_size_than_the_kernel():
    init = {**BASE, "w": random(4, 4, 5, 5)}
    pool = "p = AveragePool<kernel_shape=[2,3],pads=[0,1,1,1],count_include_pad=1>(x)"
    merges(build(f"c = Conv<pads=[2,2,2,2]>(x, w) {pool} y = Add(c, p)", X, "y", init), ["Conv"])


def test_asymmetric_branches_inside_a_square_one():
    init = {**BASE, "h": random(4, 4, 1, 3, seed=2), "k": random(4, 4, 3, 1, seed=3)}
    text = f"{WIDE} h1 = Conv<pads=[0,1,0,1]>(x, h) k1 = Conv<pads=[1,0,1,0]>(x, k) s = Add(h1, k1) y = Add(c, s)"
    merges(build(text, X, "y", init), ["Conv"])


def test_asymmetric_pads():
    init = {**BASE, "w": random(4, 4, 4, 4), "u": random(4, 4, 2, 2)}
    text = "c = Conv<pads=[2,1,1,2]>(x, w) d = Conv<pads=[1,0,0,1]>(x, u) y = Add(c, d)"
    merges(build(text, X, "y", init), ["Conv"])


def test_dilation_is_free_for_one_tap():
    text = "c = Conv<pads=[2,2,2,2],dilations=[2,2]>(x, w) d = Conv<dilations=[3,1]>(x, u) y = Add(c, d)"
    merges(build(text, X, "y", BASE), ["Conv"])


def test_dilated_inside_dilated():
    init = {**BASE, "w": random(4, 4, 5, 5), "u": random(4, 4, 3, 3)}
    dilated = "dilations=[2,2]"
    text = f"c = Conv<pads=[4,4,4,4],{dilated}>(x, w) d = Conv<pads=[2,2,2,2],{dilated}>(x, u) y = Add(c, d)"
    merges(build(text, X, "y", init), ["Conv"])


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_auto_pad_without_strides_needs_no_sizes(mode, kernel):
    init = {**BASE, "w": random(4, 4, kernel, kernel)}
    text = f'c = Conv<auto_pad="{mode}">(x, w) d = Conv(x, u) s = Add(c, d) y = Add(s, x)'
    result = merges(build(text, "float[N,4,H,W] x", "y", init), ["Conv"], sizes={"H": 7, "W": 6})
    assert [a.name for a in result.node("Conv").attribute] == ["auto_pad"], "the author's spelling stays"


@pytest.mark.parametrize("size", [7, 8])
def test_auto_pad_with_strides_and_known_sizes(size):
    text = (
        'c = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w) d = Conv<strides=[2,2],pads=[PADS]>(x, w2) y = Add(c, d)'
    )
    pads = "1,1,1,1" if size % 2 else "0,0,1,1"
    init = {**BASE, "w2": random(4, 4, 3, 3, seed=4)}
    merges(build(text.replace("PADS", pads), f"float[N,4,{size},{size}] x", "y", init), ["Conv"])


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2])
def test_auto_pad_with_dilation(mode, stride):
    """onnxruntime has no such kernel, and runtimes that have one disagree: nothing could show that a merge is right."""
    rest = f"dilations=[2,2],strides=[{stride},{stride}]"
    text = f'c = Conv<auto_pad="{mode}",{rest}>(x, w) d = Conv<auto_pad="{mode}",{rest}>(x, w2) y = Add(c, d)'
    model = build(text, "float[N,4,7,8] x", "float[N,4,A,B] y", {**BASE, "w2": random(4, 4, 3, 3, seed=4)})
    apart(model, "NF103.geometry", run=False)


def test_valid_is_no_padding():
    text = 'c = Conv<auto_pad="VALID">(x, w) d = Conv(x, w2) y = Add(c, d)'
    merges(build(text, X, "y", {**BASE, "w2": random(4, 4, 3, 3, seed=4)}), ["Conv"])


def test_the_smaller_kernel_grows_if_the_larger_one_is_not_the_hull():
    """Two kernels that overlap in part; with --aggressive only, because the hull is larger than both."""
    init = {**BASE, "h": random(4, 4, 1, 3, seed=2), "k": random(4, 4, 3, 1, seed=3)}
    text = "c = Conv<pads=[0,1,0,1]>(x, h) d = Conv<pads=[1,0,1,0]>(x, k) y = Add(c, d)"
    apart(build(text, X, "y", init), "NF103.cost")
    result = merges(build(text, X, "y", init), ["Conv"], aggressive=True)
    assert "144 parameters instead of 96" in result.merges[0].message
    assert result.operand("Conv", 1).shape == (4, 4, 3, 3)


@pytest.mark.parametrize(("rank", "kernel"), [(1, (3,)), (3, (3, 3, 3))])
def test_other_ranks(rank, kernel):
    init = {**BASE, "w": random(4, 4, *kernel), "u": random(4, 4, *([1] * rank))}
    pads = ",".join("1" * 2 * rank)
    text = f"c = Conv<pads=[{pads}]>(x, w) {NARROW} {norm('i', 'x', 'r')} s = Add(c, d) y = Add(s, i)"
    merges(build(text, f"float[N,4{',5' * rank}] x", "y", init), ["Conv"])


@pytest.mark.parametrize("group", [2, 4])
def test_groups(group):
    init = {**BASE, "w": random(4, 4 // group, 3, 3), "u": random(4, 4 // group, 1, 1, seed=1)}
    wide, narrow = f"c = Conv<pads=[1,1,1,1],group={group}>(x, w)", f"d = Conv<group={group}>(x, u)"
    merges(build(f"{wide} {narrow} {norm('i', 'x', 'r')} s = Add(c, d) y = Add(s, i)", X, "y", init), ["Conv"])


def test_strides():
    init = {**BASE, "wb": random(4), "ub": random(4, seed=3)}
    text = "c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w, wb) d = Conv<strides=[2,2]>(x, u, ub) y = Add(c, d)"
    result = merges(build(text, X, "y", init), ["Conv"])
    np.testing.assert_allclose(result.operand("Conv", 2), init["wb"] + init["ub"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_types(dtype):
    kind = "float16" if dtype == np.float16 else "double"
    init = {name: array.astype(dtype) for name, array in BASE.items()}
    text = f"{WIDE} {NARROW} {norm('i', 'x', 'r')} s = Add(c, d) y = Add(s, i)"
    result = merges(build(text, X.replace("float", kind), "y", init), ["Conv"])
    assert result.operand("Conv", 1).dtype == dtype


def test_one_rounding():
    """Bit for bit what float64 says, rounded once."""
    init = {**BASE, "k": positive(4, 1, 1)}
    text = f"{WIDE} e = Mul(c, k) {NARROW} s = Add(e, d) i = Mul(x, k) y = Sub(s, i)"
    result = merges(build(text, X, "y", init), ["Conv"])
    scale = init["k"].reshape(4).astype(np.float64)
    wanted = scale.reshape(4, 1, 1, 1) * K3
    wanted[:, :, 1, 1] += K1[:, :, 0, 0]
    wanted[np.arange(4), np.arange(4), 1, 1] -= scale
    np.testing.assert_array_equal(result.operand("Conv", 1), wanted.astype(np.float32))


def test_a_shared_weight_is_not_edited():
    text = f"{WIDE} {NARROW} s = Add(c, d) z = Relu(s) y = Conv(z, w)"
    result = merges(build(text, X, "y", BASE), ["Conv", "Conv", "Relu"])
    assert np.array_equal(result.array("w"), K3)


def test_one_weight_in_both_branches():
    text = f"{WIDE} d = Conv<pads=[1,1,1,1]>(x, w) y = Add(c, d)"
    result = merges(build(text, X, "y", BASE), ["Conv"])
    np.testing.assert_array_equal(result.operand("Conv", 1), 2 * K3)


def test_the_sum_is_an_output_that_others_read():
    merges(build(f"{WIDE} {NARROW} s = Add(c, d) y = Relu(s)", X, "s, y", BASE), ["Conv", "Relu"])


def test_the_sum_is_read_in_a_body():
    text = f"{WIDE} {NARROW} s = Add(c, d) y = If (q) <then_branch = t () => (float[N,4,8,8] o) {{ o = Relu(s) }}, "
    text += "else_branch = e () => (float[N,4,8,8] p) { p = Abs(s) }>"
    model = build(text, f"{X}, bool q", "float[N,4,8,8] y", BASE)
    merges(model, ["Conv", "If", "Relu", "Abs"])


def test_inside_of_a_body():
    text = "y = If (q) <then_branch = t () => (float[N,4,8,8] o) { c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, u) "
    text += "o = Add(c, d) }, else_branch = e () => (float[N,4,8,8] p) { p = Abs(x) }>"
    merges(build(text, f"{X}, bool q", "float[N,4,8,8] y", BASE), ["Conv", "If", "Abs"])


def test_identities_on_the_way():
    text = (
        f"{WIDE} i = Identity(c) {NARROW} j = Identity(x) k = Identity(j) s = Add(i, d) t = Identity(s) y = Sub(t, k)"
    )
    merges(build(text, X, "y", BASE), ["Conv"])


def test_shape_readers():
    """Who reads the dimensions of the sum goes on reading them."""
    text = f"{WIDE} {NARROW} s = Add(c, d) n = Shape(s) z = Relu(s) y = Reshape(z, n)"
    merges(build(text, X, "float[N,4,8,8] y", BASE), ["Conv", "Relu", "Shape", "Reshape"])


def test_before_ir_4():
    merges(build(f"{WIDE} {NARROW} y = Add(c, d)", X, "y", BASE | {"unused": np.zeros(1, np.float32)}, ir=3), ["Conv"])


# --- MatMul and Gemm


DENSE = {"w": random(6, 5), "u": random(6, 5, seed=1), "wb": random(5), "ub": random(5, seed=2), "sq": random(6, 6)}


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("c = MatMul(x, w) d = MatMul(x, u) y = Add(c, d)", ["MatMul"]),
        ("c = Gemm(x, w, wb) d = MatMul(x, u) y = Sub(c, d)", ["Gemm"]),
        ("c = MatMul(x, w) d = Gemm(x, u, ub) y = Sub(c, d)", ["Gemm"]),
        ("c = Gemm<alpha=0.5,beta=2.0>(x, w, wb) d = Gemm<alpha=-3.0>(x, u, ub) y = Add(c, d)", ["Gemm"]),
        ("c = Gemm<transB=1>(x, wt, wb) d = Gemm(x, u, ub) y = Add(c, d)", ["Gemm"]),
        ("c = Gemm(x, sq) y = Add(c, x)", ["Gemm"]),
        ("c = MatMul(x, sq) i = Mul(x, six) j = Add(i, six) y = Sub(c, j)", ["Gemm"]),
    ],
)
def test_matrices(text, ops):
    init = {**DENSE, "wt": random(5, 6), "six": random(6, seed=7)}
    merges(build(text, "float[N,6] x", "y", init), ops)


def test_matrices_of_higher_rank():
    text = "c = MatMul(x, w) cb = Add(c, wb) d = MatMul(x, u) db = Add(d, ub) y = Add(cb, db)"
    result = check(build(text, "float[N,3,6] x", "y", DENSE))
    assert sorted(result.after) == ["Add", "MatMul"]
    np.testing.assert_allclose(result.operand("Add", 1), DENSE["wb"] + DENSE["ub"], rtol=1e-6)


def test_transposed_data():
    text = "c = Gemm<transA=1>(x, w) d = Gemm<transA=1>(x, u) y = Add(c, d)"
    merges(build(text, "float[6,3] x", "y", DENSE), ["Gemm"])


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("c = Gemm<transA=1>(x, sq) d = MatMul(x, sq) y = Add(c, d)", ["NF103.geometry"]),
        ("c = Gemm<transA=1>(x, sq) y = Add(c, x)", ["NF103.geometry"]),
        ("c = MatMul(x, w) d = MatMul(x, u1) y = Add(c, d)", ["NF103.geometry"]),
        ("c = MatMul(x, w1) y = Add(c, x)", ["NF103.geometry"]),
        ("c = Gemm(x, sq, x) d = Gemm(x, sq) y = Add(c, d)", ["NF103.dynamic-params"]),
        ("c = MatMul(sq, x) d = MatMul(sq, x) y = Add(c, d)", []),
        ("c = MatMul(x, x) d = MatMul(x, sq) y = Add(c, d)", ["NF103.dynamic-params"]),
    ],
)
def test_matrices_that_stay(text, codes):
    init = {**DENSE, "u1": random(6, 1), "w1": random(6, 1, seed=4)}
    apart(build(text, "float[6,6] x", "float[6,A] y", init), *codes)


def test_inside_of_a_function():
    """A function body has no initializers: its constants are nodes, and so are the new ones."""
    body = parser.parse_function(
        """<domain: "local", opset_import: ["" : 17]> block (x) => (y) {
            w = Constant <value = float[1,1,3] {1.0, 2.0, 3.0}> ()
            u = Constant <value = float[1,1,1] {0.5}> ()
            c = Conv <pads = [1, 1]> (x, w)
            d = Conv (x, u)
            y = Add (c, d)
        }"""
    )
    model = build("y = local.block(x)", "float[N,1,6] x", "float[N,1,6] y", domains={"local": 1})
    model.functions.append(body)
    result = merges(model, ["block", "Conv"])
    (weight,) = [n.attribute[0].t for n in result.model.functions[0].node if n.op_type == "Constant"]
    np.testing.assert_array_equal(numpy_helper.to_array(weight).ravel(), [1.0, 2.5, 3.0])


# --- near misses


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # the narrow one reads between the taps of the dilated one
        (
            "c = Conv<pads=[2,2,2,2],dilations=[2,2]>(x, w) d = Conv<pads=[1,1,1,1],dilations=[2,2]>(x, s2) y = Add(c, d)",
            "NF103.geometry",
        ),
        ("c = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w) d = Conv<strides=[2,1]>(x, u0) y = Add(c, d)", "NF103.geometry"),
        (
            "c = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w) p = MaxPool<kernel_shape=[1,1],strides=[2,2]>(x) y = Add(c, p)",
            "",
        ),
        (
            "c = Conv<pads=[1,1,1,1]>(x, w) p = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Add(c, p)",
            "NF103.geometry",
        ),
        ("c = Conv(x, w) p = AveragePool<kernel_shape=[3,3],ceil_mode=1>(x) y = Add(c, p)", "NF103.geometry"),
        (
            "c = Conv<pads=[2,2,2,2],dilations=[2,2]>(x, w) d = Conv<pads=[1,1,1,1]>(x, w) y = Add(c, d)",
            "NF103.geometry",
        ),
        ("c = Conv<pads=[1,1,1,1],group=2>(x, wg) d = Conv(x, u) y = Add(c, d)", "NF103.geometry"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(z, u) y = Add(c, d)", ""),
        ("c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, u) s = Add(c, z) y = Sub(d, s)", "NF103.branch"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, u) s = Add(c, z) y = Sum(s, d, z)", "NF103.branch"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) y = Mul(c, x)", ""),
        ("c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Add(r, x)", ""),
        ("c = ConvTranspose<pads=[1,1,1,1]>(x, w) d = Conv(x, u) y = Add(c, d)", ""),
    ],
)
def test_near_misses(text, code):
    init = {**BASE, "s2": random(4, 4, 2, 2), "u0": random(4, 4, 1, 5), "wg": random(4, 2, 3, 3)}
    model = build(text, f"{X}, float[N,4,8,8] z", "float[N,4,A,B] y", init)
    if "strides=[2,1]" in text:
        model = build(text, "float[N,4,8,8] x", "float[N,4,4,4] y", init)
    apart(model, *([code] if code else []))


def test_pads_that_give_the_same_size_by_chance():
    """Both have four columns of eight, but with nine they would not: that is not the same operator."""
    init = {**BASE, "u": random(4, 4, 2, 2)}
    text = "c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w) d = Conv<strides=[2,2]>(x, u) y = Add(c, d)"
    apart(build(text, X, "y", init), "NF103.geometry")


def test_auto_pad_with_strides_and_unknown_sizes():
    text = (
        'c = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w) d = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w) y = Add(c, d)'
    )
    model = build(text, "float[N,4,H,W] x", "float[N,4,A,B] y", BASE)
    apart(model, "NF103.shape-unknown", sizes={"H": 7, "W": 7})


@pytest.mark.parametrize("outs", [1, 8])
def test_channels_that_differ(outs):
    """One output channel would be stretched by the Add, and x has not eight."""
    text = f"{WIDE} {NARROW} y = Add(c, d)" if outs == 1 else f"{WIDE} y = Add(c, x)"
    init = {**BASE, "u": random(1, 4, 1, 1)} if outs == 1 else {"w": random(1, 4, 3, 3)}
    apart(build(text, X, "y", init), "NF103.geometry")


@pytest.mark.parametrize(
    ("tail", "outputs", "code"),
    [
        ("y = Add(c, d)", "y, d", "NF103.graph-output"),
        ("y = Add(c, d) z = Relu(d)", "y, z", "NF103.shared"),
        ("y = Add(c, d) z = Relu(c)", "y, z", "NF103.shared"),
        ("y = Add(c, d) z = Shape(d)", "y, z", "NF103.shared"),
    ],
)
def test_somebody_else_reads_a_branch(tail, outputs, code):
    apart(build(f"{WIDE} {NARROW} {tail}", X, outputs, BASE), code)


def test_a_branch_is_captured():
    text = f"{WIDE} {NARROW} s = Add(c, d) y = If (q) <then_branch = t () => (float[N,4,8,8] o) {{ o = Relu(d) }}, "
    text += "else_branch = e () => (float[N,4,8,8] p) { p = Abs(s) }>"
    apart(build(text, f"{X}, bool q", "float[N,4,8,8] y", BASE), "NF103.captured")


def test_only_a_part_of_a_tree_merges():
    """The outer sum has a stranger in it, and the inner one has not."""
    text = f"{WIDE} {NARROW} s = Add(c, d) e = Conv(z, u) y = Add(s, e)"
    result = check(build(text, f"{X}, float[N,4,8,8] z", "y", BASE))
    assert sorted(result.after) == ["Add", "Conv", "Conv"]


@pytest.mark.parametrize(
    "tail",
    [
        "s = Add(c, z) y = Add(s, d)",
        "s = Sub(z, c) y = Sub(s, d)",
        "s = Sub(z, c) t = Sub(r, s) y = Add(d, t)",
        "s = Add(c, z) t = Sub(s, x) y = Add(t, d)",
        "s = Add(z, c) b1 = BatchNormalization(x, g, b, m, v) y = Sub(s, b1)",
        "s = Sum(c, z, r) y = Sum(d, s)",
    ],
)
def test_past_something_else(tail):
    """Something else is added in between: the branch that comes last joins the one that came first."""
    text = f"r = Relu(z) {WIDE} {NARROW if ', d' in tail or '(d' in tail else ''} {tail}"
    result = check(build(text, f"{X}, float[N,4,8,8] z", "y", BASE))
    assert result.after.count("Conv") == 1
    assert not {"BatchNormalization"} & set(result.after)
    assert all(d.code == "NF103" for d in result.merges)


def test_past_something_that_is_broadcast():
    text = f"{WIDE} {NARROW} s = Add(z, c) y = Add(d, s)"
    result = check(build(text, f"{X}, float[3,N,4,8,8] z", "y", BASE))
    assert sorted(result.after) == ["Add", "Conv"]


def test_an_inner_sum_that_is_read_stays():
    text = f"{WIDE} {NARROW} s = Add(c, d) y = Add(s, x) z = Relu(s)"
    result = check(build(text, X, "y, z", BASE))
    assert sorted(result.after) == ["Add", "Conv", "Relu"]
    assert sorted(d.code for d in result.merges) == ["NF103", "NF103.shared"]


def test_weights_that_are_no_constants():
    text = "c = Conv<pads=[1,1,1,1]>(x, w) d = Conv(x, u) y = Add(c, d)"
    apart(build(text, f"{X}, float[4,4,1,1] u", "y", {"w": K3}), "NF103.dynamic-params")


def test_an_unknown_attribute():
    text = "c = Conv<pads=[1,1,1,1],speed=3>(x, w) d = Conv(x, u) y = Add(c, d)"
    apart(build(text, X, "float[N,4,8,8] y", BASE), "NF103.unknown-attribute", run=False)


def test_an_old_matmul_cannot_get_an_add():
    """Before opset 7 an Add broadcasts by other rules."""
    text = "c = MatMul(x, w) d = MatMul(x, u) n = BatchNormalization<is_test=1>(d, g, b, m, v) y = Sum(c, n)"
    init = {"w": random(4, 4), "u": random(4, 4, seed=1), **batch_norm(4)}
    apart(build(text, "float[4,4] x", "float[4,4] y", init, opset=6), "NF103.shift-blocked")


def test_types_that_differ_in_a_broken_model():
    apart(build(f"{WIDE} {NARROW} y = Add(c, d)", X, "float[N,4,8,8] y", {**BASE, "u": K1.astype(np.float64)}),
          "NF103.ill-formed", run=False)  # fmt: skip


def test_only_what_is_allowed():
    text = f"{WIDE} {NARROW} {norm('i', 'x', 'r')} s = Add(c, d) y = Add(s, i)"
    model = build(text, X, "y", BASE)
    apart(model, "NF103.user-keep", "NF103.user-keep", exclusions=Exclusions({}, skip=("NF103",)))
    kept = check(model, exclusions=Exclusions({}, skip=("NF101",)))
    assert sorted(kept.after) == ["Add", "BatchNormalization", "Conv"], "the norm is not ours to take"
    only = check(model, exclusions=Exclusions({}, only=("NF103",)))
    assert sorted(only.after) == ["Add", "BatchNormalization", "Conv"]


def test_float16_that_leaves_its_range():
    """A norm on the input with a tiny variance."""
    init = {name: array.astype(np.float16) for name, array in BASE.items()}
    init["rv"] = np.full(4, 1e-7, np.float16)
    text = f"{WIDE} r0 = BatchNormalization<epsilon=1e-9>(x, rg, rb, rm, rv) y = Add(c, r0)"
    result = check(build(text, X.replace("float", "float16"), "y", init), run=False)
    assert [d.code for d in result.merges] == ["NF103.dtype-range"]


@pytest.mark.parametrize(("branches", "first"), [(64, 1), (100, 2)])
def test_a_balanced_tree_of_more_than_64_merges_part_by_part(branches, first):
    """The parts merge first; what they leave is one tree of few branches, which merges after them."""
    init = {f"k{i}": random(4, 4, 1, 1, seed=i) for i in range(branches)}
    steps = [f"c{i} = Conv(x, k{i})" for i in range(branches)]
    level = [f"c{i}" for i in range(branches)]
    while len(level) > 1:
        names = [f"s{len(steps)}_{i}" for i in range(len(level) // 2)]
        last = ["y"] if len(level) == 2 else names
        steps += [f"{name} = Add({level[2 * i]}, {level[2 * i + 1]})" for i, name in enumerate(last)]
        level = [*last, *level[2 * len(last) :]]
    result = merges(build(" ".join(steps), X, "y", init), ["Conv"])
    assert len([d for d in result.merges if d.outcome is Outcome.APPLIED]) >= first
