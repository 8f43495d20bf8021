"""Checkpoints -> arrays by name. Weights only: nothing in a checkpoint is ever run.

`.safetensors` is a length, a JSON table and raw bytes, and read here: the file is mapped, so that of a large one only what is
compared is read. `.pt` is read by torch (`torch_file`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from normfold.errors import InputError
from normfold.statistics.checkpoint.torch_file import read_torch

Array = NDArray[Any]

_TYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_LARGEST_HEAD = 100 << 20


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Every array of a checkpoint, by its name; of averaged copies with that of the copy in front, `ema.features.0.bn.weight`.

    Raises:
        InputError: `checkpoint.missing`, `checkpoint.format`, `checkpoint.damaged`, `checkpoint.objects`.
        EnvironmentProblem: `environment.torch`, a `.pt` file without torch.
    """
    if not path.is_file():
        raise InputError("checkpoint.missing", "no such file", where=str(path))
    if path.suffix == ".safetensors":
        return _unprefixed(_safetensors(path))
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".tar"):
        return {name: array for part in read_torch(path) for name, array in _unprefixed(part).items()}
    raise InputError(
        "checkpoint.format", f"{path.suffix or 'this'} is no kind of checkpoint that can be read", where=str(path),
        hint="give .safetensors, or a .pt file of weights",
    )  # fmt: skip


def _safetensors(path: Path) -> dict[str, Array]:
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEAD, size - 8):
                raise ValueError(f"its head would be {length} bytes long")
            table = json.loads(stream.read(length))
        start = 8 + length
        content = np.memmap(path, np.uint8, "r", offset=start) if size > start else np.zeros(0, np.uint8)
        return {name: _entry(content, entry) for name, entry in table.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError("checkpoint.damaged", f"this is no safetensors file: {words}", where=str(path)) from None


def _entry(content: Array, entry: Mapping[str, Any]) -> Array:
    dtype = np.dtype(_TYPES[entry["dtype"]]) if entry["dtype"] in _TYPES else np.dtype(np.uint8)
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(dim) for dim in entry["shape"])
    if not 0 <= begin <= end <= len(content):
        raise ValueError("an array lies outside of the file")
    if entry["dtype"] not in _TYPES:  # 8-bit floats and the like: no statistics are stored so
        return np.zeros(0, np.uint8)
    if end - begin != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError("the shape of an array does not fit its bytes")
    values: Array = np.asarray(content[begin:end]).view(dtype).reshape(shape)
    return values


def _unprefixed(arrays: dict[str, Array]) -> dict[str, Array]:
    """Without the prefix that a wrapper put in front of every name."""
    for prefix in ("module.", "model.", "_orig_mod."):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays
