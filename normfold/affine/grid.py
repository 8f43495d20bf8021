"""The grid of a quantised tensor under a factor: new scales, and new integers where a sign or a zero demands them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.affine.change import Change, NewParameter, parameter_name
from normfold.affine.reasons import Refused
from normfold.model import dtypes
from normfold.model.constants import FIRST_PER_AXIS, SPAN, Dequantised
from normfold.model.tensors import Float64, TensorSource, Values

_INTEGERS, _SCALE, _ZERO = range(3)  # the inputs of a DequantizeLinear

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Room:
    """What the operator that reads a quantised tensor leaves open.

    Args:
        label: of the operator.
        axis: along which one scale may become several; None for any.
        symmetric: whether zero points that are equal must stay so: integer kernels refuse different ones.
        single: whether there must be one scale.
    """

    label: str
    axis: int | None
    symmetric: bool
    single: bool


def regridded(source: Dequantised, factor: Float64, room: Room) -> Change:
    """The change of a DequantizeLinear whose result is to be multiplied.

    Args:
        source: its result.
        factor: in broadcast form of the integers, of size 1 on every axis along which it does not vary.
        room: of the operator that reads it.

    Raises:
        Refused: `quantised`, there are no scales for such a factor, or the integers cannot be changed; `dtype-range`.
    """
    return _Grid(source, factor, room).change()


class _Grid:
    """A quantised tensor, and one factor for each of the scales that it will have."""

    def __init__(self, source: Dequantised, factor: Float64, room: Room) -> None:
        self.source, self.room = source, room
        self.axis = source.axis  # along which the scales will stand
        self.factors = self._blocks(factor) if source.block else self._line(factor)
        self.zeros = np.broadcast_to(source.zeros(), self.factors.shape)

    def change(self) -> Change:
        """New inputs and attributes."""
        self._require_range()
        flipped = self._complements()
        change = Change(self.source.node)
        self._new_scale(change)
        self._new_zero(change, flipped)
        self._new_integers(change, flipped)
        return change

    # --- which scale takes which factor ---

    def _blocks(self, factor: Float64) -> Float64:
        """Blocks have scales along all axes; along their own the factor must not vary inside of one."""
        source = self.source
        assert source.axis is not None
        picked = factor
        if factor.shape[source.axis] != 1:
            picked = factor.take(np.arange(0, source.dims[source.axis], source.block), source.axis)
            if (source.along(picked, None) != factor).any():
                raise self._refused("its factor differs inside of a block that has one scale")
        return np.array(np.broadcast_to(picked, source.scale.dims))

    def _line(self, factor: Float64) -> Float64:
        source = self.source
        varying = [axis for axis, size in enumerate(factor.shape) if size != 1]
        if not varying:
            return np.full(source.scale.dims, factor.reshape(-1)[0])
        if len(varying) > 1 or source.axis not in (None, *varying):
            where = "one scale" if source.axis is None else f"a scale for each position of axis {source.axis}"
            raise self._refused(f"its factor varies along axes {varying}, and it has {where}")
        if source.axis is None and (self.room.single or self.room.axis not in (None, *varying)):
            raise self._refused(f"it has one scale, and kernels know no scales along axis {varying[0]}")
        if source.node.scope.version < FIRST_PER_AXIS:
            raise self._refused(f"before opset {FIRST_PER_AXIS} it has one scale")
        self.axis = varying[0]
        return factor.reshape(-1)

    # --- new tensors ---

    def _new_scale(self, change: Change) -> None:
        magnitude = np.where(self.factors == 0, 1.0, np.abs(self.factors))
        if (magnitude != 1).any() or self._widens:
            change.inputs[_SCALE] = self._parameter(_SCALE, self.source.scale, magnitude)
        if self._widens:
            change.attributes["axis"] = self.axis

    def _new_zero(self, change: Change, flipped: Flags) -> None:
        zero = self.source.zero
        if zero is None or not (self._widens or flipped.any()):
            return
        self._require_arithmetic(zero)
        ones, highest = np.where(flipped, -1.0, 1.0), _all_bits(zero.data_type)
        change.inputs[_ZERO] = self._parameter(_ZERO, zero, ones, np.where(flipped, highest, 0.0))

    def _new_integers(self, change: Change, flipped: Flags) -> None:
        source = self.source
        integers, value = source.integers, source.node.input(_INTEGERS)
        made = value is not None and value.producer is not None and value.producer.op_type == "QuantizeLinear"
        touched = bool((self.factors <= 0).any())
        if not touched and not made:
            return
        self._require_arithmetic(integers)
        sign = source.along(np.sign(self.factors), self.axis)
        kept = np.where(self.factors == 0, self.zeros, 0.0)
        offset = source.along(np.where(flipped, _all_bits(integers.data_type), kept), self.axis)
        name = parameter_name(source.node, _INTEGERS, "quantised")
        new = NewParameter(integers, integers.data_type, integers.dims, name)
        if touched:
            new = NewParameter(integers, integers.data_type, integers.dims, name, sign, offset)
        change.inputs[_INTEGERS] = new

    def _parameter(self, slot: int, old: TensorSource, factor: Float64, offset: Float64 | None = None) -> NewParameter:
        name = parameter_name(self.source.node, slot, "scale" if slot == _SCALE else "zero")
        base = Values(old.array().reshape(old.dims if not self._widens else ()), old.data_type)
        return NewParameter(base, old.data_type, self.factors.shape, name, factor, offset)

    @property
    def _widens(self) -> bool:
        """Whether one scale becomes several."""
        return self.axis != self.source.axis

    # --- conditions ---

    def _complements(self) -> Flags:
        """Where a sign changes by the complement, because `-q` does not exist or is not what has to be negated.

        A zero point of all ones stands where there was none; runtimes that want symmetric weights would refuse it.
        """
        negative = self.factors < 0
        integers = self.source.integers
        if not negative.any():
            return negative
        self._require_arithmetic(integers)
        lowest = dtypes.integer_limits(integers.data_type)[0]
        flipped = negative & ((self.zeros != 0) | (lowest == 0) | self._holds(lowest))
        if flipped.any() and not self.zeros.any():
            raise self._refused(
                f"it has no zero points, and -({lowest}) cannot be stored" if lowest else "it is unsigned"
            )
        turned = np.where(flipped, _all_bits(integers.data_type) - self.zeros, self.zeros)
        if self.room.symmetric and _differ(turned) and not _differ(self.zeros):
            raise self._refused("its zero points would differ, which integer kernels refuse")
        return np.asarray(flipped)

    def _holds(self, lowest: int) -> Flags:
        """For which scales the lowest integer occurs; for blocks, whether it occurs at all."""
        found = self.source.integers.array() == lowest
        if self.factors.size == 1 or self.source.block:
            return np.full(self.factors.shape, bool(found.any()))
        others = tuple(axis for axis in range(found.ndim) if axis != self.axis)
        return np.asarray(found.any(axis=others))

    def _require_arithmetic(self, source: TensorSource) -> None:
        if dtypes.numpy_dtype(source.data_type) is None:
            raise self._refused(f"{dtypes.type_name(source.data_type)} values would have to change")

    def _require_range(self) -> None:
        """New scales are finite and normal, and so is what they make of the integers."""
        kind = self.source.scale.data_type
        old = np.broadcast_to(self.source.scale.array().astype(np.float64), self.factors.shape)
        new = np.abs(dtypes.stored(old * np.where(self.factors == 0, 1.0, self.factors), kind))
        span = SPAN[self.source.integers.data_type]
        largest = min(dtypes.largest(kind), dtypes.largest(self.source.data_type) / span)
        smallest = max(dtypes.smallest_normal(kind), dtypes.smallest_normal(self.source.data_type))
        bad = ~np.isfinite(new) | ((new > largest) & (new > np.abs(old))) | ((new < smallest) & (new < np.abs(old)))
        if bad.any():
            worst = float(new[bad].reshape(-1)[0])
            message = f"a scale of {self.source.node.label!r} would become {worst:.3g}"
            raise Refused("dtype-range", message, self.source.node.label)

    def _refused(self, why: str) -> Refused:
        node = self.source.node
        return Refused("quantised", f"the weight of {self.room.label!r} comes from {node.label!r}: {why}", node.label)


def _differ(values: Float64) -> bool:
    return bool(values.size and (values != values.flat[0]).any())


def _all_bits(data_type: int) -> float:
    """`q + ~q`: what a number is subtracted from for its complement."""
    low, high = dtypes.integer_limits(data_type)
    return float(low + high)
