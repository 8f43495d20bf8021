"""The examination with data: do the stored statistics fit what the model is run on, which layer is at fault, and why?

    determinism, batch invariance                          the model as it is written
    pass E: stored statistics                              which layers are shifted
    first layers shifted -> transforms of the input        is it the preparation of the data?
    pass B: repaired upstream                              who is at fault, who only suffers
    causes                                                 what it looks like
    re-estimated statistics                                what it does to the answers

A model whose layers all fit costs the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from normfold.errors import InputError
from normfold.statistics.collect import Array, Collected, DataSource
from normfold.statistics.data.inputs import fixed_batch, model_inputs
from normfold.statistics.data.views import View
from normfold.statistics.data_findings import DataReporter, Examined
from normfold.statistics.judging.ancestry import Ancestry
from normfold.statistics.judging.attribution import (
    SMALLEST_BATCH,
    Attribution,
    Method,
    attribute,
    repaired_pass,
)
from normfold.statistics.judging.averaging import few_values, looks_like_few_samples
from normfold.statistics.judging.case import Case, Cause
from normfold.statistics.judging.effects import Effect, effect
from normfold.statistics.judging.global_causes import GLOBAL
from normfold.statistics.judging.layers import Verdict, verdicts
from normfold.statistics.judging.local_causes import local_causes
from normfold.statistics.judging.outcome import outcome
from normfold.statistics.judging.preprocessing import Diagnosis, Preprocessing
from normfold.statistics.judging.shuffling import shuffling
from normfold.statistics.judging.stability import stability
from normfold.statistics.moments import Moments
from normfold.statistics.part import Part
from normfold.statistics.probes.collector import KEPT_SAMPLES, collect
from normfold.statistics.probes.forms import Form, Statistics
from normfold.statistics.probes.passes import DEFAULT_LIMITS, Limits, Runtime
from normfold.statistics.probes.reach import is_repeated
from normfold.statistics.schema import Finding, OutcomeReport
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

Progress = Callable[[str, int, int], None]
# Statistics of which the file already says that they are wrong: no further name is looked for.
_SAID_BY_FILE = frozenset(("S01", "S02", "S03", "S07", "S16"))


@dataclass(frozen=True, slots=True)
class Training:
    """What the user says about the preparation in training; () where nothing."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Of the examination.

    Args:
        limits: of the child process.
        attribution: form of pass B; None chooses. A model with normalisations in a Loop or Scan always takes `sequential`.
        training: preparation that is tried among the hypotheses.
        seed: that the data was shuffled with, for the report.
    """

    limits: Limits = DEFAULT_LIMITS
    attribution: Method | None = None
    training: Training = Training()
    seed: int | None = None


_DEFAULTS = DataSettings()


def run_with_data(
    subject: Subject,
    source: DataSource,
    thresholds: Thresholds,
    *,
    found: Sequence[Finding] = (),
    settings: DataSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> Part:
    """Examine a model with data.

    Args:
        subject: the model.
        source: the data; it is read several times.
        thresholds: every limit.
        found: what the file already said, so that it is not said twice.
        settings: of the run.
        progress: called with a stage, samples done, and samples there are (0 where that is not known).

    Raises:
        InputError: the data cannot be read or does not fit the model, or the model does not run on it.
        WorkerError: the child process crashed, timed out or ran out of memory.
    """
    with Runtime(settings.limits) as runtime:
        return _Examination(subject, source, thresholds, found, settings, runtime, progress).run()


class _Examination:
    def __init__(
        self, subject: Subject, source: DataSource, thresholds: Thresholds, found: Sequence[Finding],
        settings: DataSettings, runtime: Runtime, progress: Progress | None,
    ) -> None:  # fmt: skip
        self.subject, self.source, self.thresholds, self.found = subject, source, thresholds, found
        self.settings, self.runtime = settings, runtime
        self.progress = progress or (lambda *_: None)
        self.known = {f.key for f in found if f.code in _SAID_BY_FILE and f.key}

    def run(self) -> Part:
        fixed = fixed_batch(model_inputs(self.subject.model))
        first = next(iter(self.source.batches()), None)
        if first is None:
            raise InputError("data.empty", "there are no samples", where=self.source.description)
        self.progress("stability", 0, 0)
        probes = stability(self.subject, first, self.runtime, fixed=fixed is not None)
        stored = self._collect("stored statistics", self.source)
        sites = {site.key: site for site in self.subject.sites if site.key in stored.moments}
        judged = self._judge(stored, sites)
        shuffled = shuffling(stored, sites, self.thresholds)
        ancestry = Ancestry(self.subject, list(sites.values()))
        examined = Examined(
            self.subject,
            self.source,
            self.settings.seed,
            stored,
            sites,
            judged,
            shuffled,
            probes,
            self.thresholds,
            self.found,
        )
        if self._is_fine(judged, sites):
            examined = replace(examined, diagnosis=self._diagnosis(ancestry, sites, judged))
        else:
            examined = self._explain(examined, ancestry, fixed)
        return DataReporter(examined).part()

    def _collect(self, stage: str, source: DataSource) -> Collected:
        return collect(
            self.subject, source, runtime=self.runtime,
            progress=lambda done, total: self.progress(stage, done, total or 0),
        )  # fmt: skip

    def _effects(self, moments: Mapping[str, Moments], sites: Mapping[str, StatSite]) -> dict[str, Effect]:
        return {
            key: effect(site, moments[key].estimate(), self.thresholds) for key, site in sites.items() if key in moments
        }

    def _judge(self, collected: Collected, sites: Mapping[str, StatSite]) -> dict[str, Verdict]:
        return verdicts(self._effects(collected.moments, sites), self.thresholds)

    def _is_fine(self, judged: Mapping[str, Verdict], sites: Mapping[str, StatSite]) -> bool:
        """Nothing is shifted, and the statistics do not scatter as those of a single batch would."""
        return not any(v.shifted for v in judged.values()) and not looks_like_few_samples(judged, sites)

    def _diagnosis(
        self, ancestry: Ancestry, sites: Mapping[str, StatSite], judged: Mapping[str, Verdict]
    ) -> Diagnosis | None:
        """Whether the preparation of the input explains the first layers; None where samples do not differ in them."""
        first = [sites[key] for key in ancestry.first()]
        if all(judged[site.key].effect.estimate.alike for site in first):
            return None
        training = self.settings.training
        search = Preprocessing(
            self.subject, self.source, self.thresholds, self.runtime, first, training.mean, training.std
        )
        unknown = [site for site in first if site.key not in self.known]
        if not any(judged[site.key].shifted for site in unknown):
            return Diagnosis(search.not_shifted(), None)
        self.progress("preprocessing", 0, 0)
        return search.diagnose({key: v.effect for key, v in judged.items()})

    def _explain(self, examined: Examined, ancestry: Ancestry, fixed: int | None) -> Examined:
        sites, source, stored = examined.sites, self.source, examined.stored
        diagnosis = self._diagnosis(ancestry, sites, examined.judged)
        judged = examined.judged
        if diagnosis is not None and diagnosis.transform is not None:
            view = View(self.source, transform=diagnosis.transform)
            fitting = self._collect("stored statistics, input transformed", view)
            again = self._judge(fitting, sites)
            if self._fits_behind(ancestry, judged, again):
                source, stored, judged = view, fitting, again
            else:
                diagnosis = diagnosis.rejected("it does not make the layers behind the first ones fit")
        method = self._method(examined, fixed)
        self.progress("attribution", 0, 0)
        repaired = repaired_pass(self.subject, source, ancestry, self.runtime, method)
        present = {key: site for key, site in sites.items() if key in repaired.moments}
        fitted = self._judge(repaired, present)
        attribution = attribute({k: judged[k] for k in present}, fitted, ancestry)
        case = Case(
            self.subject, self.thresholds, self.runtime, source, present, judged, fitted, attribution, ancestry,
            examined.shuffling.fine, None if diagnosis is None else diagnosis.report.implied_r2,
        )  # fmt: skip
        # What a transform leaves of the first layers' shift is the transform's inaccuracy.
        explained = set(ancestry.first()) if source is not self.source else set()
        causes = self._causes(case, explained)
        return replace(
            examined, diagnosis=diagnosis, repaired=fitted, fitting=judged, attribution=attribution, causes=tuple(causes),
            method=method, outcome=self._outcome(source, stored, repaired, attribution),
        )  # fmt: skip

    def _fits_behind(self, ancestry: Ancestry, before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> bool:
        """Whether a transform that fits the first layers also helps those behind, as it does if it is what was forgotten."""
        t = self.thresholds
        behind = next(iter(ancestry.levels()[1:]), ())
        return all(
            after[key].j <= max(t.j_warn, before[key].j / t.hypothesis_ratio)
            for key in behind
            if before[key].effect.measured and key not in self.known
        )

    def _method(self, examined: Examined, fixed: int | None) -> Method:
        if any(is_repeated(site) for site in examined.sites.values()):
            return "sequential"  # one iteration is no batch of what all of them see
        if self.settings.attribution is not None:
            return self.settings.attribution
        size = fixed or self.source.batch_size
        return "batch" if size >= SMALLEST_BATCH and examined.shuffling.fine else "sequential"

    def _causes(self, case: Case, explained: Collection[str]) -> list[Cause]:
        """One cause for everything if there is one; else one for each part."""
        self.progress("causes", 0, 0)
        said = self.known | set(explained)
        unexplained = [key for key, root in case.attribution.collateral.items() if root is None and key not in said]
        roots = [key for key in case.attribution.roots if key not in said]
        if roots or (unexplained and not self.known):
            for search in GLOBAL:
                cause = search(case)
                if cause is not None:
                    return [cause]
        scatter = None if said else few_values(case)
        return [scatter] if scatter is not None else list(local_causes(case, said, prepared=bool(explained)))

    def _outcome(
        self, source: DataSource, stored: Collected, repaired: Collected, attribution: Attribution
    ) -> OutcomeReport | None:
        """Answers with the statistics of the file and with those of pass B, on the first samples."""
        if not attribution.roots and not attribution.collateral:
            return None
        given = {}
        for key, moments in repaired.moments.items():
            estimate = moments.estimate()
            given[key] = Statistics(estimate.mean, estimate.var)
        self.progress("outcome", 0, 0)
        some = View(source, limit=KEPT_SAMPLES)
        again = collect(self.subject, some, Form(statistics=given), runtime=self.runtime, only=())
        outputs: Mapping[str, Array] = stored.outputs
        return outcome(outputs, again.outputs)
