"""S08, S11, S13 and S16 from the file: statistics in several places, in the wrong place, or in none; N01."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from normfold.model.graph import STANDARD
from normfold.statistics.file_rules.values import readable
from normfold.statistics.findings import finding
from normfold.statistics.schema import Finding, Severity
from normfold.statistics.sites import MEAN, StatSite, execution_order
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

_PRODUCER = 2  # field of ModelProto
_FEWEST = 4  # channels; fewer agree by chance, or because they were made by hand
_LINEAR = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "QLinearConv", "FusedConv"))


def shared(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S08: one stored mean that several nodes read; S13: several stored means that are equal."""
    by_value: dict[int, list[StatSite]] = {}
    by_content: dict[bytes, list[StatSite]] = {}
    for site, mean, var in readable(subject):
        if (mean == 0).all():
            continue
        group = by_value.setdefault(id(subject.constants.get(site.parameter(MEAN)) or site.parameter(MEAN)), [])
        group.append(site)
        if len(group) == 1 and mean.size >= _FEWEST and np.ptp(mean) > 0:
            digest = hashlib.sha256(mean.tobytes() + var.tobytes()).digest()
            by_content.setdefault(digest, []).append(site)
    for sites in by_value.values():
        if len(sites) > 1:
            message = f"{len(sites)} BatchNormalizations read the same stored mean: {_names(sites)}"
            yield finding("S08", message, site=sites[0], nodes=tuple(site.label for site in sites[1:]))
    for sites in by_content.values():
        if len(sites) > 1:
            message = f"{len(sites)} layers hold the same mean and variance: {_names(sites)}"
            yield finding("S13", message, site=sites[1], nodes=tuple(s.label for s in sites if s is not sites[1]))


def _names(sites: list[StatSite], most: int = 4) -> str:
    shown = ", ".join(site.label for site in sites[:most])
    return f"{shown} and {len(sites) - most} more" if len(sites) > most else shown


def not_constant(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S16: a parameter that a caller may override, or that is computed."""
    for site in subject.sites:
        if site.overridable:
            listed = ", ".join(repr(name) for name in site.overridable)
            yield finding("S16", f"a caller may override {listed} through the graph inputs", site=site)
        elif site.unreadable and not site.uses_batch:
            listed = ", ".join(f"{name}: {why}" for name, why in site.unreadable.items())
            yield finding(
                "S16", listed, site=site, severity=None if {"mean", "var"} & set(site.unreadable) else Severity.INFO
            )


def swapped_momentum(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S11: the weight of the old value is small; one finding for the model."""
    sites = [s for s in subject.sites if s.momentum is not None and s.momentum < thresholds.momentum]
    if not sites:
        return
    torch = "pytorch" in _producer(subject).lower()
    values = sorted({f"{site.momentum:.3g}" for site in sites})
    message = f"momentum is {', '.join(values)} in {len(sites)} of {len(subject.sites)} BatchNormalizations"
    yield finding(
        "S11", message, severity=Severity.WARNING if torch else Severity.INFO, nodes=tuple(site.label for site in sites)
    )


def _producer(subject: Subject) -> str:
    """`producer_name` of the file."""
    model = subject.original
    texts = [bytes(model.buffer[item.start : item.end]) for item in model.order if item.number == _PRODUCER]
    return texts[-1].decode("utf-8", "replace") if texts else ""


def no_statistics(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """N01: no BatchNormalization, and fewer norms of other kinds than convolutions."""
    if subject.sites:
        return
    linear = [
        n for n in execution_order(subject.model) if n.op_type in _LINEAR and n.domain in (*STANDARD, "com.microsoft")
    ]
    convolutions = [node for node in linear if "Conv" in node.op_type]
    if not linear or (subject.stateless and len(convolutions) <= len(subject.stateless)):
        return
    what = f"{len(convolutions)} convolutions" if convolutions else f"{len(linear)} matrix products"
    others = f" and {len(subject.stateless)} norms of other kinds" if subject.stateless else ""
    yield finding("N01", f"{what}{others}, and no BatchNormalization: folded at export, or never there")
