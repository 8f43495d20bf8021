"""What was an attribute and became an input: the value moves into a constant."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from normfold.surgery.versions.form import FLOAT, INT64, Form

_HALF, _DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE
# The default bounds of Clip below opset 11, for every element type.
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_NUMPY: dict[int, type[np.floating[Any]]] = {FLOAT: np.float32, _HALF: np.float16, _DOUBLE: np.float64}


def listed(*names: str) -> Callable[[Form], None]:
    """Lists of integers that become inputs behind the data, in this order; those left out stay left out."""
    return partial(_listed, names=names)


def _listed(form: Form, names: tuple[str, ...]) -> None:
    for slot, name in enumerate(names, start=1):
        values = form.ints(name)
        form.take(name)
        if values is not None:
            form.put(slot, form.constant(name, values, INT64))


def top_k(form: Form) -> None:
    """`k`, one number."""
    form.put(1, form.constant("k", [int(form.take("k", 0))], INT64))


def dft(form: Form) -> None:
    """`axis`, whose default was 1 and becomes -2."""
    form.put(2, form.constant("axis", int(form.take("axis", 1)), INT64))


def upsample(form: Form) -> None:
    """`scales`, one float per dimension."""
    form.put(1, form.constant("scales", form.take("scales", ()), FLOAT))


def pad(form: Form) -> None:
    """`pads`, and the `value` where it is not the 0 that the new version takes if it is left out."""
    form.put(1, form.constant("pads", form.take("pads", ()), INT64))
    value = np.float32(form.take("value", 0.0))
    if form.get("mode", "constant") == "constant" and (value != 0 or np.signbit(value)):
        form.put(2, form.constant("value", _rounded(form, value), _float_type(form)))


def clip(form: Form) -> None:
    """`min` and `max`: a float32 each, whatever the type of the data, and that is their default as well.

    The new version takes the largest number of the type of the data for a bound that is left out, which is the same for
    float32 only. A float32 that float16 does not reach bounds nothing, not even infinity, so it becomes an infinity.
    """
    for slot, name, default in ((1, "min", -_LARGEST_FLOAT), (2, "max", _LARGEST_FLOAT)):
        given = form.has(name)
        bound = np.float32(form.take(name, default))
        if given or _float_type(form) != FLOAT:
            form.put(slot, form.constant(name, _rounded(form, bound), _float_type(form)))


def _float_type(form: Form) -> int:
    found = form.data_type(0)
    if found is None or found not in _NUMPY:
        form.refuse("the element type of its input cannot be proven")
    return found


def _rounded(form: Form, value: np.float32) -> float:
    with np.errstate(over="ignore"):
        return float(_NUMPY[_float_type(form)](value))


def split(form: Form) -> None:
    """Without sizes there are as many parts as outputs, which the new version wants to be told."""
    if not form.name(1):
        form.give("num_outputs", len(form.outputs))


def dropout_mask(form: Form) -> None:
    """The mask becomes boolean; one that nobody reads goes, as its type may be declared."""
    _require_unread_mask(form)
    del form.outputs[1:]


def dropout(form: Form) -> None:
    """`ratio` means nothing at inference, and is kept; the mask of ones was not promised before."""
    _require_unread_mask(form)
    if form.has("ratio"):
        form.put(1, form.constant("ratio", float(np.float32(form.take("ratio"))), FLOAT))


def _require_unread_mask(form: Form) -> None:
    if not form.is_unread(1):
        form.refuse("its mask is read, and what it holds at inference was defined later")
