"""What becomes of a node whose slot took an affine: pure data, carried out by `surgery.apply`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.affine.algebra import Affine
from normfold.affine.draft import INPUT, OUTPUT, Absorption, Draft, Merge, Slot
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.computed import stored_bytes
from normfold.model.constants import Dequantised
from normfold.model.graph import Node
from normfold.model.tensors import Float64, Formula, TensorSource, Values

# Copying a weight that others read as well makes the file grow; above this many bytes it is not done.
LARGEST_COPY = 64 << 20
# A float16 scale above this comes from a dead channel with a tiny variance: products of it leave the range.
LARGEST_FLOAT16_SCALE = 1e3


@dataclass(frozen=True, slots=True, eq=False)
class NewParameter:
    """`base * factor + offset`, rounded once to `data_type`: the new tensor of an input slot.

    Args:
        base: the old values, or zeros.
        data_type: ONNX element type of the result.
        dims: shape of the result.
        hint: what to name it after.
        negligible: see `negligible`.
    """

    base: TensorSource
    data_type: int
    dims: tuple[int, ...]
    hint: str
    factor: Float64 | None = None
    offset: Float64 | None = None
    negligible: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NewNode:
    """A node to insert in front of another: it reads what that one read in slot 0, and that one reads its output.

    Args:
        op_type: a standard operator.
        role: what to name it after, beside the node that it is for.
        inputs: its constants, by input slot from 1 on.
        attributes: plain values.
    """

    op_type: str
    role: str
    inputs: dict[int, NewParameter] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """New parameters by input slot, new attributes (None removes one), a new operator, an Add behind, a node in front.

    `owner` is the node whose slots it carries out, where that is another one.
    """

    node: Node
    inputs: dict[int, NewParameter] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    op_type: str | None = None
    add: NewParameter | None = None
    before: NewNode | None = None
    owner: Node | None = None


@dataclass(frozen=True, slots=True)
class Absorber:
    """One row of the table.

    Args:
        accept: proves that an affine behind the operator fits its own parameters, or raises `Refused`; None if none does.
        build: the change for everything that its slots collected, `OUTPUT` given, `INPUT` in the draft.
        accept_forward: the same as `accept` for affines in front, by input slot; None if none is taken. Where it takes
            something into `INPUT`, it takes something into `OUTPUT` as well (at least the identity).
    """

    accept: Callable[[Draft, Node, Affine], Absorption] | None
    build: Callable[[Draft, Node, Affine], Change]
    accept_forward: Callable[[Draft, Node, Mapping[int, Affine]], tuple[Absorption, ...]] | None = None


def into_weights(node: Node, affine: Affine, *, adds_node: bool = False) -> Absorption:
    """The affine goes into the operator's own parameters."""
    return Absorption(Slot(node, OUTPUT), affine, adds_node)


def closed(node: Node, known: tuple[str, ...] = ()) -> None:
    """The node has no attribute beyond the known ones, or only with the schema's default.

    Raises:
        Refused: `unknown-attribute`.
    """
    strange = attributes.unexpected(node, known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r} of {node.label!r}", node.label)


def data_only(node: Node, arriving: Mapping[int, Affine]) -> Affine:
    """The affine on the first input, where no other input carries one.

    Raises:
        Refused: `no-absorber`, it reaches an input that is not data.
    """
    if set(arriving) != {0}:
        raise Refused("no-absorber", f"{node.op_type} {node.label!r} reads it as a parameter", node.label)
    return arriving[0]


def in_front(node: Node, affine: Affine, behind: Absorption) -> tuple[Absorption, ...]:
    """An affine in front of the operator, and what follows from it behind."""
    return (Absorption(Slot(node, INPUT), affine), behind)


def require_range(affine: Affine, data_type: int, node: Node) -> None:
    """Scale and shift must be usable in the storage type.

    Raises:
        Refused: `non-finite`, `dtype-range`, `ill-formed` for a type without affine arithmetic.
    """
    if not dtypes.is_float(data_type):
        raise Refused("ill-formed", f"the weights have type {dtypes.type_name(data_type)}", node.label)
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        raise Refused("non-finite", "scale or shift is not finite", node.label)
    largest = max(float(np.abs(affine.scale).max(initial=0)), float(np.abs(affine.shift).max(initial=0)))
    if largest > dtypes.largest(data_type):
        raise Refused(
            "dtype-range", f"scale or shift reach {largest:.3g}, too much for {dtypes.type_name(data_type)}", node.label
        )
    if data_type == dtypes.FLOAT16 and float(np.abs(affine.scale).max(initial=0)) > LARGEST_FLOAT16_SCALE:
        raise Refused("dtype-range", "a scale above 1000 in float16: a channel with almost no variance", node.label)


