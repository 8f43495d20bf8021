"""One file for the tensors of one run: raw bytes, then an index, then a checksum.

A zip archive costs about 0.1 ms per tensor, which thousands of small regions cannot afford. This module is shared by
both processes, so it imports nothing but the standard library and numpy.

    body | index (JSON) | 8 bytes length of index | 4 bytes CRC-32 of body and index | magic
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = b"NFPACK1\n"
_TAIL = 8 + 4 + len(_MAGIC)


class PackError(Exception):
    """The file is missing, short or damaged."""


def write_pack(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` (arrays, or nested lists, dicts and None around arrays) under `path`, then rename into place."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        body = _Body(file)
        index = json.dumps({name: body.put(value) for name, value in values.items()}).encode()
        file.write(index)
        file.write(len(index).to_bytes(8, "little") + zlib.crc32(index, body.crc).to_bytes(4, "little") + _MAGIC)
    partial.replace(path)


class _Body:
    def __init__(self, file: Any) -> None:
        self.file, self.offset, self.crc = file, 0, 0

    def put(self, value: Any) -> Any:
        """Append `value` and return its place in the index."""
        if value is None:
            return {"kind": "none"}
        if isinstance(value, list):
            return {"kind": "sequence", "items": [self.put(item) for item in value]}
        if isinstance(value, dict):
            return {"kind": "map", "items": [[str(key), self.put(item)] for key, item in value.items()]}
        if isinstance(value, str | int | float):
            return {"kind": "plain", "value": value}
        return self._array(np.asarray(value))

    def _array(self, array: Any) -> Any:
        if array.dtype.kind in "OUS":
            return {"kind": "strings", "shape": array.shape, "items": [str(item) for item in array.ravel()]}
        start = self.offset
        raw = np.ascontiguousarray(array).view(np.uint8).data if array.size and array.ndim else array.tobytes()
        self.crc = zlib.crc32(raw, self.crc)
        self.offset += self.file.write(raw)
        return {"kind": "tensor", "dtype": array.dtype.name, "shape": array.shape, "at": start}


def read_pack(path: Path) -> dict[str, Any]:
    """Read what `write_pack` wrote. Arrays are read-only views of one buffer.

    Raises:
        PackError: the file is missing, truncated, or its checksum does not match.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackError(f"{path.name}: {error.strerror}") from error
    if len(data) < _TAIL or not data.endswith(_MAGIC):
        raise PackError(f"{path.name} is truncated")
    length = int.from_bytes(data[-_TAIL : -_TAIL + 8], "little")
    end = len(data) - _TAIL
    if length > end or zlib.crc32(memoryview(data)[:end]) != int.from_bytes(data[-_TAIL + 8 : -_TAIL + 12], "little"):
        raise PackError(f"{path.name} has a wrong checksum")
    index = json.loads(data[end - length : end])
    return {name: _take(data, entry) for name, entry in index.items()}


def _take(data: bytes, entry: Any) -> Any:
    kind = entry["kind"]
    if kind == "none":
        return None
    if kind == "plain":
        return entry["value"]
    if kind == "sequence":
        return [_take(data, item) for item in entry["items"]]
    if kind == "map":
        return {key: _take(data, item) for key, item in entry["items"]}
    if kind == "strings":
        return np.array(entry["items"], dtype=object).reshape(entry["shape"])
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    return np.frombuffer(data, dtype, int(np.prod(shape, dtype=np.int64)), entry["at"]).reshape(shape)
