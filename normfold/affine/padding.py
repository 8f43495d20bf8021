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
from normfold.affine.window import Window, window_of
from normfold.model import attributes, dtypes
from normfold.model.graph import Node
from normfold.model.tensors import Float64, Values

# A map of the shift behind a Conv: at most so many values, and only if the input has so many times more.
LARGEST_MAP = 1 << 18
MAP_GAIN = 2

_FIRST_PAD = 2


def resolved(draft: Draft, node: Node, kernel: Sequence[int]) -> Window | None:
    """The window of a Conv with its padding worked out; None where that depends on a size that is not known."""
    try:
        return window_of(draft, node, tuple(kernel))
    except Refused as reason:
        if reason.key in ("shape-unknown", "geometry"):
            return None
        raise


def may_fall_outside(window: Window) -> NDArray[np.bool_]:
    """Which taps can read the border, of the shape of the kernel."""
    outside = np.zeros(window.kernel, bool)
    for axis, (taps, dilation) in enumerate(zip(window.kernel, window.dilations, strict=True)):
        index = np.arange(taps) * dilation
        here = (index < window.begins[axis]) | (index[::-1] < window.ends[axis])
        outside |= here.reshape([-1 if a == axis else 1 for a in range(len(window.kernel))])
    return outside


def summed_inside(window: Window, taps: Float64, before: Sequence[int], behind: Sequence[int]) -> Float64:
    """`Σ_k taps[o, k]` over the taps that read inside of the image, for every output position.

    Args:
        window: of a Conv.
        taps: shape `[Cout, *kernel]`.
        before, behind: the sizes of space on both sides.

    Returns:
        Shape `[Cout, *behind]`.
    """
    result = taps
    for axis, taps_here in enumerate(window.kernel):
        first = np.arange(behind[axis])[:, None] * window.strides[axis] - window.begins[axis]
        read = first + np.arange(taps_here)[None, :] * window.dilations[axis]
        inside = ((read >= 0) & (read < before[axis])).astype(np.float64)
        # The kernel axis that is summed over goes, the axis of positions comes last: after all axes they are in order.
        result = np.tensordot(result, inside, (1, 1))
    return np.asarray(result)


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


def new_fill(draft: Draft, node: Node, affine: Affine, window: Window | None) -> tuple[Absorption, ...]:
    """The fill that the border must have from now on.

    Raises:
        Refused: `padded-shift`, it would have to differ between channels, or the padding is not known.
    """
    if window is None:
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


def pad_node(node: Node, window: Window, fill: float, data_type: int) -> NewNode:
    """A Pad of the spatial axes in front of `node`: attributes before opset 11, inputs since."""
    pads = [0, 0, *window.begins, 0, 0, *window.ends]
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
