"""Reference, 6: float64 inside, one rounding at the end, the dtype of the weight, and refusals near the ends."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import batch_norm, build, check, folds, optimise, positive, random, refuses_when_written, stays

TYPES = {
    "float": (np.float32, TensorProto.FLOAT),
    "double": (np.float64, TensorProto.DOUBLE),
    "float16": (np.float16, TensorProto.FLOAT16),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
NORM = "y = BatchNormalization(c, g, b, m, v)"


def tensor(name, array, kind):
    stored = np.asarray(array).astype(TYPES[kind][0])
    return helper.make_tensor(name, TYPES[kind][1], stored.shape, stored.tobytes(), raw=True)


def values(tensor_or_array):
    return np.asarray(tensor_or_array).astype(np.float64)


def reference(w, bias, parameters, epsilon=1e-5):
    """Weights and bias in float64, from parameters as they are stored."""
    g, b, m, v = (values(parameters[n]) for n in "gbmv")
    scale = g / np.sqrt(v + float(np.float32(epsilon)))
    return values(w) * scale.reshape(-1, *[1] * (w.ndim - 1)), values(bias) * scale + (b - m * scale)


@pytest.mark.parametrize("kind", TYPES)
def test_one_rounding(kind):
    """The new weights and biases are, bit for bit, the float64 result rounded once."""
    dtype = TYPES[kind][0]
    w, bias = random(16, 8, 3, 3).astype(dtype), random(16, seed=2).astype(dtype)
    parameters = {n: a.astype(dtype) for n, a in batch_norm(16).items()}
    init = {n: tensor(n, a, kind) for n, a in {"w": w, "wb": bias, **parameters}.items()}
    shape = f"{kind}[1,8,5,5] x"
    model = build(f"c = Conv(x, w, wb) {NORM}", shape, f"{kind}[1,16,3,3] y", init, opset=22, ir=10)
    result = folds(model, ["Conv"], run=kind in ("float", "float16"))
    wanted = [array.astype(dtype) for array in reference(w, bias, parameters)]
    for slot, array in zip((1, 2), wanted, strict=True):
        got = next(t for t in result.model.graph.initializer if t.name == result.node("Conv").input[slot])
        assert got.data_type == TYPES[kind][1]
        assert got.raw_data == array.tobytes()


def test_a_long_chain_is_rounded_once():
    w = random(4, 3, 3, 3).astype(np.float16)
    constants = {f"k{i}": random(4, 1, 1, seed=i, low=0.9, high=1.1).astype(np.float16) for i in range(8)}
    text = "c = Conv(x, w) " + " ".join(
        f"{'y' if i == 7 else f'd{i}'} = Mul({'c' if not i else f'd{i - 1}'}, k{i})" for i in range(8)
    )
    result = folds(build(text, "float16[1,3,8,8] x", "y", {"w": w, **constants}), ["Conv"])
    scale = np.prod([c.astype(np.float64) for c in constants.values()], axis=0)
    assert np.array_equal(
        result.operand("Conv", 1), (w.astype(np.float64) * scale.reshape(4, 1, 1, 1)).astype(np.float16)
    )


def test_two_edits_that_meet_are_rounded_once():
    """One stops at the Relu's other side and arrives in a second step; the weight is still rounded once."""
    w = random(4, 3, 3, 3)
    k, q = positive(4, 1, 1, seed=1), positive(4, 1, 1, seed=2)
    result = folds(build("c = Conv(x, w) d = Mul(c, k) e = Relu(d) y = Mul(e, q)", init={"w": w, "k": k, "q": q}))
    wanted = (w.astype(np.float64) * (q.astype(np.float64) * k.astype(np.float64)).reshape(4, 1, 1, 1)).astype(
        np.float32
    )
    assert np.array_equal(result.operand("Conv", 1), wanted)


def test_mixed_batch_norm_15_stays_in_the_dtype_of_the_weight():
    """microsoft/onnxruntime#11960: float16 data with float32 statistics."""
    w, parameters = random(4, 3, 3, 3).astype(np.float16), batch_norm(4)
    model = build(
        f"c = Conv(x, w) {NORM}", "float16[1,3,8,8] x", "float16[1,4,6,6] y", {"w": w, **parameters}, opset=15
    )
    result = folds(model, ["Conv"], run=False)
    weight, bias = reference(w, np.zeros(4), parameters)
    assert np.array_equal(result.operand("Conv", 1), weight.astype(np.float16))
    assert np.array_equal(result.operand("Conv", 2), bias.astype(np.float16))


def test_mixed_the_other_way_is_not_widened():
    w = random(4, 3, 3, 3)
    half = {n: a.astype(np.float16) for n, a in batch_norm(4).items()}
    model = build(f"c = Conv(x, w) {NORM}", "float[1,3,8,8] x", "float[1,4,6,6] y", {"w": w, **half}, opset=15)
    result = folds(model, ["Conv"], run=False)
    assert result.operand("Conv", 1).dtype == np.float32


def conv(text, init, kind="float", **options):
    return build(f"c = Conv(x, w) {text}", f"{kind}[1,3,8,8] x", "y", init, **options)


def test_overflow_of_a_weight():
    w = np.full((4, 3, 3, 3), 1e30, np.float32)
    assert "largest" in refuses_when_written(conv("y = Mul(c, k)", {"w": w, "k": np.float32(1e12)}))


def test_factors_of_float64_that_overflow_together():
    """Quietly: numpy's warnings are none of the user's business."""
    init = {"w": random(4, 3, 3, 3, dtype=np.float64), "k": np.float64(1e200)}
    assert refuses_when_written(conv("d = Mul(c, k) y = Mul(d, k)", init, "double"))


