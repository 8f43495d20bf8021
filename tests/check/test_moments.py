"""The state of a site: sums that merge, and what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from normfold.statistics.exact_sums import ExactSum
from normfold.statistics.moments import Estimate, Moments, merge

SHIFT = np.array([0.3, -2.0, 5.0])
FIGURES = ("mean", "var", "var_unbiased", "se_mean", "se_var", "n_eff", "batch_var", "psi", "low", "high", "count")


def maps(samples: int = 60, side: int = 6, seed: int = 0) -> np.ndarray:
    """`[N, 3, side, side]`, spatially correlated: each sample has an offset of its own."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(samples, 3, 1, 1))
    return own * [[[0.5]], [[1.0]], [[0.1]]] + rng.normal([[[0.0]], [[-2.0]], [[4.0]]], 1.0, (samples, 3, side, side))


def moments(x: np.ndarray, *, batch: int = 8, groups: Sequence[str] | None = None) -> Moments:
    state = Moments.empty(SHIFT, batch, grouped=groups is not None)
    for start in range(0, len(x), batch):
        part = x[start : start + batch] - SHIFT[:, None, None]
        names = None if groups is None else groups[start : start + batch]
        state.add(part.mean((2, 3)), (part**2).mean((2, 3)), np.full(len(part), part[0, 0].size), names)
    return state


def figures(found: Estimate) -> np.ndarray:
    return np.stack([np.asarray(getattr(found, name), np.float64) for name in FIGURES])


def test_they_are_the_moments_of_the_values() -> None:
    x = maps()
    found = moments(x).estimate()
    np.testing.assert_allclose(found.mean, x.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.var, x.var((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.var_unbiased, x.var((0, 2, 3), ddof=1), rtol=1e-13)
    np.testing.assert_allclose(found.low, x.mean((2, 3)).min(0), rtol=1e-12)
    assert found.samples == found.clusters == 60
    assert found.batches == 7  # the last batch has four samples


def test_standard_errors_are_those_of_samples_not_of_pixels() -> None:
    x = maps()
    found = moments(x).estimate()
    a = x.mean((2, 3))
    np.testing.assert_allclose(found.se_mean, a.std(0, ddof=1) / np.sqrt(60), rtol=1e-11)
    centred = x - x.mean((0, 2, 3), keepdims=True)
    influence = (centred**2).mean((2, 3))
    np.testing.assert_allclose(found.se_var, influence.std(0, ddof=1) / np.sqrt(60), rtol=1e-10)
    assert (found.n_eff < 60 * 36).all()


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_any_split_and_any_order_is_one_pass(parts: int) -> None:
    x = maps(64)
    whole = figures(moments(x).estimate())
    batches = np.array_split(np.arange(8), parts)
    shards = [moments(np.concatenate([x[8 * b : 8 * b + 8] for b in dealt])) for dealt in batches]
    for order in (shards, shards[::-1]):
        np.testing.assert_allclose(figures(merge(order).estimate()), whole, rtol=1e-12, atol=0)


def test_a_sum_that_cancels_merges_as_well() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(64, 3))
    a[32:] = -a[:32] * (1 + 1e-14)  # the mean is a rounding error of its terms
    ones = np.ones(64)

    def state(rows: np.ndarray) -> Moments:
        made = Moments.empty(np.zeros(3), 4)
        made.add(rows, rows**2, ones[: len(rows)])
        return made

    whole = state(a).estimate().mean
    split = merge([state(part) for part in (a[50:], a[:7], a[7:50])]).estimate().mean
    assert (whole != 0).all()
    np.testing.assert_allclose(split, whole, rtol=1e-12, atol=0)


def test_groups_are_clusters() -> None:
    x = np.repeat(maps(12), 5, axis=0)  # every sample five times: no more is known than from twelve
    groups = [f"g{i // 5}" for i in range(60)]
    grouped, alone = moments(x, groups=groups).estimate(), moments(maps(12)).estimate()
    assert grouped.clusters == 12
    np.testing.assert_allclose(grouped.se_mean, alone.se_mean, rtol=1e-11)
    np.testing.assert_allclose(grouped.se_var, alone.se_var, rtol=1e-10)
    assert (moments(x).estimate().se_mean < 0.6 * grouped.se_mean).all()
    halves = merge([moments(x[8:], groups=groups[8:]), moments(x[:8], groups=groups[:8])])
    np.testing.assert_allclose(halves.estimate().se_mean, grouped.se_mean, rtol=1e-12)


def test_unequal_samples_are_weighted_by_their_size() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(1, 3, side, side)) for side in (2, 3, 7)]
    state = Moments.empty(np.zeros(3), 1)
    for part in parts:
        state.add(part.mean((2, 3)), (part**2).mean((2, 3)), np.array([part[0, 0].size]))
    flat = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)
    found = state.estimate()
    np.testing.assert_allclose(found.mean, flat.mean(1), rtol=1e-13)
    np.testing.assert_allclose(found.var, flat.var(1), rtol=1e-13)
    weights, means = np.array([4, 9, 49.0])[:, None], np.concatenate([part.mean((2, 3)) for part in parts])
    expected = np.sqrt(1.5 * ((weights * (means - flat.mean(1))) ** 2).sum(0)) / 62
    np.testing.assert_allclose(found.se_mean, expected, rtol=1e-11)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    x = maps(16)
    whole = moments(np.delete(x, 3, axis=0)).estimate()
    x[3, 1] = np.nan
    found = moments(x).estimate()
    assert found.non_finite.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.mean[1], whole.mean[1], rtol=1e-13)
    assert np.isfinite(found.var).all()


