"""Temporary files: where they go, and what the user hears when there is no place for them."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from normfold.errors import EnvironmentProblem


def no_place(error: OSError) -> EnvironmentProblem:
    """What the system said when a temporary file was to be written."""
    where = str(error.filename or "")
    with contextlib.suppress(OSError):  # there may be no directory for them at all
        where = where or tempfile.gettempdir()
    hint = "set TMPDIR to a directory with more space"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit of open files, ulimit -n"
    elif error.errno == errno.EFBIG:
        hint = "raise the limit of the size of files, ulimit -f"
    reason = (error.strerror or str(error)).lower()
    return EnvironmentProblem(
        "environment.temporary", f"temporary files cannot be written: {reason}", where=where, hint=hint
    )


@contextlib.contextmanager
def writing_temporary_files() -> Iterator[None]:
    """Whatever the system refuses inside is about temporary files.

    Raises:
        EnvironmentProblem: `environment.temporary`.
    """
    try:
        yield
    except OSError as error:
        raise no_place(error) from None


def temporary_folder(prefix: str) -> Path:
    """A new folder, which the caller removes.

    Raises:
        EnvironmentProblem: `environment.temporary`.
    """
    with writing_temporary_files():
        return Path(tempfile.mkdtemp(prefix=prefix))


@contextlib.contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder that is gone when the block ends.

    Raises:
        EnvironmentProblem: `environment.temporary`.
    """
    folder = temporary_folder("normfold-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
