"""Weights and parameters that the model computes from constants: they fold, and their arithmetic goes with them.

A parametrisation (weight or spectral normalisation, weight standardisation, a mask, a low-rank update) that the exporter
did not fold is arithmetic on constants in front of an operator with weights.
"""

# ruff: noqa: E501 - a table, one row a line
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from normfold.affine import change
from normfold.model import computed
from normfold.model.load import Initializers
from tests.support import batch_norm, build, check, folds, optimise, positive, random, stays

V = random(4, 3, 3, 3, seed=3)
NORM = "y = BatchNormalization(c, g, b, m, v)"

# onnxruntime writes the new statistics over the old ones, so those must be tensors of their own.
STORED = {"zero": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}
WEIGHTS = {
    "weight norm": ("n = ReduceL2<axes=[1, 2, 3]>(u) d = Div(u, n) w = Mul(d, a)", {"a": positive(4, 1, 1, 1)}, 17),
    "weight norm, gain first": ("n = ReduceL2<axes=[1, 2, 3]>(u) d = Div(a, n) w = Mul(u, d)", {"a": positive(4, 1, 1, 1)}, 13),
    "weight norm, axes as input": ("n = ReduceL2(u, ax) d = Div(u, n) w = Mul(d, a)", {"a": positive(4, 1, 1, 1), "ax": np.int64([1, 2, 3])}, 18),
    "weight norm, sum of squares": ("q = ReduceSumSquare<axes=[1, 2, 3]>(u) n = Sqrt(q) d = Div(u, n) w = Mul(a, d)", {"a": positive(4, 1, 1, 1)}, 17),
    "weight norm, squares by Mul": ("q = Mul(u, u) s = ReduceSum(q, ax) n = Sqrt(s) i = Reciprocal(n) d = Mul(u, i) w = Mul(a, d)", {"a": positive(4, 1, 1, 1), "ax": np.int64([1, 2, 3])}, 17),
    "weight norm, squares by Pow": ("q = Pow(u, two) s = ReduceSum<axes=[1, 2, 3]>(q) n = Pow(s, half) d = Div(u, n) w = Mul(a, d)", {"a": positive(4, 1, 1, 1), "two": np.float32(2), "half": np.float32(0.5)}, 11),
    "weight norm, flattened": ("f = Flatten<axis=1>(u) n = LpNormalization<axis=1, p=2>(f) h = Shape(u) r = Reshape(n, h) w = Mul(a, r)", {"a": positive(4, 1, 1, 1)}, 17),
    "weight norm, keepdims=0": ("n = ReduceL2<axes=[1, 2, 3], keepdims=0>(u) d = Div(a, n) r = Reshape(d, sh) w = Mul(u, r)", {"a": positive(4), "sh": np.int64([-1, 1, 1, 1])}, 17),
    "weight norm over everything": ("n = ReduceL2<keepdims=0>(u) d = Div(u, n) w = Mul(a, d)", {"a": np.float32(2)}, 17),
    "spectral norm": ("f = Reshape(u, sh) t = MatMul(f, p) s = Mul(q, t) sigma = ReduceSum<keepdims=0>(s) w = Div(u, sigma)", {"sh": np.int64([4, -1]), "p": positive(27), "q": positive(4)}, 17),
    "spectral norm, two products": ("f = Flatten(u) t = MatMul(f, p) s = MatMul(q, t) w = Div(u, s)", {"p": positive(27, 1), "q": positive(1, 4)}, 17),
    "spectral norm, Gemm": ("f = Flatten(u) t = Gemm<transA=1>(f, q) n = ReduceL2<axes=[0, 1], keepdims=0>(t) w = Div(u, n)", {"q": positive(4, 1)}, 17),
    "standardised by training": ("f = Reshape(u, sh) k, rm, rv = BatchNormalization<training_mode=1>(f, one, zero, mean, var) w = Reshape(k, back)", {"sh": np.int64([1, 4, -1]), "back": np.int64([4, 3, 3, 3]), "one": np.ones(4, np.float32), **STORED}, 15),
    "standardised by training, opset 9": ("f = Reshape(u, sh) k, rm, rv, sm, sv = BatchNormalization(f, one, zero, mean, var) w = Reshape(k, back)", {"sh": np.int64([1, 4, -1]), "back": np.int64([4, 3, 3, 3]), "one": np.ones(4, np.float32), **STORED}, 9),
    "standardised": ("n = ReduceMean<axes=[1, 2, 3]>(u) d = Sub(u, n) q = Mul(d, d) p = ReduceMean<axes=[1, 2, 3]>(q) e = Add(p, eps) r = Sqrt(e) w = Div(d, r)", {"eps": np.float32(1e-5)}, 17),
    "a mask": ("h = Greater(u, low) k = Cast<to=1>(h) w = Mul(u, k)", {"low": np.float32(0.1)}, 17),
    "a mask by Where": ("h = Equal(i, one) w = Where(h, u, zero)", {"i": np.resize(np.int64([1, 1, 0]), V.shape), "one": np.int64(1), "zero": np.float32(0)}, 17),
    "a low-rank update": ("d = MatMul(p, q) e = Mul(d, a) r = Reshape(e, sh) w = Add(u, r)", {"p": random(4, 2), "q": random(2, 27), "a": np.float32(0.5), "sh": np.int64([4, 3, 3, 3])}, 17),
    "a bounded weight": ("t = Tanh(u) s = Sigmoid(a) p = Mul(t, s) e = Softplus(k) w = Mul(p, e)", {"a": random(4, 1, 1, 1), "k": random(4, 1, 1, 1)}, 17),
    "a clipped weight": ("t = Clip(u, lo, hi) w = Max(t, q)", {"lo": np.float32(-0.5), "hi": np.float32(0.5), "q": random(1, 3, 1, 1)}, 17),
    "one part of a larger one": ("k = Concat<axis=0>(u, u) o, w = Split<axis=0>(k, sz)", {"sz": np.int64([4, 4])}, 17),
    "rows of a larger one": ("w = Gather<axis=0>(u, i)", {"i": np.int64([2, 0, 1, 3])}, 17),
    "a tiled kernel": ("r = ReduceMean<axes=[1]>(u) w = Tile(r, n)", {"n": np.int64([1, 3, 1, 1])}, 17),
    "a padded kernel": ("s = Slice(u, st, en, ax) w = Pad(s, p)", {"st": np.int64([1, 1]), "en": np.int64([2, 2]), "ax": np.int64([2, 3]), "p": np.int64([0, 0, 1, 1, 0, 0, 1, 1])}, 17),
    "mixed kernels": ("p = Softmax<axis=0>(a) x0 = Mul(u, p) t = Transpose<perm=[0, 1, 3, 2]>(x0) w = Sum(t, u, x0)", {"a": random(4, 1, 1, 1)}, 17),
    "a kernel in float16": ("h = Cast<to=10>(u) w = Cast<to=1>(h)", {}, 17),
}  # fmt: skip


