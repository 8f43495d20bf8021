"""Candidate -> files, in two steps: stage in a private directory beside the destination, then rename into place.

Model and data are one transaction. The data file has a name made of its content, so an existing model never sees other
data under its own name; the model is renamed last. A crash leaves the old pair or the new pair, and perhaps a staging
directory that the next run sweeps. Nothing that is not ours is deleted, appended to or overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from normfold.errors import InputError, OutputError
from normfold.model.patch import Candidate
from normfold.model.splice import METADATA_PREFIX, Piece, splice
from normfold.model.tensors import External, FileTensor, NewTensor

DATA_KEY = METADATA_PREFIX + "data"
# Offsets at page boundaries let a runtime map each tensor; below this size it does not matter and only costs space.
_PAGE, _WORTH_A_PAGE, _ALIGN = 4096, 1 << 16, 64
_COPY = 8 << 20
# A new tensor smaller than this stays inside the .onnx even if the model keeps its weights outside.
_INLINE = 1024


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete candidate on disk, not yet at its destination.

    Args:
        model: path of the staged .onnx, in `directory`.
        data: name of the data file beside it, None if everything is inline.
        model_bytes, data_bytes: sizes.
    """

    directory: Path
    model: Path
    data: str | None
    model_bytes: int
    data_bytes: int


