"""Operators that pick, scatter or repeat elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import EVERY_INPUT, Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _top_k(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axis = int(attributes.get(node, "axis", -1)) % len(data)
    count: Dim = attributes.get(node, "k", None)
    listed = shapes.data(node.input(1))
    if listed:
        count = listed[0]
    return (*data[:axis], count, *data[axis + 1 :])


def _arg(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axis = int(attributes.get(node, "axis", 0)) % len(data)
    kept = (1,) if attributes.get(node, "keepdims", 1) else ()
    return (*data[:axis], *kept, *data[axis + 1 :])


def _tile(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, repeats = shapes.known(node.input(0)), shapes.data(node.input(1))
    if data is None or len(node.inputs) != 2:
        return data and (None,) * len(data)
    counts = repeats if repeats is not None and len(repeats) == len(data) else [None] * len(data)
    return tuple(_times(size, count) for size, count in zip(data, counts, strict=True))


def _times(size: Dim, count: Dim) -> Dim:
    if count == 1:
        return size
    return size * count if isinstance(size, int) and isinstance(count, int) else None


def _non_zero(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    return (None, None) if data is None else (len(data), None)


def _one_hot(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    indices, depth = shapes.known(node.input(0)), shapes.constants.ints(node.input(1))
    if indices is None:
        return None
    axis = int(attributes.get(node, "axis", -1)) % (len(indices) + 1)
    return (*indices[:axis], depth[0] if depth else None, *indices[axis:])


def _gather_elements(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return shapes.known(node.input(1))


def _gather_nd(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, indices = shapes.known(node.input(0)), shapes.known(node.input(1))
    if data is None or not indices or not isinstance(indices[-1], int):
        return None
    return (*indices[:-1], *data[int(attributes.get(node, "batch_dims", 0)) + indices[-1] :])


def _compress(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, axis = shapes.known(node.input(0)), attributes.get(node, "axis", None)
    if axis is None:
        return (None,)
    return None if data is None else tuple(None if i == int(axis) % len(data) else d for i, d in enumerate(data))


def _boxes(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return (None, 3)


def _vector(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return (None,)


def _scalar(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return ()


def _filled(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    wanted = shapes.data(node.input(0))
    if wanted is not None:
        return tuple(wanted)
    count = shapes.known(node.input(0))
    return (None,) * count[0] if count and isinstance(count[0], int) else None


def _einsum(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """Letters are dimensions; an equation with `...` or without `->` is not read."""
    terms, arrow, result = str(attributes.get(node, "equation", "")).replace(" ", "").partition("->")
    if not arrow or "." in terms + result:
        return None
    sizes: dict[str, Dim] = {}
    for term, operand in zip(terms.split(","), node.inputs, strict=True):
        dims = shapes.known(operand)
        for letter, size in zip(term, dims or [None] * len(term), strict=True):
            if sizes.get(letter) in (None, 1):
                sizes[letter] = size
    return tuple(sizes[letter] for letter in result)


RULES: dict[str, Rule] = {
    "TopK": Rule(_top_k),
    "ArgMax": Rule(_arg),
    "ArgMin": Rule(_arg),
    "Tile": Rule(_tile, shape_input=1),
    "NonZero": Rule(_non_zero),
    "OneHot": Rule(_one_hot),
    "GatherElements": Rule(_gather_elements, 2),
    "GatherND": Rule(_gather_nd, 2),
    "Compress": Rule(_compress),
    "NonMaxSuppression": Rule(_boxes),
    "Range": Rule(_vector),
    "Size": Rule(_scalar),
    "ConstantOfShape": Rule(_filled, shape_input=0),
    "Einsum": Rule(_einsum, EVERY_INPUT),
}