def weighted(name, tail=f"c = Conv(x, w) {NORM}", outputs="float[N,4,6,6] y", **init):
    text, extra, opset = WEIGHTS[name]
    own = {**batch_norm(4), **init} if "BatchNorm" in tail else init
    return build(f"{text} {tail}", outputs=outputs, init={"u": V, **extra, **own}, opset=opset)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_computed_weight_folds_and_its_arithmetic_goes(name):
    result = folds(weighted(name), ["Conv"])
    assert len(result.model.graph.initializer) == 2


@pytest.mark.parametrize("name", WEIGHTS)
def test_in_blocks(name, monkeypatch):
    """What is computed from a large weight is never made at once."""
    monkeypatch.setattr(computed, "_AT_ONCE", -1)
    monkeypatch.setattr("normfold.model.tensors._BLOCK_ELEMENTS", 10)
    folds(weighted(name), ["Conv"])


@pytest.mark.parametrize("name", WEIGHTS)
def test_without_a_fold_nothing_changes(name):
    model = weighted(name, "c = Conv(x, w) y = Relu(c)")
    assert optimise(model)[0] == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", WEIGHTS)
def test_arithmetic_that_others_read_stays(name):
    """The other Conv keeps the weight as it was, and what computes it."""
    model = weighted(name, f"c = Conv(x, w) {NORM} z = Conv(x, w)", "float[N,4,6,6] y, float[N,4,6,6] z")
    result = check(model)
    assert result.applied == 1
    assert set(result.keys) <= {"constant"}
    assert sorted([*result.after, "BatchNormalization"]) == sorted(result.before)


