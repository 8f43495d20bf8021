"""ONNX tensor element types as numpy dtypes (ml_dtypes where numpy has none)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

FLOAT, FLOAT16, DOUBLE, BFLOAT16 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
)

# Numpy broadcasts no more in every version, and no operator has a kernel for more.
MOST_AXES = 32

_NUMPY: dict[int, np.dtype] = {
    FLOAT: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    DOUBLE: np.dtype("<f8"),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.INT16: np.dtype("<i2"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.UINT32: np.dtype("<u4"),
    TensorProto.UINT64: np.dtype("<u8"),
    TensorProto.BOOL: np.dtype("?"),
}
# Everything else. Elements of less than a byte are packed without gaps; the numbers are those of types that the oldest
# onnx that normfold runs with has no names for: FLOAT8E8M0, UINT2, INT2, FLOAT6E2M3, FLOAT6E3M2.
_OTHER_BITS: dict[int, int] = {
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    24: 8,
    25: 2,
    26: 2,
    27: 6,
    28: 6,
}
# Where the values of a type stand that are not in raw_data, and all others in int32_data.
_TYPED_FIELDS: dict[int, str] = {
    FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
_TWO_ENTRIES = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_LIMITS: dict[int, tuple[float, float]] = {
    FLOAT: (float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)),
    FLOAT16: (65504.0, 2.0**-14),
    DOUBLE: (float(np.finfo(np.float64).max), float(np.finfo(np.float64).tiny)),
    BFLOAT16: ((2.0 - 2.0**-7) * 2.0**127, 2.0**-126),
}

_ROUNDOFF: dict[int, float] = {FLOAT: 2.0**-24, FLOAT16: 2.0**-11, DOUBLE: 2.0**-53, BFLOAT16: 2.0**-8}


def numpy_dtype(data_type: int) -> np.dtype | None:
    """The little-endian numpy dtype of an ONNX element type; None where normfold does no arithmetic on it."""
    return _NUMPY.get(data_type)


def onnx_dtype(dtype: np.dtype) -> int:
    """The ONNX element type of a numpy dtype.

    Raises:
        KeyError: the dtype is none that `numpy_dtype` returns.
    """
    return {known.newbyteorder("="): number for number, known in _NUMPY.items()}[dtype.newbyteorder("=")]


def is_float(data_type: int) -> bool:
    """Whether affine arithmetic is defined on this element type."""
    return data_type in _LIMITS


def integer_limits(data_type: int) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    limits = np.iinfo(_NUMPY[data_type])
    return int(limits.min), int(limits.max)


def largest(data_type: int) -> float:
    """The largest finite value of a float type."""
    return _LIMITS[data_type][0]


def smallest_normal(data_type: int) -> float:
    """The smallest positive normal value of a float type."""
    return _LIMITS[data_type][1]


def byte_size(data_type: int, count: int) -> int | None:
    """Bytes of `count` packed elements in raw_data or external data; None for strings and unknown types."""
    dtype = _NUMPY.get(data_type)
    if dtype is not None:
        return int(dtype.itemsize) * count
    bits = _OTHER_BITS.get(data_type)
    return None if bits is None else (bits * count + 7) // 8


def typed_storage(data_type: int, count: int) -> tuple[str, int]:
    """The field of a TensorProto that holds values of a known type one by one, and how many entries `count` of them take."""
    field = _TYPED_FIELDS.get(data_type, "int32_data")
    if data_type in _TWO_ENTRIES:
        return field, 2 * count
    bits = _OTHER_BITS.get(data_type, 8)
    in_an_entry = 8 // bits if bits in (2, 4) else 1
    return field, -(-count // in_an_entry)


def unit_roundoff(data_type: int) -> float:
    """Half the distance from 1 to the next number."""
    return _ROUNDOFF[data_type]


def rounded(values: NDArray[np.float64], data_type: int) -> NDArray[np.generic]:
    """The values in a float type, rounded once, to nearest even."""
    storage = _NUMPY[data_type]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if data_type != BFLOAT16:
            return values.astype(storage)
        # ml_dtypes goes through float32, which would round twice. Rounding to odd there keeps the second one exact: cut
        # towards zero, and remember in the last bit that something was cut off.
        single = values.astype(np.float32, order="C")
        bits = single.view(np.uint32)
        inexact = single != values
        bits -= np.abs(single) > np.abs(values)
        bits |= inexact
        return single.astype(storage)


def stored(values: NDArray[np.float64], data_type: int) -> NDArray[np.float64]:
    """The values as they are read again once they were written in a float type."""
    return rounded(values, data_type).astype(np.float64)


def type_name(data_type: int) -> str:
    """`FLOAT16` and so on; the number where onnx does not know it."""
    try:
        return str(TensorProto.DataType.Name(data_type))
    except ValueError:
        return str(data_type)
