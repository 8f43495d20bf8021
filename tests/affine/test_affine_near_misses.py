"""Conditions that just fail, where nothing may be folded: the reason, and what folds beside it."""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest
from onnx import AttributeProto, helper

from normfold.affine import layout
from normfold.affine.algebra import Affine
from normfold.affine.change import biased
from normfold.affine.draft import Draft
from normfold.affine.matmul import needs_add
from normfold.affine.reasons import Refused
from tests.affine.test_affine_generic_guards import keys
from tests.model.build import viewed
from tests.support import batch_norm, build, check, folds, plan_of, positive, random

F32, INT = np.float32, lambda *v: np.array(v, np.int64)
X = "float[2,4,6,6] x"
INIT = {
    "w": random(4, 4, 3, 3), "w1": random(4, 4, 1, 1), "wd": random(4, 1, 3, 3), "w3": random(4, 4, 3, 3, seed=3), "q": random(4, 1, 1), "w6": random(6, 6), "m": random(4, 4), "k": positive(4, 1, 1), "one": F32(1.5), "n": np.full((4, 1, 1), -2, F32), "zero": F32(0),
    "row": positive(6, 1), "batch": positive(2, 1, 1, 1), "six": positive(6), "four": positive(4), "i1": INT(1), "i2": INT(2), "chan": INT(2, 4, 1, 1), "full": INT(2, 4, 3, 3), "s4": INT(2, 4, 36),
    "cut": INT(1, 2), "j0": INT(0), "j2": INT(2), "j1": INT(1), "j23": INT(2, 3), "spread": INT(2, 1, 6, 6), "big": F32(1e30), "huge": F32(1e25), "tiny": F32(1e-25), "t2": INT(1, 1, 2, 1), "t5": INT(1, 1, 1, 1, 2), "pads": INT(0, 0, 1, 1, 0, 0, 1, 1), "padc": INT(0, 1, 0, 0, 0, 1, 0, 0),
    **batch_norm(4),
}  # fmt: skip


def made(text, inputs=X, outputs="float[A] y", opset=17, domains=None):
    words = text
    for sign in "(),<>=[]{}":
        words = words.replace(sign, " ")
    init = {name: array for name, array in INIT.items() if name in words.split()}
    model = build(text, inputs, outputs, init, opset=opset, ir=3 if opset < 8 else 9, domains=domains)
    if outputs == "float[A] y":
        model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


