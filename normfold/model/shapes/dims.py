"""Dimensions, what graph inputs declare, and broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import TypeProto

from normfold.model.graph import Value

Dim = int | str | None
Dims = tuple[Dim, ...]
# What is known about a value from elsewhere: dimensions and element type.
Known = tuple[Dims | None, int | None]
Hints = Callable[[Value], Known]


def no_hints(value: Value) -> Known:
    """Nothing is known but what the graph itself says."""
    return None, None


def declared_dims(kind: TypeProto | None) -> Dims | None:
    """The dimensions that a graph input declares; runtimes enforce them."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
        for dim in kind.tensor_type.shape.dim
    )


def declared_type(kind: TypeProto | None) -> int | None:
    """The element type that a graph input declares."""
    if kind is None or not kind.HasField("tensor_type"):
        return None
    return int(kind.tensor_type.elem_type) or None


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """The shape of an elementwise operator; a dimension that cannot be decided is None."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(len(dims) for dims in known)
    padded = [(1,) * (rank - len(dims)) + dims for dims in known]
    return tuple(_broadcast_dim(column) for column in zip(*padded, strict=True))


def _broadcast_dim(column: Sequence[Dim]) -> Dim:
    numbers = {dim for dim in column if isinstance(dim, int) and dim != 1}
    if numbers:
        return numbers.pop() if len(numbers) == 1 else None
    symbols = {dim for dim in column if dim != 1}
    if not symbols:
        return 1
    return symbols.pop() if len(symbols) == 1 else None


def merged(dims: Dims | None, other: Dims | None) -> Dims | None:
    """What two sources know about one shape together."""
    if dims is None or other is None or len(dims) != len(other):
        return other if dims is None else dims
    return tuple(b if a is None else a for a, b in zip(dims, other, strict=True))


def product(dims: Dims) -> Dim:
    """The number of elements, None if it is not known."""
    if len(dims) == 1:
        return dims[0]
    return math.prod(d for d in dims if isinstance(d, int)) if all(isinstance(d, int) for d in dims) else None
