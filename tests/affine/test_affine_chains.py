"""Mul, Add, Sub, Div, Neg and Sum with constants: which constants are per-channel, and chains of them."""

import itertools

import numpy as np
import pytest

from tests.support import batch_norm, build, check, folds, positive, random, stays

W = random(4, 3, 3, 3)
FORMS = {"0-d": (), "1": (1,), "1111": (1, 1, 1, 1), "C11": (4, 1, 1), "1C11": (1, 4, 1, 1), "1x1": (1, 1)}


def conv(tail, *, opset=17, inputs="float[N,3,8,8] x", weight=W, **init):
    return build(f"c = Conv(x, w) {tail}", inputs, "y", {"w": weight, **init}, opset=opset, ir=8 if opset > 8 else 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "op",
    [
        "Mul(c, k)",
        "Mul(k, c)",
        "Add(c, k)",
        "Add(k, c)",
        "Sub(c, k)",
        "Sub(k, c)",
        "Div(c, k)",
        "Sum(c, k)",
        "Sum(k, c)",
    ],
)
def test_spellings(op, form):
    folds(conv(f"y = {op}", k=positive(*FORMS[form])), ["Conv"])


def test_neg_and_single_sum():
    folds(conv("y = Neg(c)"), ["Conv"])
    folds(conv("y = Sum(c)"), ["Conv"])


def test_sum_of_many_constants():
    folds(conv("y = Sum(k, c, q, k)", k=positive(4, 1, 1), q=random(1)), ["Conv"])


@pytest.mark.parametrize("opset", [7, 8, 13, 14])
def test_opsets(opset):
    folds(
        conv("a = Mul(k, c) b = Sub(q, a) y = Div(b, k)", k=positive(4, 1, 1), q=random(4, 1, 1), opset=opset), ["Conv"]
    )


def test_constant_over_data_is_not_affine():
    result = check(conv("r = Exp(c) y = Div(k, r)", k=positive(4, 1, 1)))
    assert not result.decisions
    assert result.after == result.before


@pytest.mark.parametrize("op", ["Add(c, c)", "Mul(c, c)", "Sub(c, c)", "Sum(c, c, k)", "Div(c, c)"])
def test_data_on_both_sides_is_not_affine(op):
    result = check(conv(f"y = {op}", k=positive(4, 1, 1)))
    assert not result.applied


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((6,), "last axis, not C"),
        ((6, 1), "height"),
        ((6, 6), "height and width"),
        ((4, 6, 6), "per activation"),
        ((4, 1, 6), "channel and width"),
    ],
)
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_constants_on_other_axes_are_not_channels(shape, why, op):
    stays(conv(f"y = {op}(c, k)", k=positive(*shape)), "not-per-channel")


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 6), (1, 6, 1)])
def test_sizes_that_coincide_prove_nothing(shape):
    """C = H = W = 6."""
    stays(conv("y = Mul(c, k)", weight=random(6, 3, 3, 3), k=positive(*shape)), "not-per-channel")


@pytest.mark.parametrize("inputs", ["float[6,3,8,8] x"])
def test_a_constant_along_the_batch(inputs):
    stays(conv("y = Mul(c, k)", inputs=inputs, weight=random(6, 3, 3, 3), k=positive(6, 1, 1, 1)), "not-per-channel")


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1), (5, 1, 1, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1)])
@pytest.mark.parametrize("op", ["Mul(c, k)", "Add(k, c)", "Sub(k, c)"])
def test_constants_that_enlarge_the_tensor(shape, op):
    """On a tensor with one channel and batch 1."""
    stays(conv(f"y = {op}", inputs="float[1,3,8,8] x", weight=random(1, 3, 3, 3), k=positive(*shape)), "broadcast")


@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_an_identity_that_enlarges_is_no_identity(shape):
    stays(
        conv("y = Mul(c, k)", inputs="float[1,3,3,3] x", weight=random(4, 3, 3, 3), k=np.ones(shape, np.float32)),
        "broadcast",
    )


def test_a_symbolic_axis_may_be_one():
    """`[N, 4, H, W] * (1, 1, 1, 6)`: W could be 1 and be stretched."""
    stays(
        conv("y = Mul(c, k)", inputs="float[N,3,H,W] x", k=np.ones((6,), np.float32)),
        "shape-unknown",
        sizes={"H": 8, "W": 8},
    )


@pytest.mark.parametrize("order", list(itertools.product([0, 1], repeat=3)))
def test_operand_order_does_not_matter(order):
    """microsoft/onnxruntime#27879: a Mul with the constant first."""
    texts = [
        f"{op}({', '.join([a, b] if not flip else [b, a])})"
        for (op, a, b), flip in zip([("Mul", "c", "k"), ("Add", "d", "q"), ("Mul", "e", "k")], order, strict=True)
    ]
    result = folds(
        conv(f"d = {texts[0]} e = {texts[1]} y = {texts[2]}", k=positive(4, 1, 1), q=random(4, 1, 1)), ["Conv"]
    )
    reference = folds(
        conv("d = Mul(c, k) e = Add(d, q) y = Mul(e, k)", k=positive(4, 1, 1), q=random(4, 1, 1)), ["Conv"]
    )
    assert np.array_equal(result.operand("Conv", 1), reference.operand("Conv", 1))
    assert np.array_equal(result.operand("Conv", 2), reference.operand("Conv", 2))


