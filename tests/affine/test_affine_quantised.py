"""Quantised weights: the scale takes the factor, the integers stay, and what no scale can express stays in the model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import normfold
from tests.support import batch_norm, build, check, folds, positive, random, stays

F32 = np.float32
FLIPS = F32([1.5, -0.5, 0.75, -2]).reshape(4, 1, 1)
K, T = positive(4, 1, 1), random(4, 1, 1, seed=3)
BOTH = "d = Mul(c, k) y = Add(d, t)"
# A dequantised image: what runtimes replace by integer kernels.
QUANTISED_X = "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz) "
X = {"xs": F32(0.02), "xz": np.uint8(128)}


def integers(*shape, dtype=np.int8, seed=0, lowest=False):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(limits.min + (not lowest), limits.max, shape, endpoint=True)
    if lowest:
        values.reshape(-1)[:: max(1, values.size // 8)] = limits.min
    return values.astype(dtype)


def dequantize(scale, zero=None, axis=None, block=0, name="w"):
    """The text of a DequantizeLinear of q, and its constants."""
    given = [f"axis={axis}"] * (axis is not None) + [f"block_size={block}"] * bool(block)
    prefix = "" if name == "w" else name
    third = "" if zero is None else f", {prefix}z"
    constants = {f"{prefix}s": np.asarray(scale), **({} if zero is None else {f"{prefix}z": np.asarray(zero)})}
    return f"{name} = DequantizeLinear<{', '.join(given)}>({prefix}q, {prefix}s{third}) ", constants


def opset(version):
    return {"opset": version, "ir": {10: 5, 13: 7, 17: 8, 19: 9, 21: 10, 23: 10}[version]}


# --- operators and axes ----------------------------------------------------------------------------------------------

# operator, shape of the weight, axis of its output channels, input
LAYERS = {
    "Conv": ("Conv(x, w)", (4, 3, 3, 3), 0, "float[N,3,8,8] x", (4, 1, 1)),
    "grouped Conv": ("Conv<group=2>(x, w)", (4, 3, 3, 3), 0, "float[N,6,8,8] x", (4, 1, 1)),
    "depthwise Conv": ("Conv<group=4>(x, w)", (4, 1, 3, 3), 0, "float[N,4,8,8] x", (4, 1, 1)),
    "ConvTranspose": ("ConvTranspose<strides=[2, 2]>(x, w)", (3, 4, 3, 3), 1, "float[N,3,5,5] x", (4, 1, 1)),
    "Gemm": ("Gemm(x, w)", (5, 4), 1, "float[N,5] x", (4,)),
    "Gemm transB": ("Gemm<transB=1, alpha=0.5>(x, w)", (4, 5), 0, "float[N,5] x", (4,)),
    "MatMul": ("MatMul(x, w)", (5, 4), 1, "float[N,3,5] x", (4,)),
    "MatMul on the left": ("MatMul(w, x)", (4, 5), 0, "float[N,5,3] x", (4, 1)),
    "Gather": ("Gather(w, x)", (7, 4), 1, "int64[3] x", (4,)),
    "LayerNormalization": ("LayerNormalization(x, w)", (4,), 0, "float[3,4] x", (4,)),
}
layers = pytest.mark.parametrize("layer", LAYERS)


def layer_model(layer, kind, affine, factor, **options):
    call, shape, axis, inputs, own = LAYERS[layer]
    scale = {"one scale": F32(0.01), "one in a list": F32([0.01]), "per axis": positive(shape[axis]) / 100}[kind]
    text, constants = dequantize(scale, axis=axis if kind == "per axis" else None)
    factor = np.resize(F32(factor), shape[axis]).reshape(own)
    init = {"q": integers(*shape), **constants, "k": factor, "t": random(*own, seed=5)}
    init = {name: init[name] for name in init if name != "t" or "Add" in affine}
    return build(f"{text} c = {call} {affine}", inputs, "y", init, **options)


@layers
@pytest.mark.parametrize("kind", ["one scale", "one in a list", "per axis"])
def test_the_scale_takes_the_factor_and_the_integers_stay(layer, kind):
    model = layer_model(layer, kind, "y = Mul(c, k)", [1.5, 0.5, 0.75, 2])
    result = folds(model, ["DequantizeLinear", LAYERS[layer][0].split("(")[0].split("<")[0]])
    _, shape, axis, *_ = LAYERS[layer]
    assert np.array_equal(result.array("q"), integers(*shape))
    factor = np.resize(F32([1.5, 0.5, 0.75, 2]), shape[axis])
    old = F32(0.01) if kind != "per axis" else positive(shape[axis]) / 100
    assert np.array_equal(result.operand("DequantizeLinear", 1), (np.float64(factor) * old).astype(F32))


@layers
@pytest.mark.parametrize("kind", ["one scale", "per axis"])
def test_a_negative_factor_negates_the_integers(layer, kind):
    result = folds(layer_model(layer, kind, "y = Mul(c, k)", FLIPS.reshape(-1)))
    _, shape, axis, *_ = LAYERS[layer]
    signs = np.sign(np.resize(FLIPS.reshape(-1), shape[axis])).reshape(
        [-1 if a == axis else 1 for a in range(len(shape))]
    )
    assert np.array_equal(result.array("q"), integers(*shape) * signs)
    assert (result.operand("DequantizeLinear", 1) > 0).all()


@layers
def test_a_uniform_factor_leaves_one_scale(layer):
    result = folds(layer_model(layer, "one scale", "y = Mul(c, k)", [-3]))
    assert result.operand("DequantizeLinear", 1).shape == ()
    assert not result.node("DequantizeLinear").attribute


@pytest.mark.parametrize("layer", [name for name in LAYERS if name[0] in "CGM" and name != "Gather"])
def test_a_shift_becomes_a_float_bias(layer):
    operators = ["DequantizeLinear", LAYERS[layer][0].split("(")[0].split("<")[0]]
    result = folds(layer_model(layer, "one scale", BOTH, [1.5, -0.5]))
    # The kernels for quantised weights are those of MatMul, so it does not become a Gemm.
    assert result.after == [*operators, *(["Add"] if "MatMul" in layer else [])]


@pytest.mark.parametrize("bias", ["", ", wb"])
@pytest.mark.parametrize("version", [13, 19, 21, 23])
def test_conv_and_batch_norm(version, bias):
    text, constants = dequantize(positive(4) / 100, axis=0)
    init = {"q": integers(4, 3, 3, 3), **constants, **batch_norm(4), **({"wb": random(4)} if bias else {})}
    body = f"{text} c = Conv(x, w{bias}) y = BatchNormalization(c, g, b, m, v)"
    result = folds(build(body, init=init, **opset(version)), ["DequantizeLinear", "Conv"])
    assert len(result.model.graph.initializer) == 3


def test_grouped_conv_transpose():
    """`W[Cin, Cout/g]` has `Cout/g` scales: all groups must want the same ones."""
    text, constants = dequantize(F32(0.01))
    body = text + "c = ConvTranspose<group=2>(x, w) y = Mul(c, k)"
    for factors, good in (([1, 2, 1, 2], True), ([1, 2, 2, 1], False), ([3, 3, 3, 3], True)):
        init = {"q": integers(4, 2, 3, 3), **constants, "k": F32(factors).reshape(4, 1, 1)}
        model = build(body, "float[N,4,5,5] x", init=init)
        (folds(model, ["DequantizeLinear", "ConvTranspose"]) if good else stays(model, "quantised"))


def test_recurrent_weights():
    text, constants = dequantize(F32(0.01))
    body = "h = Mul(x, k) " + text + "a, y = GRU<hidden_size=3>(h, w, r)"
    init = {"q": integers(1, 9, 5), **constants, "r": random(1, 9, 3), "k": positive(5)}
    folds(build(body, "float[2,3,5] x", "float[1,3,3] y", init), ["DequantizeLinear", "GRU"])


# --- zero points, signs, types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("zeros", ["one", "per axis"])
@pytest.mark.parametrize("scale", ["one", "per axis"])
def test_zero_points_are_kept_and_complemented(scale, zeros, dtype):
    axis = 0 if scale == "per axis" else None
    middle = 0 if np.iinfo(dtype).min else 128
    zero = dtype([middle + 3, middle, middle - 5, middle + 1]) if zeros == "per axis" else dtype(middle + 2)
    if scale == "one":
        zero = zero.reshape(-1)[0]
    elif zeros == "one":
        zero = np.full(4, zero)
    text, constants = dequantize(positive(4) / 100 if axis == 0 else F32(0.01), zero, axis)
    init = {"q": integers(4, 3, 3, 3, dtype=dtype, lowest=True), **constants, "k": FLIPS, "t": T}
    result = folds(build(f"{text} c = Conv(x, w) {BOTH}", init=init, **opset(21)), ["DequantizeLinear", "Conv"])
    old, new = np.float64(init["q"]), np.float64(result.array("q"))
    zero = np.broadcast_to(np.float64(zero), 4).reshape(4, 1, 1, 1)
    assert np.array_equal(new - result.array("z").reshape(4, 1, 1, 1), np.sign(FLIPS)[..., None] * (old - zero))


@pytest.mark.parametrize("zero", [None, np.int8(0)])
def test_the_lowest_integer_has_no_negative(zero):
    """A zero point of -1 would express it, but runtimes that want symmetric weights refuse that."""
    text, constants = dequantize(F32(0.01), zero)
    body = f"{text} c = Conv(x, w) y = Mul(c, k)"
    quantised = integers(4, 3, 3, 3)
    for channel, good in ((0, True), (1, False)):
        q = quantised.copy()
        q[channel, 0, 0, 0] = -128
        model = build(body, init={"q": q, **constants, "k": FLIPS})
        (folds(model) if good else stays(model, "quantised"))


def test_unsigned_weights_without_zero_points_have_no_sign():
    text, constants = dequantize(F32(0.01))
    init = {"q": integers(4, 3, 3, 3, dtype=np.uint8), **constants}
    stays(build(f"{text} c = Conv(x, w) y = Mul(c, k)", init={**init, "k": FLIPS}), "quantised")
    folds(build(f"{text} c = Conv(x, w) y = Mul(c, k)", init={**init, "k": K}))


@pytest.mark.parametrize("zero", [None, np.int8(7), np.int8([1, -2, 7, 0])])
def test_a_dead_channel_holds_its_zero_point(zero):
    per_axis = np.ndim(zero) == 1
    scale = positive(4) / 100 if per_axis else F32(0.01)
    text, constants = dequantize(scale, zero, 0 if per_axis else None)
    k = F32([0, 1, -2, 0]).reshape(4, 1, 1)
    init = {"q": integers(4, 3, 3, 3), **constants, "k": k, "t": T}
    result = folds(build(f"{text} c = Conv(x, w) {BOTH}", init=init), ["DequantizeLinear", "Conv"])
    zeros = result.array("z") if zero is not None else np.zeros(4)
    assert (result.array("q")[0] == zeros[0]).all()
    assert np.array_equal(result.operand("DequantizeLinear", 1)[[0, 3]], np.broadcast_to(scale, 4)[[0, 3]])


def packed(kind, numbers, shape, name="q"):
    return helper.make_tensor(name, kind, shape, np.asarray(numbers).reshape(-1))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bits(kind):
    q = packed(kind, np.resize(np.arange(8), 108), (4, 3, 3, 3))
    text, constants = dequantize(F32(0.1))
    body = f"{text} c = Conv(x, w) {BOTH}"
    init = {"q": q, **constants, "t": T}
    result = folds(build(body, init={**init, "k": K}, **opset(21)), ["DequantizeLinear", "Conv"])
    assert next(t for t in result.model.graph.initializer if t.name == "q") == q
    # Four-bit integers are read, not written.
    for k in (FLIPS, K * F32([1, 1, 1, 0]).reshape(4, 1, 1)):
        stays(build(body, init={**init, "k": k}, **opset(21)), "quantised", "shift-blocked")
    zero = packed(kind, [3], (), "z")
    text = "w = DequantizeLinear(q, s, z) c = Conv(x, w) y = Mul(c, k)"
    stays(build(text, init={"q": q, **constants, "z": zero, "k": K}, **opset(21)), "quantised")
    folds(build(text, init={"q": q, **constants, "z": zero, "k": F32(2)}, **opset(21)))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2])
def test_eight_bit_floats(kind):
    data = np.resize(np.arange(60, dtype=np.uint8), 108).tobytes()
    q = helper.make_tensor("q", kind, (4, 3, 3, 3), data, raw=True)
    text, constants = dequantize(F32(0.1))
    init = {"q": q, **constants}
    body = f"{text} c = Conv(x, w) y = Mul(c, k)"
    folds(build(body, init={**init, "k": K}, **opset(19)), ["DequantizeLinear", "Conv"])
    stays(build(body, init={**init, "k": FLIPS}, **opset(19)), "quantised")
    forward = f"h = Add(x, k) {text} y = Conv(h, w)"
    stays(build(forward, init={**init, "k": positive(3, 1, 1)}, **opset(19)), "quantised")


# --- opsets and blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [10, 13])
def test_scales_along_an_axis_need_opset_13(version):
    text, constants = dequantize(F32(0.01), np.int8(0))
    init = {"q": integers(4, 3, 3, 3), **constants}
    body = f"{text} c = Conv(x, w) y = Mul(c, k)"
    folds(build(body, init={**init, "k": F32(-2)}, **opset(version)), ["DequantizeLinear", "Conv"])
    model = build(body, init={**init, "k": K}, **opset(version))
    (folds(model) if version >= 13 else stays(model, "quantised"))


@pytest.mark.parametrize("k", [F32(3), F32([1, -2, 3, 0.5])])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks(axis, k):
    """MatMul `W[6, 4]`: blocks of 4 along the axis that is summed over, or of 2 along the one that makes channels."""
    block = 4 if axis == 0 else 2
    scale = positive(2, 4) if axis == 0 else positive(6, 2)
    text, constants = dequantize(scale / 100, axis=axis, block=block)
    model = build(
        f"{text} c = MatMul(x, w) y = Mul(c, k)",
        "float[N,6] x",
        init={"q": integers(6, 4), **constants, "k": k},
        **opset(21),
    )
    (folds(model, ["DequantizeLinear", "MatMul"]) if axis == 0 or k.ndim == 0 else stays(model, "quantised"))


def test_a_factor_that_agrees_inside_of_each_block():
    text, constants = dequantize(positive(6, 2) / 100, axis=1, block=2)
    init = {"q": integers(6, 4), **constants, "k": F32([2, 2, -3, -3])}
    folds(
        build(f"{text} c = MatMul(x, w) y = Mul(c, k)", "float[N,6] x", init=init, **opset(21)),
        ["DequantizeLinear", "MatMul"],
    )


@pytest.mark.parametrize("k", [F32(2), F32([1, 1, 1, 1, 4, 4])])
def test_blocks_of_four_bits_in_front_and_behind(k):
    """Along the axis that is summed over, as large language models store their weights."""
    text, constants = dequantize(positive(2, 4) / 100, axis=0, block=4)
    q = packed(TensorProto.INT4, np.resize(np.arange(-8, 8), 24), (6, 4))
    body = f"h = Mul(x, k) {text} c = MatMul(h, w) y = Mul(c, u)"
    model = build(body, "float[N,6] x", init={"q": q, **constants, "k": k, "u": positive(4)}, **opset(21))
    folds(model, ["DequantizeLinear", "MatMul"])


def test_the_type_of_the_result_may_differ_from_that_of_the_scale():
    init = {"q": integers(4, 3, 3, 3), "s": np.float16(0.01), "k": FLIPS, "t": T}
    body = f"w = DequantizeLinear<output_dtype=1>(q, s) c = Conv(x, w) {BOTH}"
    result = optimised_without_running(build(body, init=init, **opset(23)))
    assert result.after == ["DequantizeLinear", "Conv"]
    assert result.operand("DequantizeLinear", 1).dtype == np.float16


def optimised_without_running(model):
    return folds(model, run=False)


# --- biases ----------------------------------------------------------------------------------------------------------

QUANTISED_BIAS = "b = DequantizeLinear(bq, bs) c = Conv({}, w, b) "


def biased(data, affine, **init):
    text, constants = dequantize(F32(0.01))
    body = (QUANTISED_X if data == "xd" else "") + text + QUANTISED_BIAS.format(data) + affine
    own = {"q": integers(4, 3, 3, 3), "bq": np.int32([1000, -5, 0, 70000]), "bs": F32(0.0002)}
    return build(body, init={**own, **constants, **(X if data == "xd" else {}), **init})


def test_a_quantised_bias_beside_float_data_becomes_float():
    result = folds(biased("x", BOTH, k=FLIPS, t=T), ["DequantizeLinear", "Conv"])
    assert result.operand("Conv", 2).dtype == F32
    computed = biased("x", BOTH, k=FLIPS, t=T)
    computed.graph.node.insert(0, helper.make_node("Relu", ["x"], ["h"]))
    next(node for node in computed.graph.node if node.op_type == "Conv").input[0] = "h"
    folds(computed, ["DequantizeLinear", "Relu", "Conv"])


def test_a_quantised_bias_of_one_value_becomes_one_value_per_column():
    init = {"bq": np.int8([7]), "bs": F32(0.1), "w": random(5, 4), "k": positive(4)}
    result = folds(build("b = DequantizeLinear(bq, bs) c = Gemm(x, w, b) y = Mul(c, k)", "float[3,5] x", init=init))
    assert result.after == ["Gemm"]
    assert result.operand("Gemm", 2).shape == (4,)


def test_what_is_stored_as_integers_and_is_no_vector_does_not_become_floats():
    init = {"bq": integers(3, 4), "bs": F32(0.1), "w": random(5, 4), "k": positive(4)}
    stays(build("b = DequantizeLinear(bq, bs) c = Gemm(x, w, b) y = Add(c, k)", "float[3,5] x", init=init), "quantised")
    table = layer_model("Gather", "one scale", BOTH, [1.5, -0.5])
    assert "DequantizeLinear" in stays(table, "no-absorber").after


def test_a_vector_takes_a_shift_as_floats_and_no_sign():
    """A weight of one value per channel is a weight all the same: it stays integers where it can."""
    text, constants = dequantize(F32(0.01))
    init = {"q": integers(4, 1, 1, 1, dtype=np.uint8), **constants, "k": FLIPS}
    stays(build(f"{text} c = Conv<group=4>(x, w) y = Mul(c, k)", "float[2,4,3,3] x", init=init), "quantised")


def test_a_quantised_bias_beside_dequantised_data_takes_a_scale_and_no_shift():
    """An integer kernel wants an int32 bias on the grid of data and weight; both grids change by the same factor."""
    result = folds(biased("xd", "y = Mul(c, k)", k=FLIPS))
    assert result.after.count("DequantizeLinear") == 3
    assert np.array_equal(result.array("bq"), [1000, 5, 0, -70000])
    result = check(biased("xd", BOTH, k=FLIPS, t=T))
    assert result.keys == ["quantised"]
    assert result.after[-2:] == ["Conv", "Add"]
    norm = "y = BatchNormalization(c, g, be, m, v)"
    stays(biased("xd", norm, **{{"b": "be"}.get(n, n): a for n, a in batch_norm(4).items()}), "quantised")


def test_a_missing_bias_beside_dequantised_data():
    """A Conv has no integer kernel before an affine; a Gemm has one with a float result."""
    text, constants = dequantize(F32(0.01))
    init = {**X, **constants, "q": integers(4, 3, 3, 3), "k": FLIPS, "t": T}
    result = folds(build(f"{QUANTISED_X}{text} c = Conv(xd, w) {BOTH}", init=init))
    assert len(result.node("Conv").input) == 3
    init |= {"q": integers(5, 4), "k": random(4), "t": random(4, seed=2)}
    result = check(build(f"{QUANTISED_X}{text} c = Gemm(xd, w) {BOTH}", "float[N,5] x", init=init))
    assert result.keys == ["quantised"]
    assert result.after[-2:] == ["Gemm", "Add"]
    init["wb"] = random(4, seed=6)
    folds(build(f"{QUANTISED_X}{text} c = Gemm(xd, w, wb) {BOTH}", "float[N,5] x", init=init))


def test_integer_kernels_refuse_zero_points_that_differ():
    text, constants = dequantize(F32(0.01), np.int8(3))
    init = {**constants, "q": integers(4, 3, 3, 3)}
    for k, good in ((FLIPS, False), (K, True), (-K, True)):
        model = build(f"{QUANTISED_X}{text} c = Conv(xd, w) y = Mul(c, k)", init={**init, **X, "k": k})
        (folds(model) if good else stays(model, "quantised"))
        folds(build(f"{text} c = Conv(x, w) y = Mul(c, k)", init={**init, "k": k}))
    # They differ already: no integer kernel is lost.
    text, constants = dequantize(positive(4) / 100, np.int8([1, -2, 3, 0]), 0)
    init = {**constants, "q": integers(4, 3, 3, 3), **X, "k": FLIPS}
    folds(build(f"{QUANTISED_X}{text} c = Conv(xd, w) y = Mul(c, k)", init=init))


def test_integers_on_the_left_of_a_matmul_have_one_scale():
    text, constants = dequantize(F32(0.01))
    body = f"{QUANTISED_X}{text} c = MatMul(w, xd) y = Mul(c, k)"
    init = {**X, **constants, "q": integers(4, 5)}
    stays(build(body, "float[2,5,3] x", init={**init, "k": positive(4, 1)}), "quantised")
    folds(build(body, "float[2,5,3] x", init={**init, "k": F32(2)}))


# --- in front --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pads", ["", "pads=[1, 1, 1, 1]"])
def test_in_front_a_uniform_scale_and_any_shift(pads):
    text, constants = dequantize(F32(0.01), np.int8(3))
    body = f"a = Sub(x, u) h = Mul(a, k) {text} y = Conv<{pads}>(h, w)"
    init = {**constants, "q": integers(4, 3, 3, 3), "k": F32(-0.5)}
    folds(build(body, init={**init, "u": F32(0.3)}), ["DequantizeLinear", "Conv", *(["Pad"] if pads else [])])
    result = check(build(body, init={**init, "u": random(3, 1, 1)}))
    assert bool(result.keys) is bool(pads)


def test_in_front_one_scale_for_each_input_channel_only_where_the_weight_has_them():
    k = positive(3, 1, 1)
    for axis, good in ((None, False), (0, False), (1, True)):
        scale = F32(0.01) if axis is None else positive((4, 3)[axis]) / 100
        text, constants = dequantize(scale, axis=axis)
        init = {**constants, "q": integers(4, 3, 3, 3), "k": k}
        model = build(f"h = Mul(x, k) {text} y = Conv(h, w)", init=init)
        (folds(model, ["DequantizeLinear", "Conv"]) if good else stays(model, "quantised"))
    text, constants = dequantize(F32(0.01))
    init = {**constants, "q": integers(3, 1, 3, 3), "k": k}
    folds(build(f"h = Mul(x, k) {text} y = Conv<group=3>(h, w)", init=init), ["DequantizeLinear", "Conv"])


def test_in_front_and_behind_at_once():
    text, constants = dequantize(positive(4) / 100, axis=0)
    init = {**constants, "q": integers(4, 3, 3, 3), "u": F32(-0.5), "e": F32(0.1), "k": FLIPS, "t": T}
    folds(build(f"a = Mul(x, u) h = Add(a, e) {text} c = Conv(h, w) {BOTH}", init=init), ["DequantizeLinear", "Conv"])


# --- quantisation-aware training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [FLIPS, K], ids=["new integers", "the same integers"])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_floats_that_are_quantised_first_become_integers(dtype, axis, k):
    scale = positive(4) / 100 if axis == 0 else F32(0.01)
    zero = np.full(np.shape(scale), 0 if dtype is np.int8 else 128, dtype)
    attributes = "" if axis is None else f"<axis={axis}>"
    body = f"a = QuantizeLinear{attributes}(wf, s, z) w = DequantizeLinear{attributes}(a, s, z) c = Conv(x, w) {BOTH}"
    init = {"wf": random(4, 3, 3, 3), "s": scale, "z": zero, "k": k, "t": T}
    result = folds(build(body, init=init), ["DequantizeLinear", "Conv"])
    assert result.operand("DequantizeLinear", 0).dtype == dtype


def test_half_precision_that_is_quantised_first_is_left_to_the_runtime():
    body = "a = QuantizeLinear(wf, s, z) w = DequantizeLinear(a, s, z) c = Conv(x, w) y = Mul(c, k)"
    half = {"wf": random(4, 3, 3, 3), "s": F32(0.01), "k": K}
    init = {**{name: array.astype(np.float16) for name, array in half.items()}, "z": np.int8(0)}
    stays(build(body, "float16[1,3,8,8] x", init=init, **opset(19)), "quantised")


# --- who else sees it ------------------------------------------------------------------------------------------------

PLAIN = "w = DequantizeLinear(q, s) c = Conv(x, w) y = Mul(c, k)"
PARTS = {"q": integers(4, 3, 3, 3), "s": F32(0.01), "k": K}


def test_a_shared_dequantised_weight_stays():
    stays(build(PLAIN + " z = Conv(x, w)", outputs="y, z", init=PARTS), "shared")
    stays(build(PLAIN, outputs="y, w", init=PARTS), "graph-output")


def test_a_weight_that_is_its_own_bias_stays():
    text, constants = dequantize(F32(0.01))
    init = {"q": integers(4, 4), **constants, "k": positive(4)}
    stays(build(f"{text} c = Gemm<beta=2.0>(x, w, w) y = Mul(c, k)", "float[4,4] x", init=init), "shared")


def test_a_weight_behind_an_identity_that_others_read_in_front_of_it():
    text, constants = dequantize(F32(0.01))
    body = f"{text} v = Identity(w) c = Conv<group=4>(x, v) y = Mul(c, k) z = Conv<group=4>(x, w)"
    init = {"q": integers(4, 1, 1, 1), **constants, "k": K}
    stays(build(body, "float[2,4,3,3] x", "y, z", init), "quantised")


def test_shared_integers_and_scales_are_copied():
    body = PLAIN + " v = DequantizeLinear(q, s) e = Conv(x, v) z = Mul(e, u)"
    result = folds(build(body, outputs="y, z", init={**PARTS, "u": FLIPS}))
    assert np.array_equal(result.array("q"), PARTS["q"])
    body = PLAIN + " v = DequantizeLinear(q, s) z = Conv(x, v)"
    result = folds(build(body, outputs="y, z", init={**PARTS, "k": FLIPS}))
    assert np.array_equal(result.array("q"), PARTS["q"])
    assert result.array("s") == PARTS["s"]


def test_large_integers_that_others_read_are_not_copied(monkeypatch):
    monkeypatch.setattr("normfold.affine.change.LARGEST_COPY", 64)
    body = PLAIN + " v = DequantizeLinear(q, s) z = Conv(x, v)"
    stays(build(body, outputs="y, z", init={**PARTS, "k": FLIPS}), "cost")
    folds(build(body, outputs="y, z", init=PARTS))


def test_parts_that_a_caller_may_override():
    for part in ("q", "s"):
        stays(build(PLAIN, init=PARTS, listed=(part,)), "overridable")


def test_statistics_whose_parts_a_caller_may_override_are_no_computed_ones():
    init = {"w": random(4, 3, 3, 3), **batch_norm(4), "pq": np.int8([5, 90, 40, 120]), "ps": F32(0.01)}
    del init["m"]
    model = build(
        "m = DequantizeLinear(pq, ps) c = Conv(x, w) y = BatchNormalization(c, g, b, m, v)", init=init, listed=("ps",)
    )
    stays(model, "overridable")


def test_a_weight_from_outside_of_the_subgraph():
    body = """w = DequantizeLinear(q, s) y = If (p) <
        then_branch = a () => (float[2,4,6,6] t) { c = Conv(x, w) t = Mul(c, k) },
        else_branch = b () => (float[2,4,6,6] f) { f = Conv(x, u) }>"""
    model = build(body, "float[2,3,8,8] x, bool p", "float[2,4,6,6] y", {**PARTS, "u": random(4, 3, 3, 3)})
    stays(model, "captured")


def test_a_whole_quantised_layer_inside_of_a_subgraph():
    body = """y = If (p) <
        then_branch = a () => (float[2,4,6,6] t) { w = DequantizeLinear(q, s) c = Conv(x, w) t = Mul(c, k) },
        else_branch = b () => (float[2,4,6,6] f) { f = Conv(x, u) }>"""
    model = build(body, "float[2,3,8,8] x, bool p", "float[2,4,6,6] y", {**PARTS, "u": random(4, 3, 3, 3)})
    folds(model)


def test_computed_and_cast_weights_stay_quantised():
    for text in ("v = Neg(w)", "v = Transpose<perm=[0, 1, 3, 2]>(w)", "v = Identity(w)"):
        check(build(PLAIN.replace("c = Conv(x, w)", f"{text} c = Conv(x, v)"), init=PARTS))


# --- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "k"), [(1e30, 1e9), (1e-30, 1e-9), (1e36, 100)])
def test_a_scale_that_leaves_its_type(scale, k):
    init = {**PARTS, "s": F32(scale), "k": F32(k)}
    stays(build(PLAIN, init=init), "dtype-range", run=False)


def test_half_precision():
    init = {name: array.astype(np.float16) for name, array in {"s": F32(0.01), "k": FLIPS, "t": T}.items()}
    body = f"w = DequantizeLinear(q, s) c = Conv(x, w) {BOTH}"
    folds(build(body, "float16[1,3,8,8] x", init={**init, "q": PARTS["q"]}, **opset(19)), ["DequantizeLinear", "Conv"])
    init["k"] = init["k"] * np.float16(200)
    init["s"] = np.float16(30)
    stays(
        build(body, "float16[1,3,8,8] x", init={**init, "q": PARTS["q"]}, **opset(19)),
        "dtype-range",
        "shift-blocked",
        run=False,
    )


# --- boundaries ------------------------------------------------------------------------------------------------------

BOUNDARIES = {
    "Q and DQ": (
        "a = Conv(x, f) e = QuantizeLinear(a, xs, xz) c = DequantizeLinear(e, xs, xz)",
        {"f": random(4, 3, 3, 3), **X},
    ),
    "QLinearConv": (
        "xq = QuantizeLinear(x, xs, xz) e = QLinearConv(xq, xs, xz, q, s, qz, xs, xz) c = DequantizeLinear(e, xs, xz)",
        {"q": integers(4, 3, 3, 3), "s": F32(0.01), "qz": np.int8(0), **X},
    ),
    "ConvInteger": (
        "e, u, v = DynamicQuantizeLinear(x) a = ConvInteger(e, q, v) c = Cast<to=1>(a)",
        {"q": integers(4, 3, 3, 3)},
    ),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_nothing_passes_a_boundary(name):
    body, init = BOUNDARIES[name]
    stays(build(f"{body} y = Mul(c, k)", outputs="float[N,4,6,6] y", init={**init, "k": K}), "quantised")


def test_integer_matmul():
    body = "e, u, v = DynamicQuantizeLinear(x) a = MatMulInteger(e, q, v) c = Cast<to=1>(a) y = Mul(c, k)"
    stays(build(body, "float[3,5] x", init={"q": integers(5, 4), "k": positive(4)}), "quantised")


def test_weights_of_four_bits_in_a_contrib_operator():
    body = "c = com.microsoft.MatMulNBits<K=16, N=4, bits=4, block_size=16>(x, q, s) y = Mul(c, k)"
    init = {"q": integers(4, 1, 8, dtype=np.uint8), "s": positive(4), "k": positive(4)}
    model = build(body, "float[2,16] x", "float[2,4] y", init, domains={"com.microsoft": 1})
    stays(model, "quantised")


def test_in_front_of_a_quantised_layer():
    body = f"h = Mul(x, k) {QUANTISED_X.replace('(x,', '(h,')} y = Conv(xd, w)"
    stays(build(body, init={**X, "w": random(4, 3, 3, 3), "k": F32(2)}), "quantised")


# --- small parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", list("gbmv"))
def test_quantised_statistics_are_read_by_value(which):
    init = {"w": random(4, 3, 3, 3), **batch_norm(4)}
    init |= {"pq": np.int8([5, 90, 40, 120]), "ps": F32(0.01)}
    del init[which]
    body = f"{which} = DequantizeLinear(pq, ps) c = Conv(x, w) y = BatchNormalization(c, g, b, m, v)"
    folds(build(body, init=init), ["Conv"])


@pytest.mark.parametrize("affine", ["Mul(c, u)", "Add(u, c)", "Div(c, u)", "Sub(u, c)"])
@pytest.mark.parametrize("target", ["Conv", "DequantizeLinear"])
def test_quantised_constants_of_an_affine(target, affine):
    weight = "w = DequantizeLinear(q, s)" if target != "Conv" else ""
    init = {"pq": np.int8([5, 90, 40, 120]).reshape(4, 1, 1), "ps": F32(0.01)}
    init |= {"q": integers(4, 3, 3, 3), "s": F32(0.1)} if weight else {"w": random(4, 3, 3, 3)}
    body = f"{weight} u = DequantizeLinear(pq, ps) c = Conv(x, w) y = {affine}"
    folds(build(body, init=init), sorted({"Conv", target}))


def test_a_quantised_operand_of_many_elements_is_not_written_as_floats():
    body = "u = DequantizeLinear(pq, ps) c = Conv(x, w) d = Add(c, u) e = Relu(d) f = Add(e, u) y = Mul(f, k)"
    init = {"w": random(4, 3, 3, 3), "pq": integers(1, 4, 6, 6), "ps": F32(0.01), "k": K}
    result = check(build(body, init=init))
    assert "DequantizeLinear" in result.after


# --- the whole pipeline ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"])
def test_regions_run_with_their_dequantizelinear(layer, tmp_path):
    model = layer_model(layer, "one scale", "y = Mul(c, k)", FLIPS.reshape(-1))
    report = normfold.optimize(model, tmp_path / "m.onnx").report
    assert report.verification.verdict == "PASS", report.verification
    assert [r.execution for r in report.verification.regions] == ["native"]
    assert not report.dropped


def test_an_edit_that_verification_drops_leaves_the_model_alone(tmp_path, monkeypatch):
    """A scale that is wrong is seen, and the region that shows it is dropped with its DequantizeLinear."""
    from normfold.affine import grid

    original = grid._Grid._new_scale

    def broken(self, change):
        self.factors = self.factors * 1.01
        original(self, change)

    monkeypatch.setattr(grid._Grid, "_new_scale", broken)
    model = build(PLAIN, init=PARTS)
    result = normfold.optimize(model, tmp_path / "m.onnx")
    assert [d.node for d in result.report.dropped] == ["y"]
    assert not result.changed


# --- properties ------------------------------------------------------------------------------------------------------


@st.composite
def quantised_conv(draw):
    group, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    channels = group * per_out
    shape = (group * per_in, per_out, 2, 2) if transposed else (channels, per_in, 2, 2)
    axis = draw(st.sampled_from([None, 0, 1]))
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    seed = draw(st.integers(0, 999))
    count = () if axis is None else (shape[axis],)
    middle = 0 if dtype is np.int8 else 128
    zero = dtype(middle + np.random.default_rng(seed).integers(-3, 4, count)) if draw(st.booleans()) else None
    text, constants = dequantize(positive(*count, seed=seed) / 100, zero, axis)
    factors = draw(st.lists(st.sampled_from([1.0, -1.0, 0.5, -2.5, 0.0, 3.0]), min_size=channels, max_size=channels))
    init = {
        "q": integers(*shape, dtype=dtype, seed=seed, lowest=draw(st.booleans())),
        **constants,
        "k": F32(factors).reshape(-1, 1, 1),
        "t": random(channels, 1, 1, seed=seed),
    }
    front = draw(st.sampled_from(["", "h = Mul(x, u) "]))
    if front:
        init["u"] = F32(-0.5) if draw(st.booleans()) else random(group * per_in, 1, 1, seed=seed)
    operator = "ConvTranspose" if transposed else "Conv"
    body = f"{front}{text} c = {operator}<group={group}>({'h' if front else 'x'}, w) {BOTH}"
    return build(body, f"float[2,{group * per_in},5,5] x", init=init)


@given(quantised_conv())
@settings(max_examples=60, deadline=None)
def test_any_quantised_convolution(model):
    result = check(model)
    assert {"quantised", "shift-blocked", "padded-shift"} >= set(result.keys)
    for tensor in result.model.graph.initializer:
        if tensor.name == "s":
            assert (numpy_helper.to_array(tensor) > 0).all()
