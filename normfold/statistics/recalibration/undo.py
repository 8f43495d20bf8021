"""The way back: a small file that turns the repaired model into the very bytes that it was made from.

A repair replaces a few tensors, so nearly all of the original stands in the result. The patch says which ranges of the
result those are, and holds what lies between them: the old statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from normfold.errors import InputError
from normfold.model.patch import Candidate
from normfold.model.splice import splice
from normfold.statistics.archive import Archive, Array

KIND = "undo"
SUFFIX = ".undo.npz"


def undo_patch(candidate: Candidate, result: bytes, manifest: bytes | None = None) -> Archive:
    """The patch from a written result back to the original.

    Args:
        candidate: that was written.
        result: what the model file holds now.
        manifest: that the original had beside it.
    """
    original = candidate.model.buffer
    segments: list[tuple[int, int]] = []  # (offset in the result, length), offset -1: the next bytes of the patch
    kept: list[bytes] = []
    position = at = 0
    for start, end in sorted(splice(candidate, lambda _: None).copied(original)):
        place = result.find(bytes(original[start:end]), at)
        if place < 0:  # it was written elsewhere, in a data file: then it is part of the patch
            continue
        if start > position:
            segments.append((-1, start - position))
            kept.append(bytes(original[position:start]))
        segments.append((place, end - start))
        position, at = end, place + (end - start)
    if len(original) > position:
        segments.append((-1, len(original) - position))
        kept.append(bytes(original[position:]))
    head = {"before": hashlib.sha256(original).hexdigest(), "after": hashlib.sha256(result).hexdigest()}
    arrays: dict[str, Array] = {
        "segments": np.array(segments, np.int64).reshape(-1, 2),
        "bytes": np.frombuffer(b"".join(kept), np.uint8),
    }
    if manifest is not None:
        arrays["manifest"] = np.frombuffer(manifest, np.uint8)
    return Archive(KIND, head, arrays)


def restored(patch: Archive, result: bytes, where: str) -> bytes:
    """The original.

    Raises:
        InputError: `undo.other_model`, the patch belongs to another file; `undo.damaged`.
    """
    if hashlib.sha256(result).hexdigest() != patch.head.get("after"):
        raise InputError(
            "undo.other_model",
            "this is not the model that the patch was written for, or it was changed since",
            where=where,
            hint="apply it to the untouched result of `normfold recalibrate`",
        )
    try:
        original = b"".join(_segments(patch, result))
    except (KeyError, IndexError, TypeError, ValueError):
        original = b""
    if hashlib.sha256(original).hexdigest() != patch.head.get("before"):
        raise InputError("undo.damaged", "the patch is damaged: it does not give the original", where=where)
    return original


def _segments(patch: Archive, result: bytes) -> Iterable[bytes]:
    """The parts of the original. Those of the result follow each other, so that together they are no longer than it.

    Raises:
        KeyError, IndexError, TypeError, ValueError: the patch is none.
    """
    kept, position, at = patch.arrays["bytes"].tobytes(), 0, 0
    for offset, length in patch.arrays["segments"].astype(np.int64, casting="safe").tolist():
        if length < 0 or 0 <= offset < at:
            raise ValueError("segments that overlap")
        if offset < 0:
            yield kept[position : position + length]
            position += length
        else:
            yield result[offset : offset + length]
            at = offset + length
