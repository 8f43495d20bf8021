"""Where a norm may begin, and what it may be a norm of."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.norm.seeds import bases, is_seed
from normfold.norm.sites import is_norm_operator
from tests.model.build import viewed
from tests.support import build

CONSTANTS = {
    "two": np.float32(2),
    "three": np.float32(3),
    "pair": np.full(2, 2, np.float32),
    "vector": np.full(4, 2, np.float32),
    "table": np.ones((2, 4), np.float32),
}
SEED = "y = ReduceMean<axes=[-1]>"


def model_of(text):
    init = {name: array for name, array in CONSTANTS.items() if name in text}
    domains = {"my": 1, "com.microsoft": 1}
    return viewed(build(text, "float[2,4] x, float[2,4] z", "float[2,1] y", init, domains=domains))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"{SEED}(x)", ["x"]),
        (f"a = Mul(x, x) {SEED}(a)", ["a", "x"]),
        (f"a = Mul(x, z) {SEED}(a)", ["a"]),
        (f"a = Pow(x, two) {SEED}(a)", ["a", "x"]),
        (f"a = Pow(x, three) {SEED}(a)", ["a"]),
        (f"a = Pow(x, z) {SEED}(a)", ["a"]),
        (f"a = Pow(x, vector) {SEED}(a)", ["a"]),
        (f"a = Add(x, two) {SEED}(a)", ["a"]),
        (f"a = Mul(x, two) {SEED}(a)", ["a", "x"]),
        (f"a = Mul(two, x) {SEED}(a)", ["a", "x"]),
        (f"a = Mul(x, vector) {SEED}(a)", ["a"]),
        (f"a = Mul(vector, x) {SEED}(a)", ["a"]),
        (f"a = Div(x, two) {SEED}(a)", ["a", "x"]),
        (f"a = Div(two, x) {SEED}(a)", ["a"]),
        (f"a = Neg(x) {SEED}(a)", ["a", "x"]),
        (f"a = Mul(x) {SEED}(a)", ["a"]),
        (f"a = Cast<to=1>(x) {SEED}(a)", ["a", "x"]),
        (f"a = Max(x, two) {SEED}(a)", ["a"]),
        (f"a = my.Neg(x) {SEED}(a)", ["a"]),
        (f"a = Neg(table) {SEED}(a)", []),
        (f"{SEED}(table)", []),
        (f"a = RandomNormal<shape=[2, 4]>() {SEED}(a)", ["a"]),
    ],
)
def test_bases(body, found):
    loaded, constants, _ = model_of(body)
    seed = loaded.graph.values["y"].producer
    assert [value.name for value, _ in bases(constants, seed)] == found
    assert all(len(path) == i for i, (_, path) in enumerate(bases(constants, seed)))


def test_the_way_back_is_bounded():
    chain = " ".join(f"a{i + 1} = Neg(a{i})" for i in range(12))
    loaded, constants, _ = model_of(f"a0 = Neg(x) {chain} {SEED}(a12)")
    assert len(list(bases(constants, loaded.graph.values["y"].producer))) == 8


def test_a_tensor_from_outside_of_a_body_is_a_base_and_what_is_before_it_is_not():
    text = (
        "a = Neg(x) y = If (p) <then_branch = t () => (float[2,1] o) { o = ReduceMean<axes=[-1]>(a) }, "
        "else_branch = e () => (float[2,1] q) { q = ReduceMean<axes=[-1]>(z) }>"
    )
    loaded, constants, _ = viewed(build(text, "float[2,4] x, float[2,4] z, bool p", "float[2,1] y"))
    seed = next(node for scope in loaded.scopes() for node in scope.nodes if node.op_type == "ReduceMean")
    assert [value.name for value, _ in bases(constants, seed)] == ["a"]


@pytest.mark.parametrize(
    ("call", "seed", "norm"),
    [
        ("ReduceMean", True, False),
        ("LayerNormalization", True, True),
        ("SimplifiedLayerNormalization", True, True),
        ("MeanVarianceNormalization", True, True),
        ("GroupNormalization", True, True),
        ("Relu", False, False),
        ("com.microsoft.GroupNorm", True, True),
        ("com.microsoft.SkipLayerNormalization", False, True),
        ("com.microsoft.ReduceMean", False, False),
        ("com.microsoft.LayerNormalization", False, True),
        ("my.GroupNorm", False, False),
        ("my.LayerNormalization", False, False),
        ("GroupNorm", False, False),
        ("SkipLayerNormalization", False, False),
    ],
)
def test_operators(call, seed, norm):
    (node,) = model_of(f"y = {call}(x)")[0].graph.nodes
    assert (is_seed(node), is_norm_operator(node)) == (seed, norm)
