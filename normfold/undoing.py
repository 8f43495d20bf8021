"""`recalibrate --undo`: the model as it was, from the repaired one and the patch beside it."""

from __future__ import annotations

from pathlib import Path

from normfold.destination import check_destination, lock, require_apart, require_ours
from normfold.errors import InputError
from normfold.model.load import load
from normfold.model.opener import read_file
from normfold.model.output_file import create, sync
from normfold.model.staging import Staged, Staging, cannot_write
from normfold.model.write import commit, write_companion
from normfold.statistics.archive import read_archive
from normfold.statistics.folded.manifest import manifest_name
from normfold.statistics.recalibration.undo import KIND, restored


def undo(
    model: str | Path, patch: str | Path, output: str | Path, *, in_place: bool = False, overwrite: bool = True
) -> Path:
    """Write the model as it was before `recalibrate`, byte for byte.

    Args:
        model: the result of `recalibrate`.
        patch: the undo patch that was written beside it.
        output: where to write.
        in_place: allow `output` to be `model`.
        overwrite: replace an existing file even if normfold did not write it.

    Raises:
        InputError: the patch belongs to another model, is damaged, or the data of the original is not there.
        OutputError: the destination cannot be written.
    """
    path = Path(model)
    archive, _ = read_archive(Path(patch), KIND)
    try:
        content = read_file(path)
    except OSError as error:
        raise InputError("input.unreadable", f"cannot be read: {error.strerror}", where=str(path)) from None
    original = restored(archive, content, str(path))
    destination = check_destination(Path(output), path, in_place=in_place)
    require_apart(destination, [Path(patch)])
    with lock(destination), Staging(destination.parent) as staging:
        staged = Staged(staging.path, staging.path / destination.name, None, len(original), 0)
        try:
            with create(staged.model) as stream:
                stream.write(original)
                sync(stream)
        except OSError as error:
            raise cannot_write(destination, error) from None
        _require_data(staged.model, destination)
        if "manifest" in archive.arrays:
            write_companion(staged, manifest_name(destination), archive.arrays["manifest"].tobytes())
        if not overwrite:
            require_ours(destination, staged.model)
        commit(staged, destination)
    return destination


def _require_data(path: Path, destination: Path) -> None:
    """What the original reads from other files must lie beside the place where it goes."""
    for location in sorted({location for location, _, _ in load(path).external_ranges()}):
        if not (destination.parent / location).is_file():
            raise InputError(
                "undo.data", f"the original reads {location!r}, which is not there", where=str(destination.parent),
                hint="write it to the directory of the original model",
            )  # fmt: skip
