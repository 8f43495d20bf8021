"""Models on which a fuzzer found the engine wrong, made small."""

import numpy as np
import pytest

from normfold.surgery.planner import Exclusions
from tests.support import Runner, batch_norm, build, check, folds, optimise, random, stays


def test_an_operator_on_constants_that_took_an_affine_is_not_retired_with_it():
    # `d` is constant, so with its only reader gone it looked dead; but it had inherited the graph output. Now `y` is
    # known to be constant as well, and stays.
    model = build(
        "d = Add(w, w)  y = BatchNormalization(d, g, b, m, v)  z = Identity(x)",
        outputs="float[2,3] y, float[N,3,8,8] z",
        init={"w": random(2, 3), **batch_norm(3)},
    )
    assert stays(model, "constant").after == ["Add", "BatchNormalization", "Identity"]


def test_a_graph_output_survives_when_the_affine_before_it_goes_in_a_later_pass():
    # First the two at the end go, and `a` takes over the output; then `a` goes as well, and must hand it on.
    model = build(
        "n = BatchNormalization(x, g, b, m, v)  a = Sum(k1, n, k2)  c = Mul(a, zero)  y = Sum(c, none)",
        init={
            **batch_norm(3),
            "k1": random(8),
            "k2": np.asarray(0.5, np.float32),
            "zero": np.zeros((3, 1, 1), np.float32),
            "none": np.zeros(1, np.float32),
        },
    )
    result = stays(model, "no-absorber")  # the first reads an input
    assert result.model.graph.node[-1].output[0] == "y"


def test_a_slope_that_is_larger_than_its_tensor():
    # Runtimes broadcast it; the shape of the data alone gave the Reshape another number of elements.
    model = build(
        "p = PRelu(k, x) r = Reshape(p, s) y = BatchNormalization(r, g, b, m, v)",
        "float[2,1,2,4] x",
        "float[2,4,2,1] y",
        init={**batch_norm(4), "k": random(4), "s": np.int64([2, 4, 2, 1])},
    )
    stays(model, "shift-blocked")


def test_a_product_that_is_stored_as_one_is_the_identity_at_once():
    # k · (1/k) in float64 is not quite 1; the Div went into the constant of the Mul, and a second run removed that.
    k = random(4, 1, 6, seed=3, high=1.5)
    folds(build("a = Mul(k, x)  b = Div(a, k)  y = Relu(b)", "float[4,4,1,6] x", init={"k": k}), ["Relu"])


def test_a_constant_that_became_one_is_the_identity_in_the_same_run():
    # As above, but the two are joined by a Transpose, so that no run of affines is composed.
    k = random(3, seed=3, high=1.5)
    model = build(
        "a = Mul(x, k)  t = Transpose<perm=[0,2,1]>(a)  b = Div(t, q)  y = Relu(b)",
        "float[2,4,3] x",
        init={"k": k, "q": k.reshape(3, 1)},
    )
    folds(model, ["Transpose", "Relu"])


def test_a_batch_norm_that_took_an_affine_is_read_as_it_is_stored():
    gamma, zero = random(3, seed=3, high=1.5), np.zeros(3, np.float32)
    model = build(
        "n = BatchNormalization<epsilon=0.0>(x, g, z, z, v)  t = Transpose<perm=[0,2,1]>(n)  b = Div(t, g)  y = Relu(b)",
        "float[2,3,4] x",
        init={"g": gamma, "z": zero, "v": np.ones(3, np.float32)},
    )
    folds(model, ["Transpose", "Relu"])


def test_factors_at_the_ends_of_the_range_do_not_cancel():
    # 2^100 · 2^-100 is exactly 1, but the original overflows in between.
    k = np.asarray(2.0**100, np.float32)
    stays(build("a = Mul(x, k)  b = Div(a, k)  y = Relu(b)", init={"k": k}), "dtype-range", "no-absorber")


