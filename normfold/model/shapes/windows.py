"""Sliding windows: convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def window(size: Dim, kernel: int, stride: int, dilation: int, pads: int, ceil: bool) -> Dim:
    """Output length of a sliding window; `pads` is the sum of both sides."""
    if not isinstance(size, int):
        return None
    span = size + pads - ((kernel - 1) * dilation + 1)
    return (-(-span // stride) if ceil else span // stride) + 1


def _windows(node: Node, spatial: Sequence[Dim], kernel: Sequence[int]) -> list[Dim]:
    count = len(spatial)
    strides = attributes.ints(node, "strides") or [1] * count
    dilations = attributes.ints(node, "dilations") or [1] * count
    pads = attributes.ints(node, "pads") or [0] * (2 * count)
    mode = attributes.get(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [-(-size // strides[i]) if isinstance(size, int) else None for i, size in enumerate(spatial)]
    if mode == "VALID":
        pads = [0] * (2 * count)
    ceil = bool(attributes.get(node, "ceil_mode", 0))
    if ceil:
        return [None] * count  # runtimes differ on the last partial window
    return [
        window(s, kernel[i], strides[i], dilations[i], pads[i] + pads[i + count], ceil) for i, s in enumerate(spatial)
    ]


def _conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    weight = shapes.known(node.input(1))
    data = shapes.known(node.input(0))
    if weight is None:
        return None
    if data is None:
        return (None, weight[0], *([None] * (len(weight) - 2)))
    kernel = weight[2:]
    if not all(isinstance(k, int) for k in kernel):
        return (data[0], weight[0], *([None] * (len(weight) - 2)))
    return (data[0], weight[0], *_windows(node, data[2:], [k for k in kernel if isinstance(k, int)]))


def _conv_transpose(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    weight = shapes.known(node.input(1))
    data = shapes.known(node.input(0))
    if weight is None or not isinstance(weight[1], int):
        return None
    channels = weight[1] * int(attributes.get(node, "group", 1))
    return (None if data is None else data[0], channels, *_stretched(node, data, weight))


def _stretched(node: Node, data: Dims | None, weight: Dims) -> list[Dim]:
    """Spatial sizes behind ConvTranspose: (size - 1)·stride + output_padding + (kernel - 1)·dilation + 1 - pads."""
    count = len(weight) - 2
    wanted = attributes.ints(node, "output_shape")
    if wanted is not None:
        return list(wanted[-count:])
    if attributes.get(node, "auto_pad", "NOTSET") != "NOTSET" or data is None:
        return [None] * count
    strides = attributes.ints(node, "strides") or [1] * count
    dilations = attributes.ints(node, "dilations") or [1] * count
    extra = attributes.ints(node, "output_padding") or [0] * count
    pads = attributes.ints(node, "pads") or [0] * (2 * count)
    sizes: list[Dim] = []
    for i, (size, kernel) in enumerate(zip(data[2:], weight[2:], strict=True)):
        if isinstance(size, int) and isinstance(kernel, int):
            sizes.append(
                (size - 1) * strides[i] + extra[i] + (kernel - 1) * dilations[i] + 1 - pads[i] - pads[i + count]
            )
        else:
            sizes.append(None)
    return sizes


def _deform_conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """As Conv, in the size of its offsets."""
    weight, offset = shapes.known(node.input(1)), shapes.known(node.input(2))
    if weight is None or offset is None:
        return None
    return (offset[0], weight[0], *offset[2:])


def _grid_sample(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """The channels of the data `[N, C, …]` at the positions of the grid `[N, *out, rank - 2]`."""
    data, grid = shapes.known(node.input(0)), shapes.known(node.input(1))
    return None if data is None or grid is None or len(data) != len(grid) else (*data[:2], *grid[1:-1])


def _roi_align(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, regions = shapes.known(node.input(0)), shapes.known(node.input(1))
    if data is None or len(data) != 4:
        return None
    size = (attributes.get(node, "output_height", 1), attributes.get(node, "output_width", 1))
    return (None if regions is None else regions[0], data[1], *(int(part) for part in size))


def _pool(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    kernel = attributes.ints(node, "kernel_shape")
    if data is None or kernel is None:
        return None
    dilated = any(step != 1 for step in attributes.ints(node, "dilations") or ())
    if dilated and attributes.get(node, "auto_pad", "NOTSET").startswith("SAME"):
        return (*data[:2], *([None] * len(kernel)))  # runtimes forget the dilation when they compute the padding
    return (*data[:2], *_windows(node, data[2:], kernel))


def _global_pool(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    return None if data is None else (*data[:2], *([1] * (len(data) - 2)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvInteger"), Rule(_conv, 2)),
    "ConvTranspose": Rule(_conv_transpose, 2),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), Rule(_pool)),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), Rule(_global_pool)),
    "DeformConv": Rule(_deform_conv, 3),
    "GridSample": Rule(_grid_sample, 2),
    "RoiAlign": Rule(_roi_align, 2),
}
