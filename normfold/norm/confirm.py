"""The proof by numbers: the nodes of a find and the norm that they are taken for, both evaluated in float64.

No find is rewritten on symbolic grounds alone. Data of many kinds (`probes`) go through both; every row must agree as far as
float64 can tell. The bound of a row is `1e-12 + (64·2^-53 + snap)·(1 + condition)`, relative to the larger of gamma and y in
that row, with `condition = mean(x²) / (V + epsilon)`; two-pass and one-pass spellings stay below 2.4·2^-53·(1 + condition)
for rows of 8 to 65536 elements (`norm-fusion`, section 2.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from normfold.model.constants import Constants
from normfold.model.graph import Value
from normfold.norm.evaluate import Evaluator, Plan, Unknown
from normfold.norm.extents import SIZE_LIMIT, Attempt, attempts
from normfold.norm.meaning import Float64, Norm
from normfold.norm.probes import NORMAL, QUICK, THOROUGH, Probe
from normfold.norm.reasons import Refused
from normfold.norm.reference import affine
from normfold.norm.rows import Extents, Statistics
from normfold.norm.trials import Trial, Trials, trials_of

_FLOOR, _UNITS = 1e-12, 64 * 2.0**-53
# A row whose bound is larger proves nothing.
_USELESS = 1e-3
# Above so many elements a smaller shape is tried first; and so many are evaluated at least, in all rounds together.
_COMFORTABLE, _COMFORTABLE_QUICK = 1 << 20, 1 << 13
_OPERAND_SEED = 97


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A find that holds.

    Args:
        worst: the largest error, as a fraction of what is allowed: at most 1.
        run: names of the probes of which at least one row was compared.
        skipped: names of those that prove nothing here: for want of an epsilon, or because rounding hides what they show.
        shapes: those of `x` on which they were run.
    """

    worst: float
    run: tuple[str, ...]
    skipped: tuple[str, ...]
    shapes: tuple[Extents, ...]


@dataclass(frozen=True, slots=True)
class _Site:
    """A find, ready to be evaluated on any shape."""

    plan: Plan
    base: Value
    norm: Norm
    operands: Mapping[str, Value]
    snap: float


@dataclass(slots=True)
class _Tally:
    """What has been compared so far."""

    worst: float = 0.0
    run: set[str] = field(default_factory=set)


def confirm(
    constants: Constants,
    base: Value,
    output: Value,
    norm: Norm,
    *,
    operands: Mapping[str, Value] | None = None,
    snap: float = 0.0,
    thorough: bool = True,
) -> Confirmation:
    """Evaluate what lies between two values and demand that it is the norm.

    Args:
        constants: what is a constant.
        base: `x` of the norm.
        output: `y` of the norm, of the same shape.
        norm: what it is taken for.
        operands: the values that `norm.scale` and `norm.bias` name. Nothing else may flow in but constants.
        snap: sum of the relative sizes of the roundings of constants that were taken for exact.
        thorough: whether to run every probe, on every row where that is affordable. Otherwise one tensor with rows of the
            most telling kinds: for a find that has the structure of one that was confirmed before.

    Raises:
        Refused: `unconfirmed`, the values differ, or cannot be evaluated; the message names the probe or the node.
    """
    given = dict(operands or {})
    missing = [name for name in (norm.scale, norm.bias) if name is not None and name not in given]
    if missing:
        raise Refused("unconfirmed", f"no value is given for {missing[0]!r}")
    probes = tuple(p for p in (THOROUGH if thorough else QUICK) if norm.epsilon > 0 or not p.of_epsilon)
    try:
        plan = Evaluator(constants).plan([output], {base, *given.values()})
        choices = attempts(norm, _COMFORTABLE if thorough else _COMFORTABLE_QUICK)
    except (Unknown, ValueError) as error:
        raise Refused("unconfirmed", f"{output.name!r} cannot be evaluated from {base.name!r}: {error}") from error
    site = _Site(plan, base, norm, given, snap)
    refusal = Refused("unconfirmed", f"{base.name!r} has more than {SIZE_LIMIT} elements")
    for choice in choices:
        try:
            return _confirmed(site, choice, probes, thorough=thorough)
        except Refused as found:
            refusal = found
    raise refusal