def test_overflow_in_float16():
    w = np.full((4, 3, 3, 3), 300, np.float16)
    assert "largest" in refuses_when_written(conv("y = Mul(c, k)", {"w": w, "k": np.float16(300)}, "float16"))


def test_overflow_of_a_bias_in_float16():
    init = {"w": random(4, 3, 3, 3, dtype=np.float16), "k": np.full((4, 1, 1), 40000, np.float16)}
    assert "largest" in refuses_when_written(conv("d = Add(c, k) e = Identity(d) y = Add(e, k)", init, "float16"))


def test_underflow_is_refused_where_it_shows():
    w = random(4, 3, 3, 3) * np.float32(1e-25)
    assert "subnormal" in refuses_when_written(conv("y = Mul(c, k)", {"w": w, "k": np.float32(1e-15)}))


def test_underflow_of_less_than_a_thousandth_is_accepted():
    w = random(40, 3, 5, 5)
    w.reshape(-1)[:2] = 1e-30
    folds(build("c = Conv(x, w) y = Mul(c, k)", init={"w": w, "k": np.float32(1e-12)}), ["Conv"])


def test_scale_above_1000_in_float16():
    stays(
        conv(
            "y = Mul(c, k)",
            {"w": random(4, 3, 3, 3, dtype=np.float16) * np.float16(0.01), "k": np.float16(1500)},
            "float16",
        ),
        "dtype-range",
    )
    folds(
        conv(
            "y = Mul(c, k)",
            {"w": random(4, 3, 3, 3, dtype=np.float16) * np.float16(0.01), "k": np.float16(900)},
            "float16",
        )
    )


def test_dead_channel_in_float16():
    """A variance of 0 with a small epsilon: s = 316."""
    parameters = {n: a.astype(np.float16) for n, a in batch_norm(4).items()}
    parameters["v"][1] = 0
    check(conv(NORM, {"w": random(4, 3, 3, 3, dtype=np.float16), **parameters}, "float16"))
    tiny = NORM.replace("BatchNormalization", "BatchNormalization<epsilon=0.0000001>")
    stays(conv(tiny, {"w": random(4, 3, 3, 3, dtype=np.float16), **parameters}, "float16"), "dtype-range", run=False)


@pytest.mark.parametrize("factors", [(1e30, 1e-30), (1e-30, 1e30), (1e25, 1e25)])
def test_serial_factors_near_the_ends(factors):
    """microsoft/winml-cli#1301: merged, two factors skip the overflow that they have one after the other."""
    init = {"k": np.float32(factors[0]), "q": np.float32(factors[1])}
    result = check(build("e = Exp(x) d = Mul(e, k) y = Mul(d, q)", init=init))
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in result.model.graph.initializer)


@pytest.mark.parametrize("factors", [(1e30, 1e-30), (1e-30, 1e30)])
def test_serial_factors_that_are_an_identity(factors):
    init = {"k": np.float32(factors[0]), "q": np.float32(factors[1])}
    check(build("e = Exp(x) d = Mul(e, k) f = Mul(d, q) y = Relu(f)", init=init))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_constants_that_are_not_finite(bad):
    k = np.array([1, bad, 1, 1], np.float32).reshape(4, 1, 1)
    stays(conv("y = Mul(c, k)", {"w": random(4, 3, 3, 3), "k": k}), "non-finite", run=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_stay_visible(bad):
    w = random(4, 3, 3, 3)
    w[1, 1, 1, 1] = bad
    assert refuses_when_written(conv("y = Mul(c, k)", {"w": w, "k": np.float32(2)}))


def test_float64_is_not_narrowed():
    init = {
        "w": random(5, 4, dtype=np.float64),
        "k": positive(4, dtype=np.float64) / 3,
        "t": random(4, dtype=np.float64) / 7,
    }
    result = folds(build("c = MatMul(x, w) d = Mul(c, k) y = Add(d, t)", "double[2,5] x", "y", init), ["Gemm"])
    assert np.array_equal(result.operand("Gemm", 1), init["w"] * init["k"])
    assert np.array_equal(result.operand("Gemm", 2), init["t"])


def test_bfloat16_matmul_does_not_become_gemm():
    init = {n: tensor(n, a, "bfloat16") for n, a in {"w": random(5, 4), "k": positive(4), "t": random(4)}.items()}
    model = build("c = MatMul(x, w) d = Mul(c, k) y = Add(d, t)", "bfloat16[2,5] x", "bfloat16[2,4] y", init)
    result = folds(model, ["MatMul", "Add"], run=False)
    assert onnx.TensorProto.BFLOAT16 in {t.data_type for t in result.model.graph.initializer}


def test_large_weights_in_blocks():
    """More than one block of the writer, with the scale on either side of the weight."""
    w = random(700, 900)
    for text, weight, factor in (
        ("MatMul(x, w)", w, (1, -1)),
        ("Gemm<transB=1>(x, w)", np.ascontiguousarray(w.T), (-1, 1)),
    ):
        k = positive(900)
        data, _ = optimise(build(f"c = {text} y = Mul(c, k)", "float[2,700] x", "y", {"w": weight, "k": k}))
        got = numpy_helper.to_array(onnx.ModelProto.FromString(data).graph.initializer[0])
        assert np.array_equal(
            got, (weight.astype(np.float64) * k.astype(np.float64).reshape(factor)).astype(np.float32)
        )
