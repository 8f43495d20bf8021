"""Inputs for whole models: one value per symbol, batches that vary, sizes that grow until the model runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from normfold.errors import UsageError

from .inference import infer_types
from .limits import BYTES_PER_ELEMENT, system_memory
from .protos import FLOATS, TensorType, free_inputs, tensor_type, to_elem
from .ranges import Meaning, draw, meanings
from .region_inputs import InputsError
from .verdicts import Array, VerifyOptions

Shape = tuple[int, ...]
_BATCHES = (2, 1, 3)
# Each rung: sizes for the second, third, ... axis, per variant. Primes find axis mix-ups; nets that halve their
# input often need multiples of 32, and some exports only run at the size they were traced with.
_LADDER = (
    ((3, 11, 7, 5), (3, 7, 13, 5)),
    ((3, 64, 32, 32), (3, 32, 96, 32)),
    ((3, 65, 33, 33), (3, 33, 97, 33)),
    ((3, 224, 256, 64), (3, 256, 224, 64)),
    ((3, 224, 224, 224), (3, 224, 224, 224)),
    ((3, 640, 640, 640), (3, 640, 640, 640)),
)
_SEQUENCES = (((7, 5, 11), (5, 7, 3)), ((8, 16, 32), (16, 8, 32)), ((16, 64, 64), (32, 64, 64)))


# How random floats are drawn. Images come in these ranges, and some models answer nothing but a constant to others.
VALUES: dict[str, Callable[[np.random.Generator, Shape], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "unit": lambda rng, shape: rng.random(shape),
    "bytes": lambda rng, shape: rng.integers(0, 256, shape).astype(np.float64),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Feeds of one trial with the seed and the shapes they were drawn with."""

    seed: int
    shapes: Mapping[str, Shape]
    feeds: Mapping[str, Array]


def attempts(model: onnx.ModelProto, options: VerifyOptions, values: str = "normal") -> Iterator[tuple[Trial, ...]]:
    """Yield sets of trials for `model`, smallest sizes first; later ones are for models that refuse the earlier.

    `values` is how random floats are drawn, one of `VALUES`.

    Raises:
        InputsError: an input without rank or of a type that cannot be drawn, and no user data for it.
        UsageError: user data or shapes that do not fit the model; `resource.estimate`, if the smallest sizes do not fit.
    """
    types = _input_types(model, options)
    _check_names(types, options)
    free = any(not isinstance(dim, int) for found in types.values() for dim in found.dims or ())
    shaped = any(name not in options.shapes and name not in options.inputs for name in types)
    for rung in range(len(_LADDER) if free and shaped else 1):
        try:
            trials = tuple(_trial(model, types, options, rung, number, values) for number in range(_count(options)))
        except UsageError as error:
            if rung and error.code == "resource.estimate":
                return  # nobody asked for these sizes
            raise
        yield trials


def _count(options: VerifyOptions) -> int:
    given = [len(value) for value in options.inputs.values() if not isinstance(value, np.ndarray)]
    return max([1, *given]) if options.inputs and all_given(options) else max([1, options.trials, *given])


def all_given(options: VerifyOptions) -> bool:
    """True if user data came as lists, whose length is the number of trials wanted."""
    return any(not isinstance(value, np.ndarray) for value in options.inputs.values())


def _input_types(model: onnx.ModelProto, options: VerifyOptions) -> dict[str, TensorType]:
    types = {}
    wanted = {info.name for info in free_inputs(model.graph)} | set(options.inputs)
    for info in model.graph.input:
        if info.name not in wanted:
            continue
        found = tensor_type(info)
        if found is None:
            raise InputsError(f"input {info.name!r} is not a tensor")
        if found.dims is None:
            given = options.shapes.get(info.name)
            if given is None and info.name not in options.inputs:
                raise InputsError(f"the rank of input {info.name!r} is unknown")
            found = TensorType(found.elem, given if given is not None else _given(options, info.name, 0).shape)
        types[info.name] = found
    return types


def _check_names(types: Mapping[str, TensorType], options: VerifyOptions) -> None:
    for name in [*options.inputs, *options.shapes]:
        if name not in types:
            known = ", ".join(types) or "none"
            raise UsageError("usage.inputs", f"the model has no input {name!r}", hint=f"its inputs: {known}")


def _given(options: VerifyOptions, name: str, number: int) -> Array:
    value = options.inputs[name]
    return value if isinstance(value, np.ndarray) else value[number % len(value)]


def _trial(
    model: onnx.ModelProto, types: Mapping[str, TensorType], options: VerifyOptions, rung: int, number: int, values: str
) -> Trial:
    shapes = _shapes(types, options, rung, number)
    _require_room(shapes, options)
    said = meanings(model.graph, infer_types(model, shapes)) if any(_drawn(types, options)) else {}
    rng = np.random.default_rng(abs(options.seed) + number)
    feeds = {}
    for name, found in types.items():
        if name in options.inputs:
            feeds[name] = _fitted(name, _given(options, name, number), found)
        else:
            feeds[name] = _draw(rng, name, found, shapes[name], said.get(name), values)
    return Trial(options.seed + number, shapes, feeds)


