"""Affines in front of what absorbs them: every operator with weights, every crossing in the forward direction."""

# ruff: noqa: E501 - tables, one row a line
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.support import batch_norm, build, check, folds, positive, random, stays

F32 = np.float32
INT = lambda *v: np.array(v, np.int64)  # noqa: E731
NORM = "a = BatchNormalization(x, g, b, m, v)"
K = {"k": random(3, 1, 1, seed=9)}
W = random(4, 3, 3, 3)
KINDS = {
    "scale": "a = Mul(x, k)",
    "shift": "a = Add(x, k)",
    "both": "a0 = Mul(x, k) a = Sub(k2, a0)",
    "norm": NORM,
}
PARAMETERS = {**K, "k2": random(3, 1, 1, seed=10), **batch_norm(3)}


def in_front(body: str, init: dict[str, Any], kind: str, **options: Any) -> Any:
    """The model `affine → body`; only the parameters that the affine reads are there."""
    text = KINDS[kind]
    read = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    mine = {name: value for name, value in {**PARAMETERS, **options.pop("parameters", {})}.items() if name in read}
    return build(f"{text} {body}", init={**mine, **init}, **options)


# --- convolutions ---------------------------------------------------------------------------------------------------

CONVS = {
    "plain": ("y = Conv(a, w)", {"w": W}),
    "with bias": ("y = Conv(a, w, wb)", {"w": W, "wb": random(4)}),
    "strides": ("y = Conv<strides=[2, 3]>(a, w)", {"w": W}),
    "dilations": ("y = Conv<dilations=[2, 1]>(a, w)", {"w": W}),
    "depthwise": ("y = Conv<group=3>(a, w)", {"w": random(6, 1, 3, 3)}),
    "pads of zero": ("y = Conv<pads=[0, 0, 0, 0]>(a, w)", {"w": W}),
    "VALID": ('y = Conv<auto_pad="VALID">(a, w)', {"w": W}),
    "1x1 SAME, strided": ('y = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(a, w)', {"w": random(4, 3, 1, 1)}),
    "SAME that needs none": ('y = Conv<auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[2, 2]>(a, w)', {"w": random(4, 3, 2, 2)}),
    "ConvTranspose 1x1": ("y = ConvTranspose(a, w)", {"w": random(3, 4, 1, 1)}),
    "ConvTranspose, full overlap": ("y = ConvTranspose<pads=[2, 2, 2, 2]>(a, w)", {"w": random(3, 4, 3, 3)}),
    "ConvTranspose, depthwise": ("y = ConvTranspose<group=3, pads=[1, 2, 1, 2]>(a, w, wb)", {"w": random(3, 2, 2, 3), "wb": random(6)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVS)
def test_convolution(name, kind):
    body, init = CONVS[name]
    op = "ConvTranspose" if "Transpose" in body else "Conv"
    folds(in_front(body, init, kind, inputs="float[N,3,8,8] x"), [op])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rank_and_group(rank, group):
    space = ", ".join(["6"] * rank)
    parameters = {name: value.repeat(2)[:4] for name, value in batch_norm(3).items()}
    model = build(
        f"{NORM} y = Conv<group={group}>(a, w)", f"float[2,4,{space}] x",
        init={**parameters, "w": random(6, 4 // group, *[2] * rank)},
    )  # fmt: skip
    folds(model, ["Conv"])


PADDED = {
    "pads": ("y = Conv<pads=[1, 1, 1, 1]>(a, w)", W),
    "one side": ("y = Conv<pads=[0, 0, 0, 1]>(a, w)", W),
    "1x1 with pads": ("y = Conv<pads=[1, 1, 1, 1]>(a, w)", random(4, 3, 1, 1)),
    "SAME": ('y = Conv<auto_pad="SAME_LOWER">(a, w)', W),
    "ConvTranspose": ("y = ConvTranspose(a, w)", random(3, 4, 3, 3)),
    "ConvTranspose, strides": ("y = ConvTranspose<strides=[2, 2], pads=[2, 2, 2, 2]>(a, w)", random(3, 4, 3, 3)),
    "ConvTranspose 1x1, strides": ("y = ConvTranspose<strides=[2, 2]>(a, w)", random(3, 4, 1, 1)),
    "ConvTranspose, output_padding": ("y = ConvTranspose<strides=[2, 2], pads=[2, 2, 2, 2], output_padding=[1, 1]>(a, w)", random(3, 4, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_a_scale_needs_no_border(name):
    body, weight = PADDED[name]
    folds(
        in_front(body, {"w": weight}, "scale", inputs="float[2,3,8,8] x"), [body.split()[2].split("<")[0].split("(")[0]]
    )


@pytest.mark.parametrize("kind", ["shift", "norm"])
@pytest.mark.parametrize("name", PADDED)
def test_a_shift_stops_at_a_border(name, kind):
    body, weight = PADDED[name]
    stays(in_front(body, {"w": weight}, kind, inputs="float[2,3,8,8] x"), "padded-shift")


def test_of_a_chain_the_scale_moves_alone():
    """Mul and Add in front of a padded Conv: the Add stays with `t / s`, the Mul is gone."""
    model = build(
        "c = Mul(x, k) a = Add(c, k2) y = Conv<pads=[1, 1, 1, 1]>(a, w)", init={"w": W, **K, "k2": random(3, 1, 1)}
    )
    result = check(model)
    assert sorted(result.after) == ["Add", "Conv"]
    assert result.keys == ["padded-shift"]


def test_a_shift_that_the_border_taps_do_not_see():
    weight = W.copy()
    weight[:, :, 0, :] = weight[:, :, :, 0] = weight[:, :, 2, :] = weight[:, :, :, 2] = 0
    folds(in_front("y = Conv<pads=[1, 1, 1, 1]>(a, w)", {"w": weight}, "norm"), ["Conv"])
    weight[0, 1, 2, 1] = 0.5
    stays(in_front("y = Conv<pads=[1, 1, 1, 1]>(a, w)", {"w": weight}, "norm"), "padded-shift")


# --- the pad value ---------------------------------------------------------------------------------------------------

NORMALISE = "c = Sub(x, k) a = Div(c, k2)"


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("body", ["y = Conv<pads=[1, 0, 2, 1]>(a, w)", 'y = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(a, w, wb)', "y = Conv<pads=[1, 1, 1, 1], group=3, dilations=[2, 1]>(a, w3)"])  # fmt: skip
def test_input_normalisation_becomes_a_pad(body, opset):
    """`(x - 127.5) / 127.5`: the border of the normalised image is 0, which is 127.5 in the image."""
    init = {"k": F32(127.5), "k2": F32(127.5), "w": W, "w3": random(3, 1, 3, 3), "wb": random(4)}
    used = {
        name: value for name, value in init.items() if f"{name})" in f"{body}{NORMALISE}" or f"{name}," in f"{body}"
    }
    result = folds(build(f"{NORMALISE} {body}", "float[2,3,8,8] x", init=used, opset=opset), ["Conv", "Pad"])
    assert not any(a.name == "auto_pad" for a in result.node("Conv").attribute)
    if opset >= 11:
        assert result.operand("Pad", 2) == F32(127.5)


def test_a_mean_per_channel_needs_three_values():
    init = {"k": F32([[[120]], [[110]], [[100]]]), "k2": F32(58), "w": W}
    result = check(build(f"{NORMALISE} y = Conv<pads=[1, 1, 1, 1]>(a, w)", init=init))
    assert sorted(result.after) == ["Conv", "Sub"]  # the division is in the weights


def test_a_pad_in_front_takes_the_value():
    init = {"k": F32(127.5), "k2": F32(58), "w": W, "p": INT(0, 0, 1, 1, 0, 0, 1, 1)}
    result = folds(build(f"{NORMALISE} d = Pad(a, p) y = Conv(d, w)", init=init), ["Conv", "Pad"])
    assert result.operand("Pad", 2) == F32(127.5)


def test_one_node_is_not_traded_for_a_pad():
    stays(build("a = Add(x, k) y = Conv<pads=[1, 1, 1, 1]>(a, w)", init={"k": F32(2), "w": W}), "bias-in-place")


def test_a_border_of_unknown_width_stays():
    model = build(
        f'{NORMALISE} y = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(a, w)',
        "float[N,3,H,W] x",
        init={"k": F32(2), "k2": F32(3), "w": W},
    )
    assert sorted(check(model, sizes={"H": 8, "W": 7}).after) == ["Conv", "Sub"]


@pytest.mark.parametrize("pads", [0, 1])
def test_image_scaler(pads):
    """The preprocessing node of Core ML converters: one scale, one bias for each channel."""
    scaler = "a = ImageScaler<scale=0.0078125, bias=[-1.0, -0.5, -0.25]>(x)"
    model = build(
        f"{scaler} y = Conv<pads=[{pads}, 0, 0, 0]>(a, w)",
        "float[2,3,8,8] x",
        f"float[2,4,{6 + pads},6] y",
        {"w": W},
        opset=7,
    )
    if pads:
        stays(model, "padded-shift")
    else:
        folds(model, ["Conv"])


def test_an_image_scaler_with_other_channels_is_ill_formed():
    scaler = "a = ImageScaler<scale=2.0, bias=[1.0, 2.0]>(x)"
    model = build(f"{scaler} y = Conv(a, w)", "float[2,3,8,8] x", "float[2,4,6,6] y", {"w": W}, opset=7)
    stays(model, "ill-formed", run=False)


# --- the bias map -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["y = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(a, w)", "y = Conv<pads=[2, 0, 1, 3], strides=[3, 2], dilations=[1, 2]>(a, w, wb)", 'y = Conv<auto_pad="SAME_LOWER", strides=[2, 2], group=3>(a, w3)'])  # fmt: skip
def test_a_shift_becomes_a_map_where_the_output_is_smaller(body):
    init = {"w": random(2, 3, 3, 3), "wb": random(2), "w3": random(3, 1, 3, 3)}
    used = {name: value for name, value in init.items() if f", {name}" in body}
    result = folds(in_front(body, used, "norm", inputs="float[2,3,9,8] x"), ["Add", "Conv"])
    assert result.operand("Add", 1).shape[1:] != (1, 1)


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("c = Conv(x, w) d = Add(c, k) e = Relu(d) y = Conv(e, w1)", 2),
        ("c = LayerNormalization(x, s) d = Add(c, t) e = MatMul(d, m) y = Add(e, wb)", 2),
    ],
)
def test_only_what_needs_an_add_moves_on(text, slot):
    """A shift that has its place in the operator before it stays there."""
    init = {"w": W, "k": random(W.shape[0], 1, 1), "w1": random(2, W.shape[0], 1, 1)}
    init |= {"s": random(8, seed=1), "t": random(8, seed=2), "m": random(8, 4), "wb": random(4)}
    used = {name: value for name, value in init.items() if f", {name})" in text}
    result = check(build(text, init=used))
    first = result.model.graph.node[0]
    assert np.array_equal(result.array(first.input[slot]).reshape(-1), init["k" if "k" in used else "t"].reshape(-1))


def test_a_map_that_takes_an_affine_and_moves_on():
    second = {f"{name}2": value for name, value in batch_norm(2, seed=30).items()}
    body = "c = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(a, w) d = BatchNormalization(c, g2, b2, m2, v2) e = Add(d, q) y = Relu(e)"
    init = {"w": random(2, 3, 3, 3), "q": random(2, 4, 4), **second}
    folds(in_front(body, init, "norm", inputs="float[2,3,8,8] x"), ["Add", "Conv", "Relu"])


def test_a_map_that_does_not_pay():
    for size, weight in (("N", W), ("2", random(9, 3, 3, 3))):
        model = in_front(
            "y = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(a, w)", {"w": weight}, "norm", inputs=f"float[{size},3,8,8] x"
        )
        result = check(model)
        assert result.keys == ([] if size == "N" else ["padded-shift"])
    unknown = in_front("y = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(a, w)", {"w": W}, "norm", inputs="float[2,3,H,8] x")
    stays(unknown, "padded-shift", sizes={"H": 8})


# --- matrices --------------------------------------------------------------------------------------------------------

ROWS = {**batch_norm(5), "k": random(5, seed=9), "k2": random(5, seed=10)}
MATRICES = {
    "Gemm": ("y = Gemm(a, w)", {"w": random(5, 4)}, ["Gemm"]),
    "Gemm, transB, alpha, beta": ("y = Gemm<transB=1, alpha=0.5, beta=2.0>(a, w, c)", {"w": random(4, 5), "c": random(4)}, ["Gemm"]),
    "Gemm, C of a matrix": ("y = Gemm<beta=0.5>(a, w, c)", {"w": random(5, 4), "c": random(2, 4)}, ["Gemm"]),
    "MatMul": ("y = MatMul(a, w)", {"w": random(5, 4)}, None),
    "MatMul and Add": ("c = MatMul(a, w) y = Add(c, q)", {"w": random(5, 4), "q": random(4)}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MATRICES)
def test_matrix(name, kind):
    body, init, ops = MATRICES[name]
    model = in_front(body, init, kind, inputs="float[2,5] x", parameters=ROWS)
    result = check(model)
    assert all(d.outcome == "applied" for d in result.decisions if d.node in ("a", "a0"))
    assert ops is None or sorted(result.after) == ops


def test_gemm_transposed_data():
    """With transA the summed axis is axis 0 of the data."""
    init = {"k": random(5, 1, seed=4), "w": random(5, 4)}
    folds(build("a = Mul(x, k) y = Gemm<transA=1>(a, w)", "float[5,2] x", init=init), ["Gemm"])
    init["k"] = random(2, seed=4)
    stays(build("a = Mul(x, k) y = Gemm<transA=1>(a, w)", "float[5,2] x", init=init), "not-per-channel")


def test_gemm_with_a_computed_c():
    inputs = "float[2,5] x, float[2,4] z"
    folds(in_front("y = Gemm(a, w, z)", {"w": random(5, 4)}, "scale", inputs=inputs, parameters=ROWS), ["Gemm"])
    stays(in_front("y = Gemm(a, w, z)", {"w": random(5, 4)}, "norm", inputs=inputs, parameters=ROWS), "dynamic-params")


@pytest.mark.parametrize(
    ("text", "x", "k", "w", "key"),
    [
        ("MatMul(a, w)", "2,3,5", (5,), (5, 4), ""),
        ("MatMul(a, w)", "2,3,5", (3, 1), (5, 4), "not-per-channel"),
        ("MatMul(a, w)", "2,3,5", (2, 1, 5), (2, 5, 4), ""),
        ("MatMul(a, w)", "2,3,5", (2, 1, 5), (5, 4), "not-per-channel"),
        ("MatMul(a, w)", "5", (5,), (5, 4), ""),
        ("MatMul(w, a)", "2,5,3", (5, 1), (4, 5), ""),
        ("MatMul(w, a)", "2,5,3", (3,), (4, 5), "not-per-channel"),
        ("MatMul(w, a)", "5,3", (5, 1), (2, 4, 5), ""),
        ("MatMul(w, a)", "5", (5,), (4, 5), ""),
        ("MatMul(a, z)", "2,3,5", (5,), (5, 4), "dynamic-params"),
    ],
)
def test_matmul(text, x, k, w, key):
    init = {"k": random(*k, seed=3)} | ({"w": random(*w)} if "w" in text else {})
    inputs = f"float[{x}] x" + (", float[5,4] z" if "z" in text else "")
    model = build(f"a = Mul(x, k) y = {text}", inputs, init=init)
    (folds(model, ["MatMul"]) if not key else stays(model, key))


def test_a_shift_uses_the_add_that_is_there():
    init = {"k": random(5), "k2": random(5, seed=2), "w": random(5, 4), "q": random(4)}
    model = build("c = Mul(x, k) a = Add(c, k2) d = MatMul(a, w) y = Add(q, d)", "float[2,3,5] x", init=init)
    result = check(model)
    assert sorted(result.after) == ["Add", "MatMul"]


# --- norms and recurrences -------------------------------------------------------------------------------------------

NORMS = {
    "InstanceNormalization": ("y = InstanceNormalization(a, s, o)", {"s": random(3), "o": random(3, seed=1)}),
    "LayerNormalization": ("y = LayerNormalization<axis=1>(a, s, o)", {"s": random(3, 8, 8), "o": random(3, 8, 8, seed=1)}),
    "GroupNormalization": ("y = GroupNormalization<num_groups=1>(a, s, o)", {"s": random(3), "o": random(3, seed=1)}),
    "RMSNormalization": ("y = RMSNormalization<axis=1>(a, s)", {"s": random(3, 8, 8)}),
}  # fmt: skip


@pytest.mark.parametrize("factor", [2.0, -0.5, 1.0])
@pytest.mark.parametrize("name", NORMS)
def test_a_uniform_affine_vanishes_in_a_norm(name, factor):
    body, init = NORMS[name]
    text = "a = Mul(x, k)" if name == "RMSNormalization" else "c = Mul(x, k) a = Add(c, q)"
    constants = {"k": F32(factor), **({} if name == "RMSNormalization" else {"q": F32(0.0625)})}
    model = build(f"{text} {body}", "float[2,3,8,8] x", "float[2,3,8,8] y", {**constants, **init}, opset=23, ir=10)
    result = folds(model, [name])
    epsilon = {a.name: a.f for a in result.node(name).attribute}.get("epsilon", 1e-5)
    assert epsilon == pytest.approx(1e-5 / factor**2)


def test_what_a_norm_notices():
    init = {"s": random(3), "o": random(3, seed=1), **K}
    stays(build("a = Mul(x, k) y = InstanceNormalization(a, s, o)", init=init), "not-per-channel")
    folds(build("a = Add(x, k) y = InstanceNormalization(a, s, o)", init=init), ["InstanceNormalization"])
    two = build(
        "a = Add(x, k) y = GroupNormalization<num_groups=1>(a, s, o)",
        "float[2,3,8,8] x",
        "float[2,3,8,8] y",
        init,
        opset=21,
        ir=10,
    )
    stays(two, "not-per-channel")
    scale = {"s": random(8), "o": random(8, seed=1), **K}
    folds(
        build("a = Add(x, k) y = LayerNormalization(a, s, o)", "float[2,3,8,8] x", init=scale), ["LayerNormalization"]
    )
    stays(
        build(
            "a = Add(x, k) y = RMSNormalization(a, s)",
            "float[2,3,8,8] x",
            "float[2,3,8,8] y",
            {k: scale[k] for k in "sk"},
            opset=23,
            ir=10,
        ),
        "shift-blocked",
    )


def test_batch_norm_behind_a_pooling():
    """Two BatchNormalizations with a pooling in between become one, whichever way."""
    second = {f"{name}2": value for name, value in batch_norm(3, seed=20, sign=False).items()}
    first = batch_norm(3, sign=False)
    model = build(
        f"{NORM} p = AveragePool<kernel_shape=[2, 2]>(a) y = BatchNormalization(p, g2, b2, m2, v2)",
        init={**first, **second},
    )
    assert sorted(check(model).after) == ["AveragePool", "BatchNormalization"]
    both = build(
        f"{NORM} p = AveragePool<kernel_shape=[2, 2]>(a) y = BatchNormalization(p, g2, b2, m2, v2) q = GlobalAveragePool(a) z = BatchNormalization(q, g2, b2, m2, v2)",
        outputs="y, z",
        init={**first, **second},
    )
    assert sorted(check(both).after) == ["AveragePool", "BatchNormalization", "BatchNormalization", "GlobalAveragePool"]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent(op, with_bias, directions, kind):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 2
    init = {"w": random(directions, gates, 5), "r": random(directions, gates, 2)}
    init |= {"wb": random(directions, 2 * gates)} if with_bias else {}
    direction = "bidirectional" if directions == 2 else "forward"
    text = {
        "norm": "t = Transpose<perm=[1, 2, 0]>(x) u = BatchNormalization(t, g, b, m, v) a = Transpose<perm=[2, 0, 1]>(u)"
    }.get(kind, KINDS[kind])
    read = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    mine = {name: value for name, value in ROWS.items() if name in read}
    body = f'{text} y, h = {op}<hidden_size=2, direction="{direction}">(a, w, r{", wb" if with_bias else ""})'
    model = build(body, "float[4,3,5] x", f"float[4,{directions},3,2] y, float[{directions},3,2] h", {**mine, **init})
    result = check(model)
    assert all(d.outcome == "applied" for d in result.decisions), result.decisions
    assert [name for name in result.after if name != "Transpose"] == [op]


# --- crossings -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """`text` makes d from a, `sink` makes y from d; per kind of affine the reason why it stays, "" if it folds."""

    text: str
    positive: str = ""
    mixed: str = ""
    shift: str = ""
    init: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    shape: tuple[int, ...] = (4, 1, 1)
    values: Any = None
    weight: tuple[int, ...] = (2, 4, 1, 1)
    sink: str = "y = Conv(d, w)"
    inputs: str = "float[2,4,6,6] x"


NEGATIVE = {"mixed": "negative-scale"}
NO_SHIFT = {"shift": "shift-blocked"}
STOP = {"positive": "no-absorber", "mixed": "no-absorber", "shift": "no-absorber"}
BRANCH = {"positive": "branch", "mixed": "branch", "shift": "branch"}
NPC = {"positive": "not-per-channel", "mixed": "not-per-channel", "shift": "not-per-channel"}
UNIFORM = {"shape": (1,)}
PAIRS = np.array([1.5, 1.5, 0.5, 0.5], F32)
TWO = "float[2,4,6,6] x, float[2,4,6,6] z"

CROSSINGS = {
    "Identity": Row("d = Identity(a)"),
    "Dropout": Row("d = Dropout(a)"),
    "Dropout, mask in use": Row("d0, q = Dropout(a) q1 = Cast<to=1>(q) d = Mul(d0, q1)", positive="shared", mixed="shared", shift="shared"),
    "Cast to float64": Row("e = Cast<to=11>(a) d = Cast<to=1>(e)", **STOP),
    "Transpose": Row("d = Transpose<perm=[0, 2, 3, 1]>(a)", sink="y = MatMul(d, w)", weight=(4, 5), shift="bias-in-place"),
    "Transpose, the wrong axis": Row("d = Transpose<perm=[0, 2, 3, 1]>(a)", sink="y = MatMul(d, w)", weight=(4, 5), shape=(6,), **NPC),
    "Flatten": Row("d = Flatten(a)", sink="y = Gemm(d, w)", weight=(144, 3)),
    "Reshape to a matrix": Row("d = Reshape(a, s)", sink="y = Gemm(d, w)", weight=(144, 3), init={"s": INT(2, 144)}),
    "Reshape that merges batch and channel": Row("d = Reshape(a, s)", init={"s": INT(1, 8, 6, 6)}, weight=(2, 8, 1, 1)),
    "Squeeze": Row("p = GlobalAveragePool(a) d = Squeeze(p, s)", sink="y = Gemm(d, w)", weight=(4, 3), init={"s": INT(2, 3)}),
    "Unsqueeze": Row("u = Unsqueeze(a, s) d = Squeeze(u, s)", init={"s": INT(1)}),
    "channel shuffle": Row("r = Reshape(a, s) t = Transpose<perm=[0, 2, 1, 3, 4]>(r) d = Reshape(t, u)", init={"s": INT(0, 2, 2, 6, 6), "u": INT(0, -1, 6, 6)}),
    "Expand": Row("p = GlobalAveragePool(a) d = Expand(p, s)", init={"s": INT(2, 4, 3, 3)}),
    "Expand to a higher rank": Row("e = Expand(a, s) d = Reshape(e, u)", init={"s": INT(2, 2, 4, 6, 6), "u": INT(4, 4, 6, 6)}),
    "Tile": Row("d0 = Tile(a, s) d = Reshape(d0, u)", init={"s": INT(1, 1, 2, 2), "u": INT(2, 4, 12, 12)}),
    "Split": Row("d1, d2 = Split<axis=1>(a) e = Conv(d2, w2) z = Identity(e) d = Identity(d1)", opset=13, weight=(2, 2, 1, 1), init={"w2": random(2, 2, 1, 1, seed=8)}),
    "Split of rows": Row("d, e = Split<axis=2>(a)", opset=13),
    "Slice of channels": Row("d = Slice(a, s, e, i)", init={"s": INT(1), "e": INT(3), "i": INT(1)}, weight=(2, 2, 1, 1)),
    "Slice backwards": Row("d = Slice(a, s, e, i, t)", init={"s": INT(-1), "e": INT(-9), "i": INT(1), "t": INT(-1)}),
    "Gather": Row("d = Gather<axis=1>(a, i)", init={"i": INT(2, 2, 0)}, weight=(2, 3, 1, 1)),
    "Gather one": Row("d0 = Gather<axis=1>(a, i) d = Unsqueeze(d0, u)", init={"i": np.array(-1), "u": INT(1)}, weight=(2, 1, 1, 1)),
    "Concat": Row("d = Concat<axis=1>(z, a)", inputs=TWO, weight=(2, 8, 1, 1)),
    "Concat twice": Row("d = Concat<axis=1>(a, a)", weight=(2, 8, 1, 1)),
    "Concat of rows": Row("d = Concat<axis=2>(a, a)"),
    "Concat of rows with others": Row("d = Concat<axis=2>(a, z)", inputs=TWO, **NPC),
    "DepthToSpace, equal": Row("d = DepthToSpace<blocksize=2>(a)", shape=(1,), weight=(2, 1, 1, 1)),
    "DepthToSpace, different": Row("d = DepthToSpace<blocksize=2>(a)", weight=(2, 1, 1, 1), **BRANCH),
    "SpaceToDepth": Row("d = SpaceToDepth<blocksize=2>(a)", weight=(2, 16, 1, 1)),
    "LeakyRelu": Row("d = LeakyRelu<alpha=0.3>(a)", **NEGATIVE, **NO_SHIFT),
    "PRelu": Row("d = PRelu(a, q)", init={"q": random(4, 1, 1, seed=3)}, **NEGATIVE, **NO_SHIFT),
    "Relu": Row("d = Relu(a)", **NEGATIVE),
    "Relu before broadcasting Max": Row("d = Relu(a)", opset=7, **NEGATIVE, **NO_SHIFT),
    "Abs": Row("d = Abs(a)", **NO_SHIFT),
    **{op: Row(f"d = {op}(a)", **STOP) for op in ("Sigmoid", "Tanh", "Elu", "HardSwish", "Erf", "Exp")},
    "Clip, uniform": Row("d = Clip(a, l, h)", init={"l": F32(-0.3), "h": F32(0.6)}, **UNIFORM, **NEGATIVE),
    "Clip-6": Row("d = Clip<min=0.0, max=6.0>(a)", opset=10, **UNIFORM, **NEGATIVE),
    "Clip, per channel": Row("d = Clip(a, l, h)", init={"l": F32(-0.3), "h": F32(0.6)}, positive="not-per-channel", mixed="negative-scale", shift="not-per-channel"),
    "MaxPool": Row("d = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(a)", **NEGATIVE),
    "AveragePool": Row("d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(a)"),
    "AveragePool, pads counted": Row("d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(a)", **NO_SHIFT),
    "GlobalMaxPool": Row("d = GlobalMaxPool(a)", **NEGATIVE),
    "LpPool": Row("d = LpPool<kernel_shape=[2, 2]>(a)", **NO_SHIFT),
    "ReduceMean": Row("d = ReduceMean<axes=[2, 3]>(a)"),
    "ReduceMean, keepdims 0": Row("d = ReduceMean<axes=[3, 2], keepdims=0>(a)", sink="y = Gemm(d, w)", weight=(4, 3)),
    "ReduceSum": Row("d = ReduceSum(a, q)", init={"q": INT(2, 3)}),
    "ReduceL2": Row("d = ReduceL2<axes=[2, 3]>(a)", **NO_SHIFT),
    "ReduceMax": Row("d = ReduceMax<axes=[2, 3]>(a)", **NEGATIVE),
    "ReduceMean of channels": Row("d = ReduceMean<axes=[1]>(a)", weight=(2, 1, 1, 1), **NPC),
    "Resize": Row('d = Resize<mode="linear">(a, , s)', init={"s": F32([1, 1, 1.7, 0.6])}),
    "Resize of channels": Row('d = Resize<mode="nearest">(a, , s)', init={"s": F32([1, 2, 1, 1])}, weight=(2, 8, 1, 1), positive="shape-unknown", mixed="shape-unknown", shift="shape-unknown"),
    "Pad zeros": Row("d = Pad(a, p)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}, **NO_SHIFT),
    "Pad zeros, uniform": Row("d = Pad(a, p)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}, **UNIFORM),
    "Pad 0.5": Row("d = Pad(a, p, v)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1), "v": F32(0.5)}, positive="shift-blocked", mixed="shift-blocked", shift="shift-blocked"),
    "Pad-2": Row("d = Pad<pads=[0, 0, 1, 2, 0, 0, 2, 1], value=0.25>(a)", opset=10, **UNIFORM),
    "Pad reflect": Row('d = Pad<mode="reflect">(a, p)', init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}),
    "Pad channels": Row("d = Pad(a, p)", init={"p": INT(0, 1, 0, 0, 0, 1, 0, 0)}, weight=(2, 6, 1, 1), **NPC),
    "Add of data": Row("d = Add(a, z)", inputs=TWO, positive="branch", mixed="branch"),
    "Sub from data": Row("d = Sub(z, a)", inputs=TWO, positive="branch", mixed="branch"),
    "Add of itself": Row("e = AveragePool<kernel_shape=[1, 1]>(a) d = Add(a, e)"),
    "Sub of its mean": Row("e = GlobalAveragePool(a) d = Sub(a, e)"),
    "Add twice": Row("d = Add(a, a)"),
    "Sum of three": Row("e = Identity(a) d = Sum(a, e, q)", init={"q": random(4, 6, 6, seed=5)}),
    "Add of a map": Row("d = Add(a, q)", init={"q": random(6, 6, seed=5)}, shift="not-per-channel"),
    "Mul by data": Row("d = Mul(z, a)", inputs=TWO, **NO_SHIFT),
    "Mul of itself": Row("d = Mul(a, a)", **NO_SHIFT),
    "squeeze-excite gate": Row("p = GlobalAveragePool(z) u = Sigmoid(p) d = Mul(a, u)", inputs=TWO, **NO_SHIFT),
    "Div by data": Row("r = Exp(z) d = Div(a, r)", inputs=TWO, **NO_SHIFT),
    "Div of data": Row("r = Abs(a) q1 = Max(r, q) d = Div(z, q1)", inputs=TWO, init={"q": F32(0)}, **NO_SHIFT),
    "Mul by a map": Row("d = Mul(a, q)", init={"q": random(6, 6, seed=5)}, **NPC),
    "Max with itself": Row("e = Identity(a) d = Max(a, e)", **NEGATIVE),
    "Max with data": Row("d = Max(a, z)", inputs=TWO, **BRANCH),
    "Min with a map": Row("d = Min(q, a)", init={"q": random(4, 6, 6, seed=5)}, **NEGATIVE),
}  # fmt: skip
CROSSINGS["Div of data"].positive = CROSSINGS["Div of data"].mixed = ""


def model_of(row, kind):
    size = int(np.prod(row.shape, dtype=int))
    values = np.asarray(random(size, seed=61, low=0.5, high=1.5) if row.values is None else row.values, F32)
    if kind == "mixed":
        values[:: 2 if size > 1 else 1] *= -1
    site = "a = Add(x, k)" if kind == "shift" else "a = Mul(x, k)"
    init = {"w": random(*row.weight, seed=7), **row.init, "k": values.reshape(row.shape)}
    outputs = "y, z" if " z = " in row.text else "y"
    return build(
        f"{site} {row.text} {row.sink}", row.inputs, outputs, init, opset=row.opset, ir=8 if row.opset > 8 else 3
    )


@pytest.mark.parametrize("kind", ["positive", "mixed", "shift"])
@pytest.mark.parametrize("name", CROSSINGS)
def test_crossing(name, kind):
    row = CROSSINGS[name]
    result = check(model_of(row, kind))
    site = next(d for d in result.decisions if d.node == "a")
    got = site.code.split(".")[1] if "." in site.code else ""
    assert got == getattr(row, kind), [(d.node, d.code, d.message) for d in result.decisions]


# --- Relu becomes Max -------------------------------------------------------------------------------------------------


def test_pre_activation_block():
    """BN → Relu → Conv 1x1: one Max and one Conv do it all, a dead channel too."""
    parameters = batch_norm(3, sign=False)
    parameters["g"] = np.abs(parameters["g"])
    for dead in (False, True):
        parameters["g"][1] = 0.0 if dead else 1.0
        result = folds(
            build(f"{NORM} r = Relu(a) y = Conv(r, w)", init={**parameters, "w": random(4, 3, 1, 1)}), ["Conv", "Max"]
        )
        assert np.isfinite(result.operand("Max", 1)).all()
    parameters["g"][1] = -1.0
    stays(build(f"{NORM} r = Relu(a) y = Conv(r, w)", init={**parameters, "w": random(4, 3, 1, 1)}), "negative-scale")


def test_two_shifts_through_one_relu():
    init = {
        "k": positive(3, 1, 1),
        "q": random(3, 1, 1, seed=4),
        "w": random(4, 3, 1, 1),
        "k2": positive(3, 1, 1, seed=8),
    }
    model = build(
        "c = Mul(x, k) d = MaxPool<kernel_shape=[2, 2]>(c) e = Add(d, q) r = Relu(e) s = Mul(r, k2) y = Conv(s, w)",
        init=init,
    )
    assert sorted(folds(model).after) == ["Conv", "Max", "MaxPool"]


# --- who else reads --------------------------------------------------------------------------------------------------


def test_all_readers_take_it():
    init = {**batch_norm(3), "w": W, "w2": random(2, 3, 1, 1)}
    folds(build(f"{NORM} y = Conv(a, w) z = Conv(a, w2)", outputs="y, z", init=init), ["Conv", "Conv"])


def test_one_reader_that_cannot_keeps_it_for_all():
    init = {**batch_norm(3), "w": W}
    stays(build(f"{NORM} y = Conv(a, w) z = Sigmoid(a)", outputs="y, z", init=init), "no-absorber")


def test_shape_does_not_count_as_a_reader():
    init = {**batch_norm(3), "w": W}
    folds(build(f"{NORM} y = Conv(a, w) z = Shape(a)", outputs="y, z", init=init), ["Conv", "Shape"])


def test_an_output_stays():
    init = {**batch_norm(3), "w": W}
    stays(build(f"{NORM} y = Conv(a, w)", outputs="y, a", init=init), "no-absorber")


def test_a_captured_value_stays():
    body = "y = Conv(a, w) z = If (p) <then_branch = q () => (float[N,3,8,8] t) { t = Relu(a) }, else_branch = r () => (float[N,3,8,8] f) { f = Abs(a) }>"
    model = build(
        f"{NORM} {body}", "float[N,3,8,8] x, bool p", "float[N,4,6,6] y, float[N,3,8,8] z", {**batch_norm(3), "w": W}
    )
    stays(model, "captured")


def test_inside_of_a_branch():
    body = f"y = If (p) <then_branch = q () => (float[N,4,6,6] t) {{ {NORM} t = Conv(a, w) }}, else_branch = r () => (float[N,4,6,6] f) {{ f = Conv(x, w) }}>"
    model = build(body, "float[N,3,8,8] x, bool p", "float[N,4,6,6] y", {**batch_norm(3), "w": W})
    assert sorted(folds(model).after) == ["Conv", "Conv", "If"]


def test_a_shared_weight_is_copied():
    init = {**batch_norm(3), "w": W}
    result = folds(build(f"{NORM} y = Conv(a, w) z = Conv(x, w)", outputs="y, z", init=init), ["Conv", "Conv"])
    np.testing.assert_array_equal(result.array("w"), W)


def test_both_sides_of_one_conv_at_once():
    second = {f"{name}2": value for name, value in batch_norm(4, seed=30).items()}
    model = build(
        f"{NORM} c = Conv(a, w, wb) y = BatchNormalization(c, g2, b2, m2, v2)",
        init={**batch_norm(3), **second, "w": W, "wb": random(4)},
    )
    result = folds(model, ["Conv"])
    init = batch_norm(3)
    s1 = init["g"].astype(np.float64) / np.sqrt(init["v"].astype(np.float64) + np.float32(1e-5))
    s2 = second["g2"].astype(np.float64) / np.sqrt(second["v2"].astype(np.float64) + np.float32(1e-5))
    exact = W.astype(np.float64) * s1.reshape(1, -1, 1, 1) * s2.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(result.operand("Conv", 1), exact.astype(np.float32))  # rounded once


# --- what runtimes fuse ----------------------------------------------------------------------------------------------

LAYER_NORM = "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) q = Pow(c, two) n = ReduceMean<axes=[-1]>(q) o = Add(n, eps) s = Sqrt(o) d = Div(c, s)"


@pytest.mark.parametrize("tail", ["e = Mul(d, k) f = Add(e, k2) y = MatMul(f, w)", "h = Cast<to=1>(d) e = Mul(h, one) f = Add(e, zero) y = MatMul(f, w)"])  # fmt: skip
def test_the_end_of_a_decomposed_norm_stays(tail):
    init = {
        "two": F32(2),
        "eps": F32(1e-5),
        "k": random(8),
        "k2": random(8, seed=1),
        "w": random(8, 4),
        "one": np.ones(8, F32),
        "zero": np.zeros(8, F32),
    }
    used = {name: value for name, value in init.items() if f"{name})" in LAYER_NORM + tail}
    result = check(build(f"{LAYER_NORM} {tail}", "float[2,5,8] x", init=used))
    assert result.keys.count("fused-pattern") >= 1
    assert result.after.count("Mul") == 1


@pytest.mark.parametrize("body", ["h = Mul(x, half) d = Div(x, r) e = Erf(d) f = Add(e, one) g = Mul(h, f) y = MatMul(g, w)", "d = Div(x, r) e = Erf(d) f = Add(e, one) h = Mul(x, f) g = Mul(h, half) y = MatMul(g, w)"])  # fmt: skip
def test_gelu_stays(body):
    init = {"half": F32(0.5), "r": F32(2**0.5), "one": F32(1), "w": random(8, 4)}
    result = check(build(body, "float[2,5,8] x", init=init))
    assert result.after == result.before


def test_a_bias_of_zeros_behind_a_matmul_stays():
    stays(
        build("c = MatMul(x, w) y = Add(c, z)", "float[2,5,8] x", init={"w": random(8, 4), "z": np.zeros(4, F32)}),
        "bias-in-place",
    )
