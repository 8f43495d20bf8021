"""Effects, tests and verdicts, against numbers that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normfold.statistics.judging.distributions import (
    benjamini_hochberg,
    spread,
    t_quantile,
    two_sided_p,
    weighted_quantile,
)
from normfold.statistics.judging.effects import Effect, effect, significance
from normfold.statistics.judging.layers import verdicts
from normfold.statistics.moments import Estimate, Moments
from normfold.statistics.schema import Status
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import open_subject
from normfold.statistics.thresholds import Thresholds
from tests.model.build import net, node

T = Thresholds()


def site(mean: np.ndarray, var: np.ndarray, gamma: np.ndarray | None = None) -> StatSite:
    c = len(mean)
    weights = {"gamma": np.ones(c) if gamma is None else gamma, "beta": np.zeros(c), "mean": mean, "var": var}
    model = net(
        [node("BatchNormalization", ["x", *weights], ["y"], epsilon=1e-5)],
        {"x": ["N", c, "H", "W"]},
        ["y"],
        {name: value.astype(np.float32) for name, value in weights.items()},
    )
    return open_subject(model).sites[0]


def measured(mean: float, sd: float, *, samples: int = 400, channels: int = 16, own: float = 0.4) -> Estimate:
    """Moments of channels of this mean and standard deviation; `own` is the share that samples have of their own."""
    rng = np.random.default_rng(3)
    offsets = rng.normal(size=(samples, channels)) * own * sd
    offsets -= offsets.mean(0)
    inside = sd**2 - offsets.var(0)
    state = Moments.empty(np.zeros(channels), 16)
    a = mean + offsets
    state.add(a, a**2 + inside * (1 + 0.2 * rng.normal(size=a.shape)), np.full(samples, 64.0))
    return state.estimate()


def judged(mean: float, sd: float, **options: float) -> tuple[Effect, object]:
    channels = int(options.get("channels", 16))
    e = effect(site(np.zeros(channels), np.ones(channels)), measured(mean, sd, **options), T)
    return e, verdicts({"k": e}, T)["k"]


@pytest.mark.parametrize(
    ("t", "degrees", "p"), [(2.571, 5, 0.05), (2.042, 30, 0.05), (1.960, 1e6, 0.05), (4.587, 10, 0.001)]
)
def test_tail_of_students_distribution(t: float, degrees: float, p: float) -> None:
    assert float(two_sided_p(np.array(-t), degrees)) == pytest.approx(p, rel=0.03)


def test_tails_that_are_no_numbers() -> None:
    assert two_sided_p(np.array([np.nan, np.inf, 0.0]), 9).tolist() == [1.0, 0.0, 1.0]
    assert two_sided_p(np.array([5.0]), 0).tolist() == [1.0]
    assert float(two_sided_p(np.array(30.0), 1e5)) < 1e-150


@pytest.mark.parametrize(("degrees", "quantile"), [(5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.960)])
def test_quantile_of_students_distribution(degrees: float, quantile: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(quantile, rel=0.01)
    assert t_quantile(0.95, 0) == math.inf


def test_false_discoveries_are_controlled() -> None:
    """The example of Benjamini and Hochberg, 1995: four of fifteen at 5 %."""
    p = np.array(
        [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.3240,
            0.4262,
            0.5719,
            0.6528,
            0.7590,
            1.0,
        ]
    )
    assert benjamini_hochberg(p, 0.05).sum() == 4
    assert benjamini_hochberg(p[::-1], 0.05)[-4:].all()
    assert not benjamini_hochberg(np.array([0.5, 1.0]), 0.05).any()
    assert benjamini_hochberg(np.zeros(0), 0.05).size == 0


def test_weighted_quantiles() -> None:
    values = np.array([3.0, 1.0, 2.0, np.nan])
    assert weighted_quantile(values, np.ones(4)) == 2
    assert weighted_quantile(values, np.array([9.0, 1, 1, 1])) == 3
    assert weighted_quantile(values, np.ones(4), 1.0) == 3
    assert math.isnan(weighted_quantile(values, np.array([0.0, 0, 0, 1])))
    assert spread(np.random.default_rng(0).normal(size=20000) * 3) == pytest.approx(3, rel=0.03)


def test_a_pure_shift_of_the_mean() -> None:
    e, verdict = judged(0.5, 1.0)
    np.testing.assert_allclose(e.shift, 0.5, rtol=1e-4)
    np.testing.assert_allclose(e.j, 0.25, rtol=0.05)  # J = d²
    assert verdict.status is Status.FAIL and verdict.mean_shift == pytest.approx(0.5, rel=1e-3)
    low, high = verdict.mean_shift_interval
    assert low < 0.5 < high and high - low < 0.12


def test_a_pure_change_of_the_variance() -> None:
    e, verdict = judged(0.0, math.sqrt(2))
    np.testing.assert_allclose(e.log_std, 0.5 * math.log(2), atol=0.05)
    np.testing.assert_allclose(np.median(e.j), 0.25, rtol=0.2)
    assert verdict.status is Status.FAIL


@pytest.mark.parametrize(
    ("mean", "sd", "samples", "status"),
    [
        (0.2, 1.0, 400, Status.WARN),
        (0.0, 1.15, 400, Status.WARN),
        (0.0, 1.0, 400, Status.PASS),
        (0.03, 1.0, 400, Status.PASS),
        (0.0, 1.0, 20, Status.INCONCLUSIVE),
        (0.2, 1.0, 4, Status.INCONCLUSIVE),  # an effect, but it may be chance
    ],
)
def test_statuses(mean: float, sd: float, samples: int, status: Status) -> None:
    _, verdict = judged(mean, sd, samples=samples)
    assert verdict.status is status
    assert (verdict.samples_needed is not None) is (status is Status.INCONCLUSIVE)


def test_the_samples_that_are_needed_are_enough_and_not_far_too_many() -> None:
    _, little = judged(0.0, 1.0, samples=40)
    needed = little.samples_needed
    assert 100 < needed < 1000  # (1.96·0.4/0.05)² = 246, for one channel
    assert judged(0.0, 1.0, samples=needed)[1].status is Status.PASS
    assert judged(0.0, 1.0, samples=needed // 8)[1].status is Status.INCONCLUSIVE


def test_channels_without_weight_do_not_count() -> None:
    gamma = np.array([1.0] * 12 + [1e-6] * 4)
    estimate = measured(0.0, 1.0)
    mean = np.array([0.0] * 12 + [5.0] * 4)
    assert verdicts({"k": effect(site(mean, np.ones(16), gamma), estimate, T)}, T)["k"].status is Status.PASS
    heavy = verdicts({"k": effect(site(mean, np.ones(16)), estimate, T)}, T)["k"]
    assert heavy.status is Status.WARN and heavy.bad_channels == pytest.approx(0.25)


def test_an_effect_at_the_limit_is_not_settled_by_more_data() -> None:
    means = np.array([0.0] * 10 + [0.2] * 6)
    e = effect(site(means, np.ones(16)), measured(0.0, 1.0, samples=20000), T)
    verdict = verdicts({"k": e}, T)["k"]
    assert verdict.status is Status.INCONCLUSIVE and verdict.samples_needed is None and "limit" in verdict.reason


def test_one_sample_and_constant_channels() -> None:
    _, verdict = judged(0.0, 1.0, samples=1)
    assert verdict.status is Status.INCONCLUSIVE and verdict.samples_needed is None
    state = Moments.empty(np.zeros(4), 4)
    state.add(np.zeros((40, 4)), np.zeros((40, 4)), np.ones(40))
    same = verdicts({"k": effect(site(np.zeros(4), np.zeros(4)), state.estimate(), T)}, T)["k"]
    assert same.status is Status.PASS


def test_what_is_not_finite_fails() -> None:
    state = Moments.empty(np.zeros(4), 4)
    a = np.zeros((40, 4))
    a[3] = np.nan
    state.add(a, a**2, np.ones(40))
    verdict = verdicts({"k": effect(site(np.zeros(4), np.zeros(4)), state.estimate(), T)}, T)["k"]
    assert verdict.status is Status.FAIL and "1 of 40 samples" in verdict.reason


def correlated(samples: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """`[N, C, 12, 12]`, smooth in space, with an offset and a contrast for each sample."""
    coarse = rng.normal(size=(samples, channels, 3, 3)).repeat(4, 2).repeat(4, 3)
    offset = 0.5 * rng.normal(size=(samples, channels, 1, 1))
    contrast = np.exp(0.3 * rng.normal(size=(samples, channels, 1, 1)))
    return contrast * (coarse + 0.3 * rng.normal(size=coarse.shape)) + offset


@pytest.mark.parametrize("samples", [48, 256])
def test_a_test_at_five_percent_is_wrong_in_about_five_percent(samples: int) -> None:
    """On data where pixels are taken for independent in vain: the unit is the sample."""
    rng = np.random.default_rng(1)
    whole = correlated(20000, 4, rng)
    truth = site(whole.mean((0, 2, 3)), whole.var((0, 2, 3)))
    wrong = {"mean": 0, "variance": 0, "pixels": 0}
    runs = 300
    for _ in range(runs):
        x = whole[rng.choice(len(whole), samples, replace=False)]
        state = Moments.empty(np.zeros(4), 16)
        state.add(x.mean((2, 3)), (x**2).mean((2, 3)), np.full(samples, 144.0))
        e = effect(truth, state.estimate(), T)
        wrong["mean"] += int((e.shift_p < 0.05).sum())
        wrong["variance"] += int((e.log_std_p < 0.05).sum())
        naive = e.shift / np.sqrt(e.estimate.var / e.estimate.count / (truth.var + truth.epsilon))
        wrong["pixels"] += int((np.abs(naive) > 1.96).sum())
    shares = {name: count / (4 * runs) for name, count in wrong.items()}
    assert 0.02 < shares["mean"] < 0.08 and 0.02 < shares["variance"] < 0.08, shares
    assert shares["pixels"] > 0.3


def test_tests_are_controlled_over_the_whole_model() -> None:
    """Many layers without an effect do not make one; a real one among them is found."""
    estimate = measured(0.0, 1.0, samples=200)
    rng = np.random.default_rng(0)
    layers = {
        str(i): effect(site(estimate.mean + rng.normal(size=16) * estimate.se_mean, np.ones(16)), estimate, T)
        for i in range(20)
    }
    layers["wrong"] = effect(site(np.full(16, 0.4), np.ones(16)), estimate, T)
    found = significance(layers, T.false_discovery_rate)
    assert found["wrong"].shift.all()
    assert sum(int(s.any.sum()) for key, s in found.items() if key != "wrong") <= 4