def _confirmed(site: _Site, shapes: Attempt, probes: tuple[Probe, ...], *, thorough: bool) -> Confirmation:
    tally, statistics = _Tally(), Statistics.of(site.norm)
    shapes = shapes if thorough else shapes[:1]
    for shape in shapes:
        try:
            trials = trials_of(statistics, shape, probes)
        except ValueError as error:
            raise Refused("unconfirmed", str(error)) from error
        bench = _Bench(site, trials)
        for offset in trials.offsets(_COMFORTABLE) if thorough else (0,):
            bench.compare(trials.at(offset), tally)
    if not tally.run or (thorough and NORMAL.name not in tally.run):
        raise Refused("unconfirmed", "rounding errors would hide a mistake: no probe proves anything")
    names = [probe.name for probe in (THOROUGH if thorough else QUICK)]
    run, skipped = (tuple(n for n in names if (n in tally.run) is wanted) for wanted in (True, False))
    return Confirmation(tally.worst, run, skipped, shapes)


class _Bench:
    """A find on one shape."""

    def __init__(self, site: _Site, trials: Trials) -> None:
        norm, shape = site.norm, trials.rows.shape
        self._site, self._shape, self._rows = site, shape, trials.rows
        rng = np.random.default_rng(_OPERAND_SEED) if site.operands else None
        wanted = shape[norm.axes[0] :] if norm.axes else shape
        self._operands = {} if rng is None else {name: rng.standard_normal(wanted) for name in site.operands}
        gamma = norm.gamma if norm.scale is None else self._full(self._operands[norm.scale])
        self._gamma = 1.0 if gamma is None else self._rows.largest(gamma)

    def _full(self, operand: Float64) -> Float64:
        return operand.reshape((1,) * (len(self._shape) - operand.ndim) + operand.shape)

    def compare(self, trial: Trial, tally: _Tally) -> None:
        """One round.

        Raises:
            Refused: `unconfirmed`.
        """
        wanted = self._wanted(trial.normal)
        got = self._evaluated(trial.x)
        with np.errstate(all="ignore"):
            size = np.maximum(self._gamma, self._largest(np.abs(wanted)))
            error = self._largest(np.abs(got - wanted))
            bound = _FLOOR + (_UNITS + self._site.snap) * (1.0 + trial.condition)
            ratio = np.where(error == 0, 0.0, error / (bound * size))
            # 0/0 in the norm: nothing but 0/0 in the graph will do
            undefined = np.isnan(trial.condition)
            if undefined.any():
                agrees = np.isnan(self._rows.gather(got)).all(axis=1)
                ratio = np.where(undefined, np.where(agrees, 0.0, np.inf), ratio)
            self._judge(trial, ratio, error / size, bound, tally)

    def _largest(self, values: Float64) -> Float64:
        largest: Float64 = np.maximum.reduce(self._rows.gather(values), axis=1)
        return largest

    def _wanted(self, normal: Float64) -> Float64:
        try:
            return affine(self._site.norm, normal, self._operands)
        except ValueError as error:
            raise Refused("unconfirmed", str(error)) from error

    def _evaluated(self, x: Float64) -> Float64:
        site = self._site
        given = {site.base: x, **{value: self._operands[name] for name, value in site.operands.items()}}
        try:
            (got,) = site.plan.run(given)
        except Unknown as error:
            raise Refused("unconfirmed", f"on shape {list(self._shape)}: {error}") from error
        if got.shape != self._shape or got.dtype != np.float64:
            raise Refused("unconfirmed", f"{list(self._shape)} becomes {got.dtype} {list(got.shape)}")
        return got

    def _judge(self, trial: Trial, ratio: Float64, error: Float64, bound: Float64, tally: _Tally) -> None:
        judged = (bound <= _USELESS) | np.isnan(trial.condition)
        wrong = judged & ~(ratio <= 1)  # true for NaN
        if wrong.any():
            row = int(np.argmax(wrong))
            raise Refused(
                "unconfirmed",
                f"probe '{trial.probe(row)}' on shape {list(self._shape)}: "
                f"off by {error[row]:.2g} of the size of y, where {bound[row]:.2g} is allowed",
            )
        if judged.any():
            tally.worst = max(tally.worst, float(ratio[judged].max()))
            tally.run.update(trial.names(judged))
