"""What a model wants to be fed, and whether data is that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from normfold.errors import InputError, UsageError
from normfold.model import dtypes
from normfold.model.load import Model
from normfold.model.shapes import Dims, declared_dims, declared_type
from normfold.statistics.collect import Array

# What may be given for what, by kind of dtype: bytes of images go into floats; floats are never rounded to integers.
_ACCEPTED = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A graph input that has to be fed.

    Args:
        name: of the input.
        dtype: as numpy; None for one without numbers, such as text.
        dims: declared, None where even the rank is open. Axis 0 is that of the samples.
    """

    name: str
    dtype: np.dtype | None
    dims: Dims | None

    @property
    def shape(self) -> str:
        """The dimensions in words."""
        if self.dims is None:
            return "any shape"
        return "[" + ", ".join("?" if dim is None else str(dim) for dim in self.dims) + "]"


def model_inputs(model: Model) -> tuple[ModelInput, ...]:
    """The inputs that have no default.

    Raises:
        InputError: one that is no tensor, or has no axis for samples.
    """
    found = []
    for value in model.graph.inputs:
        if value.tensor is not None:
            continue
        data_type, dims = declared_type(value.type), declared_dims(value.type)
        if dims is not None and not dims:
            raise InputError(
                "data.inputs", f"the input {value.name!r} is a single number: it has no axis for samples",
                hint="make it a constant of the model",
            )  # fmt: skip
        found.append(ModelInput(value.name, _numpy(value.name, data_type), dims))
    if not found:
        raise InputError("data.inputs", "the model has no inputs, so there is nothing to feed")
    return tuple(found)


def _numpy(name: str, data_type: int | None) -> np.dtype | None:
    if data_type == TensorProto.STRING:
        return None
    dtype = None if data_type is None else dtypes.numpy_dtype(data_type)
    if dtype is None:
        raise InputError("data.inputs", f"the input {name!r} is of a type that data cannot be given for")
    return dtype


def fixed_batch(inputs: tuple[ModelInput, ...]) -> int | None:
    """The only batch size that a model takes, None where it takes any."""
    sizes = {entry.dims[0] for entry in inputs if entry.dims is not None}
    fixed = sorted(size for size in sizes if isinstance(size, int))
    return fixed[0] if fixed else None


def batch_size(inputs: tuple[ModelInput, ...], wanted: int | None, default: int = 32) -> int:
    """How many samples go through together.

    Raises:
        UsageError: other than what the model fixes.
    """
    fixed = fixed_batch(inputs)
    if fixed is not None and wanted is not None and wanted != fixed:
        raise UsageError(
            "usage.data", f"--batch {wanted}, but the model takes batches of {fixed} only", hint=f"use --batch {fixed}"
        )
    return fixed or wanted or default


def assign(inputs: tuple[ModelInput, ...], arrays: Mapping[str, Array], where: str, also: str = "") -> dict[str, Array]:
    """Arrays by input. One array for a model of one input may have any name; arrays that no input wants are left out.

    Args:
        inputs: of the model.
        arrays: by name in the data.
        where: the data, for the message.
        also: a further name that is not an input, such as the group key.

    Raises:
        InputError: an input without an array.
    """
    free = [name for name in arrays if name != also]
    if len(inputs) == len(free) == 1:
        return {inputs[0].name: arrays[free[0]]}
    missing = [entry.name for entry in inputs if entry.name not in arrays]
    if missing:
        raise InputError(
            "data.inputs", f"the data has no array for the input {missing[0]!r}", where=where,
            hint=f"its arrays: {', '.join(free) or 'none'}; inputs of the model: {', '.join(e.name for e in inputs)}",
        )  # fmt: skip
    return {entry.name: arrays[entry.name] for entry in inputs}


def check_shape(entry: ModelInput, shape: tuple[int, ...], where: str) -> None:
    """Whether `[N, …]` fits the input, whatever N.

    Raises:
        InputError: it does not; the message has both shapes.
    """
    if entry.dims is None or (_fits(entry.dims[1:], shape[1:]) and len(shape) == len(entry.dims)):
        return
    given = "[N" + "".join(f", {size}" for size in shape[1:]) + "]"
    hint = ""
    if len(shape) == len(entry.dims) == 4 and _fits(entry.dims[1:], (shape[3], *shape[1:3])):
        hint = "the channels come last in the data: transpose it with (0, 3, 1, 2)"
    elif len(shape) == len(entry.dims) == 4 and _fits(entry.dims[1:], (*shape[2:], shape[1])):
        hint = "the channels come second in the data: transpose it with (0, 2, 3, 1)"
    elif len(shape) == len(entry.dims) - 1 and _fits(entry.dims[1:], shape):
        hint = "this looks like one sample: add an axis for samples in front"
    raise InputError(
        "data.shape", f"the data is {given}, the input {entry.name!r} takes {entry.shape}", where=where, hint=hint
    )


def _fits(dims: Dims, shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)
    )


def check_dtype(entry: ModelInput, dtype: np.dtype, where: str) -> None:
    """Whether numbers of this type can be given for the input.

    Raises:
        InputError: they cannot.
    """
    fine = dtype.kind in "UOS" if entry.dtype is None else dtype.kind in _ACCEPTED.get(_kind(entry.dtype), "")
    if not fine:
        raise InputError(
            "data.dtype", f"the data is {dtype}, the input {entry.name!r} takes {entry.dtype or 'text'}", where=where
        )


def _kind(dtype: np.dtype) -> str:
    """bfloat16 counts as a float: numpy calls it a void."""
    return "f" if dtype.kind == "V" else dtype.kind


def fitted(entry: ModelInput, values: Array, where: str, first: int = 0) -> Array:
    """`[N, …]` as it is fed.

    Args:
        entry: what it is for.
        values: the samples.
        where: the data, for the message.
        first: number of the first sample, for the message.

    Raises:
        InputError: wrong shape or type, or a number that is not finite or too large for the type.
    """
    check_shape(entry, values.shape, where)
    check_dtype(entry, values.dtype, where)
    if entry.dtype is None:
        return values.astype(object)
    if _kind(entry.dtype) in "iu":
        _check_range(entry, values, where)
    with np.errstate(over="ignore"):
        cast = values.astype(entry.dtype, copy=False)
    if _kind(entry.dtype) == "f":
        finite = np.isfinite(cast.astype(np.float32, copy=False) if cast.dtype.kind == "V" else cast)
        if not finite.all():
            sample = first + int(np.argmin(finite.reshape(len(cast), -1).all(axis=1)))
            raise InputError(
                "data.non_finite", f"sample {sample} of {entry.name!r} holds NaN or infinity", where=where,
                hint="remove or repair it",
            )  # fmt: skip
    return cast


def _check_range(entry: ModelInput, values: Array, where: str) -> None:
    """A cast between integers would wrap around without a word."""
    if not values.size or values.dtype == entry.dtype or values.dtype.kind not in "iu":
        return
    limits = np.iinfo(entry.dtype)
    low, high = int(values.min()), int(values.max())
    if low < limits.min or high > limits.max:
        raise InputError(
            "data.range", f"{entry.name!r} takes {entry.dtype}, {limits.min} to {limits.max}; the data holds {low} to {high}",
            where=where, hint="scale or clip it as the model was trained",
        )  # fmt: skip
