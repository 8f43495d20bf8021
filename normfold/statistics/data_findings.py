"""What the examination with data says, as findings, layers and rules of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import Collected, DataSource
from normfold.statistics.exact_sums import Float64
from normfold.statistics.findings import finding
from normfold.statistics.judging.attribution import Attribution, Method
from normfold.statistics.judging.case import Cause
from normfold.statistics.judging.layers import Verdict
from normfold.statistics.judging.local_causes import variance_convention
from normfold.statistics.judging.outcome import collapsed
from normfold.statistics.judging.preprocessing import Diagnosis
from normfold.statistics.judging.shuffling import Shuffling
from normfold.statistics.part import Part
from normfold.statistics.schema import (
    ChannelReport,
    DataReport,
    Evidence,
    Finding,
    LayerReport,
    Origin,
    OutcomeReport,
    ProbeReport,
    RuleReport,
    Severity,
    Status,
    Vector,
)
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

# ψ above this with shuffled data: the batches are too small to stand for the population.
_SMALL_BATCH = 0.1
# Codes that only data can show.
_RULES = ("D01", "D02", "D03", "C01", "S12", "S14", "S15")
_ORDER = (Status.PASS, Status.INCONCLUSIVE, Status.WARN, Status.FAIL)


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """Everything that the examination found.

    Args:
        subject, source, seed, thresholds: what was examined, and how.
        stored: of pass E; judged: its verdicts on the data as given.
        sites: that were measured, by key, in execution order.
        shuffling, probes, diagnosis, outcome: as their modules make them; None where they did not run.
        found: by other examiners.
        fitting: verdicts of pass E on the data as it would have to be prepared; empty where nothing was shifted.
        repaired, attribution, causes, method: of pass B.
    """

    subject: Subject
    source: DataSource
    seed: int | None
    stored: Collected
    sites: Mapping[str, StatSite]
    judged: Mapping[str, Verdict]
    shuffling: Shuffling
    probes: tuple[ProbeReport, ...]
    thresholds: Thresholds
    found: Sequence[Finding]
    diagnosis: Diagnosis | None = None
    fitting: Mapping[str, Verdict] | None = None
    repaired: Mapping[str, Verdict] | None = None
    attribution: Attribution | None = None
    causes: tuple[Cause, ...] = ()
    method: Method | None = None
    outcome: OutcomeReport | None = None


class DataReporter:
    """Turns what was found into a `Part`."""

    def __init__(self, examined: Examined) -> None:
        self.e = examined
        self.roots = _roots(examined)
        self.collateral = _collateral(examined, self.roots)

    def part(self) -> Part:
        """Everything."""
        e = self.e
        findings = tuple(self._findings())
        return Part(
            findings=findings,
            layers={site.key: self._layer(site) for site in e.subject.sites},
            rules=tuple(self._rules({f.code: f.severity for f in reversed(findings)})),
            data=self._data(),
            probes=e.probes,
            preprocessing=None if e.diagnosis is None else e.diagnosis.report,
            outcome=e.outcome,
            warnings=tuple(self._warnings()),
        )

    # --- findings ---

    def _findings(self) -> Iterator[Finding]:
        yield from self._preprocessing()
        for cause in self.e.causes:
            yield self._cause(cause)
        yield from self._not_shuffled()
        yield from self._unstable()
        yield from self._collapse()
        judged = [
            (site, self.e.judged[key].effect.estimate.var, self.status(key)) for key, site in self.e.sites.items()
        ]
        for site, factor in variance_convention(judged):
            message = f"stored variances are {factor:.3f} times the measured ones in every channel, as n/(n−1) would make them"
            yield finding(
                "S12", message, site=site, severity=Severity.INFO, origin=Origin.DATA,
                evidence=(Evidence(name="stored over measured variance", value=factor, n=self.e.stored.samples),),
            )  # fmt: skip

    def _preprocessing(self) -> Iterator[Finding]:
        diagnosis = self.e.diagnosis
        if diagnosis is None or not diagnosis.report.winner:
            return
        report = diagnosis.report
        given = next((h for h in report.hypotheses if h.name == "as given"), None)
        best = report.hypotheses[0]
        site = next(iter(self.e.sites.values()))
        scores = "" if given is None or given.score is None else f": J of the first layers is {given.score:.3g}"
        after = "" if best.score is None else f" and would be {best.score:.2g}"
        unsure = f" ({'; '.join(report.not_identifiable)})" if report.not_identifiable else ""
        yield finding(
            "D01", f"the input does not look like that of training{scores}{after} after: {report.winner}{unsure}",
            site=site, origin=Origin.DATA, fix=f"prepare the input: {report.winner}",
            evidence=(
                Evidence(
                    name="J of the first layers as given", value=None if given is None else given.score,
                    threshold=self.e.thresholds.j_warn, n=self.e.stored.samples,
                ),
                Evidence(name="J after the transform", value=best.score, threshold=self.e.thresholds.j_warn),
            ),
        )  # fmt: skip

    def _cause(self, cause: Cause) -> Finding:
        e = self.e
        site = e.sites[cause.keys[0]]
        verdict = (e.repaired or e.judged)[site.key]
        hit = [key for key, root in self.collateral.items() if root in cause.keys]
        behind = f"; {len(hit)} layers behind are shifted because of it" if hit else ""
        evidence = (
            Evidence(
                name=cause.name, value=_number(cause.value), threshold=_number(cause.threshold), n=e.stored.samples,
                n_eff=_number(_smallest(verdict.effect.estimate.n_eff)),
            ),
            Evidence(
                name="shift of the mean in σ, worst channel", value=_number(verdict.mean_shift),
                threshold=e.thresholds.mean_shift_warn, interval=verdict.mean_shift_interval,
            ),
        )  # fmt: skip
        return finding(
            cause.code, cause.message + behind, site=site, severity=cause.severity or self._severity(cause.keys),
            fix=cause.fix, origin=Origin.DATA, evidence=evidence,
            nodes=tuple(e.sites[key].label for key in cause.keys[1:]),
            channels=int((verdict.significance.any & (verdict.effect.j >= e.thresholds.j_warn)).sum()),
        )  # fmt: skip

    def _severity(self, keys: Sequence[str]) -> Severity:
        return Severity.ERROR if any(self.status(key) is Status.FAIL for key in keys) else Severity.WARNING

    def _not_shuffled(self) -> Iterator[Finding]:
        s = self.e.shuffling
        if s.fine or s.ratio is None:
            return
        message = (
            f"batch means differ {s.ratio:.1f} times as much as those of shuffled data: the samples are grouped, "
            "so that there are fewer independent ones than it seems"
        )
        evidence = Evidence(name="R", value=s.ratio, threshold=s.limit, n=self.e.stored.samples)
        yield finding("D03", message, origin=Origin.DATA, evidence=(evidence,))

    def _unstable(self) -> Iterator[Finding]:
        said = {f.code for f in self.e.found}
        for probe, code, others in zip(self.e.probes, ("M05", "M04"), (("M05",), ("M01", "M03", "M04")), strict=True):
            if probe.status is not Status.FAIL or said & set(others):
                continue
            evidence = Evidence(name="largest difference", value=_number(probe.max_abs), threshold=probe.noise_floor)
            yield finding(
                code, f"{probe.reason} (by up to {probe.max_abs or 0:.2g})", origin=Origin.DATA, evidence=(evidence,)
            )

    def _collapse(self) -> Iterator[Finding]:
        o = self.e.outcome
        if o is None:
            return
        ratio = collapsed(o, self.e.thresholds.information_warn)
        if ratio is None:
            return
        failing = ratio < self.e.thresholds.information_fail
        message = (
            f"answers tell {o.information_eval:.2g} nats about the input, and {o.information_batch:.2g} with "
            "re-estimated statistics"
        )
        evidence = Evidence(name="I with stored over I with re-estimated statistics", value=ratio,
                            threshold=self.e.thresholds.information_fail)  # fmt: skip
        made = finding(
            "C01", message, origin=Origin.DATA, evidence=(evidence,),
            severity=Severity.ERROR if failing else Severity.WARNING,
        )  # fmt: skip
        root = self.roots[0] if self.roots else None
        yield made.model_copy(update={"is_root_cause": False, "collateral_of": root})

    # --- layers ---

    def status(self, key: str) -> Status:
        """Of a layer: of a root cause the worse of both passes."""
        seen = self.e.judged[key].status
        repaired = None if self.e.repaired is None else self.e.repaired.get(key)
        if key in self.roots and repaired is not None:
            return max(seen, repaired.status, key=_ORDER.index)
        return seen

    def _layer(self, site: StatSite) -> LayerReport:
        e = self.e
        verdict = e.judged.get(site.key)
        if verdict is None:
            return LayerReport(
                node=site.label, key=site.key, op_type=site.node.op_type, position=site.position, status=Status.SKIPPED,
                reason=e.stored.skipped.get(site.key, "it was not measured"), epsilon=site.epsilon,
                channel_count=site.channels,
            )  # fmt: skip
        effect, estimate = verdict.effect, verdict.effect.estimate
        ratio = verdict.log_std_ratio
        return LayerReport(
            node=site.label, key=site.key, op_type=site.node.op_type, position=site.position, status=self.status(site.key),
            reason=verdict.reason, epsilon=site.epsilon, channel_count=site.channels, j=_number(verdict.j),
            mean_shift=_number(verdict.mean_shift), mean_shift_interval=verdict.mean_shift_interval,
            log_std_ratio=_number(ratio), log_std_ratio_interval=verdict.log_std_ratio_interval,
            variance_ratio=_number(math.exp(min(2 * ratio, 700.0))), bad_channels=_number(verdict.bad_channels),
            n=estimate.samples, n_eff=_number(_smallest(estimate.n_eff)), samples_needed=verdict.samples_needed,
            is_root_cause=site.key in self.roots, collateral_of=self.collateral.get(site.key),
            channels=ChannelReport(
                measured_mean=_vector(estimate.mean), measured_var=_vector(estimate.var), j=_vector(effect.j)
            ),
        )  # fmt: skip

    # --- the rest ---

    def _rules(self, found: Mapping[str, Severity]) -> Iterator[RuleReport]:
        worst = {Severity.ERROR: Status.FAIL, Severity.WARNING: Status.WARN, Severity.INFO: Status.PASS}
        for code in _RULES:
            if code in found:
                yield RuleReport(code=code, status=worst[found[code]])
                continue
            reason = self._why_skipped(code)
            yield RuleReport(code=code, status=Status.SKIPPED if reason else Status.PASS, reason=reason)

    def _why_skipped(self, code: str) -> str:
        e = self.e
        if not e.sites:
            return "no layer with statistics was measured"
        if code == "D03":
            return e.shuffling.reason
        if code == "D01" and e.diagnosis is None:
            return "all samples look the same to the first layers"
        if code == "D01" and e.diagnosis is not None and e.diagnosis.report.status is Status.SKIPPED:
            return e.diagnosis.report.reason
        if code == "C01" and e.outcome is None:
            return "no layer is shifted" if e.attribution is None else "no output looks like scores of classes"
        return ""

    def _data(self) -> DataReport:
        e = self.e
        groups = [m.groups for m in e.stored.moments.values()]
        return DataReport(
            source=e.source.description, samples=e.stored.samples, batches=e.stored.batches, batch_size=e.source.batch_size,
            groups=len(groups[0]) if groups and groups[0] is not None else None, seed=e.seed,
            shuffling=e.shuffling.ratio, shuffling_limit=e.shuffling.limit, between_share=e.shuffling.between,
            sha256=e.stored.sha256,
        )  # fmt: skip

    def _warnings(self) -> Iterator[str]:
        e = self.e
        if e.shuffling.fine and e.shuffling.between is not None and e.shuffling.between > _SMALL_BATCH:
            yield (
                f"{e.shuffling.between:.0%} of the variance lies between batches of {e.source.batch_size}: batches are too "
                "small for statistics of single batches"
            )
        if e.sites:
            yield "the noise of the stored statistics is not known and was taken as 0"
        if e.method == "sequential":
            yield (
                "layers were repaired one after the other: batches are too small, or not shuffled, to be used instead, or "
                "some layers stand in a loop"
            )


def _roots(e: Examined) -> tuple[str, ...]:
    """Layers that are at fault: those of pass B, and the first layers if the input was prepared otherwise."""
    roots = list(e.attribution.roots) if e.attribution is not None else []
    if e.diagnosis is not None and e.diagnosis.report.winner:
        first = next(key for key, v in e.judged.items() if v.shifted)
        roots = [first, *(key for key in roots if key != first)]
    # What no root cause explains is one itself: nothing that is shifted may be lost.
    explained = {key for cause in e.causes for key in cause.keys}
    if e.attribution is not None:
        roots += [
            key
            for key, root in e.attribution.collateral.items()
            if root is None and key in explained and key not in roots
        ]
    return tuple(key for key in e.judged if key in roots)


def _collateral(e: Examined, roots: Sequence[str]) -> dict[str, str]:
    """By key of a shifted layer that is not at fault, the layer that is."""
    if e.attribution is None or not roots:
        return {}
    order = list(e.judged)
    found = {}
    for key, verdict in e.judged.items():
        if not verdict.shifted or key in roots:
            continue
        before = [root for root in roots if order.index(root) < order.index(key)]
        found[key] = e.attribution.collateral.get(key) or (before[-1] if before else roots[0])
    return found


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _smallest(values: Float64) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else math.nan


def _vector(values: Float64) -> Vector:
    return tuple(float(v) if math.isfinite(v) else None for v in values)
