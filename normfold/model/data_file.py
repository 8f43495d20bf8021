"""The data file of a result: every external tensor, old and new, under a name made of its content.

A file that already has that name is compared before it is taken for the same, so an existing model never sees other data
under its own name. That is why samples are enough for the name: reading all of it would take longer than copying it.
"""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from normfold.model.direct import PAGE
from normfold.model.output_file import OutputFile, create, sync
from normfold.model.patch import Candidate
from normfold.model.staging import Staging
from normfold.model.tensors import External, FileTensor, NewTensor

# Offsets at page boundaries let a runtime map each tensor; below this size it does not matter and only costs space.
_WORTH_A_PAGE, _ALIGN = 1 << 16, 64
# A new tensor smaller than this stays inside the .onnx even if the model keeps its weights outside.
_INLINE = 1024

Places = dict[int, External]


def external_tensors(candidate: Candidate) -> Iterator[FileTensor]:
    """The external tensors that stay, in file order; replaced and dropped ones left out."""
    for scope in candidate.model.scopes():
        patch = candidate.scopes.get(id(scope))
        gone = set() if patch is None else {*patch.replaced, *patch.dropped_initializers}
        dropped_nodes = set() if patch is None else patch.dropped_nodes
        for index, (_, tensor) in enumerate(scope.outline.initializers):
            if tensor.external is not None and index not in gone:
                yield tensor
        for index, node in enumerate(scope.outline.nodes):
            if index not in dropped_nodes:
                yield from (tensor for tensor in node.tensors.values() if tensor.external is not None)


def write_data(
    candidate: Candidate, staging: Staging, stem: str, *, overlay: bool = False
) -> tuple[Places, str | None]:
    """Write every external tensor into one file; where each of them is, and the name of the file, if there is any.

    With `overlay` only the new ones are written, and the others stay where they are.
    """
    kept = list(external_tensors(candidate))
    if not candidate.model.has_external_data():
        return {}, None
    stay: Places = {}
    if overlay:
        stay, kept = {id(tensor): _checked(tensor) for tensor in kept}, []
    # An empty one goes into the model: onnx takes a length of 0 for "to the end", and it would begin where the next one does.
    kept = [tensor for tensor in kept if tensor.nbytes]
    new = [tensor for tensor in candidate.new_tensors() if tensor.nbytes >= _INLINE]
    if not kept and not new:
        return stay, None
    temporary = staging.path / "data"
    places = _layout(kept, new)
    with create(temporary) as stream:
        fingerprints = _fill(stream, kept, new, places, durable=staging.durable)
        sync(stream, durable=staging.durable)
    digest = hashlib.sha256(b"".join(fingerprints)).hexdigest()
    name = _free_name(temporary, staging.beside, f"{stem}.{digest[:16]}")
    temporary.rename(staging.path / name)
    return stay | {key: External(name, place.offset, place.length) for key, place in places.items()}, name


def _checked(tensor: FileTensor) -> External:
    """Where a tensor lies, once it is known that it does."""
    tensor.raw()
    assert tensor.external is not None
    return tensor.external


def _fill(
    stream: BinaryIO, kept: Sequence[FileTensor], new: Sequence[NewTensor], places: Places, *, durable: bool
) -> list[bytes]:
    """Write all tensors; their fingerprints. New ones go first: computing them leaves the disk time to begin."""
    first = {places[id(tensor)].offset: tensor for tensor in reversed(kept)}  # tied tensors are written once
    size = max(place.offset + place.length for place in places.values() if place.length is not None)
    with OutputFile(stream, size=size, durable=durable) as out:
        ordered: list[FileTensor | NewTensor] = [*new, *(first[at] for at in sorted(first))]
        for tensor in ordered:
            out.put(tensor, places[id(tensor)].offset)
        return out.finish()


def _layout(kept: Sequence[FileTensor], new: Sequence[NewTensor]) -> Places:
    """Offsets in the new file. Tied weights, two tensors over one range, stay one range."""
    places: Places = {}
    shared: dict[tuple[str, int, int], External] = {}
    position = 0
    tensors: list[FileTensor | NewTensor] = [*kept, *new]
    for tensor in tensors:
        key = (
            (tensor.external.location, tensor.external.offset, tensor.nbytes)
            if isinstance(tensor, FileTensor) and tensor.external
            else None
        )
        if key is None or key not in shared:
            position += -position % (PAGE if tensor.nbytes >= _WORTH_A_PAGE else _ALIGN)
            place = External("", position, tensor.nbytes)
            position += tensor.nbytes
        else:
            place = shared[key]
        if key is not None:
            shared[key] = place
        places[id(tensor)] = place
    return places


def _free_name(content: Path, directory: Path, stem: str) -> str:
    """A name that is free in the directory, or taken by a file of the same content."""
    count = 0
    while True:
        name = f"{stem}-{count}.data" if count else f"{stem}.data"
        if not (directory / name).exists() or filecmp.cmp(content, directory / name, shallow=False):
            return name
        count += 1