def test_a_weight_that_is_an_output_stays():
    model = weighted("weight norm", f"c = Conv(x, w) {NORM}", "float[N,4,6,6] y, float[4,3,3,3] w")
    assert sorted(folds(model).after) == ["Conv", "Div", "Mul", "ReduceL2"]


def test_a_gain_that_varies_is_no_constant():
    text = "n = ReduceL2<axes=[1, 2, 3]>(u) d = Div(u, n) w = Mul(d, a) c = Conv(x, w)"
    model = build(
        f"{text} {NORM}",
        "float[N,3,8,8] x, float[4,1,1,1] a",
        "float[N,4,6,6] y",
        init={"u": V, **batch_norm(4)},
    )
    result = check(model)
    assert "dynamic-params" in result.keys
    assert result.after == result.before


def test_both_parts_of_a_split_weight():
    """The Split goes when its second part goes, not before."""
    text = f"p, q = Split<axis=0>(u) c = Conv(x, p) {NORM} d = Conv(x, q) z = Mul(d, k)"
    model = build(
        text, outputs="y, z", init={"u": random(8, 3, 3, 3), "k": positive(4, 1, 1), **batch_norm(4)}, opset=13
    )
    folds(model, ["Conv", "Conv"])


def test_one_part_of_a_split_weight():
    text = f"p, q = Split<axis=0>(u) c = Conv(x, p) {NORM} z = Conv(x, q)"
    model = build(text, outputs="y, z", init={"u": random(8, 3, 3, 3), **batch_norm(4)}, opset=13)
    assert sorted(folds(model).after) == ["Conv", "Conv", "Split"]


DECOMPOSED = {
    "Div": "s = Add(v, eps) r = Sqrt(s) d = Sub(c, m) e = Div(d, r) f = Mul(e, g) y = Add(f, b)",
    "Reciprocal": "s = Add(v, eps) q = Sqrt(s) r = Reciprocal(q) d = Sub(c, m) e = Mul(d, r) f = Mul(e, g) y = Add(f, b)",
    "Pow": "s = Add(v, eps) r = Pow(s, mhalf) d = Sub(c, m) e = Mul(d, r) f = Mul(e, g) y = Add(f, b)",
    "one over": "s = Add(v, eps) q = Sqrt(s) r = Div(one, q) n = Neg(m) d = Add(c, n) e = Mul(d, r) f = Mul(g, e) y = Sum(f, b)",
    "composed": "s = Add(eps, v) q = Sqrt(s) k = Div(g, q) n = Mul(m, k) t = Sub(b, n) e = Mul(c, k) y = Add(e, t)",
    "from moments": "q = Mul(m, m) s0 = Sub(sq, q) s = Add(s0, eps) r = Sqrt(s) d = Sub(c, m) e = Div(d, r) f = Mul(e, g) y = Add(f, b)",
    "from logarithms": "z = Exp(lv) s = Add(z, eps) r = Sqrt(s) d = Sub(c, m) e = Div(d, r) f = Mul(e, g) y = Add(f, b)",
}  # fmt: skip


