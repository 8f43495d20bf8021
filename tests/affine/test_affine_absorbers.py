"""Every operator that takes an affine into its own parameters."""

import itertools

import numpy as np
import pytest

from tests.support import batch_norm, build, check, folds, positive, random, stays

# A scale of mixed signs and a shift, as separate nodes and as one chain; {0} is the tensor, {1} the output.
TAILS = {"scale": "y = Mul(c, k)", "shift": "y = Add(c, t)", "both": "d = Mul(c, k) y = Add(d, t)"}


def tail(kind, channels, rank, axis=1):
    shape = [1] * rank
    shape[axis] = channels
    values = random(channels, seed=71, low=0.5, high=1.5)
    values[1::2] *= -1
    return TAILS[kind], {"k": values.reshape(shape), "t": random(*shape, seed=72)}


def absorbs(body, inputs, init, kind, channels, rank, ops, *, axis=1, opset=17, judge=folds, outputs="y"):
    text, constants = tail(kind, channels, rank, axis)
    constants = {name: constants[name] for name in constants if f", {name})" in text}
    return judge(
        build(f"{body} {text}", inputs, outputs, {**init, **constants}, opset=opset, ir=8 if opset > 8 else 3),
        *([ops] if ops else []),
    )


kinds = pytest.mark.parametrize("kind", TAILS)

# --- Conv -------------------------------------------------------------------------------------------------

CONVS = {
    "1-D": ("", "float[2,4,9] x", (6, 4, 3)),
    "2-D": ("", "float[2,4,9,8] x", (6, 4, 3, 2)),
    "3-D": ("", "float[1,4,5,6,7] x", (6, 4, 2, 3, 1)),
    "dynamic": ("pads=[1, 1, 1, 1]", "float[N,4,H,W] x", (6, 4, 3, 3)),
    "group 2": ("group=2", "float[2,4,9,9] x", (6, 2, 3, 3)),
    "depthwise": ("group=4", "float[2,4,9,9] x", (4, 1, 3, 3)),
    "depthwise x2": ("group=4, pads=[1, 1, 1, 1]", "float[2,4,9,9] x", (8, 1, 3, 3)),
    "pads, strides, dilations": (
        "pads=[2, 0, 1, 3], strides=[2, 3], dilations=[2, 1]",
        "float[2,4,9,9] x",
        (6, 4, 3, 3),
    ),
    "SAME_UPPER": ('auto_pad="SAME_UPPER", strides=[2, 2]', "float[2,4,9,9] x", (6, 4, 4, 4)),
    "SAME_LOWER": ('auto_pad="SAME_LOWER"', "float[2,4,9,9] x", (6, 4, 2, 2)),
    "VALID": ('auto_pad="VALID"', "float[2,4,9,9] x", (6, 4, 3, 3)),
    "1x1": ("", "float[2,4,9,9] x", (6, 4, 1, 1)),
    "one channel": ("", "float[2,4,9,9] x", (1, 4, 3, 3)),
}


@kinds
@pytest.mark.parametrize("bias", ["none", "empty", "given"])
@pytest.mark.parametrize("name", CONVS)
def test_conv(name, bias, kind):
    attributes, inputs, weight = CONVS[name]
    third = {"none": "", "empty": ", ", "given": ", wb"}[bias]
    body = f"c = Conv<{attributes}>(x, w{third})"
    init = {"w": random(*weight), **({"wb": random(weight[0], seed=5)} if bias == "given" else {})}
    result = absorbs(body, inputs, init, kind, weight[0], len(weight), ["Conv"])
    assert len(result.node("Conv").input) <= 3


def test_conv_with_batch_norm_has_one_more_input_and_no_empty_one():
    result = folds(
        build(
            "c = Conv(x, w, ) y = BatchNormalization(c, g, b, m, v)", init={"w": random(4, 3, 3, 3), **batch_norm(4)}
        ),
        ["Conv"],
    )
    assert all(result.node("Conv").input)


