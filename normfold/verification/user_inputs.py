"""What the user gives on the command line: input files and shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from normfold.errors import InputError, UsageError
from normfold.model.opener import open_stream

from .numpy_files import DAMAGED, require_memory, unpacked_bytes
from .verdicts import Array


def load_user_inputs(specs: Sequence[str]) -> dict[str, list[Array]]:
    """Load `name=file.npy`, `name=folder` (one .npy per trial, sorted) and `file.npz` (one array per input name).

    Naming an input several times gives it several trials. Object arrays are refused: they would run code.

    Raises:
        UsageError: a spec that is none of these.
        InputError: a file that is missing, damaged, or holds Python objects.
    """
    inputs: dict[str, list[Array]] = {}
    for spec in specs:
        for name, array in _load(spec):
            inputs.setdefault(name, []).append(array)
    return inputs


def _load(spec: str) -> list[tuple[str, Array]]:
    name, equals, target = spec.partition("=")
    if not equals:
        if not spec.endswith(".npz"):
            raise UsageError(
                "usage.inputs", f"cannot read inputs from {spec!r}", hint="use name=file.npy, name=folder or file.npz"
            )
        return _archive(Path(spec))
    if not name or not target:
        raise UsageError("usage.inputs", f"an empty name or file in {spec!r}", hint="use name=file.npy")
    path = Path(target)
    if path.is_dir() or path.name == "*.npy":
        folder = path if path.is_dir() else path.parent
        files = sorted(folder.glob("*.npy"))
        if not files:
            raise InputError("input.missing", "no .npy file in this folder", where=str(folder))
        return [(name, _array(file)) for file in files]
    return [(name, _array(path))]


def _array(path: Path) -> Array:
    with _opened(path) as loaded:
        if not isinstance(loaded, np.ndarray):
            hint = f"pass just {path}"
            raise UsageError("usage.inputs", "an archive names its inputs itself", where=str(path), hint=hint)
        return loaded


def _archive(path: Path) -> list[tuple[str, Array]]:
    with _opened(path) as loaded:
        if isinstance(loaded, np.ndarray):
            raise InputError("input.format", "this is not a .npz archive", where=str(path))
        if loaded.zip is not None:
            require_memory(path, unpacked_bytes(loaded.zip))
        return [(name, loaded[name]) for name in loaded.files]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Array | np.lib.npyio.NpzFile]:
    """What numpy makes of a file, for as long as it is open."""
    try:
        with open_stream(path) as stream:
            loaded: Array | np.lib.npyio.NpzFile = np.load(stream, allow_pickle=False)
            try:
                yield loaded
            finally:
                if not isinstance(loaded, np.ndarray):
                    loaded.close()
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError("input.missing", "no such file", where=str(path))
    if "pickle" in str(error):
        return InputError("input.objects", "this is not a plain array (Python objects are refused)", where=str(path))
    return InputError("input.format", f"cannot be read as numpy data: {error}", where=str(path))


def parse_shapes(specs: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse `name=1x3x224x224` (also with commas; `name=` is a scalar).

    Raises:
        UsageError: anything else, negative dims, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        name, equals, text = spec.rpartition("=")
        parts = text.replace(",", "x").split("x") if text else []
        if not equals or not name or not all(part.isdecimal() for part in parts):
            raise UsageError("usage.shape", f"{spec!r} is not a shape", hint="write it as name=1x3x224x224")
        if name in shapes:
            raise UsageError("usage.shape", f"two shapes for {name!r}", hint="give one")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes
