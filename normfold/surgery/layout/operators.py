"""Operators that can work on channels-last data, and what they look like then.

An operator that is not here works on what it was written for. `[N, C, H, W]` is read as `[N, H, W, C]`; a constant operand
that varies along an axis is turned with it, one of a single element stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.computed import moved
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.shapes import Shapes
from normfold.model.tensors import Array, TensorSource, Unreadable
from normfold.targets.lowering import MICROSOFT

RANK = 4
TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)
INT64 = dtypes.onnx_dtype(np.dtype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """A constant in the other layout: exactly the elements of the old one.

    Args:
        source: the values, moved when they are read.
        data_type: ONNX element type, that of the old one.
    """

    source: TensorSource
    data_type: int


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A new list of integers or float32: axes, pads, scales."""

    values: Array
    data_type: int


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """How an operator works on channels-last data.

    Args:
        slots: the inputs whose layout it follows; all outputs follow it too.
        constants: what the other inputs become; those that are not here stay.
        attributes: what attributes become; those that are not here stay.
        op_type, domain: the operator; None where it stays.
    """

    slots: tuple[int, ...]
    constants: Mapping[int, Turned | Numbers] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    op_type: str | None = None
    domain: str | None = None


class Facts:
    """What the rules ask about a node.

    Args:
        constants, shapes: of the model.
    """

    def __init__(self, constants: Constants, shapes: Shapes) -> None:
        self.constants = constants
        self.shapes = shapes

    def is_image(self, value: Value | None) -> bool:
        """Whether a value is proven to have four dimensions."""
        return value is not None and self.shapes.rank(value) == RANK

    def turned(self, value: Value | None, order: tuple[int, ...] = TO_LAST) -> Turned | None:
        """A constant of up to four dimensions, as operands broadcast; None if it is none, or no floats."""
        source = self.constants.get(value)
        if source is None or not dtypes.is_float(source.data_type) or len(source.dims) > RANK:
            return None
        view = (1,) * (RANK - len(source.dims)) + source.dims
        try:
            result = moved(lambda values: values.reshape(view).transpose(order), (source,), source.data_type)
        except Unreadable:
            return None
        return None if result is None else Turned(result, source.data_type)

    def numbers(self, value: Value | None, count: int) -> Array | None:
        """A constant list of so many elements."""
        found = self.constants.array(value)
        return None if found is None or found.size != count else found.reshape(-1)

    def is_single(self, value: Value) -> bool:
        """Whether a value has one element and no layout: no more dimensions than fit into any operand."""
        dims = self.shapes.dims(value)
        return dims is not None and len(dims) <= RANK and all(dim == 1 for dim in dims)


Rule = Callable[[Node, Facts], Passage | None]


def passage(node: Node, facts: Facts) -> Passage | None:
    """How a node works on channels-last data, None if it does not or nothing proves that it does."""
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None or node.is_call or node.is_bound_by_caller:
        return None
    if not all(value is None or facts.is_image(value) for value in node.outputs):
        return None
    found = rule(node, facts)
    if found is None or not found.slots or not all(facts.is_image(node.input(slot)) for slot in found.slots):
        return None
    return found


def _elementwise(node: Node, facts: Facts) -> Passage | None:
    """One tensor; further inputs are single numbers."""
    rest = [value for value in node.inputs[1:] if value is not None]
    return Passage((0,)) if node.named_outputs() == 1 and all(facts.is_single(value) for value in rest) else None


def _broadcasting(node: Node, facts: Facts) -> Passage | None:
    """Operands that broadcast: images follow the layout, constants are turned."""
    slots: list[int] = []
    constants: dict[int, Turned] = {}
    for slot, value in enumerate(node.inputs):
        if value is None or facts.is_single(value):
            continue
        if facts.constants.get(value) is not None:
            found = facts.turned(value)
            if found is None:
                return None
            constants[slot] = found
        elif facts.is_image(value):
            slots.append(slot)
        else:
            return None
    return Passage(tuple(slots), constants)


