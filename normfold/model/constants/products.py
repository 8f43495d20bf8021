"""Matrix products of constants: spectral normalisation, weights in two factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from normfold.model.computed import FLOAT64, Computed, arithmetic, moved, settled
from normfold.model.constants.call import Call, Operator, is_float
from normfold.model.tensors import Reader, TensorSource, Unreadable, reader

# Multiplications of one product, and elements that are held while it is made.
_WORK_LIMIT = 1 << 30
_HELD_LIMIT = 1 << 24
_ROWS_AT_ONCE = 1 << 20


def _matmul(call: Call) -> TensorSource | None:
    return settled(product(call.source(0), call.source(1)))


def product(a: TensorSource, b: TensorSource) -> Computed:
    """`a @ b` in float64.

    Raises:
        Unreadable: no floats, or too large.
        ValueError: the shapes do not fit.
    """
    dims = _result_dims(a.dims, b.dims)
    if not (is_float(a) and is_float(b)):
        raise Unreadable("no floats")
    rows = len(a.dims) == 2 and len(b.dims) <= 2
    held = math.prod(dims) + math.prod(b.dims) + (0 if rows else math.prod(a.dims))
    if math.prod(dims) * a.dims[-1] > _WORK_LIMIT or held > _HELD_LIMIT:
        raise Unreadable("too large")

    def open_() -> Reader:
        right = np.asarray(b.array(), np.float64)
        with np.errstate(all="ignore"):
            if not rows:
                return np.asarray(np.matmul(np.asarray(a.array(), np.float64), right)).__getitem__
            return _by_rows(a, right, dims).__getitem__

    return Computed(dims, a.data_type, FLOAT64, (a, b), open_, in_blocks=False)


def _by_rows(a: TensorSource, right: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """A large matrix on the left is widened a few rows at a time."""
    read, result = reader(a), np.empty(dims)
    step = max(1, _ROWS_AT_ONCE // max(a.dims[1], 1))
    for start in range(0, a.dims[0], step):
        rows = slice(start, start + step)
        result[rows] = np.matmul(np.asarray(read((rows,)), np.float64), right)
    return result


def _result_dims(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    if not a or not b or a[-1] != b[max(len(b) - 2, 0)]:
        raise ValueError("the inner dimensions differ")
    batch = np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2]))
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _gemm(call: Call) -> TensorSource | None:
    a, b = (_maybe_transposed(call, slot, name) for slot, name in enumerate(("transA", "transB")))
    alpha, beta = (call.float_attribute(name, 1.0) for name in ("alpha", "beta"))
    if len(a.dims) != 2 or len(b.dims) != 2:
        return None
    found = product(a, b)
    if call.optional(2) is None:
        return settled(arithmetic(lambda x: alpha * x, (found,), a.data_type))
    bias = call.source(2)
    if np.broadcast_shapes(found.dims, bias.dims) != found.dims:
        return None
    return settled(arithmetic(lambda x, c: alpha * x + beta * c, (found, bias), a.data_type))


def _maybe_transposed(call: Call, slot: int, name: str) -> TensorSource:
    source = call.source(slot)
    if not call.int_attribute(name, 0):
        return source
    found = moved(np.transpose, (source,), source.data_type)
    if found is None:
        raise Unreadable("too large")
    return found


OPERATORS: dict[str, Operator] = {
    "MatMul": Operator(_matmul),
    "Gemm": Operator(_gemm, ("alpha", "beta", "transA", "transB")),
}