@pytest.mark.parametrize("name", DECOMPOSED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_spelled_out_batch_norm(name, dtype):
    shaped = {n: a.reshape(1, 4, 1, 1).astype(dtype) for n, a in batch_norm(4).items()}
    extra = {"mhalf": dtype(-0.5), "one": dtype(1), "sq": shaped["v"] + shaped["m"] ** 2, "lv": np.log(shaped["v"])}
    used = {n: a for n, a in extra.items() if f"{n})" in DECOMPOSED[name] or f"({n}," in DECOMPOSED[name]}
    kind = {np.float32: "float", np.float64: "double"}[dtype]
    read = {n: a for n, a in shaped.items() if f"{n})" in DECOMPOSED[name] or f"({n}," in DECOMPOSED[name]}
    model = build(
        f"c = MatMul(w, x) {DECOMPOSED[name]}".replace("MatMul(w, x)", "Conv(x, w)"),
        f"{kind}[N,3,8,8] x",
        init={"w": V.astype(dtype), "eps": dtype(1e-3), **read, **used},
    )
    folds(model, ["Conv"])


def test_computed_parameters_of_a_batch_norm():
    text = "g = Exp(lg) v = Softplus(lv) m = Concat<axis=0>(m0, m0) b = ReduceMean<axes=[0], keepdims=0>(b0) c = Conv(x, w)"
    init = {"w": V, "lg": random(4), "lv": random(4), "m0": random(2), "b0": random(5, 4)}
    folds(build(f"{text} {NORM}", init=init), ["Conv"])


@pytest.mark.parametrize("opset", [14, 9])
def test_a_batch_norm_of_a_constant_is_no_site_unless_it_stays(opset):
    name = "standardised by training" if opset == 14 else "standardised by training, opset 9"
    assert [d.code for d in folds(weighted(name)).plan.decisions] == ["NF101"]
    stays(weighted(name, "c = Conv(x, w) y = Relu(c)"), "constant")


def test_a_layer_norm_of_a_constant_is_no_site_unless_it_stays():
    text, init = "w = LayerNormalization(u, s)", {"u": random(3, 4), "s": positive(4), "k": positive(4)}
    inputs = "float[N,3] x"
    gone = folds(build(f"{text} c = MatMul(x, w) y = Mul(c, k)", inputs, init=init), ["MatMul"])
    assert [d.code for d in gone.plan.decisions] == ["NF102"]
    del init["k"]
    kept = check(build(f"{text} c = MatMul(x, w) y = Relu(c)", inputs, init=init))
    assert [d.code for d in kept.plan.decisions] == ["NF201.single-op"]


# --- what a fold may cost ---


def test_a_file_does_not_grow_by_a_large_weight(monkeypatch):
    monkeypatch.setattr(change, "LARGEST_COPY", 16)
    wide = "h = Cast<to=1>(u) c = Conv(x, h) y = Mul(c, k)"
    stays(build(wide, init={"u": V.astype(np.float16), "k": positive(4, 1, 1)}), "cost")
    monkeypatch.setattr(change, "LARGEST_COPY", 1 << 20)
    folds(build(wide, init={"u": V.astype(np.float16), "k": positive(4, 1, 1)}), ["Conv"])


def test_a_large_computed_weight_that_others_read_is_not_copied(monkeypatch):
    model = weighted("weight norm", f"c = Conv(x, w) {NORM} z = Conv(x, w)", "float[N,4,6,6] y, float[N,4,6,6] z")
    folds(model)
    monkeypatch.setattr(change, "LARGEST_COPY", 16)
    stays(model, "cost")


# --- stored sparsely ---


def sparse(name, array):
    flat = np.flatnonzero(array)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = helper.make_tensor(name, kind, flat.shape, array.reshape(-1)[flat])
    return helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, flat.shape, flat), array.shape)


SPARSE = {
    "weight": ("c = Conv(x, w) y = Mul(c, k)", "w", np.ones((4, 3, 3, 3), np.float32)),
    "operand": ("c = Conv(x, w) y = Mul(c, k)", "k", positive(4, 1, 1)),
    "first operand": ("c = Conv(x, w) y = Sub(k, c)", "k", positive(4, 1, 1)),
    "derived": ("s = Neg(q) c = Conv(x, w) y = Mul(c, s)", "q", positive(4, 1, 1)),
    "statistics": (f"c = Conv(x, w) {NORM}", "v", positive(4)),
    "scale": (f"c = Conv(x, w) {NORM}", "g", positive(4)),
    "derived statistics": (f"v = Add(q, q) c = Conv(x, w) {NORM}", "q", positive(4)),
}


@pytest.mark.parametrize("how", ["initializer", "node"])
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_parameter_is_refused(name, how):
    text, stored, array = SPARSE[name]
    init = {
        "w": V,
        **({} if "BatchNorm" not in text else batch_norm(4)),
        **({"k": positive(4, 1, 1)} if "k" in text else {}),
    }
    init = {n: a for n, a in init.items() if n != stored and not (name == "derived statistics" and n == "v")}
    init = {n: a for n, a in init.items() if f", {n})" in text or f"({n}," in text or f", {n}," in text}
    model = build(text, outputs="float[N,4,6,6] y", init=init)
    if how == "initializer":
        model.graph.sparse_initializer.append(sparse(stored, array))
    else:
        model.graph.node.insert(0, helper.make_node("Constant", [], [stored], sparse_value=sparse("", array)))
    result = stays(model, "sparse", run=False)
    assert result.after == result.before


