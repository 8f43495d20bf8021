"""Pad and Resize: operators that change the spatial sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _pad(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    amounts = pad_amounts(shapes, node, len(data))
    if amounts is None:
        return (None,) * len(data)
    return tuple(
        d + before + after if isinstance(d, int) else (d if before == after == 0 else None)
        for d, (before, after) in zip(data, amounts, strict=True)
    )


def pad_amounts(shapes: Shapes, node: Node, rank: int) -> list[tuple[int, int]] | None:
    """(before, after) of a Pad for every axis of the data; None if unknown."""
    pads = (
        shapes.constants.ints(node.input(1))
        if len(node.inputs) > 1
        else attributes.ints(node, "pads") or attributes.ints(node, "paddings")
    )
    if pads is None:
        return None
    axes = list(range(rank))
    if node.input(3) is not None:
        given = shapes.constants.ints(node.input(3))
        if given is None:
            return None
        axes = [axis % rank for axis in given]
    half = len(axes)
    if len(pads) != 2 * half:
        return None
    result = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis] = (pads[i], pads[i + half])
    return result


def _resize(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    wanted = resize_sizes(shapes, node, data)
    return tuple(wanted) if wanted is not None else (None,) * len(data)


def resize_sizes(shapes: Shapes, node: Node, data: Dims) -> list[Dim] | None:
    """Output dimensions of Resize or Upsample as far as they are known; None if nothing is."""
    rank = len(data)
    axes = [a % rank for a in attributes.ints(node, "axes") or range(rank)]
    if node.op_type == "Resize" and node.input(3) is not None:
        sizes = shapes.data(node.input(3))
        if (
            sizes is None
            or len(sizes) != len(axes)
            or attributes.get(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        ):
            return None
        return _on_axes(data, axes, list(sizes))
    scales = resize_scales(shapes, node)
    if scales is None or len(scales) != len(axes):
        return None
    return _on_axes(data, axes, [_scaled(data[a], scale) for a, scale in zip(axes, scales, strict=True)])


def resize_scales(shapes: Shapes, node: Node) -> list[float] | None:
    """The factors of Resize or Upsample, one for each of its axes; None if unknown or if it is told sizes instead."""
    listed = attributes.get(node, "scales", None)
    if listed is not None:
        return [float(item) for item in listed]
    slot = 2 if node.op_type == "Resize" and node.scope.version >= 11 else 1
    array = shapes.constants.array(node.input(slot))
    return None if array is None or not array.size else [float(item) for item in array.reshape(-1)]


def _scaled(dim: Dim, scale: float) -> Dim:
    if scale == 1.0:
        return dim
    return math.floor(dim * scale) if isinstance(dim, int) else None


def _on_axes(data: Dims, axes: list[int], values: list[Dim]) -> list[Dim]:
    result = list(data)
    for axis, item in zip(axes, values, strict=True):
        result[axis] = item
    return result


RULES: dict[str, Rule] = {"Pad": Rule(_pad), "Resize": Rule(_resize, shape_input=3), "Upsample": Rule(_resize)}
