"""Steps that change what single values or modes mean."""

from __future__ import annotations

from collections.abc import Callable

from onnx import TensorProto

from normfold.model.graph import Value
from normfold.surgery.versions.form import Form

_WITHOUT_NEGATIVE_ZERO = (TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ)
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)
_PRECISION_OF_SCALE = 23
_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def one_hot(form: Form) -> None:
    """9 -> 11: a negative index counts from the back; before it was outside, and gave a row without a one."""
    if not _is_never_negative(form):
        form.refuse("its indices may be negative, which counts from the back there")


def _is_never_negative(form: Form) -> bool:
    values, value = form.numbers(0), form.value(0)
    if values is not None:
        return not bool((values < 0).any())
    return form.data_type(0) in _UNSIGNED or (value is not None and _is_position(value))


def _is_position(value: Value) -> bool:
    """Whether it is a position that an operator found."""
    node = value.producer
    if node is None or node.domain or node.is_call:
        return False
    return node.op_type in ("ArgMax", "ArgMin") or (node.op_type == "TopK" and value.output_slot == 1)


def cast(form: Form) -> None:
    """23 -> 24: an infinity saturates where the type has none and no negative zero either; before it became NaN."""
    if int(form.get("to", 0)) in _WITHOUT_NEGATIVE_ZERO and int(form.get("saturate", 1)):
        form.refuse("an infinity becomes the largest number there and no longer NaN")


def cast_like(form: Form) -> None:
    """As `cast`, for the type of the second input."""
    target = form.data_type(1)
    if int(form.get("saturate", 1)) and (target is None or target in _WITHOUT_NEGATIVE_ZERO):
        form.refuse("an infinity becomes the largest number there and no longer NaN, if the type is FNUZ")


def quantize_linear(form: Form) -> None:
    """13 -> 19: data and scale got one type, until opset 23; integers had a scale of floats before."""
    if form.wanted < _PRECISION_OF_SCALE and form.data_type(0) != TensorProto.FLOAT:
        form.refuse("its input is not proven to be of the type of its scale")


def grid_sample(form: Form) -> None:
    """16 -> 20: two modes were renamed."""
    mode = str(form.get("mode", "bilinear"))
    form.give("mode", _GRID_MODES.get(mode, mode))


def roi_align(form: Form) -> None:
    """10 -> 16: the coordinates of before are no longer the default."""
    form.give("coordinate_transformation_mode", "output_half_pixel")


def scatter(form: Form) -> None:
    """9 -> 11: the operator was renamed."""
    form.rename("ScatterElements")


def gone(why: str) -> Callable[[Form], None]:
    """A step without an exact form."""

    def refuse(form: Form) -> None:
        form.refuse(why)

    return refuse
