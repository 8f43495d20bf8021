"""Small models, each one question to a folder. Every builder takes a seed; `BUILDERS` names them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from benchmarks.generate.parts import FLOAT, Dims, Sheet

IMAGE: Dims = ("N", 8, 16, 16)


def conv_norm(seed: int = 0) -> onnx.ModelProto:
    """Conv → BatchNorm → Relu: everyone folds it."""
    s = Sheet(seed)
    return s.model(IMAGE, {s.add("Relu", s.norm(s.conv("x", 8, 8), 8)): IMAGE})


def norm_conv_padded(seed: int = 0) -> onnx.ModelProto:
    """BatchNorm → padded Conv: a shift that is pushed forward is wrong at the border."""
    s = Sheet(seed)
    return s.model(IMAGE, {s.conv(s.norm("x", 8), 8, 8): IMAGE})


def conv_transpose_grouped(seed: int = 0) -> onnx.ModelProto:
    """Grouped ConvTranspose → BatchNorm: the channels of the weight are split over two axes."""
    s = Sheet(seed)
    y = s.add("ConvTranspose", "x", s.weight(8, 6, 2, 2), group=2, strides=[2, 2])
    return s.model(IMAGE, {s.norm(y, 12): ("N", 12, 32, 32)})


def linear_norm(seed: int = 0) -> onnx.ModelProto:
    """MatMul → Add → BatchNorm."""
    s = Sheet(seed)
    y = s.add("Add", s.add("MatMul", "x", s.weight(16, 24)), s.weight(24))
    return s.model(("N", 16), {s.norm(y, 24): ("N", 24)})


def gemm_transposed(seed: int = 0) -> onnx.ModelProto:
    """Gemm with alpha, beta, transB and a bias → BatchNorm."""
    s = Sheet(seed)
    y = s.add("Gemm", "x", s.weight(24, 16), s.weight(24), alpha=0.5, beta=2.0, transB=1)
    return s.model(("N", 16), {s.norm(y, 24): ("N", 24)})


def shared_weight(seed: int = 0) -> onnx.ModelProto:
    """Two Convs with one weight, a BatchNorm behind only one of them."""
    s = Sheet(seed)
    w = s.weight(8, 8, 3, 3)
    first, second = (s.add("Conv", "x", w, pads=[1] * 4) for _ in range(2))
    return s.model(IMAGE, {s.add("Add", s.norm(first, 8), second): IMAGE})


def two_readers(seed: int = 0) -> onnx.ModelProto:
    """Conv whose output is read by a BatchNorm and by the caller."""
    s = Sheet(seed)
    y = s.conv("x", 8, 8)
    return s.model(IMAGE, {s.norm(y, 8): IMAGE, y: IMAGE})


def through_concat(seed: int = 0) -> onnx.ModelProto:
    """Conv and Conv → Resize → Concat → BatchNorm → Relu."""
    s = Sheet(seed)
    scales = s.constant(np.array([1, 1, 2, 2], np.float32))
    wide = [s.add("Resize", s.conv("x", 8, 8), "", scales, mode="nearest") for _ in range(2)]
    y = s.norm(s.add("Concat", *wide, axis=1), 16)
    return s.model(IMAGE, {s.add("Relu", y): ("N", 16, 32, 32)})


def pre_activation(seed: int = 0) -> onnx.ModelProto:
    """Relu → BatchNorm → MaxPool → 1×1 Conv: only a forward fold removes it."""
    s = Sheet(seed)
    y = s.norm(s.add("Relu", s.conv("x", 8, 8)), 8)
    y = s.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    return s.model(IMAGE, {s.conv(y, 8, 8, 1): ("N", 8, 8, 8)})


def affine_chain(seed: int = 0) -> onnx.ModelProto:
    """Conv → Mul → Add → Sub → Div, each with one value per channel."""
    s = Sheet(seed)
    y = s.conv("x", 8, 8)
    for op in ("Mul", "Add", "Sub", "Div"):
        y = s.add(op, y, s.constant(s.rng.uniform(0.5, 1.5, (1, 8, 1, 1)).astype(np.float32)))
    return s.model(IMAGE, {y: IMAGE})


def flatten_gemm(seed: int = 0) -> onnx.ModelProto:
    """BatchNorm → Flatten → Gemm: a channel is a run of columns."""
    s = Sheet(seed)
    y = s.add("Flatten", s.norm(s.add("Relu", "x"), 8))
    return s.model(IMAGE, {s.add("Gemm", y, s.weight(8 * 256, 4), s.weight(4)): ("N", 4)})


def in_branch(seed: int = 0) -> onnx.ModelProto:
    """Conv → BatchNorm inside both branches of an If, with weights from the outer graph."""
    s = Sheet(seed)
    branches = [_branch(s, name) for name in ("then", "else")]
    total = s.add("ReduceSum", "x", keepdims=0)
    positive = s.add("Greater", total, s.constant(np.array(0, np.float32)))
    y = s.add("If", positive, then_branch=branches[0], else_branch=branches[1])
    return s.model(IMAGE, {y: IMAGE})


def _branch(outer: Sheet, name: str) -> onnx.GraphProto:
    before = len(outer.nodes)
    y = outer.norm(outer.conv("x", 8, 8), 8)
    nodes, outer.nodes[before:] = outer.nodes[before:], []
    for node in nodes:
        node.name, node.output[0] = f"{name}_{node.name}", f"{name}_{node.output[0]}"
    nodes[1].input[0] = nodes[0].output[0]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_{y}", FLOAT, list(IMAGE))])


BUILDERS: dict[str, Callable[[int], onnx.ModelProto]] = {
    builder.__name__: builder
    for builder in (
        conv_norm,
        norm_conv_padded,
        conv_transpose_grouped,
        linear_norm,
        gemm_transposed,
        shared_weight,
        two_readers,
        through_concat,
        pre_activation,
        affine_chain,
        flatten_gemm,
        in_branch,
    )
}
