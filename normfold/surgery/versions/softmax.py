"""Softmax, LogSoftmax and Hardmax: up to opset 12 over all axes from `axis` on, since 13 over that one axis."""

from __future__ import annotations

from normfold.surgery.versions.form import Form


def one_axis(form: Form) -> None:
    """The axis where only one counts, else the same work on a matrix: Flatten, the operator, Reshape to the shape before."""
    axis = int(form.get("axis", 1))
    single = _single_axis(form, axis)
    if single is not None:
        form.give("axis", single)
        return
    data = form.name(0)
    shape = form.insert_before("Shape", [data], "shape")
    matrix = form.insert_before("Flatten", [data], "matrix", {"axis": axis})
    result = form.insert_before(form.op_type, [matrix], "rows", {"axis": 1})
    form.take("axis")
    form.rename("Reshape")
    form.put(0, result)
    form.put(1, shape)


def _single_axis(form: Form, axis: int) -> int | None:
    """The axis that all others from `axis` on leave alone because their length is 1; None if there is no proof of one."""
    if axis == -1:
        return axis
    dims = form.dims(0)
    if dims is None:
        return None
    first = axis + len(dims) if axis < 0 else axis
    if not 0 <= first < len(dims):
        form.refuse(f"its axis {axis} does not exist")
    long = [place for place in range(first, len(dims)) if dims[place] != 1]
    if len(long) > 1:
        return None
    return (long or [len(dims) - 1])[0]