class Staging:
    """A private directory beside the destination; gone when the block ends, whatever happened."""

    def __init__(self, beside: Path) -> None:
        self.beside = beside
        self.path = beside / f".normfold.{os.getpid()}.{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Staging:
        try:
            _sweep(self.beside)
            self.path.mkdir(mode=0o777)
        except OSError as error:
            raise _cannot_write(self.beside, error) from None
        return self

    def clear(self) -> None:
        """Remove what an earlier attempt left in it."""
        for leftover in self.path.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Remove staging directories of runs that died."""
    for entry in directory.glob(".normfold.*.tmp"):
        parts = entry.name.split(".")
        if len(parts) == 5 and parts[2].isdigit() and not _alive(int(parts[2])):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OSError):
        return True
    return True


def stage(candidate: Candidate, staging: Staging, name: str) -> Staged:
    """Write the candidate into the staging directory.

    Args:
        candidate: model and changes.
        staging: an entered `Staging`.
        name: file name that the model will have.

    Raises:
        RangeRefusal: a folded weight leaves the range of its type.
        OutputError: the disk is full or not writable.
        InputError: external data is missing or truncated.
    """
    staging.clear()
    path = staging.path / name
    try:
        if candidate.is_original:
            return _stage_original(candidate, staging, path)
        places, data = _write_data(candidate, staging.path, Path(name).stem)
        if data is not None:
            candidate.metadata[DATA_KEY] = data
        size = _write_model(candidate, path, places)
        data_bytes = 0 if data is None else (staging.path / data).stat().st_size
        return Staged(staging.path, path, data, size, data_bytes)
    except OSError as error:
        raise _cannot_write(staging.beside, error) from None


def _stage_original(candidate: Candidate, staging: Staging, path: Path) -> Staged:
    """The same bytes, which name the same data files; these are copied unless they are there already."""
    model = candidate.model
    with _create(path) as stream:
        stream.write(model.buffer)
        _sync(stream)
    for location in sorted(
        {tensor.external.location for tensor in _external(candidate) if tensor.external is not None}
    ):
        source = model.files.get(location, location)
        target = staging.beside / location
        if target.exists() and target.samefile(source.path):
            link = staging.path / location
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.path)
            continue
        if target.exists():
            raise OutputError(
                "output.data_exists",
                f"the model needs its data as {location!r}, but another file has that name there",
                where=str(target),
                hint="choose another directory for -o",
            )
        (staging.path / location).parent.mkdir(parents=True, exist_ok=True)
        with _create(staging.path / location) as stream:
            for start in range(0, source.size, _COPY):
                stream.write(source.view[start : start + _COPY])
                source.release(start, _COPY)
            _sync(stream)
    return Staged(staging.path, path, None, len(model.buffer), 0)


def to_bytes(candidate: Candidate) -> bytes:
    """The candidate as one protobuf message; external data is taken in.

    Raises:
        InputError: `input.proto_2gib`, it does not fit in one message.
        RangeRefusal: as `stage`.
    """
    pieces = splice(candidate, lambda _: None)
    if pieces.length >= 1 << 31:
        raise InputError("input.proto_2gib", "the result is larger than 2 GiB", hint="write it to a file instead")
    return b"".join(bytes(chunk) for piece in pieces for chunk in _chunks(piece))


# --- the data file ---------------------------------------------------------------------------------------------------


class _Hashed:
    """A file that is hashed in a second thread while it is written; hashlib releases the interpreter lock."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.position = 0
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Append; at most one block waits to be hashed."""
        if self._pending is not None:
            self._pending.result()
        self._pending = self._pool.submit(self.digest.update, data)
        self.stream.write(data)
        self.position += len(data)

    def hexdigest(self) -> str:
        """The SHA-256 of all that was written."""
        self._pool.shutdown(wait=True)
        return self.digest.hexdigest()


Places = dict[int, External]


def _external(candidate: Candidate) -> Iterator[FileTensor]:
    """The external tensors that stay, in file order; replaced and dropped ones left out."""
    for scope in candidate.model.scopes():
        patch = candidate.scopes.get(id(scope))
        gone = set() if patch is None else {*patch.replaced, *patch.dropped_initializers}
        dropped_nodes = set() if patch is None else patch.dropped_nodes
        for index, (_, tensor) in enumerate(scope.outline.initializers):
            if tensor.external is not None and index not in gone:
                yield tensor
        for index, node in enumerate(scope.outline.nodes):
            if index not in dropped_nodes:
                yield from (tensor for tensor in node.tensors.values() if tensor.external is not None)


def _write_data(candidate: Candidate, directory: Path, stem: str) -> tuple[Places, str | None]:
    """Write every external tensor, old and new, into one file named after its content."""
    kept = list(_external(candidate))
    if not candidate.model.has_external_data():
        return {}, None
    new = [tensor for tensor in candidate.new_tensors() if tensor.nbytes >= _INLINE]
    if not kept and not new:
        return {}, None
    temporary = directory / "data"
    places: Places = {}
    with _create(temporary) as stream:
        out = _Hashed(stream)
        shared: dict[tuple[str, int, int], External] = {}
        tensors: list[FileTensor | NewTensor] = [*kept, *new]
        for tensor in tensors:
            places[id(tensor)] = _write_tensor(out, tensor, shared)
        digest = out.hexdigest()
        _sync(stream)
    name = f"{stem}.{digest[:16]}.data"
    temporary.rename(directory / name)
    return {key: External(name, place.offset, place.length) for key, place in places.items()}, name


def _write_tensor(
    out: _Hashed, tensor: FileTensor | NewTensor, shared: dict[tuple[str, int, int], External]
) -> External:
    """Tied weights, two tensors over one range, stay one range."""
    key = (
        (tensor.external.location, tensor.external.offset, tensor.nbytes)
        if isinstance(tensor, FileTensor) and tensor.external
        else None
    )
    if key is not None and key in shared:
        return shared[key]
    align = _PAGE if tensor.nbytes >= _WORTH_A_PAGE else _ALIGN
    if out.position % align:
        out.write(bytes(-out.position % align))
    place = External("", out.position, tensor.nbytes)
    if isinstance(tensor, FileTensor):
        view = tensor.raw()
        for start in range(0, len(view), _COPY):
            out.write(bytes(view[start : start + _COPY]))
            tensor.release()
    else:
        for block in tensor.blocks():
            out.write(block.tobytes())
    if key is not None:
        shared[key] = place
    return place


# --- the model file --------------------------------------------------------------------------------------------------


def _write_model(candidate: Candidate, path: Path, places: Places) -> int:
    pieces = splice(candidate, lambda tensor: places.get(id(tensor)))
    with _create(path) as stream:
        for piece in pieces:
            for chunk in _chunks(piece):
                stream.write(chunk)
        _sync(stream)
    return pieces.length


def _chunks(piece: Piece) -> Iterator[bytes | memoryview]:
    if isinstance(piece, NewTensor):
        for block in piece.blocks():
            yield block.tobytes()
    else:
        yield piece


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    return os.fdopen(descriptor, "wb", buffering=1 << 20)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


# --- the destination -------------------------------------------------------------------------------------------------


def commit(staged: Staged, destination: Path, superseded: str | None = None) -> None:
    """Rename the staged files into place: data first, the model last.

    Args:
        staged: what `stage` wrote.
        destination: path of the model.
        superseded: a data file that the model at the destination claimed as its own; removed if nobody needs it now.

    Raises:
        OutputError: `output.unwritable`, the destination is unchanged; `output.unconfirmed`, it is new and complete, but
            may be the old one again after a power cut.
    """
    directory = destination.parent
    try:
        for entry in sorted(staged.directory.rglob("*")):
            if entry == staged.model or entry.is_dir() or entry.is_symlink():
                continue
            target = directory / entry.relative_to(staged.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            entry.replace(target)  # one of that name, which says what is in it, has the same content or is damaged
        _sync_directory(directory)
        staged.model.replace(destination)
    except OSError as error:
        raise _cannot_write(destination, error) from None
    _confirm(directory, destination)
    if superseded is not None and superseded != staged.data:
        with contextlib.suppress(OSError):
            (directory / superseded).unlink()


def _confirm(directory: Path, destination: Path) -> None:
    try:
        _sync_directory(directory)
    except OSError as error:
        raise OutputError(
            "output.unconfirmed",
            f"the result is in place, but the disk does not confirm it: {_reason(error)}",
            where=str(destination),
            hint="check the disk, then run it again",
        ) from None


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(where: Path, error: OSError) -> OutputError:
    return OutputError(
        "output.unwritable", f"cannot write: {_reason(error)}", where=str(where), hint="nothing was changed there"
    )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
