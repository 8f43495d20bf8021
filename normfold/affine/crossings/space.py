"""Crossings that resample or extend space: Resize, Pad, GridSample and kin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import Change, NewParameter, closed, data_only, parameter_name
from normfold.affine.crossings.base import (
    Carried,
    Crossing,
    Direction,
    Passed,
    Way,
    constant_over_space,
    dims_before,
    no_negative,
    no_shift,
    one_to_one,
    to_input,
)
from normfold.affine.draft import Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Use
from normfold.model.shapes import pad_amounts, resize_scales, resize_sizes
from normfold.model.tensors import Values

# --- Resize ----------------------------------------------------------------------------------------------------------


def _resize(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Interpolation weights sum to 1 in every mode, so anything that does not vary along a resized axis passes."""
    known = (
        "mode", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "nearest_mode", "antialias", "axes",
        "keep_aspect_ratio_policy", "scales", "extrapolation_value",
    )  # fmt: skip
    closed(node, known)
    if attributes.get(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Refused(
            "shift-blocked", f"Resize {node.label!r} fills positions outside of the image with a constant", node.label
        )
    if not set(affine.varying) <= _untouched_by_resize(draft, node):
        raise Refused("shape-unknown", f"Resize {node.label!r} may change the axis along which it varies", node.label)
    return affine


def _untouched_by_resize(draft: Draft, node: Node) -> set[int]:
    """The axes that stay as they are. An equal size is no proof: 3 · 1.2 is 3 again, and yet other elements are read."""
    if attributes.get(node, "coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn" and (
        attributes.get(node, "nearest_mode", "round_prefer_floor") in ("ceil", "round_prefer_ceil")
    ):
        return set()  # it reads at x + 1/2 even where nothing is resized, and rounds that up
    before = dims_before(draft, node)
    after = resize_sizes(draft.shapes, node, before)
    if after is None:
        return set()
    same = {axis for axis, size in enumerate(before) if size is not None and after[axis] == size}
    if node.op_type == "Resize" and node.input(3) is not None:
        return same
    scales = resize_scales(draft.shapes, node) or []
    axes = attributes.ints(node, "axes") or range(len(before))
    return same - {axis % len(before) for axis, scale in zip(axes, scales, strict=False) if scale != 1.0}


# --- samplers that fill with zeros -----------------------------------------------------------------------------------


def _grid_sample(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("align_corners", "mode", "padding_mode"))
    constant_over_space(node, affine)
    if attributes.get(node, "padding_mode", "zeros") == "zeros":
        no_shift(node, affine)
    return affine


def _linear_in_space(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Weighted sums with implicit zeros: scales pass, shifts do not."""
    closed(node, _LINEAR_ATTRIBUTES[node.op_type])
    if node.op_type == "RoiAlign" and attributes.get(node, "mode", "avg") != "avg":
        no_negative(node, affine, allow_zero=False)
    if node.op_type == "RoiAlign" and 0 in affine.varying:
        raise Refused("not-per-channel", f"{node.label!r} replaces the batch axis", node.label)
    constant_over_space(node, affine)
    no_shift(node, affine)
    return affine


_LINEAR_ATTRIBUTES = {
    "RoiAlign": ("coordinate_transformation_mode", "mode", "output_height", "output_width", "sampling_ratio", "spatial_scale"),
    "MaxUnpool": ("kernel_shape", "pads", "strides"),
}  # fmt: skip


# --- Pad -------------------------------------------------------------------------------------------------------------

PAD_VALUE = 2
PAD_INPUTS = 11  # before this opset, Pad keeps its numbers in attributes, the value in float32


def fits_attribute(draft: Draft, node: Node, number: float) -> None:
    """A number must be worth the same as a float32 attribute; float32 data and narrower would be rounded anyway.

    Narrower data must hold it as well: a runtime turns the attribute into the type of the data.

    Raises:
        Refused: `dtype-range`.
    """
    kind = draft.shapes.data_type(node.output)
    with np.errstate(over="ignore"):
        stored = float(np.float32(number))
    fits = np.isfinite(stored) and (kind is None or abs(number) <= dtypes.largest(kind))
    if not fits or (kind in (None, dtypes.DOUBLE) and stored != number):
        raise Refused("dtype-range", f"{number:g} does not fit a float32 attribute of {node.label!r}", node.label)


def _pad_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·pad(x, v) + t = pad(s·x + t, s·v + t)`."""
    if _is_filled(draft, node, affine):
        value = _pad_value(draft, node)
        yield Way(((Use(node, 0), affine),), _new_fill(draft, node, value, affine.scale * value + affine.shift))
    else:
        yield to_input(node, affine)


def _pad_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """`pad(s·x + t, v) = s·pad(x, (v - t)/s) + t`; a channel with `s = 0` needs `t = v`."""
    affine = data_only(node, carried)
    if not _is_filled(draft, node, affine):
        return Passed({0: affine})
    value = _pad_value(draft, node)
    return Passed({0: affine}, _new_fill(draft, node, value, fill_before(node, affine, value)))


def fill_before(node: Node, affine: Affine, value: float) -> np.ndarray:
    """The fill `w` with `s·w + t = value`, flat, one for each element of the affine where it is determined.

    Raises:
        Refused: `shift-blocked`, a channel with `s = 0` has another value than the fill.
    """
    scale = np.broadcast_to(affine.scale, affine.shape).reshape(-1)
    shift = np.broadcast_to(affine.shift, affine.shape).reshape(-1)
    free = scale == 0
    if (shift[free] != value).any():
        raise Refused("shift-blocked", f"a dead channel at {node.label!r} differs from the padding value", node.label)
    if free.all():
        return np.asarray([value])
    return np.asarray((value - shift[~free]) / scale[~free])


def _is_filled(draft: Draft, node: Node, affine: Affine) -> bool:
    """Whether a constant fills the border (not reflect, edge, wrap), once the amounts are proven to leave it alone.

    Raises:
        Refused: `shape-unknown`, `not-per-channel`.
    """
    closed(node, ("mode", "pads", "paddings", "value"))
    amounts = pad_amounts(draft.shapes, node, affine.rank)
    if amounts is None:
        raise Refused("shape-unknown", f"the amounts of {node.label!r} are not known", node.label)
    if any(amounts[axis] != (0, 0) for axis in affine.varying):
        raise Refused("not-per-channel", f"{node.label!r} pads the axis along which it varies", node.label)
    if attributes.get(node, "mode", "constant") != "constant":
        return False
    if draft.shapes.data_type(node.output) is None:
        raise Refused("shape-unknown", f"the element type behind {node.label!r} is not known", node.label)
    return True


def _new_fill(draft: Draft, node: Node, value: float, wanted: np.ndarray) -> tuple[Absorption, ...]:
    """A Pad has one value, so the wanted ones must be equal."""
    wanted = wanted.reshape(-1)
    if (wanted != wanted[0]).any():
        raise Refused("shift-blocked", f"{node.label!r} would need another padding value for every channel", node.label)
    kind = draft.shapes.data_type(node.output)
    if node.scope.version < PAD_INPUTS:
        fits_attribute(draft, node, float(wanted[0]))
        kind = dtypes.FLOAT
    assert kind is not None, "`_is_filled` refuses a value of unknown type"
    stored = float(dtypes.stored(wanted, kind)[0])
    return () if stored == value else (Absorption(Slot(node, PAD_VALUE), uniform(0.0, stored, 0)),)


def _pad_value(draft: Draft, node: Node) -> float:
    pending = draft.pending(node, PAD_VALUE)
    if pending is not None:
        return float(pending.shift)  # a pad value is always replaced as a whole
    if node.input(PAD_VALUE) is None:
        return float(attributes.get(node, "value", 0.0))
    source = draft.parameter(node, PAD_VALUE)
    return float(np.asarray(source.array(), np.float64).reshape(-1)[0])


def build_pad_value(draft: Draft, node: Node, affine: Affine) -> Change:
    """The new padding value: an attribute before opset 11, an input since."""
    value = float(affine.shift)
    if node.scope.version < PAD_INPUTS:
        return Change(node, attributes={"value": value})
    kind = draft.shapes.data_type(node.output)
    assert kind is not None, "`_is_filled` refuses a value of unknown type"
    name = parameter_name(node, PAD_VALUE, "value")
    return Change(node, {PAD_VALUE: NewParameter(Values(np.asarray(value), kind), kind, (), name)})


ROWS: dict[str, Crossing] = {
    "Resize": one_to_one(_resize),
    "Upsample": one_to_one(_resize),
    "GridSample": one_to_one(_grid_sample),
    "RoiAlign": one_to_one(_linear_in_space),
    "MaxUnpool": one_to_one(_linear_in_space),
    "Pad": Crossing(_pad_backward, _pad_forward),
}
