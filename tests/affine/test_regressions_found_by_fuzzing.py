"""Models on which a fuzzer found the engine wrong, made small."""

import numpy as np

from tests.support import batch_norm, build, random, stays


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
