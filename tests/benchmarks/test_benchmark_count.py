"""Counting what a tool left: every graph, and only affines that are per-channel."""

from __future__ import annotations

import onnx
import pytest

from benchmarks.generate.small import BUILDERS
from benchmarks.measure.count import is_per_channel, is_quantised, remaining

NORMS_AND_AFFINES = {
    "conv_norm": (1, 0),
    "linear_norm": (1, 0),
    "affine_chain": (0, 4),
    "in_branch": (2, 0),
    "shared_weight": (1, 0),
}


@pytest.mark.parametrize("name", NORMS_AND_AFFINES)
def test_generated_models_hold_what_they_say(name: str) -> None:
    left = remaining(BUILDERS[name](0))
    assert (left.norms, left.affines) == NORMS_AND_AFFINES[name]


@pytest.mark.parametrize(
    ("shape", "per_channel"),
    [((8,), True), ((1, 8, 1, 1), True), ((8, 1, 1), True), ((), False), ((1,), False), ((8, 8), False), ((0,), False)],
)
def test_per_channel_means_one_axis_longer_than_one(shape: tuple[int, ...], per_channel: bool) -> None:
    assert is_per_channel(shape) is per_channel


def test_functions_and_constant_nodes_are_counted() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N, 3] x) => (float[N, 3] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 17]>
        f (x) => (y) {
            c = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            y = Mul (x, c)
        }
    """)
    assert remaining(model).affines == 1


def test_an_affine_of_two_constants_is_no_affine() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3] x) => (float[3] y) <float[3] a = {1, 2, 3}, float[3] b = {1, 2, 3}> {
            c = Mul (a, b)
            y = Add (x, c)
        }
    """)
    assert remaining(model).affines == 0


def test_a_quantised_model_is_known_by_its_nodes() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3] x) => (uint8[3] y) <float s = {0.1}> { y = QuantizeLinear (x, s) }
    """)
    assert is_quantised(model)
    assert not is_quantised(BUILDERS["conv_norm"](0))


def test_the_bias_of_a_matmul_is_no_affine() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y)
        <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] b = {1, 2, 3}> {
            c = MatMul (x, w)
            d = Add (b, c)
            e = MatMul (x, z)
            f = Add (e, b)
            y = Mul (f, b)
        }
    """)
    assert remaining(model).affines == 2
