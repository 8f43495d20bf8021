"""Spellings of real exporters: values that are only measured, and constants in disguise."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import normfold
from tests.support import batch_norm, build, folds, random, stays

INIT = {"w": random(4, 3, 3, 3), **batch_norm(4)}
NORM = "y = BatchNormalization(c, g, b, m, v)"


def test_a_reader_of_the_shape_sees_no_change():
    """torch's `x.view(x.size(0), -1)`: Shape reads the tensor between Conv and BatchNormalization."""
    text = f"c = Conv(x, w) {NORM} s = Shape(c) n = Size(c)"
    result = folds(build(text, outputs="y, s, n", init=INIT), ["Conv", "Shape", "Size"])
    assert result.applied == 1


@pytest.mark.parametrize("asks", ["EyeLike(c)", "CastLike(k, c)"])
def test_a_reader_of_the_type_sees_no_change(asks):
    """torch.export without optimisation: constants are cast like what they meet."""
    init = {**batch_norm(4), "w": random(5, 4), "k": np.array([2])}
    model = build(f"c = MatMul(x, w) {NORM} t = {asks}", "float[N,5] x", "y, t", init, opset=18)
    result = folds(model, ["Gemm", asks.split("(")[0]])
    assert result.applied == 1


def test_a_reader_of_the_type_that_reads_the_elements_too():
    stays(build(f"c = Conv(x, w) {NORM} t = CastLike(c, c)", outputs="y, t", init=INIT, opset=18), "shared")


def test_a_reader_of_the_elements_beside_a_reader_of_the_shape():
    text = f"c = Conv(x, w) {NORM} s = Shape(c) r = Relu(c)"
    stays(build(text, outputs="y, s, r", init=INIT), "shared")


def test_a_measured_value_passes_the_whole_gate():
    """The region has to leave out what only a Shape reads: its elements do change."""
    text = f"c = Conv(x, w) {NORM} s = Shape(c)"
    report = normfold.optimize(build(text, outputs="y, s", init=INIT)).report
    assert report.status == "optimized"
    assert report.verification is not None
    assert report.verification.verdict == "PASS"
    assert not report.dropped


def test_the_bias_that_torch_spells_out_for_a_convolution_without_one():
    """torch.export: zeros(weight.shape[0]).to(x.dtype), as Shape(start, end) - Expand - CastLike - Expand."""
    nodes = [
        helper.make_node("Shape", ["w"], ["rows"], start=0, end=1),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("CastLike", ["zero", "x"], ["typed"]),
        helper.make_node("Expand", ["typed", "rows"], ["bias"]),
        helper.make_node("Conv", ["x", "w", "bias"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "export",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [
            helper.make_tensor(k, TensorProto.FLOAT, v.shape, v.astype(np.float32).tobytes(), raw=True)
            for k, v in INIT.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folds(model, ["Conv"])


def test_an_unflattened_linear_layer():
    """nn.Unflatten: the shape is pieced together from Shape, Slice and arithmetic on the axis."""
    init = {
        "k": random(6, 32),
        **batch_norm(2),
        "zero": np.array([0]),
        "at": np.array([1]),
        "rank": np.array([2]),
        "one": np.array([1]),
        "end": np.array([2**62]),
        "part": np.array([2, 4, 4]),
    }
    text = """
        h = MatMul(x, k) s = Shape(h) cut = Mod(at, rank) head = Slice(s, zero, cut)
        next = Add(cut, one) tail = Slice(s, next, end) shape = Concat<axis=0>(head, part, tail)
        c = Reshape(h, shape) y = BatchNormalization(c, g, b, m, v)
    """
    result = build(text, "float[N,6] x", "float[N,2,4,4] y", init)
    assert "BatchNormalization" not in [node.op_type for node in normfold.optimize(result).model.graph.node]
