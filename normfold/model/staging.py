"""The transaction: stage in a private directory beside the destination, then rename into place.

Model and data are one transaction; the model is renamed last. A crash leaves the old pair or the new pair, and perhaps a
staging directory that the next run sweeps. Nothing that is not ours is deleted, appended to or overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from normfold.errors import OutputError
from normfold.model.held import Taken, exclusive, hold
from normfold.model.opener import Stamp

_ATTEMPTS = 5
_COMMIT_SECONDS = 10.0


# What an archive of numpy's begins with.
_ARCHIVE = b"PK"


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete candidate on disk, not yet at its destination.

    Args:
        model: path of the staged .onnx, in `directory`.
        data: name of the data file beside it, None if everything is inline.
        model_bytes, data_bytes: sizes.
        files: everything that goes to the destination before the model, relative to `directory`. They are listed, not
            looked for: what cannot be seen for a moment must not be left out.
        lent: data files of the original that the model goes on reading, relative to its directory.
        equal: a file of the name and content of the data that lies at the destination already; it was compared then.
        companions: archives that go with the model; those of an earlier run are replaced.
        durable: whether everything is on the disk before anything takes its place.
    """

    directory: Path
    model: Path
    data: str | None
    model_bytes: int
    data_bytes: int
    files: tuple[str, ...] = ()
    equal: Stamp | None = None
    lent: frozenset[str] = frozenset()
    companions: list[str] = field(default_factory=list)
    durable: bool = True


class Staging:
    """A private directory beside the destination; gone when the block ends, whatever happened.

    Args:
        beside: directory of the destination.
        durable: wait until what is written is on the disk. Without that a result is whole after a crash of normfold, but
            perhaps not after one of the system.
    """

    def __init__(self, beside: Path, *, durable: bool = True) -> None:
        self.beside = beside
        self.durable = durable
        self.path = self._named()
        self._held: int | None = None

    def _named(self) -> Path:
        return self.beside / f".normfold.{os.getpid()}.{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Staging:
        try:
            _sweep(self.beside)
            for _ in range(_ATTEMPTS):
                self.path.mkdir(mode=0o777)
                if self._hold():
                    break
                shutil.rmtree(self.path, ignore_errors=True)
                self.path = self._named()
            else:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        except OSError as error:
            self.__exit__(None, None, None)
            raise cannot_write(self.beside, error) from None
        return self

    def _hold(self) -> bool:
        """Say that the directory is in use; False if another run took it for abandoned before that could be said."""
        try:
            self._held = hold(self.path)
        except (Taken, FileNotFoundError):
            return False
        if self._held is None or (self.path.exists() and os.path.samestat(os.fstat(self._held), self.path.stat())):
            return True
        os.close(self._held)
        self._held = None
        return False

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
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _sweep(directory: Path) -> None:
    """Remove staging directories of runs that died."""
    for entry in directory.glob(".normfold.*.tmp"):
        parts = entry.name.split(".")
        if len(parts) == 5 and parts[2].isdigit() and not _alive(int(parts[2])) and not _in_use(entry):
            shutil.rmtree(entry, ignore_errors=True)


def _in_use(entry: Path) -> bool:
    """Whether a run holds the directory: one in another container has a process number that says nothing here."""
    try:
        descriptor = hold(entry)
    except (Taken, OSError):
        return True  # a link, for one, which is none of ours
    if descriptor is not None:
        os.close(descriptor)
    return False


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
            may be the old one again after a power cut; `output.locked`; `output.data_exists`.
    """
    directory = destination.parent
    try:
        with exclusive(directory, _COMMIT_SECONDS):
            _put(staged, destination)
            if staged.durable:
                _confirm(directory, destination)
            if superseded is not None and superseded != staged.data and superseded not in staged.lent:
                with contextlib.suppress(OSError):
                    (directory / superseded).unlink()
    except OSError as error:
        raise cannot_write(destination, error) from None


def _put(staged: Staged, destination: Path) -> None:
    directory = destination.parent
    touched = {directory}
    for name in staged.files:
        entry, target = staged.directory / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        touched |= {parent for parent in target.parents if parent.is_relative_to(directory)}
        _require_free(target, entry, staged.equal)
        entry.replace(target)
    for name in staged.companions:
        _require_archive(directory / name)
        (staged.directory / name).replace(directory / name)
    for folder in sorted(touched) if staged.durable else ():
        _sync_directory(folder)
    staged.model.replace(destination)


def _require_archive(target: Path) -> None:
    """A file of the name of a companion that is none is somebody else's."""
    if not target.exists():
        return
    with target.open("rb") as stream:
        if stream.read(len(_ARCHIVE)) == _ARCHIVE:
            return
    raise OutputError(
        "output.data_exists",
        "a file that normfold did not write has the name of the statistics that go with the model",
        where=str(target),
        hint="move it away, or pass --no-manifest",
    )


def _require_free(target: Path, content: Path, equal: Stamp | None) -> None:
    """Whatever came there since the name was chosen is not ours."""
    if not target.exists() or (equal is not None and Stamp.of(target.stat()) == equal):
        return
    if not filecmp.cmp(content, target, shallow=False):
        raise OutputError(
            "output.data_exists",
            "another file of this name appeared meanwhile",
            where=str(target),
            hint="run it again",
        )


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


def cannot_write(where: Path, error: OSError, needed: int = 0) -> OutputError:
    """The error of a destination that takes no files, or not `needed` bytes of them."""
    reason = f"cannot write: {_reason(error)}"
    if needed and error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            reason += f": {_mib(needed)} are needed, {_mib(shutil.disk_usage(where).free)} are free"
    return OutputError("output.unwritable", reason, where=str(where), hint="nothing was changed there")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
