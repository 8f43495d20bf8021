"""A region against float64: which side is closer to what the original means, and by how much.

T = max(16, 2√K) · (u · A + 2⁻⁵³ · A₀), A of the rewrite; of a norm, no larger than A₀ of the original. The second term is
what the evaluation of the original in float64 may be off by itself (Higham, Accuracy and Stability, §3: its error has the same
bound, with the unit roundoff of float64).
PASS (improved)   the rewrite is within T of the truth everywhere, and no farther from it than the original
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from onnx import TensorProto

from .bound import LARGEST, SMALLEST_NORMAL, UNIT_ROUNDOFF, Lines, lines
from .companion import SUFFIX
from .norm_regions import is_cheap
from .oracle import OracleError, evaluate, literally
from .region_batch import Item
from .region_inputs import RegionTrial
from .region_judge import Sides, judge
from .verdicts import Array, RegionVerdict, Status, number

IMPROVED = "closer to the float64 evaluation than the original"
LITERAL = "in float16 arithmetic the original leaves the range; the rewrite is right"


@dataclass(frozen=True, slots=True)
class Truth:
    """Both sides against float64, over some trials.

    Args:
        within: the rewrite is within its own bound everywhere.
        closer: it is, and it is no farther off than the original, in maximum and in root mean square.
        before, after: the largest error of each side; infinite where it is not finite and the truth is.
    """

    within: bool
    closer: bool
    before: float
    after: float


def compare_with_truth(item: Item, trials: Sequence[RegionTrial], sides: Sequence[Sides]) -> Truth:
    """Evaluate the region as it was in float64 and compare both sides of every trial with that.

    Raises:
        OracleError: the region cannot be evaluated.
    """
    truths = evaluate(item.region.before, [trial.feeds for trial in trials])
    return _against(truths, sides, item.lines, _yardstick(item))


class _Yardstick(Enum):
    """Whose magnitudes the rewrite is measured with."""

    FORGIVING = "its own, and it may be off by twice what the original is"
    OWN = "its own"
    BETTER = "those of the better conditioned side"


def _yardstick(item: Item) -> _Yardstick:
    """A norm may not bring in a cancellation that its original does not have, unless its kernel is known to.

    In float64 both sides are evaluated by definition, and the magnitude of the original lacks the rounding of epsilon.
    """
    if item.inputs.norm is None:
        return _Yardstick.FORGIVING
    defined = item.execution == "numpy-float64"
    return _Yardstick.OWN if defined or item.inputs.norm.lossy else _Yardstick.BETTER


# An error of the original above this part of the largest result says that no digit of the input is left in the result.
_NOISE = 0.1


def _against(
    truths: Sequence[Mapping[str, Array]], sides: Sequence[Sides], limits: Lines, yardstick: _Yardstick
) -> Truth:
    return _all_of(
        _one(name, pair, truth[name], limits, yardstick)
        for pair, truth in zip(sides, truths, strict=True)
        for name in truth
        if truth[name].dtype.kind == "f"
    )


def _all_of(found: Iterable[Truth]) -> Truth:
    total = Truth(True, True, 0.0, 0.0)
    for one in found:
        total = Truth(
            total.within and one.within,
            total.closer and one.closer,
            max(total.before, one.before),
            max(total.after, one.after),
        )
    return total


def _one(name: str, sides: Sides, truth: Array, limits: Lines, yardstick: _Yardstick) -> Truth:
    """Compare output `name` with its float64 `truth`.

    The bound grows with √K because rounding errors usually have random signs. Where they do not (all weights equal, say)
    they grow with K, in the original just as much: a forgiving comparison lets the rewrite be off by twice what the
    original is in that channel. A norm has no such excuse: its original may be off because it is wrong.
    """
    y0, y1 = (np.asarray(side[name], np.float64) for side in (sides.before, sides.after))
    with np.errstate(all="ignore"):
        sizes = [
            np.broadcast_to(side[name + SUFFIX].astype(np.float64), y1.shape) for side in (sides.before, sides.after)
        ]
        own = np.fmin(*sizes) if yardstick is _Yardstick.BETTER else sizes[1]
        limit = (limits.allowed(degenerate=sides.hostile) + limits.storage) * own + limits.underflow
        limit = limit + limits.truth * np.where(np.isfinite(sizes[0]), sizes[0], 0.0)
        judged = np.isfinite(truth) & np.isfinite(limit)
        e0, e1 = np.abs(y0 - truth), np.abs(y1 - truth)
        e0 = np.where(np.isfinite(e0), e0, np.inf)
        if sides.hostile:
            judged &= np.isfinite(y1) & np.isfinite(y0)
        if yardstick is _Yardstick.FORGIVING:
            limit = np.maximum(limit, 2 * _worst_by_channel(np.where(judged & np.isfinite(e0), e0, 0.0)))
        if not judged.any():
            return Truth(True, True, 0.0, 0.0)
        # Where the original is off by a tenth of everything, its rows differ by a few units in the last place alone: what
        # any kernel makes of them is noise.
        noise = np.isfinite(e0) & (e0 > _NOISE * float(np.abs(truth[judged]).max(initial=0.0)))
        within = bool(((e1 <= limit) | noise)[judged].all())
        before, after = float(e0[judged].max()), float(e1[judged].max())
        closer = within and after <= before and bool(np.mean(e1[judged] ** 2) <= np.mean(e0[judged] ** 2))
    return Truth(within, closer, before, after if np.isfinite(after) else np.inf)


def _worst_by_channel(errors: Array) -> Array:
    """The largest error of every channel (axis 1), in a shape that broadcasts."""
    others = tuple(axis for axis in range(errors.ndim) if axis != 1 or errors.ndim < 2)
    worst: Array = errors.max(axis=others, keepdims=True, initial=0.0)
    return worst


def resolved(verdict: RegionVerdict, truth: Truth, *, norm: bool, improve: bool) -> RegionVerdict:
    """What a verdict becomes once float64 has spoken.

    A SUSPECT passes if the rewrite meets its own bound. A FAIL, or a PASS that only the original's own trouble explains,
    may turn out an improvement; a rewrite outside its own bound fails, whatever the original does.
    """
    verdict = told(verdict, truth)
    if not truth.within:
        reason = "outside its bound of the float64 evaluation"
        if verdict.status is Status.FAIL:
            reason = verdict.reason or "not finite in the original"
        return replace(verdict, status=Status.FAIL, reason=reason)
    if truth.closer and (norm or verdict.status is not Status.SUSPECT):
        return improved(verdict, improve=improve)
    if verdict.status is Status.FAIL:
        return replace(verdict, reason=verdict.reason or "not finite in the original")
    suspect = verdict.status is Status.SUSPECT
    reason = "within its bound of the float64 evaluation" if suspect else verdict.reason
    return replace(verdict, status=Status.PASS, reason=reason)


def improved(verdict: RegionVerdict, reason: str = IMPROVED, *, improve: bool) -> RegionVerdict:
    """The verdict on a rewrite that moved an output towards the truth: a SUSPECT where that is not wanted."""
    return replace(verdict, status=Status.IMPROVED if improve else Status.SUSPECT, reason=reason)


def with_errors(
    verdict: RegionVerdict, item: Item, trials: Sequence[RegionTrial], sides: Sequence[Sides]
) -> RegionVerdict:
    """The verdict on a norm that passed, with the errors of both sides in the first trial."""
    if not is_cheap(item.region.before):
        return verdict
    try:
        truth = compare_with_truth(item, trials[:1], sides[:1])
    except OracleError:
        return verdict
    return told(verdict, truth)


def told(verdict: RegionVerdict, truth: Truth) -> RegionVerdict:
    """The verdict with the errors of both sides."""
    return replace(verdict, error_before=number(truth.before), error_after=number(truth.after))


def overflow_repaired(item: Item, trials: Sequence[RegionTrial], sides: Sequence[Sides]) -> Truth | None:
    """Whether the rewrite repairs an overflow that this runtime hides, by computing float16 chains in float32.

    Returns:
        The comparison of the trials in which the original, computed literally in float16, is off; None if there is none,
        or the rewrite is off as well.
    """
    if item.elem != TensorProto.FLOAT16 or item.inputs.norm is None or not is_cheap(item.region.before):
        return None
    tame = [n for n, trial in enumerate(trials) if not trial.hostile]
    fed = [trials[n].feeds for n in tame]
    try:
        literal, truths = literally(item.region.before, fed), evaluate(item.region.before, fed)
    except OracleError:
        return None
    pairs = [replace(sides[n], before={**sides[n].before, **one}) for n, one in zip(tame, literal, strict=True)]
    limits = lines(item.length, UNIT_ROUNDOFF[item.elem], smallest=SMALLEST_NORMAL[item.elem])
    off = [n for n, pair in enumerate(pairs) if _off(item, pair, truths[n], limits)]
    if not off:
        return None
    found = _against([truths[n] for n in off], [pairs[n] for n in off], limits, _yardstick(item))
    return found if found.closer else None


def _off(item: Item, pair: Sides, truth: Mapping[str, Array], limits: Lines) -> bool:
    """Whether the left side misses the truth by more than both bounds allow, where float16 can hold the truth."""
    for info in item.region.before.graph.output:
        name = info.name
        if name + SUFFIX not in pair.before or not (np.abs(truth[name]) < LARGEST[item.elem]).all():
            continue
        found = judge(name, pair, limits, item.elem)
        if found.status is not Status.PASS or found.repaired or found.moved:
            return True
    return False
