"""The bounds of a Slice and of a Shape, as ONNX reads them."""

from __future__ import annotations

from normfold.model import attributes
from normfold.model.graph import Node

# "To the end" in the words of exporters.
_NO_END = (2**31 - 1, 2**63 - 1)


def slice_bounds(node: Node, inputs: list[list[int] | None]) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice; bounds come as inputs from opset 10 and as attributes before.

    Raises:
        ValueError: starts or ends are unknown, or implementations read them differently.
    """
    if len(node.inputs) > 1:
        starts, ends, axes, steps = (inputs + [None] * 4)[:4]
    else:
        starts, ends, axes, steps = (
            attributes.ints(node, "starts"),
            attributes.ints(node, "ends"),
            attributes.ints(node, "axes"),
            None,
        )
    if starts is None or ends is None:
        raise ValueError("unknown bounds")
    bounds = list(zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True))
    # Backwards, a start before the first element is clamped to it (numpy: nothing is left), and a huge end is nothing
    # by the standard and everything by onnxruntime.
    if any(step < 0 and (start < -1 or end in _NO_END) for _, start, end, step in bounds):
        raise ValueError("backwards from or to a place outside")
    return bounds


def slice_index(rank: int, bounds: list[tuple[int, int, int, int]]) -> tuple[slice, ...]:
    """The numpy index of a Slice: ONNX clamps as numpy does, except that a huge negative end means "to the start"."""
    index = [slice(None)] * rank
    for axis, start, end, step in bounds:
        stop = None if step < 0 and end < -(1 << 30) else end
        index[axis] = slice(start, stop, step)
    return tuple(index)


def shape_part(node: Node) -> slice:
    """The dimensions that a Shape reports, from `start` to `end` (opset 15); both are clamped as numpy clamps them."""
    return slice(int(attributes.get(node, "start", 0)), attributes.get(node, "end", None))
