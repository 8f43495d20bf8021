"""The transaction: stage in a private directory beside the destination, then rename into place.

Model and data are one transaction; the model is renamed last. A crash leaves the old pair or the new pair, and perhaps a
staging directory that the next run sweeps. Nothing that is not ours is deleted, appended to or overwritten.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from normfold.errors import OutputError


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
            raise cannot_write(self.beside, error) from None
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
        raise cannot_write(destination, error) from None
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


def cannot_write(where: Path, error: OSError) -> OutputError:
    """The error of a destination that takes no files."""
    return OutputError(
        "output.unwritable", f"cannot write: {_reason(error)}", where=str(where), hint="nothing was changed there"
    )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
