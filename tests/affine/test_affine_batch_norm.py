"""BatchNormalization of every opset: what is inference, what is not, and which parameters are usable."""

import numpy as np
import pytest

from tests.support import batch_norm, build, check, folds, positive, random, stays

CONV = "c = Conv(x, w)"
W = random(4, 3, 3, 3)
NORM = "BatchNormalization(c, g, b, m, v)"


def conv_norm(norm=f"y = {NORM}", *, conv=CONV, inputs="float[N,3,8,8] x", outputs="y", opset=17, **extra):
    init = {"w": W, **batch_norm(4)}
    return build(f"{conv} {norm}", inputs, outputs, {**init, **extra}, opset=opset, ir=8 if opset > 8 else 3)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 17, 21, 22, 24])
def test_every_opset_folds(opset):
    folds(conv_norm(opset=opset), ["Conv"])


@pytest.mark.parametrize("attributes", ["epsilon=0.1", "momentum=0.5", "epsilon=0.001, momentum=0.99"])
def test_attributes_at_inference(attributes):
    folds(conv_norm(f"y = BatchNormalization<{attributes}>(c, g, b, m, v)"), ["Conv"])


def test_epsilon_is_the_stored_float32():
    """An epsilon of 0.1 is 0.100000001490116… in the file; with variance 0 the difference would show in float64."""
    init = {"w": random(4, 3, 1, 1, dtype=np.float64), **batch_norm(4, dtype=np.float64), "v": np.zeros(4)}
    result = folds(
        build("c = Conv(x, w) y = BatchNormalization<epsilon=0.1>(c, g, b, m, v)", "double[1,3,4,4] x", "y", init),
        ["Conv"],
    )
    scale = init["g"] / np.sqrt(np.float64(np.float32(0.1)))
    assert np.array_equal(result.operand("Conv", 1), init["w"] * scale.reshape(4, 1, 1, 1))


@pytest.mark.parametrize("opset", [1, 6])
def test_before_opset_7_is_test_decides(opset):
    shape = "float[N,4,6,6] y"
    extra = ", consumed_inputs=[0, 0, 0, 1, 1]" if opset == 1 else ""
    conv_norm_text = f"y = BatchNormalization<is_test=1{extra}>(c, g, b, m, v)"
    # The reference implementation has no BatchNormalization-1 that the checker's inference accepts: compare from 6 on.
    folds(conv_norm(conv_norm_text, outputs=shape, opset=opset), ["Conv"], run=opset >= 6)
    stays(conv_norm(outputs=shape, opset=opset), "training-mode", run=False)
    stays(
        conv_norm("y = BatchNormalization<is_test=0>(c, g, b, m, v)", outputs=shape, opset=opset),
        "training-mode",
        run=False,
    )


@pytest.mark.parametrize(
    ("norm", "outputs", "opset"),
    [
        ("y, rm, rv = BatchNormalization<training_mode=1>(c, g, b, m, v)", "y", 15),
        ("y, rm, rv = BatchNormalization<training_mode=1>(c, g, b, m, v)", "y, rm", 14),
        ("y, rm, rv = BatchNormalization<training_mode=1>(c, g, b, m, v)", "y, rv", 22),
        ("y, rm, rv = BatchNormalization(c, g, b, m, v)", "y", 15),  # invalid at inference: it says both
        ("y, rm = BatchNormalization(c, g, b, m, v)", "y", 15),
        ("y, rm, rv, sm, sv = BatchNormalization(c, g, b, m, v)", "y", 9),  # named, unused: training all the same
        ("y, rm, rv, sm, sv = BatchNormalization(c, g, b, m, v)", "y", 7),
        ("y, , , , sv = BatchNormalization(c, g, b, m, v)", "y", 9),
        ("y = BatchNormalization<training_mode=1>(c, g, b, m, v)", "y", 15),
    ],
)
def test_training_is_never_folded(norm, outputs, opset):
    declared = ", ".join(["float[N,4,6,6] y", *[f"float[4] {n.strip()}" for n in outputs.split(",")[1:]]])
    stays(conv_norm(norm, outputs=declared, opset=opset), "training-mode", run=False)


@pytest.mark.parametrize("opset", [7, 9, 15])
def test_empty_outputs_are_absent(opset):
    model = conv_norm(opset=opset)
    count = 3 if opset >= 14 else 5
    model.graph.node[1].output.extend([""] * (count - 1))
    folds(model, ["Conv"], run=False)  # runtimes crash on empty optional outputs


def test_spatial_0_stays():
    init = {"w": W, **{n: random(4, 6, 6, seed=i) for i, n in enumerate("gbm")}, "v": positive(4, 6, 6)}
    model = build(
        "c = Conv(x, w) y = BatchNormalization<spatial=0>(c, g, b, m, v)", "float[N,3,8,8] x", "y", init, opset=7
    )
    stays(model, "spatial", run=False)
    stays(conv_norm("y = BatchNormalization<spatial=0>(c, g, b, m, v)", opset=8), "spatial", run=False)
    folds(conv_norm("y = BatchNormalization<spatial=1>(c, g, b, m, v)", opset=8), ["Conv"])


def test_parameters_per_activation_stay_whatever_the_attribute_says():
    init = {"w": W, **{n: random(4, 6, 6, seed=i) for i, n in enumerate("gbm")}, "v": positive(4, 6, 6)}
    model = build(CONV + " y = " + NORM, "float[N,3,8,8] x", "float[N,4,6,6] y", init, opset=17)
    stays(model, "spatial", run=False)