def test_decomposed_batch_norm():
    body = "s = Add(v, eps) r = Sqrt(s) d = Sub(c, m) e = Div(d, r) f = Mul(g, e) y = Add(f, b)"
    shaped = {name: array.reshape(4, 1, 1) for name, array in batch_norm(4).items()}
    folds(conv(body, **shaped, eps=np.float32(1e-3)), ["Conv"])


def test_decomposed_batch_norm_with_reciprocal_and_reshapes():
    body = (
        "s = Add(v, eps) r = Sqrt(s) i = Reciprocal(r) k = Mul(i, g) k4 = Unsqueeze(k, ax) mk = Mul(m, k) "
        "t = Sub(b, mk) t4 = Reshape(t, sh) e = Mul(c, k4) y = Add(e, t4)"
    )
    init = {**batch_norm(4), "eps": np.float32(1e-3), "ax": np.array([1, 2]), "sh": np.array([1, -1, 1, 1])}
    folds(conv(body, **init), ["Conv"])


def test_chain_that_is_the_identity_vanishes():
    folds(conv("d = Mul(c, k) e = Mul(d, h) y = Relu(e)", k=np.float32(2), h=np.float32(0.5)), ["Conv", "Relu"])
    folds(build("d = Neg(x) e = Neg(d) y = Relu(e)", init={}), ["Relu"])


def test_an_identity_between_input_and_output_stays():
    stays(build("y = Mul(x, k)", init={"k": np.float32(1)}), "graph-output")


def test_identity_in_front_of_several_readers():
    model = build(
        "a = Add(x, k) y = Relu(a) z = Sigmoid(a)", outputs="y, z", init={"k": np.zeros((1, 3, 1, 1), np.float32)}
    )
    folds(model, ["Relu", "Sigmoid"])


def test_the_composed_sign_may_pass_where_the_parts_may_not():
    folds(conv("r = Relu(c) d = Mul(r, k) y = Neg(d)", k=-positive(4, 1, 1)), ["Conv", "Relu"])


def test_what_a_constant_collected_goes_with_its_node():
    """-2 stops at the Relu; -3 joins it from behind the Transpose; together they pass, and nothing is left behind."""
    model = conv(
        "r = Relu(c) a = Mul(r, k) t = Transpose<perm=[0, 2, 3, 1]>(a) y = Mul(t, q)",
        k=-positive(4, 1, 1),
        q=-positive(4),
    )
    folds(model, ["Conv", "Relu", "Transpose"])


def test_affines_merge_even_without_weights():
    result = check(build("a = Mul(x, k) r = Relu(a) y = Mul(r, q)", init={"k": positive(3, 1, 1), "q": positive(1)}))
    assert result.after == ["Mul", "Relu"]


def test_integers_are_left_alone():
    result = check(build("y = Mul(x, k)", "int64[2,3] x", init={"k": np.array([2])}))
    assert not result.decisions


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_division_by_zero(zero):
    stays(conv("y = Div(c, k)", k=np.array([1, zero, 2, 3], np.float32).reshape(4, 1, 1)), "non-finite", run=False)


def test_scale_zero():
    result = folds(conv("y = Mul(c, k)", k=np.zeros((4, 1, 1), np.float32)), ["Conv"])
    assert not result.operand("Conv", 1).any()


@pytest.mark.parametrize(
    ("text", "shape", "ok"),
    [
        ("Mul<broadcast=1, axis=1>(c, k)", (4,), True),
        ("Add<broadcast=1, axis=1>(c, k)", (4,), True),
        ("Sub<broadcast=1, axis=-3>(c, k)", (4,), True),
        ("Div<broadcast=1, axis=1>(c, k)", (4, 1, 1), True),
        ("Mul<broadcast=1>(c, k)", (1,), True),
        ("Mul<broadcast=1>(c, k)", (4, 1, 1), True),
        ("Mul<broadcast=1>(c, k)", (6,), False),
        ("Mul<broadcast=1, axis=2>(c, k)", (6,), False),
        ("Mul<broadcast=1, axis=3>(c, k)", (6,), False),
    ],
)
def test_broadcast_attributes_before_opset_7(text, shape, ok):
    model = conv(f"y = {text}", k=positive(*shape), opset=6, inputs="float[2,3,8,8] x")
    # The reference implementation ignores the axis: the new weights are compared instead.
    result = (folds if ok else lambda m, run: stays(m, "not-per-channel", run=run))(model, run=False)
    if not ok:
        return
    scale = {"M": 1.0, "D": 1.0, "A": 0.0, "S": 0.0}[text[0]]
    values = positive(*shape).astype(np.float64).reshape(-1)
    if scale:
        factor = values if text[0] == "M" else 1 / values
        wanted = (W.astype(np.float64) * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        assert np.array_equal(result.operand("Conv", 1), wanted)
    else:
        assert np.array_equal(result.operand("Conv", 2), (values if text[0] == "A" else -values).astype(np.float32))


def test_unknown_attribute():
    model = conv("y = Mul(c, k)", k=positive(4, 1, 1))
    model.graph.node[1].attribute.add(name="flavour", i=1, type=2)
    stays(model, "unknown-attribute", run=False)
