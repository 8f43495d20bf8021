"""Advisory locks on directories: they leave no file behind, end with their process, and are seen from other containers.

Where a file system has none (some network ones), everybody is told that nobody holds anything; callers have other means.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from normfold.errors import OutputError

if sys.platform != "win32":  # where a directory cannot be opened
    import fcntl

_PAUSE_SECONDS = 0.01


class Taken(Exception):
    """Another process holds the directory."""


def hold(directory: Path) -> int | None:
    """Take a directory; the descriptor that holds it until it is closed, None where there are no such locks.

    Raises:
        Taken: another process has it.
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise Taken from None
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def exclusive(directory: Path, seconds: float) -> Iterator[None]:
    """Nobody else is in such a block for the directory; waits for at most so long.

    Raises:
        OutputError: `output.locked`.
        OSError: the directory cannot be opened.
    """
    descriptor = _waited(directory.resolve(), time.monotonic() + seconds)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _waited(directory: Path, deadline: float) -> int | None:
    while True:
        try:
            return hold(directory)
        except Taken:
            if time.monotonic() > deadline:
                raise OutputError(
                    "output.locked",
                    "another normfold run is writing into this directory",
                    where=str(directory),
                    hint="wait for it, or choose another -o",
                ) from None
        time.sleep(_PAUSE_SECONDS)