@pytest.mark.parametrize(
    ("inputs", "weight", "extra"),
    [
        ("float[N,5] x", (5, 4), "c = Gemm(x, w)"),
        ("float[N,5] x", (5, 4), "c = MatMul(x, w)"),
        ("float[N,3,9] x", (4, 3, 3), CONV),
        ("float[N,3,6,7] x", (4, 3, 3, 3), CONV),
        ("float[N,3,4,5,6] x", (4, 3, 2, 2, 2), CONV),
        ("float[N,3,D,H,W] x", (4, 3, 1, 1, 1), CONV),
    ],
)
def test_ranks(inputs, weight, extra):
    result = folds(conv_norm(conv=extra, inputs=inputs, w=random(*weight)))
    assert len(result.after) == 1


def test_rank_1_has_one_channel():
    """`[N]` means C = 1."""
    init = {"w": random(5), **batch_norm(1)}
    model = build(
        "a = Mul(x, w) r = Relu(a) c = Abs(r) d = Mul(c, w) y = BatchNormalization(d, g, b, m, v)",
        "float[5] x",
        "float[5] y",
        init,
    )
    check(model, run=False)


@pytest.mark.parametrize("opset", [9, 15])
def test_gamma_0_makes_the_channel_constant(opset):
    result = folds(conv_norm(g=np.array([0, 1, -0.0, 2], np.float32), opset=opset), ["Conv"])
    weight, bias = result.operand("Conv", 1), result.operand("Conv", 2)
    beta = batch_norm(4)["b"]
    assert not weight[[0, 2]].any()
    assert np.array_equal(bias[[0, 2]], beta[[0, 2]])


def test_variance_0_is_legal():
    folds(conv_norm(v=np.array([0, 1, 0, 2], np.float32)), ["Conv"])


@pytest.mark.parametrize(
    ("parameter", "value", "key"),
    [
        ("v", -1.0, "nonpositive-variance"),
        ("v", -1e-5, "nonpositive-variance"),
        ("v", np.nan, "non-finite"),
        ("v", np.inf, "non-finite"),
        ("g", np.nan, "non-finite"),
        ("b", -np.inf, "non-finite"),
        ("m", np.inf, "non-finite"),
    ],
)
def test_broken_statistics(parameter, value, key):
    values = batch_norm(4)[parameter]
    values[2] = np.float32(value)
    stays(conv_norm(**{parameter: values}), key, run=False)


def test_negative_variance_above_minus_epsilon_is_legal():
    folds(conv_norm("y = BatchNormalization<epsilon=0.5>(c, g, b, m, v)", v=np.full(4, -0.25, np.float32)), ["Conv"])


def test_one_channel():
    folds(build(f"{CONV} y = {NORM}", "float[N,3,8,8] x", "y", {"w": random(1, 3, 3, 3), **batch_norm(1)}), ["Conv"])


def test_channels_equal_height_equal_width():
    """C = H = W = N: nothing may be inferred from sizes."""
    result = folds(
        build(f"{CONV} y = {NORM}", "float[6,6,8,8] x", "y", {"w": random(6, 6, 3, 3), **batch_norm(6)}), ["Conv"]
    )
    assert result.operand("Conv", 1).shape == (6, 6, 3, 3)


def test_computed_statistics_are_another_norm():
    body = f"{CONV} m = ReduceMean<axes=[0, 2, 3], keepdims=0>(c) y = {NORM}"
    init = {"w": W, **batch_norm(4)}
    del init["m"]
    stays(build(body, "float[2,3,8,8] x", "y", init, opset=13), "computed-stats")


def test_parameters_made_by_arithmetic_on_constants():
    body = f"{CONV} v = Mul(v0, v0) g0 = Cast<to=11>(gh) g = Cast<to=1>(g0) y = {NORM}"
    init = {"w": W, **batch_norm(4), "v0": positive(4), "gh": random(4, seed=9).astype(np.float16)}
    del init["v"], init["g"]
    folds(build(body, "float[N,3,8,8] x", "y", init), ["Conv"])


@pytest.mark.parametrize("slot", range(1, 5))
def test_a_parameter_that_is_an_input(slot):
    names = ["", "g", "b", "m", "v"]
    init = {"w": W, **batch_norm(4)}
    del init[names[slot]]
    model = build(f"{CONV} y = {NORM}", f"float[N,3,8,8] x, float[4] {names[slot]}", "y", init)
    stays(model, "dynamic-params", run=slot != 4)


def test_wrong_number_of_parameters():
    model = conv_norm(outputs="float[N,4,6,6] y")
    for array in ("g", "b", "m", "v"):
        tensor = next(t for t in model.graph.initializer if t.name == array)
        tensor.CopyFrom(__import__("onnx").numpy_helper.from_array(positive(3), array))
    stays(model, "ill-formed", run=False)


def test_two_in_a_row_and_three():
    init = {"w": W, **batch_norm(4), **batch_norm(4, seed=20, prefix="q"), **batch_norm(4, seed=30, prefix="r")}
    body = f"{CONV} d = {NORM} e = BatchNormalization(d, qg, qb, qm, qv) y = BatchNormalization(e, rg, rb, rm, rv)"
    folds(build(body, init=init), ["Conv"])


def test_on_the_graph_input_it_stays():
    stays(build("y = BatchNormalization(x, g, b, m, v)", "float[N,4,8,8] x", init=batch_norm(4)), "no-absorber")


def test_without_known_rank_behind_a_stranger():
    model = build(
        "c = my.Op(x) y = BatchNormalization(c, g, b, m, v)",
        outputs="float[N,4,8,8] y",
        init=batch_norm(4),
        domains={"my": 1},
    )
    stays(model, "shape-unknown", run=False)