# site -> name -> nodes that must stay with a key, and those that fold (None for none), options
BACKWARD = {
    "Dropout-6 that trains": ("c = Conv(x, w) d = Dropout<is_test=0>(c) y = Mul(d, one)", "training-mode", "c = Conv(x, w) d = Dropout<is_test=1>(c) y = Mul(d, one)", {"opset": 6}),
    "AveragePool before 7 counts its padding": ("c = Conv(x, w) d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Add(d, one)", "shift-blocked", "c = Conv(x, w) d = AveragePool<kernel_shape=[3, 3]>(c) y = Add(d, one)", {"opset": 6}),
    "Transpose by no permutation": ("c = Conv(x, w) d = Transpose<perm=[0, 0, 1, 2]>(c) y = Mul(d, one)", "ill-formed", "c = Conv(x, w) d = Transpose<perm=[0, 2, 3, 1]>(c) y = Mul(d, one)", {}),
    "Add before 7": ("c = Conv(x, w) e = Conv(z, w3) d = Add(c, e) y = Mul(d, one)", "unknown-attribute", "c = Conv(x, w) e = Conv(z, w3) d = Sum(c, e) y = Mul(d, one)", {"opset": 6, "inputs": f"{X}, {X.replace('x', 'z')}"}),
    "Slice by data": ("c = Conv(x, w) j = Cast<to=7>(z) d = Slice(c, j0, j) y = Mul(d, one)", "shape-unknown", "c = Conv(x, w) d = Slice(c, j0, j2, j1) y = Mul(d, one)", {"inputs": f"{X}, float[1] z"}),
    "Split by data": ("c = Conv(x, w) j = Cast<to=7>(z) d, e = Split<axis=1>(c, j) y = Mul(d, one)", "shape-unknown", "c = Conv(x, w) d, e = Split<axis=1>(c, cut2) y = Mul(d, one)", {"inputs": f"{X}, float[2] z"}),
    "Split into too little": ("c = Conv(x, w) d, e = Split<axis=1>(c, cut) y = Mul(d, one)", "shape-unknown", None, {}),
    "Tile by data": ("c = Conv(x, w) j = Cast<to=7>(z) d = Tile(c, j) y = Mul(d, one)", "shape-unknown", "c = Conv(x, w) d = Tile(c, t2) y = Mul(d, one)", {"inputs": f"{X}, float[4] z"}),
    "Tile of another rank": ("c = Conv(x, w) d = Tile(c, t5) y = Mul(d, one)", "shape-unknown", None, {}),
    "Unsqueeze by data": ("c = Conv(x, w) j = Cast<to=7>(z) d = Unsqueeze(c, j) y = Mul(d, one)", "shape-unknown", "c = Conv(x, w) d = Unsqueeze(c, j0) y = Mul(d, one)", {"inputs": f"{X}, float[1] z"}),
    "Pad by data": ("c = Conv(x, w) j = Cast<to=7>(z) d = Pad(c, j) y = Mul(d, one)", "shape-unknown", "c = Conv(x, w) d = Pad(c, pads) y = Mul(d, one)", {"inputs": f"{X}, float[8] z"}),
    "Expand to more dimensions": ("c = Conv(x, w) d = Expand(c, e5) y = Mul(d, five)", "branch", None, {}),
    "Clip of float64 by attributes": ("c = Conv(x, w64) d = Clip<min=-0.5, max=0.5>(c) y = Mul(d, w1of64)", "dtype-range", "c = Conv(x, w64) d = Relu(c) y = Mul(d, w1of64)", {"inputs": X.replace("float", "double"), "opset": 10}),
    "Clip out of range": ("c = Conv(x, w16) d = Clip(c, lo16) y = Mul(d, big16)", "dtype-range", None, {"inputs": X.replace("float", "float16")}),
    "a bound out of range": ("c = Conv(x, w16) d = Max(c, lo16) y = Mul(d, big16)", "dtype-range", None, {"inputs": X.replace("float", "float16")}),
    "Gemm of float16 by a large number": ("c = Gemm(x, q16) y = Mul(c, big16)", "dtype-range", None, {"inputs": "float16[4,4] x, float16[4,4] q16"}),
    "Gemm of unknown type": ("p0 = my.Make(x) p = Reshape(p0, s44) c = Gemm(p, z) y = Mul(c, one)", "shape-unknown", None, {"inputs": f"{X}, float[4,4] z", "domains": {"my": 1}}),
    "Concat of unknown channels": ("c = Conv(x, w) e = Concat<axis=1>(c, z) y = Mul(e, five1)", "shape-unknown", None, {"inputs": f"{X}, float[2,M,4,4] z"}),
    "Split of unknown channels": ("d, e = Split<axis=1>(x) y = Mul(d, k)", "shape-unknown", None, {"inputs": "float[2,M,4,4] x", "opset": 13}),
    "Squeeze of unknown axes": ("c = Conv(x, w) j = Cast<to=7>(z) d = Squeeze(c, j) y = Mul(d, one)", "shape-unknown", None, {"inputs": f"{X}, float[1] z"}),
    "Squeeze of unknown sizes": ("c = Conv(x, w) d = Squeeze(c) y = Mul(d, one)", "shape-unknown", None, {"inputs": "float[2,4,H,3] x"}),
    "Reshape of unknown sizes": ("c = Conv(x, w) d = Reshape(c, mix) y = Mul(d, k)", "shape-unknown", None, {"inputs": "float[N,4,H,W] x"}),
    "Gather of a vector": ("c = Gather(v9, i) y = Mul(c, one)", "no-absorber", "c = Gather(w6, i) y = Mul(c, one)", {"inputs": "int64[3] i"}),
    "Gather along another axis": ("c = Gather<axis=1>(w6, i) y = Mul(c, one)", "no-absorber", None, {"inputs": "int64[3] i"}),
    "Gather of scales along the indices": ("c = Gather(w6, i) y = Mul(c, rows3)", "no-absorber", "c = Gather(w6, i) y = Mul(c, six)", {"inputs": "int64[3] i"}),
    "GroupNormalization-18 along no group": ("c = GroupNormalization<num_groups=2>(x, g2, g2) y = Mul(c, k)", "not-per-channel", "c = GroupNormalization<num_groups=2>(x, g2, g2) y = Mul(c, k22)", {"opset": 18, "outputs": "float[2,4,6,6] y"}),
    "BatchNormalization of four inputs": ("c = Conv(x, w) y = BatchNormalization(c, g, b, m4)", "ill-formed", None, {}),
    "ImageScaler of a matrix": ("c = Conv(x, w) d = Flatten(c) y = ImageScaler<scale=2.0, bias=[1.0, 1.0]>(d)", "ill-formed", None, {"opset": 9}),
    "ImageScaler without biases": ("c = Conv(x, w) y = ImageScaler<scale=2.0>(c)", "ill-formed", "c = Conv(x, w) y = ImageScaler<scale=2.0, bias=[1.0, 1.0, 2.0, 3.0]>(c)", {"opset": 9}),
    "ReduceL2 over nothing": ("c = Conv(x, w) d = ReduceL2<noop_with_empty_axes=1>(c) y = Mul(d, minus)", "negative-scale", "c = Conv(x, w) d = ReduceSum<noop_with_empty_axes=1>(c) y = Mul(d, minus)", {"opset": 18}),
    "MatMul before 7 with a shift": ("c = MatMul(x, w6) y = Add<broadcast=1>(c, six)", "shift-blocked", "c = MatMul(x, w6) y = Mul<broadcast=1>(c, six)", {"opset": 6}),
    "a computed scale": ("c = Conv(x, w) q4 = Relu(z) y = BatchNormalization(c, q4, b, m, v)", "dynamic-params", None, {"inputs": f"{X}, float[4] z"}),
    "a computed mean": ("c = Conv(x, w) q4 = Relu(z) y = BatchNormalization(c, g, b, q4, v)", "computed-stats", None, {"inputs": f"{X}, float[4] z"}),
    "maps on both sides of a mean": ("c = Mul(x, map) d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, row)", "not-per-channel", "c = Mul(x, map) d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, one)", {}),
    "maps on both sides of a maximum": ("c = Mul(x, map) d = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, row)", "not-per-channel", "c = Mul(x, map) d = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, one)", {}),
    "maps on both sides of a norm": ("c = Mul(x, map) d = LpPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, row)", "not-per-channel", "c = Mul(x, map) d = LpPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c) y = Mul(d, one)", {}),
    "maps on both sides of a repetition": ("c = Mul(x, map) d = Tile(c, t2) y = Mul(d, row12)", "not-per-channel", "c = Mul(x, map) d = Tile(c, t2) y = Mul(d, one)", {}),
    "maps on both sides of blocks": ("c = Mul(x, map) d = DepthToSpace<blocksize=2>(c) y = Mul(d, row12)", "not-per-channel", "c = Mul(x, map) d = DepthToSpace<blocksize=2>(c) y = Mul(d, one)", {}),
    "maps on both sides of regions": ("c = Mul(x, map) d = RoiAlign<output_height=6, output_width=6>(c, rois, which) y = Mul(d, row)", "not-per-channel", "c = Mul(x, map) d = RoiAlign<output_height=6, output_width=6>(c, rois, which) y = Mul(d, one)", {}),
    "a slope that stretches another axis": ("c = Conv(x, w) e = Slice(c, j0, j1, j2) d = PRelu(e, row) y = Mul(d, k)", "branch", "c = Conv(x, w) e = Slice(c, j0, j1, j2) d = PRelu(e, q) y = Mul(d, k)", {}),
    "a Shape of another domain": ("c = Conv(x, w) z = my.Shape(c) y = Mul(c, one)", "shared", "c = Conv(x, w) z = Shape(c) y = Mul(c, one)", {"outputs": "float[2,4,4,4] y, int64[4] z", "domains": {"my": 1}}),
    "zeros behind a MatMul": ("c = MatMul(x, w6) y = Add(c, zero)", "bias-in-place", "c = MatMul(x, w6) y = Sub(c, zero)", {}),
    "read twice": ("c = Conv(x, w) d = Max(c, c) y = Mul(d, one)", "shared: more than once", None, {}),
    "read by another": ("c = Conv(x, w) z = Relu(c) y = Mul(c, one)", "shared: also read by Relu", None, {"outputs": "float[2,4,4,4] y, float[2,4,4,4] z"}),
    "a vector and a stack of matrices": ("c = MatMul(x, stack22) y = Mul(c, k211)", "not-per-channel", None, {"inputs": "float[6] x"}),
    "Gather along indices as many as rows": ("c = Gather(w6, i) y = Mul(c, row)", "no-absorber", None, {"inputs": "int64[6] i"}),
    "an operand of unknown channels": ("c = Conv(x, w) d = Add(c, z) y = Mul(d, k)", "shape-unknown", None, {"inputs": f"{X}, float[2,M,4,4] z"}),
    "a product of which no factor takes it": ("c = Conv(x, w) e = Slice(c, j0, j1, j1) d = Mul(e, k) y = Mul(d, range4)", "dtype-range", None, {}),
    "a sum over nothing": ("c = Conv(x, w) d = Slice(c, j0, j0, j2) e = ReduceSum(d, j23) y = Add(e, one)", "ill-formed: empty axis", None, {}),
    "LayerNormalization over sizes that are not known": ("c = LayerNormalization<axis=-2>(x, rows6) y = Mul(c, six)", "shape-unknown", None, {"inputs": "float[2,4,H,6] x"}),
    "LayerNormalization of another size": ("c = LayerNormalization(x, four) y = Mul(c, six)", "not-per-channel", "c = LayerNormalization(x, six) y = Mul(c, six)", {}),
    "a Relu whose bound moved": ("c = Conv(x, w) e = Elu(c) a = Add(e, k) d = Relu(a) y = Mul(d, minus) p = MaxPool<kernel_shape=[2, 2]>(y) o = Conv(p, w1)", "negative-scale: Relu 'd' lets", None, {"outputs": "float[2,4,3,3] o"}),
    "Pad of unknown type": ("p0 = my.Make(x) p = Reshape(p0, s1466) d = Pad(p, pads) y = Mul(d, one)", "shape-unknown", None, {"domains": {"my": 1}}),
    "BatchNormalization of six inputs": ("c = Conv(x, w) y = BatchNormalization(c, g, b, m4, v, v)", "ill-formed", None, {}),
    "BatchNormalization of nothing": ("c = Conv(x, w) y = BatchNormalization(, g, b, m4, v)", "ill-formed", None, {}),
    "BatchNormalization by integers": ("c = Conv(x, w) y = BatchNormalization(c, gi4, b, m4, v)", "ill-formed", None, {}),
    "BatchNormalization behind an integer kernel": ("c = com.microsoft.QAttention(x) y = BatchNormalization(c, g, b, m4, v)", "quantised", None, {"domains": {"com.microsoft": 1}}),
    "ImageScaler of a matrix with its biases": ("c = Mul(x, one) y = ImageScaler<scale=2.0, bias=[1.0, 1.0, 2.0, 3.0]>(c)", "ill-formed", None, {"inputs": "float[2,4] x", "opset": 9}),
    "ImageScaler without biases of unknown channels": ("y = ImageScaler<scale=2.0>(x)", "ill-formed", None, {"inputs": "float[2,M,6,6] x", "opset": 9}),
    "a BatchNormalization that is not finite": ("c = Conv(x, w64) y = BatchNormalization(c, ghuge64, zero64, zero64, zero64)", "non-finite: more than float64 holds", None, {"inputs": X.replace("float", "double")}),
    "a constant that is not finite": ("c = Conv(x, w) y = Mul(c, nan)", "non-finite: a constant of", None, {}),
    "zeros behind a MatMul that was scaled": ("c = MatMul(x, w6) d = Mul(c, six) z = Relu(d) y = Add(d, zero) e = Relu(y)", "bias-in-place", None, {"inputs": "float[2,6] x", "outputs": "float[2,6] e, float[2,6] z"}),
    "a factor that is not finite": ("c = MatMul(x, w66) y = Div(c, tiny64)", "non-finite: by almost 0", "c = MatMul(x, w66) y = Div(c, two64)", {"inputs": X.replace("float", "double")}),
    "Max by a factor of zero": ("c = Conv(x, w) d = Max(c, one) y = Mul(d, zero)", "negative-scale", "c = Conv(x, w) d = Max(c, one) y = Mul(d, one)", {}),
}  # fmt: skip
H16, D64 = np.float16, np.float64
INIT |= {
    "w64": random(4, 4, 3, 3).astype(D64), "w1of64": D64(1.5), "one64": D64(1.5), "two64": D64(2), "three64": D64(3), "six64": random(6).astype(D64), "four64": random(4).astype(D64),
    "w16": random(4, 4, 3, 3).astype(H16), "lo16": H16(0.5), "big16": H16(2000), "s44": INT(-1, 4), "five1": positive(5, 1, 1), "mix": INT(-1, 4, 8), "v9": random(9), "rows3": positive(3, 1),
    "map": positive(6, 6), "row12": positive(12, 1), "rois": np.array([[0, 0, 5, 5]], F32), "which": INT(0), "m15": random(1, 5), "m45": random(4, 5), "tiny16": H16(1e-5), "half16": H16(0.5), "subnormal": F32(1e-39), "first": np.array([1, 0, 0, 0], F32), "none": np.zeros(4, F32), "unit": np.ones(4, F32), "g16": np.full(4, 1e-3, H16), "b16": np.full(4, 100, H16), "none16": np.zeros(4, H16), "unit16": np.ones(4, H16), "grid": random(2, 5, 4, 2), "g2": random(2), "k22": np.array([2, 2, 3, 3], F32).reshape(4, 1, 1), "m4": random(4), "minus": F32(-2), "stack4": random(4, 6, 5), "stack1": random(1, 6, 5), "w56": random(5, 6),
    "dead": np.array([0, 1, 1, 1], F32), "gtiny": np.full(4, 1e-38, F32), "blarge": np.full(4, 1e30, F32),
}  # fmt: skip
INIT |= {
    "stack22": random(2, 2, 6, 6), "k211": positive(2, 1, 1), "range4": np.array([1e30, 1e-30, 1, 1], F32).reshape(4, 1, 1), "s1466": INT(1, 4, 6, 6), "batch1": positive(1, 1, 1, 1), "w2c": random(4, 2, 3, 3), "rows6": random(6, 6),
    "vq": np.array([5, 90, 40, 120], np.int8).reshape(4, 1, 1), "mq": np.arange(64, dtype=np.int8).reshape(1, 4, 4, 4),
    "gi4": np.ones(4, np.uint8), "w66": random(6, 6).astype(D64), "tiny64": D64(5e-320), "nan": F32(np.nan), "huge64": D64(1e200), "ghuge64": np.full(4, 1e307), "zero64": np.zeros(4), "wnan": np.where(random(4, 4, 3, 3) > 0.9, np.nan, random(4, 4, 3, 3)).astype(F32),
}  # fmt: skip
INIT |= {"cut2": INT(2, 2), "e5": INT(3, 2, 4, 4, 4), "five": positive(3, 1, 1, 1, 1)}
FORWARD = {
    "a mean over the channels, and back": ("a = Mul(x, k) d = ReduceMean<axes=[1]>(a) e = Expand(d, full) y = Conv(e, w)", "not-per-channel", None, {}),
    "a largest over the channels": ("a = Mul(x, k) d = ReduceMax<axes=[1]>(a) e = Expand(d, chan) y = Conv(e, w)", "not-per-channel", None, {}),
    "pooled, and varies over space": ("a = Mul(x, row) d = GlobalAveragePool(a) y = Conv(d, w1)", "not-per-channel", "a = Mul(x, k) d = GlobalAveragePool(a) y = Conv(d, w1)", {}),
    "largest, and varies over space": ("a = Mul(x, row) d = GlobalMaxPool(a) y = Conv(d, w1)", "not-per-channel", "a = Mul(x, k) d = GlobalMaxPool(a) y = Conv(d, w1)", {}),
    "norm over space": ("a = Mul(x, row) d = GlobalLpPool(a) y = Conv(d, w1)", "not-per-channel", "a = Mul(x, k) d = GlobalLpPool(a) y = Conv(d, w1)", {}),
    "an input left out": ("a = Mul(x, k) d = Sum(a, , q) y = Conv(d, w)", "ill-formed", "a = Add(x, k) d = Sum(a, q) y = Conv(d, w)", {}),
    "a sampler, and varies over space": ('a = Mul(x, row) d = GridSample<padding_mode="border">(a, grid) y = Conv(d, w)', "not-per-channel", 'a = Mul(x, k) d = GridSample<padding_mode="border">(a, grid) y = Conv(d, w)', {}),
    "pooled, and varies along the last axis": ("a = Mul(x, six) d = GlobalAveragePool(a) y = MatMul(d, m15)", "not-per-channel", "a = Mul(x, one) d = GlobalAveragePool(a) y = MatMul(d, m15)", {}),
    "sampled, and varies along the last axis": ('a = Mul(x, six) d = GridSample<padding_mode="border">(a, grid) y = MatMul(d, m45)', "not-per-channel", 'a = Mul(x, one) d = GridSample<padding_mode="border">(a, grid) y = MatMul(d, m45)', {}),
    "a norm over nothing": ("a = Mul(x, minus) d = ReduceL2<noop_with_empty_axes=1>(a) y = Conv(d, w)", "negative-scale", "a = Mul(x, one) d = ReduceL2<noop_with_empty_axes=1>(a) y = Conv(d, w)", {"opset": 18}),
    "bounds out of range": ("a = Mul(x, tiny16) d = Clip(a, lo16) y = Conv(d, w16)", "dtype-range", "a = Mul(x, half16) d = Clip(a, lo16) y = Conv(d, w16)", {"inputs": X.replace("float", "float16")}),
    "bounds out of range, as attributes": ("a = Mul(x, subnormal) d = Clip<min=0.5>(a) y = Conv(d, w)", "dtype-range", "a = Mul(x, one) d = Clip<min=0.5>(a) y = Conv(d, w)", {"opset": 10}),
    "an operand out of range": ("a = Mul(x, tiny16) d = Max(a, lo16) y = Conv(d, w16)", "dtype-range", "a = Mul(x, half16) d = Max(a, lo16) y = Conv(d, w16)", {"inputs": X.replace("float", "float16")}),
    "a dead channel that is not the padding": ("a = BatchNormalization(x, dead, first, none, unit) d = Pad(a, pads) y = Conv(d, w)", "shift-blocked", "a = BatchNormalization(x, dead, none, none, unit) d = Pad(a, pads) y = Conv(d, w)", {}),
    "a dead channel before a border": ("a = BatchNormalization(x, dead, first, none, unit) y = Conv<pads=[1, 1, 1, 1]>(a, w)", "padded-shift", "a = BatchNormalization(x, dead, none, none, unit) y = Conv<pads=[1, 1, 1, 1]>(a, w)", {}),
    "a border out of range": ("a = BatchNormalization(x, g16, b16, none16, unit16) y = Conv<pads=[1, 1, 1, 1]>(a, w16)", "padded-shift", "a = BatchNormalization(x, unit16, unit16, none16, unit16) y = Conv(a, w16)", {"inputs": X.replace("float", "float16")}),
    "a huge factor before a sum": ("a = Mul(x, huge) d = ReduceSum(a, j23) y = Conv(d, w1)", "dtype-range", "a = Mul(x, one) d = ReduceSum(a, j23) y = Conv(d, w1)", {}),
    "a branch of another factor": ("a = Mul(x, k) d = Add(a, z) y = Conv(d, w)", "branch", None, {"inputs": f"{X}, {X.replace('x', 'z')}"}),
    "Split of unknown channels": ("a = Mul(x, k) d, e = Split<axis=1>(a, j) y = Conv(d, w)", "shape-unknown", None, {"inputs": f"{X}, int64[2] j", "opset": 13}),
    "LayerNormalization with its mean": ("a = Mul(x, one) y, mean = LayerNormalization(a, six)", "shared", "a = Mul(x, one) y = LayerNormalization(a, six)", {}),
    "LayerNormalization of float64": ("a = Mul(x, two64) y = LayerNormalization(a, six64)", "dtype-range", None, {"inputs": X.replace("float", "double")}),
    "LayerNormalization by zero": ("a = Mul(x, zero) y = LayerNormalization(a, six)", "not-per-channel", None, {}),
    "LayerNormalization by a tiny factor": ("a = Mul(x, tiny) y = LayerNormalization(a, six)", "dtype-range", None, {}),
    "InstanceNormalization of float64": ("a = Mul(x, three64) y = InstanceNormalization(a, four64, four64)", "dtype-range", "a = Mul(x, two64) y = InstanceNormalization(a, four64, four64)", {"inputs": X.replace("float", "double")}),
    "InstanceNormalization, negative, with a computed scale": ("a = Mul(x, minus) y = InstanceNormalization(a, z, four)", "dynamic-params", "a = Mul(x, one) y = InstanceNormalization(a, z, four)", {"inputs": f"{X}, float[4] z"}),
    "InstanceNormalization, negative, with a computed bias": ("a = Mul(x, minus) y = InstanceNormalization(a, four, z)", "dynamic-params", None, {"inputs": f"{X}, float[4] z"}),
    "GroupNormalization, a shift inside of a group": ("a = Add(x, k) y = GroupNormalization<num_groups=2>(a, four, four)", "not-per-channel", "a = Add(x, k22) y = GroupNormalization<num_groups=2>(a, four, four)", {"opset": 21, "outputs": "float[2,4,6,6] y"}),
    "GroupNormalization, groups that do not divide": ("a = Add(x, k) y = GroupNormalization<num_groups=3>(a, four, four)", "not-per-channel", None, {"opset": 21, "outputs": "float[2,4,6,6] y"}),
    "GroupNormalization without groups": ("a = Add(x, k) y = GroupNormalization<num_groups=0>(a, four, four)", "not-per-channel", None, {"opset": 21, "outputs": "float[2,4,6,6] y"}),
    "RMSNormalization and a shift": ("a = Add(x, one) y = RMSNormalization(a, six)", "shift-blocked", "a = Mul(x, one) y = RMSNormalization(a, six)", {"opset": 23}),
    "a matrix without that batch": ("a = Mul(x, batch) y = MatMul(a, stack4)", "not-per-channel", "a = Mul(x, k) y = MatMul(a, stack4)", {}),
    "a matrix that the batch stretches": ("a = Mul(x, k) y = MatMul(a, stack1)", "not-per-channel", "a = Mul(x, six) y = MatMul(a, stack1)", {}),
    "a matrix of other rows": ("a = Mul(x, six) y = MatMul(a, w56)", "ill-formed: 6 values for 5 rows", None, {}),
    "a dead channel before a Pad": ("a = BatchNormalization(x, dead, b, m, v) d = Pad(a, pads) y = Conv(d, w)", "shift-blocked", None, {}),
    "a Relu out of range": ("a = BatchNormalization(x, gtiny, blarge, m, v) d = Relu(a) y = Conv(d, w)", "dtype-range", None, {}),
    "largest of what is different": ("a = Add(x, k) e = ReduceSum(a, j23) d = Max(a, e) y = Conv(d, w)", "branch", "a = Add(x, k) e = ReduceMean<axes=[2, 3]>(a) d = Max(a, e) y = Conv(d, w)", {}),
    "a divisor with a shift": ("a = Add(x, k) e = Relu(z) d = Div(e, a) y = Conv(d, w)", "shift-blocked", None, {"inputs": f"{X}, {X.replace('x', 'z')}"}),
    "a divisor of zero": ("a = Add(x, k) d = Div(a, zero) y = Conv(d, w)", "non-finite", "a = Add(x, k) d = Div(a, one) y = Conv(d, w)", {}),
    "two operators read it": ("a = Mul(x, k) d = Conv(a, w) y = Conv(a, d)", "dynamic-params", None, {}),
    "a matrix of data": ("a = Mul(x, six) y = MatMul(a, z)", "dynamic-params", "a = Mul(x, six) y = MatMul(a, w6)", {"inputs": f"{X}, float[6,6] z"}),
    "a matrix of itself": ("a = Mul(x, six) y = MatMul(a, a)", "dynamic-params", None, {}),
    "a weight": ("a = Mul(x, one) y = Conv(z, a)", "no-absorber", None, {"inputs": "float[4,4,3,3] x, float[2,4,6,6] z"}),
    "Gemm of two data tensors": ("a = Mul(x, one) y = Gemm(z, a)", "dynamic-params", None, {"inputs": "float[4,4] x, float[2,4] z"}),
    "only its shape is read": ("a = Mul(x, k) y = Shape(a)", "no-absorber", None, {"outputs": "int64[4] y"}),
    "DeformConv samples outside": ("a = Add(x, k) y = DeformConv(a, w, o)", "padded-shift", "a = Mul(x, k) y = DeformConv(a, w, o)", {"opset": 19, "inputs": f"{X}, float[2,18,4,4] o"}),
    "a Conv without a bias that fits": ("a = Mul(x, k) y = Conv(a, w, six)", "ill-formed", "a = Mul(x, k) y = Conv(a, w, four)", {}),
    "Relu before Max broadcasts": ("a = Add(x, k) d = Relu(a) y = Conv(d, w)", "shift-blocked", "a = Mul(x, k) d = Relu(a) y = Conv(d, w)", {"opset": 7}),
    "Relu of something more": ("a = Add(x, k) d = Relu<slope=1>(a) y = Conv(d, w)", "unknown-attribute", "a = Add(x, k) d = Relu(a) y = Conv(d, w)", {}),
    "Split of something more": ("a = Mul(x, one) d, e = Split<axis=1, slope=1>(a) y = Conv(d, w2c)", "unknown-attribute", "a = Mul(x, one) d, e = Split<axis=1>(a) y = Conv(d, w2c)", {"opset": 13}),
    "DepthToSpace of rank 3": ("a = Mul(x, one) d = DepthToSpace<blocksize=2>(a) y = Conv(d, w)", "not-per-channel", None, {"inputs": "float[2,4,6] x"}),
    "Squeeze of unknown axes": ("a = Mul(x, one) j = Cast<to=7>(z) d = Squeeze(a, j) y = Conv(d, w)", "shape-unknown", None, {"inputs": f"{X}, float[1] z"}),
    "a shift times NaN": ("a = Add(x, k) y = Conv(a, wnan)", "non-finite", "a = Mul(x, k) y = Conv(a, wnan)", {}),
    "a Conv without a weight": ("a = Mul(x, one) y = Conv(a)", "ill-formed: lacks input 1", None, {}),
    "a border of unknown width": ('a = Add(x, k) y = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(a, w)', "padded-shift: depends on the image size", None, {"inputs": "float[2,4,H,W] x"}),
    "a window that contradicts the weight": ("a = Add(x, k) y = Conv<kernel_shape=[2, 2], pads=[1, 1, 1, 1]>(a, w)", "ill-formed", None, {}),
    "a Pad before there was one": ("a = BatchNormalization<is_test=1>(x, unit, unit, none, unit) y = Conv<pads=[1, 1, 1, 1]>(a, w)", "padded-shift: no Pad", None, {"opset": 1}),
    "a product with integers": ("a = Mul(x, one) d = Mul(z, a) y = Conv(d, w)", "shape-unknown", None, {"inputs": f"{X}, int64[2,4,6,6] z"}),
    "through another domain": ("a = Mul(x, k) d = my.Relu(a) y = Conv(d, w)", "custom-domain", None, {"domains": {"my": 1}}),
}  # fmt: skip


