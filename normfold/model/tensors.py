"""Tensors: those of the file, read only when somebody asks, and the new ones, computed in blocks when they are written.

A file tensor never holds its payload: it knows where it lies (inline bytes, a typed protobuf list, or a range of an
external data file). A new tensor is a formula over another tensor, `base * factor + offset`, evaluated in float64 and
rounded once to the storage type, so that memory is bounded by one block and not by the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.external import DataFiles
from normfold.model.opener import Opened

Array = NDArray[np.generic]
Float64 = NDArray[np.float64]
Index = tuple[slice, ...]
Reader = Callable[[Index], Array]

A = TypeVar("A", bound=np.generic)

_BLOCK_ELEMENTS = 1 << 17  # half a MiB of float32: stays in the cache
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_PACKED = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, 25, 26)  # UINT2 and INT2
_RELEASE_AFTER = 128  # blocks: what a mapped weight may occupy while it is read


class Unreadable(Exception):
    """The values cannot be used for arithmetic: strings, 4-bit and 8-bit floats, sparse or segmented data."""


class TensorSource(Protocol):
    """Anything with a shape, an element type and values."""

    @property
    def data_type(self) -> int: ...  # noqa: D102
    @property
    def dims(self) -> tuple[int, ...]: ...  # noqa: D102
    def array(self) -> Array: ...  # noqa: D102


class Streamed(Protocol):
    """A source that is read a block at a time, without ever holding all of it."""

    def reader(self) -> Reader: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


def reader(source: TensorSource) -> Reader:
    """Reads the part of a source that an index names; good for one walk over it."""
    return source.reader() if _is_streamed(source) else source.array().__getitem__


def _is_streamed(source: TensorSource) -> TypeGuard[Streamed]:
    return hasattr(source, "reader")  # asking a Protocol takes ten times as long, and this is asked for every tensor


@dataclass(frozen=True, slots=True)
class External:
    """Where an external tensor lies: file relative to the model, byte offset, byte length (None: from the shape)."""

    location: str
    offset: int
    length: int | None


class FileTensor:
    """A tensor of the file. `dims` and `data_type` are free; `array()` and `raw()` read it."""

    __slots__ = ("_files", "_inline", "_proto", "data_type", "dims", "external", "name", "owner")

    def __init__(
        self,
        proto: TensorProto,
        files: DataFiles,
        *,
        inline: memoryview | None = None,
        external: External | None = None,
    ) -> None:
        self.name = proto.name
        self.owner = proto
        self.data_type = int(proto.data_type)
        self.dims: tuple[int, ...] = tuple(proto.dims)
        self.external = external
        self._files = files
        self._inline = inline
        self._proto = proto

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the payload in packed form; 0 where it has none (strings)."""
        return dtypes.byte_size(self.data_type, self.size) or 0

    @property
    def is_segmented(self) -> bool:
        """Whether the payload is a part of a tensor; nobody writes such files."""
        return bool(self._proto.HasField("segment"))

    def stored_bytes(self) -> int | None:
        """Bytes that the model says are there as one block, without looking for them; None where it says nothing."""
        if self.external is not None:
            return self.external.length
        if self._inline is not None:
            return len(self._inline)
        return len(self._proto.raw_data) if self._proto.HasField("raw_data") else None

    def typed_entries(self) -> dict[str, int]:
        """Number of entries by field, of the fields that hold values one by one."""
        counts = ((listed, len(getattr(self._proto, listed))) for listed in _TYPED)
        return {listed: count for listed, count in counts if count}

    def raw(self) -> memoryview:
        """The packed little-endian payload, not copied where the file stores it that way.

        Raises:
            InputError: the payload has not the size that shape and type demand, or its file is missing.
            Unreadable: the type has no packed form.
        """
        wanted = dtypes.byte_size(self.data_type, self.size)
        if wanted is None:
            raise Unreadable(f"element type {dtypes.type_name(self.data_type)}")
        view = self._stored(wanted)
        if len(view) != wanted:
            raise InputError(
                "tensor.size",
                f"tensor {self.name!r} of shape {list(self.dims)} needs {wanted} bytes but has {len(view)}",
                hint="the file is damaged; export it again",
            )
        return view

    def array(self) -> Array:
        """The values in storage type, shape `dims`, read-only.

        Raises:
            InputError: as `raw`.
            Unreadable: normfold does no arithmetic on this element type.
        """
        dtype = dtypes.numpy_dtype(self.data_type)
        if dtype is None or self.is_segmented:
            raise Unreadable(f"element type {dtypes.type_name(self.data_type)}")
        values = np.frombuffer(self.raw(), dtype).reshape(self.dims)
        values.flags.writeable = False
        return values

    def release(self) -> None:
        """Let the system take back the memory of a mapped payload; it is read again when it is needed again."""
        if self.external is not None:
            self._files.release(self.external.location, self.external.offset, self.nbytes)

    def origin(self) -> tuple[Opened, int] | None:
        """File and byte offset of an external payload that the kernel can copy; None for all others.

        The file has a descriptor for as long as somebody holds it.
        """
        if self.external is None:
            return None
        self.raw()  # checks the range
        opened = self._files.get(self.external.location, self.name)
        return None if opened.descriptor is None else (opened, self.external.offset)

    def _stored(self, wanted: int) -> memoryview:
        if self.external is not None:
            return self._from_data_file(self.external, wanted)
        if self._inline is not None:
            return self._inline
        if self._proto.HasField("raw_data"):
            return memoryview(self._proto.raw_data)
        return memoryview(self._typed().tobytes())

    def _typed(self) -> Array:
        if self.data_type in _PACKED:
            return np.asarray(self._proto.int32_data, np.int64).astype(np.uint8)  # a byte in each
        try:
            values = numpy_helper.to_array(self._proto)
        except (ValueError, TypeError) as error:
            raise InputError("tensor.size", f"tensor {self.name!r} cannot be decoded: {error}") from None
        return np.ascontiguousarray(values)

    def _from_data_file(self, external: External, wanted: int) -> memoryview:
        opened = self._files.get(external.location, self.name)
        length = wanted if external.length is None else external.length
        if external.offset + length > opened.size:
            raise InputError(
                "extdata.truncated",
                f"tensor {self.name!r} lies at bytes {external.offset}..{external.offset + length} "
                f"of a file with {opened.size} bytes",
                where=str(opened.path),
                hint="the data file is truncated or belongs to another model",
            )
        return opened.view[external.offset : external.offset + length]


