"""What a manifest or a baseline says about tensors of a model that holds no statistics itself.

A record relates one tensor y of the folded model to the BatchNormalization that it comes from, per channel:

    y = γ·(x − μ)/√(v + ε) + β        side "output": y stands in the folded model, x does not
    x                                 side "input": x stands there, because the fold went into what reads y

so that the moments of x follow from those of y, and stored statistics can be held against data as if nothing were folded.
A baseline has the same records: the moments that trusted data had, as the identity around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from normfold.errors import InputError
from normfold.statistics.archive import Archive, read_archive
from normfold.statistics.exact_sums import Float64

Kind = Literal["manifest", "baseline"]
Side = Literal["output", "input"]
SUFFIX = ".normstats.npz"
_WORDS = ("tensor", "side", "label", "key", "host", "readers", "epsilon", "channels")
_VECTORS = ("gamma", "beta", "mean", "var")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One normalisation.

    Args:
        tensor: name in the folded model; its channels lie on axis 1.
        side: which end of the normalisation it is.
        label, key: of the BatchNormalization in the model that was folded.
        host: of side "output", label of the operator that took it in, "" where several did.
        readers: of side "input", the operators that read the normalisation and are still there, each by its first output and
            the input slot; others may read the tensor as well, without it. () where one of them is gone.
        epsilon: of the normalisation.
        gamma, beta, mean, var: `[C]` in float64.
    """

    tensor: str
    side: Side
    label: str
    key: str
    host: str
    epsilon: float
    gamma: Float64
    beta: Float64
    mean: Float64
    var: Float64
    readers: tuple[tuple[str, int], ...] = ()

    @property
    def channels(self) -> int:
        """C."""
        return int(self.gamma.size)


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """A manifest or a baseline.

    Args:
        kind: which.
        records: in execution order.
        source_sha256: of the model that was folded or measured, None where it is not known.
        data: what was measured, for a baseline.
        omitted: normalisations that cannot be followed, by label, with the reason.
        sha256, path: of the file, "" for what was not read from one.
    """

    kind: Kind
    records: tuple[Record, ...]
    source_sha256: str | None = None
    data: str = ""
    omitted: tuple[tuple[str, str], ...] = ()
    sha256: str = ""
    path: str = ""

    def to_bytes(self) -> bytes:
        """The file; the same records give the same bytes.

        The vectors of all records stand in a row, one array for each kind: thousands of small members cost more than they hold.
        """
        sites = [{name: getattr(record, name) for name in _WORDS} for record in self.records]
        arrays = {
            name: np.concatenate([np.zeros(0), *(getattr(record, name) for record in self.records)])
            for name in _VECTORS
        }
        head = {"sites": sites, "source_sha256": self.source_sha256, "data": self.data, "omitted": list(self.omitted)}
        return Archive(self.kind, head, arrays).to_bytes()


def read_records(path: Path, kind: Kind) -> Records:
    """A manifest or a baseline.

    Raises:
        InputError: it is missing, damaged, of the other kind, or of a newer version.
    """
    archive, sha256 = read_archive(path, kind)
    try:
        records = tuple(_records(archive))
        omitted = tuple((str(label), str(reason)) for label, reason in archive.head["omitted"])
        source, data = archive.head["source_sha256"], str(archive.head["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{kind}.damaged", f"this {kind} is incomplete: {error}", where=str(path)) from None
    return Records(kind, records, source, data, omitted, sha256, str(path))


def _records(archive: Archive) -> Iterator[Record]:
    rows = {name: np.asarray(archive.arrays[name], np.float64) for name in _VECTORS}
    at = 0
    for site in archive.head["sites"]:
        if site["side"] not in ("output", "input"):
            raise ValueError(f"{site['label']} has the side {site['side']!r}")
        channels = int(site["channels"])
        if channels < 1:
            raise ValueError(f"{site['label']} has {channels} channels")
        vectors = {name: row[at : at + channels] for name, row in rows.items()}
        at += channels
        yield Record(
            site["tensor"], site["side"], site["label"], site["key"], site["host"], float(site["epsilon"]), **vectors,
            readers=tuple((str(name), int(slot)) for name, slot in site["readers"]),
        )  # fmt: skip
    if any(row.shape != (at,) for row in rows.values()):
        raise ValueError("its vectors have other lengths than its head says")


def by_tensor(records: Sequence[Record]) -> dict[str, Record]:
    """Records by the tensor that they are about; of several at one, the last, which is the one nearest to the readers."""
    return {record.tensor: record for record in records}
