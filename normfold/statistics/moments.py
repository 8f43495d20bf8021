"""The mergeable state of one site: what is known of the values in front of a BatchNormalization, per channel, in float64.

Produced by the collector (`with_data`, `stats collect`), which adds the per-sample moments of every batch; merged by
`stats merge`; read as an `Estimate` by the judgement, by `recalibrate` and by the baseline.

A probe returns, for every sample i and channel, with D = x − shift and m_i = H·W values (§4.1):

    a_i = mean of D         q_i = mean of D²

Everything that is kept is a sum over samples, clusters or batches, so parts add up. The reference gives merge formulas for
means and centred moments (§4.2); sums of 32 digits (`exact_sums`) give the same without an order: any split and any order
round to the same number, also where a sum nearly cancels. Memory is O(C), or O(groups · C) with a group key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from normfold.statistics.exact_sums import ExactSum, Float64

# Rows of the sums.
_W, _A, _Q = range(3)  # first order: Σw, Σw·a, Σw·q
_WW, _WA, _WQ, _AA, _AQ, _QQ = range(6)  # second order, over clusters: ΣW², ΣWA, ΣWQ, ΣA², ΣAQ, ΣQ²
# Moments of one sample in float32, relative to their size.
_ROUNDING = 1e-6
_BATCHES, _BATCH_MEAN, _BATCH_SQUARE, _BATCH_VAR = range(4)  # over full batches: count, Σā_b, Σā_b², Σσ²_b


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over samples. Make one with `Moments.empty`, then `add` batches and `merge` parts.

    Args:
        shift: `[C]`, subtracted from x before anything else; parts can be merged only with equal shifts, so it comes from the
            file alone: the stored mean, 0 where that is not finite.
        batch_size: samples of a full batch; shorter ones do not enter the figures about batches.
        samples: rows that were added.
        first: `[3, C]`, Σw, Σw·a, Σw·q with w = values per sample.
        second: `[6, C]`, sums over samples of products of (w, w·a, w·q); unused with groups.
        batch: `[4, C]`, sums over full batches.
        low, high: `[C]`, extremes of the sample means, shift included; ±inf while empty.
        non_finite: `[C]`, samples that were left out of a channel because they held NaN or infinity.
        groups: with a group key, `[3, C]` as `first` for each group; None without one.
    """

    shift: Float64
    batch_size: int
    samples: int
    first: ExactSum
    second: ExactSum
    batch: ExactSum
    low: Float64
    high: Float64
    non_finite: NDArray[np.int64]
    groups: dict[str, ExactSum] | None = field(default=None)

    @staticmethod
    def empty(shift: Float64, batch_size: int, *, grouped: bool = False) -> Moments:
        """Nothing seen yet; `shift` is `[C]` and finite.

        Raises:
            ValueError: the shift is not finite.
        """
        shift = np.asarray(shift, np.float64)
        if not np.isfinite(shift).all():
            raise ValueError("a shift must be finite")
        c = shift.size
        return Moments(
            shift, batch_size, 0, ExactSum.zeros(3, c), ExactSum.zeros(6, c), ExactSum.zeros(4, c),
            np.full(c, np.inf), np.full(c, -np.inf), np.zeros(c, np.int64), {} if grouped else None,
        )  # fmt: skip

    def add(self, a: Float64, q: Float64, weights: Float64, groups: Sequence[str] | None = None) -> None:
        """Add one batch.

        Args:
            a, q: `[N, C]`, per-sample moments of the shifted values.
            weights: `[N]`, values per sample and channel, H·W; or `[N, C]` where channels have different ones.
            groups: `[N]`, the cluster of each sample; wanted if and only if this was made for groups.

        Raises:
            ValueError: groups are missing or not wanted, or shapes differ.
        """
        a, q = np.asarray(a, np.float64), np.asarray(q, np.float64)
        given = np.asarray(weights, np.float64)
        if a.shape != q.shape or a.shape[1:] != self.shift.shape or given.shape not in (a.shape, a.shape[:1]):
            raise ValueError(f"moments {a.shape}, {q.shape} and weights {np.shape(weights)} do not belong together")
        if (groups is None) is not (self.groups is None):
            raise ValueError("groups for all batches, or for none")
        finite = np.isfinite(a) & np.isfinite(q)
        w = np.where(finite, given if given.ndim == 2 else given[:, None], 0.0)
        a, q = np.where(finite, a, 0.0), np.where(finite, q, 0.0)
        self.samples += len(a)
        self.non_finite += (~finite).sum(axis=0)
        first, second = _sums(a, q, w, products=groups is None)
        self.first += first
        if second is not None:
            self.second += second
        if groups is not None:
            self._add_groups(np.stack((w, w * a, w * q), axis=1), groups)
        if len(a) == self.batch_size:
            self._add_batch(first)
        self.low = np.minimum(self.low, np.where(finite, a + self.shift, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, a + self.shift, -np.inf).max(axis=0, initial=-np.inf))

    def _add_groups(self, terms: Float64, groups: Sequence[str]) -> None:
        assert self.groups is not None
        names = np.asarray(groups)
        for name in dict.fromkeys(groups):
            part = ExactSum.over_first(terms[names == name])
            self.groups[name] = self.groups[name] + part if name in self.groups else part

    def _add_batch(self, sums: ExactSum) -> None:
        w, wa, wq = sums.value
        seen = w > 0
        mean, square = (np.divide(part, w, out=np.zeros_like(w), where=seen) for part in (wa, wq))
        rows = np.stack((seen.astype(np.float64), mean, mean**2, np.maximum(square - mean**2, 0.0)))
        self.batch += ExactSum(rows, np.zeros_like(rows))

    def channels(self, start: int, stop: int) -> Moments:
        """The state of some of the channels, as if only they had been added."""
        part = slice(start, stop)
        groups = None if self.groups is None else {name: s.channels(part) for name, s in self.groups.items()}
        return Moments(
            self.shift[part], self.batch_size, self.samples, self.first.channels(part), self.second.channels(part),
            self.batch.channels(part), self.low[part], self.high[part], self.non_finite[part], groups,
        )  # fmt: skip

    def merged(self, other: Moments) -> Moments:
        """Both parts as one; neither is changed.

        Raises:
            ValueError: they were made with other shifts, batch sizes, or only one with groups.
        """
        if self.shift.shape != other.shift.shape or not np.array_equal(self.shift, other.shift):
            raise ValueError("parts of one site must have the same shift")
        if self.batch_size != other.batch_size or (self.groups is None) is not (other.groups is None):
            raise ValueError("parts of one site must have the same batch size and the same kind of group key")
        groups: dict[str, ExactSum] | None = None
        if self.groups is not None and other.groups is not None:
            groups = dict(self.groups)
            for name, part in other.groups.items():
                groups[name] = groups[name] + part if name in groups else part
        return Moments(
            self.shift, self.batch_size, self.samples + other.samples, self.first + other.first,
            self.second + other.second, self.batch + other.batch, np.minimum(self.low, other.low),
            np.maximum(self.high, other.high), self.non_finite + other.non_finite, groups,
        )  # fmt: skip

    def estimate(self) -> Estimate:
        """What the sums say; NaN where a channel has no finite value, and in standard errors of fewer than two clusters."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _estimate(self)


def merge(parts: Sequence[Moments]) -> Moments:
    """All parts as one.

    Raises:
        ValueError: there is none, or they do not belong together.
    """
    if not parts:
        raise ValueError("nothing to merge")
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    return total


def _sums(a: Float64, q: Float64, w: Float64, *, products: bool) -> tuple[ExactSum, ExactSum | None]:
    """`[3, C]` sums of w, w·a and w·q, and `[6, C]` of their products if they are wanted, over `[N, C]` each.

    Nearly always the samples of a batch have one weight, which is then taken out of the sums.
    """
    if len(w) and (w == w[0]).all():
        parts = [np.ones_like(a), a, q, *((a * a, a * q, q * q) if products else ())]
        sums = ExactSum.over_first(np.stack(parts, axis=1)).scaled(w[0])
        return sums.rows(0, 1, 2), sums.scaled(w[0]) if products else None
    terms = np.stack((w, w * a, w * q), axis=1)  # [N, 3, C]
    return ExactSum.over_first(terms), ExactSum.over_first(_products(terms)) if products else None


def _products(terms: Float64) -> Float64:
    """`[N, 6, C]`: the products of w, w·a and w·q that the variance of cluster totals needs."""
    w, a, q = terms[:, _W], terms[:, _A], terms[:, _Q]
    return np.stack((w * w, w * a, w * q, a * a, a * q, q * q), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Measured moments per channel, all `[C]` in float64 unless said otherwise.

    Args:
        samples: rows; clusters: independent units, samples or groups (both scalars).
        count: values per channel.
        mean: m̂ = shift + ā.
        var: v̂ = q̄ − ā², the population variance; var_unbiased = n/(n−1)·v̂.
        se_mean, se_var: cluster-robust standard errors (§6.1); se_log_std = se_var/(2(v̂+ε)) is left to who knows ε.
        sd_cluster: sd(a_i): spread of the sample means around the whole, for the number of samples needed.
        n_eff: v̂/SE(m̂)², independent values that the data is worth.
        batch_var: E_B[σ²_B] over full batches; psi = 1 − E_B[σ²_B]/v̂ (§4.3).
        shuffling: R = B·Var(batch means)/Var(sample means) of D03; batches: how many full ones (scalar).
        low, high, non_finite: as in `Moments`.
    """

    samples: int
    clusters: int
    batches: int
    count: Float64
    mean: Float64
    var: Float64
    var_unbiased: Float64
    se_mean: Float64
    se_var: Float64
    sd_cluster: Float64
    n_eff: Float64
    batch_var: Float64
    psi: Float64
    shuffling: Float64
    low: Float64
    high: Float64
    non_finite: NDArray[np.int64]

    @property
    def alike(self) -> bool:
        """Whether no sample differs from another by more than rounding, in no channel that varies within them."""
        if self.clusters < 2:
            return False
        spread = np.sqrt(self.clusters)  # of one sample, in units of a standard error
        same_mean = self.se_mean * spread <= _ROUNDING * np.maximum(np.sqrt(self.var), np.abs(self.mean))
        same_var = self.se_var * spread <= _ROUNDING * self.var
        return bool((same_mean & same_var).all())