@pytest.mark.parametrize(("cin", "cout", "group"), [(4, 4, 1), (4, 6, 2), (6, 3, 3), (6, 12, 6), (8, 4, 4)])
def test_grouped_conv_weight_layout(cin, cout, group):
    """Grouped Conv: `W[Cout, Cin/g, k]`, the scale on axis 0 only (facebookresearch/LeViT#22)."""
    weight = random(cout, cin // group, 3, 3)
    result = absorbs(
        f"c = Conv<group={group}>(x, w)", f"float[1,{cin},5,5] x", {"w": weight}, "scale", cout, 4, ["Conv"]
    )
    factor = tail("scale", cout, 4)[1]["k"].astype(np.float64).reshape(cout, 1, 1, 1)
    assert np.array_equal(result.operand("Conv", 1), (weight * factor).astype(np.float32))


# --- ConvTranspose ----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(("group", "per_in", "per_out"), list(itertools.product([1, 2, 3], repeat=3)))
def test_conv_transpose_groups(group, per_in, per_out, kind):
    """`W[Cin, Cout/g, k]` with every combination of sizes that coincide or do not (pytorch/pytorch#180995)."""
    init = {"w": random(group * per_in, per_out, 3, 2), "wb": random(group * per_out, seed=4)}
    body = f"c = ConvTranspose<group={group}, strides=[2, 1]>(x, w, wb)"
    absorbs(body, f"float[2,{group * per_in},4,3] x", init, kind, group * per_out, 4, ["ConvTranspose"])


@kinds
@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "strides=[3, 2], output_padding=[2, 1]",
        "pads=[1, 0, 2, 1], strides=[2, 2]",
        "dilations=[2, 3]",
        "strides=[2, 2], output_shape=[9, 8]",
        'auto_pad="SAME_UPPER", strides=[2, 2]',
        'auto_pad="VALID"',
        "strides=[4, 4]",
    ],
)
def test_conv_transpose_attributes(attributes, kind):
    text, constants = tail(kind, 4, 4)
    constants = {n: constants[n] for n in constants if f", {n})" in text}
    attributes = f"{attributes}, group=2" if attributes else "group=2"
    body = f"c = ConvTranspose<{attributes}>(x, w) {text}"
    folds(
        build(body, "float[2,6,4,4] x", "float[2,4,H,W] y", {"w": random(6, 2, 3, 3), **constants}), ["ConvTranspose"]
    )


@pytest.mark.parametrize(("rank", "shape"), [(3, (4, 3, 2)), (5, (4, 3, 2, 2, 2))])
def test_conv_transpose_ranks(rank, shape):
    sizes = ",".join("5" * (rank - 2))
    absorbs(
        "c = ConvTranspose(x, w)", f"float[1,4,{sizes}] x", {"w": random(*shape)}, "both", 3, rank, ["ConvTranspose"]
    )


# --- Gemm -------------------------------------------------------------------------------------------------

C_SHAPES = {"none": None, "0-d": (), "1": (1,), "N": (4,), "1N": (1, 4), "M1": (3, 1), "MN": (3, 4), "11": (1, 1)}


@kinds
@pytest.mark.parametrize("c_shape", C_SHAPES)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0), (0.0, 0.5), (-1.5, -0.25)])
@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(transposed, alpha, beta, c_shape, kind):
    trans_a, trans_b = transposed
    shape = C_SHAPES[c_shape]
    init = {
        "w": random(4, 5) if trans_b else random(5, 4),
        **({} if shape is None else {"wb": np.asarray(random(*shape, seed=6))}),
    }
    third = "" if shape is None else ", wb"
    body = f"c = Gemm<alpha={alpha}, beta={beta}, transA={trans_a}, transB={trans_b}>(x, w{third})"
    inputs = "float[5,3] x" if trans_a else "float[3,5] x"
    result = absorbs(body, inputs, init, kind, 4, 2, ["Gemm"])
    wanted = {
        None: (4,),
        (): (4,),
        (1,): (4,),
        (4,): (4,),
        (1, 4): (1, 4),
        (3, 1): (3, 4),
        (3, 4): (3, 4),
        (1, 1): (1, 4),
    }[shape]
    if len(result.node("Gemm").input) == 3:
        assert result.operand("Gemm", 2).shape == wanted
    else:
        assert (shape, kind) == (None, "scale")


