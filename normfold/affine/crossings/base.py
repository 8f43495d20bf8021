"""What a row of the crossing table is, and the checks that rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from normfold.affine.algebra import Affine
from normfold.affine.change import data_only
from normfold.affine.draft import Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model.graph import Node, Use
from normfold.model.shapes import Dims
from normfold.model.tensors import Float64


class Direction(Enum):
    """Backward moves an affine from an operator's output to its inputs, forward the other way."""

    BACKWARD = "backward"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to move an affine backward past a node: affines for data inputs, and constants that absorb."""

    onward: tuple[tuple[Use, Affine], ...]
    absorbed: tuple[Absorption, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What moves forward past a node: affines by output number, and constants that absorb."""

    outputs: Mapping[int, Affine]
    absorbed: tuple[Absorption, ...] = ()


# The affines that reach a node from in front, by input slot: `input = affine(new input)`.
Carried = Mapping[int, Affine]
Backward = Callable[[Draft, Node, int, Affine], Iterator[Way]]
Forward = Callable[[Draft, Node, Carried], Passed]
Map = Callable[[Draft, Node, Affine, Direction], Affine]


@dataclass(frozen=True, slots=True)
class Crossing:
    """One row of the table; a direction that is None stops the search.

    Args:
        backward: yields the ways from an output (its number is given) to the inputs, best first.
        forward: the affines on the outputs, for those that reach the inputs together.
    """

    backward: Backward | None
    forward: Forward | None


def one_to_one(move: Map) -> Crossing:
    """A row for an operator with one data input and one data output, where one function knows both directions."""

    def backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
        yield to_input(node, move(draft, node, affine, Direction.BACKWARD))

    def forward(draft: Draft, node: Node, carried: Carried) -> Passed:
        return Passed({0: move(draft, node, data_only(node, carried), Direction.FORWARD)})

    return Crossing(backward, forward)


def to_input(node: Node, affine: Affine, slot: int = 0) -> Way:
    """The whole affine goes on to one input."""
    return Way(((Use(node, slot), affine),))


def dims_before(draft: Draft, node: Node, slot: int = 0) -> Dims:
    """The shape of an input.

    Raises:
        Refused: `shape-unknown`.
    """
    value = node.input(slot)
    dims = None if value is None else draft.shapes.dims(value)
    if dims is None:
        raise Refused("shape-unknown", f"the shape in front of {node.label!r} is not known", node.label)
    return dims


def dims_behind(draft: Draft, node: Node) -> Dims:
    """The shape of the first output.

    Raises:
        Refused: `shape-unknown`.
    """
    dims = draft.shapes.dims(draft.made(node))
    if dims is None:
        raise Refused("shape-unknown", f"the shape behind {node.label!r} is not known", node.label)
    return dims


def known_size(size: int | str | None, node: Node) -> int:
    """A size that must be a number.

    Raises:
        Refused: `shape-unknown`.
    """
    if not isinstance(size, int):
        raise Refused("shape-unknown", f"a size in front of {node.label!r} is not known", node.label)
    return size


def no_shift(node: Node, affine: Affine) -> None:
    """The operator moves scales only.

    Raises:
        Refused: `shift-blocked`.
    """
    if affine.shifts:
        raise Refused(
            "shift-blocked", f"{node.op_type} {node.label!r} lets a scale through, but not a shift", node.label
        )


def no_negative(node: Node, affine: Affine, *, allow_zero: bool) -> None:
    """The operator moves non-negative (or only positive) scales.

    Raises:
        Refused: `negative-scale`.
    """
    low = affine.scale.min(initial=1.0)
    if low < 0 or (low == 0 and not allow_zero):
        raise Refused(
            "negative-scale",
            f"{node.op_type} {node.label!r} lets only positive scales through, found {low:.4g}",
            node.label,
        )


def constant_over_space(node: Node, affine: Affine) -> None:
    """It varies along batch and channels at most.

    Raises:
        Refused: `not-per-channel`.
    """
    if any(axis > 1 for axis in affine.varying):
        raise Refused("not-per-channel", f"it varies over space at {node.label!r}", node.label)


def inverse(affine: Affine, node: Node) -> Affine:
    """`x = (y - shift) / scale`: what a constant on the other side of an affine becomes.

    Raises:
        Refused: `negative-scale` for a scale of 0, which has no inverse.
    """
    if (affine.scale == 0).any():
        raise Refused("negative-scale", f"a scale of 0 cannot be undone at {node.label!r}", node.label)
    return Affine(1.0 / affine.scale, -affine.shift / affine.scale)


def lifted(affine: Affine, rank: int) -> Affine:
    """The same affine on a tensor that broadcasting gave more leading dimensions."""
    return Affine(_lifted(affine.scale, rank), _lifted(affine.shift, rank))


def _lifted(values: Float64, rank: int) -> Float64:
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def same(a: Float64, b: Float64) -> bool:
    """Whether two arrays in broadcast form are equal."""
    return bool(np.equal(a, b).all())
