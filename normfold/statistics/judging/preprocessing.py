"""Does another preparation of the input explain the first layers (§8)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import Array, DataSource
from normfold.statistics.data.inputs import ModelInput, model_inputs
from normfold.statistics.data.views import View
from normfold.statistics.exact_sums import Float64
from normfold.statistics.file_rules.implied_input import implied_input
from normfold.statistics.judging.distributions import spread, weighted_quantile
from normfold.statistics.judging.effects import Effect, effect
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.passes import Runtime
from normfold.statistics.schema import HypothesisReport, PreprocessingReport, Status
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

# Of ImageNet, what most published image models are trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = 128  # that every hypothesis is tried on
AS_GIVEN = "as given"

Step = Callable[[Float64], Float64]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A transform of the input, in words that tell the user what to apply."""

    name: str
    steps: tuple[Step, ...]

    def __call__(self, feeds: Mapping[str, Array], inputs: Sequence[str]) -> dict[str, Array]:
        """The feeds with these inputs transformed; types stay."""
        made = dict(feeds)
        for name in inputs:
            values = np.asarray(feeds[name], np.float64)
            for step in self.steps:
                values = step(values)
            with np.errstate(over="ignore"):  # what overflows does not fit, and scores so
                made[name] = values.astype(feeds[name].dtype)
        return made


@dataclass(frozen=True, slots=True)
class Channels:
    """Where the channels of an input are, and how many; axis None where there are none."""

    axis: int | None
    count: int

    def spread(self, values: Sequence[float] | Float64) -> Float64:
        """Per-channel values so that they broadcast over `[N, …]` of rank 4, or a scalar."""
        array = np.asarray(values, np.float64)
        if self.axis is None or array.ndim == 0:
            return array
        return array.reshape([-1 if axis == self.axis else 1 for axis in range(4)])


def channels_of(entry: ModelInput) -> Channels:
    """An input of rank 4 with 1, 3 or 4 channels is taken for images; axis 1 before the last."""
    dims = entry.dims or ()
    for axis in (1, 3):
        if len(dims) == 4 and dims[axis] in (1, 3, 4):
            count = dims[axis]
            assert isinstance(count, int)
            return Channels(axis, count)
    return Channels(None, 1)


def hypotheses(
    channels: Channels, measured: tuple[Float64, Float64], mean: Sequence[float] = (), std: Sequence[float] = ()
) -> list[Hypothesis]:
    """The transforms that are tried.

    Args:
        channels: of the input.
        measured: mean and standard deviation of the input as given, per channel.
        mean, std: what the user says that training subtracted and divided by; else those of ImageNet.
    """
    scale = _scales()
    three = channels.count == 3 and channels.axis is not None
    user = len(mean) == channels.count or len(std) == channels.count
    m = channels.spread(mean or (0.0,) * channels.count) if user else channels.spread(_MEAN) if three else None
    s = channels.spread(std or (1.0,) * channels.count) if user else channels.spread(_STD) if three else None
    found = [Hypothesis(AS_GIVEN, ()), *(Hypothesis(name, (step,)) for name, step in scale.items())]
    swap: Step | None = _swap(channels.axis) if three and channels.axis is not None else None
    if swap is not None:
        found.append(Hypothesis("swap the colour channels (RGB ↔ BGR)", (swap,)))
    if m is not None and s is not None:
        normalise: Step = lambda x: (x - m) / s  # noqa: E731 - one of a table
        restore: Step = lambda x: x * s + m  # noqa: E731
        found += [
            Hypothesis("subtract the mean and divide by the standard deviation", (normalise,)),
            Hypothesis("do not normalise: the data already is", (restore,)),
            Hypothesis("divide by 255, then normalise", (scale["divide by 255"], normalise)),
            Hypothesis("(x + 1)/2, then normalise", (scale["(x + 1)/2"], normalise)),
        ]
        if swap is not None:
            found.append(
                Hypothesis(
                    "swap the colour channels, divide by 255, then normalise", (swap, scale["divide by 255"], normalise)
                )
            )
    centre, width = (channels.spread(part) for part in measured)
    if np.all(width > 0):
        own: Step = lambda x: (x - centre) / width  # noqa: E731
        found.append(Hypothesis("standardise with the mean and standard deviation of the data", (own,)))
    return found


