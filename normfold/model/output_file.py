"""A file of the result while it is written, the large parts by several threads, each at an offset decided before."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import BinaryIO

import numpy as np

from normfold.errors import OutputError
from normfold.model.direct import PAGE, WORTH_IT, DirectFile
from normfold.model.opener import Opened
from normfold.model.tensors import FileTensor, NewTensor

Part = FileTensor | NewTensor | memoryview

_COPY = 8 << 20
_THREADS = 2
# The disk is told to begin with so many bytes while the next ones are made; otherwise all of them wait until the end.
_BEGIN_EVERY = 8 << 20


class OutputFile:
    """Computes and writes parts of a file beside whoever writes the rest of it.

    Hashing, multiplying and copying all release the interpreter lock.

    Args:
        stream: the file; closed by its owner, after this.
        source: the file that parts which are neither tensors nor new come from, if they come from one.
        size: in bytes, that the file will have, where that is known; its large tensors then go past the page cache.
        durable: the disk will be waited for, so it may as well begin.
    """

    def __init__(self, stream: BinaryIO, source: Opened | None = None, size: int = 0, *, durable: bool = True) -> None:
        self._source = source
        self._durable = durable
        self._direct = DirectFile(stream.fileno(), size, waits=durable)
        self._descriptor = stream.fileno()
        self._pool = ThreadPoolExecutor(_THREADS)
        self._jobs: list[Future[bytes]] = []
        # The kernel lets one thread at a time write to a file. Whoever waits for that here sleeps, but spins in there.
        self._turn = Lock()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._direct.close()

    def put(self, part: Part, at: int) -> None:
        """Have a part written at an offset."""
        self._jobs.append(self._pool.submit(self._put, part, at))

    def finish(self) -> list[bytes]:
        """Wait for all parts; their fingerprints, in the order in which they were put."""
        return [job.result() for job in self._jobs]

    def _put(self, part: Part, at: int) -> bytes:
        if isinstance(part, NewTensor):
            return self._compute(part, at)
        if isinstance(part, FileTensor):
            return self._copy(part, at)
        offset = None if self._source is None else self._source.offset_of(part)
        if self._source is None or offset is None:
            self._write(part, at)
        else:
            self._move(self._source, offset, part, at)
        return b""

    def _move(self, source: Opened, offset: int, part: memoryview, at: int) -> None:
        """Write a part of a mapped file, moved by the kernel where it can, and keep none of it in memory."""
        for start in range(0, len(part), _COPY):
            length = min(_COPY, len(part) - start)
            descriptor = source.descriptor
            if descriptor is None or not self._copy_range(descriptor, offset + start, at + start, length):
                self._write(part[start : start + length], at + start)
                source.release(offset + start, length)
            self._begin(at + start, length)

    def _copy(self, tensor: FileTensor, at: int) -> bytes:
        """Write the payload of a file tensor, moved by the kernel where it can."""
        origin = tensor.origin()
        done = 0 if origin is None else self._copy_pages(tensor, *origin, at)
        for start in range(done, tensor.nbytes, _COPY):
            length = min(_COPY, tensor.nbytes - start)
            descriptor = None if origin is None else origin[0].descriptor
            if (
                origin is None
                or descriptor is None
                or not self._copy_range(descriptor, origin[1] + start, at + start, length)
            ):
                self._write(tensor.raw()[start : start + length], at + start)
                tensor.release()
            self._begin(at + start, length)
        digest = _sample(tensor)
        tensor.release()  # a page of a file may bring its neighbours, up to megabytes
        return digest

    def _copy_pages(self, tensor: FileTensor, source: Opened, offset: int, at: int) -> int:
        """Write the whole pages of a large payload without copying them, and how many bytes of it that were."""
        descriptor, whole = source.descriptor, tensor.nbytes - tensor.nbytes % PAGE
        if descriptor is None or tensor.nbytes < WORTH_IT or offset % PAGE or at % PAGE:
            return 0
        if self._direct.clone(descriptor, offset, at, whole):
            return whole
        view = tensor.raw()
        for start in range(0, whole, _COPY):
            length = min(_COPY, whole - start)
            if not self._direct.works:
                return start
            _expect(descriptor, offset + start, length)
            done = self._direct.write(view[start : start + length], at + start)
            source.release(offset + start, length)
            if done < length:
                return start + done
        return whole

    def _compute(self, tensor: NewTensor, at: int) -> bytes:
        """Compute a new tensor and write it; its fingerprint is made of the first page of every block."""
        digest = hashlib.sha256()
        begun = at
        parts = _in_a_row(_hashed(tensor, digest), at)
        if self._direct.works and tensor.nbytes >= WORTH_IT and not at % PAGE:
            parts = self._direct.write_blocks(_hashed(tensor, digest), at)
        for data, place in parts:
            self._write(data, place)
            if place + len(data) - begun >= _BEGIN_EVERY:
                self._begin(begun, place + len(data) - begun)
                begun = place + len(data)
        return digest.digest()

    def _write(self, data: memoryview, at: int) -> None:
        done = 0
        while done < len(data):
            with self._turn:
                done += os.pwrite(self._descriptor, data[done:], at + done)

    def _begin(self, at: int, length: int) -> None:
        """Have the disk begin with a range, and do not wait. A range that is still on its way stays in memory as well."""
        if self._durable and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # advice only; what the disk cannot write is said by fsync
                os.posix_fadvise(self._descriptor, at, length, os.POSIX_FADV_DONTNEED)

    def _copy_range(self, source: int, offset: int, at: int, length: int) -> bool:
        """Whether the kernel copied the range; False where it cannot, and then nothing was copied."""
        if not hasattr(os, "copy_file_range"):
            return False
        done = 0
        while done < length:
            try:
                with self._turn:
                    count = os.copy_file_range(source, self._descriptor, length - done, offset + done, at + done)
            except OSError as error:
                if done or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                return False
            if not count:
                raise OSError(errno.EIO, "the data file became shorter while it was copied")
            done += count
        return True


def _hashed(tensor: NewTensor, digest: hashlib._Hash) -> Iterator[memoryview]:
    """The bytes of a new tensor, block by block."""
    for block in tensor.blocks():
        data = memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        digest.update(data[:PAGE])
        yield data


def _in_a_row(blocks: Iterable[memoryview], at: int) -> Iterator[tuple[memoryview, int]]:
    for block in blocks:
        yield block, at
        at += len(block)


def _expect(descriptor: int, offset: int, length: int) -> None:
    """Have the system read a range that is about to be looked at page by page."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def _sample(tensor: FileTensor) -> bytes:
    """The fingerprint of a copied tensor: its length, and the pages at the beginning, in the middle and at the end."""
    view = tensor.raw()
    digest = hashlib.sha256(str(len(view)).encode())
    for start in (0, len(view) // 2, max(0, len(view) - PAGE)):
        digest.update(view[start : start + PAGE])
    return digest.digest()


def require_replaceable(path: Path, example: str = "model.onnx") -> None:
    """A file may come to that place: renaming over a device or a pipe would remove it.

    Raises:
        OutputError: `output.is_directory`, `output.no_directory`, `output.not_regular`.
    """
    if path.is_dir():
        hint = f"name a file, such as {path / example}"
        raise OutputError("output.is_directory", "this is a directory", where=str(path), hint=hint)
    if not path.parent.is_dir():
        raise OutputError(
            "output.no_directory", "there is no such directory", where=str(path.parent), hint="create it first"
        )
    if path.exists() and not path.is_file():
        raise OutputError("output.not_regular", "this is not a regular file", where=str(path), hint="name another file")


def create(path: Path) -> BinaryIO:
    """A new file, open for writing; it must not be there yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    return os.fdopen(descriptor, "wb", buffering=1 << 20)


def sync(stream: BinaryIO, *, durable: bool = True) -> None:
    """Hand a file over to the system, and wait until it is on the disk if it is to be durable."""
    stream.flush()
    if durable:
        os.fsync(stream.fileno())
