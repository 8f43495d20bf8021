"""Candidate -> files in the staging directory. `staging.commit` puts them into place."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from pathlib import Path

from normfold.errors import InputError, OutputError
from normfold.model.data_file import Places, external_tensors, write_data
from normfold.model.opener import Opened, Stamp
from normfold.model.output_file import OutputFile, create, sync
from normfold.model.patch import Candidate
from normfold.model.splice import METADATA_PREFIX, Piece, splice
from normfold.model.staging import Staged, Staging, cannot_write, commit
from normfold.model.tensors import FileTensor, NewTensor

__all__ = ["DATA_KEY", "Staged", "Staging", "commit", "stage", "to_bytes", "write_companion", "write_to_run"]

DATA_KEY = METADATA_PREFIX + "data"
# A part of the model file that is smaller is not worth handing to another thread.
_WORTH_A_THREAD = 1 << 20
_COPY = 8 << 20


def stage(candidate: Candidate, staging: Staging, name: str, *, overlay: bool = False) -> Staged:
    """Write the candidate into the staging directory.

    Args:
        candidate: model and changes.
        staging: an entered `Staging`.
        name: file name that the model will have.
        overlay: leave external weights that did not change in the data files of the original.

    Raises:
        RangeRefusal: a folded weight leaves the range of its type.
        OutputError: the disk is full or not writable; `output.overlay`, the original's data are not beside the result.
        InputError: external data is missing or truncated.
    """
    staging.clear()
    path = staging.path / name
    try:
        if candidate.is_original:
            return _stage_original(candidate, staging, path)
        if overlay:
            _require_beside(candidate, staging)
        places, data = write_data(candidate, staging, Path(name).stem, overlay=overlay)
        if data is not None:
            candidate.metadata[DATA_KEY] = data
        size = _write_model(candidate, path, places, durable=staging.durable)
        data_bytes = 0 if data is None else (staging.path / data).stat().st_size
        files = () if data is None else (data,)
        stay = external_tensors(candidate) if overlay else ()
        refers = {(t.external.location, t.external.offset, t.nbytes) for t in stay if t.external is not None}
        for location in sorted({location for location, _, _ in refers}):
            _lend(candidate, staging, location)
        data_bytes += sum(length for _, _, length in refers)
        lent = frozenset(location for location, _, _ in refers)
        return Staged(
            staging.path, path, data, size, data_bytes, files, _equal(staging, data), lent, durable=staging.durable
        )
    except OSError as error:
        raise cannot_write(staging.beside, error, _needed(candidate)) from None


def _require_beside(candidate: Candidate, staging: Staging) -> None:
    """A model may only name data in its own directory, so the result has to lie in that of the original."""
    path = candidate.model.path
    if candidate.model.has_external_data() and (path is None or not path.parent.samefile(staging.beside)):
        raise OutputError(
            "output.overlay",
            "an overlay refers to the data of the original, which lie in another directory",
            where=str(staging.beside),
            hint="write the result beside the original, or leave out --overlay",
        )


def _lend(candidate: Candidate, staging: Staging, location: str) -> None:
    """Show a data file of the original to whoever reads the staged model: the same file under a second name."""
    source = candidate.model.files.get(location, location)
    target = staging.path / location
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.path, target)
    except OSError:  # no such links here, or not to a file of somebody else
        target.symlink_to(source.path)


def _equal(staging: Staging, data: str | None) -> Stamp | None:
    """The stamp of the file that has the name of the data already: `write_data` only takes the name of an equal file."""
    there = None if data is None else staging.beside / data
    return Stamp.of(there.stat()) if there is not None and there.exists() else None


def _needed(candidate: Candidate) -> int:
    """About how many bytes the result takes, as it takes less than its source and what is new."""
    model = candidate.model
    return len(model.buffer) + model.external_bytes() + sum(tensor.nbytes for tensor in candidate.new_tensors())


def _stage_original(candidate: Candidate, staging: Staging, path: Path) -> Staged:
    """The same bytes, which name the same data files; these are copied unless they are there already."""
    model = candidate.model
    files: list[str] = []
    durable = staging.durable
    with create(path) as stream, OutputFile(stream, _opened(candidate), durable=durable) as out:
        out.put(model.buffer, 0)
        out.finish()
        sync(stream, durable=durable)
    for location in sorted(
        {tensor.external.location for tensor in external_tensors(candidate) if tensor.external is not None}
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
        with create(staging.path / location) as stream:
            for start in range(0, source.size, _COPY):
                stream.write(source.view[start : start + _COPY])
                source.release(start, _COPY)
            sync(stream, durable=durable)
        files.append(location)
    return Staged(staging.path, path, None, len(model.buffer), 0, tuple(files), durable=durable)


def write_companion(staged: Staged, name: str, content: bytes) -> None:
    """Put a further file beside a staged model; it is committed together with it.

    Raises:
        OutputError: the disk is full or not writable.
    """
    try:
        with create(staged.directory / name) as stream:
            stream.write(content)
            sync(stream, durable=staged.durable)
    except OSError as error:
        raise cannot_write(staged.directory.parent, error) from None
    staged.companions.append(name)


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


def write_to_run(candidate: Candidate, path: Path) -> None:
    """Write a candidate that is only to be run: external data stays where it is, named as the original names it.

    Whoever loads it must look for external data in the folder of the original.

    Args:
        candidate: model and changes; its new tensors are small.
        path: a file that is overwritten.
    """
    pieces = splice(candidate, lambda tensor: tensor.external if isinstance(tensor, FileTensor) else None)
    with path.open("wb") as stream:
        for piece in pieces:
            stream.writelines(_chunks(piece))


def _opened(candidate: Candidate) -> Opened | None:
    source = candidate.model.source
    return None if source is None else source.opened


def _write_model(candidate: Candidate, path: Path, places: Places, *, durable: bool) -> int:
    pieces = splice(candidate, lambda tensor: places.get(id(tensor)))
    with create(path) as stream, OutputFile(stream, _opened(candidate), durable=durable) as out:
        for piece in pieces:
            size = piece.nbytes if isinstance(piece, (NewTensor, memoryview)) else len(piece)
            if isinstance(piece, bytes) or size < _WORTH_A_THREAD:
                stream.writelines(_chunks(piece))
            else:
                out.put(piece, stream.tell())
                stream.seek(size, os.SEEK_CUR)
        stream.flush()
        out.finish()
        sync(stream, durable=durable)
    return pieces.length


def _chunks(piece: Piece) -> Iterator[bytes | memoryview]:
    if isinstance(piece, NewTensor):
        for block in piece.blocks():
            yield block.tobytes()
    else:
        yield piece
