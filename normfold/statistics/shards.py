"""Parts of one measurement, as files: `stats collect` writes them, `stats merge` makes one of them.

What a part holds are sums (§4.2, `moments`), so any split of the batches over any number of parts gives the same result. A
part says which batches it has, of which model and data it is, and carries a checksum, so that no part enters twice and none
is missing unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.errors import InputError
from normfold.statistics.archive import Archive, Array, read_archive
from normfold.statistics.collect import NOT_REACHED, Batch
from normfold.statistics.exact_sums import ExactSum
from normfold.statistics.moments import Moments, merge

KIND = "moments"
_SUMS = ("first", "second", "batch")
_VECTORS = ("shift", "low", "high", "non_finite")


@dataclass(frozen=True, slots=True)
class Shard:
    """Which batches a part has: those whose number is `index` modulo `count`, both from 0."""

    index: int
    count: int

    def __call__(self, batch: Batch) -> bool:
        """Whether a batch is of this part."""
        return batch.index % self.count == self.index


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One measurement, or a part of one.

    Args:
        model_sha256: of what was measured, the manifest of a folded model included.
        moments: by key of the site.
        labels: of all sites, by key, in execution order.
        shards: which of `count` are in it, sorted.
        count: of all shards.
        samples, batches: that went through.
        data: what it was, in words; part_sha256 of what was fed, by shard.
        skipped: sites that could not be measured, by key, with the reason.
    """

    model_sha256: str
    moments: Mapping[str, Moments]
    labels: Mapping[str, str]
    shards: tuple[int, ...]
    count: int
    samples: int
    batches: int
    data: str
    part_sha256: Mapping[int, str]
    skipped: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether no shard is missing."""
        return self.shards == tuple(range(self.count))

    def to_bytes(self) -> bytes:
        """The file."""
        arrays: dict[str, Array] = {}
        sites = []
        for index, (key, moments) in enumerate(self.moments.items()):
            arrays |= {f"{index:04d}.{name}": array for name, array in _arrays(moments).items()}
            groups = None if moments.groups is None else sorted(moments.groups)
            sites.append(
                {
                    "key": key,
                    "samples": moments.samples,
                    "batch_size": moments.batch_size,
                    "groups": groups,
                }
            )
        head = {
            "model_sha256": self.model_sha256, "sites": sites, "labels": list(self.labels.items()),
            "shards": list(self.shards), "count": self.count,
            "samples": self.samples, "batches": self.batches, "data": self.data, "skipped": dict(self.skipped),
            "part_sha256": {str(shard): value for shard, value in self.part_sha256.items()},
            "content": _checksum(arrays),
        }  # fmt: skip
        return Archive(KIND, head, arrays).to_bytes()


def read_part(path: Path) -> Part:
    """A part from a file.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    archive, _ = read_archive(path, KIND)
    head = archive.head
    try:
        if head["content"] != _checksum(archive.arrays):
            raise ValueError("its checksum is wrong")
        moments = {site["key"]: _moments(f"{i:04d}", site, archive.arrays) for i, site in enumerate(head["sites"])}
        return Part(
            head["model_sha256"], moments, {str(key): str(label) for key, label in head["labels"]},
            tuple(head["shards"]), head["count"], head["samples"], head["batches"], head["data"],
            {int(shard): value for shard, value in head["part_sha256"].items()}, head["skipped"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("moments.damaged", f"this part is damaged: {error}", where=str(path)) from None


def merged(parts: Sequence[Part], names: Sequence[str]) -> Part:
    """All parts as one; the order does not matter.

    Args:
        parts: of one measurement.
        names: of the parts, for messages.

    Raises:
        InputError: `moments.other`, parts of different measurements; `moments.twice`, a shard is in two of them.
    """
    first, where = parts[0], names[0]
    seen: dict[int, str] = {}
    contents: dict[str, str] = {}
    for part, name in zip(parts, names, strict=True):
        same = (part.model_sha256, part.count, part.data) == (first.model_sha256, first.count, first.data)
        if not same or _measured(part) != _measured(first):
            raise InputError(
                "moments.other", f"{name} and {where} are parts of different measurements", where=name,
                hint="merge parts of one model, one data and one number of shards",
            )  # fmt: skip
        for shard in part.shards:
            content = part.part_sha256.get(shard, "")
            if shard in seen or content in contents:
                other = seen.get(shard) or contents[content]
                raise InputError("moments.twice", f"the data of {name} is in {other} already", where=name)
            seen[shard] = contents[content] = name
    ordered = sorted(parts, key=lambda part: part.shards)
    try:
        moments = {
            key: merge([part.moments[key] for part in ordered if key in part.moments])
            for key in first.labels
            if any(key in part.moments for part in ordered)
        }
    except ValueError as error:
        raise InputError("moments.other", f"the parts do not belong together: {error}", where=where) from None
    return Part(
        first.model_sha256, moments, first.labels, tuple(sorted(seen)), first.count,
        sum(part.samples for part in parts), sum(part.batches for part in parts), first.data,
        {shard: value for part in ordered for shard, value in sorted(part.part_sha256.items())},
        {key: reason for part in ordered for key, reason in part.skipped.items() if key not in moments},
    )  # fmt: skip


def _measured(part: Part) -> set[str]:
    """What could be measured: with the sites in bodies that are run for other batches only."""
    return {*part.moments, *(key for key, reason in part.skipped.items() if reason == NOT_REACHED)}


def require_complete(part: Part) -> None:
    """A measurement without all of its parts says nothing about the data.

    Raises:
        InputError: `moments.missing`.
    """
    missing = sorted(set(range(part.count)) - set(part.shards))
    if missing:
        words = ", ".join(f"{shard + 1}/{part.count}" for shard in missing[:6])
        raise InputError("moments.missing", f"{len(missing)} parts are missing: {words}", hint="collect them first")


def _arrays(moments: Moments) -> dict[str, Array]:
    found: dict[str, Array] = {name: getattr(moments, name) for name in _VECTORS}
    for name in _SUMS:
        total: ExactSum = getattr(moments, name)
        found |= {f"{name}.high": total.high, f"{name}.low": total.low}
    if moments.groups:
        totals = [moments.groups[name] for name in sorted(moments.groups)]
        found |= {"groups.high": np.stack([t.high for t in totals]), "groups.low": np.stack([t.low for t in totals])}
    return found


def _moments(prefix: str, site: Mapping[str, object], arrays: Mapping[str, Array]) -> Moments:
    def array(name: str) -> Array:
        return arrays[f"{prefix}.{name}"]

    names, batch_size, samples = site["groups"], site["batch_size"], site["samples"]
    if not isinstance(batch_size, int) or not isinstance(samples, int):
        raise TypeError("a count is no number")
    groups: dict[str, ExactSum] | None = None
    if isinstance(names, list):
        groups = {str(name): ExactSum(array("groups.high")[i], array("groups.low")[i]) for i, name in enumerate(names)}
    first, second, batch = (ExactSum(array(f"{name}.high"), array(f"{name}.low")) for name in _SUMS)
    return Moments(
        array("shift"), batch_size, samples, first, second, batch, array("low"), array("high"), array("non_finite"),
        groups,
    )  # fmt: skip


def _checksum(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
