"""Crossings: what an affine on an operator's output becomes on its inputs, so that the operator itself may stay.

One row per operator. A row yields the ways to move the affine, best first; each way names the affine for every input that
must take one, and constants of the operator that absorb on the spot. Anything without a row stops the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from normfold.affine import layout
from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import Change, NewParameter, parameter_name, require_normal_factors, require_range
from normfold.affine.draft import Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.affine.recognise import aligned, operand_values
from normfold.model import attributes, dtypes
from normfold.model.constants import slice_bounds, slice_index
from normfold.model.graph import Node, Use, Value
from normfold.model.shapes import Dims, node_axes, pad_amounts, reduce_axes, resize_scales, resize_sizes, split_sizes
from normfold.model.tensors import Float64, Values


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to move an affine past a node: affines for data inputs, and constants that absorb."""

    onward: tuple[tuple[Use, Affine], ...]
    absorbed: tuple[Absorption, ...] = ()


Crossing = Callable[[Draft, Node, int, Affine], Iterator[Way]]


def _closed(node: Node, known: tuple[str, ...] = ()) -> None:
    strange = attributes.unexpected(node, known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r} of {node.label!r}", node.label)


def _to(node: Node, affine: Affine, slot: int = 0) -> Way:
    return Way(((Use(node, slot), affine),))


def _dims(draft: Draft, node: Node, slot: int = 0) -> Dims:
    value = node.input(slot)
    dims = None if value is None else draft.shapes.dims(value)
    if dims is None:
        raise Refused("shape-unknown", f"the shape in front of {node.label!r} is not known", node.label)
    return dims


def _no_shift(node: Node, affine: Affine) -> None:
    if affine.shifts:
        raise Refused(
            "shift-blocked", f"{node.op_type} {node.label!r} lets a scale through, but not a shift", node.label
        )


def _no_negative(node: Node, affine: Affine, *, allow_zero: bool) -> None:
    low = affine.scale.min(initial=1.0)
    if low < 0 or (low == 0 and not allow_zero):
        raise Refused(
            "negative-scale",
            f"{node.op_type} {node.label!r} lets only positive scales through, found {low:.4g}",
            node.label,
        )


# --- nothing but the tensor ------------------------------------------------------------------------------------------


def _identity(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node)
    yield _to(node, affine)


