"""Writing past the page cache.

A large tensor that is copied goes from the mapping of its file to the disk, and nothing in between holds it: half of the time
of a plain copy is spent on pages that nobody will read, and the other half on waiting until they are written. Where the
file system shares blocks between files, not even that.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from threading import local

PAGE = 4096
# Below this, what it saves is less than a round to the disk.
WORTH_IT = 1 << 20
_CHUNK = 8 << 20
# linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_CLONE_RANGE = 0x4020940D
# What a file system says that cannot do it at all.
_CANNOT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class DirectFile:
    """A file that is open for writing, opened once more without the page cache; whatever it cannot do, it says.

    Args:
        descriptor: of the file.
        size: in bytes, that it will have; a file that grows while it is written lets only one thread write at a time.
        waits: somebody will wait for the disk. If nobody does, the page cache is the faster place.
    """

    def __init__(self, descriptor: int, size: int, *, waits: bool = True) -> None:
        self._plain = descriptor
        self._clones = size >= WORTH_IT
        self._direct = _opened(descriptor) if waits and size >= WORTH_IT else None
        self._works = self._direct is not None
        self._buffers = local()
        if self._works:
            os.ftruncate(descriptor, size)

    @property
    def works(self) -> bool:
        """Whether the file system can do it, for all that is known."""
        return self._works

    def close(self) -> None:
        """Let go of the file."""
        if self._direct is not None:
            os.close(self._direct)
        self._direct, self._works = None, False

    def clone(self, source: int, offset: int, at: int, length: int) -> bool:
        """Whether the file now shares the blocks of a range of another one; all numbers are multiples of a page."""
        if not self._clones:
            return False
        try:
            import fcntl

            fcntl.ioctl(self._plain, _CLONE_RANGE, struct.pack("=qQQQ", source, offset, length, at))
        except (ImportError, OSError):
            self._clones = False  # copying says what is wrong, if something is
        return self._clones

    def write(self, data: memoryview, at: int) -> int:
        """Bytes of some memory that begins at a page that were written at a page; what is missing is for the page cache.

        Raises:
            OSError: the disk is full or broken, or the file behind a mapping became shorter.
        """
        done, whole = 0, len(data) - len(data) % PAGE
        while done < whole and self._works and self._direct is not None:
            try:
                count = os.pwrite(self._direct, data[done : min(done + _CHUNK, whole)], at + done)
            except OSError as error:
                if error.errno == errno.EFAULT:
                    raise OSError(errno.EIO, "the data file became shorter while it was copied") from None
                if error.errno not in _CANNOT:
                    raise
                self._works = False  # not closed: another thread may be writing
                break
            done += count - count % PAGE
            if count % PAGE:  # the rest of a page would be written twice
                break
        return done

    def write_blocks(self, blocks: Iterable[memoryview], at: int) -> Iterator[tuple[memoryview, int]]:
        """Write blocks in a row, the first at a page; yields what is left for the page cache, with its offset."""
        buffer = self._buffer()
        filled = 0
        for block in blocks:
            taken = 0
            while taken < len(block):
                count = min(len(block) - taken, len(buffer) - filled)
                buffer[filled : filled + count] = block[taken : taken + count]
                taken, filled = taken + count, filled + count
                if filled == len(buffer):
                    yield from self._flushed(buffer, at)
                    at, filled = at + filled, 0
        yield from self._flushed(buffer[:filled], at)

    def _flushed(self, data: memoryview, at: int) -> Iterator[tuple[memoryview, int]]:
        done = self.write(data, at)
        if done < len(data):
            yield data[done:], at + done

    def _buffer(self) -> memoryview:
        """Memory of this thread that begins at a page."""
        if not hasattr(self._buffers, "memory"):
            self._buffers.memory = mmap.mmap(-1, _CHUNK)
        return memoryview(self._buffers.memory)


def _opened(descriptor: int) -> int | None:
    """The same file without the page cache; None where the system or its file system has no such thing."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | flag | os.O_CLOEXEC)
    except OSError:
        return None
