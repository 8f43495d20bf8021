"""Small files of named arrays with a head: what manifests, baselines, shards and undo patches are stored in.

A `.npz` archive, so that anybody can open it with numpy; the head is JSON in the array `head`. The same content gives the
same bytes: names are sorted, and no time enters. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold._version import __version__
from normfold.errors import InputError

Array = NDArray[Any]
# What numpy and zipfile raise for an archive that is damaged, encrypted, or packed in a way that they do not know.
UNREADABLE = (
    OSError, ValueError, EOFError, SyntaxError, RuntimeError, NotImplementedError, MemoryError, struct.error, zlib.error,
    zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
_HEAD = "head"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that the format knows


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """What one file holds.

    Args:
        kind: what it is for, `manifest`; a reader refuses other kinds.
        head: plain values.
        arrays: by name.
        version: of the format of this kind; a reader refuses newer ones.
    """

    kind: str
    head: Mapping[str, Any]
    arrays: Mapping[str, Array]
    version: int = 1

    def to_bytes(self) -> bytes:
        """The file."""
        head = {**self.head, "kind": self.kind, "format": self.version, "tool": f"normfold {__version__}"}
        text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, _HEAD, np.frombuffer(text, np.uint8))
            for name in sorted(self.arrays):
                _add(archive, name, self.arrays[name])
        return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, buffer.getvalue())


def read_archive(path: Path, kind: str, *, newest: int = 1) -> tuple[Archive, str]:
    """A file of that kind, and the SHA-256 of its bytes.

    Raises:
        InputError: it is missing, damaged, of another kind, or newer than this version of normfold.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{kind}.missing", f"cannot be read: {reason}", where=str(path)) from None
    return parse_archive(content, kind, str(path), newest=newest), hashlib.sha256(content).hexdigest()


def parse_archive(content: bytes, kind: str, where: str, *, newest: int = 1) -> Archive:
    """As `read_archive`, from bytes."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        head = json.loads(arrays.pop(_HEAD).tobytes())
        found, version = head.pop("kind"), head.pop("format")
    except (*UNREADABLE, KeyError, AttributeError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{kind}.damaged", f"this is no {kind} file: {words}", where=where) from None
    if found != kind:
        raise InputError(f"{kind}.kind", f"this is a {found} file, wanted a {kind} file", where=where)
    if not isinstance(version, int) or version > newest:
        raise InputError(
            f"{kind}.version",
            f"it was written by a newer version ({head.get('tool', 'unknown')})",
            where=where,
            hint="update normfold",
        )
    return Archive(kind, head, arrays, version)