def _dropout(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """At inference Dropout is the identity; its mask output must not be in use."""
    _closed(node, ("ratio", "seed", "is_test"))
    if node.scope.version < 7 and not attributes.get(node, "is_test", 0):
        raise Refused("training-mode", f"Dropout {node.label!r} is in training mode", node.label)
    mode = node.input(2)
    if mode is not None:
        values = draft.constants.array(mode)
        if values is None or values.any():
            raise Refused("training-mode", f"Dropout {node.label!r} may be in training mode", node.label)
    if slot or any(value is not None and (draft.uses(value) or value.is_output) for value in node.outputs[1:]):
        raise Refused("shared", f"the mask of Dropout {node.label!r} is in use", node.label)
    yield _to(node, affine)


def _cast(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("to",))
    value = node.input(0)
    source = None if value is None else draft.shapes.data_type(value)
    if source is None or source != attributes.get(node, "to", 0):
        raise Refused(
            "no-absorber", f"Cast {node.label!r} changes the type, and with it where values are rounded", node.label
        )
    yield _to(node, affine)


# --- layout ----------------------------------------------------------------------------------------------------------


def _transpose(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("perm",))
    perm = attributes.ints(node, "perm") or list(range(affine.rank))[::-1]
    if sorted(perm) != list(range(affine.rank)):
        raise Refused("ill-formed", f"perm {perm} for rank {affine.rank}", node.label)
    yield _to(node, layout.transpose(affine, perm))


def _reshape(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("shape", "allowzero", "axis", "axes", "consumed_inputs"))
    after = draft.shapes.dims(node.output)
    if after is None or len(after) != affine.rank:
        raise Refused("shape-unknown", f"the shape behind {node.label!r} is not known", node.label)
    yield _to(node, layout.reshape(affine, _dims(draft, node), after))


def _squeeze(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("axes",))
    before = _dims(draft, node)
    axes = node_axes(draft.shapes, node)
    if axes is None and (node.input(1) is not None or any(not isinstance(d, int) for d in before)):
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    gone = {i for i, d in enumerate(before) if d == 1} if axes is None else {a % len(before) for a in axes}
    yield _to(node, layout.unsqueeze(affine, gone))


def _unsqueeze(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("axes",))
    axes = node_axes(draft.shapes, node)
    if axes is None:
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    yield _to(node, layout.squeeze(affine, {a % affine.rank for a in axes}))


# --- selection along the channel axis --------------------------------------------------------------------------------


def _concat(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Every branch takes its slice; along any other axis every branch takes the whole."""
    _closed(node, ("axis",))
    axis = int(attributes.get(node, "axis", 1)) % affine.rank
    onward: list[tuple[Use, Affine]] = []
    absorbed: list[Absorption] = []
    start = 0
    for operand, value in enumerate(node.inputs):
        part = affine
        if axis in affine.varying:
            size = _dims(draft, node, operand)[axis]
            if not isinstance(size, int):
                raise Refused(
                    "shape-unknown", f"the number of channels of a branch of {node.label!r} is not known", node.label
                )
            part = layout.select(affine, axis, slice(start, start + size))
            start += size
        if draft.constants.get(value) is not None:
            absorbed.append(Absorption(Slot(node, operand), part))
        else:
            onward.append((Use(node, operand), part.compressed()))
    if axis in affine.varying and start != affine.shape[axis]:
        raise Refused("ill-formed", f"{affine.shape[axis]} values for {start} channels of {node.label!r}", node.label)
    yield Way(tuple(onward), tuple(absorbed))


def _split(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("axis", "split", "num_outputs"))
    axis = int(attributes.get(node, "axis", 0)) % affine.rank
    size = _dims(draft, node)[axis]
    sizes = split_sizes(draft.shapes, node, size)
    if sizes is None or not isinstance(size, int) or sum(sizes) != size:
        raise Refused("shape-unknown", f"the parts of {node.label!r} are not known", node.label)
    first = sum(sizes[:slot])
    yield _to(node, layout.scatter(affine, axis, np.arange(first, first + sizes[slot]), size))


def _slice(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """A Slice with one reader: the other channels are read by nobody."""
    _closed(node, ("starts", "ends", "axes"))
    before = _dims(draft, node)
    try:
        bounds = slice_bounds(node, [draft.constants.ints(value) for value in node.inputs[1:]])
    except ValueError:
        raise Refused("shape-unknown", f"the bounds of {node.label!r} are not known", node.label) from None
    normal = [(a % len(before), start, end, step) for a, start, end, step in bounds]
    index = slice_index(len(before), normal)
    for axis in {a for a, _, _, _ in normal} & set(affine.varying):
        size = _known(before[axis], node)
        affine = layout.scatter(affine, axis, np.arange(size)[index[axis]], size)
    yield _to(node, affine)


def _known(size: int | str | None, node: Node) -> int:
    if not isinstance(size, int):
        raise Refused("shape-unknown", f"a size in front of {node.label!r} is not known", node.label)
    return size


def _gather(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """A selection of channels by constant indices (a channel shuffle, say)."""
    _closed(node, ("axis",))
    before, indices = _dims(draft, node), draft.constants.array(node.input(1))
    axis = int(attributes.get(node, "axis", 0)) % len(before)
    if indices is None or indices.ndim != 1:
        raise Refused("no-absorber", f"Gather {node.label!r} selects by computed indices", node.label)
    if axis in affine.varying:
        size = _known(before[axis], node)
        affine = layout.scatter(affine, axis, np.asarray(indices, np.int64) % size, size)
    yield _to(node, affine)


def _depth_to_space(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Output channel `c` shows the input channels `(i·b + j)·C' + c` (DCR) or `c·b² + i·b + j` (CRD)."""
    _closed(node, ("blocksize", "mode"))
    _only_channels(node, affine)
    block = int(attributes.get(node, "blocksize", 1)) ** 2
    crd = attributes.get(node, "mode", "DCR") == "CRD"

    def spread(values: Float64) -> Float64:
        if values.shape[1] == 1:
            return values
        return np.repeat(values, block, axis=1) if crd else np.tile(values, (1, block, 1, 1))

    yield _to(node, Affine(spread(affine.scale), spread(affine.shift)))


def _only_channels(node: Node, affine: Affine) -> None:
    if affine.rank != 4 or any(axis != 1 for axis in affine.varying):
        raise Refused("not-per-channel", f"it varies over space behind {node.label!r}", node.label)


# --- activations and pooling -----------------------------------------------------------------------------------------


def _homogeneous(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·f(x) = f(s·x)` for `s ≥ 0`: Relu, LeakyRelu, PRelu, Abs."""
    _closed(node, ("alpha", "consumed_inputs"))
    _no_shift(node, affine)
    _no_negative(node, affine, allow_zero=True)
    yield _to(node, affine)


def _max_pool(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Padding counts as minus infinity, so a shift is exact; a scale must be positive."""
    _closed(node, ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides", "storage_order"))
    if slot or any(value is not None and (draft.uses(value) or value.is_output) for value in node.outputs[1:]):
        raise Refused(
            "shared", f"the indices of MaxPool {node.label!r} are in use: rounding could flip a near-tie", node.label
        )
    _spatial_constant(node, affine)
    _no_negative(node, affine, allow_zero=False)
    yield _to(node, affine)


def _spatial_constant(node: Node, affine: Affine) -> None:
    if any(axis > 1 for axis in affine.varying):
        raise Refused("not-per-channel", f"it varies over space behind {node.label!r}", node.label)


def _average_pool(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node, ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"))
    _spatial_constant(node, affine)
    if affine.shifts:
        padded = any(attributes.ints(node, "pads") or ()) or attributes.get(node, "auto_pad", "NOTSET") not in (
            "NOTSET",
            "VALID",
        )
        counts = bool(attributes.get(node, "count_include_pad", 0))
        partial = bool(attributes.get(node, "ceil_mode", 0))
        if (counts and (padded or partial)) or (padded and node.scope.version < 7):
            raise Refused("shift-blocked", f"AveragePool {node.label!r} counts padding zeros at the border", node.label)
    yield _to(node, affine)


def _global_pool(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    _closed(node)
    _spatial_constant(node, affine)
    if node.op_type == "GlobalMaxPool":
        _no_negative(node, affine, allow_zero=False)
    yield _to(node, affine)


def _reduce(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Mean and maximum over axes along which nothing varies."""
    _closed(node, ("axes", "keepdims", "noop_with_empty_axes"))
    before = _dims(draft, node)
    axes = reduce_axes(draft.shapes, node, len(before))
    if axes is None:
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    if node.op_type == "ReduceMax":
        _no_negative(node, affine, allow_zero=False)
    if not attributes.get(node, "keepdims", 1):
        affine = layout.unsqueeze(affine, axes)
    if axes & set(affine.varying):
        raise Refused("not-per-channel", f"{node.label!r} reduces the axis along which it varies", node.label)
    yield _to(node, affine)


def _clip(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·clip(x, lo, hi) + t = clip(s·x + t, s·lo + t, s·hi + t)` for a uniform `s > 0`."""
    _closed(node, ("min", "max"))
    if not affine.is_uniform:
        raise Refused("not-per-channel", f"Clip {node.label!r} has one pair of bounds for all channels", node.label)
    _no_negative(node, affine, allow_zero=False)
    bounds = [
        operand for operand, name in CLIP_BOUNDS.items() if node.input(operand) is not None or name in node.attributes
    ]
    for operand in bounds:
        if node.input(operand) is not None:
            require_range(affine, draft.parameter(node, operand).data_type, node)
        elif draft.shapes.data_type(node.output) in (None, dtypes.DOUBLE):
            raise Refused(
                "dtype-range", f"the bounds of {node.label!r} are float32 attributes of wider data", node.label
            )
        else:
            require_range(affine, dtypes.FLOAT, node)
    scalar = uniform(float(affine.scale.reshape(-1)[0]), float(affine.shift.reshape(-1)[0]), 0)
    yield Way(((Use(node, 0), affine),), tuple(Absorption(Slot(node, operand), scalar) for operand in bounds))


CLIP_BOUNDS = {1: "min", 2: "max"}


def build_clip_bound(draft: Draft, node: Node, operand: int, affine: Affine) -> Change:
    """A bound `b` becomes `s·b + t`: an attribute before opset 11, an input since."""
    if node.input(operand) is not None:
        return build_operand(draft, node, operand, affine)
    name = CLIP_BOUNDS[operand]
    return Change(
        node, attributes={name: float(affine.scale) * float(attributes.get(node, name, 0.0)) + float(affine.shift)}
    )


# --- space -----------------------------------------------------------------------------------------------------------


def _resize(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Interpolation weights sum to 1 in every mode, so anything that does not vary along a resized axis passes."""
    known = (
        "mode", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "nearest_mode", "antialias", "axes",
        "keep_aspect_ratio_policy", "scales", "extrapolation_value",
    )  # fmt: skip
    _closed(node, known)
    if attributes.get(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Refused(
            "shift-blocked", f"Resize {node.label!r} fills positions outside of the image with a constant", node.label
        )
    if not set(affine.varying) <= _untouched_by_resize(draft, node):
        raise Refused("shape-unknown", f"Resize {node.label!r} may change the axis along which it varies", node.label)
    yield _to(node, affine)


def _untouched_by_resize(draft: Draft, node: Node) -> set[int]:
    """The axes that stay as they are. An equal size is no proof: 3 · 1.2 is 3 again, and yet other elements are read."""
    if attributes.get(node, "coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn" and (
        attributes.get(node, "nearest_mode", "round_prefer_floor") in ("ceil", "round_prefer_ceil")
    ):
        return set()  # it reads at x + 1/2 even where nothing is resized, and rounds that up
    before = _dims(draft, node)
    after = resize_sizes(draft.shapes, node, before)
    if after is None:
        return set()
    same = {axis for axis, size in enumerate(before) if size is not None and after[axis] == size}
    if node.op_type == "Resize" and node.input(3) is not None:
        return same
    scales = resize_scales(draft.shapes, node) or []
    axes = attributes.ints(node, "axes") or range(len(before))
    return same - {axis % len(before) for axis, scale in zip(axes, scales, strict=False) if scale != 1.0}


_PAD_VALUE = 2
_BOUNDS_ARE_INPUTS = 11  # before this opset, Pad and Clip keep their numbers in float32 attributes


def _fits_attribute(draft: Draft, node: Node, number: float) -> None:
    """A number must be worth the same as a float32 attribute; float32 data and narrower would be rounded anyway.

    Raises:
        Refused: `dtype-range`.
    """
    kind = draft.shapes.data_type(node.output)
    with np.errstate(over="ignore"):
        stored = float(np.float32(number))
    if not np.isfinite(stored) or (kind in (None, dtypes.DOUBLE) and stored != number):
        raise Refused("dtype-range", f"{number:g} does not fit a float32 attribute of {node.label!r}", node.label)


def _pad(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·pad(x, v) + t = pad(s·x + t, s·v + t)`; a Pad has one value, so `s·v + t` must be uniform."""
    _closed(node, ("mode", "pads", "paddings", "value"))
    amounts = pad_amounts(draft.shapes, node, affine.rank)
    if amounts is None:
        raise Refused("shape-unknown", f"the amounts of {node.label!r} are not known", node.label)
    if any(amounts[axis] != (0, 0) for axis in affine.varying):
        raise Refused("not-per-channel", f"{node.label!r} pads the axis along which it varies", node.label)
    if attributes.get(node, "mode", "constant") != "constant":
        yield _to(node, affine)
        return
    kind = draft.shapes.data_type(node.output)
    if kind is None:
        raise Refused("shape-unknown", f"the element type behind {node.label!r} is not known", node.label)
    value = _pad_value(draft, node)
    padded = (affine.scale * value + affine.shift).reshape(-1)
    if (padded != padded[0]).any():
        raise Refused("shift-blocked", f"{node.label!r} would need another padding value for every channel", node.label)
    if node.scope.version < _BOUNDS_ARE_INPUTS:
        _fits_attribute(draft, node, float(padded[0]))
        kind = dtypes.FLOAT
    stored = float(dtypes.stored(padded, kind)[0])
    absorbed = () if stored == value else (Absorption(Slot(node, _PAD_VALUE), uniform(0.0, stored, 0)),)
    yield Way(((Use(node, 0), affine),), absorbed)


def _pad_value(draft: Draft, node: Node) -> float:
    pending = draft.pending(node, _PAD_VALUE)
    if pending is not None:
        return float(pending.shift)  # a pad value is always replaced as a whole
    if node.input(_PAD_VALUE) is None:
        return float(attributes.get(node, "value", 0.0))
    source = draft.parameter(node, _PAD_VALUE)
    return float(np.asarray(source.array(), np.float64).reshape(-1)[0])


def build_pad_value(draft: Draft, node: Node, affine: Affine) -> Change:
    """The new padding value: an attribute before opset 11, an input since."""
    value = float(affine.shift)
    if node.scope.version < _BOUNDS_ARE_INPUTS:
        return Change(node, attributes={"value": value})
    kind = draft.shapes.data_type(node.output)
    assert kind is not None, "`_pad` refuses a value of unknown type"
    return Change(
        node,
        {
            _PAD_VALUE: NewParameter(
                Values(np.asarray(value), kind), kind, (), parameter_name(node, _PAD_VALUE, "value")
            )
        },
    )


# --- several data inputs ---------------------------------------------------------------------------------------------


def _sum(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·(Σ xᵢ) + t`: the scale goes into every branch, the shift into one; a subtrahend takes `-t`."""
    _closed_elementwise(node)
    operands = range(len(node.inputs))
    constant = [o for o in operands if draft.constants.get(node.inputs[o]) is not None]
    order = [*constant, *(o for o in operands if o not in constant)] if affine.shifts else [0]
    problem: Refused | None = None
    for target in order:
        try:
            yield _sum_way(draft, node, affine, target if affine.shifts else -1)
        except Refused as reason:
            problem = problem or reason
    if problem is not None:
        raise problem


def _closed_elementwise(node: Node) -> None:
    _closed(node)
    if node.scope.version < 7 and node.op_type != "Sum":
        raise Refused("unknown-attribute", f"{node.label!r} broadcasts by the rules before opset 7", node.label)
    if None in node.inputs:
        raise Refused("ill-formed", f"{node.label!r} lacks an input", node.label)


def _sum_way(draft: Draft, node: Node, affine: Affine, target: int) -> Way:
    onward: list[tuple[Use, Affine]] = []
    absorbed: list[Absorption] = []
    for operand, value in enumerate(node.inputs):
        assert value is not None
        part = affine.only_scale()
        if operand == target:
            sign = -1.0 if node.op_type == "Sub" and operand == 1 else 1.0
            part = Affine(affine.scale, affine.shift * sign)
        _place(draft, node, operand, value, part, onward, absorbed)
    return Way(tuple(onward), tuple(absorbed))


def _place(
    draft: Draft,
    node: Node,
    operand: int,
    value: Value,
    part: Affine,
    onward: list[tuple[Use, Affine]],
    absorbed: list[Absorption],
) -> None:
    """One operand takes an affine: a constant on the spot, data further up."""
    if part.is_identity:
        return
    if draft.constants.get(value) is not None:
        kind = draft.parameter(node, operand).data_type
        require_range(part, kind, node)
        if node.op_type in ("Mul", "Div"):
            factor = operand_values(draft, node, operand, part.rank)
            require_normal_factors((part.scale, factor, part.scale * factor), kind)
        absorbed.append(Absorption(Slot(node, operand), part))
    else:
        onward.append((Use(node, operand), _restricted(draft, node, operand, part)))


def _restricted(draft: Draft, node: Node, operand: int, affine: Affine) -> Affine:
    """The affine for an operand that the operator may stretch.

    Raises:
        Refused: `branch`, the operand has size 1 where the affine varies, so it cannot take different values.
    """
    dims = _dims(draft, node, operand)
    lead = affine.rank - len(dims)
    for axis in affine.varying:
        size = dims[axis - lead] if axis >= lead else 1
        if size == 1:
            raise Refused("branch", f"operand {operand} of {node.label!r} is broadcast along the channels", node.label)
        if size != affine.shape[axis]:
            raise Refused(
                "shape-unknown", f"the channels of operand {operand} of {node.label!r} are not known", node.label
            )
    return Affine(*(part.reshape(part.shape[lead:]) for part in (affine.scale, affine.shift)))


def _product(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·(x·y) = (s·x)·y`: exactly one operand takes the scale; of a Div, the dividend."""
    _closed_elementwise(node)
    _no_shift(node, affine)
    candidates = [0] if node.op_type == "Div" else [0, 1]
    candidates.sort(key=lambda operand: draft.constants.get(node.inputs[operand]) is None)
    problem: Refused | None = None
    for operand in candidates:
        value = node.inputs[operand]
        assert value is not None
        onward: list[tuple[Use, Affine]] = []
        absorbed: list[Absorption] = []
        try:
            _place(draft, node, operand, value, affine, onward, absorbed)
        except Refused as reason:
            problem = problem or reason
            continue
        yield Way(tuple(onward), tuple(absorbed))
    if problem is not None:
        raise problem


def build_operand(draft: Draft, node: Node, operand: int, affine: Affine) -> Change:
    """A constant operand `c` becomes `s·c + t`, in the shape that both need."""
    source = draft.parameter(node, operand)
    rank = affine.rank
    values = aligned(node, source, rank) if rank else np.asarray(source.array(), np.float64)
    new = affine.scale * values + affine.shift
    dims = new.shape[next((i for i in range(rank) if new.shape[i] != 1 or rank - i <= len(source.dims)), rank) :]
    parameter = NewParameter(
        Values(new.reshape(dims), source.data_type), source.data_type, dims, parameter_name(node, operand, "constant")
    )
    return Change(node, {operand: parameter})


CROSSINGS: dict[str, Crossing] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "Relu": _homogeneous,
    "LeakyRelu": _homogeneous,
    "PRelu": _homogeneous,
    "Abs": _homogeneous,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "Clip": _clip,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Add": _sum,
    "Sub": _sum,
    "Sum": _sum,
    "Mul": _product,
    "Div": _product,
}
