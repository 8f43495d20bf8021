"""Element types."""

from __future__ import annotations

from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Value
from normfold.model.shapes.dims import Hints, declared_type
from normfold.model.shapes.table import rule_of

_INT64 = 7


_BOOL = 9


_FIXED_TYPE = {
    "Shape": _INT64, "Size": _INT64, "ArgMax": _INT64, "ArgMin": _INT64, "NonZero": _INT64, "QuantizeLinear": None,
    "DequantizeLinear": None,
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Not"), _BOOL),
}  # fmt: skip


_TYPE_INPUT = {"Where": 1, "CastLike": 1}


_SAME_TYPE_OUTPUTS = ("Split", "LSTM", "GRU", "RNN", "BatchNormalization")


class ElementTypes:
    """Answers what element type a value has; remembers every answer."""

    def __init__(self, constants: Constants, hints: Hints) -> None:
        self._constants = constants
        self._hints = hints
        self._known: dict[int, int | None] = {}

    def get(self, value: Value) -> int | None:
        """The ONNX element type of a value, None if unknown."""
        path: list[Value] = []
        current: Value | None = value
        found: int | None = None
        while current is not None:
            if id(current) in self._known:
                found = self._known[id(current)]
                break
            path.append(current)
            found, current = self._step(current)
        for item in path:
            self._known[id(item)] = found
        return found

    def _step(self, value: Value) -> tuple[int | None, Value | None]:
        if value.tensor is not None:
            return value.tensor.data_type, None
        node = value.producer
        if node is None:
            return declared_type(value.type) if value.type else self._hints(value)[1], None
        if node.domain:
            return self._hints(value)[1], None
        if node.op_type == "Cast":
            known = not attributes.unexpected(node, ("to", "saturate"))
            return (int(attributes.get(node, "to", 0)) or None if known else None), None
        if node.op_type in _FIXED_TYPE:
            return _FIXED_TYPE[node.op_type], None
        if node.op_type in ("Constant", "ConstantOfShape"):
            source = self._constants.get(value)
            return (None if source is None else source.data_type), None
        if value.output_slot and node.op_type not in _SAME_TYPE_OUTPUTS:
            return None, None
        return (None, node.input(_TYPE_INPUT.get(node.op_type, 0))) if rule_of(node) is not None else (None, None)
