"""A channel of ones carries a shift across the zero padding of a Conv, where --aggressive asks for it."""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.support import batch_norm, build, check, positive, random

F32 = np.float32
NORM = "b = BatchNormalization(r, g, b0, m, v)"


def parameters(channels: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`b` is the name of a tensor here."""
    found = batch_norm(channels, seed=seed)
    return {("b0" if name == "b" else name): values for name, values in found.items()}


def block(
    between: str = "r = Relu(c)",
    *,
    channels: int = 12,
    conv: str = "y = Conv<pads=[1, 1, 1, 1]>(b, w2)",
    norm: str = NORM,
    **init: np.ndarray,
):
    constants = {
        "w": random(channels, 3, 3, 3),
        "w2": random(channels, channels, 3, 3, seed=2),
        **parameters(channels),
        **init,
    }
    text = f"c = Conv(x, w) {between} {norm} {conv}"
    used = {name: values for name, values in constants.items() if f"{name})" in text or f"{name}," in text}
    return build(text, "float[N,3,8,8] x", init=used)


@pytest.mark.parametrize(
    "between",
    [
        "r = Relu(c)",
        "r = LeakyRelu<alpha=0.2>(c)",
        "r = Elu(c)",
        "s = Relu(c) r = MaxPool<kernel_shape=[2, 2], pads=[1, 1, 0, 0]>(s)",
        "s = Relu(c) r = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(s)",
        'r0 = Relu(c) r = Resize<mode="linear">(r0, , q)',
        "r = Clip(c, lo, hi)",
        "r0 = Relu(c) r = Dropout(r0)",
    ],
)
def test_conv_relu_norm_padded_conv(between):
    init = {"q": F32([1, 1, 2, 2]), "lo": F32(0), "hi": F32(6)}
    model = block(between, **init)
    result = check(model, aggressive=True)
    assert "BatchNormalization" not in result.after
    (decision,) = result.decisions
    assert decision.exactness == "opt-in"
    assert result.operand("Conv", 1).shape[0] == 13
    assert check(model).after == result.before  # not without being asked


@pytest.mark.parametrize("norm", [
    "b1 = BatchNormalization(r, g, b0, m, v) b = AveragePool<kernel_shape=[2, 2]>(b1)",
    "b1 = Mul(r, k) b2 = Add(b1, k2) b = Identity(b2)",
])  # fmt: skip
def test_on_the_way_to_the_second_conv(norm):
    model = block(norm=norm, k=random(12, 1, 1, seed=5), k2=random(12, 1, 1, seed=6))
    result = check(model, aggressive=True)
    assert set(result.after) <= {"Conv", "Relu", "AveragePool", "Identity"}


def test_a_chain_of_blocks():
    """The Conv in the middle reads one such channel and makes another; its own affines compose with both."""
    init = {"w3": random(10, 10, 3, 3, seed=3), "w2": random(10, 12, 3, 3, seed=2), "wb": random(10, seed=9)}
    norm2 = {f"{name}2": values for name, values in parameters(10, seed=40).items()}
    norm3 = {f"{name}3": values for name, values in parameters(10, seed=50).items()}
    conv = (
        "d = Conv<pads=[1, 1, 1, 1]>(b, w2, wb) e = Relu(d) f = BatchNormalization(e, g2, b02, m2, v2) "
        "h = Conv<pads=[1, 1, 1, 1]>(f, w3) y = BatchNormalization(h, g3, b03, m3, v3)"
    )
    result = check(block(conv=conv, **init, **norm2, **norm3), aggressive=True)
    assert result.after == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    assert result.operand("Conv", 1).shape == (13, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"channels": 8}, "would open a new block"),
        ({"channels": 16}, "would open a new block"),
        ({"between": "r = Sigmoid(c)"}, "does not keep a channel of ones"),
        ({"between": "r = Clip(c, lo, hi)", "lo": F32(0), "hi": F32(0.5)}, "does not keep a channel of ones"),
        ({"between": "r0 = Relu(c) r = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(r0)"},
            "counts padding zeros"),
        ({"between": "r = PRelu(c, q)", "q": random(12, 1, 1)}, "does not keep a channel of ones"),
        ({"conv": "y0 = Conv<pads=[1, 1, 1, 1], group=2>(b, w2) y = Relu(y0)", "w2": random(12, 6, 3, 3)},
            "works in groups"),
    ],
)  # fmt: skip
def test_what_stays(change, reason):
    result = check(block(**change), aggressive=True)
    assert reason in result.decisions[0].message, result.decisions
    assert result.after == result.before


DEEP = " ".join(f"r{i + 1} = Relu(r{i})" for i in range(17))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm": "b1 = BatchNormalization(r, g, b0, m, v) b = Transpose<perm=[0, 1, 3, 2]>(b1)"}, "does not keep a channel of ones"),
        ({"norm": "b1 = BatchNormalization(r, g, b0, m, v) b = Relu(b1)", "g": positive(12)}, "would have to hold one more number"),
        ({"norm": f"{NORM.replace('b =', 'r0 =')} {DEEP.replace('Relu', 'Identity')} b = Identity(r17)"}, "no Conv within"),
        ({"between": f"r0 = Relu(c) {DEEP} r = Relu(r17)"}, "no Conv within"),
        ({"between": "r = Elu<slope=1>(c)"}, "is not what it was"),
        ({"between": "q, r0 = Split<axis=1>(c) r = Relu(r0)", "w": random(24, 3, 3, 3)}, "is not made by a Conv"),
        ({"w": random(12, 1, 3, 3)}, "works in groups"),
    ],
)  # fmt: skip
def test_what_lies_on_the_way(change, reason):
    model = block(**change)
    if reason == "works in groups":
        model.graph.node[0].attribute.append(helper.make_attribute("group", 3))
    result = check(model, aggressive=True, run=False)
    assert reason in result.decisions[0].message, result.decisions
    assert result.after == result.before


QUANTISED = {"q": np.int8(random(12, 3, 3, 3) * 100), "q2": np.int8(random(12, 12, 3, 3) * 100), "s": F32(0.01)}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("e = Elu(c) a = BatchNormalization(e, g1, b0, m, v) r = Relu(a)", "is not what it was"),
        ("e = Elu(c) a = Sub(e, five) r = Clip(a, lo, hi)", "the bounds of 'r' have moved"),
        ("c0 = Conv(x, w, z) r = Relu(c0)", "'z' is not a constant"),
        ("wd = DequantizeLinear(q, s) c0 = Conv(x, wd) r = Relu(c0)", "'c0' is quantised"),
        ("r = Relu(c) w2 = DequantizeLinear(q2, s)", "'y' is quantised"),
    ],
)
def test_what_the_channel_would_be_lost_in(body, reason):
    """Bounds that moved, because a shift passed them before, a bias that is data, weights that would become floats."""
    constants = {
        **WEIGHTS,
        **parameters(12),
        **QUANTISED,
        "g1": positive(12),
        "five": F32(5),
        "lo": F32(0),
        "hi": F32(6),
    }
    text = f"c = Conv(x, w) {body} {BLOCK[len('r = Relu(c) ') :]}"
    text = text.removeprefix("c = Conv(x, w) " if "c0" in body else "")
    used = {n: v for n, v in constants.items() if (f"{n})" in text or f"{n}," in text) and f"{n} =" not in text}
    inputs = "float[N,3,8,8] x" + (", float[12] z" if "z)" in body else "")
    result = check(build(text, inputs, init=used), aggressive=True)
    (decision,) = (d for d in result.decisions if d.node == "b")
    assert decision.code and reason in decision.message, result.decisions
    assert "BatchNormalization" in result.after


def test_behind_another_fill_of_the_border():
    """What is nearer to the second Conv needs only a fill; then no channel of ones fits beside it."""
    between = (
        "b1 = BatchNormalization(r, g1, b0, m, v) b2 = MaxPool<kernel_shape=[2, 2]>(b1) b3 = Mul(b2, n) b = Add(b3, u)"
    )
    result = check(block(norm=between, g1=positive(12), n=F32(-2), u=F32(0.5)), aggressive=True)
    assert "reads from a Pad with another fill" in result.decisions[0].message
    assert result.after == ["Conv", "Relu", "BatchNormalization", "MaxPool", "Pad", "Conv"]


def test_a_function_that_is_called_as_an_operator_is():
    """Its rank is known, because the body of the function is."""
    model = block()
    model.graph.node[1].domain = "my"
    body = [helper.make_node("Sigmoid", ["a"], ["o"])]
    model.functions.append(helper.make_function("my", "Relu", ["a"], ["o"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("my", 1))
    result = check(model, aggressive=True)
    assert "belongs to domain 'my'" in result.decisions[0].message


@pytest.mark.parametrize(("more", "outputs"), [("z = Sigmoid(b)", "y, z"), ("", "y, b"), ("", "y, r"), ("", "y, c")])
def test_somebody_else_sees_what_lies_on_the_way(more, outputs):
    init = {**WEIGHTS, **parameters(12)}
    text = f"c = Conv(x, w) {BLOCK} {more}"
    used = {name: values for name, values in init.items() if f", {name})" in text or f", {name}," in text}
    result = check(build(text, outputs=outputs, init=used), aggressive=True)
    assert result.after == result.before


def test_many_channels_may_open_a_block():
    assert "BatchNormalization" not in check(block(channels=32), aggressive=True).after


def test_another_reader_sees_the_channel():
    init = {"w": random(12, 3, 3, 3), "w2": random(12, 12, 3, 3), **parameters(12)}
    text = f"c = Conv(x, w) r = Relu(c) {NORM} y = Conv<pads=[1, 1, 1, 1]>(b, w2) z = Sigmoid(r)"
    result = check(build(text, outputs="y, z", init=init), aggressive=True)
    assert result.after == result.before


BLOCK = "r = Relu(c) b = BatchNormalization(r, g, b0, m, v) y = Conv<pads=[1, 1, 1, 1]>(b, w2)"
WEIGHTS = {"w": random(12, 3, 3, 3), "w1": random(12, 12, 1, 1, seed=5), "w2": random(12, 12, 3, 3, seed=2)}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a0 = Sub(x, k) a = Div(a0, k2) c = Conv<pads=[1, 1, 1, 1]>(a, w) " + BLOCK, ["Pad", "Conv", "Relu", "Conv"]),
        ("c0 = Conv<pads=[1, 1, 1, 1]>(x, w) c = Conv(c0, w1) " + BLOCK, ["Conv", "Relu", "Conv"]),
        (f"c = Conv(x, w) {BLOCK.replace('y =', 'y0 =')} y = Conv(y0, w1)", ["Conv", "Relu", "Conv"]),
    ],
)
def test_beside_what_else_happened_to_the_convs(body, after):
    """A fill in front of the first, a merge into the first, a merge into the second: all in one run."""
    constants = {**WEIGHTS, **parameters(12), "k": F32(5), "k2": F32(3)}
    used = {name: values for name, values in constants.items() if f", {name})" in body or f", {name}," in body}
    assert check(build(body, "float[2,3,8,8] x", init=used), aggressive=True).after == after


def test_a_map_behind_the_first_conv_has_no_such_channel():
    first = {f"{name}1": values for name, values in parameters(24, 40).items()}
    body = "a = BatchNormalization(x, g1, b01, m1, v1) c = Conv<pads=[1, 1, 1, 1], strides=[4, 4]>(a, w) " + BLOCK
    init = {**parameters(12), **first, "w": random(12, 24, 3, 3), "w2": random(24, 12, 3, 3, seed=2)}
    result = check(build(body, "float[2,24,16,16] x", init=init), aggressive=True)
    assert result.after == ["Conv", "Add", "Relu", "BatchNormalization", "Conv"]


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    pooled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_window(kernel, stride, dilation, pads, pooled, seed):
    between = "r0 = Relu(c) r = MaxPool<kernel_shape=[2, 2]>(r0)" if pooled else "r = Relu(c)"
    conv = f"y = Conv<pads={pads}, strides=[{stride}, {stride}], dilations=[{dilation}, 1]>(b, w2)"
    model = block(between, conv=conv, w2=random(24, 12, kernel, kernel, seed=seed))
    assert "BatchNormalization" not in check(model, aggressive=True, seed=seed).after
