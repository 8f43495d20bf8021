"""From a folded model on disk to its manifest, and to a subject in which its normalisations can be seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from normfold.errors import InputError
from normfold.model.load import Model
from normfold.model.opener import read_file
from normfold.statistics.folded.manifest import STATS_KEY, manifest_name
from normfold.statistics.folded.records import SUFFIX, Record, Records, read_records
from normfold.statistics.folded.view import unfolded
from normfold.statistics.subject import Subject, open_subject


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A folded model with its normalisations made visible.

    Args:
        folded: the subject as it is in the file.
        subject: the view: measure and judge this one. It has the path and the checksum of the folded file.
        records: manifest or baseline.
        by_site: records by key of the site in the view.
        skipped: records that are not in the view, by label, with the reason.
    """

    folded: Subject
    subject: Subject
    records: Records
    by_site: dict[str, Record]
    skipped: dict[str, str]


def find_manifest(model: Model) -> Records | None:
    """The manifest that belongs to a model: beside it, under its name or another; None where the model has none.

    Raises:
        InputError: `manifest.missing`, or it is damaged.
    """
    sha256 = model.metadata.get(STATS_KEY)
    if not sha256 or model.path is None:
        return None
    usual = model.path.with_name(manifest_name(model.path))
    for path in (usual, *sorted(model.path.parent.glob(f"*{SUFFIX}"))):
        if path.is_file() and _sha256(path) == sha256:
            return read_records(path, "manifest")
    what = "is that of another model" if usual.exists() else "is not beside the model"
    raise InputError(
        "manifest.missing",
        f"the file with the statistics of the folded normalisations {what}",
        where=str(usual),
        hint="copy the right one there from where the model was made, or fold again",
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def shown(folded: Subject, records: Records) -> Shown:
    """The view of a folded model.

    Raises:
        InputError: `input.proto_2gib`, it is too large for memory.
    """
    view = unfolded(folded.original, records.records)
    seen = open_subject(view.proto)
    by_site = {}
    for site in seen.sites:
        record = view.records.get(site.y.name) if site.y is not None else None
        if record is not None:
            by_site[site.key] = record
    subject = replace(seen, path=folded.path, sha256=folded.sha256)
    return Shown(folded, subject, records, by_site, view.skipped)
