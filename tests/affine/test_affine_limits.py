"""The bounds that keep a search short: what lies just within folds, what lies just outside stays and says why."""

import numpy as np
import pytest

from normfold.affine import change, layout, padding, recognise
from normfold.affine.search import VISITS
from tests.support import batch_norm, build, plan_of, positive, random

WIDTH = 256
CHANNELS = "float[N,1,4,4] x"


def decision(model):
    return next(d for d in plan_of(model).decisions if d.node == "y")


def into_concat(width):
    """A factor in front of a Concat of `width` branches, and a Conv behind it."""
    others = ", ".join(["x"] * (width - 1))
    text = f"y = Mul(x, k) j = Concat<axis=1>(y, {others}) z = Conv(j, w)"
    return build(text, CHANNELS, "z", {"k": np.float32(2), "w": random(2, width, 1, 1)})


def behind_concat(width):
    """A factor behind a Concat of one Conv and constants."""
    others = ", ".join(["o"] * (width - 1))
    text = f"c = Conv(x, w) j = Concat<axis=1>(c, {others}) y = Mul(j, k)"
    init = {"w": random(1, 1, 1, 1), "o": np.ones((1, 1, 4, 4), np.float32), "k": np.float32(2)}
    return build(text, "float[1,1,4,4] x", "y", init)


@pytest.mark.parametrize("form", [into_concat, behind_concat])
def test_a_concat_of_too_many_branches_is_not_crossed(form):
    assert decision(form(WIDTH)).outcome.value == "applied"
    stays = decision(form(WIDTH + 1))
    assert stays.outcome.value != "applied"
    assert f"has {WIDTH + 1} inputs, more than {WIDTH}" in stays.message


@pytest.mark.parametrize(("readers", "folds"), [(VISITS, True), (VISITS + 1, False)])
def test_so_many_readers_may_take_it(readers, folds):
    convs = " ".join(f"c{i} = Conv(y, w)" for i in range(readers))
    outputs = ", ".join(f"c{i}" for i in range(readers))
    model = build(f"y = Mul(x, k) {convs}", CHANNELS, outputs, {"k": np.float32(2), "w": random(2, 1, 1, 1)})
    found = decision(model)
    assert (found.outcome.value == "applied") is folds, found.message
    assert folds or "within" in found.message


@pytest.mark.parametrize(("place", "folds"), [(15, True), (16, False)])
def test_a_shift_is_tried_on_the_first_operands_of_a_sum(place, folds):
    """Only the Conv has weights that take it; the other operands let a factor of one pass, which needs none."""
    operands = ["x"] * 20
    operands[place] = "c"
    text = f"c = Conv(x, w) s = Sum({', '.join(operands)}) y = Add(s, k)"
    model = build(text, "float[N,4,4,4] x", "y", {"w": random(4, 4, 1, 1), "k": positive(4, 1, 1)})
    assert (decision(model).outcome.value == "applied") is folds


@pytest.mark.parametrize(("depth", "folds"), [(24, True), (25, False)])
def test_so_many_branchings_inside_each_other(depth, folds):
    sums = " ".join(f"s{i + 1} = Max(s{i}, c{i + 1})" for i in range(depth))
    convs = " ".join(f"c{i} = Conv(x, w)" for i in range(depth + 1))
    text = f"{convs} s0 = Relu(c0) {sums} y = Mul(s{depth}, k)"
    model = build(text, CHANNELS, "y", {"w": random(2, 1, 1, 1), "k": np.float32(2)})
    found = decision(model)
    assert (found.outcome.value == "applied") is folds, found.message
    assert folds or "branchings inside each other" in found.message


MAP = "y = BatchNormalization(x, g, b, m, v) c = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(y, w)"
MAPPED = {"w": random(2, 4, 3, 3), **batch_norm(4)}


def test_a_map_of_very_many_elements(monkeypatch):
    model = build(MAP, "float[2,4,8,8] x", "c", MAPPED)
    assert decision(model).outcome.value == "applied"
    monkeypatch.setattr(padding, "LARGEST_MAP", 4)
    assert decision(model).code.endswith(".padded-shift")


def test_a_map_beside_a_large_weight_that_others_read(monkeypatch):
    model = build(f"{MAP} z = Relu(w)", "float[2,4,8,8] x", "c, z", MAPPED)
    assert decision(model).outcome.value == "applied"
    monkeypatch.setattr(change, "LARGEST_COPY", 0)
    assert decision(model).code.endswith(".cost")


def test_a_map_that_leaves_its_type():
    norm = {name: array.astype(np.float16) for name, array in batch_norm(4).items()}
    norm["b"] = np.float16([300, 400, 500, 600])
    for size, code in ((0.01, "NF101"), (100, "NF101.dtype-range")):
        init = {"w": np.full((2, 4, 3, 3), size, np.float16), **norm}
        assert decision(build(MAP, "float16[2,4,8,8] x", "c", init)).code == code


def test_an_affine_of_very_many_elements(monkeypatch):
    """Behind a Concat and in front of a Reshape that joins axes."""
    joined = build(
        "a = Mul(x, k) d = Concat<axis=1>(a, z) y = Conv(d, w)", "float[2,4,3,3] x, float[2,4,3,3] z", "y",
        {"k": positive(4, 1, 1), "w": random(2, 8, 1, 1)},
    )  # fmt: skip
    reshaped = build(
        "a = Mul(x, k) d = Flatten(a) y = Gemm(d, w)", "float[2,4,3,3] x", "y",
        {"k": positive(4, 1, 1), "w": random(36, 2)},
    )  # fmt: skip
    for largest, codes in ((36, ["NF102"]), (7, ["NF102.cost"])):
        monkeypatch.setattr(layout, "_LARGEST_GROUP", largest)
        for model in (joined, reshaped):
            assert [d.code for d in plan_of(model).decisions if d.node == "a"] == codes


def test_a_constant_of_very_many_elements_is_no_affine(monkeypatch):
    model = build("c = Conv(x, w) y = Mul(c, k)", init={"w": random(4, 3, 3, 3), "k": positive(4, 1, 1)})
    assert decision(model).outcome.value == "applied"
    monkeypatch.setattr(recognise, "_LARGEST_CONSTANT", 3)
    assert [d.node for d in plan_of(model).decisions] == []


def test_the_readers_behind_a_value_that_goes_are_all_kept():
    """Two factors of one tensor go, one after the other, and everybody who read them reads the tensor."""
    text = "p = Mul(x, k) y = Mul(x, k) a = Conv(p, w) b = Conv(y, w) c = Conv(x, w)"
    plan = plan_of(build(text, CHANNELS, "a, b, c", {"k": np.float32(2), "w": random(2, 1, 1, 1)}))
    start = plan.draft.bypassed[next(iter(plan.draft.bypassed))][1]
    assert [use.node.op_type for use in plan.draft.uses(start)] == ["Conv"] * 3
    assert {use.node.output.name for use in plan.draft.uses(start)} == {"a", "b", "c"}
