"""A folder of images as samples. Needs Pillow, the optional extra `images`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normfold.errors import EnvironmentProblem, InputError, UsageError
from normfold.model.opener import open_stream
from normfold.statistics.collect import Array
from normfold.statistics.data.batching import Rows
from normfold.statistics.data.inputs import ModelInput
from normfold.statistics.data.options import DataOptions, Layout

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_USUAL = (1, 3)  # channels; four may as well be a height
_FOLDER_GROUP = "folder"


def image_files(folder: Path) -> list[Path]:
    """Images in a folder and the folders inside it, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


class ImageReader:
    """Images, resized (bilinear), scaled to 0…1, normalised, in the layout of the model. Bytes stay bytes for byte inputs.

    Raises:
        EnvironmentProblem: Pillow is not installed.
        UsageError: what the model leaves open was not given, or does not fit it.
        InputError: no images.
    """

    def __init__(self, folder: Path, inputs: tuple[ModelInput, ...], options: DataOptions) -> None:
        self._image = _pillow()
        if len(inputs) != 1:
            raise UsageError(
                "usage.data", f"images are one input, the model has {len(inputs)}", where=str(folder),
                hint="give the inputs as a .npz file or a Python function",
            )  # fmt: skip
        self._folder, self._entry = folder, inputs[0]
        self._files = image_files(folder)
        if not self._files:
            raise InputError("data.missing", "no images in this folder", where=str(folder))
        self._layout, self._channels, self._size = _geometry(self._entry, options)
        self._mean, self._std = (
            _per_channel(v, self._channels, n) for v, n in ((options.mean, "mean"), (options.std, "std"))
        )
        self._by_folder = options.group_key == _FOLDER_GROUP
        if options.group_key and not self._by_folder:
            raise UsageError(
                "usage.data",
                f"images have no {options.group_key!r} to group by",
                hint=f"use --group-key {_FOLDER_GROUP}",
            )

    @property
    def description(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self._files)

    def take(self, indices: Sequence[int]) -> Rows:
        """These images, in this order."""
        paths = [self._files[index] for index in indices]
        ids = tuple(str(path.relative_to(self._folder)) for path in paths)
        groups = tuple(str(Path(name).parent) for name in ids) if self._by_folder else None
        return Rows({self._entry.name: np.stack([self._read(path) for path in paths])}, groups, ids)

    def _read(self, path: Path) -> Array:
        height, width = self._size
        try:
            with open_stream(path) as stream, self._image.open(stream) as image:
                resized = image.convert(_MODES[self._channels]).resize((width, height), self._image.Resampling.BILINEAR)
                pixels = np.asarray(resized, np.uint8).reshape(height, width, self._channels)
        except (OSError, ValueError, SyntaxError, self._image.DecompressionBombError) as error:
            raise InputError("data.format", f"cannot be read as an image: {error}", where=str(path)) from None
        values: Array = pixels
        if self._entry.dtype is None or self._entry.dtype.kind not in "iu":
            values = ((pixels.astype(np.float32) / 255 - self._mean) / self._std).astype(np.float32)
        return values.transpose(2, 0, 1) if self._layout == "NCHW" else values


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise EnvironmentProblem(
            "data.pillow", "reading images needs Pillow", hint='pip install "normfold[images]"'
        ) from None
    return Image


def _geometry(entry: ModelInput, options: DataOptions) -> tuple[Layout, int, tuple[int, int]]:
    """Layout, channels, height and width: what the model says, and what it leaves open from the options."""
    dims = entry.dims
    if dims is not None and len(dims) != 4:
        raise UsageError("usage.data", f"the input {entry.name!r} takes {entry.shape}, which are no images")
    known = (None,) * 4 if dims is None else dims
    channels_last = known[3] in _USUAL and known[1] not in _USUAL
    layout: Layout = options.layout or ("NHWC" if channels_last else "NCHW")
    channel, height, width = (known[1], known[2], known[3]) if layout == "NCHW" else (known[3], known[1], known[2])
    channels = channel if isinstance(channel, int) else max(len(options.mean), len(options.std)) or 3
    if channels not in _MODES:
        hint = "give --layout" if options.layout is None else "is the layout right?"
        raise UsageError("usage.data", f"the input takes {entry.shape}: {channels} channels are no image", hint=hint)
    size = options.size or ((height, width) if isinstance(height, int) and isinstance(width, int) else None)
    if size is None:
        raise UsageError(
            "usage.data", f"the input takes {entry.shape}: the size of the images is open", hint="give --size"
        )
    for given, wanted in zip(size, (height, width), strict=True):
        if isinstance(wanted, int) and given != wanted:
            raise UsageError(
                "usage.data", f"--size {size[0]}x{size[1]} does not fit the input, which takes {entry.shape}"
            )
    return layout, channels, size


def _per_channel(values: tuple[float, ...], channels: int, name: str) -> Array:
    if len(values) not in (0, 1, channels):
        raise UsageError("usage.data", f"--{name} has {len(values)} numbers for {channels} channels")
    default = 0.0 if name == "mean" else 1.0
    return np.broadcast_to(np.array(values or (default,), np.float64), (channels,))
