"""Shapes as data: the elements of small integer tensors that are computed from shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.constants import shape_part, slice_bounds, slice_index
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _data_shape(shapes: Shapes, node: Node) -> list[Dim] | None:
    dims = shapes.known(node.input(0))
    if dims is None or attributes.unexpected(node, ("start", "end")):
        return None
    return list(dims[shape_part(node)])


def _data_same(shapes: Shapes, node: Node) -> list[Dim] | None:
    return shapes.data(node.input(0))


def _data_concat(shapes: Shapes, node: Node) -> list[Dim] | None:
    parts = [shapes.data(operand) for operand in node.inputs]
    return (
        None if any(part is None for part in parts) else [item for part in parts if part is not None for item in part]
    )


def _data_gather(shapes: Shapes, node: Node) -> list[Dim] | None:
    data, indices = shapes.data(node.input(0)), shapes.constants.ints(node.input(1))
    if data is None or indices is None or any(not -len(data) <= i < len(data) for i in indices):
        return None
    return [data[i] for i in indices]


def _data_slice(shapes: Shapes, node: Node) -> list[Dim] | None:
    data = shapes.data(node.input(0))
    try:
        bounds = slice_bounds(node, [shapes.constants.ints(v) for v in node.inputs[1:]])
    except ValueError:
        return None
    return None if data is None or len(bounds) != 1 else data[slice_index(1, bounds)[0]]


def _data_arithmetic(shapes: Shapes, node: Node) -> list[Dim] | None:
    """Arithmetic on sizes: known numbers are computed; of others only the count is known.

    A quotient is known only if it is exact: what rounds it, and to where, is decided elsewhere in the graph.
    """
    known = [data for operand in node.inputs if (data := shapes.data(operand)) is not None]
    if not known:
        return None
    length = max(len(data) for data in known)
    if len(known) != len(node.inputs) or any(len(data) not in (1, length) for data in known):
        return [None] * length
    columns = zip(*(data * length if len(data) == 1 else data for data in known), strict=True)
    return [_computed(node.op_type, column) for column in columns]


def _computed(op_type: str, numbers: Sequence[Dim]) -> Dim:
    integers = [number for number in numbers if isinstance(number, int)]
    if len(integers) != len(numbers):
        return None
    if len(integers) == 1:
        return integers[0]
    first, second = integers
    if op_type == "Div":
        return first // second if second and first % second == 0 else None
    return {"Mul": first * second, "Add": first + second, "Sub": first - second}[op_type]


DATA_RULES: dict[str, Callable[[Shapes, Node], list[Dim] | None]] = {
    "Shape": _data_shape,
    "Identity": _data_same,
    "Cast": _data_same,
    "Squeeze": _data_same,
    "Unsqueeze": _data_same,
    "Concat": _data_concat,
    "Gather": _data_gather,
    "Slice": _data_slice,
    **dict.fromkeys(("Mul", "Add", "Sub", "Div", "Floor", "Ceil"), _data_arithmetic),
}