def _convolution(node: Node, facts: Facts) -> Passage | None:
    """Conv becomes com.microsoft.NhwcConv, weights `[M, C/g, kH, kW]` become `[M, kH, kW, C/g]`.

    The extent of the kernel is written out: shape inference would look for it at the old place.
    """
    source = facts.constants.get(node.input(1))
    if source is None or len(source.dims) != RANK or source.data_type not in (dtypes.FLOAT, dtypes.FLOAT16):
        return None
    weight = facts.turned(node.input(1))
    kernel = {"kernel_shape": list(source.dims[2:])}
    return None if weight is None else Passage((0,), {1: weight}, kernel, "NhwcConv", MICROSOFT)


def _axis(default: int) -> Rule:
    """Operators that join or part tensors along one axis."""

    def rule(node: Node, facts: Facts) -> Passage | None:
        axis = int(attributes.get(node, "axis", default))
        if not -RANK <= axis < RANK:
            return None
        moved_axis = {"axis": TO_LAST.index(axis % RANK)}
        if node.op_type != "Concat":
            return Passage((0,), attributes=moved_axis)
        found = _broadcast_parts(node, facts)
        return None if found is None else Passage(found.slots, found.constants, moved_axis)

    return rule


def _broadcast_parts(node: Node, facts: Facts) -> Passage | None:
    """The parts of a Concat, which do not broadcast: constants have all four dimensions, and single elements turn too."""
    constants = {slot: value for slot, value in enumerate(node.inputs) if facts.constants.get(value) is not None}
    turned = {slot: facts.turned(value) for slot, value in constants.items()}
    if not all(facts.is_image(value) for value in node.inputs) or None in turned.values():
        return None
    slots = tuple(slot for slot in range(len(node.inputs)) if slot not in constants)
    return Passage(slots, {slot: found for slot, found in turned.items() if found is not None})


def _pad(node: Node, facts: Facts) -> Passage | None:
    """Constant pads for all axes."""
    listed = attributes.ints(node, "pads")
    if listed is not None:
        if len(listed) != 2 * RANK:
            return None
        return Passage((0,), attributes={"pads": _both_ends(np.asarray(listed)).tolist()})
    pads = facts.numbers(node.input(1), 2 * RANK)
    if pads is None or node.input(3) is not None:
        return None
    return Passage((0,), {1: Numbers(_both_ends(pads), INT64)})


def _both_ends(pads: Array) -> Array:
    return np.asarray(pads).reshape(2, RANK)[:, list(TO_LAST)].reshape(-1)


def _resize(node: Node, facts: Facts) -> Passage | None:
    """Nearest pixels with constant scales or sizes for all axes; the interpolating kernels take images one way round."""
    if attributes.get(node, "mode", "nearest") != "nearest" or node.attributes.get("axes") is not None:
        return None
    if attributes.get(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    listed = node.attributes.get("scales")
    if listed is not None:
        scales = np.asarray(attributes.plain(listed))
        return Passage((0,), attributes={"scales": scales[list(TO_LAST)].tolist()}) if scales.size == RANK else None
    constants: dict[int, Numbers] = {}
    first = 1 if node.op_type == "Upsample" or node.scope.version < 11 else 2
    for slot, data_type in ((first, dtypes.FLOAT), (first + 1, INT64)):
        value = node.input(slot)
        if value is None or facts.numbers(value, 0) is not None:
            continue
        numbers = facts.numbers(value, RANK)
        if numbers is None:
            return None
        constants[slot] = Numbers(numbers[list(TO_LAST)], data_type)
    return Passage((0,), constants) if constants else None


_ELEMENTWISE = (
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_BROADCASTING = ("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where")

_RULES: dict[tuple[str, str], Rule] = {
    **{("", op_type): _elementwise for op_type in _ELEMENTWISE},
    **{(MICROSOFT, op_type): _elementwise for op_type in ("Gelu", "QuickGelu")},
    **{("", op_type): _broadcasting for op_type in _BROADCASTING},
    ("", "Conv"): _convolution,
    ("", "Concat"): _axis(1),
    ("", "Split"): _axis(0),
    ("", "Pad"): _pad,
    ("", "Resize"): _resize,
    ("", "Upsample"): _resize,
}