@pytest.mark.parametrize("size", [3, 4])
def test_gemm_square(size):
    """M = N = K: a C of shape (M, 1) is a column, not a row."""
    init = {"w": random(size, size), "wb": random(size, 1, seed=3)}
    absorbs("c = Gemm<transB=1, beta=0.5>(x, w, wb)", f"float[{size},{size}] x", init, "both", size, 2, ["Gemm"])


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_gemm_opsets(opset):
    init = {"w": random(5, 4), "wb": random(4)}
    absorbs("c = Gemm<alpha=0.5, beta=3.0>(x, w, wb)", "float[3,5] x", init, "both", 4, 2, ["Gemm"], opset=opset)


def test_gemm_before_7_broadcasts_by_attribute():
    model = build(
        "c = Gemm<broadcast=1, beta=2.0>(x, w, wb) d = Mul<broadcast=1>(c, k) y = Add<broadcast=1>(d, k)",
        "float[2,5] x",
        "float[2,4] y",
        {"w": random(5, 4), "wb": random(1), "k": positive(4)},
        opset=6,
        ir=3,
    )
    folds(model, ["Gemm"])


def gemm_tail(inputs, init, text, body="c = Gemm<alpha=0.5, beta=2.0>(a, w, q)"):
    return build(f"{body} {text}", inputs, "float[3,4] y", init)


def test_gemm_with_constant_a_takes_only_a_uniform_scale():
    init = {"a": random(3, 5), "q": random(4)}
    per_channel, uniform = {**init, "k": positive(4)}, {**init, "k": np.float32(-2.5)}
    stays(gemm_tail("float[5,4] w", per_channel, "y = Mul(c, k)"), "dynamic-params")
    stays(gemm_tail("float[5,4] w", per_channel, "y = Add(c, k)"), "dynamic-params")
    stays(gemm_tail("float[5,4] w", uniform, "y = Add(c, k)"), "dynamic-params")
    folds(gemm_tail("float[5,4] w", uniform, "y = Mul(c, k)"), ["Gemm"])
    folds(gemm_tail("float[3,5] a, float[5,4] w, float[4] q", {"k": np.float32(3)}, "y = Mul(c, k)"), ["Gemm"])


def test_gemm_with_dynamic_c():
    init = {"w": random(5, 4), "k": positive(4), "u": np.float32(0.3)}
    used = lambda *names: {n: init[n] for n in names}  # noqa: E731
    stays(gemm_tail("float[3,5] a, float[3,4] q", used("w", "k"), "y = Mul(c, k)"), "dynamic-params")
    stays(gemm_tail("float[3,5] a, float[3,4] q", used("w", "k"), "y = Add(c, k)"), "dynamic-params")
    folds(gemm_tail("float[3,5] a, float[3,4] q", used("w", "u"), "y = Mul(c, u)"), ["Gemm"])


@pytest.mark.parametrize("factors", [(1e30, 1e30), (1e-30, 1e-30)])
def test_gemm_attributes_stay_in_range(factors):
    """Two scales that fit one by one, and whose product is no float32, do not meet in alpha."""
    init = {"k": np.float32(factors[0]), "q": np.float32(factors[1])}
    model = build("c = Gemm(a, w) d = Mul(c, k) r = Relu(d) y = Mul(r, q)", "float[3,5] a, float[5,4] w", "y", init)
    result = check(model)
    assert all(
        1e-37 < abs(a.f) < 1e38
        for node in result.model.graph.node
        for a in node.attribute
        if a.name in ("alpha", "beta")
    )