@pytest.mark.parametrize(
    ("text", "inputs", "dtype"),
    [("y = Div(q, x)", "float[2,4,6,6] x", np.float32), ("y = Mul(x, q)", "int64[2,4,6,6] x", np.int64)],
)
def test_what_is_no_affine_with_a_sparse_parameter_either(text, inputs, dtype):
    kind = inputs.split("[")[0]
    model = build(text, inputs, f"{kind}[2,4,6,6] y")
    model.graph.sparse_initializer.append(sparse("q", np.array([3, 0, 2, 1], dtype).reshape(4, 1, 1)))
    assert not check(model, run=False).decisions


def test_two_data_branches_of_which_one_is_computed_are_not_sparse():
    model = build("c = Conv(x, w) p = Mul(c, q) y = Mul(p, c)", outputs="float[N,4,6,6] y", init={"w": V})
    model.graph.sparse_initializer.append(sparse("q", positive(4, 1, 1)))
    stays(model, "sparse", run=False)


# --- formats ---


@pytest.mark.parametrize("name", ["weight norm, gain first", "spectral norm", "standardised", "a mask by Where"])
def test_a_computed_weight_before_ir_4(name):
    text, extra, opset = WEIGHTS[name]
    init = {"u": V, **extra, **batch_norm(4)}
    model = build(f"{text} c = Conv(x, w) {NORM}", outputs="float[N,4,6,6] y", init=init, opset=opset, ir=3)
    result = folds(model, ["Conv"])
    assert "u" not in {i.name for i in result.model.graph.input}


def test_a_computed_weight_that_a_caller_may_override():
    text, extra, opset = WEIGHTS["weight norm"]
    init = {"u": V, **extra, **batch_norm(4)}
    model = build(f"{text} c = Conv(x, w) {NORM}", init=init, opset=opset, listed=("u",))
    result = check(model, policy=Initializers.KEEP)
    assert not result.applied
    folds(model, ["Conv"], policy=Initializers.FREEZE)


def constant_of_shape(name, dims, fill):
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [fill])
    dims = helper.make_node("Constant", [], [f"{name}.dims"], value_ints=dims)
    return [dims, helper.make_node("ConstantOfShape", [f"{name}.dims"], [name], value=value)]


@pytest.mark.parametrize("ir", [3, 8])
def test_weights_of_light_models(ir):
    """The light models of the onnx package: every weight a ConstantOfShape."""
    model = build(f"c = Conv(x, w) {NORM}", outputs="float[N,4,6,6] y", init={}, ir=ir)
    made: ModelProto = ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for name, dims, fill in (("w", [4, 3, 3, 3], 0.5), ("g", [4], 2), ("b", [4], 1), ("m", [4], 3), ("v", [4], 4)):
        made.graph.node.extend(constant_of_shape(name, dims, fill))
    made.graph.node.extend(model.graph.node)
    result = folds(made, ["Conv"])
    np.testing.assert_allclose(result.operand("Conv", 1), 0.5 * 2 / np.sqrt(4 + 1e-5), rtol=1e-6)


def test_inside_a_subgraph():
    """The arithmetic lies in the main graph, the Conv in a branch."""
    body = f"c = Conv(x, w) {NORM.replace('y =', 't =')}"
    model = build(
        "n = ReduceL2<axes=[1, 2, 3]>(u) w = Div(u, n) "
        f"y = If (p) <then_branch = a () => (float[N,4,6,6] t) {{ {body} }}, "
        f"else_branch = e () => (float[N,4,6,6] f) {{ f = Conv(x, k) }}>",
        "float[N,3,8,8] x, bool p",
        "float[N,4,6,6] y",
        init={"u": V, "k": random(4, 3, 3, 3, seed=8), **batch_norm(4)},
    )
    folds(model, ["If", "Conv", "Conv"])
