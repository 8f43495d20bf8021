"""Parts -> `CheckReport`: order, verdict, and the sentence at the top. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence

from normfold.documents import FileReport
from normfold.statistics.codes import RULES
from normfold.statistics.part import Part
from normfold.statistics.schema import CheckReport, Finding, LayerReport, RuleReport, Severity, Status
from normfold.statistics.subject import Subject
from normfold.statistics.suppressions import Suppression, suppress
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.words import next_step, summary

_WORST_FIRST = (
    Status.FAIL, Status.WARN, Status.INCONCLUSIVE, Status.PASS, Status.SKIPPED, Status.NOT_APPLICABLE,
)  # fmt: skip
# Defaults of a framework, which fit some layers by chance, or as the affine half of a converted layer.
_CONFIRMED_BY_DATA = frozenset(("S01", "S07"))
_BY_SEVERITY = {Severity.ERROR: Status.FAIL, Severity.WARNING: Status.WARN, Severity.INFO: Status.PASS}


def assemble(
    subject: Subject,
    parts: Sequence[Part],
    file: FileReport,
    thresholds: Thresholds,
    suppressions: Sequence[Suppression],
    version: str,
) -> CheckReport:
    """One report of what the examiners found.

    Args:
        subject: what was examined.
        parts: in the order in which they were made; a later one completes and overrules the layers of an earlier one.
        file, thresholds, version: for the report.
        suppressions: findings that do not count.
    """
    marked, used = suppress([_confirmed(item, parts) for part in parts for item in part.findings], suppressions)
    order = {norm.key: norm.position for norm in subject.norms}
    findings = tuple(sorted(marked, key=lambda found: _rank(found, order)))
    counted = tuple(found for found in findings if not found.suppressed)
    layers = tuple(sorted(_layers(parts, counted), key=lambda layer: layer.position))
    draft = CheckReport(
        version=version,
        input=file,
        verdict=_verdict(counted, layers),
        findings=findings,
        layers=layers,
        rules=_rules(parts),
        data=next((part.data for part in parts if part.data), None),
        probes=tuple(probe for part in parts for probe in part.probes),
        preprocessing=next((part.preprocessing for part in reversed(parts) if part.preprocessing), None),
        outcome=next((part.outcome for part in parts if part.outcome), None),
        references=tuple(reference for part in parts for reference in part.references),
        suppressions=used,
        thresholds=thresholds,
        warnings=(*subject.original.warnings, *(text for part in parts for text in part.warnings)),
    )
    return draft.model_copy(update={"summary": summary(draft), "next_step": next_step(draft)})


def _confirmed(found: Finding, parts: Sequence[Part]) -> Finding:
    """What the file only suggests is certain where the data says that this layer fails: it is not named a second time."""
    if found.code not in _CONFIRMED_BY_DATA or found.severity is not Severity.WARNING:
        return found
    measured = (part.layers[found.key] for part in parts if found.key in part.layers)
    failing = next((layer for layer in measured if layer.status is Status.FAIL and layer.is_root_cause), None)
    if failing is None:
        return found
    numbers = "" if failing.j is None else f": J is {failing.j:.3g}"
    message = f"{found.message}; the data does not fit that{numbers}"
    return found.model_copy(update={"severity": Severity.ERROR, "message": message})


def worst(statuses: Sequence[Status]) -> Status:
    """The worst of at least one status."""
    return min(statuses, key=_WORST_FIRST.index)


def status_of(finding: Finding) -> Status:
    """What a finding makes of its layer and of the model."""
    return _BY_SEVERITY[finding.severity]


def _rank(finding: Finding, order: dict[str, int]) -> tuple[bool, bool, int, int, int]:
    """Root causes first, worst first, then in order of the catalogue and of execution; what is suppressed comes last."""
    return (
        bool(finding.suppressed),
        not finding.is_root_cause,
        finding.severity.rank,
        list(RULES).index(finding.code),
        order.get(finding.key, -1),
    )


def _layers(parts: Sequence[Part], counted: Sequence[Finding]) -> list[LayerReport]:
    merged: dict[str, LayerReport] = {}
    for part in parts:
        for key, layer in part.layers.items():
            merged[key] = _merged(merged[key], layer) if key in merged else layer
    by_key: dict[str, list[Status]] = {}
    for found in counted:
        if found.severity is not Severity.INFO:
            by_key.setdefault(found.key, []).append(status_of(found))
    return [
        layer.model_copy(update={"status": worst([layer.status, *by_key.get(key, [])])})
        for key, layer in merged.items()
    ]


def _merged(old: LayerReport, new: LayerReport) -> LayerReport:
    """The new values where there are some; per-channel arrays likewise."""
    update = {name: getattr(new, name) for name in new.model_fields_set}
    if old.channels is not None and new.channels is not None:
        arrays = {name: value for name, value in new.channels if value}
        update["channels"] = old.channels.model_copy(update=arrays)
    return old.model_copy(update=update)


def _verdict(counted: Sequence[Finding], layers: Sequence[LayerReport]) -> Status:
    """The worst root cause. Without one: inconclusive where data did not suffice, or nothing could be judged."""
    found = worst([Status.PASS, *(status_of(item) for item in counted if item.is_root_cause)])
    if found is not Status.PASS:
        return found
    undecided = any(layer.status is Status.INCONCLUSIVE for layer in layers)
    blind = any(item.code == "N01" for item in counted) and not any(layer.status is Status.PASS for layer in layers)
    return Status.INCONCLUSIVE if undecided or blind else Status.PASS


def _rules(parts: Sequence[Part]) -> tuple[RuleReport, ...]:
    """Every rule of the catalogue; of those that several examiners looked at, the worst status."""
    seen: dict[str, RuleReport] = {}
    for rule in (rule for part in parts for rule in part.rules):
        old = seen.get(rule.code)
        seen[rule.code] = rule if old is None or worst([old.status, rule.status]) is not old.status else old
    return tuple(seen.get(code) or RuleReport(code=code, status=Status.SKIPPED, reason=_why(code)) for code in RULES)


def _why(code: str) -> str:
    rule = RULES[code]
    return "needs data" if rule.data else "needs a checkpoint, a manifest or a baseline"
