"""The definition of a norm, against torch where torch has it and against sums by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.norm.reference import normalise
from normfold.norm.rows import Rows, Statistics
from tests.norm.spellings import along, norm_of

RNG = np.random.default_rng(0)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    centred=st.booleans(),
    epsilon=st.sampled_from([1e-5, 0.1]),
)
def test_any_axes(shape, data, centred, epsilon):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True).map(sorted))
    x = np.random.default_rng(0).standard_normal(shape)
    norm = norm_of(shape, axes, centred=centred, epsilon=epsilon)
    mean = x.mean(tuple(axes), keepdims=True) * centred
    variance = ((x - mean) ** 2).mean(tuple(axes), keepdims=True)
    np.testing.assert_allclose(normalise(norm, x), (x - mean) / np.sqrt(variance + epsilon), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_of_contiguous_channels(channel, groups):
    torch = pytest.importorskip("torch")
    x = RNG.standard_normal((2, 6, 4, 5) if channel == 1 else (2, 4, 5, 6))
    gamma, beta = RNG.standard_normal((2, 6))
    norm = norm_of(x.shape, [a for a in (1, 2, 3) if a != channel], groups=groups, channel=channel,
                   gamma=along(channel, 4, gamma), beta=along(channel, 4, beta))  # fmt: skip
    first = np.moveaxis(x, channel, 1).copy()
    wanted = torch.nn.functional.group_norm(
        torch.from_numpy(first), groups, torch.from_numpy(gamma), torch.from_numpy(beta), norm.epsilon
    )
    np.testing.assert_allclose(normalise(norm, x), np.moveaxis(wanted.numpy(), 1, channel), rtol=1e-9, atol=1e-11)


def test_named_operands_take_the_place_of_parameters():
    x, scale, bias = RNG.standard_normal((2, 3, 4)), RNG.standard_normal(4), RNG.standard_normal(4)
    named = norm_of((2, 3, 4), [2], scale="s", bias="t")
    fixed = norm_of((2, 3, 4), [2], gamma=scale[None, None], beta=bias[None, None])
    np.testing.assert_array_equal(normalise(named, x, {"s": scale, "t": bias}), normalise(fixed, x))


def test_a_mean_that_dwarfs_the_deviation_costs_no_digits():
    """Against exact arithmetic: E[x²] - μ² would be off by a thousandth."""
    row = 1e6 + np.arange(8.0) / 8
    exact = [Fraction(value) for value in row]
    mean = sum(exact) / 8
    deviation = float(sum((value - mean) ** 2 for value in exact) / 8) ** 0.5
    got = normalise(norm_of((1, 8), [1], epsilon=0.0), row[None])
    np.testing.assert_allclose(got[0], [float(value - mean) / deviation for value in exact], rtol=1e-15)


def test_zero_by_zero_is_no_number():
    assert np.isnan(normalise(norm_of((1, 4), [1], epsilon=0.0), np.zeros((1, 4)))).all()


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="do not divide"):
        normalise(norm_of((2, 5, 3), [2], groups=2, channel=1), np.ones((2, 5, 3)))
    with pytest.raises(ValueError, match="turn"):
        normalise(norm_of((2, 1), [1], gamma=np.ones((1, 3))), np.ones((2, 1)))


@pytest.mark.parametrize("groups", [None, 1, 2, 4])
def test_rows_there_and_back(groups):
    shape = (3, 4, 5, 2)
    grouping = {} if groups is None else {"groups": groups, "channel": 1}
    rows = Rows(Statistics.of(norm_of(shape, [0, 2], **grouping)), shape)
    x = RNG.standard_normal(shape)
    np.testing.assert_array_equal(rows.scatter(rows.gather(x)), x)
    assert rows.count * rows.length == x.size
    assert rows.gather(x).flags.c_contiguous


@pytest.mark.parametrize("extents", [(1, 1, 1), (1, 4, 1), (1, 1, 5), (3, 4, 5)])
@pytest.mark.parametrize("groups", [None, 2])
def test_the_largest_parameter_of_a_row(extents, groups):
    shape = (3, 4, 5)
    grouping = {} if groups is None else {"groups": groups, "channel": 1}
    rows = Rows(Statistics.of(norm_of(shape, [2], **grouping)), shape)
    parameter = RNG.standard_normal(extents)
    wanted = np.abs(rows.gather(np.ascontiguousarray(np.broadcast_to(parameter, shape)))).max(axis=1)
    np.testing.assert_array_equal(rows.largest(parameter), wanted)
