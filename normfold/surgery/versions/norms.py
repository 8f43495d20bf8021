"""BatchNormalization, GroupNormalization, and the LayerNormalization that was there before onnx had one."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from normfold.model import dtypes
from normfold.surgery.versions.form import INT64, Form

_MATRIX = 2
_STATISTICS = slice(1, None)


def per_channel(form: Form) -> None:
    """7 -> 9: one parameter per activation is gone; a matrix has no activations besides its channels."""
    dims = form.dims(0)
    if not int(form.take("spatial", 1)) and (dims is None or len(dims) != _MATRIX):
        form.refuse("it has one parameter per activation (spatial = 0)")


def inference_mode(form: Form) -> None:
    """9 -> 14: further outputs meant training; now an attribute does."""
    if any(form.outputs[_STATISTICS]):
        form.refuse("it makes statistics of the batch, as in training")
    del form.outputs[_STATISTICS]


def group_channels(form: Form) -> None:
    """18 -> 21: scale and bias per channel instead of per group, and statistics in the type of the data as before."""
    data_type, dims = form.data_type(0), form.dims(0)
    if data_type is None or not dtypes.is_float(data_type):
        form.refuse("the element type of its input cannot be proven, and statistics are computed in it")
    channels = dims[1] if dims is not None and len(dims) > 1 else None
    groups = int(form.get("num_groups", 0))
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        form.refuse("the number of its channels cannot be proven, or is no multiple of the groups")
    if data_type != TensorProto.FLOAT:
        form.give("stash_type", data_type)
    if channels != groups:
        for slot, hint in ((1, "scale"), (2, "bias")):
            form.put(slot, _repeated(form, slot, hint, channels // groups, data_type))


def _repeated(form: Form, slot: int, hint: str, times: int, data_type: int) -> str:
    """One value per channel: a constant where it is one, else computed."""
    values = form.numbers(slot)
    if values is not None:
        return form.constant(hint, np.repeat(values.reshape(-1), times), data_type)
    column = form.constant("column", [-1, 1], INT64)
    row = form.constant("repeats", [1, times], INT64)
    flat = form.constant("flat", [-1], INT64)
    tall = form.insert_before("Reshape", [form.name(slot), column], f"{hint}.column")
    wide = form.insert_before("Expand", [tall, row], f"{hint}.repeated")
    return form.insert_before("Reshape", [wide, flat], hint)


def standardised(form: Form) -> None:
    """The LayerNormalization that onnxruntime accepts below opset 17 became the standard's with the same meaning."""
    unknown = form.attribute_names - {"axis", "epsilon", "stash_type"}
    if unknown:
        form.refuse(f"it is no operator of the standard there and has an attribute {min(unknown)!r}")