@pytest.mark.parametrize(("site", "name"), [*(("y", name) for name in BACKWARD), *(("a", name) for name in FORWARD)])
def test_near_misses(site, name):
    miss, key, hit, options = (BACKWARD if site == "y" else FORWARD)[name]
    key, _, part = key.partition(": ")
    (decision,) = (d for d in plan_of(made(miss, **options)).decisions if d.node == site)
    assert (decision.code.split(".")[-1], part in decision.message) == (key, True)
    assert hit is None or keys(made(hit, **options), site) == [""]


# What a guard would refuse that was less exact.
HITS = {
    "maxima put back, by image": ("y", "c = Mul(x, map) d = MaxUnpool<kernel_shape=[2, 2]>(c, at) y = Mul(d, batch)", {"inputs": f"{X}, int64[2,4,6,6] at"}),
    "a scale in front of a norm over sizes that are not known": ("a", "a = Mul(x, one) y = LayerNormalization<axis=-2>(a, rows6)", {"inputs": "float[2,4,H,6] x"}),
    "a norm without epsilon": ("a", "a = Mul(x, one) y = InstanceNormalization<epsilon=0.0>(a, four, four)", {}),
    "a shift that vanishes in front of an output": ("a", "a = Add(x, one) e = ReduceMean<axes=[1]>(a) y = Sub(a, e)", {}),
    "a quantised vector in a maximum": ("y", "u = DequantizeLinear(vq, one) c = Conv(x, w) d = Max(c, u) y = Mul(d, one)", {}),
    "a shift past a quantised map": ("y", "u = DequantizeLinear(mq, one) c = Conv(x, w) d = Add(c, u) y = Add(d, k)", {}),
    "zeros behind a MatMul that has a bias": ("y", "c = MatMul(x, w6) d = Add(c, six) z = Relu(d) y = Add(d, zero) e = Relu(y)", {"inputs": "float[2,6] x", "outputs": "float[2,6] e, float[2,6] z"}),
    "a difference to a deviation": ("a", "d = ReduceMean<axes=[-1]>(x) e = Sqrt(d) c = Sub(x, e) a = Mul(c, one) y = MatMul(a, w6)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HITS)
def test_near_hits(name):
    site, text, options = HITS[name]
    assert keys(made(text, **options), site) == [""]


def test_an_operator_of_another_domain_is_no_affine():
    for op in ("Mul", "Add", "BatchNormalization"):
        rest = "k" if op != "BatchNormalization" else "g, b, m, v"
        assert (
            keys(made(f"c = Conv(x, w) y = my.{op}(c, {rest})", outputs="float[2,4,4,4] y", domains={"my": 1}), "y")
            == []
        )


def test_integers_are_no_affine():
    for text in ("c = Cast<to=7>(x) y = Neg(c)", "c = Cast<to=7>(x) y = Mul(c, j2)"):
        assert keys(made(text, outputs="int64[2,4,6,6] y"), "y") == []


@pytest.mark.parametrize(
    "text",
    [
        "c = Conv(x, w) y = Add(c, zero)",
        "c = MatMul(x, z) y = Add(c, zero)",
        "c = MatMul(x, w6) d = Mul(c, one) e = Relu(d) y = Add(e, zero)",
    ],
)
def test_zeros_that_are_no_bias_of_a_matrix(text):
    """An Add of zeros goes, unless it is what makes a MatMul a layer with a bias."""
    assert keys(made(text, f"{X}, float[6,6] z" if "z)" in text.split("y =")[0] else X), "y") == [""]


def test_an_image_scaler_that_is_not_finite():
    model = made("y = ImageScaler<scale=2.0, bias=[1.0, 1.0, 2.0, 3.0]>(x)", opset=9)
    model.graph.node[0].attribute[0].f = np.inf
    assert keys(model, "y") == ["non-finite"]


def test_shapes_of_another_number_of_elements():
    assert layout.align((2, 6), (2, 4)) == [([0], [0]), ([1], [1])]


def test_sizes_that_are_not_known_are_not_the_same():
    """Two axes of unknown length may be cut differently."""
    affine = Affine(np.arange(1.0, 5).reshape(1, 4, 1), np.zeros((1, 1, 1)))
    assert layout.reshape(affine, ("n", 4, "l"), ("n", 4, "l")).shape == (1, 4, 1)
    with pytest.raises(Refused) as found:
        layout.reshape(affine, (None, 4, None), (None, 4, None))
    assert found.value.key == "shape-unknown"


def test_a_bias_is_made_for_a_shift_and_for_nothing_else():
    loaded, constants, shapes = viewed(build("y = Conv(x, w)", X, init={"w": INIT["w"]}))
    draft, (node,) = Draft(constants, shapes), loaded.graph.nodes
    scale, shift = np.full(4, 2.0), np.zeros(4)
    assert biased(draft, node, 2, scale, shift, draft.parameter(node, 1)) is None
    made_up = biased(draft, node, 2, scale, shift + 1, draft.parameter(node, 1))
    assert made_up is not None and np.array_equal(made_up.offset, shift + 1)


def test_an_attribute_that_a_caller_gives():
    """Nobody knows its value; it is not even asked for, and the report says so."""
    model = made("a = Mul(x, one) d, e = Split(a) y = Conv(d, w)", opset=13)
    assert keys(model, "a") == [""]
    split = next(node for node in model.graph.node if node.op_type == "Split")
    split.attribute.add(name="axis", type=AttributeProto.INT, ref_attr_name="theirs")
    assert keys(model, "a") == ["unknown-attribute"]


def test_a_shift_costs_an_add_only_where_it_is_a_map_behind_a_conv():
    text = "c = Conv(x, w) y = LayerNormalization(c, s)"
    loaded, constants, shapes = viewed(build(text, X, init={"w": INIT["w"], "s": random(4)}))
    draft, (conv, norm) = Draft(constants, shapes), loaded.graph.nodes
    one, channels, columns = np.ones((1, 1, 1, 1)), np.ones((1, 4, 1, 1)), np.ones((1, 1, 1, 4))
    assert needs_add(draft, conv, Affine(one, columns))
    assert not needs_add(draft, conv, Affine(one, channels))
    assert not needs_add(draft, norm, Affine(one, columns))


def test_a_scale_alone_needs_no_bias():
    result = folds(build("c = Conv(x, w) y = Mul(c, k)", X, init={"w": INIT["w"], "k": INIT["k"]}), ["Conv"])
    assert len(result.node("Conv").input) == 2


@pytest.mark.parametrize(
    ("site", "exactness"), [("Mul(c, two)", "exact"), ("Mul(c, third)", "rounded"), ("Add(c, two)", "rounded")]
)
def test_only_powers_of_two_are_exact(site, exactness):
    init = {
        "w": INIT["w"],
        "two": np.array([2, -4, 0.5, 1], F32).reshape(4, 1, 1),
        "third": np.array([2, 3, 4, 1], F32).reshape(4, 1, 1),
    }
    init = {name: array for name, array in init.items() if name in site or name == "w"}
    assert folds(build(f"c = Conv(x, w) y = {site}", X, init=init)).decisions[0].exactness == exactness


def called(text, name, body, **options):
    """The model, with every operator of domain `my` that has that name a function of one node."""
    model = made(text, domains={"my": 1}, **options)
    names = ["a", "b"][: len(next(node for node in model.graph.node if node.domain == "my").input)]
    node = helper.make_node(body, names, ["o"])
    model.functions.append(helper.make_function("my", name, names, ["o"], [node], [helper.make_opsetid("", 17)]))
    return model


NORM_ENDS = "e = ReduceMean<axes=[-1]>(x) f = Sqrt(e) d = {}(x, f) a = Mul(d, one) y = MatMul(a, w6)"
GELU = "e = {}(x) f = Mul(x, one) y0 = Mul(f, e) y = MatMul(y0, w6)"


@pytest.mark.parametrize(
    ("text", "site", "operator", "name", "body"),
    [(NORM_ENDS, "a", "Div", "Div", "Mul"), (GELU, "f", "Tanh", "Tanh", "Sigmoid")],
)
def test_a_function_with_the_name_of_a_part_of_a_pattern(text, site, operator, name, body):
    assert keys(made(text.format(operator)), site) == ["fused-pattern"]
    assert keys(called(text.format(f"my.{name}"), name, body), site) == [""]


def test_a_value_from_outside_of_the_body_is_captured():
    text = "c = Conv(x, w) y = If (p) <then_branch = t () => (float[2,4,4,4] o) { o = Mul(c, one) }, else_branch = e () => (float[2,4,4,4] q) { q = Abs(x3) }>"
    model = build(text, f"{X}, bool p, float[2,4,4,4] x3", "float[2,4,4,4] y", {"w": INIT["w"], "one": F32(1.5)})
    (decision,) = (d for d in plan_of(model).decisions if d.node == "o")
    assert decision.code.endswith(".captured")
    assert "from outside" in decision.message


def test_a_weight_of_rank_3_becomes_no_gemm():
    """The data has rank 2, and the product has rank 3."""
    text = "c = MatMul(x, s) d = Transpose<perm=[0, 2, 1]>(c) y = BatchNormalization(d, g, b, m, v)"
    result = check(build(text, "float[2,6] x", init={"s": random(1, 6, 5), **batch_norm(5)}))
    assert sorted(result.after) == ["Add", "MatMul", "Transpose"]