def test_a_batch_norm_says_how_many_channels_there_are():
    # It became an Add of three values behind the MatMul, from which a second run learned the shape for the Sum.
    model = build(
        "p = MatMul(x, w)  n = BatchNormalization(p, g, b, m, v)  y = Sum(n, k)",
        "float[N,C,4,8] x",
        "float[N,3,4,5] y",
        init={
            "w": random(8, 5),
            **batch_norm(3, sign=False),
            "g": np.full(3, 2, np.float32),
            "v": np.ones(3, np.float32),
            "k": random(3, 1, 1),
        },
    )
    folds(model, ["MatMul", "Add"], sizes={"C": 3})


def test_what_double_data_can_tell_from_the_identity_stays():
    k = np.asarray(1 + 1e-9)
    stays(build("a = Mul(x, k)  y = Relu(a)", "double[2,3] x", init={"k": k}), "no-absorber")


def test_an_add_behind_a_matmul_that_enlarges_its_result():
    # The shift in front went into the constant of the Add, which has more dimensions than what the MatMul makes.
    k, w = random(5), random(5, 4)
    folds(
        build("a = Add(x, k)  m = MatMul(a, w)  z = Mul(m, q)  y = Add(z, c)", "float[2,5] x",
              init={"k": k, "w": w, "q": random(4), "c": random(4)}), ["Gemm"],
    )  # fmt: skip
    result = check(
        build(
            "a = Add(x, k)  m = MatMul(a, w)  y = Add(m, c)",
            "float[2,5] x",
            init={"k": k, "w": w, "c": random(3, 1, 4)},
        )
    )
    assert result.after == ["MatMul", "Add"]
    assert result.operand("Add", 1).shape == (3, 1, 4)


def test_an_old_add_whose_constant_would_have_to_stretch():
    # Before opset 7 the constant must have the very dimensions of the data from one axis on; [2, 1, 4] has not.
    init = {"k": random(3), "w": random(2, 3, 4), "q": random(4)}
    body = "a = Add<broadcast=1>(x, k)  r = MatMul(a, w)  y = Add<broadcast=1>(r, q)"
    model = build(body, "float[2,5,3] x", "float[2,5,4] y", init=init, opset=6, ir=3)
    assert stays(model, "shift-blocked", "shift-blocked").after == ["Add", "MatMul", "Add"]


def test_two_added_biases_that_move_on_one_after_the_other():
    # The shift of the first MatMul moved on to the second, whose own one moved on then, as it had been before.
    init = {
        "w1": random(5, 4),
        "w2": random(4, 6),
        "w3": random(6, 3),
        "c": random(3),
        "k1": random(4, seed=2),
        "k2": random(4, seed=3),
        "k3": random(6, seed=4),
        "k4": random(6, seed=5),
    }
    first, second = (
        "m = MatMul(x, w1)  a = Mul(m, k1)  b = Add(a, k2)",
        "n = MatMul(b, w2)  d = Mul(n, k3)  e = Add(d, k4)",
    )
    model = build(f"{first}  {second}  p = MatMul(e, w3)  y = Add(p, c)", "float[2,3,5] x", init=init)
    unmerged = Exclusions({}, skip=("NF104",))
    assert check(model, exclusions=unmerged).after == ["MatMul", "MatMul", "MatMul", "Add"]


@pytest.mark.parametrize("sign", ["a = Neg(x)", "a = Mul(x, k)"])
def test_the_sign_in_front_of_a_norm_over_axes_of_unknown_size(sign):
    init = {"s": random(4), "b": random(4), **({"k": np.asarray(-2, np.float32)} if "k" in sign else {})}
    model = build(f"{sign}  y = LayerNormalization<axis=-2>(a, s, b)", "float[2,N,4] x", "float[2,N,4] y", init=init)
    folds(model, ["LayerNormalization"], sizes={"N": 3})


def test_a_norm_whose_scale_does_not_fit():
    model = build(
        "a = LayerNormalization<axis=-2>(x, s)  y = Mul(a, k)",
        "float[2,3,4] x",
        init={"s": random(1, 6), "k": random(4)},
    )
    assert stays(model, "ill-formed", run=False).after == ["LayerNormalization", "Mul"]


