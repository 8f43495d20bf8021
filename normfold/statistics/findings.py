"""Making findings: severity and fix come from the catalogue, the sentence and the numbers from who found it."""

from __future__ import annotations

from typing import Protocol

from normfold.statistics.codes import RULES
from normfold.statistics.schema import Evidence, Finding, Origin, Severity


class Place(Protocol):
    """A site or a node: what a finding can be about."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102


def finding(
    code: str,
    message: str,
    *,
    site: Place | None = None,
    severity: Severity | None = None,
    fix: str = "",
    origin: Origin = Origin.FILE,
    evidence: tuple[Evidence, ...] = (),
    nodes: tuple[str, ...] = (),
    channels: int | None = None,
) -> Finding:
    """A finding of the catalogue.

    Args:
        code: of the catalogue.
        message: one sentence without a full stop.
        site: the norm or node that it is about; None for the model.
        severity, fix: other than the usual.
        origin, evidence, nodes, channels: as in `Finding`.
    """
    rule = RULES[code]
    return Finding(
        code=code,
        severity=severity or rule.severity,
        node="" if site is None else site.label,
        key="" if site is None else site.key,
        message=message,
        fix=fix or rule.fix,
        origin=origin,
        evidence=evidence,
        nodes=nodes,
        channels=channels,
    )
