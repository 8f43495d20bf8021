"""Causes that concern single layers or a part of the model, when nothing explains all of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from normfold.statistics.exact_sums import Float64
from normfold.statistics.file_rules.implied_input import implied_input
from normfold.statistics.judging.case import Case, Cause, is_isolated, stored_statistics
from normfold.statistics.schema import Severity, Status
from normfold.statistics.sites import MEAN, StatSite

# From this share on, a shift that begins at the input is one of the data.
_MOST = 0.8
_SMALLEST_PART = 3
# Adjusted R² of the means of the first layer above which they are those of its weights: drawn at random they reach it in 1 %.
_IMPLIED = 0.8
# §3.2, S12: below this the convention does not matter.
_CONVENTION = 0.01


def local_causes(case: Case, known: Collection[str], *, prepared: bool = False) -> Iterator[Cause]:
    """A cause for every root cause.

    Args:
        case: with root causes that no common cause explains.
        known: keys whose statistics are known to be wrong from the file; they are not named again.
        prepared: whether the data had to be prepared otherwise (D01): what is left then is not said to be the layer's fault.
    """
    roots = [key for key in case.attribution.roots if key not in known]
    default = [key for key in roots if _is_default(case.sites[key])]
    if len(default) > 1:
        worst = max(case.repaired[key].j for key in default)
        yield Cause(
            "S01", f"mean 0 and variance 1 were never updated in {len(default)} layers: J up to {worst:.2g} on this data",
            tuple(default), "largest J behind repaired layers", worst, case.thresholds.j_warn, Severity.ERROR,
        )  # fmt: skip
        roots = [key for key in roots if key not in default]
    for shared in _shared(case, roots):
        yield shared
        roots = [key for key in roots if key not in shared.keys]
    if not roots:
        return
    order = list(case.sites)
    broken = _overflow(case, roots) or _constant(case, roots)
    if broken is not None:
        yield broken
        return
    named = {key: _named(case, key) for key in roots}
    if prepared and not any(named.values()):
        yield _left_over(case, roots, order)
        return
    if is_isolated(len(roots), len(order)) and not _from_the_input(case, roots, named):
        yield from (_isolated(case, key, named[key]) for key in roots)
        return
    yield _part_of_the_model(case, roots, order)


def _shared(case: Case, roots: Sequence[str]) -> Iterator[Cause]:
    """S08: several sites read one mean, and one of them at least does not fit."""
    by_value: dict[int, list[str]] = {}
    for key, site in case.sites.items():
        value = site.parameter(MEAN)
        if value is not None:
            by_value.setdefault(id(value), []).append(key)
    for keys in by_value.values():
        wrong = [key for key in keys if key in roots]
        if len(keys) > 1 and wrong:
            worst = max(case.repaired[key].j for key in wrong)
            labels = ", ".join(case.sites[key].label for key in keys)
            yield Cause(
                "S08", f"{len(keys)} layers read the same statistics and their inputs differ (J up to {worst:.2g}): {labels}",
                tuple(wrong), "largest J", worst, case.thresholds.j_warn,
            )  # fmt: skip


def _named(case: Case, key: str) -> tuple[str, str] | None:
    """What is particular about the statistics of a layer, as code and words; None where they only do not fit."""
    owner = _whose(case, key)
    if owner is not None:
        return "S13", f"the statistics are those of {case.sites[owner].label!r}"
    if _is_permuted(case, key):
        return "S13", "the channels of the statistics are in another order than those of the data"
    if _is_default(case.sites[key]):
        return "S01", "mean 0 and variance 1 were never updated"
    return None


def _isolated(case: Case, key: str, named: tuple[str, str] | None) -> Cause:
    """S13: the layers around it fit. Perhaps the statistics are those of another layer, or of other channels.

    The first layer sees the data alone. Where its means are those that some mean of the input gives, which means from
    elsewhere hardly are, it is the data that is other than in training (§8).
    """
    verdict = case.repaired[key]
    numbers = f"J = {verdict.j:.2g}, mean off by {verdict.mean_shift:.2g} σ"
    evidence = ("J behind repaired layers", verdict.j, case.thresholds.j_warn)
    first = key in case.ancestry.first()
    implied = implied_input(case.subject) if first and named is None else None
    if implied is not None and implied.key == key and implied.adjusted_r2 >= _IMPLIED:
        message = (
            f"the first layer does not fit the data ({numbers}), and the layers behind do: its means follow from a mean of "
            f"the input (R² = {implied.r2:.2f}), so that the data is other than in training, in a way that no transform "
            "explains"
        )
        return Cause("D02", message, (key,), *evidence)
    code, what = named or ("S13", "the statistics do not belong to this layer")
    where = "this is the first layer, so the data may be to blame as well" if first else "the layers in front of it fit"
    return Cause(code, f"{what}: {numbers}; {where}", (key,), *evidence)


def _left_over(case: Case, roots: Sequence[str], order: Sequence[str]) -> Cause:
    """D02: the data was prepared otherwise, and even prepared as it should be it fits some layers badly."""
    worst = max(case.repaired[key].j for key in roots)
    message = (
        f"prepared like that, the data still does not fit {len(roots)} of {len(order)} layers (J up to {worst:.2g}): it "
        "differs from that of training in more than its preparation"
    )
    return Cause("D02", message, tuple(roots), "largest J behind repaired layers", worst, case.thresholds.j_warn)


def _from_the_input(case: Case, roots: Sequence[str], named: Mapping[str, object]) -> bool:
    """Whether the fault begins at the input and goes on behind it, and nothing particular is wrong with any layer."""
    return len(roots) > 1 and roots[0] in case.ancestry.first() and not any(named.values())


def _is_default(site: StatSite) -> bool:
    mean, var = stored_statistics(site)
    return bool((mean == 0).all() and (var == 1).all())


def _whose(case: Case, key: str) -> str | None:
    """The layer that the stored statistics of this one fit best, if they fit well."""
    mean, var = stored_statistics(case.sites[key])
    others = [other for other in case.sites if other != key and case.estimate(other).mean.size == mean.size]
    scores = {other: case.layer_j(other, mean, var) for other in others}
    best = min(scores, key=lambda other: scores[other], default=None)
    limit = min(case.thresholds.j_warn, case.repaired[key].j / case.thresholds.hypothesis_ratio)
    return best if best is not None and scores[best] < limit else None


def _is_permuted(case: Case, key: str) -> bool:
    """Whether the statistics fit when both are sorted, and far better than as they are."""
    mean, var = stored_statistics(case.sites[key])
    e, t = case.estimate(key), case.thresholds
    if mean.size < _SMALLEST_PART:
        return False
    sigma = np.sqrt(np.median(e.var))

    def distance(*parts: tuple[Float64, Float64]) -> tuple[float, float]:
        (m, v), (m_hat, v_hat) = parts
        with np.errstate(all="ignore"):
            logs = np.abs(np.log(v / v_hat)) / 2
        return float(np.median(np.abs(m - m_hat)) / sigma), float(np.median(logs))

    sorted_ = distance((np.sort(mean), np.sort(var)), (np.sort(e.mean), np.sort(e.var)))
    given = distance((mean, var), (e.mean, e.var))
    fits = sorted_[0] < t.mean_shift_warn and sorted_[1] < t.log_std_ratio_warn
    return fits and sum(given) > t.hypothesis_ratio * sum(sorted_)


def _overflow(case: Case, roots: Sequence[str]) -> Cause | None:
    """D02: what reaches the first root cause is not finite, although the data is."""
    e = case.estimate(roots[0])
    lost = int(e.non_finite.max(initial=0))
    if not lost:
        return None
    label = case.sites[roots[0]].label
    message = (
        f"what reaches {label!r} is NaN or infinite in {lost} of {e.samples} samples: the data is too large for the type of "
        "the model, or a layer in front of it overflows"
    )
    return Cause("D02", message, tuple(roots), "samples that are lost", float(lost), 0.0, Severity.ERROR)


def _constant(case: Case, roots: Sequence[str]) -> Cause | None:
    """D02: the samples do not differ, in any of the first layers. Then nothing can be said about statistics."""
    first = [key for key in case.ancestry.first() if key in case.stored]
    alike = first and all(case.stored[key].effect.estimate.alike for key in first)
    if not alike:
        return None
    e = case.stored[first[0]].effect.estimate
    message = f"all {e.samples} samples look the same to the first layer: they are worth one"
    return Cause("D02", message, tuple(roots), "samples that differ", 1.0, None, Severity.ERROR)


def _part_of_the_model(case: Case, roots: Sequence[str], order: Sequence[str]) -> Cause:
    worst = max(roots, key=lambda key: case.repaired[key].j)
    j = case.repaired[worst].j
    share = len(roots) / len(order)
    at_input = any(key in roots for key in case.ancestry.first())
    numbers = f"{len(roots)} of {len(order)} layers do not fit, J up to {j:.2g} at {case.sites[worst].label!r}"
    evidence = ("largest J behind repaired layers", j, case.thresholds.j_warn)
    keys = tuple(roots)
    if share >= _MOST or (at_input and is_isolated(len(roots), len(order))):
        if at_input and (case.implied_r2 is None or case.implied_r2 >= 0.5):
            message = (
                f"{numbers}, from the first one on, and no transform of the input explains it: other data than in training, "
                "or statistics that were taken before the weights were final"
            )
            return Cause("D02", message, keys, *evidence)
        return Cause(
            "S09", f"{numbers}, without a pattern: the statistics are not those of these weights", keys, *evidence
        )
    numbers_of = [order.index(key) for key in roots]
    contiguous = numbers_of[-1] - numbers_of[0] + 1 == len(roots) >= _SMALLEST_PART
    if contiguous and (numbers_of[0] == 0 or numbers_of[-1] == len(order) - 1):
        part = "first" if numbers_of[0] == 0 else "last"
        return Cause("S15", f"the {part} {len(roots)} of {len(order)} layers do not fit, the others do (J up to {j:.2g})",
                     keys, *evidence)  # fmt: skip
    return Cause("S09", f"{numbers}: the statistics are not those of these weights", keys, *evidence)


def variance_convention(case_sites: Sequence[tuple[StatSite, np.ndarray, Status]]) -> Iterator[tuple[StatSite, float]]:
    """S12: stored over measured variance is one factor above 1 in all channels of a layer, as n/(n−1) is.

    Args:
        case_sites: site, measured population variance and status of each layer.
    """
    for site, measured, status in case_sites:
        _, var = stored_statistics(site)
        if status is not Status.PASS or var.size < 4:
            continue
        with np.errstate(all="ignore"):
            logs = np.log(var / measured)
        if np.isfinite(logs).all():
            middle = float(np.median(logs))
            # The contrast of one set of data against another is nearly a common factor, too; the convention is exactly one.
            if middle > _CONVENTION and float(np.median(np.abs(logs - middle))) < 0.02 * middle:
                yield site, float(np.exp(middle))