def _require_room(shapes: Mapping[str, Shape], options: VerifyOptions) -> None:
    """Inputs are drawn in float64 and packed in their own type; half of the memory must be left for the model."""
    limit = options.memory_limit_bytes or system_memory()
    needed = BYTES_PER_ELEMENT * sum(math.prod(shape) for name, shape in shapes.items() if name not in options.inputs)
    if limit is not None and needed * options.trials > limit // 2:
        largest = max(shapes, key=lambda name: math.prod(shapes[name]))
        raise UsageError(
            "resource.estimate",
            f"{options.trials} trials with input {largest!r} of shape {list(shapes[largest])} "
            f"take about {needed * options.trials >> 20} MiB, {limit >> 20} MiB are there",
            hint=f"give --shape {largest}=... or fewer --trials",
        )


def _drawn(types: Mapping[str, TensorType], options: VerifyOptions) -> list[str]:
    return [name for name, found in types.items() if found.elem not in FLOATS and name not in options.inputs]


def _draw(
    rng: np.random.Generator, name: str, found: TensorType, shape: Shape, meaning: Meaning | None, values: str
) -> Array:
    if found.elem in FLOATS:
        drawn = VALUES[values](rng, shape)
        if meaning is not None and meaning.kind == "mask":
            drawn = draw(rng, onnx.TensorProto.INT64, shape, meaning)
        return to_elem(drawn, found.elem)
    try:
        return draw(rng, found.elem, shape, meaning)
    except ValueError as error:
        raise InputsError(f"input {name!r}: {error}") from error


def _fitted(name: str, value: Array, found: TensorType) -> Array:
    if found.elem == onnx.TensorProto.STRING:
        return value
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(found.elem))
    if value.dtype.kind != dtype.kind and not (value.dtype.kind in "iu" and dtype.kind in "iu"):
        raise UsageError("usage.inputs", f"input {name!r} is {dtype}, the data are {value.dtype}")
    fits = found.dims is None or (
        len(found.dims) == value.ndim
        and all(not isinstance(dim, int) or dim == size for dim, size in zip(found.dims, value.shape, strict=True))
    )
    if not fits:
        raise UsageError("usage.inputs", f"input {name!r} has shape {found.dims}, the data have {value.shape}")
    return value.astype(dtype)


def _shapes(types: Mapping[str, TensorType], options: VerifyOptions, rung: int, number: int) -> dict[str, Shape]:
    symbols: dict[str, int] = {}
    shapes: dict[str, Shape] = {}
    for name, found in types.items():  # what the user fixed binds the symbols first
        if name in options.inputs or name in options.shapes:
            given = options.shapes[name] if name in options.shapes else _given(options, name, number).shape
            shapes[name] = tuple(given)
            _check_rank(name, found, shapes[name])
            symbols.update(_bound(found, shapes[name]))
    for name, found in types.items():
        if name not in shapes:
            dims = found.dims or ()
            plain = [_size(dim, axis, len(dims), rung, number, symbols) for axis, dim in enumerate(dims)]
            shapes[name] = tuple(plain)
    for name, found in types.items():  # "past + sequence" needs both symbols, wherever they stand
        if name not in options.inputs and name not in options.shapes:
            sized = zip(found.dims or (), shapes[name], strict=True)
            shapes[name] = tuple(_summed(dim, size, symbols) for dim, size in sized)
    return shapes


def _check_rank(name: str, found: TensorType, shape: Shape) -> None:
    dims = found.dims or ()
    fits = len(dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)
    )
    if not fits and found.dims is not None:
        raise UsageError("usage.shape", f"shape {shape} does not fit input {name!r} of shape {list(dims)}")


def _bound(found: TensorType, shape: Shape) -> dict[str, int]:
    return {dim: size for dim, size in zip(found.dims or (), shape, strict=True) if isinstance(dim, str)}


def _size(dim: int | str | None, axis: int, rank: int, rung: int, number: int, symbols: dict[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim and dim in symbols:
        return symbols[dim]
    if axis == 0:
        size = _BATCHES[number % len(_BATCHES)]
    else:
        ladder: Sequence[Sequence[Sequence[int]]] = _LADDER if rank >= 4 else _SEQUENCES
        variants = ladder[min(rung, len(ladder) - 1)]
        sizes = variants[number % len(variants)]
        size = sizes[(axis - 1) % len(sizes)]
    if dim and "+" not in dim:
        symbols[dim] = size
    return size


def _summed(dim: int | str | None, size: int, symbols: Mapping[str, int]) -> int:
    if not isinstance(dim, str) or "+" not in dim:
        return size
    terms = [term.strip() for term in dim.split("+")]
    values = [int(term) if term.isdecimal() else symbols.get(term) for term in terms]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else size


__all__ = ["InputsError", "Trial", "attempts"]
