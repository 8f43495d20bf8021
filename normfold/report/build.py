"""Plan, verdict and files -> Report. No decisions are made here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normfold.errors import NormfoldError
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.report.schema import (
    DecisionReport,
    ErrorReport,
    OpCount,
    OutputReport,
    RegionReport,
    VerificationReport,
)
from normfold.surgery.plan import Decision

if TYPE_CHECKING:
    from normfold.verification import Verification


def decision_reports(decisions: Sequence[Decision]) -> tuple[DecisionReport, ...]:
    """Decisions in the form of the report."""
    return tuple(DecisionReport.model_validate(decision) for decision in decisions)


def op_counts(model: Model, candidate: Candidate) -> tuple[OpCount, ...]:
    """Nodes per operator before and after, by name."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    before.update(node.op_type for scope in model.scopes() for node in scope.nodes)
    for scope in candidate.model.scopes():
        patch = candidate.scopes.get(id(scope))
        for node in scope.nodes:
            if patch is None:
                after[node.op_type] += 1
            elif node.index not in patch.dropped_nodes:
                changed = patch.nodes.get(node.index)
                after[(changed.op_type if changed else None) or node.op_type] += 1
        if patch is not None:
            after.update(
                extra.op_type for extras in (*patch.before.values(), *patch.after.values()) for extra in extras
            )
            after["Constant"] += sum(len(tensors) for tensors in patch.constants.values())
    names = sorted(set(before) | {name for name, count in after.items() if count})
    return tuple(OpCount(op_type=name, before=before[name], after=after[name]) for name in names)


def verification_report(found: Verification) -> VerificationReport:
    """A verification in the form of the report."""
    return VerificationReport(
        verdict=found.text,
        level=found.level,
        evidence=found.evidence,
        warnings=found.warnings,
        reason=found.reason,
        coverage=found.coverage,
        regions=tuple(RegionReport.model_validate(item) for item in found.regions),
        outputs=tuple(OutputReport.model_validate(item) for item in found.outputs),
        seeds=found.settings.seeds,
        random_inputs=found.settings.random_inputs,
        runtime=found.settings.ort_version,
        optimization=found.settings.optimization,
        emulated_ops=dict(found.emulated_ops),
        execution=found.execution,
        target_ep=found.target_ep,
        target_ep_ran=found.target_ep_ran,
        level_reached=found.level_reached,
    )


def verification_off() -> VerificationReport:
    """The report of a run that verified nothing, on request."""
    return _without_runs("OFF", "none", 0.0, (), ("verification was switched off",), "--verify off")


def verification_equal() -> VerificationReport:
    """The report of a run that changed nothing."""
    return _without_runs("PASS", "L0", 1.0, ("the bytes are equal",), (), "")


def _without_runs(
    verdict: str, level: str, coverage: float, evidence: tuple[str, ...], warnings: tuple[str, ...], reason: str
) -> VerificationReport:
    return VerificationReport(
        verdict=verdict, level=level, evidence=evidence, warnings=warnings, reason=reason, coverage=coverage,
        regions=(), outputs=(), seeds=(), random_inputs=False, runtime="", optimization="", level_reached=level,
    )  # fmt: skip


def error_report(error: NormfoldError) -> ErrorReport:
    """An error in the form of the report."""
    return ErrorReport.model_validate(error)
