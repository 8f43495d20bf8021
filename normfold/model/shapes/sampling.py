"""Operators that read an image at given places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _grid_sample(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, grid = shapes.known(node.input(0)), shapes.known(node.input(1))
    if data is not None and grid is not None:
        return (*data[:2], *grid[1:-1])
    return (*data[:2], *([None] * (len(data) - 2))) if data is not None else grid and (None,) * len(grid)


def _roi_align(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, boxes = shapes.known(node.input(0)), shapes.known(node.input(1))
    size = tuple(int(attributes.get(node, name, 1)) for name in ("output_height", "output_width"))
    return (boxes[0] if boxes else None, data[1] if data else None, *size)


def _deform_conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """The offsets have the spatial sizes of the result."""
    data, weight, offset = (shapes.known(node.input(i)) for i in range(3))
    if weight is None:
        return None
    spatial = offset[2:] if offset is not None else (None,) * (len(weight) - 2)
    return (data[0] if data is not None else None, weight[0], *spatial)


def _unpool(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    return None if data is None else (*data[:2], *([None] * (len(data) - 2)))


RULES: dict[str, Rule] = {
    "GridSample": Rule(_grid_sample, 2),
    "RoiAlign": Rule(_roi_align, 2),
    "DeformConv": Rule(_deform_conv, 3),
    "MaxUnpool": Rule(_unpool),
    "Crop": Rule(_unpool),
}