def test_gemm_in_float64_takes_only_what_a_float32_attribute_holds():
    init = {"k": np.float64(1 / 3)}
    model = build("c = Gemm(a, w) y = Mul(c, k)", "double[3,5] a, double[5,4] w", "y", init)
    stays(model, "dtype-range")
    folds(build("c = Gemm(a, w) y = Mul(c, k)", "double[3,5] a, double[5,4] w", "y", {"k": np.float64(0.25)}), ["Gemm"])
    k = np.float64(1 + 2.0**-20)
    model = build(
        "c = Gemm(a, w) d = Mul(c, k) r = Relu(d) y = Mul(r, k)", "double[3,5] a, double[5,4] w", "y", {"k": k}
    )
    check(model)  # each fits, their product does not


# --- MatMul -----------------------------------------------------------------------------------------------


@kinds
def test_matmul_rank_2_becomes_gemm_where_a_bias_is_needed(kind):
    ops = ["MatMul"] if kind == "scale" else ["Gemm"]
    absorbs("c = MatMul(x, w)", "float[M,5] x", {"w": random(5, 4)}, kind, 4, 2, ops)


@pytest.mark.parametrize("rank", [3, 4])
def test_matmul_of_higher_rank_never_becomes_gemm(rank):
    """microsoft/onnxruntime#22512."""
    shape = "2," * (rank - 2) + "3,5"
    absorbs("c = MatMul(x, w)", f"float[{shape}] x", {"w": random(5, 4)}, "scale", 4, rank, ["MatMul"], axis=rank - 1)
    absorbs(
        "c = MatMul(x, w)", f"float[{shape}] x", {"w": random(5, 4)}, "both", 4, rank, ["MatMul", "Add"], axis=rank - 1
    )
    result = absorbs(
        "c = MatMul(x, w)", f"float[{shape}] x", {"w": random(5, 4)}, "shift", 4, rank, None, axis=rank - 1, judge=check
    )
    assert result.keys == ["bias-in-place"]


@kinds
@pytest.mark.parametrize("rank", [3, 4])
def test_matmul_axis_1_is_not_n(rank, kind):
    """Square sizes: the channels of axis 1 come from X."""
    shape = "2,5,5" if rank == 3 else "2,5,5,5"
    for axis in range(1, rank - 1):
        result = absorbs(
            "c = MatMul(x, w)", f"float[{shape}] x", {"w": random(5, 5)}, kind, 5, rank, None, axis=axis, judge=check
        )
        # An Add behind the MatMul may hold any shift, but a lone one is such an Add already.
        assert result.keys[0] == ("bias-in-place" if kind == "shift" else "not-per-channel")


@kinds
def test_matmul_with_constant_left(kind):
    text, constants = tail(kind, 4, 3)
    init = {"w": random(4, 5), **{n: constants[n] for n in constants if f", {n})" in text}}
    result = check(build(f"c = MatMul(w, x) {text}", "float[B,5,6] x", "y", init))
    assert result.after == {"scale": ["MatMul"], "both": ["MatMul", "Add"], "shift": ["MatMul", "Add"]}[kind]


