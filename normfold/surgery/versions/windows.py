"""Pooling and ConvTranspose: steps whose text changed and whose signature did not."""

from __future__ import annotations

from normfold.model.shapes import Dims
from normfold.surgery.versions.form import Form


def windows_inside(form: Form) -> None:
    """-> 22: with ceil_mode, a last window that would start in the padding behind the data is left out.

    There is none if stride + end <= span of the kernel: the window before it would have covered the rest. Otherwise the
    lengths must tell.
    """
    if not int(form.get("ceil_mode", 0)) or form.get("auto_pad", "NOTSET") != "NOTSET":
        return
    kernel = form.ints("kernel_shape") or []
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    strides, dilations = form.ints("strides") or ones, form.ints("dilations") or ones
    pads = form.ints("pads") or zeros
    dims = form.dims(0)
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        begin, end, span = pads[axis], pads[axis + len(kernel)], dilation * (size - 1) + 1
        if stride + end <= span:
            continue
        length = dims[2 + axis] if dims is not None and len(dims) == len(kernel) + 2 else None
        if not isinstance(length, int):
            form.refuse("ceil_mode may have a window start in the padding, depending on sizes that cannot be proven")
        last = -((span - length - begin - end) // stride) * stride
        if last >= length + begin:
            form.refuse("ceil_mode has a window start in the padding, which is left out there")


def transposed_pads(form: Form) -> None:
    """1 -> 11: where an odd padding is split between both ends, the text named the other end."""
    automatic = form.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if not automatic and not form.has("output_shape"):
        return
    totals = _totals(form)
    if totals is None or any(total % 2 or total < 0 for total in totals):
        form.refuse("its padding may be odd or negative, and how it is split was stated in two ways")


def _totals(form: Form) -> list[int] | None:
    """The padding of both ends together, per spatial axis; None if it cannot be proven."""
    data, weight = form.dims(0), form.dims(1)
    kernel = form.ints("kernel_shape") or _static(weight)
    if kernel is None:
        return None
    ones = [1] * len(kernel)
    strides, dilations = form.ints("strides") or ones, form.ints("dilations") or ones
    extra = form.ints("output_padding") or [0] * len(kernel)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    wanted = form.ints("output_shape")
    if wanted is None:  # the output is the input times the stride
        return [e + span - s for s, e, span in zip(strides, extra, spans, strict=True)]
    lengths = _static(data)
    if lengths is None:
        return None
    sizes = wanted[-len(kernel) :]
    parts = zip(strides, lengths, extra, spans, sizes, strict=True)
    return [s * (n - 1) + e + span - size for s, n, e, span, size in parts]


def _static(dims: Dims | None) -> list[int] | None:
    """The spatial lengths of a tensor, None if they are not all known."""
    found = [dim for dim in dims[2:] if isinstance(dim, int)] if dims is not None else []
    return found if dims is not None and len(found) == len(dims) - 2 else None