def test_unshuffled_batches_show() -> None:
    x = maps(64)
    shuffled = moments(x).estimate()
    order = np.argsort(x[:, 1].mean((1, 2)))
    ordered = moments(x[order]).estimate()
    assert 0.2 < shuffled.shuffling[1] < 3
    assert ordered.shuffling[1] > 5
    np.testing.assert_allclose(ordered.var, shuffled.var, rtol=1e-12)
    assert (ordered.psi[1] > shuffled.psi[1]) and ordered.batch_var[1] < ordered.var[1]


def test_nothing_seen_says_nothing() -> None:
    found = Moments.empty(SHIFT, 4).estimate()
    assert np.isnan(found.mean).all()
    one = Moments.empty(SHIFT, 4)
    one.add(np.ones((1, 3)), np.ones((1, 3)) * 2, np.array([9]))
    assert np.isnan(one.estimate().se_mean).all()
    np.testing.assert_allclose(one.estimate().var, 1.0)


def test_what_does_not_belong_together_is_refused() -> None:
    state = Moments.empty(SHIFT, 4)
    with pytest.raises(ValueError, match="shift"):
        state.merged(Moments.empty(SHIFT + 1, 4))
    with pytest.raises(ValueError, match="batch size"):
        state.merged(Moments.empty(SHIFT, 8))
    with pytest.raises(ValueError, match="group key"):
        state.merged(Moments.empty(SHIFT, 4, grouped=True))
    with pytest.raises(ValueError, match="belong together"):
        state.add(np.ones((2, 3)), np.ones((2, 3)), np.ones(1))
    with pytest.raises(ValueError, match="groups"):
        state.add(np.ones((2, 3)), np.ones((2, 3)), np.ones(2), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        Moments.empty(np.array([np.nan]), 4)
    with pytest.raises(ValueError, match="nothing"):
        merge([])


def test_exact_sums_lose_nothing() -> None:
    terms = np.array([[1e16], [1.0], [-1e16], [3e-17], [-1.0]])
    assert ExactSum.over_first(terms).value.tolist() == [3e-17]
    backwards = ExactSum.over_first(terms[::-1])
    assert backwards.value.tolist() == [3e-17]
    assert (backwards + ExactSum.over_first(terms[:0])).value.tolist() == [3e-17]