def _estimate(m: Moments) -> Estimate:
    w, wa, wq = m.first.value
    a, q = wa / w, wq / w
    var = np.maximum(q - a**2, 0.0)
    clusters, second = _clusters(m)
    # Influence of one cluster on m̂ is A − āW, on v̂ it is (Q − q̄W) − 2ā(A − āW); sums of their squares and product:
    mean_square = _centred(second[_AA], second[_WA], second[_WA], second[_WW], a, a)
    square_square = _centred(second[_QQ], second[_WQ], second[_WQ], second[_WW], q, q)
    cross = _centred(second[_AQ], second[_WA], second[_WQ], second[_WW], a, q)
    var_square = np.maximum(square_square - 4 * a * cross + 4 * a**2 * mean_square, 0.0)
    correction = clusters / (clusters - 1) if clusters > 1 else np.nan
    se_mean, se_var = (np.sqrt(correction * part) / w for part in (np.maximum(mean_square, 0.0), var_square))
    batches, batch_mean, batch_square, batch_var = m.batch.value
    spread = np.maximum(batch_square / batches - (batch_mean / batches) ** 2, 0.0) * batches / (batches - 1)
    sample_spread = se_mean**2 * clusters  # Var(a_i), for equal weights exactly
    return Estimate(
        samples=m.samples, clusters=clusters, batches=int(batches.max(initial=0.0)), count=w, mean=m.shift + a, var=var,
        var_unbiased=var * w / (w - 1), se_mean=se_mean, se_var=se_var, sd_cluster=np.sqrt(sample_spread),
        n_eff=var / se_mean**2, batch_var=batch_var / batches, psi=1 - (batch_var / batches) / var,
        shuffling=_shuffling(m, spread, sample_spread), low=m.low, high=m.high, non_finite=m.non_finite,
    )  # fmt: skip


def _clusters(m: Moments) -> tuple[int, Float64]:
    """How many clusters there are, and `[6, C]` sums of products over them."""
    if m.groups is None:
        return m.samples, m.second.value
    totals = (
        np.stack([m.groups[name].value for name in sorted(m.groups)])
        if m.groups
        else np.zeros((0, *m.first.high.shape))
    )
    return len(totals), ExactSum.over_first(_products(totals)).value


def _centred(xy: Float64, wx: Float64, wy: Float64, ww: Float64, x: Float64, y: Float64) -> Float64:
    """Σ(X − xW)(Y − yW) from ΣXY, ΣWX, ΣWY and ΣW²."""
    return xy - y * wx - x * wy + x * y * ww


def _shuffling(m: Moments, spread: Float64, sample_spread: Float64) -> Float64:
    """R of D03. With a group key the spread of single samples is not kept: NaN."""
    if m.groups is not None:
        return np.full(spread.shape, np.nan)
    return m.batch_size * spread / sample_spread
