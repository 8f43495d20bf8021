"""Constants that the model computes: what is small is computed at once, what is large when it is read.

A large one holds no values. It is read in blocks, so that `g * v / ||v||` of a weight of any size costs a few blocks of
memory; only what moves data (Reshape, Transpose, Concat) needs the whole of its operands while it is read. Arithmetic is
carried in float64 and not rounded to the element type, except by a Cast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from normfold.model import dtypes
from normfold.model.tensors import (
    Array,
    FileTensor,
    Float64,
    Index,
    Reader,
    TensorSource,
    Unreadable,
    Values,
    block_indices,
    reader,
)

FLOAT64 = np.dtype(np.float64)

# Moving data holds a whole copy of it while it is read; arithmetic holds blocks. A hostile shape is no constant.
MOVE_LIMIT = 1 << 26
STREAM_LIMIT = 1 << 28
# What one constant may cost, in elements read or made, repetitions counted: an expression is a tree here, not a graph.
_WORK_LIMIT = 1 << 31
_AT_ONCE = 1 << 16
_RELEASE_AFTER = 128  # blocks, as in `tensors`

Open = Callable[[], Reader]


class Computed:
    """A constant that is computed when somebody reads it; a small one remembers its values.

    Args:
        dims: shape.
        dtype: of the values that come out; float64 unless they have been rounded to the element type.
        operands: what it is computed from.
        open_: starts a walk over the values.
        in_blocks: whether a reader makes only what it is asked for.
    """

    __slots__ = ("_cache", "_in_blocks", "_open", "data_type", "dims", "dtype", "operands", "work")

    def __init__(
        self,
        dims: tuple[int, ...],
        data_type: int,
        dtype: np.dtype[Any],
        operands: Sequence[TensorSource],
        open_: Open,
        *,
        in_blocks: bool,
    ) -> None:
        self.dims = dims
        self.data_type = data_type
        self.dtype = dtype
        self.operands = tuple(operands)
        self.work = math.prod(dims) + sum(work(operand) for operand in operands)
        self._open = open_
        self._in_blocks = in_blocks
        self._cache: Array | None = None

    def reader(self) -> Reader:
        """Computes the part that an index names."""
        return self._open() if self._cache is None else self._cache.__getitem__

    def array(self) -> Array:
        """All values at once."""
        if self._cache is not None:
            return self._cache
        values = self._whole()
        if values.size <= _AT_ONCE:
            self._cache = values
        return values

    def release(self) -> None:
        """Let the system take back the memory of mapped payloads that were read on the way."""
        for leaf in leaves(self):
            leaf.release()

    def _whole(self) -> Array:
        read = self._open()
        if not self._in_blocks:
            return np.asarray(read(()))
        values = np.empty(self.dims, self.dtype)
        for index in block_indices(self.dims):
            values[index] = read(index)
        return values


def leaves(source: TensorSource) -> list[FileTensor]:
    """The tensors of the file that a constant is computed from, each once."""
    found: dict[int, FileTensor] = {}
    pending, seen = [source], set()
    while pending:
        current = pending.pop()
        if isinstance(current, FileTensor):
            found[id(current)] = current
        elif isinstance(current, Computed) and id(current) not in seen:
            seen.add(id(current))
            pending.extend(current.operands)
    return list(found.values())


def stored_bytes(source: TensorSource) -> int:
    """How much of the file goes if nobody reads the constant any more, at most."""
    return sum(leaf.nbytes for leaf in leaves(source))


def work(source: TensorSource) -> int:
    """How many elements have to be read or made for the values of a constant."""
    return source.work if isinstance(source, Computed) else math.prod(source.dims)


def require_values(source: TensorSource) -> TensorSource:
    """The source, if it holds numbers.

    Raises:
        Unreadable: it has an element type without arithmetic, or segmented data.
    """
    if dtypes.numpy_dtype(source.data_type) is None or (isinstance(source, FileTensor) and source.is_segmented):
        raise Unreadable(f"element type {dtypes.type_name(source.data_type)}")
    return source


def dtype_of(source: TensorSource) -> np.dtype[Any]:
    """What the values of a source come as: its storage type, or float64 where they were computed."""
    if isinstance(source, Computed):
        return source.dtype
    if isinstance(source, Values):
        return source.values.dtype
    found = dtypes.numpy_dtype(source.data_type)
    if found is None:
        raise Unreadable(f"element type {dtypes.type_name(source.data_type)}")
    return found


def is_exact(source: TensorSource) -> bool:
    """Whether no arithmetic is behind the values, so that a comparison of them comes out as it does in the runtime."""
    return dtype_of(source) == dtypes.numpy_dtype(source.data_type)


def settled(source: Computed) -> TensorSource | None:
    """The values where they are cheap, the source itself where they are not, None where they cost too much."""
    if source.work <= _AT_ONCE:
        return Values(source.array(), source.data_type)
    return source if source.work <= _WORK_LIMIT else None


def elementwise(
    function: Callable[..., Any],
    operands: Sequence[TensorSource],
    data_type: int,
    dtype: np.dtype[Any] = FLOAT64,
) -> Computed:
    """`function` of operands that broadcast; it gets them block by block, in the type that they are kept in.

    Raises:
        Unreadable: too large.
        ValueError: the shapes do not fit.
    """
    dims = np.broadcast_shapes(*(operand.dims for operand in operands))
    if math.prod(dims) > STREAM_LIMIT:
        raise Unreadable("too large")

    def open_() -> Reader:
        parts = [(reader(operand), operand.dims) for operand in operands]

        def read(index: Index) -> Array:
            with np.errstate(all="ignore"):
                return np.asarray(function(*(part(_within(own, index, len(dims))) for part, own in parts)), dtype)

        return read

    return Computed(dims, data_type, dtype, operands, open_, in_blocks=True)


def arithmetic(function: Callable[..., Any], operands: Sequence[TensorSource], data_type: int) -> Computed:
    """As `elementwise`, with every operand widened to float64."""
    return elementwise(lambda *parts: function(*(np.asarray(p, np.float64) for p in parts)), operands, data_type)


def _within(dims: tuple[int, ...], index: Index, rank: int) -> Index:
    """The part of an operand that belongs to a block of the result."""
    full = (*index, *([slice(None)] * (rank - len(index))))
    own = full[rank - len(dims) :]
    return tuple(slice(None) if size == 1 else part for part, size in zip(own, dims, strict=True))


def moved(function: Callable[..., Array], sources: Sequence[TensorSource], data_type: int) -> TensorSource | None:
    """`function` of whole arrays, which only moves elements.

    Raises:
        Unreadable: too large, or no numbers.
    """
    kinds = {dtype_of(source) for source in sources}
    dtype = kinds.pop() if len(kinds) == 1 else FLOAT64
    if sum(math.prod(source.dims) for source in sources) > MOVE_LIMIT:
        raise Unreadable("too large")
    # The shape of the result, from arrays of the right shapes that hold nothing.
    dims = function(*(np.broadcast_to(np.False_, source.dims) for source in sources)).shape
    if math.prod(dims) > MOVE_LIMIT:
        raise Unreadable("too large")

    def open_() -> Reader:
        return np.asarray(function(*(np.asarray(source.array(), dtype) for source in sources))).__getitem__

    return settled(Computed(dims, data_type, dtype, sources, open_, in_blocks=False))


def reduced(
    source: TensorSource,
    axes: Sequence[int],
    *,
    before: Callable[[Float64], Any] | None = None,
    combine: np.ufunc = np.add,
    after: Callable[[Float64], Any] | None = None,
) -> Computed:
    """`after(combine(before(x)))` over the axes, which are kept with size 1; in float64.

    Raises:
        Unreadable: too large, or there is nothing to combine.
    """
    size = math.prod(source.dims)
    if size == 0 or size > STREAM_LIMIT:
        raise Unreadable("empty or too large")
    gone = tuple(sorted(axis % len(source.dims) for axis in axes))
    dims = tuple(1 if axis in gone else d for axis, d in enumerate(source.dims))

    def open_() -> Reader:
        with np.errstate(all="ignore"):
            total = _total(source, gone, dims, before, combine)
            return np.asarray(total if after is None else after(total)).__getitem__

    return Computed(dims, source.data_type, FLOAT64, (source,), open_, in_blocks=False)


def _total(
    source: TensorSource,
    axes: tuple[int, ...],
    dims: tuple[int, ...],
    before: Callable[[Float64], Any] | None,
    combine: np.ufunc,
) -> Float64:
    read = reader(source)
    start = -np.inf if combine is np.maximum else np.inf if combine is np.minimum else combine.identity
    total = np.full(dims, start, np.float64)
    for count, index in enumerate(block_indices(source.dims), start=1):
        part = np.asarray(read(index), np.float64)
        target = _within(dims, index, len(dims))
        part = combine.reduce(part if before is None else before(part), axis=axes, keepdims=True)
        total[target] = combine(total[target], part)
        if count % _RELEASE_AFTER == 0:
            for leaf in leaves(source):
                leaf.release()
    return total
