"""Where a result may go: never over the input, never over a file that is not ours unless told to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from normfold.errors import NormfoldError, OutputError
from normfold.model.load import read_metadata
from normfold.model.opener import absolute
from normfold.model.output_file import require_replaceable
from normfold.model.splice import METADATA_PREFIX
from normfold.model.write import DATA_KEY

_LOCK_SECONDS = 10.0
VERSION_KEY = METADATA_PREFIX + "version"


def default_destination(source: Path) -> Path:
    """`model.onnx` becomes `model.normfold.onnx`, beside it."""
    return source.with_name(f"{source.stem}.normfold.onnx") if source.name else source


def check_destination(destination: Path, source: Path | None, *, in_place: bool) -> Path:
    """The absolute destination.

    Raises:
        OutputError: `output.is_input`, `output.is_link`, `output.is_directory`, `output.not_regular`,
            `output.no_directory`, `output.stream`.
    """
    if str(destination) == "-":
        raise OutputError("output.stream", "a model is not written to standard output", hint="name a file; ./- is one")
    path = absolute(destination)
    require_replaceable(path)
    if source is not None and path.exists() and path.samefile(source):
        if not in_place:
            raise OutputError(
                "output.is_input",
                "the output is the input",
                where=str(path),
                hint="choose another -o, or add --in-place",
            )
        return Path(os.path.realpath(path))
    if path.is_symlink():
        raise OutputError(
            "output.is_link", "the output is a symbolic link", where=str(path), hint="name the file that it leads to"
        )
    return path


def require_apart(destination: Path, read: Iterable[Path]) -> None:
    """A result does not replace what it is made from: a file that is read, or one in a folder that is.

    Raises:
        OutputError: `output.is_input`.
    """
    if not destination.exists():
        return
    for path in read:
        inside = path.is_dir() and destination.resolve().is_relative_to(path.resolve())
        if inside or (path.exists() and destination.samefile(path)):
            raise OutputError(
                "output.is_input",
                "the output is a file that is read",
                where=str(destination),
                hint="choose another -o",
            )


def require_ours(destination: Path, content: Path) -> None:
    """A default destination may only replace what normfold wrote, or what is equal anyway.

    Raises:
        OutputError: `output.exists`.
    """
    if not destination.exists() or claims(destination) is not None:
        return
    if destination.stat().st_size == content.stat().st_size and destination.read_bytes() == content.read_bytes():
        return
    raise OutputError(
        "output.exists",
        "a file of this name exists, and normfold did not write it",
        where=str(destination),
        hint="name the output with -o, or add --force",
    )


def claims(path: Path) -> dict[str, str] | None:
    """The metadata of a model that normfold wrote; None for any other file."""
    try:
        metadata = read_metadata(path)
    except NormfoldError:
        return None
    return metadata if VERSION_KEY in metadata else None


def superseded_data(destination: Path, needed: Collection[str] = ()) -> str | None:
    """The data file that normfold wrote for the model at the destination, and that goes when that model is replaced.

    The name is what the model there claims, so it is only believed if it has the form that `write` gives to the data of
    a model of this name: a copy of a model under another name does not own the data.

    Args:
        destination: where a model may lie.
        needed: names of data files that the new model, or its source, reads.
    """
    found = claims(destination) if destination.exists() else None
    name = (found or {}).get(DATA_KEY)
    ours = re.compile(re.escape(destination.stem) + r"\.[0-9a-f]{16}\.data")
    return name if name and ours.fullmatch(name) and name not in needed else None


@contextlib.contextmanager
def lock(destination: Path) -> Iterator[None]:
    """A lock on a destination, outside of its directory so that nothing is left there.

    Raises:
        OutputError: `output.locked`, `output.lock_failed`.
    """
    name = f"{hashlib.sha256(os.fsencode(destination)).hexdigest()[:32]}.lock"
    folder = Path("the temporary directory")
    try:
        folder = Path(tempfile.gettempdir()) / f"normfold-{os.getuid() if hasattr(os, 'getuid') else 0}"
        folder.mkdir(mode=0o700, exist_ok=True)
        held = FileLock(folder / name, timeout=_LOCK_SECONDS)
        held.acquire()
    except Timeout:
        raise OutputError(
            "output.locked",
            "another normfold run is writing this file",
            where=str(destination),
            hint="wait for it, or choose another -o",
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            "output.lock_failed",
            f"no lock can be taken: {error}",
            where=str(folder / name),
            hint="set TMPDIR to a directory that you own",
        ) from None
    try:
        yield
    finally:
        # Before it is released: whoever waits for it looks whether it is still there. Old releases of filelock do not, and two
        # runs may then work at once; their commits still follow each other, for those hold the directory.
        with contextlib.suppress(OSError):
            (folder / name).unlink()
        held.release()
