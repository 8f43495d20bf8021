"""numpy's files from strangers: what reading a damaged one raises, and how much an archive unpacks to before it does."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

from normfold.errors import InputError

from .limits import system_memory

# What numpy and zipfile raise over a damaged file, an encrypted one, and one that claims more than there is.
DAMAGED = (
    OSError, ValueError, EOFError, MemoryError, RuntimeError, NotImplementedError, KeyError, SyntaxError, OverflowError,
    struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def unpacked_bytes(archive: zipfile.ZipFile) -> int:
    """What an archive unpacks to is what its directory says: no reader goes beyond it."""
    return sum(int(member.file_size) for member in archive.infolist())


def require_memory(where: Path | str, size: int) -> None:
    """There is memory for arrays of so many bytes, twice: as they are read, and as they are used.

    Raises:
        InputError: `resource.estimate`.
    """
    room = system_memory()
    if room is not None and size > room // 2:
        raise too_large(where, size, room, "pass fewer or smaller arrays")


def too_large(where: Path | str, size: int, room: int, hint: str) -> InputError:
    """An archive that does not fit, in memory or on a disk."""
    return InputError(
        "resource.estimate",
        f"the archive unpacks to {size >> 20} MiB, {room >> 20} MiB are there",
        where=str(where),
        hint=hint,
    )
