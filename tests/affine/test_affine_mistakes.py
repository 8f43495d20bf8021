"""Mistakes of other tools, each with its record where there is one; those with a table elsewhere are named there."""

import numpy as np
import pytest

from tests.support import batch_norm, build, check, folds, positive, random, stays

NORM = "y = BatchNormalization(c, g, b, m, v)"


def test_the_bias_is_scaled_too():
    """Tencent/ncnn#1339, microsoft/onnxconverter-common#58."""
    init = {"w": random(4, 3, 3, 3), "wb": random(4, seed=2), "k": positive(4, 1, 1)}
    result = folds(build("c = Conv(x, w, wb) y = Mul(c, k)", init=init), ["Conv"])
    assert np.array_equal(result.operand("Conv", 2), init["wb"] * init["k"].reshape(-1))


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_beta_is_used_up_once(beta):
    """microsoft/onnxscript#3027."""
    init = {"w": random(5, 4), "wb": random(4, seed=2), "k": positive(4)}
    result = folds(build(f"c = Gemm<beta={beta}>(x, w, wb) y = Mul(c, k)", "float[2,5] x", "y", init), ["Gemm"])
    assert [a.f for a in result.node("Gemm").attribute if a.name == "beta"] in ([1.0], [])


@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_transpose_is_not_scaled_on_axis_0(group):
    """ultralytics/ultralytics#25364, onnx/optimizer#106, microsoft/onnxscript#2867, pytorch/executorch#22517,
    NVIDIA/TensorRT#1699, SonySemiconductorSolutions/mct-model-optimization#1115: Cin = Cout hides the axis."""
    init = {"w": random(4, 4 // group, 3, 3), **batch_norm(4)}
    text = f"c = ConvTranspose<group={group}, strides=[2, 2], output_padding=[1, 1]>(x, w) {NORM}"
    folds(build(text, "float[2,4,5,5] x", "y", init), ["ConvTranspose"])


def test_grouped_conv_keeps_its_shape():
    """openvinotoolkit/openvino#1882."""
    init = {"w": random(6, 2, 3, 3), **batch_norm(6)}
    result = folds(build(f"c = Conv<group=3>(x, w) {NORM}", "float[1,6,5,5] x", "y", init), ["Conv"])
    assert result.operand("Conv", 1).shape == (6, 2, 3, 3)


def test_no_gemm_of_rank_3():
    """open-mmlab/mmdeploy#2676."""
    init = {"w": random(5, 4), "k": positive(4), "t": random(4)}
    result = folds(build("c = MatMul(x, w) d = Mul(c, k) y = Add(d, t)", "float[2,3,5] x", "y", init))
    assert "Gemm" not in result.after


def test_a_width_is_no_channel():
    """onnx/tensorflow-onnx#2152, openvinotoolkit/openvino#25649."""
    init = {"w": random(6, 3, 3, 3), "k": positive(6)}
    stays(build("c = Conv(x, w) y = Add(c, k)", init=init), "not-per-channel")


@pytest.mark.parametrize("activation", ["Relu", "Clip", "Sigmoid"])
def test_an_activation_in_between_is_not_ignored(activation):
    """pytorch/glow#5892, apache/tvm#2182."""
    text = f"c0 = Conv(x, w) c = {activation}(c0) {NORM}"
    result = check(build(text, init={"w": random(4, 3, 3, 3), **batch_norm(4)}))
    assert not result.applied


def test_both_of_two_batch_norms_and_not_only_neighbours():
    """onnx/tensorflow-onnx#2186, onnx/tensorflow-onnx#871."""
    init = {"w": random(4, 3, 3, 3), **batch_norm(4), **batch_norm(4, seed=8, prefix="q", sign=False)}
    text = (
        "c0 = Conv(x, w) c1 = BatchNormalization(c0, g, b, m, v) c2 = AveragePool<kernel_shape=[2, 2]>(c1) "
        "y = BatchNormalization(c2, qg, qb, qm, qv)"
    )
    folds(build(text, init=init), ["Conv", "AveragePool"])


def test_unused_statistics_are_not_stripped_first():
    """microsoft/onnxruntime#2216, microsoft/onnxscript#2969, onnx/ir-py#490."""
    text = "c = Conv(x, w) y, r, s, t, u = BatchNormalization(c, g, b, m, v)"
    model = build(text, outputs="float[N,4,6,6] y", init={"w": random(4, 3, 3, 3), **batch_norm(4)}, opset=9)
    stays(model, "training-mode", run=False)


def test_a_fused_tensor_that_is_an_output_keeps_its_name():
    """microsoft/onnxruntime#28559, robertknight/rten#708: neither the node's name nor another tensor's."""
    model = build(f"c = Conv(x, w) {NORM} z = Relu(y)", outputs="y, z", init={"w": random(4, 3, 3, 3), **batch_norm(4)})
    model.graph.node[0].name = "y"
    folds(model, ["Conv", "Relu"])


# --- in front --------------------------------------------------------------------------------------------------------

FRONT = "c = BatchNormalization(x, g, b, m, v)"


@pytest.mark.parametrize("attributes", ["pads=[1, 1, 1, 1]", "pads=[0, 1, 0, 0]", 'auto_pad="SAME_UPPER"'])
def test_a_shift_is_not_pushed_into_a_padded_kernel(attributes):
    """Right inside of the image and wrong on its border, by as much as the shift is large."""
    init = {**batch_norm(3), "w": random(4, 3, 3, 3)}
    stays(build(f"{FRONT} y = Conv<{attributes}>(c, w)", "float[2,3,8,8] x", init=init), "padded-shift")


def test_a_gamma_of_zero_is_zero():
    """Others put 1e-10 in its place to be able to divide by it."""
    parameters = batch_norm(3, sign=False)
    parameters["g"][1] = 0
    result = folds(
        build(f"{FRONT} r = Relu(c) y = Conv(r, w)", init={**parameters, "w": random(4, 3, 1, 1)}), ["Conv", "Max"]
    )
    assert not result.operand("Conv", 1)[:, 1].any()


def test_a_gate_takes_the_scale_once():
    """apache/tvm#17151: squeeze-excite, whose gate reads what it multiplies."""
    init = {"k": positive(3, 1, 1), "w": random(3, 3, 1, 1), "w2": random(4, 3, 1, 1)}
    body = "p = GlobalAveragePool(x) s = Conv(p, w) u = Sigmoid(s) a = Mul(x, k) d = Mul(a, u) y = Conv(d, w2)"
    folds(build(body, init=init), ["GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv"])


@pytest.mark.parametrize("perm", [[0, 1, 2], [0, 2, 1]])
def test_equal_sizes_are_no_proof_of_an_axis(perm):
    """A square product behind a Transpose: only one of the two permutations has its columns on axis 1."""
    init = {**batch_norm(4), "w": random(5, 4)}
    body = f"a = MatMul(x, w) c = Transpose<perm={perm}>(a) y = BatchNormalization(c, g, b, m, v)"
    result = check(build(body, "float[2,4,5] x", init=init))
    assert result.after == (
        ["MatMul", "Transpose", "BatchNormalization"] if perm == [0, 1, 2] else ["MatMul", "Add", "Transpose"]
    )


def test_one_weight_behind_two_norms():
    """Tencent/TNN#808: the weight of one becomes that of the other; results remembered by the name of a weight."""
    second = {f"{name}2": values for name, values in batch_norm(3, seed=20).items()}
    body = f"{FRONT} d = BatchNormalization(x, g2, b2, m2, v2) y = Conv(c, w) z = Conv(d, w)"
    result = folds(
        build(body, outputs="y, z", init={**batch_norm(3), **second, "w": random(4, 3, 3, 3)}), ["Conv", "Conv"]
    )
    first, other = (node.input[1] for node in result.model.graph.node)
    assert first != other


@pytest.mark.parametrize("stride", [1, 2])
def test_every_phase_of_a_transposed_convolution_sees_its_own_taps(stride):
    """A shift in front of it is a bias only if every tap reaches every output pixel."""
    init = {**batch_norm(3), "w": random(3, 4, 1, 1)}
    model = build(f"{FRONT} y = ConvTranspose<strides=[{stride}, {stride}]>(c, w)", init=init)
    (folds(model, ["ConvTranspose"]) if stride == 1 else stays(model, "padded-shift"))