def _scales() -> dict[str, Step]:
    return {
        "divide by 255": lambda x: x / 255,
        "multiply by 255": lambda x: x * 255,
        "2x − 1": lambda x: 2 * x - 1,
        "(x + 1)/2": lambda x: (x + 1) / 2,
        "divide by 127.5, then subtract 1": lambda x: x / 127.5 - 1,
    }


def _swap(axis: int) -> Step:
    return lambda x: np.flip(x, axis)


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """What was found, and the transform that explains the data (None: none does)."""

    report: PreprocessingReport
    transform: Callable[[Mapping[str, Array]], dict[str, Array]] | None

    def rejected(self, reason: str) -> Diagnosis:
        """Without the winner."""
        words = f"{self.report.winner!r} fits the first layers, but {reason}"
        update = {"winner": "", "status": Status.INCONCLUSIVE, "reason": words}
        return Diagnosis(self.report.model_copy(update=update), None)


class Preprocessing:
    """The diagnosis of one model and one set of data.

    Args:
        subject, source, thresholds, runtime: as in `with_data`.
        first: the sites that no other stands in front of.
        mean, std: what training is said to have used.
    """

    def __init__(
        self, subject: Subject, source: DataSource, thresholds: Thresholds, runtime: Runtime, first: Sequence[StatSite],
        mean: Sequence[float] = (), std: Sequence[float] = (),
    ) -> None:  # fmt: skip
        self.subject, self.thresholds, self.runtime = subject, thresholds, runtime
        self.source = View(source, limit=SAMPLES)
        self.first, self.mean, self.std = list(first), mean, std
        self.inputs = [e for e in model_inputs(subject.model) if e.dtype is not None and e.dtype.kind in "fV"]

    def not_shifted(self) -> PreprocessingReport:
        """The first layers fit: there is nothing to search for."""
        x, r2 = self._implied()
        return PreprocessingReport(
            status=Status.PASS, reason="the first layers fit the data", implied_mean=x, implied_r2=r2
        )

    def diagnose(self, effects: Mapping[str, Effect]) -> Diagnosis:
        """Try every transform; it must fit well, and far better than leaving the data as it is."""
        x, r2 = self._implied()
        scale = self._global_scale([effects[site.key] for site in self.first if site.key in effects])
        if len(self.inputs) != 1:
            reason = f"the model has {len(self.inputs)} inputs of real numbers; transforms are tried on one"
            report = PreprocessingReport(
                status=Status.SKIPPED, reason=reason, implied_mean=x, implied_r2=r2, global_scale=scale
            )
            return Diagnosis(report, None)
        entry = self.inputs[0]
        channels = channels_of(entry)
        candidates = hypotheses(channels, self._measured(entry, channels), self.mean, self.std)
        scores = {h.name: self._score(h, entry.name) for h in candidates}
        return self._choose(candidates, scores, entry.name, channels, (x, r2, scale))

    def _choose(
        self, candidates: Sequence[Hypothesis], scores: Mapping[str, float], name: str, channels: Channels,
        known: tuple[tuple[float | None, ...], float | None, float | None],
    ) -> Diagnosis:  # fmt: skip
        t = self.thresholds
        ranked = sorted(candidates, key=lambda h: (not math.isfinite(scores[h.name]), scores[h.name]))
        best, given = ranked[0], scores[AS_GIVEN]
        best_score = scores[best.name]
        # Below this J differences are those of estimation, not of preparation.
        floor = t.j_warn / 10
        helps = best.name != AS_GIVEN and best_score < t.j_warn and given > t.hypothesis_ratio * max(best_score, floor)
        alike = [h for h in ranked[1:] if scores[h.name] <= t.hypothesis_ratio * max(best_score, floor)]
        open_questions = self._not_identifiable(best, alike if helps else [], scores, channels)
        shown = tuple(
            HypothesisReport(
                name=h.name, score=_finite(scores[h.name]), ratio=_finite(scores[h.name] / max(best_score, 1e-12))
            )
            for h in ranked
        )
        report = PreprocessingReport(
            status=Status.FAIL if helps else Status.INCONCLUSIVE,
            reason="" if helps else "no transform of the input explains the first layers",
            implied_mean=known[0], implied_r2=known[1], global_scale=known[2], hypotheses=shown,
            winner=best.name if helps else "", not_identifiable=open_questions,
        )  # fmt: skip
        if not helps:
            return Diagnosis(report, None)
        return Diagnosis(report, lambda feeds: best(feeds, [name]))

    def _not_identifiable(
        self, best: Hypothesis, alike: Sequence[Hypothesis], scores: Mapping[str, float], channels: Channels
    ) -> tuple[str, ...]:
        """What fits about as well as the winner; and the order of channels, where swapping them changes nothing."""
        told = [f"{best.name!r} and {h.name!r} fit about equally well" for h in alike if h.name != AS_GIVEN]
        swapped = next((h for h in scores if h.startswith("swap the colour channels (")), None)
        if swapped is None or channels.count != 3:
            return tuple(told)
        base, other = scores[AS_GIVEN], scores[swapped]
        ratio = max(base, other) / max(min(base, other), self.thresholds.j_warn / 10)
        if not ratio > self.thresholds.hypothesis_ratio:
            told.append("the order of the colour channels: both orders fit about equally well")
        return tuple(told)

    def _score(self, hypothesis: Hypothesis, name: str) -> float:
        """Median J over the channels of the first layers."""
        view = View(self.source, transform=lambda feeds: hypothesis(feeds, [name]))
        keys = [site.key for site in self.first]
        found = collect(self.subject, view, runtime=self.runtime, only=keys, cut=True)
        js, weights = [], []
        for site in self.first:
            if site.key in found.moments:
                e = effect(site, found.moments[site.key].estimate(), self.thresholds)
                js.append(e.j)
                weights.append(e.weight)
        return weighted_quantile(np.concatenate(js), np.concatenate(weights)) if js else math.nan

    def _measured(self, entry: ModelInput, channels: Channels) -> tuple[Float64, Float64]:
        """Mean and standard deviation of the input, per channel (over everything where there are none)."""
        total, square, count = (np.zeros(channels.count if channels.axis is not None else ()) for _ in range(3))
        for batch in self.source.batches():
            x = np.asarray(batch.feeds[entry.name], np.float64)
            axes = tuple(a for a in range(x.ndim) if a != channels.axis)
            total = total + x.sum(axes)
            square = square + (x**2).sum(axes)
            count = count + x.size / channels.count if channels.axis is not None else count + x.size
        mean = total / count
        return mean, np.sqrt(np.maximum(square / count - mean**2, 0.0))

    def _global_scale(self, effects: Sequence[Effect]) -> float | None:
        """exp of the median of ½ ln(v̂/v), if all channels agree on it and it is not 1."""
        usable = [(e, e.site.var) for e in effects if e.measured and e.site.var is not None]
        if not usable:
            return None
        with np.errstate(all="ignore"):
            logs = np.concatenate([0.5 * np.log(e.estimate.var / var)[e.weight > 0] for e, var in usable])
        logs = logs[np.isfinite(logs)]
        if not logs.size or spread(logs) > self.thresholds.scale_spread:
            return None
        factor = float(np.median(logs))
        return math.exp(factor) if abs(factor) > self.thresholds.log_std_ratio_fail else None

    def _implied(self) -> tuple[tuple[float | None, ...], float | None]:
        """Mean per input channel that the first layer implies, and R² of the solution."""
        found = implied_input(self.subject)
        if found is None:
            return (), None
        return tuple(_finite(float(v)) for v in found.mean), _finite(found.r2)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
