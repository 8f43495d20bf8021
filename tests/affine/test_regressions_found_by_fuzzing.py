"""Models on which a fuzzer found the engine wrong, made small."""

import numpy as np

from tests.support import batch_norm, build, folds, random, stays


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
