"""From what the user names to a `DataSource`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from normfold.errors import InputError, UsageError
from normfold.model.load import Model
from normfold.statistics.collect import Array, DataSource
from normfold.statistics.data.arrays import Archive, ArrayReader, FolderReader, load_array
from normfold.statistics.data.batching import Indexed, IndexedSource, StreamedSource
from normfold.statistics.data.images import ImageReader, image_files
from normfold.statistics.data.inputs import ModelInput, batch_size, model_inputs
from normfold.statistics.data.options import DataOptions
from normfold.statistics.data.python import FunctionReader, find_function, is_function

_DEFAULTS = DataOptions()
Given = str | Path | Sequence[str] | Mapping[str, Array] | DataSource


def open_data(data: Given, model: Model, options: DataOptions = _DEFAULTS) -> DataSource:
    """Data as batches for a model.

    Args:
        data: `x.npz`, `x.npy`, a folder of such files or of images, `python.module:function`, several `input=x.npy`,
            arrays by input, or a `DataSource`, which is taken as it is.
        model: that will read it.
        options: how it is read.

    Raises:
        InputError: the data is missing, damaged, empty, or does not fit the model.
        UsageError: options that contradict each other, the data or the model.
        EnvironmentProblem: images without Pillow.
    """
    if isinstance(data, DataSource):
        return data
    inputs = model_inputs(model)
    size = batch_size(inputs, options.batch)
    if isinstance(data, Mapping):
        arrays = {name: np.asarray(array) for name, array in data.items()}
        return IndexedSource(ArrayReader(arrays, inputs, "arrays", options.group_key), inputs, options, size)
    specs = [str(data)] if isinstance(data, (str, Path)) else [str(spec) for spec in data]
    if not specs:
        raise UsageError("usage.data", "no data was named", hint="give --data")
    if is_function(specs[0]) and len(specs) == 1 and not Path(specs[0]).exists():
        _no_image_options(options, specs[0])
        reader = FunctionReader(find_function(specs[0]), inputs, specs[0], options.group_key)
        return StreamedSource(reader, inputs, options, size)
    return IndexedSource(_reader(specs, inputs, options), inputs, options, size)


def files_of(data: Given) -> tuple[Path, ...]:
    """The files and folders that data names; some may not be there."""
    if isinstance(data, (DataSource, Mapping)):
        return ()
    specs = [str(data)] if isinstance(data, (str, Path)) else [str(spec) for spec in data]
    return tuple(Path(name) for spec in specs for name in {spec, spec.partition("=")[2] or spec})


def _reader(specs: Sequence[str], inputs: tuple[ModelInput, ...], options: DataOptions) -> Indexed:
    if len(specs) == 1 and (Path(specs[0]).exists() or "=" not in specs[0]):
        return _one(Path(specs[0]), inputs, options)
    _no_image_options(options, specs[0])
    arrays: dict[str, Array] = {}
    for spec in specs:
        name, equals, target = spec.partition("=")
        if not equals or not name or not target:
            raise UsageError("usage.data", f"{spec!r} names no input", hint="write several inputs as name=file.npy")
        if name in arrays:
            raise UsageError("usage.data", f"two files for {name!r}", hint="give one")
        arrays[name] = load_array(Path(target))
    return ArrayReader(arrays, inputs, ", ".join(specs), options.group_key)


def _one(path: Path, inputs: tuple[ModelInput, ...], options: DataOptions) -> Indexed:
    if path.is_dir():
        if image_files(path):
            return ImageReader(path, inputs, options)
        _no_image_options(options, str(path))
        return FolderReader(path, inputs, options.group_key)
    _no_image_options(options, str(path))
    if not path.exists():
        raise InputError("data.missing", "no such file, folder or function", where=str(path))
    if path.suffix == ".npz":
        archive = Archive(path)
        return ArrayReader(archive.arrays, inputs, str(path), options.group_key, archive)
    if path.suffix == ".npy":
        return ArrayReader({path.stem: load_array(path)}, inputs, str(path), options.group_key)
    raise InputError(
        "data.format", "this is no data that can be read", where=str(path),
        hint="give a .npz or .npy file, a folder, or module:function",
    )  # fmt: skip


def _no_image_options(options: DataOptions, where: str) -> None:
    if options.for_images:
        raise UsageError(
            "usage.data", "--mean, --std, --layout and --size are for folders of images", where=where,
            hint="prepare arrays as the model wants them",
        )  # fmt: skip
