"""The examination against a checkpoint: were the statistics updated, are they those of this layer, and what was folded?"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from normfold.errors import InputError
from normfold.statistics.checkpoint.folded import Explained, explain
from normfold.statistics.checkpoint.norms import Norm, close, is_copy, matched, named, norms
from normfold.statistics.checkpoint.reading import read_checkpoint
from normfold.statistics.findings import finding
from normfold.statistics.part import Part
from normfold.statistics.schema import Evidence, Finding, Origin, ReferenceReport, Severity
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject

_LEFT = 0.01  # share of the initial 0 and 1 that an average may still hold
_USUAL_MOMENTUM = 0.1  # of PyTorch: weight of the new batch
USUAL_EPSILON = 1e-5  # of PyTorch; a checkpoint does not say


def with_checkpoint(subject: Subject, path: Path, *, epsilon: float | None = None) -> Part:
    """Hold a model against the weights that it was exported from.

    Args:
        subject: the model.
        path: `.safetensors`, or `.pt` with torch.
        epsilon: of the layers in training; None for the usual one, and then a different one is only worth a warning.

    Raises:
        InputError: the checkpoint cannot be read, or is that of another model.
        EnvironmentProblem: a `.pt` file without torch.
    """
    arrays = read_checkpoint(path)
    found = norms(arrays)
    pairs = matched(subject.sites, found)
    findings = [*_of_sites(subject.sites, pairs, found)]
    folded = list(explain(subject, arrays, found))
    findings += [f for item in folded for f in _of_folded(item, epsilon)]
    if found and not pairs and not folded and any(site.has_statistics for site in subject.sites):
        raise InputError(
            "checkpoint.other", "no layer of the model has its name, its numbers or its gamma and beta from this checkpoint",
            where=str(path), hint="give the checkpoint that the model was exported from",
        )  # fmt: skip
    unmatched = [site.label for site in subject.sites if site.key not in pairs]
    used = [*pairs.values(), *(item.norm for item in folded if item.norm is not None)]
    remarks = tuple(_remarks(subject.sites, pairs, found, used))
    reference = ReferenceReport(
        kind="checkpoint", path=str(path), sha256=_sha256(path), matched=len(pairs) + len(folded),
        unmatched=tuple(unmatched), remarks=remarks,
    )  # fmt: skip
    return Part(findings=tuple(findings), references=(reference,), warnings=remarks)


def _remarks(
    sites: Sequence[StatSite], pairs: Mapping[str, Norm], found: Sequence[Norm], used: Sequence[Norm]
) -> Iterator[str]:
    """What could not be compared."""
    if not found:
        yield "the checkpoint holds no running statistics"
        return
    for site in sites:
        other = next((norm for norm in found if named(site, norm)), None) if site.key not in pairs else None
        if other is not None and site.mean is not None and other.mean.shape != site.mean.shape:
            yield f"{other.name} has {other.mean.size} channels in the checkpoint and {site.mean.size} in the model"
    open_ = [site.label for site in sites if site.key not in pairs]
    if open_:
        yield f"{len(open_)} normalisations of the model are not in the checkpoint, {open_[0]!r} among them"
    missing = [n.name for n in found if not any(n is other or is_copy(n, other) for other in used)]
    if missing:
        yield f"{len(missing)} normalisations of the checkpoint are not in the model, {missing[0]!r} among them"


def _of_sites(sites: Sequence[StatSite], pairs: Mapping[str, Norm], found: Sequence[Norm]) -> Iterator[Finding]:
    counts = Counter(norm.count for norm in found if norm.count)
    usual = counts.most_common(1)[0][0] if counts else None
    for site in sites:
        norm = pairs.get(site.key)
        if norm is None:
            continue
        yield from _of_count(site, norm, usual)
        yield from _of_statistics(site, norm, found)


def _of_count(site: StatSite, norm: Norm, usual: int | None) -> Iterator[Finding]:
    """What `num_batches_tracked` says."""
    if norm.count is None:
        return
    if norm.count == 0:
        message = f"{norm.name} has seen no batch in training (num_batches_tracked = 0)"
        yield _finding("S01", message, site, _evidence("batches in training", 0))
        return
    p = _USUAL_MOMENTUM if site.momentum is None else 1 - site.momentum
    if 0 < p < 1:
        left = (1 - p) ** norm.count
        if left > _LEFT:
            needed = math.ceil(math.log(_LEFT) / math.log(1 - p))
            message = (
                f"{norm.name} has seen {norm.count} batches, and {needed} are wanted: "
                f"{left:.0%} of the initial 0 and 1 is left"
            )
            yield _finding("S10", message, site, _evidence("batches in training", norm.count, needed))
    if usual and norm.count != usual and norm.count % usual == 0:
        message = (
            f"{norm.name} was updated {norm.count // usual} times as often as the others: it is applied several times"
        )
        yield _finding("S08", message, site, _evidence("batches in training", norm.count, usual))


def _of_statistics(site: StatSite, norm: Norm, found: Sequence[Norm]) -> Iterator[Finding]:
    """Whether they are those of this layer."""
    assert site.mean is not None and site.var is not None
    if close(site.mean, norm.mean) and close(site.var, norm.var):
        return
    other = next(
        (n for n in found if n is not norm and close(site.mean, n.mean) and close(site.var, n.var)), None
    )  # fmt: skip
    if other is not None and is_copy(other, norm):
        message = f"it holds the statistics of {other.name} and the weights of {norm.name}: one of them was averaged"
        yield _finding("S09", message, site)
    elif other is not None:
        yield _finding("S13", f"it holds the statistics of {other.name}, and is {norm.name}", site)
    elif close(np.sort(site.mean), np.sort(norm.mean)) and close(np.sort(site.var), np.sort(norm.var)):
        moved = int((np.abs(site.mean - norm.mean) > 0).sum())
        message = f"it holds the statistics of {norm.name} with {moved} channels in another order"
        yield _finding("S13", message, site, channels=moved)
    else:
        spread = np.sqrt(np.maximum(norm.var, np.finfo(np.float32).tiny))
        shift = float(np.nanmedian(np.abs(site.mean - norm.mean) / spread))
        message = f"its statistics are not those of {norm.name} in the checkpoint (means differ by {shift:.2g} σ)"
        yield _finding("S09", message, site, _evidence("difference of means, in σ", shift))


def _of_folded(item: Explained, epsilon: float | None) -> Iterator[Finding]:
    """Which statistics and which epsilon the weights were made with."""
    where = f"{item.node.op_type} {item.node.label!r}"
    if item.norm is None or item.epsilon is None:
        message = f"{where} is {item.weight} times a scale that no statistics of the checkpoint explain"
        yield _at(item, message, Severity.ERROR)
        return
    if item.expected is not None and item.expected is not item.norm:
        message = f"{where} was folded with the statistics of {item.norm.name}; {item.expected.name} stands behind it"
        yield _at(item, message, Severity.ERROR)
        return
    wanted = USUAL_EPSILON if epsilon is None else epsilon
    if not math.isclose(item.epsilon, wanted, rel_tol=0.1, abs_tol=1e-9):
        said = "the usual one" if epsilon is None else "the given one"
        message = (
            f"{where} was folded with the statistics of {item.norm.name} and ε = {item.epsilon:g}; {said} is {wanted:g}"
        )
        severity = Severity.WARNING if epsilon is None else Severity.ERROR
        yield _at(item, message, severity, _evidence("epsilon that explains the weights", item.epsilon, wanted))
    elif item.bias_fits is False:
        message = f"the weights of {where} were folded with {item.norm.name}, its bias with other means"
        yield _at(item, message, Severity.ERROR)


def _at(item: Explained, message: str, severity: Severity, *evidence: Evidence) -> Finding:
    made = finding("X01", message, severity=severity, origin=Origin.REFERENCE, evidence=evidence)
    return made.model_copy(update={"node": item.node.label, "key": item.node.key})


def _finding(code: str, message: str, site: StatSite, *evidence: Evidence, channels: int | None = None) -> Finding:
    return finding(code, message, site=site, origin=Origin.REFERENCE, evidence=evidence, channels=channels)


def _evidence(name: str, value: float, threshold: float | None = None) -> Evidence:
    return Evidence(name=name, value=value, threshold=threshold)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
