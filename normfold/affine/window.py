"""The sliding window of a Conv or AveragePool with its padding resolved, and how several of them fit into one.

Along one axis, tap `j` of output `o` reads position `stride·o - begin + dilation·j`. Two windows give outputs of one
length for every length of the input if `begin + end - dilation·(kernel - 1)` agrees; a window then stands at offset
`(Begin - begin) / dilation` of a larger one, if that is an integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from normfold.affine.draft import Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes import Dim

Ints = tuple[int, ...]

WINDOW_ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True, slots=True)
class Window:
    """One number per spatial axis each; the pads are `begins` and `ends`."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    begins: Ints
    ends: Ints

    @property
    def pads(self) -> list[int]:
        """As the attribute has them."""
        return [*self.begins, *self.ends]

    @property
    def is_padded(self) -> bool:
        """Whether any padding is added."""
        return any(self.pads)

    @property
    def is_point(self) -> bool:
        """Whether it has one tap and no padding, so that every output sees exactly one position."""
        return all(size == 1 for size in self.kernel) and not self.is_padded

    @property
    def grows(self) -> bool:
        """Whether there may be more output positions than input positions."""
        spans = [d * (k - 1) for d, k in zip(self.dilations, self.kernel, strict=True)]
        return any(b + e > span for b, e, span in zip(self.begins, self.ends, spans, strict=True))


def point(rank: int) -> Window:
    """The window of an operator that works on every position by itself; `rank` counts spatial axes."""
    ones, zeros = (1,) * rank, (0,) * rank
    return Window(ones, ones, ones, zeros, zeros)


def window_of(draft: Draft, node: Node, kernel: Ints) -> Window:
    """The window of a Conv or AveragePool.

    Raises:
        Refused: `ill-formed`; `shape-unknown`, auto_pad depends on a size that is not known; `geometry`.
    """
    count = len(kernel)
    declared = _ints(draft, node, "kernel_shape", kernel)
    strides, dilations = (_ints(draft, node, name, (1,) * count) for name in ("strides", "dilations"))
    pads = _ints(draft, node, "pads", (0,) * (2 * count))
    if declared != kernel or len(strides) != count or len(dilations) != count or len(pads) != 2 * count:
        raise Refused("ill-formed", f"the window of {node.label!r} contradicts its weight", node.label)
    if min((*strides, *dilations, *kernel)) < 1 or min(pads) < 0:
        raise Refused("ill-formed", f"the window of {node.label!r} has a negative part", node.label)
    mode = str(draft.attribute(node, "auto_pad", "NOTSET"))
    if mode == "NOTSET":
        return Window(kernel, strides, dilations, pads[:count], pads[count:])
    if any(pads) or mode not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refused("ill-formed", f"{node.label!r} has auto_pad {mode} and pads {list(pads)}", node.label)
    if mode != "VALID" and any(step != 1 for step in dilations):
        raise Refused(
            "geometry", f"runtimes disagree about the padding of {node.label!r}, which is dilated", node.label
        )
    totals = [_same_pad(draft, node, axis, kernel, strides) if mode != "VALID" else 0 for axis in range(count)]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    begins, ends = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(kernel, strides, dilations, begins, ends)


def _ints(draft: Draft, node: Node, name: str, default: Ints) -> Ints:
    return tuple(int(item) for item in draft.attribute(node, name, default))


