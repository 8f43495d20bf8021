"""Inputs that a model accepts: seeded, of the declared types, at several assignments of its symbolic dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

Dim = onnx.TensorShapeProto.Dimension
Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Recipe:
    """How to fill what a model leaves open.

    Args:
        batch: extent of a symbolic first dimension, and wherever its symbol returns.
        extent: extent of every other symbolic dimension.
        top: integers are drawn below this; a single one is the largest.
    """

    batch: int
    extent: int
    top: int


def recipes() -> Iterator[Recipe]:
    """Recipes in the order of preference; a model runs with the first few that it accepts."""
    for top in (2, 16001):
        for extent in (32, 64, 128, 224, 320, 512, 16, 8, 4, 2, 1):
            for batch in (1, 2):
                yield Recipe(batch, extent, top)


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those without an initializer."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def is_open(graph: onnx.GraphProto) -> bool:
    """Whether any input has a symbolic or unknown dimension."""
    dims = (dim for value in inputs_of(graph) for dim in _dims(value))
    return any(dim.dim_value <= 0 for dim in dims)


def draw(graph: onnx.GraphProto, recipe: Recipe, seed: int) -> Feeds:
    """Inputs for `graph` by `recipe`; equal symbols get equal extents."""
    rng = np.random.default_rng(seed)
    values = inputs_of(graph)
    batches = {_dims(value)[0].dim_param for value in values if _dims(value)} | {"batch", "batch_size"}
    return {value.name: _tensor(value, recipe, batches - {""}, rng) for value in values}


def _dims(value: onnx.ValueInfoProto) -> Sequence[Dim]:
    return value.type.tensor_type.shape.dim


def _tensor(
    value: onnx.ValueInfoProto, recipe: Recipe, batches: set[str], rng: np.random.Generator
) -> NDArray[np.generic]:
    def extent(axis: int, dim: Dim) -> int:
        is_batch = dim.dim_param in batches or (axis == 0 and not dim.dim_param)
        return dim.dim_value or (recipe.batch if is_batch else recipe.extent)

    shape = [extent(axis, dim) for axis, dim in enumerate(_dims(value))]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    top = {"uint8": 256, "bool": 2}.get(dtype.name, recipe.top)
    drawn = rng.integers(0, top, shape) if shape else np.array(top - 1)
    return drawn.astype(dtype)
