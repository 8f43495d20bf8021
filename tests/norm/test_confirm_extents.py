"""The shapes on which a norm is confirmed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from normfold.norm.extents import SIZE_LIMIT, attempts
from normfold.norm.probes import THOROUGH
from normfold.norm.reasons import Refused
from normfold.norm.rows import Statistics
from normfold.norm.trials import Trials
from tests.model.build import node
from tests.norm.spellings import along, group_norm_idiom, layer_norm, norm_of, torch_layer_norm, vector

COMFORTABLE = 1 << 20


def test_symbols_that_are_equal_are_the_same_number():
    (attempt,) = attempts(norm_of(("n", "s", "s", None, None), [4]), COMFORTABLE)
    for shape in attempt:
        assert shape[1] == shape[2]
        assert len({*shape}) == 4
    assert all(a != b for a, b in zip(*attempt, strict=True))


def test_no_unknown_extent_is_that_of_a_known_one():
    ((first, second),) = attempts(norm_of(("n", 2, 3, "w"), [3]), COMFORTABLE)
    assert first[1:3] == second[1:3] == (2, 3)
    assert {first[0], first[3], second[0], second[3]}.isdisjoint({2, 3})


def test_rows_are_longer_than_two():
    for norm in (norm_of((4, "n"), [1]), norm_of(("n", "n"), [0]), norm_of((1, 1 << 21), [1])):
        for shape in attempts(norm, COMFORTABLE)[0]:
            assert min(shape[axis] for axis in norm.axes) >= 5


def test_parameters_and_groups_decide_unknown_extents():
    norm = norm_of((None, "c", "h"), [2], gamma=np.ones((1, 6, 1)))
    assert all(shape[1] == 6 for shape in attempts(norm, COMFORTABLE)[0])
    grouped = norm_of((None, "c", "h"), [2], groups=4, channel=1)
    assert all(shape[1] % 4 == 0 and shape[1] > 4 for shape in attempts(grouped, COMFORTABLE)[0])


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="different extents"):
        attempts(norm_of((1, 6), [1], gamma=np.ones((1, 6)), beta=np.ones((1, 5))), COMFORTABLE)
    with pytest.raises(ValueError, match="extent 5"):
        attempts(norm_of((1, 6), [1], gamma=np.ones((1, 5))), COMFORTABLE)
    with pytest.raises(ValueError, match="not known"):
        attempts(norm_of((None,) * 17, [16]), COMFORTABLE)


def test_a_large_tensor_is_tried_with_few_rows_first():
    norm = norm_of((1, 2048, 1024), [2], gamma=np.ones((1, 1, 1024)))
    small, full = attempts(norm, COMFORTABLE)
    assert small == ((1, 2, 1024), (1, 3, 1024))
    assert full == ((1, 2048, 1024),)


def test_a_tensor_beyond_the_limit_is_tried_with_fewer_elements_in_a_row():
    norm = norm_of((1, 512, 512, 512), [2, 3], gamma=np.ones((1, 512, 1, 1)), groups=32, channel=1)
    (only,) = attempts(norm, COMFORTABLE)
    assert only == ((1, 512, 5, 7), (1, 512, 7, 5))
    assert not attempts(norm_of((1, SIZE_LIMIT + 1), [1], gamma=np.ones((1, SIZE_LIMIT + 1))), COMFORTABLE)


def test_a_graph_that_insists_on_its_extents_is_confirmed_on_them():
    """The Reshape is to constants: with fewer rows it cannot be evaluated."""
    dims = (1, 2048, 1024)
    case = torch_layer_norm()
    g = vector(1024)
    nodes = [node("Reshape", ["x", "dims"], ["r"]), *(rename(n) for n in case.nodes)]
    weights = {**case.weights, "g": g, "b": g, "dims": np.int64(dims)}
    norm = norm_of(dims, [2], gamma=along(2, 3, g), beta=along(2, 3, g))
    static = replace(case, nodes=nodes, inputs={"x": list(dims)}, weights=weights, norm=norm)
    assert static.confirm(thorough=False).shapes == (dims,)
    with pytest.raises(Refused):
        static.taken_for(epsilon=1.01e-5).confirm(thorough=False)


def rename(old):
    attributes = {a.name: list(a.ints) for a in old.attribute}
    return node(old.op_type, ["r" if n == "x" else n for n in old.input], list(old.output), **attributes)


def test_a_norm_that_is_too_large_is_refused():
    dims = (1, 1, SIZE_LIMIT + 1)
    case = layer_norm(torch_layer_norm().nodes[:-2])
    with pytest.raises(Refused, match="elements"):
        replace(case, norm=norm_of(dims, [2], gamma=np.ones(dims))).confirm()


@pytest.mark.parametrize("thorough", [False, True])
def test_a_find_whose_mistakes_rounding_would_hide_is_refused(thorough):
    """The coefficients were moved so far that every bound is too wide."""
    torch_layer_norm().confirm(thorough=thorough, snap=1e-6)
    with pytest.raises(Refused, match="hide a mistake"):
        torch_layer_norm().confirm(thorough=thorough, snap=1.0)


def test_rows_that_are_no_standard_ones_do_not_prove_it_alone():
    """The bound of ordinary data is too wide, and that of data below the root of epsilon is not."""
    with pytest.raises(Refused, match="hide a mistake"):
        torch_layer_norm().confirm(thorough=True, snap=6e-4)


def test_what_is_no_norm_of_that_kind_at_all():
    case = torch_layer_norm()
    whole = replace(case, nodes=[node("Cast", ["x"], ["y"], to=7)], inputs={"x": [2, 4, 6]}, weights={})
    plain = norm_of((2, 4, 6), [2])
    with pytest.raises(Refused, match=r"becomes int64 \[2, 4, 6\]"):
        replace(whole, norm=plain).confirm()
    with pytest.raises(Refused, match="3 groups do not divide 4 channels"):
        replace(whole, norm=replace(plain, groups=3, channel=1)).confirm()


def test_a_large_group_norm_is_confirmed_and_its_mutations_are_not():
    dims = (1, 12, 700, 700)
    case = group_norm_idiom()
    static = replace(case, inputs={"x": list(dims)}, norm=replace(case.norm, dims=dims))
    assert static.confirm().shapes == ((1, 12, 5, 7), (1, 12, 7, 5))
    with pytest.raises(Refused):
        static.taken_for(epsilon=1.01e-5).confirm()


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13, 14, 40])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_rows_are_of_the_kinds_that_they_are_said_to_be(count, offset):
    trial = Trials(Statistics.of(norm_of((count, 8), [1])), (count, 8), THOROUGH).at(offset)
    names = [trial.probe(row) for row in range(count)]
    for row, name in zip(trial.x, names, strict=True):
        assert np.isfinite(row).all()
        assert (name == "zeros") == (not row.any())
        assert (name in ("zeros", "constant rows")) == (np.ptp(row) == 0)
        assert (name == "mean 1000, deviation 1") == (row.min() > 900)
        assert (name == "one outlier of 10000") == (row.max() > 5000)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 32, 500])
@pytest.mark.parametrize("length", [1, 8, 1 << 12, 1 << 16])
def test_every_kind_occurs_in_the_rounds(rows, length):
    offsets = Trials(Statistics.of(norm_of((rows, length), [1])), (rows, length), THOROUGH).offsets(COMFORTABLE)
    assert {(row + offset) % len(THOROUGH) for offset in offsets for row in range(rows)} == set(range(len(THOROUGH)))
    assert len(offsets) <= len(THOROUGH)
    assert math.prod((len(offsets), rows, length)) <= max(COMFORTABLE, len(THOROUGH) * length + rows * length)