@pytest.mark.parametrize("opset", [9, 11])
def test_the_border_of_a_double_image_is_a_float_attribute_before_opset_11(opset):
    init = {"k": np.float64(3), "k2": np.float64(0.1), "w": random(2, 3, 3, 3, dtype=np.float64)}
    body = "a = Mul(x, k)  b = Add(a, k2)  y = Conv<pads=[1, 1, 1, 1]>(b, w)"
    result = check(build(body, "double[2,3,4,4] x", init=init, opset=opset))
    assert result.after == (["Add", "Conv"] if opset < 11 else ["Pad", "Conv"])


def test_the_border_of_a_narrow_image_must_hold_the_value():
    half = np.float16
    init = {"k": half(0.008), "k2": half(600), "w": np.full((2, 3, 3, 3), 0.1, half)}
    body = "a = Mul(x, k)  b = Add(a, k2)  c = Pad<pads=[0, 0, 1, 1, 0, 0, 1, 1]>(b)  y = Conv(c, w)"
    result = stays(build(body, "float16[2,3,4,4] x", init=init, opset=9), "dtype-range")
    assert result.after == ["Mul", "Pad", "Conv"]  # -600 fits, -600 / 0.008 does not


def test_an_add_of_zeros_behind_a_bias_is_no_bias():
    # The shift of the BatchNormalization becomes an Add behind the MatMul; the zeros behind that are nobody's bias.
    init = {"w": random(4, 2), **batch_norm(1), "zero": np.float32(0)}
    body = "p = MatMul(x, w)  n = BatchNormalization(p, g, b, m, v)  a = Add(n, zero)  y = Relu(a)"
    folds(build(body, "float[2,1,4] x", init=init), ["MatMul", "Add", "Relu"])


@pytest.mark.parametrize("factor", [255.0, 1 / 255.0, 0.0, -3.0])
def test_a_scale_in_front_of_a_batch_norm_makes_no_large_numbers(factor):
    # With the mean as it was, 255 · mean went into the bias, to be subtracted again: 200 times the rounding in float16.
    half = np.float16
    mean, var = np.asarray([120, 115, 100], half), np.full(3, 2500, half)
    init = {"k": half(factor), "g": np.ones(3, half), "b": np.zeros(3, half), "m": mean, "v": var}
    body = "a = Mul(x, k)  n = BatchNormalization(a, g, b, m, v)  y = Relu(n)"
    result = check(build(body, "float16[2,3,8,8] x", init=init))
    assert result.after == ["BatchNormalization", "Relu"]
    x = np.random.default_rng(0).random((2, 3, 8, 8)).astype(half)
    exact = (x.astype(np.float64) * float(init["k"]) - mean[:, None, None]) / np.sqrt(2500 + 1e-5)
    error = np.abs(Runner(result.model).run({"x": x})[0] - np.maximum(exact, 0)).max()
    assert error < 4 * np.abs(exact).max() * 2.0**-11


CONTRADICTIONS = {
    "Squeeze": "s = Squeeze<axes=[1]>(a)  y = Relu(s)",
    "Split": "s, r = Split<axis=1, split=[1, 1, 1]>(a)  y = Conv(s, w)  z = Conv(r, w)",
    "DepthToSpace": "s = DepthToSpace<blocksize=2>(a)  y = Conv(s, w)",
    "strides": 'y = Conv<auto_pad="SAME_UPPER", strides=[1]>(a, v)',
    "no stride": 'y = Conv<auto_pad="SAME_UPPER", strides=[0, 0]>(a, v)',
    "dilations": "y = ConvTranspose<dilations=[1]>(a, v)",
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_node_that_contradicts_itself_is_left_alone(name):
    body = CONTRADICTIONS[name]
    init = {"k": random(3, 1, 1), "w": random(2, 1, 1, 1), "v": random(3, 3, 2, 2)}
    init = {key: value for key, value in init.items() if key == "k" or f", {key})" in body}
    model = build(f"a = Add(x, k)  {body}", "float[2,3,4,4] x", "float[A,B,C,D] y", init=init, opset=11)
    _, plan = optimise(model)
    assert not plan.edits
    assert plan.decisions[0].code in ("NF102.ill-formed", "NF102.shape-unknown")