def test_matmul_constant_left_and_batch_norm():
    model = build(
        "c = MatMul(w, x) y = BatchNormalization(c, g, b, m, v)",
        "float[B,5,6] x",
        "y",
        {"w": random(4, 5), **batch_norm(4)},
    )
    folds(model, ["MatMul", "Add"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_matmul_constant_left_square(axis):
    shape = [1, 1, 1]
    shape[axis] = 5
    model = build("c = MatMul(w, x) y = Mul(c, k)", "float[5,5,5] x", "y", {"w": random(5, 5), "k": positive(*shape)})
    (stays(model, "not-per-channel") if axis != 1 else folds(model, ["MatMul"]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_matmul_batched(axis, side):
    """`W[H, K, N]`: H is W's own axis, M is X's; all sizes equal."""
    shape = [1] * 4
    shape[axis] = 5
    call = "MatMul(x, w)" if side == "right" else "MatMul(w, x)"
    model = build(f"c = {call} y = Mul(c, k)", "float[5,5,5,5] x", "y", {"w": random(5, 5, 5), "k": positive(*shape)})
    good = axis in ((1, 3) if side == "right" else (1, 2))
    (folds(model, ["MatMul"]) if good else stays(model, "not-per-channel"))


def test_matmul_batch_axis_stretched_by_x():
    model = build(
        "c = MatMul(x, w) y = Mul(c, k)", "float[2,5,3,4] x", "y", {"w": random(1, 4, 6), "k": positive(5, 1, 1)}
    )
    stays(model, "not-per-channel")


def test_matmul_batched_bias():
    model = build(
        "c = MatMul(x, w) d = Mul(c, k) y = Add(d, t)", "float[2,5,3,4] x", "y",
        {"w": random(5, 4, 6), "k": positive(5, 1, 1), "t": random(5, 1, 1)},
    )  # fmt: skip
    folds(model, ["MatMul", "Add"])


@pytest.mark.parametrize("call", ["MatMul(v, w)", "MatMul(w, v)"])
def test_matmul_with_a_vector(call):
    check(build(f"c = {call} y = Mul(c, k)", "float[5] v", "y", {"w": random(5, 5), "k": positive(5)}))


def test_matmul_add_behind_takes_the_shift():
    model = build(
        "c = MatMul(x, w) a = Add(wb, c) d = Mul(a, k) y = Add(d, t)", "float[2,3,5] x", "y",
        {"w": random(5, 4), "wb": random(4), "k": positive(4), "t": random(4)},
    )  # fmt: skip
    result = folds(model)
    assert result.after == ["MatMul", "Add"]


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
def test_matmul_transpose_batch_norm_with_square_sizes(perm):
    """MatMul -> Transpose -> BN matched by sizes, the permutation ignored: right only if axis 1 shows N."""
    model = build(
        f"c = MatMul(x, w) t = Transpose<perm={list(perm)}>(c) y = BatchNormalization(t, g, b, m, v)",
        "float[4,4,4] x", "y", {"w": random(4, 4), **batch_norm(4)},
    )  # fmt: skip
    (folds(model, ["MatMul", "Add", "Transpose"]) if perm[1] == 2 else stays(model, "not-per-channel"))


@pytest.mark.parametrize(
    ("shape", "good"),
    [
        ((2, 4, 4, 4), None),
        ((8, 4, 4), None),
        ((2, 16, 4), None),
        ((32, 4), True),
        ((2, 4, 2, 2, 4), None),
        ((2, 1, 16, 4), True),
    ],
)
def test_matmul_reshape_batch_norm(shape, good):
    """Behind `[2, 4, 4, 4] @ [4, 4]` a Reshape that puts the last axis on axis 1 (or leaves one channel) lets it in."""
    init = {"w": random(4, 4), **batch_norm(shape[1]), "sh": np.array(shape)}
    model = build(
        "c = MatMul(x, w) r = Reshape(c, sh) y = BatchNormalization(r, g, b, m, v)", "float[2,4,4,4] x", "y", init
    )
    result = check(model)
    assert bool(result.applied) is bool(good), result.decisions


@pytest.mark.parametrize("call", ["MatMul(a, b)", "Gemm(a, b)"])
def test_two_data_operands(call):
    stays(build(f"c = {call} y = Mul(c, k)", "float[3,5] a, float[5,4] b", "y", {"k": positive(4)}), "dynamic-params")


# --- norms ------------------------------------------------------------------------------------------------

BN_BEHIND = "y = BatchNormalization(c, g, b, m, v)"


@pytest.mark.parametrize("opset", [7, 13, 22])
@kinds
def test_instance_norm(kind, opset):
    init = {"s": positive(4, seed=3), "i": random(4, seed=4)}
    absorbs(
        "c = InstanceNormalization(x, s, i)",
        "float[2,4,5,6] x",
        init,
        kind,
        4,
        4,
        ["InstanceNormalization"],
        opset=opset,
    )


@kinds
def test_group_norm_21(kind):
    init = {"s": positive(4, seed=3), "i": random(4, seed=4)}
    absorbs(
        "c = GroupNormalization<num_groups=2>(x, s, i)",
        "float[2,4,5,6] x",
        init,
        kind,
        4,
        4,
        ["GroupNormalization"],
        opset=21,
        outputs="float[2,4,5,6] y",
    )


def test_group_norm_18_has_one_scale_per_group():
    init = {"s": positive(2, seed=3), "i": random(2, seed=4)}
    body = "c = GroupNormalization<num_groups=2>(x, s, i) d = Mul(c, k) y = Add(d, t)"
    outputs = "float[2,4,5,6] y"
    good = {
        **init,
        "k": np.array([2, 2, -3, -3], np.float32).reshape(4, 1, 1),
        "t": np.array([1, 1, 0, 0], np.float32).reshape(4, 1, 1),
    }
    folds(build(body, "float[2,4,5,6] x", outputs, good, opset=18), ["GroupNormalization"])
    folds(
        build(body, "float[2,4,5,6] x", outputs, {**good, "k": np.float32(3), "t": np.float32(1)}, opset=18),
        ["GroupNormalization"],
    )
    bad = {**good, "k": np.array([2, 3, 2, 3], np.float32).reshape(4, 1, 1)}
    # The shift alone agrees inside the groups, but stands behind the scale.
    result = check(build(body, "float[2,4,5,6] x", outputs, bad, opset=18))
    assert not result.applied
    square = {**good, "k": positive(2, 1, 1), "t": random(2, 1, 1)}
    folds(build(body, "float[2,2,5,6] x", "float[2,2,5,6] y", square, opset=18), ["GroupNormalization"])


def test_batch_norm_into_batch_norm():
    init = {**batch_norm(4), **batch_norm(4, seed=9, prefix="q")}
    model = build(f"c = BatchNormalization(x, qg, qb, qm, qv) {BN_BEHIND}", "float[N,4,5,5] x", "y", init)
    result = check(model)
    assert result.after == ["BatchNormalization"]
    model = build(
        f"c0 = BatchNormalization(x, qg, qb, qm, qv) c = MaxPool<kernel_shape=[2, 2]>(c0) {BN_BEHIND}",
        "float[N,4,5,5] x",
        "y",
        {**init, "g": positive(4)},
    )
    assert check(model).after == ["BatchNormalization", "MaxPool"]


def test_affine_into_a_training_batch_norm_stays():
    init = {**batch_norm(4), "k": positive(4, 1, 1)}
    model = build(
        "c, rm, rv = BatchNormalization<training_mode=1>(x, g, b, m, v) y = Mul(c, k)", "float[2,4,5,5] x", "y", init
    )
    result = check(model)
    assert result.keys == ["training-mode", "training-mode"]


@kinds
@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias, axis, kind):
    init = {"s": positive(6, seed=3), **({"i": random(6, seed=4)} if bias else {})}
    body = f"c = LayerNormalization<axis={axis}>(x, s{', i' if bias else ''})"
    absorbs(body, "float[2,5,6] x", init, kind, 6, 3, ["LayerNormalization"], axis=2)
    absorbs(body, "float[B,T,6] x", init, kind, 6, 3, ["LayerNormalization"], axis=2)


@pytest.mark.parametrize("shape", [(6,), (5, 1), (5, 6), (1,), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_over_several_axes(bias, shape):
    init = {
        "s": positive(5, 6, seed=3),
        "k": positive(*shape),
        "t": random(*shape, seed=8),
        **({"i": random(5, 6, seed=4)} if bias else {}),
    }
    body = f"c = LayerNormalization<axis=-2>(x, s{', i' if bias else ''}) d = Mul(c, k) y = Add(d, t)"
    folds(build(body, "float[2,5,6] x", "y", init), ["LayerNormalization"])


def test_layer_norm_outside_of_the_normalised_axes():
    init = {"s": positive(6), "k": positive(6, 1)}
    stays(build("c = LayerNormalization(x, s) y = Mul(c, k)", "float[2,6,6] x", "y", init), "not-per-channel")


def test_layer_norm_with_further_outputs():
    init = {"s": positive(6), "k": positive(6)}
    model = build(
        "c, mean, inv = LayerNormalization(x, s) y = Mul(c, k)",
        "float[2,5,6] x",
        "float[2,5,6] y, float[2,5,1] mean, float[2,5,1] inv",
        init,
    )
    folds(model, ["LayerNormalization"])
    model = build(
        "c, mean = LayerNormalization(x, s) y = Mul(mean, k)",
        "float[2,5,6] x",
        "float[2,5,6] c, float[2,5,1] y",
        {**init, "k": positive(1)},
    )
    stays(model, "shape-unknown")


def test_rms_norm_takes_a_scale_only():
    init = {"s": positive(6), "k": -positive(6), "t": random(6)}
    folds(
        build(
            "c = RMSNormalization(x, s) y = Mul(c, k)",
            "float[2,5,6] x",
            "float[2,5,6] y",
            {n: init[n] for n in "sk"},
            opset=23,
        ),
        ["RMSNormalization"],
    )
    stays(
        build(
            "c = RMSNormalization(x, s) y = Add(c, t)",
            "float[2,5,6] x",
            "float[2,5,6] y",
            {n: init[n] for n in "st"},
            opset=23,
        ),
        "shift-blocked",
    )


@pytest.mark.parametrize("norm", ["InstanceNormalization(x, s, i)", "LayerNormalization(x, s, i)"])
@pytest.mark.parametrize("which", ["s", "i"])
def test_norm_with_a_dynamic_parameter(norm, which):
    size = 4 if norm.startswith("I") else 6
    init = {"s": positive(size), "i": random(size), "k": np.float32(2)}
    del init[which]
    stays(build(f"c = {norm} y = Mul(c, k)", f"float[2,4,6] x, float[{size}] {which}", "y", init), "dynamic-params")


# --- embeddings and constants -----------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("ids", ["int64[B,T] x", "int32[3] x", "int64 x"])
def test_embedding(ids, kind):
    rank = {"int64[B,T] x": 3, "int32[3] x": 2, "int64 x": 1}[ids]
    absorbs(
        "c = Gather(w, x)",
        ids,
        {"w": random(7, 4)},
        kind,
        4,
        rank,
        ["Gather"],
        axis=rank - 1,
        outputs="float[4] y" if rank == 1 else "y",
    )


def test_embedding_scaled_along_another_axis():
    stays(
        build("c = Gather(w, x) y = Mul(c, k)", "int64[4,4] x", "y", {"w": random(7, 4), "k": positive(4, 1)}),
        "no-absorber",
    )


def test_gather_of_columns_is_no_embedding():
    result = check(
        build("c = Gather<axis=1>(w, x) y = Mul(c, k)", "int64[4] x", "y", {"w": random(4, 7), "k": positive(4)})
    )
    assert not result.applied


def test_tied_embedding_is_copied():
    init = {"w": random(7, 4), "k": positive(4)}
    model = build(
        "e = Gather(w, x) h = Mul(e, k) wt = Transpose<perm=[1, 0]>(w) y = MatMul(h, wt)", "int64[B] x", "y", init
    )
    result = check(model)
    assert result.applied == 1
    assert np.array_equal(result.array("w"), init["w"])


def test_shifts_along_any_axis_meet_in_the_add_behind_a_matmul():
    """What the Add that we create could take in a second pass, it takes in the first."""
    init = {"w": random(2, 4), "k": positive(2, 1), "t": random(2, 1), "u": random(2, seed=4)}
    model = build("c = MatMul(w, x) d = Mul(c, k) e = Add(d, t) y = Add(e, u)", "float[3,4,2] x", "y", init)
    folds(model, ["MatMul", "Add"])
