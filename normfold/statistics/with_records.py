"""The examination of folded models: a manifest or a baseline makes their normalisations visible, the rest stays as it is."""

from __future__ import annotations

from pathlib import Path

from normfold.errors import InputError
from normfold.statistics.folded.baseline import identity
from normfold.statistics.folded.finding import Shown, find_manifest, shown
from normfold.statistics.folded.records import Records, read_records
from normfold.statistics.part import Part
from normfold.statistics.schema import ReferenceReport
from normfold.statistics.subject import Subject


def with_records(subject: Subject, baseline: Path | None = None) -> tuple[Subject, Part]:
    """What is to be examined in the place of a model, and what to say about that.

    Args:
        subject: the model. Without a manifest and a baseline it is examined as it is; so it is, with a warning, where its
            manifest is lost.
        baseline: of `stats record`; it goes before a manifest.

    Raises:
        InputError: the baseline cannot be read, or has nothing in common with the model.
    """
    if baseline is not None:
        return _with_baseline(subject, baseline)
    try:
        records = find_manifest(subject.original)
    except InputError as error:
        return subject, Part(warnings=(f"{error}; the folded normalisations are not examined",))
    if records is None:
        return subject, Part()
    seen = shown(subject, records)
    return seen.subject, Part(references=(_reference(seen, records, [f"{n}: {why}" for n, why in records.omitted]),))


def _with_baseline(subject: Subject, path: Path) -> tuple[Subject, Part]:
    records = read_records(path, "baseline")
    seen = shown(subject, records)
    if not seen.by_site:
        raise InputError(
            "baseline.other", "none of the tensors of this baseline is in the model", where=str(path),
            hint="record one for this model: normfold stats record",
        )  # fmt: skip
    remarks = [f"recorded on {records.data}"]
    if records.source_sha256 != identity(subject.original):
        remarks.append("it was recorded with another file; tensors go by their names")
    return seen.subject, Part(references=(_reference(seen, records, remarks),))


def _reference(seen: Shown, records: Records, remarks: list[str]) -> ReferenceReport:
    return ReferenceReport(
        kind=records.kind, path=records.path, sha256=records.sha256 or None, matched=len(seen.by_site),
        unmatched=tuple(seen.skipped), remarks=(*remarks, *(f"{name}: {why}" for name, why in seen.skipped.items())),
    )  # fmt: skip
