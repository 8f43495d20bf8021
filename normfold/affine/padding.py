"""A shift in front of an operator that pads with zeros: where it is exact, and what makes it exact.

Padding comes after the shift, so the border holds 0, which is not `s·x + t`. Where a tap can read the border, the shift
may go into the bias only if the border is made to hold the right thing: a Pad in front with the fill `v = -t/s`, if that
is the same for all channels, and no padding in the operator itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import NewNode, NewParameter
from normfold.affine.crossings.space import PAD_INPUTS, fill_before, fits_attribute
from normfold.affine.draft import BORDER, Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node
from normfold.model.tensors import Values

Amounts = list[tuple[int, int]]  # begin and end of every spatial axis

_FIRST_PAD = 2


def resolved(draft: Draft, node: Node, kernel: Sequence[int]) -> Amounts | None:
    """The padding of a Conv, `auto_pad` worked out; None where sizes are missing.

    A kernel of 1 never needs padding under SAME_*, whatever the stride.
    """
    axes = len(kernel)
    mode = attributes.get(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = attributes.ints(node, "pads") or [0] * (2 * axes)
        if len(pads) != 2 * axes or min(pads) < 0:
            raise Refused("ill-formed", f"pads {pads} of {node.label!r}", node.label)
        return list(zip(pads[:axes], pads[axes:], strict=True))
    if mode == "VALID" or all(size == 1 for size in kernel):
        return [(0, 0)] * axes
    data = node.input(0)
    dims = None if data is None else draft.shapes.dims(data)
    if dims is None or len(dims) != axes + 2:
        return None
    strides = attributes.ints(node, "strides") or [1] * axes
    dilations = attributes.ints(node, "dilations") or [1] * axes
    amounts: Amounts = []
    for size, taps, stride, dilation in zip(dims[2:], kernel, strides, dilations, strict=True):
        if taps == 1:
            amounts.append((0, 0))
            continue
        if not isinstance(size, int):
            return None
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        amounts.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return amounts


def may_fall_outside(node: Node, kernel: Sequence[int], amounts: Amounts) -> NDArray[np.bool_]:
    """Which taps can read the border, of the shape of the kernel."""
    dilations = attributes.ints(node, "dilations") or [1] * len(kernel)
    outside = np.zeros(tuple(kernel), bool)
    for axis, (taps, dilation, (begin, end)) in enumerate(zip(kernel, dilations, amounts, strict=True)):
        index = np.arange(taps)
        here = (index * dilation < begin) | ((taps - 1 - index) * dilation < end)
        outside |= here.reshape([-1 if a == axis else 1 for a in range(len(kernel))])
    return outside


def require_full_overlap(node: Node, kernel: Sequence[int]) -> None:
    """Every tap of a ConvTranspose reaches every output pixel, so that a shift becomes the same bias everywhere.

    Raises:
        Refused: `padded-shift`.
    """
    axes = len(kernel)
    strides = attributes.ints(node, "strides") or [1] * axes
    dilations = attributes.ints(node, "dilations") or [1] * axes
    pads = attributes.ints(node, "pads") or [0] * (2 * axes)
    plain = (
        attributes.get(node, "auto_pad", "NOTSET") == "NOTSET"
        and "output_shape" not in node.attributes
        and not any(attributes.ints(node, "output_padding") or ())
        and all(stride == 1 for stride in strides)
    )
    reach = [(taps - 1) * dilation for taps, dilation in zip(kernel, dilations, strict=True)]
    if not plain or any(pads[i] < reach[i] or pads[axes + i] < reach[i] for i in range(axes)):
        raise Refused(
            "padded-shift", f"not every tap of ConvTranspose {node.label!r} reaches every output pixel", node.label
        )


def new_fill(draft: Draft, node: Node, affine: Affine, amounts: Amounts | None) -> tuple[Absorption, ...]:
    """The fill that the border must have from now on.

    Raises:
        Refused: `padded-shift`, it would have to differ between channels, or the padding is not known.
    """
    if amounts is None:
        raise Refused("padded-shift", f"{node.label!r} pads by an amount that depends on the image size", node.label)
    pending = draft.pending(node, BORDER)
    before = 0.0 if pending is None else float(pending.shift)
    try:
        wanted = fill_before(node, affine, before)
    except Refused as reason:
        raise Refused("padded-shift", reason.message, node.label) from None
    fill = float(wanted.flat[0])
    if (wanted != fill).any():
        raise Refused(
            "padded-shift",
            f"{node.op_type} {node.label!r} pads with zeros, and the shift would need another value for every channel",
            node.label,
        )
    if node.scope.version < _FIRST_PAD or abs(fill) > dtypes.largest(draft.parameter(node, 1).data_type):
        raise Refused("padded-shift", f"no Pad with the value {fill:g} in front of {node.label!r}", node.label)
    if fill == before:
        return ()
    if node.scope.version < PAD_INPUTS:
        fits_attribute(draft, node, fill)
    return (Absorption(Slot(node, BORDER), uniform(0.0, fill, 0), adds_node=pending is None),)


def pad_node(node: Node, amounts: Amounts, fill: float, data_type: int) -> NewNode:
    """A Pad of the spatial axes in front of `node`: attributes before opset 11, inputs since."""
    pads = [0, 0, *(begin for begin, _ in amounts), 0, 0, *(end for _, end in amounts)]
    if node.scope.version < PAD_INPUTS:
        return NewNode("Pad", "pad", attributes={"pads": pads, "value": fill})
    amount = np.asarray(pads, np.int64)
    return NewNode(
        "Pad",
        "pad",
        inputs={
            1: NewParameter(Values(amount, dtypes.onnx_dtype(amount.dtype)), 7, amount.shape, f"{node.label}.pads"),
            2: NewParameter(Values(np.asarray(fill), data_type), data_type, (), f"{node.label}.fill"),
        },
    )
