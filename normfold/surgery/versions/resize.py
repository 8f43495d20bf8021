"""Upsample and Resize: scales, coordinates, and which pixel is the nearest.

Upsample and the first Resize (opset 10) say nothing about coordinates. Both are computed as `asymmetric`; the nearest
pixel is the lower one where an axis grows. Where it shrinks, which only Resize may, it is the upper one: that is what the
conformance test of that version demands (`resize_downsample_scales_nearest`, scale 0.6: positions 0 and 2 of four).
"""

from __future__ import annotations

import numpy as np

from normfold.surgery.versions.form import FLOAT, Form

_ROI_IS_OPTIONAL = 13


def to_resize(form: Form) -> None:
    """Upsample is a Resize whose scales are at least 1."""
    form.rename("Resize")


def coordinates(form: Form) -> None:
    """10 -> 11: the coordinates and the nearest pixel get names, and a `roi` comes between data and scales."""
    form.give("coordinate_transformation_mode", "asymmetric")
    if form.get("mode", "nearest") == "nearest":
        form.give("nearest_mode", _nearest(form))
    form.insert(1, "" if form.wanted >= _ROI_IS_OPTIONAL else form.constant("roi", np.zeros(0), FLOAT))


def _nearest(form: Form) -> str:
    if form.node.op_type == "Upsample":
        return "floor"
    scales = form.numbers(1)
    if scales is None:
        form.refuse(
            "its scales are not constant; the nearest pixel is the lower one where an axis grows, else the upper"
        )
    grows, shrinks = bool((scales > 1).any()), bool((scales < 1).any())
    if grows and shrinks:
        form.refuse("one axis grows and another shrinks, for which no one nearest_mode stands")
    return "ceil" if shrinks else "floor"


def optional_inputs(form: Form) -> None:
    """11 -> 13: of scales and sizes only one may be given, and one mode of coordinates is gone."""
    if form.get("coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn":
        form.refuse("the coordinate_transformation_mode tf_half_pixel_for_nn does not exist any more")
    if form.name(3):
        form.put(2, "")  # had to be empty
