"""Candidate -> files, in two steps: stage in a private directory beside the destination, then rename into place.

Model and data are one transaction. The data file has a name made of its content, and a file that already has that name is
compared before it is taken for the same, so an existing model never sees other data under its own name; the model is
renamed last. A crash leaves the old pair or the new pair, and perhaps a staging
directory that the next run sweeps. Nothing that is not ours is deleted, appended to or overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np

from normfold.errors import InputError, OutputError
from normfold.model.patch import Candidate
from normfold.model.splice import METADATA_PREFIX, Piece, splice
from normfold.model.tensors import External, FileTensor, NewTensor

T = TypeVar("T")

DATA_KEY = METADATA_PREFIX + "data"
# Offsets at page boundaries let a runtime map each tensor; below this size it does not matter and only costs space.
_PAGE, _WORTH_A_PAGE, _ALIGN = 4096, 1 << 16, 64
# A second thread costs as much as computing this many bytes.
_WORTH_A_THREAD = 1 << 20
_COPY = 8 << 20
_SYNC_EVERY = 512 << 20
_THREADS = 2
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
        places, data = _write_data(candidate, staging, Path(name).stem)
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
        if target.is_file() and (target.samefile(source.path) or filecmp.cmp(target, source.path, shallow=False)):
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


class _DataFile:
    """The data file while it is written, every tensor at an offset that was decided before.

    Several threads may write at the same time: hashing, multiplying and copying all release the interpreter lock.
    The fingerprint covers new tensors whole and of a copied one the length and three pages, because reading all of it
    would take longer than copying it. That is enough to tell files apart by name; whether two files of one name are equal
    is decided by comparing them.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._descriptor = stream.fileno()

    def put(self, tensor: FileTensor | NewTensor, at: int) -> bytes:
        """Write a tensor at an offset; returns its part of the fingerprint."""
        return self.compute(tensor, at) if isinstance(tensor, NewTensor) else self.copy(tensor, at)

    def copy(self, tensor: FileTensor, at: int) -> bytes:
        """Write the payload of a file tensor, moved by the kernel where it can; returns its part of the fingerprint."""
        origin = tensor.origin()
        for start in range(0, tensor.nbytes, _COPY):
            length = min(_COPY, tensor.nbytes - start)
            if origin is None or not self._copy_range(origin[0], origin[1] + start, at + start, length):
                self._write(tensor.raw()[start : start + length], at + start)
                tensor.release()
        return _sample(tensor)

    def compute(self, tensor: NewTensor, at: int) -> bytes:
        """Compute a new tensor and write it; returns its part of the fingerprint."""
        digest = hashlib.sha256()
        for block in tensor.blocks():
            data = memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            digest.update(data)
            self._write(data, at)
            at += len(data)
        return digest.digest()

    def sync(self) -> bytes:
        """Let the disk catch up; no part of the fingerprint."""
        os.fsync(self._descriptor)
        return b""

    def _write(self, data: memoryview, at: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], at + done)

    def _copy_range(self, source: int, offset: int, at: int, length: int) -> bool:
        """Whether the kernel copied the range; False where it cannot, and then nothing was copied."""
        if not hasattr(os, "copy_file_range"):
            return False
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(source, self._descriptor, length - done, offset + done, at + done)
            except OSError as error:
                if done or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                return False
            if not count:
                raise OSError(errno.EIO, "the data file became shorter while it was copied")
            done += count
        return True


def _sample(tensor: FileTensor) -> bytes:
    """Length, and the pages at the beginning, in the middle and at the end."""
    view = tensor.raw()
    digest = hashlib.sha256(str(len(view)).encode())
    for start in (0, len(view) // 2, max(0, len(view) - _PAGE)):
        digest.update(view[start : start + _PAGE])
    return digest.digest()


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


def _write_data(candidate: Candidate, staging: Staging, stem: str) -> tuple[Places, str | None]:
    """Write every external tensor, old and new, into one file named after its content."""
    kept = list(_external(candidate))
    if not candidate.model.has_external_data():
        return {}, None
    new = [tensor for tensor in candidate.new_tensors() if tensor.nbytes >= _INLINE]
    if not kept and not new:
        return {}, None
    temporary = staging.path / "data"
    places = _layout(kept, new)
    with _create(temporary) as stream:
        parts = _fill(_DataFile(stream), kept, new, places)
        _sync(stream)
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    name = _free_name(temporary, staging.beside, f"{stem}.{digest[:16]}")
    temporary.rename(staging.path / name)
    return {key: External(name, place.offset, place.length) for key, place in places.items()}, name


def _fill(out: _DataFile, kept: Sequence[FileTensor], new: Sequence[NewTensor], places: Places) -> list[bytes]:
    """Write all tensors, the parts of the fingerprint in order.

    New tensors go first: writing slows down once many pages wait for the disk, and they are the ones that wait for it.
    Now and then one thread makes the disk catch up while the other goes on.
    """
    first = {places[id(tensor)].offset: tensor for tensor in reversed(kept)}  # tied tensors are written once
    jobs: list[Future[bytes]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            unsynced = 0
            ordered: list[FileTensor | NewTensor] = [*new, *(first[at] for at in sorted(first))]
            for tensor in ordered:
                jobs.append(pool.submit(out.put, tensor, places[id(tensor)].offset))
                unsynced += tensor.nbytes
                if unsynced >= _SYNC_EVERY:
                    jobs.append(pool.submit(out.sync))
                    unsynced = 0
            return [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _layout(kept: Sequence[FileTensor], new: Sequence[NewTensor]) -> Places:
    """Offsets in the new file. Tied weights, two tensors over one range, stay one range."""
    places: Places = {}
    shared: dict[tuple[str, int, int], External] = {}
    position = 0
    tensors: list[FileTensor | NewTensor] = [*kept, *new]
    for tensor in tensors:
        key = (
            (tensor.external.location, tensor.external.offset, tensor.nbytes)
            if isinstance(tensor, FileTensor) and tensor.external
            else None
        )
        if key is None or key not in shared:
            position += -position % (_PAGE if tensor.nbytes >= _WORTH_A_PAGE else _ALIGN)
            place = External("", position, tensor.nbytes)
            position += tensor.nbytes
        else:
            place = shared[key]
        if key is not None:
            shared[key] = place
        places[id(tensor)] = place
    return places


def _free_name(content: Path, directory: Path, stem: str) -> str:
    """A name that is free in the directory, or taken by a file of the same content."""
    count = 0
    while True:
        name = f"{stem}-{count}.data" if count else f"{stem}.data"
        if not (directory / name).exists() or filecmp.cmp(content, directory / name, shallow=False):
            return name
        count += 1


# --- the model file --------------------------------------------------------------------------------------------------


def _write_model(candidate: Candidate, path: Path, places: Places) -> int:
    pieces = splice(candidate, lambda tensor: places.get(id(tensor)))
    with _create(path) as stream:
        for piece in pieces:
            large = isinstance(piece, NewTensor) and piece.nbytes >= _WORTH_A_THREAD
            for chunk in _ahead(_chunks(piece)) if large else _chunks(piece):
                stream.write(chunk)
        _sync(stream)
    return pieces.length


def _ahead(chunks: Iterator[T]) -> Iterator[T]:
    """The same chunks, the next one computed by a second thread while this one is written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield chunk


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
            entry.replace(target)  # a data file of that name has the same content, see `_free_name`
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
