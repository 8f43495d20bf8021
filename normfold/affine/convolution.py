"""Absorbers that convolve: Conv, ConvTranspose, DeformConv, of any rank and group.

Behind, with `y = W·x + b` and `(s, t)`: `W' = s·W` along the output channels and `b' = s·b + t`, always. In front, with
`x = s·x' + t`: `W' = W·s` along the input channels, always, and `b' = b + Σ W·t` where every tap always reads inside of
the image; at a border the operator pads with zeros, which are no `s·x' + t`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from normfold.affine import padding
from normfold.affine.algebra import Affine, per_channel, uniform
from normfold.affine.change import (
    Absorber,
    Change,
    NewNode,
    NewParameter,
    biased,
    closed,
    data_only,
    hidden_channels,
    in_front,
    into_weights,
    parameter_name,
    require_affordable,
    require_range,
    scaled,
    zeros,
)
from normfold.affine.crossings.base import dims_before, dims_behind
from normfold.affine.draft import BORDER, INPUT, OUTPUT, UNIT_IN, UNIT_OUT, Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.model.constants import float64
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource, Values

_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Conv": ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    "ConvTranspose": (
        "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "output_padding", "output_shape",
    ),
    "DeformConv": ("dilations", "group", "kernel_shape", "offset_group", "pads", "strides"),
}  # fmt: skip
_BIAS = {"Conv": 2, "ConvTranspose": 2, "DeformConv": 3}


class _Weight:
    """The weight of a convolution with its channels told apart.

    Conv and DeformConv: `W[Cout, Cin/g, *k]`. ConvTranspose: `W[Cin, Cout/g, *k]`, where output channel `o` is
    `(j, o mod Cout/g)` in group `j`, whose weights are the rows `j·Cin/g …`.
    """

    def __init__(self, draft: Draft, node: Node) -> None:
        closed(node, _ATTRIBUTES[node.op_type])
        self.node, self.source = node, draft.parameter(node, 1)
        dims = self.source.dims
        if len(dims) < 3:
            raise Refused("ill-formed", f"the weight has shape {list(dims)}", node.label)
        self.group = int(draft.attribute(node, "group", 1))
        if self.group < 1 or dims[0] % self.group:
            raise Refused("ill-formed", f"group {self.group} does not divide {dims[0]} channels", node.label)
        self.transposed = node.op_type == "ConvTranspose"
        self.outputs, self.inputs = dims[0], dims[1] * self.group
        if self.transposed:
            self.outputs, self.inputs = self.inputs, self.outputs

    def of_output(self, values: Float64) -> Float64:
        """One value for each output channel, in broadcast form of the weight."""
        return self._along_rows(values) if not self.transposed else self._by_group(values)

    def of_input(self, values: Float64) -> Float64:
        """One value for each input channel, in broadcast form of the weight."""
        return self._along_rows(values) if self.transposed else self._by_group(values)

    def _along_rows(self, values: Float64) -> Float64:
        return values.reshape(-1, *self._ones(1))

    def _by_group(self, values: Float64) -> Float64:
        """Axis 1 counts inside the group that the row belongs to."""
        if self.group == 1:
            return values.reshape(1, -1, *self._ones(2))
        rows = self.source.dims[0] // self.group
        return np.repeat(values.reshape(self.group, -1), rows, axis=0).reshape(*self.source.dims[:2], *self._ones(2))

    def _ones(self, count: int) -> tuple[int, ...]:
        return (1,) * (len(self.source.dims) - count)

    def taps(self, values: Float64) -> Float64:
        """`Σ_i W[o, i, k]·values[i]`, of shape `[Cout, *k]`, in float64."""
        weight = self.source.array()
        rows = self.source.dims[0] // self.group
        parts = []
        for j in range(self.group):
            with np.errstate(invalid="ignore"):  # signalling NaN
                block = weight[j * rows : (j + 1) * rows].astype(np.float64)
            part = values.reshape(self.group, -1)[j]
            parts.append(np.tensordot(part, block, (0, 0)) if self.transposed else np.tensordot(block, part, (1, 0)))
        return np.concatenate(parts)


# --- behind ----------------------------------------------------------------------------------------------------------


def _accept(draft: Draft, node: Node, affine: Affine) -> Absorption:
    weight = _Weight(draft, node)
    if affine.rank != len(weight.source.dims):
        raise Refused("ill-formed", f"rank {affine.rank} behind a weight of rank {len(weight.source.dims)}", node.label)
    before = draft.pending(node)
    # Where a map is added behind, any shift may join it.
    has_map = before is not None and adds_map(before)
    (affine.only_scale().compressed() if has_map else affine).vectors(1, weight.outputs)
    bias = _BIAS[node.op_type]
    if node.input(bias) is not None and draft.parameter(node, bias).dims != (weight.outputs,):
        raise Refused("ill-formed", f"the bias of {node.label!r} has not {weight.outputs} values", node.label)
    require_range(affine, weight.source.data_type, node)
    require_affordable(draft, node, 1, weight.source)
    return into_weights(node, affine)


# --- in front --------------------------------------------------------------------------------------------------------


def _accept_forward(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    affine = data_only(node, arriving)
    weight = _Weight(draft, node)
    if affine.rank != len(weight.source.dims):
        raise Refused("ill-formed", f"rank {affine.rank} before a weight of rank {len(weight.source.dims)}", node.label)
    scale, shift = affine.vectors(1, weight.inputs)
    require_range(affine, weight.source.data_type, node)
    front = per_channel(scale, np.zeros_like(scale), affine.rank, 1)
    if not shift.any() and draft.pending(node, BORDER) is None:
        return in_front(node, front, _accept(draft, node, uniform(1.0, 0.0, affine.rank)))
    try:
        border = _border(draft, node, weight, affine)
    except Refused as reason:
        _accept(draft, node, uniform(1.0, 0.0, affine.rank))
        return in_front(node, front, _bias_map(draft, node, weight, shift, reason))
    behind = Affine(np.ones((1,) * affine.rank), _shift_behind(draft, node, weight, shift))
    return (*in_front(node, front, _accept(draft, node, behind)), *border)


def _shift_behind(draft: Draft, node: Node, weight: _Weight, shift: Float64) -> Float64:
    """`s_out·Σ W·s_in·t`: the shift in front as one behind what the operator collected so far, in broadcast form."""
    total = _taps_behind(draft, node, weight, shift).reshape(weight.outputs, -1).sum(axis=1)
    return np.asarray(total.reshape(1, -1, *(1,) * (len(weight.source.dims) - 2)))


def _taps_behind(draft: Draft, node: Node, weight: _Weight, shift: Float64) -> Float64:
    """What every tap adds of a shift in front, with all that the operator collected so far, of shape `[Cout, *k]`."""
    after, taps = draft.pending(node), taps_in_front(draft, node, shift)
    if after is None:
        return taps
    return taps * after.only_scale().vectors(1, weight.outputs)[0].reshape(-1, *(1,) * (taps.ndim - 1))


def _border(draft: Draft, node: Node, weight: _Weight, affine: Affine) -> tuple[Absorption, ...]:
    """What a shift in front needs at the border: nothing, or another fill than zero.

    Raises:
        Refused: `padded-shift`.
    """
    if node.op_type == "DeformConv":
        raise Refused("padded-shift", f"DeformConv {node.label!r} may sample outside of the image", node.label)
    kernel = weight.source.dims[2:]
    if weight.transposed:
        padding.require_full_overlap(node, kernel)
        return ()
    window = padding.resolved(draft, node, kernel)
    if window is not None and not window.is_padded:
        return ()
    if draft.pending(node, BORDER) is None and window is not None:
        outside = padding.may_fall_outside(window)
        if not _taps_behind(draft, node, weight, affine.vectors(1, weight.inputs)[1])[:, outside].any():
            return ()
    return padding.new_fill(draft, node, affine, window)


def _bias_map(draft: Draft, node: Node, weight: _Weight, shift: Float64, reason: Refused) -> Absorption:
    """The shift as a map behind the operator, `Conv_W(t·1)` under the same padding, where that is the smaller tensor.

    It costs an Add of the output in exchange for an affine of the input, so it pays where the output is much smaller.

    Raises:
        Refused: `reason`, sizes are not known, or it does not pay.
    """
    before, after = dims_before(draft, node), dims_behind(draft, node)
    changed = any(draft.pending(node, slot) is not None for slot in (BORDER, UNIT_OUT))
    foreign = weight.transposed or node.op_type == "DeformConv" or changed
    window = None if foreign else padding.resolved(draft, node, weight.source.dims[2:])
    sizes = [size for size in (*before[1:], *after[1:]) if isinstance(size, int)]
    if window is None or len(sizes) != 2 * (len(before) - 1):
        raise reason
    read, written = math.prod(sizes[: len(before) - 1]), math.prod(sizes[len(before) - 1 :])
    if written > padding.LARGEST_MAP or written * padding.MAP_GAIN > read:
        raise reason
    space = sizes[1 : len(before) - 1], sizes[len(before) :]
    added = padding.summed_inside(window, _taps_behind(draft, node, weight, shift), *space)
    affine = Affine(np.ones((1,) * len(before)), added[np.newaxis]).compressed()
    require_range(affine, weight.source.data_type, node)
    return Absorption(Slot(node, OUTPUT), affine, adds_node=True)


# --- carried out -----------------------------------------------------------------------------------------------------


def _build(draft: Draft, node: Node, affine: Affine) -> Change:
    weight = _Weight(draft, node)
    if adds_map(affine):
        added = affine.shift.reshape(affine.shift.shape[1:])
        kind = weight.source.data_type
        change = _build(draft, node, affine.only_scale())
        return replace(
            change, add=NewParameter(zeros(added.shape, kind), kind, added.shape, f"{node.label}.map", offset=added)
        )
    scale, shift = affine.vectors(1, weight.outputs)
    slot = _BIAS[node.op_type]
    bias = biased(draft, node, slot, scale, shift, weight.source)
    change = Change(node, {} if bias is None else {slot: bias})
    factor = _factor(draft, node, weight, scale)
    if factor is not None:
        hidden = hidden_channels(bias, weight.source, weight.outputs)
        shown = weight.of_output(hidden.astype(np.float64)) != 0
        change.inputs[1] = scaled(weight.source, factor, parameter_name(node, 1, "weight"), shown)
    change = _with_unit_channels(draft, node, change, weight, scale)
    fill = draft.pending(node, BORDER)
    return change if fill is None else _filled(draft, node, change, weight.source, float(fill.shift))


def _with_unit_channels(draft: Draft, node: Node, change: Change, weight: _Weight, scale: Float64) -> Change:
    """One more input channel with its own weights, one more output channel that is 1 everywhere."""
    entering, leaving = draft.pending(node, UNIT_IN), draft.pending(node, UNIT_OUT)
    if entering is None and leaving is None:
        return change
    factor = _factor(draft, node, weight, scale)
    values = float64(weight.source) * (1.0 if factor is None else factor)
    inputs = dict(change.inputs)
    kind = weight.source.data_type
    if entering is not None:
        values = np.concatenate([values, entering.shift * weight.of_output(scale)], axis=1)
    if leaving is not None:
        values = np.concatenate([values, np.zeros((1, *values.shape[1:]))])
        bias = np.concatenate([_bias_values(draft, node, inputs.get(2), weight.outputs), np.ones(1)])
        inputs[2] = NewParameter(Values(bias, kind), kind, bias.shape, parameter_name(node, 2, "bias"))
    inputs[1] = NewParameter(Values(values, kind), kind, values.shape, parameter_name(node, 1, "weight"))
    return replace(change, inputs=inputs)


def _bias_values(draft: Draft, node: Node, new: NewParameter | None, outputs: int) -> Float64:
    """The bias as it will be, before rounding."""
    if new is None:
        return float64(draft.parameter(node, 2)) if node.input(2) is not None else np.zeros(outputs)
    values = float64(new.base) * (1.0 if new.factor is None else new.factor)
    return values if new.offset is None else values + new.offset


def input_channels(draft: Draft, node: Node) -> int:
    """How many channels a convolution reads."""
    return _Weight(draft, node).inputs


def taps_in_front(draft: Draft, node: Node, shift: Float64) -> Float64:
    """What every tap adds of a shift in front, before anything behind, of shape `[Cout, *k]`."""
    weight, before = _Weight(draft, node), draft.pending(node, INPUT)
    return weight.taps(shift if before is None else shift * before.vectors(1, weight.inputs)[0])


def adds_map(affine: Affine) -> bool:
    """Whether the shift behind a convolution varies over space, so that no bias can hold it."""
    return any(size != 1 for size in affine.shift.shape[2:])


def _factor(draft: Draft, node: Node, weight: _Weight, scale: Float64) -> Float64 | None:
    """What the weight is multiplied by, for both sides together; None for 1."""
    factor = weight.of_output(scale) if (scale != 1).any() else None
    inside = front_factor(draft, node)
    if inside is None:
        return factor
    return inside if factor is None else factor * inside


def front_factor(draft: Draft, node: Node) -> Float64 | None:
    """What the weight is multiplied by for the scales that were collected in front, in its broadcast form; None for 1."""
    front = draft.pending(node, INPUT)
    if front is None or not front.scales:
        return None
    weight = _Weight(draft, node)
    return weight.of_input(front.vectors(1, weight.inputs)[0])


def _filled(draft: Draft, node: Node, change: Change, weight: TensorSource, fill: float) -> Change:
    """A Pad with the fill in front, and no padding in the operator itself."""
    window = padding.resolved(draft, node, weight.dims[2:])
    assert window is not None, "`padding.new_fill` refuses amounts that are not known"
    pad: NewNode = padding.pad_node(node, window, fill, weight.data_type)
    plain = {"pads": [0] * (2 * len(window.kernel)), "auto_pad": None}
    return replace(change, attributes={**change.attributes, **plain}, before=pad)


_CONVOLUTION = Absorber(_accept, _build, _accept_forward)
CONVOLUTIONS: dict[str, Absorber] = dict.fromkeys(("Conv", "ConvTranspose", "DeformConv"), _CONVOLUTION)