def require_normal_factors(factors: Iterable[Float64], data_type: int) -> None:
    """Merging serial factors is safe only if none of them, and no product of them, is near the ends of the range.

    `x·1e30·1e-30` in float32 may overflow in the middle; one composed factor of 1 would not.

    Raises:
        Refused: `dtype-range`.
    """
    largest, smallest = dtypes.largest(data_type) ** 0.5, dtypes.smallest_normal(data_type) ** 0.5
    for values in factors:
        sizes = np.abs(values[values != 0])
        if sizes.size and (sizes.max() > largest or sizes.min() < smallest):
            raise Refused(
                "dtype-range", f"a factor of {sizes.max():.3g} or {sizes.min():.3g} is near the end of the range"
            )


def require_affordable(draft: Draft, node: Node, slot: int, source: TensorSource) -> None:
    """A large weight that others read as well is not copied, and one that is stored small is not written large.

    Raises:
        Refused: `cost`.
    """
    if isinstance(source, Dequantised):
        return  # nothing is written but scales
    value, size = node.input(slot), dtypes.byte_size(source.data_type, math.prod(source.dims)) or 0
    if value is None or size <= LARGEST_COPY:
        return
    others = [use for use in value.uses if use.node is not node and not draft.is_gone(use.node)]
    if others:
        raise Refused("cost", f"{value.name!r} ({size >> 20} MiB) is shared with {others[0].node.label!r}", node.label)
    growth = size - stored_bytes(source)
    if growth > LARGEST_COPY and not isinstance(source, Formula):  # a merge has seen to it that nothing grows
        raise Refused(
            "cost", f"{value.name!r} is computed; writing it would add {growth >> 20} MiB to the file", node.label
        )


def zeros(dims: tuple[int, ...], data_type: int) -> Values:
    """A parameter that the node does not have yet."""
    return Values(np.zeros(dims), data_type)


def scaled(source: TensorSource, factor: Float64, hint: str, hidden: NDArray[np.bool_] | None = None) -> NewParameter:
    """`source * factor`; `hidden` as in `NewParameter.negligible`."""
    return NewParameter(source, source.data_type, source.dims, hint, factor, negligible=hidden)


def biased(
    draft: Draft, node: Node, slot: int, scale: Float64, shift: Float64, weight: TensorSource
) -> NewParameter | None:
    """`s·b + t` of shape `[C]`; None where there is neither a bias nor a shift."""
    name = parameter_name(node, slot, "bias")
    if node.input(slot) is None:
        if not shift.any():
            return None
        kind = weight.data_type
        return NewParameter(zeros(shift.shape, kind), kind, shift.shape, name, offset=shift)
    if not shift.any() and not (scale != 1).any():
        return None
    source = draft.parameter(node, slot)
    return NewParameter(source, source.data_type, source.dims, name, scale, shift)


def hidden_channels(bias: NewParameter | None, weight: TensorSource, channels: int) -> NDArray[np.bool_]:
    """Which channels' weights the new bias hides if they underflow, shape `[C]`."""
    if bias is None:
        return np.zeros(channels, bool)
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = bias.base.array().astype(np.float64) * (1.0 if bias.factor is None else bias.factor)
    values = values if bias.offset is None else values + bias.offset
    lowest = np.abs(np.atleast_2d(values)).min(axis=0)
    terms = math.prod(weight.dims) // max(channels, 1)
    return negligible(np.broadcast_to(lowest, (channels,)), weight.data_type, terms)


def negligible(bias: Float64, data_type: int, terms: int) -> NDArray[np.bool_]:
    """Channels whose weights may underflow unseen, because the bias hides them.

    A weight that is flushed changes the output by at most `tiny·|x|`, so `terms` of them stay below half a unit in the
    last place of the bias if `|b'|·u ≥ terms·tiny·|x|`. Activations are granted `|x| ≤ 1/u`. In float16 hardly any bias
    is large enough, in float32 every bias above about 1e-20 is.
    """
    unit = dtypes.unit_roundoff(data_type)
    return np.asarray(np.abs(bias) * unit**2 >= terms * dtypes.smallest_normal(data_type))


def with_merge(change: Change, merge: Merge) -> Change:
    """The change of an operator that stands for several: what its slot did not touch is new all the same."""
    inputs = {
        slot: NewParameter(source, source.data_type, source.dims, parameter_name(merge.kept, slot, "weight"))
        for slot, source in merge.parameters.items()
    }
    attributes = {**merge.attributes, **change.attributes}
    return replace(change, inputs={**inputs, **change.inputs}, attributes=attributes)


def parameter_name(node: Node, slot: int, role: str) -> str:
    """The name of the parameter that is replaced, or one made of the node's."""
    value = node.input(slot)
    return value.name if value is not None else f"{node.label}.{role}"
