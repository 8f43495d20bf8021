"""What is repaired: a model with normalisations, or a folded one with a manifest. Both are measured and judged alike."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from normfold.model.patch import Candidate
from normfold.model.source import Source
from normfold.model.splice import METADATA_PREFIX
from normfold.model.trust import Trust
from normfold.statistics.folded.finding import Shown, find_manifest, shown
from normfold.statistics.folded.manifest import STATS_KEY
from normfold.statistics.folded.records import Record, Records
from normfold.statistics.folded.repair import obstacle, refolded, updated
from normfold.statistics.folded.view import unseen
from normfold.statistics.probes.forms import Statistics
from normfold.statistics.recalibration.storing import store, stored
from normfold.statistics.subject import Subject, open_subject

Metadata = Mapping[str, str]


class Piece(Protocol):
    """A model under repair.

    Attributes:
        file: as it is on disk.
        subject: to measure on.
        obstacles: sites that cannot be repaired, by key, with the reason.
        fixed: by key of the site, `[C]`, channels that keep what they have.
        manifest: of a folded model, as it is on disk now.
    """

    @property
    def file(self) -> Subject: ...  # noqa: D102
    @property
    def subject(self) -> Subject: ...  # noqa: D102
    @property
    def obstacles(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def fixed(self) -> Mapping[str, NDArray[np.bool_]]: ...  # noqa: D102
    @property
    def manifest(self) -> bytes | None: ...  # noqa: D102

    def repaired(self, statistics: Mapping[str, Statistics], metadata: Metadata) -> tuple[Candidate, bytes | None]:
        """The model with other statistics, and its new manifest where it has one."""

    def reopened(self, path: Path) -> Subject:
        """What was written, to measure on."""


@dataclass(frozen=True, slots=True, eq=False)
class Unfolded:
    """A model whose normalisations are in the file."""

    file: Subject
    obstacles: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    manifest: bytes | None = None

    @property
    def subject(self) -> Subject:
        """The file itself."""
        return self.file

    def repaired(self, statistics: Mapping[str, Statistics], metadata: Metadata) -> tuple[Candidate, bytes | None]:
        """Statistics are parameters: they are replaced.

        Raises:
            InputError: `recalibrate.function`.
        """
        return stored(self.file, statistics, metadata), None

    def reopened(self, path: Path) -> Subject:
        """As any model."""
        return open_subject(Source(path, trust=Trust(caps=self.file.original.trust.caps)))


class Folded:
    """A model whose normalisations are in its weights, with a manifest; some may still be in the file."""

    def __init__(self, seen: Shown) -> None:
        self._seen = seen
        self.file, self.subject = seen.folded, seen.subject
        model = seen.folded.original
        reasons = {key: obstacle(model, record) for key, record in seen.by_site.items()}
        self.obstacles = {key: reason for key, reason in reasons.items() if reason}
        self.fixed = {key: unseen(record) for key, record in seen.by_site.items() if record.side == "output"}
        self.manifest = seen.records.to_bytes()

    def repaired(self, statistics: Mapping[str, Statistics], metadata: Metadata) -> tuple[Candidate, bytes | None]:
        """The weights take the difference; normalisations that are still there get parameters.

        Raises:
            InputError: `recalibrate.function`.
        """
        by_site = self._seen.by_site
        new: dict[str, tuple[Record, Statistics]] = {
            by_site[key].tensor: (by_site[key], found) for key, found in statistics.items() if key in by_site
        }
        records = tuple(
            updated(record, new[record.tensor][1]) if _is(record, new) else record
            for record in self._seen.records.records
        )
        old = self._seen.records
        manifest = Records(old.kind, records, old.source_sha256, old.data, old.omitted).to_bytes()
        ours = {k: text for k, text in self.file.original.metadata.items() if k.startswith(METADATA_PREFIX)}
        said = {**ours, **metadata, STATS_KEY: hashlib.sha256(manifest).hexdigest()}
        candidate = refolded(self.file.original, new, said)
        candidate.metadata.update(said)
        store(candidate, self.file, self._in_file(statistics))
        return candidate, manifest

    def _in_file(self, statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
        """Statistics of normalisations that were not folded, by their key in the file: positions in the view are others.

        They are told by the names of their results, and those of one name (in two branches) by their order.
        """
        named = defaultdict[str, deque[str]](deque)
        for site in self.file.sites:
            named["" if site.y is None else site.y.name].append(site.key)
        keys = {
            site.key: named["" if site.y is None else site.y.name].popleft()
            for site in self.subject.sites
            if site.key not in self._seen.by_site
        }
        return {keys[key]: found for key, found in statistics.items() if key in keys}

    def reopened(self, path: Path) -> Subject:
        """With the manifest that was written beside it.

        Raises:
            InputError: the manifest does not belong to it.
        """
        return piece_of(open_subject(Source(path, trust=Trust(caps=self.file.original.trust.caps)))).subject


def _is(record: Record, new: Mapping[str, tuple[Record, Statistics]]) -> bool:
    return record.tensor in new and new[record.tensor][0] is record


def piece_of(subject: Subject) -> Piece:
    """A model as something to repair.

    Raises:
        InputError: it names a manifest that is not there, or is damaged.
    """
    records = find_manifest(subject.original)
    return Unfolded(subject) if records is None else Folded(shown(subject, records))