def _same_pad(draft: Draft, node: Node, axis: int, kernel: Ints, strides: Ints) -> int:
    """What SAME_* adds along one axis in all: `max((ceil(n/s) - 1)·s + k - n, 0)`."""
    span = kernel[axis] - 1
    if strides[axis] == 1 or kernel[axis] == 1:
        return span  # whatever the size
    size = _size(draft, node, axis)
    if not isinstance(size, int):
        raise Refused("shape-unknown", f"the padding of {node.label!r} depends on a size that is not known", node.label)
    return max((-(-size // strides[axis]) - 1) * strides[axis] + span + 1 - size, 0)


def _size(draft: Draft, node: Node, axis: int) -> Dim:
    value = node.input(0)
    dims = None if value is None else draft.shapes.dims(value)
    return None if dims is None or len(dims) <= axis + 2 else dims[axis + 2]


def hull(windows: Sequence[Window], labels: Sequence[str]) -> Window:
    """The smallest window that all of them fit into.

    Raises:
        Refused: `geometry`, they do not fit into one.
    """
    first = windows[0]
    for window, label in zip(windows, labels, strict=True):
        if len(window.kernel) != len(first.kernel):
            raise Refused("ill-formed", f"{label!r} works on another number of axes", label)
        if window.strides != first.strides:
            raise Refused("geometry", f"strides {list(window.strides)} and {list(first.strides)} differ", label)
    axes = [_hull_axis(windows, labels, axis) for axis in range(len(first.kernel))]
    kernel, dilations, begins, ends = (tuple(part) for part in zip(*axes, strict=True))
    return Window(kernel, first.strides, dilations, begins, ends)


def _hull_axis(windows: Sequence[Window], labels: Sequence[str], axis: int) -> tuple[int, int, int, int]:
    """Kernel, dilation, begin and end along one axis; the dilation of a single tap is free."""
    spread = {w.dilations[axis] for w in windows if w.kernel[axis] > 1} or {1}
    if len(spread) > 1:
        raise Refused("geometry", f"dilations {sorted(spread)} on one axis", labels[0])
    dilation = spread.pop()
    begin = max(w.begins[axis] for w in windows)
    growth = [w.begins[axis] + w.ends[axis] - dilation * (w.kernel[axis] - 1) for w in windows]
    size = 1
    for window, label, more in zip(windows, labels, growth, strict=True):
        if more != growth[0]:
            raise Refused("geometry", f"with its padding, {label!r} gives another number of positions", label)
        offset, rest = divmod(begin - window.begins[axis], dilation)
        if rest:
            raise Refused("geometry", f"{label!r} reads between the taps of the others", label)
        size = max(size, offset + window.kernel[axis])
    return size, dilation, begin, growth[0] - begin + dilation * (size - 1)


def offsets(inner: Window, outer: Window) -> Ints:
    """The tap of `outer`, their hull, at which the first tap of `inner` stands."""
    return tuple((b - a) // d for a, b, d in zip(inner.begins, outer.begins, outer.dilations, strict=True))


def pooling_window(draft: Draft, node: Node) -> Window:
    """The window of an AveragePool that is a linear map with the same weights everywhere.

    Raises:
        Refused: `geometry`, it divides by another number at the border; `unknown-attribute`.
    """
    strange = attributes.unexpected(node, (*WINDOW_ATTRIBUTES, "count_include_pad"))
    if strange == "ceil_mode":
        raise Refused(
            "geometry", f"AveragePool {node.label!r} has ceil_mode, its last window may be partial", node.label
        )
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r} of {node.label!r}", node.label)
    kernel = _ints(draft, node, "kernel_shape", ())
    if not kernel:
        raise Refused("ill-formed", f"AveragePool {node.label!r} has no kernel_shape", node.label)
    window = window_of(draft, node, kernel)
    if window.is_padded and not attributes.get(node, "count_include_pad", 0):
        raise Refused("geometry", f"AveragePool {node.label!r} does not count its padding", node.label)
    return window


def window_attributes(old: Window, new: Window, group: int | None = None) -> dict[str, object]:
    """The attributes that turn one window into another; none if they are equal, so that the author's spelling stays.

    `group` is the new number of groups where that changes.
    """
    found: dict[str, object] = {} if group is None else {"group": group}
    if old == new:
        return found
    return {
        **found,
        "auto_pad": None,
        "kernel_shape": list(new.kernel),
        "strides": list(new.strides),
        "dilations": list(new.dilations),
        "pads": new.pads,
    }
