"""numpy files as samples. Arrays are mapped, not loaded: memory does not depend on how many samples there are."""

from __future__ import annotations

import shutil
import weakref
import zipfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from normfold.errors import InputError
from normfold.model.opener import open_stream
from normfold.model.temporary import temporary_folder
from normfold.statistics.collect import Array
from normfold.statistics.data.batching import Rows
from normfold.statistics.data.inputs import ModelInput, assign, check_dtype, check_shape
from normfold.verification.numpy_files import DAMAGED, too_large, unpacked_bytes

_FILE_GROUP = "file"


def load_array(path: Path) -> Array:
    """A `.npy` file, mapped.

    Raises:
        InputError: missing, damaged, or made of Python objects, which would run code when they are read.
    """
    try:
        open_stream(path).close()
        with np.errstate(over="raise"):  # a header that claims more bytes than a number can say
            return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError("data.missing", "no such file", where=str(path)) from None
    except (*DAMAGED, FloatingPointError, TypeError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    if "Python objects" in str(error):
        return InputError("data.objects", "this is no plain array (Python objects are refused)", where=str(path))
    words = " ".join(str(error).split())[:200]
    return InputError("data.format", f"cannot be read as numpy data: {words}", where=str(path))


class Archive:
    """The arrays of a `.npz` file, unpacked into a temporary folder that goes with this object.

    Raises:
        InputError: missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._folder = temporary_folder("normfold-data-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.arrays: dict[str, Array] = {}
        try:
            with open_stream(path) as stream, zipfile.ZipFile(stream) as archive:
                free, size = shutil.disk_usage(self._folder).free, unpacked_bytes(archive)
                if size > free:
                    raise too_large(path, size, free, "set TMPDIR to a directory with more space")
                for number, member in enumerate(archive.infolist()):
                    target = self._folder / f"{number}.npy"
                    with archive.open(member) as packed, target.open("wb") as plain:
                        shutil.copyfileobj(packed, plain, 1 << 20)
                    self.arrays[member.filename.removesuffix(".npy")] = load_array(target)
        except FileNotFoundError:
            raise InputError("data.missing", "no such file", where=str(path)) from None
        except InputError as error:
            raise InputError(error.code, error.message, where=str(path), hint=error.hint) from None
        except DAMAGED as error:
            words = " ".join(str(error).split())[:200]
            raise InputError("data.format", f"cannot be read as a .npz archive: {words}", where=str(path)) from None


class ArrayReader:
    """Whole arrays: one `.npz`, or one `.npy` for each input.

    Raises:
        InputError: an input has no array, or arrays differ in length, shape or type from what is wanted.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        inputs: tuple[ModelInput, ...],
        where: str,
        group_key: str,
        owner: object = None,
    ) -> None:
        self._owner = owner  # keeps what the arrays are mapped from
        self._where = where
        self._groups = _group_array(arrays, group_key, where)
        self._arrays = assign(inputs, arrays, where, group_key)
        for entry in inputs:
            array = self._arrays[entry.name]
            if not array.ndim:
                raise InputError(
                    "data.shape", f"{entry.name!r} is a single number: it has no axis of samples", where=where
                )
            check_shape(entry, array.shape, where)
            check_dtype(entry, array.dtype, where)
        counted = {**self._arrays, **({} if self._groups is None else {group_key: self._groups})}
        lengths = {name: len(array) for name, array in counted.items()}
        if len(set(lengths.values())) > 1:
            words = ", ".join(f"{name!r} has {count}" for name, count in lengths.items())
            raise InputError("data.shape", f"the arrays differ in their number of samples: {words}", where=where)

    @property
    def description(self) -> str:
        """The file."""
        return self._where

    @property
    def samples(self) -> int:
        """Length of the arrays."""
        return len(next(iter(self._arrays.values())))

    def take(self, indices: Sequence[int]) -> Rows:
        """These samples, in this order."""
        index = np.asarray(indices, np.int64)
        groups = None if self._groups is None else tuple(str(self._groups[i]) for i in index)
        return Rows({name: np.asarray(array[index]) for name, array in self._arrays.items()}, groups)


def _group_array(arrays: Mapping[str, Array], key: str, where: str) -> Array | None:
    if not key:
        return None
    if key not in arrays:
        raise InputError(
            "data.group_key", f"there is no array {key!r} that says what belongs together", where=where,
            hint=f"its arrays: {', '.join(arrays)}",
        )  # fmt: skip
    if arrays[key].ndim != 1:
        raise InputError("data.group_key", f"{key!r} must hold one value per sample", where=where)
    return arrays[key]


class FolderReader:
    """A folder of `.npz` or `.npy` files; each holds one sample, or several with an axis for them in front.

    Raises:
        InputError: there are none, or a file does not fit the model.
    """

    def __init__(self, folder: Path, inputs: tuple[ModelInput, ...], group_key: str) -> None:
        self._folder, self._inputs = folder, inputs
        self._by_file = group_key == _FILE_GROUP
        self._key = "" if self._by_file else group_key
        self._files = sorted(path for path in folder.rglob("*") if path.suffix in (".npy", ".npz"))
        if not self._files:
            raise InputError("data.missing", "no .npy and no .npz file in this folder", where=str(folder))
        self._ends = list(accumulate(self._open(path).samples for path in self._files))
        self._last: tuple[int, ArrayReader] | None = None

    @property
    def description(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def samples(self) -> int:
        """Of all files."""
        return self._ends[-1]

    def _open(self, path: Path) -> ArrayReader:
        owner = Archive(path) if path.suffix == ".npz" else None
        arrays = owner.arrays if owner is not None else {path.stem: load_array(path)}
        single = all(_is_single(entry, array) for entry, array in _pairs(self._inputs, arrays, self._key))
        if single and len(arrays) >= len(self._inputs):
            arrays = {name: array[None] for name, array in arrays.items()}
        return ArrayReader(arrays, self._inputs, str(path), self._key, owner)

    def _at(self, file: int) -> ArrayReader:
        if self._last is None or self._last[0] != file:
            self._last = (file, self._open(self._files[file]))
        return self._last[1]

    def take(self, indices: Sequence[int]) -> Rows:
        """These samples, in this order."""
        parts, ids = [], []
        for index in indices:
            file = bisect_right(self._ends, index)
            start = self._ends[file - 1] if file else 0
            parts.append(self._at(file).take([index - start]))
            ids.append(str(self._files[file].relative_to(self._folder)))
        shapes = {name: {part.arrays[name].shape for part in parts} for name in parts[0].arrays}
        for name, found in shapes.items():
            if len(found) > 1:
                words = " and ".join(str(list(shape[1:])) for shape in sorted(found)[:2])
                raise InputError(
                    "data.shape", f"samples of {name!r} differ in shape: {words}", where=str(self._folder),
                    hint="use --batch 1, or bring them to one size",
                )  # fmt: skip
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
        if self._by_file:
            return Rows(arrays, tuple(ids), tuple(ids))
        groups = tuple(g for part in parts for g in part.groups or ()) if self._key else None
        return Rows(arrays, groups, tuple(ids))


def _pairs(inputs: tuple[ModelInput, ...], arrays: Mapping[str, Array], key: str) -> list[tuple[ModelInput, Array]]:
    free = [name for name in arrays if name != key]
    if len(inputs) == len(free) == 1:
        return [(inputs[0], arrays[free[0]])]
    return [(entry, arrays[entry.name]) for entry in inputs if entry.name in arrays]


def _is_single(entry: ModelInput, array: Array) -> bool:
    """Whether an array is one sample, without an axis for samples."""
    return entry.dims is not None and array.ndim == len(entry.dims) - 1