@dataclass(frozen=True, slots=True)
class Values:
    """Values at hand: the result of evaluating constants."""

    values: Array
    data_type: int

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape."""
        return tuple(self.values.shape)

    def array(self) -> Array:
        """The values."""
        return self.values


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """Values that a formula makes in float64 whenever somebody asks, and that nobody keeps.

    Args:
        formula: makes them, shape `dims`.
        data_type: the storage type of the tensors that they are made of.
        dims: their shape.
        depth: how many formulas stand inside each other.
    """

    formula: Callable[[], Float64]
    data_type: int
    dims: tuple[int, ...]
    depth: int = 1

    def array(self) -> Array:
        """The values, not rounded."""
        with np.errstate(all="ignore"):
            values = self.formula()
        assert values.shape == self.dims
        return values


class RangeRefusal(Exception):
    """A computed tensor leaves the range of its type; `reason` says how, `tensor` which."""

    def __init__(self, reason: str, tensor: NewTensor) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensor = tensor


@dataclass(frozen=True, slots=True, eq=False)
class NewTensor:
    """`base * factor + offset`, in float64, rounded once (to nearest even) to `data_type`.

    Args:
        name: of the initializer.
        base: values that are scaled; shape `base_view` broadcasts against factor and offset.
        data_type: element type of the result.
        factor: float64, broadcasts against the base, or None for 1.
        offset: float64, broadcasts against the base, or None for 0.
        dims: shape of the result; the base may broadcast up to it.
        negligible: broadcasts against the base; True where a value that becomes subnormal or zero cannot be seen,
            because what is added to the product is so much larger.
    """

    name: str
    base: TensorSource
    data_type: int
    dims: tuple[int, ...]
    factor: Float64 | None = None
    offset: Float64 | None = None
    negligible: NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return dtypes.byte_size(self.data_type, math.prod(self.dims)) or 0

    def blocks(self) -> Iterator[Array]:
        """The values in storage type, in memory order, in blocks of about half a MiB.

        Raises:
            RangeRefusal: a value is not finite in the storage type, or more than 0.1 % of the non-zero values
                would become zero or subnormal.
        """
        guard = _RangeGuard(self)
        # A formula has no earlier rounding to blame: whatever is small in it would be lost now.
        known = 0.0 if isinstance(self.base, Formula) else guard.tiny
        whole = self.base.dims == self.dims
        read = reader(self.base) if whole else np.broadcast_to(self.base.array(), self.dims).__getitem__
        for count, index in enumerate(block_indices(self.dims), start=1):
            base = read(index)
            rounded = self._rounded(base, index)
            if guard.has_small(rounded):
                # What was zero or subnormal before is not a loss of this fold.
                lost = (np.abs(base) >= known) & (self._exact(base, index) != 0) & self._visible(index)
                guard.lost += int(np.count_nonzero(lost & (np.abs(rounded) < guard.tiny)))
            yield rounded
            if count % _RELEASE_AFTER == 0:
                _release(self.base)
        _release(self.base)
        guard.finish()

    def array(self) -> Array:
        """All values at once, shape `dims`."""
        flat = np.concatenate(
            [block.reshape(-1) for block in self.blocks()] or [np.empty(0, dtypes.numpy_dtype(self.data_type))]
        )
        return flat.reshape(self.dims)

    def payload(self) -> bytes:
        """All values as packed little-endian bytes."""
        return b"".join(block.tobytes() for block in self.blocks())

    def _visible(self, index: Index) -> NDArray[np.bool_] | bool:
        return True if self.negligible is None else ~_part(self.negligible, index, len(self.dims))

    def _exact(self, base: Array, index: Index) -> Float64:
        values = base.astype(np.float64)
        if self.factor is not None:
            values *= _part(self.factor, index, len(self.dims))
        if self.offset is not None:
            values += _part(self.offset, index, len(self.dims))
        return values

    def _rounded(self, base: Array, index: Index) -> Array:
        """The block in storage type. A product alone is rounded while numpy multiplies: no float64 block is made."""
        storage = dtypes.numpy_dtype(self.data_type)
        assert storage is not None
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.offset is not None or self.factor is None or "V" in (storage.kind, base.dtype.kind):
                return dtypes.rounded(self._exact(base, index), self.data_type)
            result: Array = np.empty(base.shape, storage)
            factor = _part(self.factor, index, len(self.dims))
            return np.multiply(base, factor, out=result, casting="same_kind", dtype=np.float64)


def _release(source: TensorSource) -> None:
    if isinstance(source, FileTensor) or _is_streamed(source):
        source.release()


class _RangeGuard:
    """Watches one tensor while it is rounded to its storage type."""

    def __init__(self, tensor: NewTensor) -> None:
        self.tensor = tensor
        self.tiny = dtypes.smallest_normal(tensor.data_type) if dtypes.is_float(tensor.data_type) else 0.0
        self.count = self.lost = 0

    def has_small(self, rounded: Array) -> bool:
        """Whether the block holds zeros or subnormal numbers; refuses one that is not finite."""
        if not rounded.size or not self.tiny:
            return False  # integers have neither
        self.count += rounded.size
        magnitude = np.abs(rounded)
        with np.errstate(invalid="ignore"):
            largest = magnitude.max()
        if not np.isfinite(largest):
            raise RangeRefusal("a folded weight exceeds the largest finite value of its type", self.tensor)
        return bool(magnitude.min() < self.tiny)

    def finish(self) -> None:
        if self.lost * 1000 > self.count:
            raise RangeRefusal(f"{self.lost} folded weights would become zero or subnormal", self.tensor)


def _part(operand: NDArray[A], index: Index, rank: int) -> NDArray[A]:
    """The slice of a broadcastable operand that belongs to a block."""
    full = operand.reshape((1,) * (rank - operand.ndim) + operand.shape)
    return full[tuple(part if size != 1 else slice(None) for part, size in zip(index, full.shape, strict=False))]


def block_indices(dims: tuple[int, ...]) -> Iterator[Index]:
    """Slices that walk a C-order array in contiguous blocks of at most `_BLOCK_ELEMENTS`, where an axis allows it."""
    total = math.prod(dims)
    if total <= _BLOCK_ELEMENTS:
        if total or not dims:
            yield ()
        return
    axis, inner = 0, total // dims[0]
    while inner > _BLOCK_ELEMENTS and axis + 1 < len(dims):
        axis += 1
        inner //= dims[axis]
    step = max(1, _BLOCK_ELEMENTS // inner)
    for outer in np.ndindex(*dims[:axis]):
        fixed = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, dims[axis], step):
            yield (*fixed, slice(start, start + step))
