"""Mistakes of other tools (reference, section 9), the backward half; those with a table elsewhere are named there."""

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
