"""M01 to M03: BatchNormalization in training mode, and the two meanings of it that do no harm (§2.2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.model.graph import Node, Value
from normfold.statistics.file_rules.dependence import input_dependent
from normfold.statistics.findings import finding
from normfold.statistics.schema import Finding, Severity
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds


def training_mode(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """One finding for every BatchNormalization that is written in training form; the first meaning that fits."""
    sites = [site for site in subject.sites if site.uses_batch]
    dynamic = input_dependent(subject) if sites else set()
    for site in sites:
        if id(site.x) not in dynamic:
            message = f"it normalises a weight with the statistics of that weight ({site.mode_reason})"
            yield finding("M02", message, site=site)
        elif _is_instance_norm(site):
            yield _instance_norm(site)
        else:
            yield finding("M01", f"{site.mode_reason}; {_malformed(site) or _stored(site)}", site=site)


def _is_instance_norm(site: StatSite) -> bool:
    """A Reshape in front that may make the batch 1, and one behind it that undoes it."""
    before = _through(site.x)
    leading = site.dims[0] if site.dims else None
    return _is_reshape(before) and (leading == 1 or not isinstance(leading, int)) and _reshaped_back(site)


def _instance_norm(site: StatSite) -> Finding:
    if site.dims and site.dims[0] == 1:
        return finding(
            "M03", "one group of channels for each sample, between two Reshapes: samples do not mix", site=site
        )
    message = "it looks like an InstanceNormalization, but that the batch is 1 in front of it cannot be shown"
    return finding(
        "M03",
        message,
        site=site,
        severity=Severity.WARNING,
        fix="Fix the shape of the input, or export an InstanceNormalization.",
    )


def _reshaped_back(site: StatSite) -> bool:
    """Whether all that reads the result is a Reshape, perhaps behind Cast or Identity."""
    pending = [site.y] if site.y is not None else []
    found = False
    while pending:
        value = pending.pop()
        if value.is_output:
            return False
        for use in value.uses:
            if use.node.op_type in ("Cast", "Identity"):
                pending.append(use.node.output)
            elif _is_reshape(use.node) and use.slot == 0:
                found = True
            elif use.node.op_type != "Shape":
                return False
    return found


def _is_reshape(node: Node | None) -> bool:
    return node is not None and not node.domain and node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def _through(value: Value) -> Node | None:
    node = value.producer
    while node is not None and node.op_type in ("Cast", "Identity") and node.inputs[0] is not None:
        node = node.inputs[0].producer
    return node


def _malformed(site: StatSite) -> str:
    """Outputs that are declared without a name: runtimes refuse such a node, or crash."""
    empty = sum(name == "" for name in site.node.proto.output)
    return f"{empty} of its outputs have no name, which runtimes refuse or crash on" if empty else ""


def _stored(site: StatSite) -> str:
    if site.mean is None or site.var is None:
        return "there are no stored statistics that could be used instead"
    if np.all(site.mean == 0) and np.all(site.var == 1):
        return "the stored statistics were never updated, so they cannot be used instead"
    return "the stored statistics are not used"
